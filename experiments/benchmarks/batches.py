"""Cost of batches from data on the device.

    python experiments/benchmarks/batches.py
    python experiments/benchmarks/batches.py --experiment mnist_vae

This takes half a minute on two cores. One worker trains an experiment on its data, the other always
on the first batch. The difference is the time to shuffle, gather and prepare the examples.

Method: each worker has its own process, warmed up with one turn; then they take turns, so that a
slow minute of the machine affects both. The ratio is the median of the ratios within a round.
"""

import dataclasses
import functools
import statistics
import sys
from typing import Any

from comparison import median_and_extent
from workers import (
    REPOSITORY,
    Job,
    Turns,
    Worker,
    milliseconds,
    run,
    take_turns,
    this_checkout,
)

# The workers run this file, too.


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    experiment: str = "article_vae"
    """Name of a file of experiments/, run with its defaults."""
    rounds: int = 15
    """Turns of each worker, after one to warm up."""
    steps: int = 600
    """Steps per turn."""
    timeout: float = 600.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.steps) < 1:
            raise ValueError(f"all numbers must be positive, got {self}")


def train(turns: Turns, job: Job) -> None:
    """Trains an experiment on its data or on one batch.

    Answers with the experiment's first metric.
    """
    import jax

    from genmod import rng
    from genmod import train as training
    from genmod.runs import catalogue

    name, what = job.variant.split()
    file = catalogue.load(REPOSITORY / "experiments" / f"{name}.py")
    built = file.build(file.Config())
    batch_at = built.batch_at
    if what == "alone":
        first = batch_at(rng.stream(rng.root(0), "data"), 0)
        batch_at = jax.tree_util.Partial(lambda batch, key, step: batch, first)
    points = training.run(
        built.learner, rng.root(0), batch_at, num_steps=2**30, log_every=job.steps
    )
    while True:
        turns.begin()
        turns.end(loss=float(next(iter(next(points).metrics.values()))))


def main(config: Config, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    from rich.table import Table

    def start(what: str) -> Worker:
        job = Job(f"{config.experiment} {what}", "", steps=config.steps)
        return Worker(sys.executable, "batches", job, this_checkout(), config.timeout)

    starts = {what: functools.partial(start, what) for what in ("data", "alone")}
    answers = take_turns(starts, config.rounds)
    rows = {what: milliseconds(found, config.steps) for what, found in answers.items()}
    table = Table("batches", "ms a step", "min-max", "times one batch alone")
    for what, times in rows.items():
        ratio = statistics.median(a / b for a, b in zip(times, rows["alone"], strict=True))
        table.add_row(what, *median_and_extent(times, digits=3), f"{ratio:.3f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
