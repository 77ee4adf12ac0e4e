"""Curves of metrics over training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NOT_CURVES = ("step", "epoch", "examples_per_s", "seeds")
# These metrics are one half at the equilibrium of the game (see the article): the discriminator
# cannot tell real from generated.
_AT_A_HALF = ("real_probability", "fake_probability", "accuracy")
_IN_A_ROW = 4

# `game` draws these panels in this order. Each has a title and metrics of `train.adversarial`.
_GAME = {
    "losses": ("discriminator_loss", "generator_loss"),
    "probability of being real": ("real_probability", "fake_probability"),
    "accuracy of the discriminator": ("accuracy",),
    "gradient norms": ("discriminator_gradient", "generator_gradient"),
}


def curves(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """Draws one panel per metric.

    The horizontal axis is the epoch, or the step if rows have no epoch.

    Args:
      rows: log points as in `metrics.jsonl`: `step`, `epoch` and metrics by name. A metric may be
        missing from some of them. A value that is None or not finite leaves a gap, and the panel's
        title counts the gaps. A log of several seeds has means and standard errors (`NAME_se`): the
        mean is drawn in a band of one standard error to either side.
      title: text above the panels.

    Raises:
      ValueError: if there are no rows, or no metrics in them.
    """
    names = _names(rows)
    if not names:
        raise ValueError(f"rows must hold at least one metric, got {list(rows[0])}")
    figure, panels = _panels(len(names), title)
    for name, panel in zip(names, panels, strict=True):
        _draw(panel, [_Line(rows, name)], name)
    return figure


def compared(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str | None = None
) -> Figure:
    """Draws several runs in one panel per metric.

    Each run is a line. The horizontal axis is that of `curves`.

    Args:
      runs: log points of each run, as in `curves`, by the run's name in the legend.
      title: text above the panels.

    Raises:
      ValueError: if there are no runs, or one has no log points.
    """
    if not runs:
        raise ValueError("runs must hold at least one run, got none")
    names = list(dict.fromkeys(name for rows in runs.values() for name in _names(rows)))
    figure, panels = _panels(len(names), title)
    colours = canvas.colours(len(runs))
    for name, panel in zip(names, panels, strict=True):
        lines = [_Line(r, name, c) for r, c in zip(runs.values(), colours, strict=True)]
        _draw(panel, lines, name)
    handles = [figure.axes[0].plot([], [], color=colour)[0] for colour in colours]
    legend = figure.legend(handles, list(runs), loc="outside upper left", fontsize=9, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def is_game(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether log points are those of `train.adversarial`.

    They hold metrics of two players.
    """
    return bool(rows) and all(name in rows[0] for panel in _GAME.values() for name in panel)


def game(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """Draws the log of a GAN's two players.

    The panels show whether their game is healthy: losses, probabilities and accuracy against 0.5,
    gradient norms, and then each remaining metric.

    Args:
      rows: log points of a two-player run, as in `metrics.jsonl`.
      title: text above the panels.

    Raises:
      ValueError: if rows are not the log of a two-player run.
    """
    names = _names(rows)
    if not is_game(rows):
        raise ValueError(f"rows must be the log of a two-player learner, got {names}")
    rest = [name for name in names if not any(name in shown for shown in _GAME.values())]
    figure, panels = _panels(len(_GAME) + len(rest), title)
    for panel, (heading, shown) in zip(panels, _GAME.items(), strict=False):
        _draw(panel, [_Line(rows, name) for name in shown], heading)
        if len(shown) > 1:
            panel.legend([name.split("_")[0] for name in shown], fontsize=9, frameon=False)
    for panel, name in zip(panels[len(_GAME) :], rest, strict=True):
        _draw(panel, [_Line(rows, name)], name)
    return figure


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the metrics of all rows, in order of appearance."""
    if not rows:
        raise ValueError("rows must hold at least one log point, got none")
    return [
        name
        for name in dict.fromkeys(n for row in rows for n in row)
        if name not in _NOT_CURVES and not name.endswith("_se")
    ]


def _panels(num: int, title: str | None) -> tuple[Figure, list[Axes]]:
    columns = min(checks.positive_integer("num", num), _IN_A_ROW)
    lines = -(-num // columns)
    figure = canvas.figure(4 * columns, 3.2 * lines, layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for unused in panels[num:]:
        unused.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, panels[:num]


class _Line(NamedTuple):
    """Metric of a run, drawn as one line."""

    rows: Sequence[Mapping[str, Any]]
    name: str
    colour: Any = None


def _draw(panel: Axes, lines: Sequence[_Line], heading: str) -> None:
    over = "epoch" if any("epoch" in row for line in lines for row in line.rows[:1]) else "step"
    found = [_values(line, over) for line in lines]
    for line, (at, means, errors) in zip(lines, found, strict=True):
        if not len(at):
            continue
        (drawn,) = panel.plot(at, means, marker=".", markersize=4, color=line.colour)
        if np.isfinite(errors).any():
            below, above = means - errors, means + errors
            panel.fill_between(at, below, above, color=drawn.get_color(), alpha=0.3)
    names = {line.name for line in lines}
    if names & set(_AT_A_HALF):
        panel.axhline(0.5, color="black", linewidth=1, linestyle=":")
        panel.set_ylim(-0.02, 1.02)
    gaps = sum(int(np.isnan(means).sum()) for _, means, _ in found)
    points = sum(len(means) for _, means, _ in found)
    note = f" ({gaps:,} of {points:,} not finite)" if gaps else ""
    panel.set_title(heading + note, fontsize=11, parse_math=False)
    panel.set_xlabel(over)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _values(line: _Line, over: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns positions, values and standard errors of a line's points.

    A gap is NaN.
    """
    rows = [row for row in line.rows if line.name in row]
    at, means, errors = (
        np.array([_number(row.get(name)) for row in rows])
        for name in (over, line.name, f"{line.name}_se")
    )
    return at, means, errors


def _number(value: Any) -> float:
    """Converts a logged value to a float.

    A value that is not finite becomes NaN; so does None. A log may also hold a text such as "NaN".
    """
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan
