"""The log of a run: metrics.jsonl and TensorBoard events, written and read."""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genmod import checks, evaluate
from genmod._host import disk
from genmod.runs.folder import Folder

RESERVED = ("step", "epoch", "seeds", "examples_per_s")
"""Names that the log itself uses; so does it those that end in `_se`, for standard errors."""
Logger = Callable[[int, Mapping[str, float]], None]
"""`(step, values) -> None`: takes the numbers of a log point, by name."""


class TensorBoard:
    """A logger that writes TensorBoard events.

    What cannot be written raises `disk.DiskError`.
    """

    def __init__(self, folder: str | Path, step: int = 0):
        """Makes a file in a folder; TensorBoard shall forget what others hold after a step."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = Path(folder)
        with disk.writing(self._folder):
            # Not SummaryWriter: it writes from a thread, and its flush does not wait for it. Files
            # are named by the second; the suffix keeps apart two that begin in the same one.
            self._folder.mkdir(exist_ok=True)
            self._events = EventsWriter(
                str(self._folder / "events"), filename_suffix=f".{time.time_ns()}"
            )
            forget = SessionLog(status=SessionLog.START)
            event = Event(wall_time=time.time(), step=step + 1, session_log=forget)
            self._events.write_event(event)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the numbers of a log point."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=shown))
        with disk.writing(self._folder):
            self._events.write_event(event)
            self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        with disk.writing(self._folder):
            self._events.close()


class Log:
    """Writes log points to metrics.jsonl and to TensorBoard events, in step.

    What cannot be written raises `disk.DiskError`.
    """

    def __init__(self, folder: Folder, step: int):
        """Opens the log at a step; what an interrupted run wrote after it is cut off."""
        end = 0
        for end_of_row, row in _rows(folder):
            if row["step"] > step:
                break
            end = end_of_row
        self._folder = folder
        self._failed = False
        with disk.writing(folder.metrics):
            # Unbuffered: what was refused once shall not come back when the file is closed.
            self._file = folder.metrics.open("ab", buffering=0)
            self._file.truncate(end)
        self._tensorboard = TensorBoard(folder.tensorboard, step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a log point, which must hold `step`."""
        self._failed = True
        with disk.writing(self._folder.metrics):
            rest = memoryview(disk.json_line(row).encode() + b"\n")
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
        self._tensorboard(row["step"], numbers(row))
        self._failed = False

    def sync(self) -> None:
        """Has the log survive a power cut: no checkpoint may know of a row that is lost."""
        with disk.writing(self._folder.metrics):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes both files."""
        with contextlib.suppress(*[OSError] * self._failed), disk.writing(self._folder.path):
            self._file.close()
            self._tensorboard.close()


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """The log points of a run, in order."""
    return [row for _, row in _rows(folder)]


def read_evaluation(folder: Folder) -> dict[str, float]:
    """The numbers taken at the end of a run; none if it has not ended."""
    return _read_numbers(folder.evaluation) if folder.evaluation.exists() else {}


def read_unlogged(folder: Folder, step: int) -> dict[str, Any] | None:
    """What `unlogged.json` holds for the log point of `step`, if that has not been logged."""
    last = max((row["step"] for _, row in _rows(folder)), default=0)
    if last >= step or not folder.unlogged.exists():
        return None
    row = _read_numbers(folder.unlogged)
    return row if row["step"] == step else None


def _read_numbers(path: Path) -> dict[str, Any]:
    try:
        content = disk.numbers(json.loads(path.read_text()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected numbers by name, got {content!r}")
    return content


def _rows(folder: Folder) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each whole line of metrics.jsonl: where it ends in the file, and its content."""
    if not folder.metrics.exists():
        return
    end = 0
    for line in folder.metrics.read_bytes().splitlines(keepends=True):
        end += len(line)
        if not line.endswith(b"\n"):
            continue
        try:
            row = disk.numbers(json.loads(line))
            int(row["step"])
            if not all(isinstance(v, int | float) for n, v in row.items() if n != "seeds"):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            raise ValueError(f"{folder.metrics} is damaged: {line!r} is no log point") from None
        yield end, row


def is_reserved(name: str) -> bool:
    """Whether the log itself uses a name."""
    return name in RESERVED or name.endswith("_se")


def renamed(name: str) -> str:
    """A name in the place of one that the log uses."""
    return f"{name}_value"


def losses(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a log point says most: `loss`, or the losses of several players."""
    ends = ("loss", "loss_se")
    return {n: value for n, value in row.items() if n in ends or n.endswith(("_loss", "_loss_se"))}


def readable(values: Mapping[str, Any]) -> dict[str, str]:
    """Numbers for people, with their standard errors where there are several runs."""
    shown = {}
    for name, value in values.items():
        if name == "seeds" or name.removesuffix("_se") in shown:
            continue
        error = values.get(f"{name}_se")
        if error and not math.isfinite(error):
            shown[name] = f"{value:.4f} +- {error:.4f}"
        elif error:  # two digits of it, and the value to the same place
            places = max(0, 1 - math.floor(math.log10(error)))
            shown[name] = f"{value:.{places}f} +- {error:.{places}f}"
        else:
            shown[name] = f"{value:.4f}"
    return shown


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log point, by name: what a logger gets."""
    return {name: value for name, value in row.items() if name not in ("step", "seeds")}


def summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as the log holds them; of many runs mean, standard error, and each run's own.

    Raises:
      ValueError: if one is no number, by its name.
    """
    of_runs = {name: np.asarray(value) for name, value in values.items() if np.ndim(value)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in of_runs:
            try:
                found[name] = float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"what is logged must be numbers by name, got {name!r}: "
                    f"{checks.described(value)}"
                ) from None
            continue
        found[name], found[f"{name}_se"] = evaluate.estimate(of_runs[name])
    if of_runs:
        found["seeds"] = {name: value.tolist() for name, value in of_runs.items()}
    return found


def joined(row: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """A log point with what a look has seen."""
    both = {**row, **seen}
    if "seeds" in both:
        both["seeds"] = {**row.get("seeds", {}), **seen.get("seeds", {})}
    return both


def named(
    values: Mapping[str, Any], row: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Numbers of a look or an evaluation under names that are free, and what to say of others.

    Args:
      values: by name.
      row: what the log holds already.
    """
    found, remarks = {}, []
    for name, value in values.items():
        free = name
        while is_reserved(free) or free in (row or {}) or (free != name and free in values):
            free = renamed(free)
        if free != name:
            remarks.append(
                f"the name {name!r} is the log's own, or a metric's: it is {free!r} here"
            )
        found[free] = value
    return found, remarks
