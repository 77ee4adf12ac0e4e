"""Contents of a run folder, checked for a report."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmod.runs import logs, record
from genmod.runs import results as kept
from genmod.runs.folder import Folder


@dataclass(frozen=True)
class Gathered:
    """Contents of a run folder.

    Attributes:
      path: path of the run folder, as it was given.
      folder: paths of its files.
      recorded: its record.
      rows: its log points.
      evaluation: numbers taken at its end.
      results: results of `genmod evaluate`.
    """

    path: Path
    folder: Folder
    recorded: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluation: dict[str, Any]
    results: list[kept.Entry] = dataclasses.field(default_factory=list)

    @property
    def seeds(self) -> range:
        """Seeds of its runs."""
        first = self.recorded["config"].get("seed", 0)
        return range(first, first + self.recorded.get("seeds", 1))


def gather(path: str | Path) -> Gathered:
    """Reads and checks a run folder.

    Raises:
      ValueError: if the folder does not hold a run, or a file in it is damaged.
    """
    folder = Folder(Path(path))
    recorded = record.read(folder)
    seeds, first = recorded.get("seeds", 1), recorded["config"].get("seed", 0)
    if not isinstance(first, int):
        raise ValueError(f"{folder.record} is damaged: seed is {first!r}, expected a whole number")
    if seeds < 1:
        raise ValueError(f"{folder.record} is damaged: seeds is {seeds}, expected at least 1")
    file = folder.metrics
    try:
        rows = [_numbers(row, seeds, file) for row in logs.read_metrics(folder)]
        file = folder.evaluation
        evaluation = _numbers(logs.read_evaluation(folder), seeds, file)
    # The causes are half a file, an infinite step, or JSON that is nested too deeply.
    except (json.JSONDecodeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {in_words(error)}") from None
    entries = kept.read(folder)
    for entry in entries:
        if len(entry.runs) != seeds:
            raise ValueError(
                f"{folder.results} is damaged: {entry.name} has {len(entry.runs)} results, "
                f"expected {seeds}, one for each seed"
            )
    return Gathered(Path(path), folder, recorded, rows, evaluation, entries)


def _numbers(values: Any, seeds: int, file: Path) -> dict[str, Any]:
    """Checks a log point or an evaluation and returns it.

    A page needs numbers by name; below `seeds`, as many of each name as there are seeds.

    Raises:
      ValueError: if it is damaged.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{file} is damaged: expected numbers by name, got {values!r}")
    found = {n: _number(v, f"{file}: {n}") for n, v in values.items() if n != "seeds"}
    own = values.get("seeds")
    if own is None:
        return found
    whole = isinstance(own, Mapping) and all(
        isinstance(of_runs, list) and len(of_runs) == seeds for of_runs in own.values()
    )
    if not whole:
        raise ValueError(f"{file} is damaged: expected {seeds} numbers of each name in seeds")
    each = {n: [_number(v, f"{file}: {n}") for v in runs] for n, runs in own.items()}
    return {**found, "seeds": each}


def _number(value: Any, place: str) -> float:
    """Checks a number of the log and returns it."""
    if isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # an integer may be too large for a float
            float(value)
            return value
    raise ValueError(f"{place} is damaged: expected a number, got {value!r}")


def below(path: str | Path) -> list[Path]:
    """Returns a run folder itself, or all runs below a folder.

    Raises:
      ValueError: if there is no run.
    """
    path = Path(path)
    if Folder(path).record.is_file():
        return [path]
    folders = sorted(one.parent for one in path.glob("**/record.json"))
    if not folders:
        raise ValueError(f"{str(path)!r} is not a run folder, and there is none below it")
    return folders


def in_words(error: BaseException) -> str:
    """Describes an error in one line of the page."""
    if isinstance(error, SystemExit):
        return f"it ended with {error}" if error.args else "it ended"
    return str(error).partition("\n")[0] or type(error).__name__
