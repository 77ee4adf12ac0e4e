"""Builds runs again from their folders."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genmod import checks, train
from genmod import experiment as experiments
from genmod.errors import DataError
from genmod.experiment import Experiment
from genmod.runs import catalogue, configs, record, runner, starts
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.types import Key, Keys


class Rebuilt(NamedTuple):
    """What a run folder holds, built again.

    Attributes:
      recorded: its record.
      config: its configuration.
      single: the experiment, as one run.
      whole: the experiment as it was trained, over its seeds, on one device.
      remarks: what is not as it was when the run began.
    """

    recorded: dict[str, Any]
    config: Any
    single: Experiment
    whole: Experiment
    remarks: Sequence[str] = ()


def rebuild(folder: Folder, step: int | None = None) -> Rebuilt:
    """Builds the experiment of a run again, from the copy in its folder.

    Paths in its configuration are those of the folder where the run was started, or of the working
    directory where that is gone.

    Args:
      folder: of the run.
      step: the step, counted from 1, for which it is wanted: an experiment that was edited is as it
        was in the start that took this step; in the last start if None.

    Raises:
      ValueError: if the folder is not that of a run, or does not fit together.
      DataError: if the data are not found.
    """
    recorded = record.read(folder)
    module = catalogue.load(folder.path / starts.of_step(recorded, step))
    config = configs.from_json(module.Config, recorded["config"])
    single = _built(module, config, recorded.get("directory"))
    whole = experiments.over(single, config.seed, recorded.get("seeds", 1))
    added = configs.defaults(module.Config, recorded["config"])
    remarks = [f"{folder.path}: {record.without(name, value)}" for name, value in added.items()]
    if step is None:
        remarks = [*starts.edited(recorded, folder.path), *remarks]
    return Rebuilt(recorded, config, single, whole, remarks)


def _built(module: Any, config: Any, directory: str | None) -> Experiment:
    """Builds an experiment where its run was started; or else here, as where data were moved."""
    places = [str(Path.cwd())]
    if directory is not None and Path(directory).is_dir():
        places = list(dict.fromkeys([directory, *places]))
    failed: list[Exception] = []
    for place in places:
        try:
            with contextlib.chdir(place):
                return module.build(configs.located(config, place))
        except (OSError, ValueError, DataError) as error:
            failed.append(error)
    first = failed[0]
    kind = ValueError if isinstance(first, ValueError) else DataError
    gone = directory is not None and directory not in places
    raise kind(
        f"{first} (sought in {' and in '.join(places)}"
        f"{f'; {directory}, where the run was started, is gone' if gone else ''})"
    ) from first


def load_run(path: str | Path, index: int = 0) -> tuple[Experiment, Any]:
    """Builds a run again and restores its newest checkpoint.

    Args:
      path: the run folder.
      index: which of the runs, where the folder holds several seeds.

    Returns:
      The experiment, as one run, and its state.

    Raises:
      ValueError: if the folder is not that of a run, or has no run of that index.
      CheckpointError: if no checkpoint can be restored.
      DataError: if the data are not found.
    """
    folder = Folder(Path(path))
    opened = rebuild(folder)
    say(opened.remarks)
    seeds = opened.whole.learner.seeds
    checks.index_of_run(index, seeds or 1)
    carry = checkpoint.restore(folder.checkpoints, runner.check(opened.whole, opened.config.seed))
    return opened.single, (carry if seeds is None else train.select_run(carry, index)).state


class Stages:
    """The experiments that took the steps of a run: several, where it was edited between starts."""

    def __init__(self, folder: Folder, opened: Rebuilt):
        """Of a run that has been opened."""
        self._folder, self._recorded = folder, opened.recorded
        self._built = {starts.of_step(opened.recorded): opened}

    def at(self, step: int) -> Rebuilt:
        """The experiment that took a step, counted from 1."""
        where = starts.of_step(self._recorded, step)
        if where not in self._built:
            self._built[where] = rebuild(self._folder, step)
        return self._built[where]

    def advance(
        self, key: Key | Keys, carry: train.Carry, num_steps: int, *, compiled: bool = True
    ) -> train.Carry:
        """So many steps further, each as it was taken: see `train.advance`."""
        at = int(carry.step)
        begins = [start["step"] for start in self._recorded.get("starts", [])]
        end = at + num_steps
        for until in sorted({step for step in [*begins, end] if at < step <= end}):
            whole = self.at(at + 1).whole
            carry = train.advance(
                whole.learner, key, whole.batch_at, carry, until - at, compiled=compiled
            )
            at = until
        return carry


def say(remarks: Sequence[str]) -> None:
    """Prints remarks about runs, for the person at the terminal."""
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr, flush=True)
