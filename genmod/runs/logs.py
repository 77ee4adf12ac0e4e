"""Log of a run: metrics.jsonl and TensorBoard events."""

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
"""Names that the log itself uses.

Names that end in `_se` are reserved as well, for standard errors.
"""
Logger = Callable[[int, Mapping[str, float]], None]
"""Function `(step, values by name) -> None` that receives log points."""


class TensorBoard:
    """Logger that writes TensorBoard events.

    It raises `disk.DiskError` if they cannot be written.
    """

    def __init__(self, folder: str | Path, step: int = 0):
        """Makes a new file of events in a folder.

        The file tells TensorBoard to forget what older files hold after `step`.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = Path(folder)
        with disk.writing(self._folder):
            # SummaryWriter of tensorboardX writes from a thread, and its flush does not wait for
            # that thread. EventsWriter names files by the second; the suffix tells apart two files
            # that begin in the same second.
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
    """Writer of log points to metrics.jsonl and to TensorBoard.

    Both hold the same steps. It raises `disk.DiskError` if a log point cannot be written.
    """

    def __init__(self, folder: Folder, step: int):
        """Opens the log at a step.

        Log points that an interrupted run wrote after that step are cut off.
        """
        end = 0
        for end_of_row, row in _rows(folder):
            if row["step"] > step:
                break
            end = end_of_row
        self._folder = folder
        self._failed = False
        with disk.writing(folder.metrics):
            # The file is unbuffered, so that closing it does not repeat a write that failed.
            self._file = folder.metrics.open("ab", buffering=0)
            self._file.truncate(end)
        self._tensorboard = TensorBoard(folder.tensorboard, step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a log point, which must hold `step`."""
        self._failed = True
        with disk.writing(self._folder.metrics):
            rest = memoryview(disk.json_line(row).encode() + b"\n")
            while rest:  # a nearly full disk may take only a part
                rest = rest[self._file.write(rest) :]
        self._tensorboard(row["step"], numbers(row))
        self._failed = False

    def sync(self) -> None:
        """Forces the log to disk, where it survives a power cut.

        A checkpoint must never be newer than the log.
        """
        with disk.writing(self._folder.metrics):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes both files."""
        with contextlib.suppress(*[OSError] * self._failed), disk.writing(self._folder.path):
            self._file.close()
            self._tensorboard.close()


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """Returns the log points of a run, in order."""
    return [row for _, row in _rows(folder)]


def read_evaluation(folder: Folder) -> dict[str, float]:
    """Returns the numbers taken at the end of a run.

    They are empty if it has not ended.
    """
    return _read_numbers(folder.evaluation) if folder.evaluation.exists() else {}


def read_unlogged(folder: Folder, step: int) -> dict[str, Any] | None:
    """Returns the log point that a stopped run left unfinished.

    It is read from `unlogged.json`; None if it is not the log point of `step`, or has been logged.
    """
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
    """Yields the complete lines of metrics.jsonl.

    Each is given as the offset of its end in the file, and its content.
    """
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
            raise ValueError(f"{folder.metrics} is damaged: {line!r} is not a log point") from None
        yield end, row


def is_reserved(name: str) -> bool:
    """Returns whether the log itself uses a name."""
    return name in RESERVED or name.endswith("_se")


def renamed(name: str) -> str:
    """Returns another name for one that the log uses."""
    return f"{name}_value"


def losses(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the losses of a log point.

    They are `loss`, or the losses of several players; with their standard errors, if present.
    """
    ends = ("loss", "loss_se")
    return {n: value for n, value in row.items() if n in ends or n.endswith(("_loss", "_loss_se"))}


def readable(values: Mapping[str, Any]) -> dict[str, str]:
    """Formats numbers, with standard errors if there are several runs."""
    shown = {}
    for name, value in values.items():
        if name == "seeds" or name.removesuffix("_se") in shown:
            continue
        error = values.get(f"{name}_se")
        if error and not math.isfinite(error):
            shown[name] = f"{value:.4f} +- {error:.4f}"
        elif error:  # shows two digits of the error, and the value to the same digit
            places = max(0, 1 - math.floor(math.log10(error)))
            shown[name] = f"{value:.{places}f} +- {error:.{places}f}"
        else:
            shown[name] = f"{value:.4f}"
    return shown


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers of a log point that loggers get."""
    return {name: value for name, value in row.items() if name not in ("step", "seeds")}


def summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns numbers as the log holds them.

    Of several runs these are the mean, the standard error, and each run's own numbers.

    Raises:
      ValueError: if a value is not a number; the message gives its name.
    """
    of_runs = {name: np.asarray(value) for name, value in values.items() if np.ndim(value)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        try:
            if name in of_runs:
                found[name], found[f"{name}_se"] = evaluate.estimate(of_runs[name])
            else:
                found[name] = float(value)
        except (TypeError, ValueError):
            said = checks.described(value)
            message = f"what is logged must be numbers by name, got {name!r}: {said}"
            raise ValueError(message) from None
    if of_runs:
        found["seeds"] = {name: value.tolist() for name, value in of_runs.items()}
    return found


def joined(row: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """Joins a log point with the numbers of an observation."""
    both = {**row, **seen}
    if "seeds" in both:
        both["seeds"] = {**row.get("seeds", {}), **seen.get("seeds", {})}
    return both


def named(
    values: Mapping[str, Any], row: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Renames numbers whose names the log uses.

    Args:
      values: numbers of an observation or of an evaluation, by name.
      row: log point to which they are added; its names are in use as well.

    Returns:
      The numbers under free names, and a remark on each that was renamed.
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
