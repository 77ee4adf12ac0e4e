"""Runs rebuilt from their folders."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genmod import checks, train
from genmod.errors import DataError
from genmod.experiment import Experiment
from genmod.runs import catalogue, configs, goals, kept_sources, naming, record, runner, several
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.types import Key, Keys


class Rebuilt(NamedTuple):
    """Run that was rebuilt from its folder.

    Attributes:
      recorded: its record.
      config: its configuration.
      single: the experiment as a single run.
      whole: the experiment as it was trained, over its seeds, but on one device.
      remarks: changes since the run began.
    """

    recorded: dict[str, Any]
    config: Any
    single: Experiment
    whole: Experiment
    remarks: Sequence[str] = ()


def rebuild(folder: Folder, step: int | None = None) -> Rebuilt:
    """Rebuilds the experiment of a run from the copy in its folder.

    Paths in its configuration are relative to the folder where the run was started, or to the
    working directory if the data are not found there.

    Args:
      folder: the run folder.
      step: a step, counted from 1. If the experiment was edited between starts, the source of the
        start that took this step is used, or that of the last start if None.

    Raises:
      ValueError: if the folder does not hold a run, or its parts do not fit together.
      DataError: if the data are not found.
    """
    recorded = record.read(folder)
    module = catalogue.load(folder.path / kept_sources.of_step(recorded, step))
    config = configs.from_json(module.Config, recorded["config"])
    single = _built(module, config, recorded.get("directory"))
    whole = several.over(single, config.seed, recorded.get("seeds", 1))
    added = configs.defaults(module.Config, recorded["config"])
    remarks = [f"{folder.path}: {record.without(name, value)}" for name, value in added.items()]
    if step is None:
        remarks = [*kept_sources.edited(recorded, folder.path), *remarks]
    return Rebuilt(recorded, config, single, whole, remarks)


def _built(module: Any, config: Any, directory: str | None) -> Experiment:
    """Builds an experiment in the folder where its run was started.

    If that fails, as after data were moved, it is built in the working directory.
    """
    places = [str(Path.cwd())]
    if directory is not None and Path(directory).is_dir():
        places = list(dict.fromkeys([directory, *places]))
    failed: list[Exception] = []
    for place in places:
        try:
            with contextlib.chdir(place):
                return module.build(naming.located(config, place))
        except (OSError, ValueError, DataError) as error:
            failed.append(error)
    first = failed[0]
    kind = ValueError if isinstance(first, ValueError) else DataError
    gone = directory is not None and directory not in places
    raise kind(
        f"{first} (sought in {' and in '.join(places)}"
        f"{f'; {directory}, where the run was started, is gone' if gone else ''})"
    ) from first


def load_run(path: str | Path, index: int = 0, *, best: bool = False) -> tuple[Experiment, Any]:
    """Rebuilds a run and restores its newest checkpoint, or its best.

    Args:
      path: the run folder.
      index: index of the run, from 0, if the folder holds several seeds.
      best: whether to restore the checkpoint of the best log point, as `Experiment.best` says,
        rather than the newest. The experiment is then that which took this step.

    Returns:
      The experiment as a single run, and its state.

    Raises:
      ValueError: if the folder does not hold a run, has no run of that index, or keeps no best
        checkpoint.
      CheckpointError: if no checkpoint can be restored.
      DataError: if the data are not found.
    """
    loaded = load_runs(path, index, best=best)
    return loaded.built, loaded.states[0]


class Loaded(NamedTuple):
    """Runs of a folder with their trained states.

    Attributes:
      built: the experiment, as a single run.
      states: state of each run.
      step: training step of the states.
    """

    built: Experiment
    states: list[Any]
    step: int


def load_runs(path: str | Path, index: int | None = None, *, best: bool = False) -> Loaded:
    """Rebuilds runs and restores their newest checkpoint, or their best.

    Args:
      path: the run folder.
      index: index of a run, from 0, if the folder holds several seeds; None for all of them.
      best: whether to restore the best checkpoint, as for `load_run`.

    Raises:
      ValueError, CheckpointError, DataError: as `load_run` does.
    """
    folder = Folder(Path(path))
    step = _best_step(folder) if best else None
    opened = rebuild(folder, step)
    say(opened.remarks)
    if step is not None:
        say([f"{folder.path}: the state of step {step:,}, {goals.from_json(opened.recorded)[1]}"])
    seeds = opened.whole.learner.seeds
    if index is not None:
        checks.index_of_run(index, seeds or 1)
    shapes = runner.check(opened.whole, opened.config.seed)
    carry = checkpoint.restore(folder.best if best else folder.checkpoints, shapes)
    chosen = range(seeds or 1) if index is None else [index]
    states = [(carry if seeds is None else train.select_run(carry, i)).state for i in chosen]
    return Loaded(opened.single, states, int(carry.step))


def _best_step(folder: Folder) -> int:
    """Returns the step of a run's best checkpoint.

    Raises:
      ValueError: if there is none.
    """
    keeps = "best" in record.read(folder)
    saved = checkpoint.steps(folder.best)
    if keeps and saved:
        return saved[-1]
    why = (
        "has none yet: it is saved at the first log point that holds the number of its goal"
        if keeps
        else "keeps none: its experiment does not say which is best (Experiment.best)"
    )
    raise ValueError(f"best needs a checkpoint of the best log point, and {folder.path} {why}")


class Stages:
    """Experiments that took the steps of a run.

    There are several if the experiment file was edited between starts.
    """

    def __init__(self, folder: Folder, opened: Rebuilt):
        """Takes a run that was rebuilt."""
        self._folder, self._recorded = folder, opened.recorded
        self._built = {kept_sources.of_step(opened.recorded): opened}

    def at(self, step: int) -> Rebuilt:
        """Returns the experiment that took a step, counted from 1."""
        where = kept_sources.of_step(self._recorded, step)
        if where not in self._built:
            self._built[where] = rebuild(self._folder, step)
        return self._built[where]

    def advance(
        self, key: Key | Keys, carry: train.Carry, num_steps: int, *, compiled: bool = True
    ) -> train.Carry:
        """Takes further steps, as `train.advance` does.

        Each step is taken by the experiment that took it in the run.
        """
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
    """Prints remarks about runs to standard error."""
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr, flush=True)
