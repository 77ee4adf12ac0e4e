"""Goals of a run: its best log point, and its end by patience.

The log points alone decide both, so a run that is continued or repeated decides the same.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from genmod import checks
from genmod._host.words import counted
from genmod.experiment import Experiment, Goal, Patience
from genmod.runs import logs

_UNTIL, _BEST = "until", "best"
"""Names of the goals, as fields of an experiment and of its record."""


class Best(NamedTuple):
    """Best log point of a run for one goal.

    Attributes:
      step: its step; 0 if no log point has held the number.
      value: the number there.
      waited: number of later log points that hold the number.
    """

    step: int = 0
    value: float = math.nan
    waited: int = 0

    def after(self, row: Mapping[str, Any], goal: Goal, smallest_change: float = 0.0) -> "Best":
        """Returns the best log point after a further one."""
        value = row.get(goal.metric)
        if value is None:
            return self
        change = value - self.value if goal.larger_is_better else self.value - value
        # Infinity minus itself is NaN, as is every change from or to NaN: no improvement.
        if change > smallest_change or (math.isnan(self.value) and not math.isnan(value)):
            return Best(row["step"], value)
        return self._replace(waited=self.waited + 1)


class Ended(NamedTuple):
    """End of a run by its patience.

    Attributes:
      step: step of the log point at which it ended.
      until: the patience.
      best: the best log point before.
    """

    step: int
    until: Patience
    best: Best

    def __str__(self) -> str:
        metric = Goal.of("goal", self.until.goal).metric
        since = f" since step {self.best.step:,} ({self.best.value:.4f})" * (self.best.step > 0)
        points = counted(self.best.waited, "log point")
        waited = f"{points} without an improvement{since}"
        return f"ended at step {self.step:,} by patience on {metric}: {waited}"


class Standing:
    """Standing of a run: its best log point so far, and its end.

    Attributes:
      logged: names of the numbers that are in the log.
      best: best log point for `Experiment.best`.
      ended: end by `Experiment.until`; None before.
    """

    def __init__(
        self,
        until: Patience | None,
        best: str | Goal | None,
        rows: Iterable[Mapping[str, Any]] = (),
    ):
        """Takes the goals of an experiment and the log points so far."""
        self._until = until
        self._goal = None if best is None else Goal.of("best", best)
        self.logged: set[str] = set()
        self._lately = self.best = Best()
        self.ended: Ended | None = None
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes a further log point."""
        self.logged |= row.keys()
        if self._goal is not None:
            self.best = self.best.after(row, self._goal)
        if self._until is not None and self.ended is None:
            goal = Goal.of("goal", self._until.goal)
            self._lately = self._lately.after(row, goal, self._until.smallest_change)
            if self._lately.waited >= self._until.patience:
                self.ended = Ended(row["step"], self._until, self._lately)


def metrics(experiment: Experiment) -> dict[str, str]:
    """Returns the metrics of an experiment's goals, by the names of the goals."""
    goals = {
        _UNTIL: None if experiment.until is None else experiment.until.goal,
        _BEST: experiment.best,
    }
    return {n: Goal.of(n, goal).metric for n, goal in goals.items() if goal is not None}


def refuse_unknown(experiment: Experiment, names: Iterable[str]) -> None:
    """Refuses goals whose number is not logged.

    Args:
      experiment: the experiment.
      names: names of all that it logs.

    Raises:
      ValueError: if a goal has another name; the message gives those that are logged.
    """
    logged = [name for name in names if not logs.is_reserved(name)]
    for goal, metric in metrics(experiment).items():
        checks.known(f"logged number of Experiment.{goal}", metric, logged)


def as_json(experiment: Experiment) -> dict[str, Any]:
    """Returns the goals of an experiment as its record holds them."""
    goals = {_UNTIL: experiment.until, _BEST: experiment.best}
    return {n: dataclasses.asdict(goal) for n, goal in goals.items() if goal}  # pyrefly: ignore


def from_json(record: Mapping[str, Any]) -> tuple[Patience | None, Goal | None]:
    """Returns the goals `until` and `best` of a record.

    Raises:
      ValueError: if it holds something other than goals.
    """
    until, best = record.get(_UNTIL), record.get(_BEST)
    try:
        return (
            None
            if until is None
            else Patience(Goal(**until["goal"]), until["patience"], until["smallest_change"]),
            None if best is None else Goal(**best),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"the record's goals are damaged: {error!r}") from None


def recorded(record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Standing:
    """Returns the standing of a run by its record and its log points."""
    return Standing(*from_json(record), rows)


def facts(record: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns what the goals of a run have come to, for a report."""
    standing, (_, goal) = recorded(record, rows), from_json(record)
    found = {}
    if goal is not None and standing.best.step:
        found["best"] = f"{goal.metric} {standing.best.value:.4f} at step {standing.best.step:,}"
    if standing.ended is not None:
        found["end"] = str(standing.ended)
    return found
