"""Training of an experiment in a run folder.

It takes care of the log, the checkpoints, the observations, the pictures and the progress bar.
"""

import contextlib
import functools
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax

from genmod import data, devices, rng, train
from genmod._host import cluster, disk, terminal
from genmod._host.stop import Cut, Phase, Stop
from genmod.errors import DataError
from genmod.experiment import Experiment
from genmod.runs import ending, goals, logs, record
from genmod.runs.folder import Folder
from genmod.runs.progress import Progress
from genmod.runs.watch import Watch
from genmod.train import checkpoint
from genmod.types import Key, Keys


class Outcome(NamedTuple):
    """End of a run, or of one of its starts.

    Attributes:
      step: number of steps taken.
      signal: the signal that stopped the run; None if it was finished, by its patience or not.
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

    A run may end before, by the patience of `Experiment.until`. If `Experiment.best` is given, the
    checkpoint of the best log point is kept in a folder of its own.

    An observation, a picture or a logger that fails during training gives a warning, and training
    goes on. A validation that fails ends it with its error, once the run is saved: what it gives
    may decide. If the evaluation or a picture fails at the end, everything else is done first.

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
      ValueError: if the parts of the experiment do not fit together, its validation does not give
        numbers by name, or it has a goal whose number is not logged.
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
        shapes = check(experiment, seed)
        newest = checkpoint.restore_newest(folder.checkpoints, shapes)
        at, carry = (newest.step, newest.tree) if newest else (0, None)
        standing = _standing(experiment, folder, at)
        _announce(experiment, folder, at, newest.remarks if newest else (), standing.ended)
        with _Session(
            experiment, folder, key, at, every, stop, loggers, progress, standing
        ) as session:
            if experiment.validate is not None and carry is None:
                carry = train.start(experiment.learner, key, experiment.batch_at)
            session.check(carry, shapes.totals)
            session.finish_log_point(carry)
            end = at if session.ended else experiment.num_steps
            _note_start(experiment, folder, at, end, every.log, compiled)
            # 2. Train. Calls of the compiled program are followed only by the bar and the check for
            #    signals; everything else happens at log points.
            points = train.run(
                experiment.learner,
                key,
                experiment.batch_at,
                num_steps=end,
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
      ValueError: if seed is not a valid seed, the parts do not fit together, a metric has a name
        that the log itself uses, or metrics are all that is logged and a goal names none of them.
    """
    shapes = train.abstract_carry(experiment.learner, keys(experiment, seed), experiment.batch_at)
    for name in shapes.totals:
        if logs.is_reserved(name):
            raise ValueError(
                f"the metric {name!r} has a name that the log itself uses; expected none of "
                f"{', '.join(logs.RESERVED)}, and none that ends in _se: call it otherwise, such "
                f"as {logs.renamed(name)!r}"
            )
    if experiment.validate is None and experiment.observe is None:
        goals.refuse_unknown(experiment, shapes.totals)
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
      ended: whether the run has ended by its patience.
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
        standing: goals.Standing,
    ):
        self._experiment, self._folder, self._every, self._stop = experiment, folder, every, stop
        self._leads = cluster.leads()
        self._loggers = loggers if self._leads else ()
        self._watch = Watch(experiment, folder, key, every.log)
        recorded = self._leads and folder.record.exists()
        self._config_hash = record.config_hash(folder) if recorded else None
        self._log = logs.Log(folder, step) if self._leads else None
        self._standing = standing
        self._bar = Progress(experiment, step, progress and self._leads)
        self._first = self.last_saved = step
        self._decide(step)

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

    def check(self, carry: train.Carry | None, metrics: Iterable[str]) -> None:
        """Checks what the run will log, before its first step."""
        goes_on = not self.ended and self._first < self._experiment.num_steps
        state = carry.state if carry is not None and goes_on else None
        self._watch.check(state, metrics, self._standing.logged)

    def finish_log_point(self, carry: train.Carry | None) -> None:
        """Completes the log point at which a stopped run was saved."""
        row = logs.read_unlogged(self._folder, self._first) if self._leads else None
        if devices.agree(row is not None) and carry is not None:
            self._write(self._seen(self._first, carry.state, row or {}))
        if self._leads:
            self._folder.unlogged.unlink(missing_ok=True)
        if carry is not None and self._is_best:  # the run may have been killed between two saves
            self._save_best(self._first, carry)

    def log(self, point: train.LogPoint) -> bool:
        """Logs a log point with its validation and its observation.

        Returns False if a signal cut these short. The log point is then saved beside the
        checkpoint, and the next start takes them again.
        """
        self._is_best = False
        if not point.metrics:
            return True
        row = log_row(self._experiment, point.step, point.metrics)
        if self._bar.rate is not None:
            row["examples_per_s"] = self._bar.rate
        save = functools.partial(self.save, point.step, point.carry, row)
        # Several processes wait for each other, so their observations are not cut short.
        alone = jax.process_count() == 1
        try:
            with self._stop.looking(save) if alone else contextlib.nullcontext():
                row = self._seen(point.step, point.state, row)
        except Cut:
            save()
            return False
        except Exception:  # the validation failed
            if alone:
                save()
            raise
        self._write(row)
        return True

    def _seen(self, step: int, state: Any, row: dict[str, Any]) -> dict[str, Any]:
        """Returns the row of a log point with its validation and its observation."""
        row = logs.joined(row, self._watch.validate(step, state, row))
        self._bar.log_point(row)
        return logs.joined(row, self._watch.look(step, state, row))

    def save_and_stop(self, point: train.LogPoint) -> bool:
        """Saves a log point that is due, or after a signal.

        Returns True if the run is to end.
        """
        due = point.step - self.last_saved >= self._every.checkpoint
        due = due or point.step == self._experiment.num_steps
        # No checkpoint is older than the best, so a run never goes back to before that.
        due = due or self._is_best or self.ended
        if due or devices.agree(self._stop.signal or 0):
            self.save(point.step, point.carry)
        if self._is_best:
            self._save_best(point.step, point.carry)
        # Signals are checked again, as one may have come during the save.
        stops = self.last_saved == point.step and bool(devices.agree(self._stop.signal or 0))
        if not stops:
            self._bar.resume(point.step)
        return stops or self.ended

    def save(self, step: int, carry: train.Carry, unlogged: Mapping[str, Any] | None = None) -> int:
        """Writes a checkpoint; returns its step."""
        if unlogged is not None:  # written first: a checkpoint without it would lose the log point
            disk.write_json(self._folder.unlogged, unlogged)
        if self._log is not None:
            self._log.sync()
        kept = {"keep": self._every.keep, "config_hash": self._config_hash}
        checkpoint.save(self._folder.checkpoints, step, carry, **kept)
        self.last_saved = step
        return step

    def _save_best(self, step: int, carry: train.Carry) -> None:
        checkpoint.save(self._folder.best, step, carry, keep=1, config_hash=self._config_hash)

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.write(row)
            self._standing.add(row)
        self._decide(row.get("step", 0))
        if self._standing.ended is not None:
            self._bar.say(str(self._standing.ended))
        for logger in self._loggers:
            self._watch.tell(logger, row)

    def _decide(self, step: int) -> None:
        """Notes whether a log point is the best and the last.

        The leader alone has the log, and all processes follow it.
        """
        self._is_best = bool(devices.agree(0 < step == self._standing.best.step))
        self.ended = bool(devices.agree(self._standing.ended is not None))


def _standing(experiment: Experiment, folder: Folder, step: int) -> goals.Standing:
    """Returns how far a run has got with its goals at its newest checkpoint.

    A best checkpoint that is not that of the log is removed: the goal was another, or the newest
    checkpoint was damaged and the run will come to that step again.
    """
    if not cluster.leads():
        return goals.Standing(experiment.until, experiment.best)
    rows = [row for row in logs.read_metrics(folder) if row["step"] <= step]
    standing = goals.Standing(experiment.until, experiment.best, rows)
    checkpoint.clean(folder.best)
    saved = checkpoint.steps(folder.best)
    if experiment.best is not None and saved and saved[-1] != standing.best.step:
        shutil.rmtree(folder.best)
    return standing


def _announce(
    experiment: Experiment,
    folder: Folder,
    step: int,
    remarks: Sequence[str],
    ended: goals.Ended | None,
) -> None:
    """Makes the run folder and prints what will happen."""
    if cluster.leads():
        with disk.writing(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        print(f"{folder.path}: {_what_follows(experiment, step, ended)}", flush=True)
        for where in data.placement(experiment.batch_at).splitlines():
            print(f"data: {where}", flush=True)
    for remark in remarks:
        print(f"warning: {remark}", file=sys.stderr, flush=True)


def _what_follows(experiment: Experiment, step: int, ended: goals.Ended | None) -> str:
    if ended is not None:
        return f"already trained: {ended}"
    total = f"{experiment.num_steps:,} steps ({experiment.epochs:g} epochs)"
    reached = f"step {step:,} (epoch {experiment.epoch(step):g})"
    if step >= experiment.num_steps:
        return f"already trained, to {reached} of {total}"
    if step:
        return f"continuing at {reached} of {total}"
    return f"a new run of {total}"


def _note_start(
    experiment: Experiment, folder: Folder, step: int, end: int, log_every: int, compiled: bool
) -> None:
    """Notes a start of the run in its record."""
    if not cluster.leads():
        return
    mesh = experiment.learner.mesh
    start = {
        "step": step,
        "num_steps": end,
        "log_every": log_every,
        "compiled": compiled,
        "devices": 1 if mesh is None else mesh.size,
    }
    record.note_start(folder, start)
