"""Curves of metrics over training."""

from __future__ import annotations

import math
import re
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
# Quantiles that are drawn of a family of numbers. The first and the last are the range.
_QUANTILES = (0, 0.25, 0.5, 0.75, 1)

# `game` draws these panels in this order. Each has a title and metrics of `train.adversarial`.
_GAME = {
    "losses": ("discriminator_loss", "generator_loss"),
    "probability of being real": ("real_probability", "fake_probability"),
    "accuracy of the discriminator": ("accuracy",),
    "gradient norms": ("discriminator_gradient", "generator_gradient"),
}


def curves(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> Figure:
    """Draws one panel per metric.

    The horizontal axis is the epoch, or the step if rows have no epoch. A family of numbers, such
    as `kl/0` to `kl/9`, has one panel: the median of its numbers, in bands of their quartiles and
    of their range.

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
    headings = _grouped(names)
    figure, panels = _panels(len(headings), title)
    for panel, (heading, shown) in zip(panels, headings.items(), strict=True):
        _draw(panel, [_Line(rows, shown)], heading)
    return figure


def compared(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str | None = None
) -> Figure:
    """Draws several runs in one panel per metric.

    Each run is a line. The horizontal axis is that of `curves`. A family of numbers is drawn as its
    median in a band of its quartiles.

    Args:
      runs: log points of each run, as in `curves`, by the run's name in the legend.
      title: text above the panels.

    Raises:
      ValueError: if there are no runs, or one has no log points.
    """
    if not runs:
        raise ValueError("runs must hold at least one run, got none")
    names = list(dict.fromkeys(name for rows in runs.values() for name in _names(rows)))
    headings = _grouped(names)
    figure, panels = _panels(len(headings), title)
    colours = canvas.colours(len(runs))
    for panel, (heading, shown) in zip(panels, headings.items(), strict=True):
        lines = [_Line(r, shown, c) for r, c in zip(runs.values(), colours, strict=True)]
        _draw(panel, lines, heading)
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
    others = _grouped(rest)
    figure, panels = _panels(len(_GAME) + len(others), title)
    for panel, (heading, shown) in zip(panels, _GAME.items(), strict=False):
        _draw(panel, [_Line(rows, (name,)) for name in shown], heading)
        if len(shown) > 1:
            panel.legend([name.split("_")[0] for name in shown], fontsize=9, frameon=False)
    for panel, (heading, shown) in zip(panels[len(_GAME) :], others.items(), strict=True):
        _draw(panel, [_Line(rows, shown)], heading)
    return figure


def family_of(name: str) -> str:
    """Returns the name of a metric without the number at its end.

    `kl/0` to `kl/9` are a family: the ten numbers of an aux value `kl`. Other names are their own.
    """
    return re.sub(r"/\d+$", "", name)


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the metrics of all rows, in order of appearance."""
    if not rows:
        raise ValueError("rows must hold at least one log point, got none")
    return [
        name
        for name in dict.fromkeys(n for row in rows for n in row)
        if name not in _NOT_CURVES and not name.endswith("_se")
    ]


def _grouped(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns the metrics of each panel, by its heading."""
    families: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        families.setdefault((family_of(name), family_of(name) == name), []).append(name)
    found = {}
    for members in families.values():
        if len(members) > 1:
            members.sort(key=_number_in)
            found[f"{members[0]} to {_number_in(members[-1])}"] = tuple(members)
        else:
            found[members[0]] = (members[0],)
    return found


def _number_in(member: str) -> int:
    return int(member.rpartition("/")[2])


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
    """Metric of a run, drawn as one line; of a family, its quantiles."""

    rows: Sequence[Mapping[str, Any]]
    names: tuple[str, ...]
    colour: Any = None


def _draw(panel: Axes, lines: Sequence[_Line], heading: str) -> None:
    over = "epoch" if any("epoch" in row for line in lines for row in line.rows[:1]) else "step"
    found = [_values(line, over) for line in lines]
    for line, (at, values, errors) in zip(lines, found, strict=True):
        if not len(at):
            continue
        if values.shape[1] > 1:
            _draw_family(panel, at, values, line.colour, alone=len(lines) == 1)
            continue
        (drawn,) = panel.plot(at, values[:, 0], marker=".", markersize=4, color=line.colour)
        if np.isfinite(errors).any():
            below, above = (values - errors)[:, 0], (values + errors)[:, 0]
            panel.fill_between(at, below, above, color=drawn.get_color(), alpha=0.3)
    names = {name for line in lines for name in line.names}
    if names & set(_AT_A_HALF):
        panel.axhline(0.5, color="black", linewidth=1, linestyle=":")
        panel.set_ylim(-0.02, 1.02)
    gaps = sum(int(np.isnan(values).sum()) for _, values, _ in found)
    points = sum(values.size for _, values, _ in found)
    note = f" ({gaps:,} of {points:,} not finite)" if gaps else ""
    panel.set_title(heading + note, fontsize=11, parse_math=False)
    panel.set_xlabel(over)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_family(
    panel: Axes, at: np.ndarray, values: np.ndarray, colour: Any, *, alone: bool
) -> None:
    """Draws the median of values [points, K] in bands of their quantiles.

    The range is drawn only for a family that is alone in its panel: ranges of several runs would
    cover each other.
    """
    known = ~np.isnan(values).all(axis=1)
    quantiles = np.full((len(_QUANTILES), len(at)), math.nan)
    quantiles[:, known] = np.nanquantile(values[known], _QUANTILES, axis=1)
    least, low, median, high, most = quantiles
    (drawn,) = panel.plot(at, median, marker=".", markersize=4, color=colour)
    middle = panel.fill_between(at, low, high, color=drawn.get_color(), alpha=0.3, linewidth=0)
    if alone:
        ends = panel.fill_between(at, least, most, color=drawn.get_color(), alpha=0.15, linewidth=0)
        names = [f"median of {values.shape[1]}", "25 to 75 %", "all"]
        panel.legend([drawn, middle, ends], names, fontsize=8, frameon=False)


def _values(line: _Line, over: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns positions [points], values and standard errors [points, K].

    A gap is NaN. K is the number of the line's names that its rows hold.
    """
    names = [name for name in line.names if any(name in row for row in line.rows)]
    rows = [row for row in line.rows if any(name in row for name in names)]
    at = np.array([_number(row.get(over)) for row in rows])
    values, errors = (
        np.array([[_number(row.get(name + end)) for name in names] for row in rows])
        for end in ("", "_se")
    )
    return at, values, errors


def _number(value: Any) -> float:
    """Converts a logged value to a float.

    A value that is not finite becomes NaN; so does None. A log may also hold a text such as "NaN".
    """
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan
