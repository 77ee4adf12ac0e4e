"""Results of `genmod evaluate`, kept in the run folder as results.json."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from genmod import evaluate
from genmod._host import disk
from genmod.evaluate import Result
from genmod.runs.folder import Folder


class Entry(NamedTuple):
    """Results of one metric for all runs of a folder, under one protocol.

    Attributes:
      name: name of the metric.
      step: training step of the checkpoint that was evaluated.
      runs: the result of each run, in the order of their seeds.
    """

    name: str
    step: int
    runs: tuple[Result, ...]

    @property
    def protocol(self) -> Mapping[str, Any]:
        """Protocol of the results."""
        return self.runs[0].protocol

    @property
    def mean(self) -> Result:
        """Mean over the runs, with its standard error; the result itself of a single run."""
        return evaluate.over_runs(self.runs)

    def described(self) -> tuple[str, str, str, str]:
        """Describes the metric for readers: name with unit, value, floor and protocol."""
        mean, unit = self.mean, self.protocol.get("unit")
        name = f"{self.name} ({unit})" if unit else self.name
        floor = "-" if math.isnan(mean.floor) else str(Result(mean.floor))
        protocol = {"step": self.step, **mean.protocol}
        said = ", ".join(f"{field} {value}" for field, value in protocol.items())
        return name, str(mean._replace(floor=math.nan)), floor, said


def read(folder: Folder) -> list[Entry]:
    """Returns the results that a run folder holds; none if it was not evaluated.

    Raises:
      ValueError: if the file is damaged.
    """
    path = folder.results
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())["results"]
        return [_entry(one) for one in found]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None


def _entry(found: Mapping[str, Any]) -> Entry:
    """Returns an entry as the file holds it; a number is a number, and nothing else."""
    protocol, runs = found["protocol"], found["runs"]
    if not runs or not isinstance(found["name"], str) or not isinstance(found["step"], int):
        raise ValueError(f"expected name, step and runs, got {found!r}")
    results = [Result.from_json({**run, "protocol": protocol}) for run in runs]
    return Entry(found["name"], found["step"], tuple(results))


def write(folder: Folder, entries: Iterable[Entry]) -> None:
    """Adds results to those that a run folder holds.

    A result takes the place of an older one of the same metric and protocol.

    Raises:
      ValueError: if the file is damaged.
      DiskError: if it cannot be written.
    """
    kept = {_identity(entry): entry for entry in [*read(folder), *entries]}
    disk.write_json(folder.results, {"results": [_as_json(entry) for entry in kept.values()]})


def _identity(entry: Entry) -> str:
    return json.dumps([entry.name, dict(entry.protocol)], sort_keys=True)


def _as_json(entry: Entry) -> dict[str, Any]:
    runs = [run.as_json() for run in entry.runs]
    for run in runs:
        del run["protocol"]
    name, step, _ = entry
    return {"name": name, "step": step, "protocol": dict(entry.protocol), "runs": runs}
