"""What a run folder holds, read for a report: record, log and evaluation, checked."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmod.runs import logs, record
from genmod.runs.folder import Folder


@dataclass(frozen=True)
class Gathered:
    """What a run folder holds.

    Attributes:
      path: the run folder, as it was named.
      folder: the places in it.
      recorded: its record.
      rows: its log.
      evaluation: the numbers of its end.
    """

    path: Path
    folder: Folder
    recorded: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluation: dict[str, Any]

    @property
    def seeds(self) -> range:
        """The seeds of its runs."""
        first = self.recorded["config"].get("seed", 0)
        return range(first, first + self.recorded.get("seeds", 1))


def gather(path: str | Path) -> Gathered:
    """Reads a run folder.

    Raises:
      ValueError: if it is not that of a run, or damaged.
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
    # Half a file, a step without an end, JSON that is nested deeper than any that we write.
    except (json.JSONDecodeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {in_words(error)}") from None
    return Gathered(Path(path), folder, recorded, rows, evaluation)


def _numbers(values: Any, seeds: int, file: Path) -> dict[str, Any]:
    """A log point or an evaluation, if it holds what the page needs: numbers, as many as seeds."""
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
    """A number as a log may hold it."""
    if isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # whole numbers that no float holds
            float(value)
            return value
    raise ValueError(f"{place} is damaged: expected a number, got {value!r}")


def below(path: str | Path) -> list[Path]:
    """A run folder itself, or all runs below a folder.

    Raises:
      ValueError: if there is none.
    """
    path = Path(path)
    if Folder(path).record.is_file():
        return [path]
    found = sorted(one.parent for one in path.glob("**/record.json"))
    if not found:
        raise ValueError(f"{str(path)!r} is not a run folder, and there is none below it")
    return found


def in_words(error: BaseException) -> str:
    """Says an error in a line of the page."""
    if isinstance(error, SystemExit):
        return f"it ended with {error}" if error.args else "it ended"
    return str(error).partition("\n")[0] or type(error).__name__
