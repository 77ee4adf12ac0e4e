"""Curves over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOT_CURVES = ("step", "epoch", "examples_per_s")


def curves(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """One panel per metric, over epochs, or over steps where there are no epochs.

    Args:
      rows: log points as `metrics.jsonl` holds them: `step`, `epoch` and metrics by name.
      title: shown above.

    Raises:
      ValueError: if there are no rows.
    """
    if not rows:
        raise ValueError("rows must hold at least one log point, got none")
    over = "epoch" if "epoch" in rows[0] else "step"
    names = [name for name in rows[0] if name not in _NOT_CURVES]
    if not names:
        raise ValueError(f"rows must hold at least one metric, got {list(rows[0])}")
    figure = canvas.figure(4 * len(names), 3.2, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, panel in zip(names, panels, strict=True):
        panel.plot(
            [row[over] for row in rows], [row[name] for row in rows], marker=".", markersize=4
        )
        panel.set_title(name, fontsize=11)
        panel.set_xlabel(over)
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
