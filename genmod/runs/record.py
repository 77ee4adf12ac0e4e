"""Run folders: made, reopened and recorded.

A run folder holds everything needed to judge a run, to continue it and to repeat it.

record.json      experiment, configuration, versions, device, settings of JAX, fingerprint of the
                 data and what is done with them, command and the folder where it was given, hashes
                 of the code, the starts: the first step of each, the interval of its log points,
                 and the path of the source that took its steps; and the goals, `until` and `best`,
                 if the experiment has any
experiment.py    a copy of the experiment file of the first start
sources/         copies of other experiment files that the run was started with, and of modules
                 beside them (`genmod.runs.kept_sources`)
metrics.jsonl    one line a log point: step, epoch, loss, its terms, examples_per_s if it could be
                 measured; the strings "NaN", "Infinity" and "-Infinity" stand for such numbers
unlogged.json    a log point that a stopped run left unfinished; the next start finishes it
evaluation.json  numbers taken at the end
checkpoints/     checkpoints from which the run continues
best/            checkpoint of the best log point, if the experiment says which is best
pictures/        PNG files
tensorboard/     the same metrics as TensorBoard events
replay/          pictures of the examples of a step that was replayed
lock, lock.json  the lock of the process that trains, and a description of that process
"""

import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import genmod
from genmod._host import environment
from genmod._host import source as sources
from genmod._host.disk import write_json
from genmod._host.source import Code
from genmod.runs import catalogue, configs, goals, kept_sources, naming
from genmod.runs.folder import Folder

_FIELDS = {
    "experiment": str,
    "config": dict,
    "data": str,
    "versions": dict,
    "device": dict,
    "command": str,
    "created": str,
}
# Records of earlier versions may lack these fields.
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
    "until": dict,
    "best": dict,
}
_GOALS = ("until", "best")


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
    aims: Mapping[str, Any] | None = None,
) -> tuple[Folder, list[str]]:
    """Makes a run folder, or reopens that of the same run.

    Args:
      path: the run folder.
      experiment: name of the experiment.
      source: the experiment file, as it was loaded or as it is now. It is copied, with the modules
        that it imports from its folder.
      config: the configuration in JSON form. `epochs` and the paths of data may differ from the
        folder's record. Fields that the record lacks must have their defaults.
      fingerprint: fingerprint of the training data.
      test_fingerprint: fingerprint of the test data, if there are any. Another one than in the
        record gives a remark: it changes the numbers of the evaluation, not the run.
      command: command that starts the run again.
      seeds: number of runs in the folder, the first of which has the configuration's seed.
      protocol: the way in which the data are divided and prepared, in JSON form.
      kind: class of the configuration, which knows its defaults and its paths of data.
      classes: names of the data's classes, by label, if they have names.
      aims: the goals `until` and `best`, in JSON form. Others than in the record replace those,
        with a remark.

    Returns:
      The folder, and remarks on changes since the run began that may change bits.

    Raises:
      ValueError: if the folder holds something else, or a run of another experiment, configuration
        or data set. The message names each difference.
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
        **(aims or {}),
        "versions": environment.versions(),
        "device": environment.device(),
        "settings": environment.settings(),
        "code": code(read_now),
        "source": kept_sources.place(folder.path, read_now),
        "command": command,
        "directory": str(Path.cwd()),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if folder.record.exists():
        return folder, _reopen(folder, now, read_now, called, kind)
    folder.refuse_foreign()
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_json(folder.record, now)
        kept_sources.keep(folder.path, read_now)
    except OSError as error:
        raise ValueError(
            f"run_dir {str(path)!r} cannot be written: {error.strerror or error}; "
            "expected a folder that can"
        ) from error
    return folder, []


def _reopen(
    folder: Folder,
    now: Mapping[str, Any],
    source: Code,
    called: str | Path,
    kind: type | None,
) -> list[str]:
    """Updates the record of a continued run; returns remarks."""
    before = read(folder)
    _refuse_differences(folder, before, now, kind)
    if not folder.experiment.exists():  # the run was killed between the record and the copy
        kept_sources.keep(folder.path, source)
    remarks = [
        *changes(before),
        *kept_sources.changes(before, folder.path, source, called),
        *_moved(before, now, kind),
        *_tested_on_others(before, now),
        *_other_goals(before, now),
    ]
    kept_sources.keep(folder.path, source)
    _update(folder, before, now)
    return remarks


def _moved(before: Mapping[str, Any], now: Mapping[str, Any], kind: type | None) -> list[str]:
    """Returns remarks on new fields and on moved data.

    Moved data are recognised by their fingerprint.
    """
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


def _other_goals(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    there, here = goals.from_json(before), goals.from_json(now)
    return [
        f"{name} was {old or 'none'} when the run began and is {new or 'none'} now"
        for name, old, new in zip(_GOALS, there, here, strict=True)
        if old != new
    ]


def without(name: str, default: Any) -> str:
    """Returns the remark on a field that a record lacks."""
    return f"the record has no {name}, which the experiment did not have then: it is {default!r}"


def _update(folder: Folder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Records a longer run, its present goals and its present paths.

    These are the paths of its data and of its source.
    """
    config = now["config"]
    longer = before["config"].get("epochs", 0) < config.get("epochs", 0)
    if not longer:
        kept = {name: v for name, v in before["config"].items() if name == "epochs"}
        config = {name: config.get(name) for name in before["config"]} | kept
    command = before["command"] if config == before["config"] else now["command"]
    present = {n: now[n] for n in ("source", "directory", *_GOALS) if n in now}
    kept = {name: value for name, value in before.items() if name not in _GOALS}
    after = {**kept, "config": config, "command": command, **present}
    if after != before:
        write_json(folder.record, after)


def changes(before: Mapping[str, Any]) -> list[str]:
    """Returns remarks on changes that may change bits.

    They are changes since the run with this record began.
    """
    from genmod.evaluate import judges

    now = {
        "versions": environment.versions(),
        "device": environment.device(),
        "settings": environment.settings(),
    }
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
    if judge is not None and judge != (here := judges.fingerprint()):
        remarks.append(
            f"the judge of digits was {judge} when the run began and is {here} now: its scores "
            "differ"
        )
    return remarks


def note_start(folder: Folder, start: Mapping[str, Any]) -> None:
    """Adds a start of the run to its record.

    A folder without a record stays without one. A start that takes no step is not added, unless its
    source differs from that of the last one.

    Args:
      folder: the run folder.
      start: entry with `step`, from which the start continues; `num_steps`, at which it ends;
        `log_every`; `compiled`, which is false if every operation is run on its own; `devices`,
        their number.
    """
    if not folder.record.exists():
        return
    content = read(folder)
    kept = content.get("source", kept_sources.FIRST)
    if start["step"] >= start["num_steps"] and kept == kept_sources.of_step(content):
        return
    noted = [*content.get("starts", []), {**start, "source": kept}]
    write_json(folder.record, {**content, "starts": noted})


def config_hash(folder: Folder) -> str:
    """Returns the SHA-256 of a run's configuration.

    The length of the run (`epochs`) is left out, as it may grow.
    """
    config = {name: value for name, value in read(folder)["config"].items() if name != "epochs"}
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def read(folder: Folder) -> dict[str, Any]:
    """Reads the record of a run.

    Raises:
      ValueError: if the folder does not hold a run, or its record cannot be read.
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
    # Python's json module raises RecursionError for JSON that is nested too deeply.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder.record} is damaged: {error!r}") from None
    if wrong:
        raise ValueError(f"{folder.record} is damaged: {', '.join(wrong)} has the wrong type")
    return content


def code(source: Code) -> dict[str, str]:
    """Returns what identifies the code of a run.

    This is the SHA-256 of genmod and of the experiment file, the path of that file, and the
    fingerprint of the judge of digits, on which the scores depend.
    """
    from genmod.evaluate import judges

    return {
        "genmod": package_hash(),
        "judge": judges.fingerprint(),
        "experiment": hashlib.sha256(source.files[source.path.name]).hexdigest(),
        "source": str(source.path),
    }


@functools.cache
def package_hash() -> str:
    """Returns the SHA-256 of genmod's own source files.

    It covers their names and contents.
    """
    root = Path(genmod.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if catalogue.INSTALLED in path.relative_to(root).parts:
            continue  # a clone has them elsewhere, and each run records the hash of its experiment
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)};".encode() + content)
    return digest.hexdigest()


def _refuse_differences(
    folder: Folder, before: Mapping[str, Any], now: Mapping[str, Any], kind: type | None
) -> None:
    added = {} if kind is None else configs.defaults(kind, before["config"])
    old = naming.identity(kind, {**added, **before["config"]})
    new = naming.identity(kind, now["config"])
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
