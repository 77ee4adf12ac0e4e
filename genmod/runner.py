"""Runs an experiment in a run folder: training with its log, checkpoints, pictures and progress."""

import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple, Self

import jax

from genmod import record, report, rng, train
from genmod.experiment import Experiment
from genmod.train import checkpoint
from genmod.types import Key


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      step: number of steps taken.
      signal: the signal that stopped it, or None where it was finished.
    """

    step: int
    signal: int | None


def check(experiment: Experiment, seed: int) -> Any:
    """What a run of this experiment carries, as shapes and types; nothing is computed.

    Raises:
      ValueError: if seed is none, or the parts of the experiment do not fit together.
    """
    key = rng.root(seed)
    return train.shapes(experiment.learner, key, experiment.batch_at)


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
) -> Outcome:
    """Trains an experiment to its end, continuing from the newest checkpoint in its folder.

    Args:
      experiment: what to run.
      folder: where everything goes.
      seed: the root of all keys.
      log_every: steps between log points; an epoch's if None.
      checkpoint_every: steps between checkpoints, taken at the next log point; five epochs' if
        None.
      keep: how many checkpoints to keep.
      compiled: False runs every operation on its own, for debugging.
      progress: show a progress bar, or a line a log point where there is no terminal.

    Raises:
      train.NonFiniteError: when training diverges; the last good state has been saved.
      CheckpointError: if the newest checkpoint cannot be read.
    """
    key = rng.root(seed)
    log_every = log_every or experiment.steps_per_epoch
    checkpoint_every = checkpoint_every or 5 * experiment.steps_per_epoch
    saved = checkpoint.steps(folder.checkpoints)
    carry = None
    if saved:
        carry = checkpoint.restore(folder.checkpoints, check(experiment, seed))
    at = last_saved = saved[-1] if saved else 0
    print(_first_line(experiment, folder, at), flush=True)

    watch = _Watch(experiment, folder, rng.stream(key, "observe"), log_every)
    log = record.Log(folder, at)
    with _StopSignals() as stop, _Progress(experiment, at, progress) as bar:
        try:
            points = train.run(
                experiment.learner,
                key,
                experiment.batch_at,
                num_steps=experiment.num_steps,
                log_every=log_every,
                carry=carry,
                compiled=compiled,
                on_call=lambda step: bar.reached(step) or stop.signal is not None,
            )
            for point in points:
                if point.metrics:
                    row = {
                        "step": point.step,
                        "epoch": experiment.epoch(point.step),
                        **record.losses(point.metrics),
                        **point.metrics,
                        "examples_per_s": bar.rate,
                    }
                    bar.log_point(row)
                    log.write(row | watch.look(point.step, point.state))
                carry, at = point.carry, point.step
                if at - last_saved >= checkpoint_every or at == experiment.num_steps or stop.signal:
                    checkpoint.save(folder.checkpoints, at, carry, keep=keep)
                    last_saved = at
                bar.resume(at)
        except train.NonFiniteError as error:
            checkpoint.save(folder.checkpoints, error.step - 1, error.carry, keep=keep)
            raise
        finally:
            log.close()
        if stop.signal is not None and at < experiment.num_steps:
            return Outcome(at, stop.signal)
        assert carry is not None
        stop.at_once = True  # all is saved: the same command finishes what is left
        finish(experiment, folder, key, carry.state)
    return Outcome(at, None)


def finish(experiment: Experiment, folder: record.Folder, key: jax.Array, state: Any) -> None:
    """Evaluates a trained state and draws its pictures, into the run folder."""
    evaluate, draw = experiment.evaluate, experiment.figures
    if evaluate is None or draw is None:  # one look for both: they speak of the same samples
        last = experiment.observe(rng.stream(key, "evaluate"), state)
        evaluate = evaluate or (lambda key, state: last.numbers)
        draw = draw or (lambda key, state: last.figures)
    evaluation = dict(evaluate(rng.stream(key, "evaluate"), state))
    if evaluation:
        record.write_json(folder.evaluation, evaluation)
        for name, value in evaluation.items():
            print(f"{name}: {value:.4f}")
    figures = dict(draw(rng.stream(key, "figures"), state))
    rows = record.read_metrics(folder)
    if rows and report.is_game(rows):
        figures["game"] = report.game(rows)
    elif rows:
        figures["curves"] = report.curves(rows)
    folder.pictures.mkdir(exist_ok=True)
    print("pictures:")
    for name, figure in figures.items():
        path = folder.pictures / f"{name}.png"
        figure.savefig(path)
        print(f"  {path}")


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

    def look(self, step: int, state: Any) -> dict[str, float]:
        """What the log should hold of this look; nothing if it is not time for one."""
        # By the steps alone, so that a run that was stopped in between looks at the same steps.
        last_log_point = (step - 1) // self._log_every * self._log_every
        if step // self._every == last_log_point // self._every:
            return {}
        seen = self._experiment.observe(self._key, state)
        for name, figure in seen.figures.items():
            path = self._folder.pictures / name / f"step-{step:08d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        for warning in seen.warnings:
            kind = re.sub(r"[\d.]+", "", warning)  # the same one, with other numbers, is no news
            if kind not in self._said:
                self._said.add(kind)
                print(f"warning: step {step:,}: {warning}", file=sys.stderr, flush=True)
        return dict(seen.numbers)


class _StopSignals:
    """Turns Ctrl-C and SIGTERM into a flag, so that the run can save; a second one is final."""

    def __init__(self):
        self.signal: int | None = None
        self.at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None or self.at_once:
            sys.exit(128 + number)
        self.signal = number
        # Not print: the signal may have come in the middle of another one.
        os.write(2, b"\nstopping: saving after this step (once more to stop at once)\n")


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
    def rate(self) -> float:
        """Examples per second since the last log point."""
        return round(self._steps * self._experiment.batch_size / max(self._seconds, 1e-9), 1)

    def log_point(self, row: Mapping[str, Any]) -> None:
        """Shows a log point."""
        self._bar.set_postfix({n: f"{v:.4g}" for n, v in record.losses(row).items()})
        if self._lines:
            left = (self._experiment.num_steps - row["step"]) * self._experiment.batch_size
            losses = "  ".join(f"{n} {v:.4f}" for n, v in record.losses(row).items())
            print(
                f"epoch {row['epoch']:g}  step {row['step']:,}  {losses}  "
                f"{row['examples_per_s']:,.0f} examples/s  "
                f"{left / max(row['examples_per_s'], 1e-9):.0f} s left",
                flush=True,
            )
