"""Training of an experiment in a run folder.

It takes care of the log, the checkpoints, the observations, the pictures and the progress bar.
"""

import contextlib
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax

from genmod import data, devices, rng, train
from genmod._host import cluster, disk, terminal
from genmod._host.stop import Cut, Phase, Stop
from genmod.errors import DataError
from genmod.experiment import Experiment
from genmod.runs import ending, logs, record
from genmod.runs.folder import Folder
from genmod.runs.progress import Progress
from genmod.runs.watch import Watch
from genmod.train import checkpoint
from genmod.types import Key, Keys


class Outcome(NamedTuple):
    """End of a run, or of one of its starts.

    Attributes:
      step: number of steps taken.
      signal: the signal that stopped the run; None if it was finished.
    """

    step: int
    signal: int | None


def run(
    experiment: Experiment,
    folder: Folder,
    *,
    seed: int,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    compiled: bool = True,
    progress: bool = True,
    stop: Stop | None = None,
    loggers: Sequence[logs.Logger] = (),
) -> Outcome:
    """Trains an experiment from its newest checkpoint to its end.

    An observation, a picture or a logger that fails during training gives a warning, and training
    goes on. If the evaluation or a picture fails at the end, everything else is done first.

    Args:
      experiment: the experiment to run.
      folder: its run folder, made if it does not exist. The caller holds its lock.
      seed: root of all keys.
      log_every: steps between log points; one epoch if None.
      checkpoint_every: steps between checkpoints, which are written at the next log point; five
        epochs if None.
      keep: number of checkpoints to keep.
      compiled: whether to compile the steps. False runs every operation on its own, for debugging.
      progress: whether to show a progress bar, or a line for each log point without a terminal.
      stop: listener to signals; by default the run starts its own.
      loggers: functions `(step, values)` that receive each log point once it is in the log, such as
        `lambda step, values: wandb.log(values, step=step)`.

    Raises:
      train.NonFiniteError: when training diverges; the last good state has been saved.
      DataError: if streamed data cannot be read any more; the last log point is saved.
      CheckpointError: if every checkpoint is damaged, or the newest holds another model.
      DiskError: if the disk cannot be written; the last checkpoint is unchanged.
      Stopped: if a signal comes when there is nothing to save.
    """
    every = _Intervals(
        log_every or experiment.steps_per_epoch,
        checkpoint_every or 5 * experiment.steps_per_epoch,
        keep,
    )
    key = keys(experiment, seed)
    with terminal.guarded(), stop or Stop() as stop:
        # 1. Go back to the newest intact checkpoint, and cut the log back to it.
        newest = checkpoint.restore_newest(folder.checkpoints, check(experiment, seed))
        at, carry = (newest.step, newest.tree) if newest else (0, None)
        _announce(experiment, folder, at, newest.remarks if newest else ())
        with _Session(experiment, folder, key, at, every, stop, loggers, progress) as session:
            session.finish_log_point(carry)
            _note_start(experiment, folder, at, every.log, compiled)
            # 2. Train. Calls of the compiled program are followed only by the bar and the check for
            #    signals; everything else happens at log points.
            points = train.run(
                experiment.learner,
                key,
                experiment.batch_at,
                num_steps=experiment.num_steps,
                log_every=every.log,
                carry=carry,
                compiled=compiled,
                on_call=session.on_call,
            )
            try:
                for point in points:
                    at, carry = point.step, point.carry
                    if not session.log(point) or session.save_and_stop(point):
                        break
            except train.NonFiniteError as error:
                session.save(error.step - 1, error.carry)
                raise
            except DataError:  # streamed data cannot be read any more
                if carry is not None and at != session.last_saved:
                    session.save(at, carry)
                raise
        number = devices.agree(stop.signal or 0)
        if number:
            return Outcome(at, number)
        # 3. Evaluate and draw. A signal saves nothing more: the same command does the rest.
        assert carry is not None
        stop.phase = Phase.NOTHING_TO_SAVE
        state = carry.state if experiment.learner.mesh is None else devices.local(carry.state)
        if cluster.leads():
            ending.finish(experiment, folder, key, state)
    return Outcome(at, None)


def keys(experiment: Experiment, seed: int) -> Key | Keys:
    """Returns the key of a run.

    A run over several seeds has an array of keys.
    """
    key = rng.root(seed)
    seeds = experiment.learner.seeds
    return key if seeds is None else rng.of_seeds(key, seeds)


def check(experiment: Experiment, seed: int) -> train.Carry:
    """Checks that the parts of an experiment fit together.

    Nothing is computed.

    Returns:
      The shapes and types of what its run carries.

    Raises:
      ValueError: if seed is not a valid seed, the parts do not fit together, or a metric has a name
        that the log itself uses.
    """
    shapes = train.abstract_carry(experiment.learner, keys(experiment, seed), experiment.batch_at)
    for name in shapes.totals:
        if logs.is_reserved(name):
            raise ValueError(
                f"the metric {name!r} has a name that the log itself uses; expected none of "
                f"{', '.join(logs.RESERVED)}, and none that ends in _se: call it otherwise, such "
                f"as {logs.renamed(name)!r}"
            )
    return shapes


def log_row(experiment: Experiment, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of a log point.

    Timings and observations are not in it.
    """
    values = logs.summary({**logs.losses(metrics), **metrics})
    return {"step": step, "epoch": experiment.epoch(step), **values}


class _Intervals(NamedTuple):
    """Intervals at which a run is logged and saved.

    Attributes:
      log: steps between log points.
      checkpoint: steps between checkpoints.
      keep: number of checkpoints to keep.
    """

    log: int
    checkpoint: int
    keep: int


class _Session:
    """Start of a run: log, bar, observations and checkpoints.

    Attributes:
      last_saved: step of the newest checkpoint.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Folder,
        key: Key | Keys,
        step: int,
        every: _Intervals,
        stop: Stop,
        loggers: Sequence[logs.Logger],
        progress: bool,
    ):
        self._experiment, self._folder, self._every, self._stop = experiment, folder, every, stop
        self._leads = cluster.leads()
        self._loggers = loggers if self._leads else ()
        self._watch = Watch(experiment, folder, rng.stream(key, "observe"), every.log)
        recorded = self._leads and folder.record.exists()
        self._config_hash = record.config_hash(folder) if recorded else None
        self._log = logs.Log(folder, step) if self._leads else None
        self._bar = Progress(experiment, step, progress and self._leads)
        self._first = self.last_saved = step

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._log is not None:
            self._log.close()

    def on_call(self, step: int) -> bool:
        """Updates the bar after a call of the program.

        Returns True, which ends the run, if a signal has come.
        """
        self._stop.phase = Phase.STEPPING
        self._bar.reached(step)
        return self._stop.signal is not None

    def finish_log_point(self, carry: train.Carry | None) -> None:
        """Writes the log point that a stopped run left unfinished."""
        row = logs.read_unlogged(self._folder, self._first) if self._leads else None
        if devices.agree(row is not None) and carry is not None:
            row = row or {}
            self._write(logs.joined(row, self._watch.look(self._first, carry.state, row)))
        if self._leads:
            self._folder.unlogged.unlink(missing_ok=True)

    def log(self, point: train.LogPoint) -> bool:
        """Logs a log point with its observation.

        Returns False if a signal cut the observation short. The log point is then saved beside the
        checkpoint, and the next start takes the observation again.
        """
        if not point.metrics:
            return True
        row = log_row(self._experiment, point.step, point.metrics)
        if self._bar.rate is not None:
            row["examples_per_s"] = self._bar.rate
        self._bar.log_point(row)
        save = functools.partial(self.save, point.step, point.carry, row)
        # Several processes wait for each other, so their observations are not cut short.
        alone = jax.process_count() == 1
        try:
            with self._stop.looking(save) if alone else contextlib.nullcontext():
                seen = self._watch.look(point.step, point.state, row)
        except Cut:
            save()
            return False
        self._write(logs.joined(row, seen))
        return True

    def save_and_stop(self, point: train.LogPoint) -> bool:
        """Saves a log point that is due, or after a signal.

        Returns True if the run is to end.
        """
        due = point.step - self.last_saved >= self._every.checkpoint
        due = due or point.step == self._experiment.num_steps
        if due or devices.agree(self._stop.signal or 0):
            self.save(point.step, point.carry)
        # Signals are checked again, as one may have come during the save.
        stops = self.last_saved == point.step and bool(devices.agree(self._stop.signal or 0))
        if not stops:
            self._bar.resume(point.step)
        return stops

    def save(self, step: int, carry: train.Carry, unlogged: Mapping[str, Any] | None = None) -> int:
        """Writes a checkpoint; returns its step."""
        if unlogged is not None:  # written first: a checkpoint without it would lose the log point
            disk.write_json(self._folder.unlogged, unlogged)
        if self._log is not None:
            self._log.sync()
        checkpoint.save(
            self._folder.checkpoints,
            step,
            carry,
            keep=self._every.keep,
            config_hash=self._config_hash,
        )
        self.last_saved = step
        return step

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(row)
        for logger in self._loggers:
            self._watch.tell(logger, row)


def _announce(experiment: Experiment, folder: Folder, step: int, remarks: Sequence[str]) -> None:
    """Makes the run folder and prints what will happen."""
    if cluster.leads():
        with disk.writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        print(_first_line(experiment, folder, step), flush=True)
        if where := data.placement(experiment.batch_at):
            print(f"data: {where}", flush=True)
    for remark in remarks:
        print(f"warning: {remark}", file=sys.stderr, flush=True)


def _first_line(experiment: Experiment, folder: Folder, step: int) -> str:
    total = f"{experiment.num_steps:,} steps ({experiment.epochs:g} epochs)"
    reached = f"step {step:,} (epoch {experiment.epoch(step):g})"
    if step >= experiment.num_steps:
        return f"{folder.path}: already trained, to {reached} of {total}"
    if step:
        return f"{folder.path}: continuing at {reached} of {total}"
    return f"{folder.path}: a new run of {total}"


def _note_start(
    experiment: Experiment, folder: Folder, step: int, log_every: int, compiled: bool
) -> None:
    """Notes a start of the run in its record."""
    if not cluster.leads():
        return
    mesh = experiment.learner.mesh
    start = {
        "step": step,
        "num_steps": experiment.num_steps,
        "log_every": log_every,
        "compiled": compiled,
        "devices": 1 if mesh is None else mesh.size,
    }
    record.note_start(folder, start)
