"""The run folder: everything needed to judge a run, to continue it and to repeat it.

record.json      experiment, configuration, versions, device, settings of JAX, fingerprint of the
                 data and what is done with them, command and the folder where it was given, hashes
                 of the code, and the starts: from which step, how the log was to be taken, and
                 where the source lies that took the steps
experiment.py    a copy of the experiment file of the first start
sources/         copies of those that were another, with the modules beside them
                 (`genmod.runs.starts`)
metrics.jsonl    one line a log point: step, epoch, loss, its terms, examples_per_s where it could
                 be measured; "NaN", "Infinity" and "-Infinity" stand for such numbers
unlogged.json    a log point that a stopped run had not finished: the next start does
evaluation.json  numbers taken at the end
checkpoints/     what the run continues from
pictures/        PNG files
tensorboard/     the metrics once more, as TensorBoard events
replay/          pictures of the examples of a step that was replayed
lock, lock.json  held by the process that trains, and which that is
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import genmod
from genmod._host import disk, lock, machine
from genmod._host import source as sources
from genmod._host.disk import write_json
from genmod._host.source import Code
from genmod.runs import catalogue, configs, starts

_FIELDS = {
    "experiment": str,
    "config": dict,
    "data": str,
    "versions": dict,
    "device": dict,
    "command": str,
    "created": str,
}
# What records of earlier versions do not hold.
_OPTIONAL_FIELDS = {
    "seeds": int,
    "code": dict,
    "starts": list,
    "protocol": dict,
    "settings": dict,
    "directory": str,
    "source": str,
    "classes": list,
    "test_data": str,
}
RESERVED = ("step", "epoch", "seeds", "examples_per_s")
"""Names that the log itself uses; so does it those that end in `_se`, for standard errors."""
_SETTINGS = (
    *("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable"),
    *("jax_default_matmul_precision", "jax_random_seed_offset", "jax_numpy_dtype_promotion"),
    *("jax_allow_f16_reductions", "jax_softmax_custom_jvp", "jax_high_dynamic_range_gumbel"),
    *("jax_optimization_level", "jax_exec_time_optimization_effort", "jax_memory_fitting_level"),
    *("jax_disable_most_optimizations", "jax_use_shardy_partitioner", "jax_use_direct_linearize"),
)
_VARIABLES = ("NVIDIA_TF32_OVERRIDE", "LIBTPU_INIT_ARGS")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Folder:
    """The places in a run folder."""

    path: Path

    def __post_init__(self):
        object.__setattr__(self, "path", Path(self.path))  # a script may give its name

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
    def unlogged(self) -> Path:
        """A log point that a stopped run had not finished."""
        return self.path / "unlogged.json"

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
    def replay(self) -> Path:
        """The folder of pictures of replayed steps."""
        return self.path / "replay"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tensorboard"


def open_folder(
    path: str | Path,
    *,
    experiment: str,
    source: Path | Code,
    config: Mapping[str, Any],
    fingerprint: str,
    test_fingerprint: str = "",
    command: str,
    seeds: int = 1,
    protocol: Mapping[str, Any] | None = None,
    kind: type | None = None,
    classes: Sequence[str] = (),
) -> tuple[Folder, list[str]]:
    """Makes a run folder, or opens the one that the same run left behind.

    Args:
      path: the run folder.
      experiment: name of the experiment.
      source: the experiment file, as it was loaded or as it is now; it is copied, with the modules
        that it imports from its folder.
      config: the configuration as JSON holds it. `epochs` may differ from the folder's, and so may
        the places of data; what it has more than the folder's must be as it is by default.
      fingerprint: of the training data.
      test_fingerprint: of the test data, where there are some. Other ones are told: they change the
        numbers of the evaluation, not the run.
      command: how to start the run again.
      seeds: number of runs in one, the first of which has the configuration's seed.
      protocol: what is done with the data: how they are divided and prepared, as JSON holds it.
      kind: the class of the configuration, which knows defaults and places.
      classes: names of the data's classes, by label, where they have names.

    Returns:
      The folder, and remarks about it: what has changed since the run began that may change bits.

    Raises:
      ValueError: if the folder holds something else, or a run of another experiment, configuration
        or data set: each difference is named.
    """
    folder = Folder(Path(path))
    read_now = source if isinstance(source, Code) else sources.read(source)
    called = source.path if isinstance(source, Code) else source
    now = {
        "experiment": experiment,
        "config": dict(config),
        "seeds": seeds,
        "data": fingerprint,
        "protocol": dict(protocol or {}),
        **({"classes": list(classes)} if classes else {}),
        **({"test_data": test_fingerprint} if test_fingerprint else {}),
        "versions": versions(),
        "device": device(),
        "settings": settings(),
        "code": code(read_now),
        "source": starts.place(folder.path, read_now),
        "command": command,
        "directory": str(Path.cwd()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if folder.record.exists():
        before = read(folder)
        _refuse_differences(folder, before, now, kind)
        if not folder.experiment.exists():  # killed between the record and the copy
            starts.keep(folder.path, read_now)
        remarks = [
            *changes(before),
            *starts.changes(before, folder.path, read_now, called),
            *_moved(before, now, kind),
            *_tested_on_others(before, now),
        ]
        starts.keep(folder.path, read_now)
        _update(folder, before, now)
        return folder, remarks
    refuse_foreign(folder)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.record, now)
        starts.keep(folder.path, read_now)
    except OSError as error:
        raise ValueError(
            f"run_dir {str(path)!r} cannot be written: {error.strerror or error}; "
            "expected a folder that can"
        ) from error
    return folder, []


def _moved(before: Mapping[str, Any], now: Mapping[str, Any], kind: type | None) -> list[str]:
    """What a record lacks, and where data lay, that are known by their fingerprint."""
    if kind is None:
        return []
    added = configs.defaults(kind, before["config"])
    return [
        *(without(name, value) for name, value in added.items()),
        *(
            f"{name} was {value!r} when the run began and is {now['config'][name]!r} now: the same "
            "data, by their fingerprint"
            for name, value in before["config"].items()
            if name != "epochs" and now["config"][name] != value
        ),
    ]


def _tested_on_others(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    there, here = before.get("test_data"), now.get("test_data", "none")
    if there in (None, here):
        return []
    return [
        f"the test data were {there} when the run began and are {here} now: numbers of the "
        "evaluation differ"
    ]


def without(name: str, default: Any) -> str:
    """What to say of a field that a record lacks."""
    return f"the record has no {name}, which the experiment did not have then: it is {default!r}"


def _update(folder: Folder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Records a longer run, and where its data and its source lie now."""
    config = now["config"]
    longer = before["config"].get("epochs", 0) < config.get("epochs", 0)
    if not longer:
        kept = {name: v for name, v in before["config"].items() if name == "epochs"}
        config = {name: config.get(name) for name in before["config"]} | kept
    command = before["command"] if config == before["config"] else now["command"]
    places = {name: now[name] for name in ("source", "directory")}
    after = {**before, "config": config, "command": command, **places}
    if after != before:
        write_json(folder.record, after)


def refuse_foreign(folder: Folder) -> None:
    """Refuses a folder that holds something else than a run.

    Raises:
      ValueError: if it is neither a run, nor empty, nor yet to be made.
    """
    if folder.record.exists() or not folder.path.exists():
        return
    # A record half-written by a run that was killed at its start is no obstacle.
    is_free = folder.path.is_dir() and all(
        file.suffix == ".partial" or file.name in lock.FILES for file in folder.path.iterdir()
    )
    if not is_free:
        raise ValueError(
            f"run_dir {str(folder.path)!r} exists and is not a genmod run (it has no "
            "record.json); expected a new or empty folder"
        )


def changes(before: Mapping[str, Any]) -> list[str]:
    """What may change bits and is not as it was when a run with this record began."""
    from genmod.evaluate import digits

    now = {"versions": versions(), "device": device(), "settings": settings()}
    remarks = [
        f"{name} was {before[part].get(name)} when the run began and is {value} now: "
        "bits may differ"
        for part in now
        for name, value in now[part].items()
        if before.get(part, {}).get(name, value) != value
    ]
    recorded = before.get("code", {}).get("genmod")
    if recorded not in (None, package_hash()):
        remarks.append(
            f"genmod's code has changed since the run began (SHA-256 {recorded[:12]} then, "
            f"{package_hash()[:12]} now): bits may differ"
        )
    judge = before.get("code", {}).get("judge")
    if judge is not None and judge != (here := digits.fingerprint()):
        remarks.append(
            f"the judge of digits was {judge} when the run began and is {here} now: its scores "
            "differ"
        )
    return remarks


def note_start(folder: Folder, start: Mapping[str, Any]) -> None:
    """Adds a start of the run to its record; a folder that has none stays without.

    A start that takes no step is none, unless its source is another.

    Args:
      folder: of the run.
      start: `step`, from which it goes on; `num_steps`, where it ends; `log_every`; `compiled`,
        false where every operation is run on its own; `devices`, their number.
    """
    if not folder.record.exists():
        return
    content = read(folder)
    kept = content.get("source", starts.FIRST)
    if start["step"] >= start["num_steps"] and kept == starts.of_step(content):
        return
    noted = [*content.get("starts", []), {**start, "source": kept}]
    write_json(folder.record, {**content, "starts": noted})


def config_hash(folder: Folder) -> str:
    """SHA-256 of a run's configuration without its length, which may grow."""
    config = {name: value for name, value in read(folder)["config"].items() if name != "epochs"}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


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
        wrong += [
            name
            for name, kind in _OPTIONAL_FIELDS.items()
            if not isinstance(content.get(name, kind()), kind)
        ]
        if not all(isinstance(start["step"], int) for start in content.get("starts", [])):
            wrong.append("a step in starts")
    # RecursionError: JSON that is nested deeper than any that we write.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder.record} is damaged: {error!r}") from None
    if wrong:
        raise ValueError(f"{folder.record} is damaged: {', '.join(wrong)} has the wrong type")
    return content


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """The log points of a run, in order."""
    return [row for _, row in _rows(folder)]


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


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a log point, by name: what a logger gets."""
    return {name: value for name, value in row.items() if name not in ("step", "seeds")}


def versions() -> dict[str, str]:
    """What the numbers depend on: Python and the packages that compute."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "genmod": genmod.__version__, **found}


def code(source: Code) -> dict[str, str]:
    """Which code a run is: SHA-256 of genmod and of the experiment file, and where that lies.

    With the fingerprint of the judge of digits, which its scores depend on.
    """
    from genmod.evaluate import digits

    return {
        "genmod": package_hash(),
        "judge": digits.fingerprint(),
        "experiment": hashlib.sha256(source.files[source.path.name]).hexdigest(),
        "source": str(source.path),
    }


@functools.cache
def package_hash() -> str:
    """SHA-256 over the names and contents of genmod's own source files."""
    root = Path(genmod.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if catalogue.INSTALLED in path.relative_to(root).parts:
            continue  # in a clone they lie elsewhere, and each run has its own experiment's hash
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)};".encode() + content)
    return digest.hexdigest()


def device() -> dict[str, Any]:
    """Where the numbers are computed."""
    import jax

    devices = jax.devices()
    on_cpu = devices[0].platform == "cpu"  # where there are as many devices as one asks for
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        **({} if on_cpu else {"count": len(devices)}),
        "cores": machine.cores(),
        "machine": platform.machine(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def settings() -> dict[str, Any]:
    """Which of JAX's settings, and of the variables of its devices, change what is computed."""
    import jax

    known = getattr(jax.config, "values", {})
    values = {name: getattr(jax.config, name, known.get(name)) for name in _SETTINGS}
    found = {name: getattr(value, "value", value) for name, value in values.items()}
    return {**found, **{name: os.environ.get(name, "") for name in _VARIABLES}}


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


def _refuse_differences(
    folder: Folder, before: Mapping[str, Any], now: Mapping[str, Any], kind: type | None
) -> None:
    added = {} if kind is None else configs.defaults(kind, before["config"])
    old = configs.identity(kind, {**added, **before["config"]})
    new = configs.identity(kind, now["config"])
    differences = [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    differences += [
        f"{name} is {before.get(name, 1)!r} there and {now[name]!r} here"
        for name in ("experiment", "seeds", "data")
        if before.get(name, 1) != now[name]
    ]
    there, here = before.get("protocol", {}), now["protocol"]
    differences += [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted(there and there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise ValueError(
            f"run_dir {str(folder.path)!r} holds another run: {'; '.join(differences)}; "
            "expected the same, or another --run-dir"
        )
