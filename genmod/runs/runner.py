"""Trains an experiment in a run folder: log, checkpoints, observations, pictures, progress."""

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
    """The end of a run, or of one of its starts.

    Attributes:
      step: number of steps taken.
      signal: the signal that stopped it; None if it was finished.
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
    """Trains an experiment to its end, from the newest checkpoint in its folder.

    Observations, pictures and loggers that fail in training are warned of, and training goes on. If
    the evaluation or a picture fails at the end, all the rest is done first.

    Args:
      experiment: the experiment to run.
      folder: its run folder, made if it is not there; the caller holds its lock.
      seed: root of all keys.
      log_every: steps between log points; those of an epoch if None.
      checkpoint_every: steps between checkpoints, taken at the next log point; those of five epochs
        if None.
      keep: number of checkpoints to keep.
      compiled: False runs every operation on its own, for debugging.
      progress: show a progress bar, or a line for each log point if there is no terminal.
      stop: listener to signals; by default a run listens for itself.
      loggers: functions `(step, values)` that are given each log point once it is in the log, such
        as `lambda step, values: wandb.log(values, step=step)`.

    Raises:
      train.NonFiniteError: when training diverges; the last good state has been saved.
      DataError: if streamed data cannot be read any more; the last log point is saved.
      CheckpointError: if every checkpoint is damaged, or the newest holds another model.
      DiskError: if the disk takes no more; the last checkpoint is as it was.
      Stopped: by a signal that finds nothing to save.
    """
    every = _Intervals(
        log_every or experiment.steps_per_epoch,
        checkpoint_every or 5 * experiment.steps_per_epoch,
        keep,
    )
    key = keys(experiment, seed)
    with terminal.guarded(), stop or Stop() as stop:
        # 1. Go back to the newest intact checkpoint, and cut the log back to it.
        found = checkpoint.restore_newest(folder.checkpoints, check(experiment, seed))
        at, carry = (found.step, found.tree) if found else (0, None)
        _announce(experiment, folder, at, found.remarks if found else ())
        with _Session(experiment, folder, key, at, every, stop, loggers, progress) as session:
            session.finish_log_point(carry)
            _note_start(experiment, folder, at, every.log, compiled)
            # 2. Train. Between calls of the compiled program only the bar and the signals are
            #    served; all else happens at log points.
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
            except DataError:  # what is streamed cannot be read any more
                if carry is not None and at != session.last_saved:
                    session.save(at, carry)
                raise
        number = devices.agree(stop.signal or 0)
        if number:
            return Outcome(at, number)
        # 3. Evaluate and draw. A signal saves nothing more: the same command does what is left.
        assert carry is not None
        stop.phase = Phase.NOTHING_TO_SAVE
        state = carry.state if experiment.learner.mesh is None else devices.local(carry.state)
        if cluster.leads():
            ending.finish(experiment, folder, key, state)
    return Outcome(at, None)


def keys(experiment: Experiment, seed: int) -> Key | Keys:
    """Returns the key of a run, or those of its runs if it is over seeds."""
    key = rng.root(seed)
    seeds = experiment.learner.seeds
    return key if seeds is None else rng.of_seeds(key, seeds)


def check(experiment: Experiment, seed: int) -> train.Carry:
    """Checks that the parts of an experiment fit together; nothing is computed.

    Returns:
      What its run carries, as shapes and types.

    Raises:
      ValueError: if seed is not a seed, the parts do not fit together, or a metric has a name that
        the log itself uses.
    """
    found = train.abstract_carry(experiment.learner, keys(experiment, seed), experiment.batch_at)
    for name in found.totals:
        if logs.is_reserved(name):
            raise ValueError(
                f"the metric {name!r} has a name that the log itself uses; expected none of "
                f"{', '.join(logs.RESERVED)}, and none that ends in _se: call it otherwise, such "
                f"as {logs.renamed(name)!r}"
            )
    experiment.check_batch_size()
    return found


def log_row(experiment: Experiment, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the log holds of a log point, apart from timings and observations."""
    values = logs.summary({**logs.losses(metrics), **metrics})
    return {"step": step, "epoch": experiment.epoch(step), **values}


class _Intervals(NamedTuple):
    """How often a run is logged and saved.

    Attributes:
      log: steps between log points.
      checkpoint: steps between checkpoints.
      keep: number of checkpoints to keep.
    """

    log: int
    checkpoint: int
    keep: int


class _Session:
    """One start of a run: its log, its bar, its observations and its checkpoints.

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
        """Serves the bar and the signals after a call of the program; true ends the run."""
        self._stop.phase = Phase.STEPPING
        self._bar.reached(step)
        return self._stop.signal is not None

    def finish_log_point(self, carry: train.Carry | None) -> None:
        """Writes the log point that a stopped run had not finished, if there is one."""
        row = logs.read_unlogged(self._folder, self._first) if self._leads else None
        if devices.agree(row is not None) and carry is not None:
            row = row or {}
            self._write(logs.joined(row, self._watch.look(self._first, carry.state, row)))
        if self._leads:
            self._folder.unlogged.unlink(missing_ok=True)

    def log(self, point: train.LogPoint) -> bool:
        """Logs a log point with its observation; False if a signal cut the observation short.

        What it had not seen is seen by the next start: the log point is saved beside the
        checkpoint.
        """
        if not point.metrics:
            return True
        row = log_row(self._experiment, point.step, point.metrics)
        if self._bar.rate is not None:
            row["examples_per_s"] = self._bar.rate
        self._bar.log_point(row)
        save = functools.partial(self.save, point.step, point.carry, row)
        # Several processes wait for each other: there no observation is cut short.
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
        """Saves a log point if its time has come, or a signal; true if the run is to end."""
        due = point.step - self.last_saved >= self._every.checkpoint
        due = due or point.step == self._experiment.num_steps
        if due or devices.agree(self._stop.signal or 0):
            self.save(point.step, point.carry)
        # Asked again: the signal may have come while it was saved.
        stops = self.last_saved == point.step and bool(devices.agree(self._stop.signal or 0))
        if not stops:
            self._bar.resume(point.step)
        return stops

    def save(self, step: int, carry: train.Carry, unlogged: Mapping[str, Any] | None = None) -> int:
        """Writes a checkpoint; returns its step."""
        if unlogged is not None:  # first: a checkpoint without it would lose the log point
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
    """Makes the run folder and says what is about to happen."""
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
