"""Comparison of runs over their seeds, for report pages."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genmod import evaluate, report
from genmod._host.words import counted
from genmod.evaluate import Result
from genmod.report import canvas, page
from genmod.report.curves import family_of
from genmod.runs import logs
from genmod.runs.gathered import Gathered
from genmod.runs.pictures import Pictures, by_step

_TIMINGS = ("examples_per_s",)
_NO_METRICS = {"step", "epoch", "seeds"}


@dataclass(frozen=True)
class _Arm:
    """Runs that differ only in their seed.

    Attributes:
      recorded: record of the first run.
      rows: log points of each seed.
      ends: numbers of each seed at the end.
      results: results of each seed by metric, the newest of each.
    """

    recorded: dict[str, Any]
    rows: dict[int, list[dict[str, Any]]]
    ends: dict[int, dict[str, float]]
    results: dict[int, dict[str, Result]]


def comparison_of(runs: Sequence[Gathered], pictures: Pictures) -> page.Comparison:
    """Compares runs for a report page.

    Makes curves, a table of means over seeds, and the last samples of each run.
    """
    arms = _arms(runs)
    names = [canvas.spelt(name) for name in _names([arm.recorded for arm in arms])]
    logs = {name: _joined(arm.rows) for name, arm in zip(names, arms, strict=True)}
    logged = [name for rows in logs.values() for name in {family_of(n) for r in rows for n in r}]
    shared = {name for name in logged if logged.count(name) > 1 or len(arms) == 1}
    # A family is shown whole, also where runs have different numbers of members.
    logs = {
        name: [{n: v for n, v in row.items() if family_of(n) in shared} for row in rows]
        for name, rows in logs.items()
    }
    logs = {n: rows for n, rows in logs.items() if {m for row in rows for m in row} - _NO_METRICS}
    first, *others = arms
    table = _rows([arm.ends for arm in arms])
    metrics, refused = _metrics(arms)
    table += _rows(metrics)
    seeds = sorted(set(first.ends).intersection(*(arm.ends for arm in others)))
    own, shared = (counted(len(each), "seed") for each in (first.ends, seeds))
    note = f"Means over seeds +- their standard error ({own} of {names[0]})."
    if others:
        note += (
            f" Differences are paired: each is taken within a seed ({shared} that all have), then "
            "averaged." + (" One seed has no standard error." if len(seeds) < 2 else "")
        )
    note = " ".join([note, *refused])
    samples = {str(run.path): found for run in runs if (found := _last_samples(run, pictures))}
    curves = page.svg(report.compared(logs)) if logs else None
    return page.Comparison(curves, _columns(names), table, samples, note)


def metrics_of(runs: Sequence[Gathered]) -> tuple[list[str], list[list[str]], list[str]]:
    """Compares the results of `genmod evaluate` of runs.

    Runs that differ only in their seed are one column, with mean and standard error. Differences
    from the first column are paired by seed.

    Returns:
      Columns, rows, and notes on metrics that cannot be compared.
    """
    arms = _arms(runs)
    metrics, refused = _metrics(arms)
    return _columns(_names([arm.recorded for arm in arms])), _rows(metrics), refused


def _columns(names: Sequence[str]) -> list[str]:
    return ["", *names, *(f"{name} less {names[0]}" for name in names[1:])]


def _rows(ends: Sequence[Mapping[int, Mapping[str, float]]]) -> list[list[str]]:
    """Returns a row for each number: of each arm, and the differences from the first arm.

    Args:
      ends: numbers by seed and name, for each arm.
    """
    table = []
    for number in dict.fromkeys(n for arm in ends for end in arm.values() for n in end):
        values = [{s: end[number] for s, end in arm.items() if number in end} for arm in ends]
        cells = [_estimated(list(one.values())) for one in values]
        for one in values[1:]:
            both = sorted(values[0].keys() & one.keys())
            cells.append(_estimated([one[s] - values[0][s] for s in both], signed=True))
        table.append([number, *cells])
    return table


def _metrics(arms: Sequence[_Arm]) -> tuple[list[dict[int, dict[str, float]]], list[str]]:
    """Returns values of the metrics of each arm, by seed and name.

    A metric whose protocols differ is left out, with a note that names the fields.
    """
    refused, shown = [], []
    for name in dict.fromkeys(n for arm in arms for found in arm.results.values() for n in found):
        found = [own[name] for arm in arms for own in arm.results.values() if name in own]
        try:
            evaluate.check_protocols(found)
            shown.append(name)
        except ValueError as error:
            refused.append(f"{name} is left out: {error}.")
    return [
        {
            seed: {name: own[name].value for name in shown if name in own}
            for seed, own in arm.results.items()
        }
        for arm in arms
    ], refused


def _estimated(values: Sequence[float], signed: bool = False) -> str:
    """Formats the mean of values with its standard error.

    The error is left out for a single value, or if a value is not finite.
    """
    if not values:
        return "-"
    if len(values) == 1 or not np.isfinite(values).all():
        with np.errstate(invalid="ignore"):
            mean = float(np.mean(values))
        return f"{mean:{'+' if signed and not math.isnan(mean) else ''}.4f}"
    mean, error = evaluate.estimate(np.asarray(values))
    text = logs.readable({"value": mean, "value_se": error})["value"]
    return f"+{text}" if signed and mean > 0 else text


def _arms(runs: Sequence[Gathered]) -> list[_Arm]:
    found: dict[str, _Arm] = {}
    for run in runs:
        config = {n: v for n, v in run.recorded["config"].items() if n != "seed"}
        key = json.dumps([run.recorded["experiment"], config, run.recorded["data"]], sort_keys=True)
        if key in found and found[key].rows.keys() & set(run.seeds):
            key = str(run.path)  # a run that is given twice is not merged
        arm = found.setdefault(key, _Arm(run.recorded, {}, {}, {}))
        for place, seed in enumerate(run.seeds):
            arm.rows[seed] = [_of_seed(row, place) for row in run.rows]
            last = logs.losses(arm.rows[seed][-1]) if run.rows else {}
            arm.ends[seed] = {**last, **_of_seed(run.evaluation, place)}
            arm.results[seed] = {entry.name: entry.runs[place] for entry in run.results}
    return list(found.values())


def _of_seed(values: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Returns one seed's part of a log point or an evaluation."""
    own = {name: runs[place] for name, runs in values.get("seeds", {}).items()}
    shared = {n: v for n, v in values.items() if n not in (*_TIMINGS, "seeds")}
    if not own:
        return shared
    return {n: v for n, v in shared.items() if n not in own and n.removesuffix("_se") == n} | own


def _joined(rows: Mapping[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Returns the log points that all seeds have.

    The values are means over the seeds, with their standard errors.
    """
    if len(rows) == 1:
        return next(iter(rows.values()))
    by_step = [{row["step"]: row for row in own} for own in rows.values()]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:])) if by_step else []
    found = []
    for step in steps:
        points = [own[step] for own in by_step]
        names = [n for n in points[0] if all(n in p for p in points) and n not in ("step", "epoch")]
        with np.errstate(invalid="ignore", over="ignore"):
            means = logs.summary({name: np.array([p[name] for p in points]) for name in names})
        found.append({"step": step, "epoch": points[0].get("epoch", math.nan), **means})
    return found


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names arms by the settings in which they differ."""
    flat = [{"experiment": r["experiment"], **r["config"], "data": r["data"][:18]} for r in records]
    several_experiments = len({one["experiment"] for one in flat}) > 1
    names = []
    for index, one in enumerate(flat):
        alike = [other for other in flat if other["experiment"] == one["experiment"]]
        keys = [key for key in dict.fromkeys(k for other in alike for k in other) if key != "seed"]
        differing = [key for key in keys if len({str(other.get(key)) for other in alike}) > 1]
        own = [one["experiment"]] * several_experiments
        own += [f"{key} {one[key]}" for key in differing if key in one]
        name = ", ".join(own) or one["experiment"]
        names.append(name if name not in names else f"{name} ({index + 1})")
    return names


def _last_samples(run: Gathered, pictures: Pictures) -> tuple[str, bool] | None:
    files = list(by_step(run.folder.pictures / "samples").values())
    files += [run.folder.pictures / "samples.png"] * (not files)
    return pictures.source(files[-1]) if files[-1].is_file() else None
