"""The run folder: everything needed to judge a run, to continue it and to repeat it.

record.json      experiment, configuration, versions, device, fingerprint of the data, command
experiment.py    a copy of the experiment file
metrics.jsonl    one line a log point: step, epoch, loss, its terms, examples_per_s
evaluation.json  numbers taken at the end
checkpoints/     what the run continues from
pictures/        PNG files
tensorboard/     the metrics once more, as TensorBoard events
"""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import genmod

_FIELDS = {
    "experiment": str,
    "config": dict,
    "data": str,
    "versions": dict,
    "device": dict,
    "command": str,
    "created": str,
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Folder:
    """The places in a run folder."""

    path: Path

    @property
    def record(self) -> Path:
        """What the run is: record.json."""
        return self.path / "record.json"

    @property
    def experiment(self) -> Path:
        """The copy of the experiment file."""
        return self.path / "experiment.py"

    @property
    def metrics(self) -> Path:
        """The log, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        """Numbers taken at the end."""
        return self.path / "evaluation.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def pictures(self) -> Path:
        """The folder of pictures."""
        return self.path / "pictures"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tensorboard"


def open_folder(
    path: str | Path,
    *,
    experiment: str,
    source: Path,
    config: Mapping[str, Any],
    fingerprint: str,
    command: str,
) -> tuple[Folder, list[str]]:
    """Makes a run folder, or opens the one that the same run left behind.

    Args:
      path: the run folder.
      experiment: name of the experiment.
      source: the experiment file, which is copied.
      config: the configuration as JSON holds it. `epochs` may differ from the folder's.
      fingerprint: of the training data.
      command: how to start the run again.

    Returns:
      The folder, and remarks about it: what has changed since the run began that may change bits.

    Raises:
      ValueError: if the folder holds something else, or a run of another experiment, configuration
        or data set: each difference is named.
    """
    folder = Folder(Path(path))
    now = {
        "experiment": experiment,
        "config": dict(config),
        "data": fingerprint,
        "versions": versions(),
        "device": device(),
        "command": command,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if folder.record.exists():
        before = read(folder)
        _refuse_differences(folder, before, now)
        remarks = [
            f"{name} was {before[part].get(name)} when the run began and is {value} now: "
            "bits may differ"
            for part in ("versions", "device")
            for name, value in now[part].items()
            if before[part].get(name) != value
        ]
        if not folder.experiment.exists():  # killed between the record and the copy
            shutil.copyfile(source, folder.experiment)
        if folder.experiment.read_bytes() != source.read_bytes():
            remarks.append(
                f"{source} has changed since the run began (its copy is {folder.experiment})"
            )
        if before["config"].get("epochs", 0) < now["config"].get("epochs", 0):
            write_json(folder.record, {**before, "config": now["config"], "command": command})
        return folder, remarks
    if folder.path.exists():
        # A record half-written by a run that was killed at its start is no obstacle.
        is_free = folder.path.is_dir() and all(
            file.suffix == ".partial" for file in folder.path.iterdir()
        )
        if not is_free:
            raise ValueError(
                f"run_dir {str(path)!r} exists and is not a genmod run (it has no record.json); "
                "expected a new or empty folder"
            )
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.record, now)
        shutil.copyfile(source, folder.experiment)
    except OSError as error:
        raise ValueError(
            f"run_dir {str(path)!r} cannot be written: {error.strerror}; expected a folder that can"
        ) from error
    return folder, []


def read(folder: Folder) -> dict[str, Any]:
    """The record of a run.

    Raises:
      ValueError: if the folder is not that of a run, or its record cannot be read.
    """
    if not folder.record.is_file():
        raise ValueError(f"{str(folder.path)!r} is not a run folder: it has no record.json")
    try:
        content = json.loads(folder.record.read_text())
        wrong = [name for name, kind in _FIELDS.items() if not isinstance(content[name], kind)]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder.record} is damaged: {error!r}") from None
    if wrong:
        raise ValueError(f"{folder.record} is damaged: {', '.join(wrong)} has the wrong type")
    return content


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """The log points of a run, in order."""
    return [row for _, row in _rows(folder)]


def losses(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a log point says most: `loss`, or the losses of several players."""
    return {name: value for name, value in row.items() if name == "loss" or name.endswith("_loss")}


def read_evaluation(folder: Folder) -> dict[str, float]:
    """The numbers taken at the end of a run; none if it has not ended."""
    return json.loads(folder.evaluation.read_text()) if folder.evaluation.exists() else {}


class Log:
    """Writes log points to metrics.jsonl and to TensorBoard events, in step."""

    def __init__(self, folder: Folder, step: int):
        """Opens the log at a step; what an interrupted run wrote after it is cut off."""
        end = 0
        for end_of_row, row in _rows(folder):
            if row["step"] > step:
                break
            end = end_of_row
        self._file = folder.metrics.open("ab")
        self._file.truncate(end)
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        # Not SummaryWriter: it writes from a thread, and its flush does not wait for it. Files are
        # named by the second; the suffix keeps apart two that begin in the same one.
        folder.tensorboard.mkdir(exist_ok=True)
        self._events = EventsWriter(
            str(folder.tensorboard / "events"), filename_suffix=f".{time.time_ns()}"
        )
        # TensorBoard shall forget what an interrupted run wrote after this step.
        forget = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=forget))

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a log point, which must hold `step`."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in row.items()
            if name != "step"
        ]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        self._events.write_event(event)
        self._events.flush()

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()


def versions() -> dict[str, str]:
    """What the numbers depend on: Python and the packages that compute."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "genmod": genmod.__version__, **found}


def device() -> dict[str, Any]:
    """Where the numbers are computed."""
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen half-written."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


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
            row = json.loads(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{folder.metrics} is damaged: {line!r} is no log point") from None
        yield end, row


def _refuse_differences(folder: Folder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    old, new = before["config"], now["config"]
    differences = [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if name != "epochs" and old.get(name) != new.get(name)
    ]
    differences += [
        f"{name} is {before[name]!r} there and {now[name]!r} here"
        for name in ("experiment", "data")
        if before[name] != now[name]
    ]
    if differences:
        raise ValueError(
            f"run_dir {str(folder.path)!r} holds another run: {'; '.join(differences)}; "
            "expected the same, or another --run-dir"
        )
