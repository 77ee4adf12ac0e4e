"""Estimates with their standard errors, against a number that was varied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Estimate = tuple[float, float]


class Panel(NamedTuple):
    """What `error_bars` draws into one panel.

    Attributes:
      title: shown above.
      lines: by name, each point's place and its estimate, (mean, standard error).
      bands: by name, estimates that do not vary: mean +- standard error over the whole width.
    """

    title: str
    lines: Mapping[str, Mapping[int, _Estimate]]
    bands: Mapping[str, _Estimate]


def error_bars(
    panels: Sequence[Panel], *, across: str, up: str, columns: int = 2, groups: int = 0
) -> Figure:
    """Lines with error bars before bands, in panels side by side; the places are logarithmic.

    Args:
      panels: a name has the same colour in all of them.
      across: what is varied, the name of the horizontal axes; its places are positive.
      up: what is estimated.
      columns: panels in a row.
      groups: after so many lines the colours begin again, now dashed; never if 0.

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
            # Side by side, so that bars do not hide each other.
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
