"""Recorded runs: an experiment file, trained in a run folder with a record."""

import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from genmod import data
from genmod._host import lock, source
from genmod.experiment import Experiment
from genmod.runs import configs, goals, naming, record, runner
from genmod.runs.folder import Folder


def train(
    module: ModuleType, config: Any, run_dir: str | Path | None = None, **options: Any
) -> runner.Outcome:
    """Trains an experiment in a recorded run folder, as `genmod train` does.

    The same call continues a run that was stopped. A folder that holds another run, or that another
    process uses, is refused.

    Args:
      module: the experiment file, as `catalogue.load` returns it.
      config: its `Config`.
      run_dir: run folder; runs/EXPERIMENT/ and a name made of the seed and the changed fields if
        None.
      **options: options of `runner.run`, such as `loggers`.

    Returns:
      The outcome of `runner.run`, with all its errors.

    Raises:
      ValueError: if the folder holds something else, or a run of another experiment, configuration
        or data set.
    """
    file = source.of(module).path
    path = Path(run_dir or Path("runs") / file.stem / naming.name(config))
    lock.refuse_running(path)
    configs.as_json(config)  # refuses, before any work, what cannot be recorded
    built = module.build(config)
    runner.check(built, config.seed)
    command = ["genmod", "train", str(file), *_flags(config), "--run-dir", str(path)]
    with opened(path, module, config, built, command=shlex.join(command)) as folder:
        return runner.run(built, folder, seed=config.seed, **options)


@contextlib.contextmanager
def opened(
    path: Path, module: ModuleType, config: Any, built: Experiment, *, command: str, seeds: int = 1
) -> Iterator[Folder]:
    """Makes or reopens the run folder of an experiment, and holds its lock.

    Prints what has changed since the run began.

    Args:
      path: path of the run folder.
      module: the experiment file, as `catalogue.load` returns it.
      config: its `Config`.
      built: the experiment that was built from it.
      command: command that starts the run again.
      seeds: number of runs in one program.
    """
    Folder(path).refuse_foreign()
    with lock.held(path):
        folder, remarks = record.open_folder(
            path,
            experiment=source.of(module).path.stem,
            source=source.of(module),
            config=configs.as_json(config),
            fingerprint=built.dataset.fingerprint,
            test_fingerprint=getattr(built.test, "fingerprint", ""),
            command=command,
            seeds=seeds,
            protocol=_protocol(config, built),
            kind=type(config),
            classes=built.dataset.classes,
            aims=goals.as_json(built),
        )
        for remark in remarks:
            print(f"note: {remark}", file=sys.stderr)
        yield folder


def _protocol(config: Any, built: Experiment) -> dict[str, Any]:
    """Returns what is done with the data, for the record."""
    of_source = config.protocol() if isinstance(config, data.Source) else {}
    held_out = built.dataset.held_out
    return {
        **of_source,
        **({"held_out": held_out} if held_out else {}),
        **data.describe(built.batch_at),
    }


def _flags(config: Any) -> Iterator[str]:
    """Yields the flags of the fields that differ from their defaults."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        known = configs.has_default(field) and configs.same(value, configs.default_of(field))
        flag = field.name.replace("_", "-")
        if known or not field.init:
            continue
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, tuple | list) else [value])
