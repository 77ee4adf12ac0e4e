"""Cost of many seeds in one program, and of many devices.

    python experiments/benchmarks/scaling.py
    python experiments/benchmarks/scaling.py --experiment mixtures --seeds 10
    python experiments/benchmarks/scaling.py --seeds 1 4 16 64 256 1024 --devices 1

This takes two minutes on two cores, with the article's VAE. On a CPU the devices share its cores.
On GPUs pass their number, and try many seeds with `vmap`: a single run leaves most of a GPU idle.

A program of many runs trains them one after the other (`loop`) or all in one step (`vmap`).

Method: each row has its own process, warmed up with one turn. Then, in each round, every process
runs its steps while the others wait, so that a slow minute of the machine affects all of them. The
table has the median over rounds of the milliseconds per step (of all runs together), and the cost
of one run's step relative to a plain single run in the same round. Differences under 15 % are
noise.
"""

import dataclasses
import functools
import os
import statistics
import sys
from typing import Any

from comparison import median_and_extent
from workers import (
    Job,
    Turns,
    Worker,
    milliseconds,
    package_versions,
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
    seeds: tuple[int, ...] = (1, 16)
    """Numbers of runs in one program, after a single plain run."""
    devices: int = 2
    """Number of devices that share the runs, or a batch.

    With 1, the rows of several devices are left out.
    """
    rounds: int = 5
    """Turns of each worker, after one to warm up."""
    steps: int = 100
    """Steps per turn."""
    timeout: float = 600.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.steps, self.devices, *self.seeds) < 1:
            raise ValueError(f"all numbers must be positive, got {self}")

    @property
    def variants(self) -> list[str]:
        """Lists the rows of the table, each `SEEDS DEVICES HOW`."""
        devices = [1, self.devices] if self.devices > 1 else [1]
        return [
            "1 1 plain",
            *(f"1 {num} {how}" for num in devices for how in ("sharded", "pmap")),
            *(
                f"{seeds} {num} {how}"
                for seeds in self.seeds
                for num in devices
                for how in ("loop", "vmap")
                if seeds > 1 and seeds % num == 0
            ),
        ]


def train(turns: Turns, job: Job) -> None:
    """Trains an experiment in the way of one row.

    Answers with the experiment's first metric, the mean over seeds.
    """
    from pathlib import Path

    import jax
    import numpy as np

    from genmod import rng
    from genmod import train as training
    from genmod.runs import catalogue

    name, seeds, num, how = job.variant.split()
    devices = jax.devices()[: int(num)]
    file = catalogue.load(Path(__file__).parents[1] / f"{name}.py")
    built = file.build(file.Config())
    learner = built.learner
    if how in ("loop", "vmap"):
        learner = training.over_seeds(learner, int(seeds), sequential=how == "loop")
        learner = training.over_devices(learner, devices=devices)
    elif how != "plain":
        way = "pmap" if how == "pmap" else "sharded"
        learner = training.over_devices(learner, way, devices)
    points = training.run(
        learner, rng.root(0), built.batch_at, num_steps=2**30, log_every=job.steps
    )
    while True:
        turns.begin()
        turns.end(loss=float(np.mean(next(iter(next(points).metrics.values())))))


def main(config: Config, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    from rich.table import Table

    def start(name: str) -> Worker:
        flag = f"--xla_force_host_platform_device_count={name.split()[1]}"
        flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), flag)))
        job = Job(f"{config.experiment} {name}", "", steps=config.steps)
        variables = this_checkout() | {"XLA_FLAGS": flags}
        return Worker(sys.executable, "scaling", job, variables, config.timeout)

    starts = {name: functools.partial(start, name) for name in config.variants}
    answers = take_turns(starts, config.rounds)
    rows = {name: milliseconds(found, config.steps) for name, found in answers.items()}
    table = Table(title=f"{config.experiment}, {config.rounds} rounds")
    for heading in ("runs", "devices", "how"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms a step", "min-max", "cost of a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    base = rows["1 1 plain"]
    for name, times in rows.items():
        seeds, devices, how = name.split()
        cost = statistics.median(a / b for a, b in zip(times, base, strict=True)) / int(seeds)
        table.add_row(seeds, devices, how, *median_and_extent(times, digits=2), f"{cost:.2f}")
    console.print(table)
    versions = package_versions(sys.executable, ("jax", "jaxlib"))
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
