"""What seeds and devices cost: many runs as one program, one run on many devices.

    python experiments/benchmarks/scaling.py
    python experiments/benchmarks/scaling.py --seeds 1 4 16 64 256 1024 --devices 1

Five minutes on two cores, with the article's VAE. On a CPU the devices share its cores; on a GPU
say how many there are, and try many seeds: a single run leaves most of a GPU idle.

How it is measured: a process for each row, warmed up with one turn; then, round after round, each
does its steps while the others wait, so that a slow minute of the machine hits all of them. The
table has the median over rounds of milliseconds a step (of all runs together), and the cost of a
run's step relative to a plain single run in the same round. Differences under 15 % are noise.
"""

import contextlib
import dataclasses
import os
import statistics
import sys

from workers import Job, Turns, Worker, WorkerError, package_versions

# This file is also the module of the workers.


@dataclasses.dataclass(frozen=True)
class Config:
    """What seeds and devices cost: the article's VAE."""

    seeds: tuple[int, ...] = (1, 16)
    """How many runs in one program; the first row is always a single plain run."""
    devices: int = 2
    """How many devices to spread the runs, or a batch, over; 1 leaves those rows out."""
    rounds: int = 5
    """Turns of each, after one to warm up."""
    steps: int = 100
    """Steps a turn."""
    timeout: float = 600.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.steps, self.devices, *self.seeds) < 1:
            raise ValueError(f"all numbers must be positive, got {self}")

    @property
    def variants(self) -> list[str]:
        """The rows, each `SEEDS DEVICES HOW`."""
        ways = [f"{self.devices} {how}" for how in ("sharded", "pmap")] if self.devices > 1 else []
        many = [num for num in self.seeds if num > 1]
        spread = [num for num in many if num % self.devices == 0]
        return [
            *("1 1 plain", "1 1 sharded", "1 1 pmap"),
            *(f"1 {way}" for way in ways),
            *(f"{num} 1 plain" for num in many),
            *(f"{num} {way}" for num in spread for way in ways),
        ]


def train(turns: Turns, job: Job) -> None:
    """Trains the article's VAE as one of the rows says; answers with the mean loss of the turn."""
    from pathlib import Path

    import jax
    import numpy as np

    from genmod import experiment, rng
    from genmod import train as training

    seeds, devices, how = job.variant.split()
    file = experiment.load(Path(__file__).parents[1] / "article_vae.py")
    built = file.build(file.Config())
    learner = built.learner
    if int(seeds) > 1:
        learner = training.over_seeds(learner, int(seeds))
    if how != "plain":
        way = "pmap" if how == "pmap" else "sharded"
        learner = training.over_devices(learner, way, jax.devices()[: int(devices)])
    points = training.run(
        learner, rng.root(0), built.batch_at, num_steps=2**30, log_every=job.steps
    )
    while True:
        turns.begin()
        turns.end(loss=float(np.mean(next(points).metrics["loss"])))


def main(config: Config) -> int:
    """Takes turns and prints the table; returns the exit status."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 100)
    load = os.getloadavg()[0]
    if load > 0.5:
        console.print(f"[yellow]the machine is not quiet (load average {load:.1f})")
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    milliseconds: dict[str, list[float]] = {name: [] for name in config.variants}
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in config.variants:
            flag = f"--xla_force_host_platform_device_count={name.split()[1]}"
            flags = " ".join(filter(None, (os.environ.get("XLA_FLAGS"), flag)))
            job = Job(name, "", steps=config.steps)
            variables = {"PYTHONPATH": path, "XLA_FLAGS": flags}
            worker = Worker(sys.executable, "scaling", job, variables, config.timeout)
            workers[name] = stack.enter_context(worker)
            try:
                worker.epoch()
            except WorkerError as error:
                console.print(f"[red]{name}: {error}", highlight=False)
                return 1
        for _ in range(config.rounds):
            for name, worker in workers.items():
                seconds = worker.epoch()["seconds"]
                milliseconds[name].append(1e3 * seconds / config.steps)
    table = Table(title=f"The article's VAE, batches of 100, {config.rounds} rounds")
    for heading in ("runs", "devices", "how"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ms a step", "min-max", "cost of a run"):
        table.add_column(heading, justify="right", no_wrap=True)
    base = milliseconds["1 1 plain"]
    for name, times in milliseconds.items():
        seeds, devices, how = name.split()
        cost = statistics.median(a / b for a, b in zip(times, base, strict=True)) / int(seeds)
        extent = f"{min(times):.2f}-{max(times):.2f}"
        table.add_row(seeds, devices, how, f"{statistics.median(times):.2f}", extent, f"{cost:.2f}")
    console.print(table)
    versions = package_versions(sys.executable, ("jax", "jaxlib"))
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Config, description=__doc__)))
