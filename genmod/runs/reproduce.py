"""Published tables that are reproduced: the cells to train, and what they are compared with.

A table is a file in experiments/tables with a constant `TABLE`. It is found by its name.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmod import checks, evaluate
from genmod._host import source
from genmod._host.words import counted
from genmod.report.page import Published
from genmod.runs import catalogue, record, results
from genmod.runs.evaluation import Options
from genmod.runs.folder import Folder
from genmod.train import checkpoint


class Cell(NamedTuple):
    """Cell of a table: an experiment with some flags.

    Attributes:
      name: name of the cell, as the table shows it.
      config: fields of the experiment's Config that make the cell.
      published: values that others have got, by source.
      group: name of the cells among which this one is ranked.
    """

    name: str
    config: Mapping[str, Any]
    published: Mapping[str, float]
    group: str = ""


class Budget(NamedTuple):
    """Length of a reproduction.

    Attributes:
      time: duration, in words.
      cells: names of the cells to train.
      seeds: number of runs of each cell, with the seeds from 0 on.
      config: fields of the experiment's Config that all cells share.
      options: options of the evaluation.
      orderings: pairs of cells of which the first must have the lower value in every seed.
      deviations: differences from the published protocol, each a sentence.
    """

    time: str
    cells: Sequence[str]
    seeds: int
    config: Mapping[str, Any]
    options: Options
    orderings: Sequence[tuple[str, str]]
    deviations: Sequence[str]


class Table(NamedTuple):
    """Published table.

    Attributes:
      title: title, with the paper.
      experiment: name of the experiment whose runs are the cells.
      quantity: values of the table, with their unit, in words.
      metric: group and name of the metric of `genmod evaluate` that gives them.
      sign: factor of the metric, 1 or -1.
      cells: all cells of the table.
      budgets: lengths of the reproduction, by name.
      ranked: whether only ranks can be compared with those that are published, as the values are
        of other protocols.
    """

    title: str
    experiment: str
    quantity: str
    metric: tuple[str, str]
    sign: int
    cells: Sequence[Cell]
    budgets: Mapping[str, Budget]
    ranked: bool = False


class Value(NamedTuple):
    """Values of a cell.

    Attributes:
      cell: the cell.
      runs: value of each seed.
      mean: mean over the seeds, with its standard error; that of the evaluation if there is one
        seed.
    """

    cell: Cell
    runs: np.ndarray
    mean: evaluate.Result


def files() -> dict[str, Path]:
    """Returns the files of all tables by name, such as iwae-table1."""
    folder = catalogue.shipped() / "tables"
    found = {path.stem.replace("_", "-"): path for path in sorted(folder.glob("[a-z]*.py"))}
    return {n: path for n, path in found.items() if re.search("^TABLE = ", path.read_text(), re.M)}


def listed() -> list[tuple[str, str]]:
    """Returns names and titles of all tables."""
    return [(name, load(name).title) for name in files()]


def load(name: str) -> Table:
    """Loads a table by its name.

    Raises:
      ValueError: if there is no such table; the message gives the nearest name.
    """
    known = files()
    checks.known("table", name, list(known))
    return source.load(known[name]).TABLE


def cells_of(table: Table, budget: Budget) -> list[Cell]:
    """Returns the cells that a budget trains, in its order."""
    known = {cell.name: cell for cell in table.cells}
    return [known[name] for name in budget.cells]


def folder_of(out: Path, cell: Cell) -> Path:
    """Returns the run folder of a cell."""
    return out / _as_file(cell.name)


def _as_file(name: str) -> str:
    """Returns a name in lower-case letters and numbers, with hyphens between."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def training(table: Table, budget: Budget, cell: Cell, folder: Path) -> list[str]:
    """Returns the arguments of `genmod` that train a cell, or continue its training."""
    flags: list[str] = []
    for name, value in {**budget.config, **cell.config}.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        values = value if isinstance(value, tuple) else (value,)
        flags += [f"--{flag}", *map(str, values)]
    run = ["--seeds", str(budget.seeds), "--run-dir", str(folder)]
    return ["train", table.experiment, *flags, *run]


def evaluation(table: Table, budget: Budget, folder: Path) -> list[str]:
    """Returns the arguments of `genmod` that evaluate a trained cell."""
    options = budget.options
    flags = ["--metrics", table.metric[0], "--num-draws", str(options.num_draws)]
    flags += ["--num", str(options.num)]
    for name in ("num_test", "features", "ex_post"):
        value = getattr(options, name)
        flags += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return ["evaluate", str(folder), *flags, "--seed", str(options.seed)]


def value_of(table: Table, budget: Budget, cell: Cell, folder: Path) -> Value | None:
    """Returns the values of a cell; None if its run is not both trained and evaluated.

    Only a run that has ended is evaluated: results of its newest checkpoint are those of its end.
    """
    if not Folder(folder).record.exists():
        return None
    recorded = record.read(Folder(folder))
    # The record holds JSON, where a tuple is a list.
    asked = json.loads(json.dumps({**budget.config, **cell.config}))
    trained = recorded["config"]
    if any(trained.get(name) != value for name, value in asked.items()):
        return None
    if recorded.get("seeds", 1) != budget.seeds:
        return None
    saved = checkpoint.steps(Folder(folder).checkpoints)
    for entry in results.read(Folder(folder)):
        same = _is_asked(entry.protocol, budget.options)
        if entry.name == table.metric[1] and entry.step == max(saved, default=None) and same:
            runs = table.sign * np.array([run.value for run in entry.runs])
            mean = entry.mean._replace(value=float(runs.mean()), interval=None)
            return Value(cell, runs, mean)
    return None


def datasets(table: Table, budget: Budget, out: Path) -> list[str]:
    """Returns the names of the data sets that cells without values are told to use."""
    missing = [
        {**budget.config, **cell.config}
        for cell in cells_of(table, budget)
        if value_of(table, budget, cell, folder_of(out, cell)) is None
    ]
    return sorted({config["dataset"] for config in missing if "dataset" in config})


def showing(name: str, out: Path) -> list[str]:
    """Returns the arguments of `genmod` that show a data set."""
    return ["data", name, "--out", str(out / f"{_as_file(name)}.png")]


def _is_asked(protocol: Mapping[str, Any], options: Options) -> bool:
    """Returns whether a protocol is that of the options."""
    asked = {"num_draws": options.num_draws, "num_fake": options.num, "seed": options.seed}
    if options.num_test is not None:
        asked["num_real"] = options.num_test
    # A likelihood has no number of samples, and a distance none of draws.
    same = all(protocol.get(name, value) == value for name, value in asked.items())
    mixture = ("latents" in protocol) == (options.ex_post is not None)
    named = options.features in (None, protocol.get("features"))
    return same and mixture and named and "checkpoint" not in protocol


class Ordering(NamedTuple):
    """Comparison of two cells by seed.

    Attributes:
      lower: name of the cell that must have the lower value.
      higher: name of the other cell.
      differences: lower less higher, of each seed.
    """

    lower: str
    higher: str
    differences: np.ndarray

    @property
    def holds(self) -> bool:
        """Whether it holds in every seed."""
        return bool(np.all(self.differences < 0))

    def __str__(self) -> str:
        mean, error = evaluate.estimate(self.differences)
        num = int(np.sum(self.differences < 0))
        holds = "holds" if self.holds else "DOES NOT HOLD"
        return (
            f"{self.lower} less {self.higher}: {evaluate.Result(mean, error)}, below 0 in {num} of "
            f"{counted(len(self.differences), 'seed')}: {holds}"
        )


def orderings(budget: Budget, values: Iterable[Value]) -> list[Ordering]:
    """Compares the cells whose ordering a budget asserts, seed by seed."""
    runs = {value.cell.name: value.runs for value in values}
    return [Ordering(a, b, runs[a] - runs[b]) for a, b in budget.orderings]


def published(
    name: str, table: Table, chosen: str, values: Sequence[Value], out: Path
) -> Published:
    """Returns the table as a report page shows it: published values, ours, and the difference."""
    budget = table.budgets[chosen]
    shown = cells_of(table, budget)
    sources = list(dict.fromkeys(source for cell in shown for source in cell.published))
    ranks = _ranks(values, sources[0]) if table.ranked else {}
    rows = []
    for value in values:
        given = value.cell.published
        first = given.get(sources[0])
        ours = value.mean._replace(floor=float("nan"))
        if table.ranked:
            compared = list(ranks.get(value.cell.name, ("-", "-")))
        else:
            compared = ["-" if first is None else f"{ours.value - first:+.2f}"]
        cells = [f"{given[each]:.2f}" if each in given else "-" for each in sources]
        rows.append([value.cell.name, *cells, str(ours), *compared])
    comparison = ["published rank", "rank here"] if table.ranked else [f"less {sources[0]}"]
    one = "of one seed: that of its evaluation"
    over = one if budget.seeds == 1 else f"over {counted(budget.seeds, 'seed')}"
    return Published(
        title=table.title,
        columns=["", *sources, "genmod", *comparison],
        rows=rows,
        notes=[
            f"{table.quantity}. +- is the standard error {over}.",
            *map(str, orderings(budget, values)),
            *_without_rank(table, values),
            *budget.deviations,
            shlex.join(["genmod", "reproduce", name, "--budget", chosen, "--out", str(out)]),
        ],
    )


def _ranks(values: Sequence[Value], source: str) -> dict[str, tuple[str, str]]:
    """Returns published and own rank of each cell with a published value, within its group.

    The smallest value has rank 1. A cell whose value is not a number has no rank: see
    `_without_rank`.
    """
    groups: dict[str, list[Value]] = {}
    for value in values:
        if source in value.cell.published and not np.isnan(value.mean.value):
            groups.setdefault(value.cell.group, []).append(value)
    found = {}
    for group in groups.values():
        theirs = sorted(value.cell.published[source] for value in group)
        ours = sorted(value.mean.value for value in group)
        for value in group:
            places = theirs.index(value.cell.published[source]), ours.index(value.mean.value)
            published, here = (f"{place + 1} of {len(group)}" for place in places)
            found[value.cell.name] = (published, here)
    return found


def _without_rank(table: Table, values: Sequence[Value]) -> list[str]:
    """Returns a note on cells without rank."""
    lost = [value.cell.name for value in values if np.isnan(value.mean.value)]
    if not table.ranked or not lost:
        return []
    return [f"Without a value, and left out of both rankings: {', '.join(lost)}."]
