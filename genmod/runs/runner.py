"""Runs an experiment in a run folder: training with its log, checkpoints, pictures and progress."""

import contextlib
import functools
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

from genmod import checks, data, devices, evaluate, report, rng, train
from genmod import experiment as experiments
from genmod._host import cluster, disk, terminal
from genmod._host.stop import Cut, Phase, Stop
from genmod.errors import DataError
from genmod.experiment import Experiment, Observation
from genmod.runs import catalogue, configs, record, starts
from genmod.train import checkpoint
from genmod.types import Key, Keys


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      step: number of steps taken.
      signal: the signal that stopped it, or None where it was finished.
    """

    step: int
    signal: int | None


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


def rebuild(folder: record.Folder, step: int | None = None) -> Rebuilt:
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


def say(remarks: Sequence[str]) -> None:
    """Prints remarks about runs, for the person at the terminal."""
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr, flush=True)


class Stages:
    """The experiments that took the steps of a run: several, where it was edited between starts."""

    def __init__(self, folder: record.Folder, opened: Rebuilt):
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
    folder = record.Folder(Path(path))
    opened = rebuild(folder)
    say(opened.remarks)
    seeds = opened.whole.learner.seeds
    checks.index_of_run(index, seeds or 1)
    carry = checkpoint.restore(folder.checkpoints, check(opened.whole, opened.config.seed))
    return opened.single, (carry if seeds is None else train.select_run(carry, index)).state


def keys(experiment: Experiment, seed: int) -> Key | Keys:
    """The key of a run, or those of its runs where it is over seeds."""
    key = rng.root(seed)
    seeds = experiment.learner.seeds
    return key if seeds is None else rng.of_seeds(key, seeds)


def check(experiment: Experiment, seed: int) -> Any:
    """What a run of this experiment carries, as shapes and types; nothing is computed.

    Raises:
      ValueError: if seed is none, the parts of the experiment do not fit together, or a metric has
        a name that the log itself uses.
    """
    found = train.abstract_carry(experiment.learner, keys(experiment, seed), experiment.batch_at)
    for name in found.totals:
        if record.is_reserved(name):
            raise ValueError(
                f"the metric {name!r} has a name that the log itself uses; expected none of "
                f"{', '.join(record.RESERVED)}, and none that ends in _se: call it otherwise, such "
                f"as {record.renamed(name)!r}"
            )
    experiment.check_batch_size()
    return found


def run(
    experiment: Experiment,
    folder: record.Folder,
    *,
    seed: int,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    compiled: bool = True,
    progress: bool = True,
    stop: Stop | None = None,
    loggers: Sequence[record.Logger] = (),
) -> Outcome:
    """Trains an experiment to its end, continuing from the newest checkpoint in its folder.

    Observing, drawing pictures and loggers are a comfort: where they fail in training, a warning
    says so and training goes on. Where evaluation or pictures fail at the end, all the rest is done
    first.

    Args:
      experiment: what to run.
      folder: where everything goes, made if it is not there; the caller holds its lock.
      seed: the root of all keys.
      log_every: steps between log points; an epoch's if None.
      checkpoint_every: steps between checkpoints, taken at the next log point; five epochs' if
        None.
      keep: how many checkpoints to keep.
      compiled: False runs every operation on its own, for debugging.
      progress: show a progress bar, or a line a log point where there is no terminal.
      stop: what listens to signals; by default a run listens for itself.
      loggers: functions `(step, values)` that are given each log point once it is in the log; one
        that fails is warned of, once, and training goes on. `lambda step, values:
        wandb.log(values, step=step)` is one.

    Raises:
      train.NonFiniteError: when training diverges; the last good state has been saved.
      DataError: if data that are streamed cannot be read any more; the last log point is saved.
      CheckpointError: if every checkpoint is damaged, or the newest holds another model.
      DiskError: if the disk takes no more; the last checkpoint is as it was.
      Stopped: by a signal that finds nothing to save.
    """
    key = keys(experiment, seed)
    log_every = log_every or experiment.steps_per_epoch
    checkpoint_every = checkpoint_every or 5 * experiment.steps_per_epoch
    with terminal.guarded(), stop or Stop() as stop:
        found = checkpoint.restore_newest(folder.checkpoints, check(experiment, seed))
        at, carry = (found.step, found.tree) if found else (0, None)
        leads = cluster.leads()
        if leads:
            with disk.writing(folder.path):
                folder.path.mkdir(parents=True, exist_ok=True)
            print(_first_line(experiment, folder, at), flush=True)
            if where := data.placement(experiment.batch_at):
                print(f"data: {where}", flush=True)
        for remark in found.remarks if found else ():
            print(f"warning: {remark}", file=sys.stderr, flush=True)

        watch = _Watch(experiment, folder, rng.stream(key, "observe"), log_every)
        config_hash = record.config_hash(folder) if leads and folder.record.exists() else None
        last_saved = at
        with (
            contextlib.closing(record.Log(folder, at) if leads else _NoLog()) as log,
            _Progress(experiment, at, progress and leads) as bar,
        ):

            def on_call(step: int) -> bool:
                stop.phase = Phase.STEPPING
                bar.reached(step)
                return stop.signal is not None

            def save(
                step: int, carry: train.Carry, unlogged: Mapping[str, Any] | None = None
            ) -> int:
                if unlogged is not None:  # first: a checkpoint without it would lose the log point
                    record.write_json(folder.unlogged, unlogged)
                log.sync()
                checkpoint.save(folder.checkpoints, step, carry, keep=keep, config_hash=config_hash)
                return step

            def note(row: Mapping[str, Any]) -> None:
                log.write(row)
                for logger in loggers if leads else ():
                    watch.tell(logger, row)

            unlogged = record.read_unlogged(folder, at) if leads else None
            if devices.agree(unlogged is not None) and carry is not None:
                row = unlogged or {}
                note(joined(row, watch.look(at, carry.state, row)))
            if leads:
                folder.unlogged.unlink(missing_ok=True)
            if leads:
                mesh = experiment.learner.mesh
                start = {
                    "step": at,
                    "num_steps": experiment.num_steps,
                    "log_every": log_every,
                    "compiled": compiled,
                    "devices": 1 if mesh is None else mesh.size,
                }
                record.note_start(folder, start)
            points = train.run(
                experiment.learner,
                key,
                experiment.batch_at,
                num_steps=experiment.num_steps,
                log_every=log_every,
                carry=carry,
                compiled=compiled,
                on_call=on_call,
            )
            try:
                for point in points:
                    at, carry = point.step, point.carry
                    if point.metrics:
                        row = log_row(experiment, at, point.metrics)
                        if bar.rate is not None:
                            row["examples_per_s"] = bar.rate
                        bar.log_point(row)
                        try:
                            with _cut_short(stop, functools.partial(save, at, carry, row)):
                                seen = watch.look(at, point.state, row)
                        except Cut:
                            save(at, carry, row)
                            break
                        note(joined(row, seen))
                    due = at - last_saved >= checkpoint_every or at == experiment.num_steps
                    if due or devices.agree(stop.signal or 0):
                        last_saved = save(at, carry)
                    # Asked again: the signal may have come while it was saved.
                    if last_saved == at and devices.agree(stop.signal or 0):
                        break
                    bar.resume(at)
            except train.NonFiniteError as error:
                save(error.step - 1, error.carry)
                raise
            except DataError:  # what is streamed cannot be read any more
                if carry is not None and at != last_saved:
                    save(at, carry)
                raise
        number = devices.agree(stop.signal or 0)
        if number:
            return Outcome(at, number)
        assert carry is not None
        stop.phase = Phase.NOTHING_TO_SAVE  # the same command does what is left
        state = carry.state if experiment.learner.mesh is None else devices.local(carry.state)
        if leads:
            finish(experiment, folder, key, state)
    return Outcome(at, None)


def log_row(experiment: Experiment, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the log holds of a log point, apart from timings and looks."""
    values = summary({**record.losses(metrics), **metrics})
    return {"step": step, "epoch": experiment.epoch(step), **values}


def finish(experiment: Experiment, folder: record.Folder, key: jax.Array, state: Any) -> None:
    """Evaluates a trained state and draws its pictures, into the run folder.

    Raises:
      Exception: what the experiment's own evaluation or pictures raise, once all else is written.
    """
    failed: list[Exception] = []
    drawn = None
    with _put_off(failed):
        drawn = experiment.final_figures(rng.stream(key, "figures"), state)
    last = Observation()
    if experiment.evaluate is None or (drawn is None and not failed):
        with _put_off(failed):  # one look for both: they speak of the same samples
            last = experiment.observation(rng.stream(key, "evaluate"), state)
    taken: Mapping[str, Any] = last.numbers
    if experiment.evaluate is not None:
        with _put_off(failed):
            taken = experiment.evaluate(rng.stream(key, "evaluate"), state)
    evaluation: dict[str, Any] = {}
    with _put_off(failed):
        if not isinstance(taken, Mapping):
            raise ValueError(f"evaluate must return numbers by name, got {checks.described(taken)}")
        taken, remarks = named(taken)
        for remark in remarks:
            print(f"warning: evaluation: {remark}", file=sys.stderr, flush=True)
        evaluation = summary(taken)
    if evaluation:
        record.write_json(folder.evaluation, evaluation)
        for name, value in record.readable(evaluation).items():
            print(f"{name}: {value}{_not_finite(evaluation[name])}")
    figures = dict(last.figures if drawn is None else drawn)
    rows = record.read_metrics(folder)
    if rows and report.is_game(rows):
        figures["game"] = report.game(rows)
    elif rows:
        figures["curves"] = report.curves(rows)
    print("pictures:")
    for name, figure in figures.items():
        path = folder.pictures / f"{name}.png"
        with _put_off(failed), disk.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
            print(f"  {path}")
    for error in failed[1:]:
        traceback.print_exception(error)
    if failed:
        raise failed[0]


@contextlib.contextmanager
def _put_off(failed: list[Exception]) -> Iterator[None]:
    """Keeps an error for later."""
    try:
        yield
    except Exception as error:
        failed.append(error)


def _first_line(experiment: Experiment, folder: record.Folder, step: int) -> str:
    total = f"{experiment.num_steps:,} steps ({experiment.epochs:g} epochs)"
    reached = f"step {step:,} (epoch {experiment.epoch(step):g})"
    if step >= experiment.num_steps:
        return f"{folder.path}: already trained, to {reached} of {total}"
    if step:
        return f"{folder.path}: continuing at {reached} of {total}"
    return f"{folder.path}: a new run of {total}"


class _Watch:
    """Looks at a run in training: at the first log point of each interval of `observe_every`."""

    def __init__(self, experiment: Experiment, folder: record.Folder, key: Key, log_every: int):
        self._experiment, self._folder, self._key = experiment, folder, key
        self._log_every = log_every
        self._every = experiment.observe_every or experiment.steps_per_epoch
        self._said: set[str] = set()

    def look(self, step: int, state: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the log should hold of this look beside its row; nothing if it is not its time."""
        # By the steps alone, so that a run that was stopped in between looks at the same steps.
        last_log_point = (step - 1) // self._log_every * self._log_every
        if step // self._every == last_log_point // self._every:
            return {}
        if self._experiment.learner.mesh is not None:
            state = devices.local(state)
        if not cluster.leads():
            return {}
        try:
            seen = self._experiment.observation(self._key, state)
        except Exception as error:
            self._warn(step, f"this look failed: {_in_a_line(error)}; training goes on without it")
            return {}
        drawn = {name: figure.savefig for name, figure in seen.figures.items()}
        grids = {
            name: functools.partial(report.save_grid, images)
            for name, images in seen.images.items()
        }
        for name, save in {**drawn, **grids}.items():
            path = self._folder.pictures / name / f"step-{step:08d}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                save(path)
            except Exception as error:
                self._warn(step, f"the picture {name} failed: {_in_a_line(error)}")
        for warning in seen.warnings:
            self._warn(step, warning)
        numbers, remarks = named(seen.numbers, row)
        for remark in remarks:
            self._warn(step, remark)
        return summary(numbers)

    def tell(self, logger: record.Logger, row: Mapping[str, Any]) -> None:
        """Gives a log point to a logger."""
        try:
            logger(row["step"], record.numbers(row))
        except Exception as error:
            said = f"a logger failed: {_in_a_line(error)}; training goes on"
            self._warn(row["step"], said)

    def _warn(self, step: int, warning: str) -> None:
        kind = re.sub(r"[\d.]+", "", warning)  # the same one, with other numbers, is no news
        if kind not in self._said:
            self._said.add(kind)
            print(f"warning: step {step:,}: {warning}", file=sys.stderr, flush=True)


def named(
    values: Mapping[str, Any], row: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Numbers of a look or an evaluation under names that are free, and what to say of others.

    Args:
      values: by name.
      row: what the log holds already.
    """
    found, remarks = {}, []
    for name, value in values.items():
        free = name
        while record.is_reserved(free) or free in (row or {}) or (free != name and free in values):
            free = record.renamed(free)
        if free != name:
            remarks.append(
                f"the name {name!r} is the log's own, or a metric's: it is {free!r} here"
            )
        found[free] = value
    return found, remarks


def _not_finite(value: float) -> str:
    """What to say beside a number that is none."""
    if math.isfinite(value):
        return ""
    return " (not a number)" if math.isnan(value) else " (not finite)"


def summary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers as the log holds them; of many runs mean, standard error, and each run's own.

    Raises:
      ValueError: if one is no number, by its name.
    """
    of_runs = {name: np.asarray(value) for name, value in values.items() if np.ndim(value)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in of_runs:
            try:
                found[name] = float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"what is logged must be numbers by name, got {name!r}: "
                    f"{checks.described(value)}"
                ) from None
            continue
        found[name], found[f"{name}_se"] = evaluate.estimate(of_runs[name])
    if of_runs:
        found["seeds"] = {name: value.tolist() for name, value in of_runs.items()}
    return found


def joined(row: Mapping[str, Any], seen: Mapping[str, Any]) -> dict[str, Any]:
    """A log point with what a look has seen."""
    both = {**row, **seen}
    if "seeds" in both:
        both["seeds"] = {**row.get("seeds", {}), **seen.get("seeds", {})}
    return both


class _NoLog:
    """The log of a process that does not lead."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes nothing."""

    def sync(self) -> None:
        """Has nothing to sync."""

    def close(self) -> None:
        """Has nothing to close."""


def _cut_short(stop: Stop, save: Callable[[], int]) -> contextlib.AbstractContextManager[None]:
    """Around a look, which a signal cuts short; but not where other processes wait for this one."""
    return stop.looking(save) if jax.process_count() == 1 else contextlib.nullcontext()


def _in_a_line(error: Exception) -> str:
    """An error and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {said} ({place.filename}:{place.lineno})"


class _Progress:
    """A progress bar with rate and time left, or a line a log point where there is no terminal.

    It also measures the rate that is logged: training alone, without compilation, logging, saving.
    """

    def __init__(self, experiment: Experiment, step: int, shown: bool):
        from tqdm.auto import tqdm

        self._experiment = experiment
        self._terminal = shown and sys.stderr.isatty()
        self._lines = shown and not self._terminal
        self._bar = tqdm(
            total=experiment.num_steps,
            initial=step,
            unit="step",
            disable=not self._terminal,
            dynamic_ncols=True,
        )
        self._calls = 0
        self.resume(step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def resume(self, step: int) -> None:
        """Counts from here: what the outer layer did until now is no part of the rate."""
        self._step, self._began = step, time.perf_counter()
        self._steps, self._seconds = 0, 0.0

    def reached(self, step: int) -> bool:
        """Notes the step that a call of the compiled program has reached; never asks to stop."""
        now = time.perf_counter()
        if self._calls == 1:  # the first call compiled: forget it, now that there is another
            self._steps, self._seconds = 0, 0.0
        self._calls += 1
        self._steps += step - self._step
        self._seconds += now - self._began
        self._step, self._began = step, now
        self._bar.update(step - self._bar.n)
        return False

    @property
    def rate(self) -> float | None:
        """Examples per second since the last log point, of all runs together.

        None where it would be that of compiling: after the first call alone.
        """
        if self._calls <= 1:
            return None
        runs = self._experiment.learner.seeds or 1
        return round(self._steps * runs * self._experiment.batch_size / max(self._seconds, 1e-9), 1)

    def log_point(self, row: Mapping[str, Any]) -> None:
        """Shows a log point."""
        shown = record.readable(record.losses(row))
        self._bar.set_postfix(shown)
        if self._lines:
            losses = "  ".join(f"{n} {v}" for n, v in shown.items())
            line = f"epoch {row['epoch']:g}  step {row['step']:,}  {losses}"
            print(f"{line}{self._pace(row)}", flush=True)

    def _pace(self, row: Mapping[str, Any]) -> str:
        """Rate and time left, where they are known."""
        rate = row.get("examples_per_s")
        if rate is None:
            return ""
        runs = self._experiment.learner.seeds or 1
        left = (self._experiment.num_steps - row["step"]) * runs * self._experiment.batch_size
        return f"  {rate:,.0f} examples/s  {left / max(rate, 1e-9):.0f} s left"
