"""Estimates with standard errors, against a number that was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Estimate = tuple[float, float]


class Panel(NamedTuple):
    """Content of one panel of `error_bars`.

    Attributes:
      title: text above the panel.
      lines: lines by name; each maps positions on the horizontal axis to estimates (mean, standard
        error).
      bands: estimates that do not vary, by name; drawn as mean +- standard error over the whole
        width.
    """

    title: str
    lines: Mapping[str, Mapping[int, _Estimate]]
    bands: Mapping[str, _Estimate]


def error_bars(
    panels: Sequence[Panel], *, across: str, up: str, columns: int = 2, groups: int = 0
) -> Figure:
    """Draws lines with error bars, and bands behind them.

    The panels stand side by side. Their horizontal axes are logarithmic.

    Args:
      panels: contents of the panels; a name has the same colour in all of them.
      across: label of the horizontal axes, the number that was varied; it must be positive.
      up: label of the vertical axes, the quantity that was estimated.
      columns: panels in a row.
      groups: number of lines after which the colours begin again, now dashed; never if 0.

    Raises:
      ValueError: if there are no panels.
    """
    if not panels:
        raise ValueError("panels must hold at least one, got none")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = canvas.figure(4.2 * columns, 3.2 * rows + 0.9, layout="constrained")
    drawn = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in drawn[len(panels) :]:
        unused.set_axis_off()
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    legend = {}
    for axes, panel in zip(drawn, panels, strict=False):
        for index, (name, (mean, error)) in enumerate(panel.bands.items()):
            shade = str(0.65 - 0.5 * index / max(1, len(panel.bands) - 1))
            axes.axhline(mean, color=shade, linewidth=1, label=name)
            axes.axhspan(mean - error, mean + error, color=shade, alpha=0.2, linewidth=0)
        for name, points in panel.lines.items():
            index = names.index(name)
            again, place = divmod(index, groups or len(names))
            at = np.array(sorted(points), float)
            means, errors = np.array([points[x] for x in sorted(points)]).T
            # Each line is shifted a little, so that error bars do not hide each other.
            at = at * 1.05 ** (index - (len(names) - 1) / 2)
            style = "--" if again else "-"
            colour = canvas.colour(place)
            axes.errorbar(at, means, errors, fmt=f".{style}", color=colour, capsize=2, label=name)
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
        axes.set_xscale("log")
        axes.set_title(panel.title, fontsize=11)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    ordered = sorted(legend, key=[*panels[0].bands, *names].index)
    figure.legend(
        [legend[name] for name in ordered],
        ordered,
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    return figure
