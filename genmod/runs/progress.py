"""Progress of a run at the terminal, and its rate."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from genmod.experiment import Experiment
from genmod.runs import goals, logs


class Progress:
    """Progress bar with the rate and the time left.

    Without a terminal, a line is printed for each log point. The class also measures the rate that
    is logged: that of training alone, without compilation, logging and saving.
    """

    def __init__(self, experiment: Experiment, step: int, shown: bool):
        from genmod._host.bars import tqdm

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

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()

    def resume(self, step: int) -> None:
        """Starts measuring the rate at a step.

        The time since the last step, which the outer layer spent, is not counted.
        """
        self._step, self._began = step, time.perf_counter()
        self._steps, self._seconds = 0, 0.0

    def reached(self, step: int) -> None:
        """Notes the step that a call of the program has reached."""
        now = time.perf_counter()
        if self._calls == 1:  # the first call included compilation: a second replaces it
            self._steps, self._seconds = 0, 0.0
        self._calls += 1
        self._steps += step - self._step
        self._seconds += now - self._began
        self._step, self._began = step, now
        self._bar.update(step - self._bar.n)

    @property
    def rate(self) -> float | None:
        """Examples per second since the last log point.

        It is the rate of all runs together. After the first call alone it is None, as that call
        includes compilation.
        """
        if self._calls <= 1:
            return None
        runs = self._experiment.learner.seeds or 1
        return round(self._steps * runs * self._experiment.batch_size / max(self._seconds, 1e-9), 1)

    def log_point(self, row: Mapping[str, Any]) -> None:
        """Shows a log point."""
        names = [n for m in goals.metrics(self._experiment).values() for n in (m, f"{m}_se")]
        shown = logs.readable({**logs.losses(row), **{n: row[n] for n in names if n in row}})
        self._bar.set_postfix(shown)
        if self._lines:
            losses = "  ".join(f"{n} {v}" for n, v in shown.items())
            line = f"epoch {row['epoch']:g}  step {row['step']:,}  {losses}"
            print(f"{line}{self._pace(row)}", flush=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.write(text)

    def _pace(self, row: Mapping[str, Any]) -> str:
        """Formats the rate and the time left, if known."""
        rate = row.get("examples_per_s")
        if rate is None:
            return ""
        runs = self._experiment.learner.seeds or 1
        left = (self._experiment.num_steps - row["step"]) * runs * self._experiment.batch_size
        return f"  {rate:,.0f} examples/s  {left / max(rate, 1e-9):.0f} s left"
