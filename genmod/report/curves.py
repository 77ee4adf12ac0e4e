"""Curves over training."""

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
# The article's equilibrium of the game: at one half nobody can tell real from generated.
_AT_A_HALF = ("real_probability", "fake_probability", "accuracy")
_IN_A_ROW = 4

# The panels of `game`, in order: title, and the metrics of `train.adversarial` that it shows.
_GAME = {
    "losses": ("discriminator_loss", "generator_loss"),
    "probability of being real": ("real_probability", "fake_probability"),
    "accuracy of the discriminator": ("accuracy",),
    "gradient norms": ("discriminator_gradient", "generator_gradient"),
}


def curves(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """One panel per metric, over epochs, or over steps where there are no epochs.

    Args:
      rows: log points as `metrics.jsonl` holds them: `step`, `epoch` and metrics by name; a metric
        may be missing from some. What is not finite, or None, is a gap, and is counted. Of several
        runs the mean is drawn in a band of one standard error to either side.
      title: shown above.

    Raises:
      ValueError: if there are no rows.
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
    """One panel per metric with a line for each run, over epochs.

    Args:
      runs: log points as for `curves`, by what to call the run.
      title: shown above.

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
    """Whether log points are those of two players, as `train.adversarial` gives them."""
    return bool(rows) and all(name in rows[0] for panel in _GAME.values() for name in panel)


def game(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """The health of a GAN's game: losses, probabilities against 0.5, gradients, and the rest.

    Args:
      rows: log points of a two-player run, as `metrics.jsonl` holds them.
      title: shown above.

    Raises:
      ValueError: if they are not those of a two-player run.
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
    """The metrics of all rows, in the order of their first appearance."""
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
    """A metric of a run."""

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
    """Where the points of a line are, their values, and the errors of these; NaN for gaps."""
    rows = [row for row in line.rows if line.name in row]
    at, means, errors = (
        np.array([_number(row.get(name)) for row in rows])
        for name in (over, line.name, f"{line.name}_se")
    )
    return at, means, errors


def _number(value: Any) -> float:
    """A number of a log, which may hold None or a text such as "NaN" for what is none."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan
