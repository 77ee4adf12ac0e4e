"""Seconds for distances between two sets of features, against their usual implementations.

    python experiments/benchmarks/distances.py --peers-python PATH

This takes five minutes on two cores. PATH is an interpreter that has torch-fidelity and prdc with
what they need; by default it is this one, and a peer that is not installed is left out.
torch-fidelity's networks are not used, so it may be installed with `--no-deps` and without
torchvision.

Each set has 10,000 rows of 2,048 features, which is what the Inception network gives for as many
images. Rows of the table:

- the Fréchet distance: genmod and torch-fidelity, from features to the number,
- precision, recall, density and coverage: genmod and prdc.

Method: each row has its own process, warmed up with one turn. Then, in each round, every process
computes its number once while the others wait. The table has the minimum and the median over rounds
and, as ratio to genmod, the median of the ratios within a round. Differences under 15 % are noise.
The values of both must agree, and are printed.
"""

import contextlib
import dataclasses
import functools
import io
import os
import statistics
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
from workers import (
    Job,
    Turns,
    Worker,
    has_module,
    package_versions,
    run,
    take_turns,
    this_checkout,
)

# The workers run this file, too, and those of the peers have neither JAX nor rich.

MODULES = {"genmod": "genmod", "torch-fidelity": "torch_fidelity", "prdc": "prdc"}
ROWS = {
    "frechet/genmod": "Fréchet distance, genmod",
    "frechet/torch-fidelity": "Fréchet distance, torch-fidelity",
    "coverage/genmod": "precision, ..., coverage, genmod",
    "coverage/prdc": "precision, ..., coverage, prdc",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    peers_python: str = sys.executable
    """Interpreter that has torch-fidelity and prdc."""
    rounds: int = 5
    """Turns of each worker, after one to warm up."""
    rows: int = 10_000
    """Number of rows of each set."""
    width: int = 2048
    """Number of features."""
    only: tuple[str, ...] = ("frechet", "coverage")
    """Distances to measure: frechet, coverage."""
    timeout: float = 1200.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        if min(self.rounds, self.width, self.rows - 10) < 1:
            raise ValueError(f"rounds and width must be positive, rows more than 10, got {self}")
        if not set(self.only) <= {"frechet", "coverage"}:
            raise ValueError(f"only must be among frechet and coverage, got {self.only}")


# The workers.


def train(turns: Turns, job: Job) -> None:
    """Computes the distance once per turn; answers with its value."""
    distance = FUNCTIONS[job.variant]()
    sets = [features(seed, job.steps, job.batch_size) for seed in (1, 2)]
    sets[1] = sets[1] * np.float32(1.1)
    while True:
        turns.begin()
        turns.end(value=float(distance(*sets)))


def features(seed: int, num: int, width: int) -> np.ndarray:
    """Returns correlated features cut at 0, as those of a network are."""
    z = np.random.default_rng(seed).standard_normal((num, width), dtype=np.float32)
    mixed = z + 0.5 * np.roll(z, 1, axis=1) + 0.5 * z[:, :1]
    return np.maximum(mixed * np.linspace(0.25, 2, width, dtype=np.float32) + 0.25, 0)


Distance = Callable[[np.ndarray, np.ndarray], float]


def frechet_by_genmod() -> Distance:
    """Returns genmod's Fréchet distance."""
    from genmod.evaluate import frechet

    return frechet.frechet_distance


def coverage_by_genmod() -> Distance:
    """Returns genmod's coverage, which it computes together with the others."""
    from genmod.evaluate import neighbours

    return lambda real, fake: (
        neighbours.precision_recall_density_coverage(real, fake, progress=False).coverage
    )


def frechet_by_torch_fidelity() -> Distance:
    """Returns torch-fidelity's Fréchet distance."""
    import torch  # pyrefly: ignore[missing-import]

    # torch-fidelity imports torchvision for its networks and data sets only.
    with contextlib.suppress(ImportError):
        import torchvision  # pyrefly: ignore[missing-import] # noqa: F401
    if "torchvision" not in sys.modules:
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            sys.modules[f"torchvision{name}"] = types.ModuleType(f"torchvision{name}")
        vars(sys.modules["torchvision.datasets"]).update(
            CIFAR10=object, CIFAR100=object, STL10=object
        )
    from torch_fidelity import metric_fid  # pyrefly: ignore[missing-import]

    def distance(real: np.ndarray, fake: np.ndarray) -> float:
        both = [metric_fid.fid_features_to_statistics(torch.from_numpy(x)) for x in (real, fake)]
        return metric_fid.fid_statistics_to_metric(*both, False)[metric_fid.KEY_METRIC_FID]

    return distance


def coverage_by_prdc() -> Distance:
    """Returns prdc's coverage, which it computes together with the others."""
    import prdc  # pyrefly: ignore[missing-import]

    def distance(real: np.ndarray, fake: np.ndarray) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return prdc.compute_prdc(real, fake, nearest_k=5)["coverage"]

    return distance


FUNCTIONS = {
    "frechet/genmod": frechet_by_genmod,
    "frechet/torch-fidelity": frechet_by_torch_fidelity,
    "coverage/genmod": coverage_by_genmod,
    "coverage/prdc": coverage_by_prdc,
}


# The measurement.


def main(config: Config, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    from rich.table import Table

    peers = os.path.abspath(config.peers_python)

    def start(name: str) -> Worker:
        python, variables = sys.executable, {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if name.endswith("genmod"):
            variables |= this_checkout()
        else:
            python = peers
        job = Job(name, "", batch_size=config.width, steps=config.rows)
        return Worker(python, "distances", job, variables, config.timeout)

    title = f"{config.rows:,} rows of {config.width:,} features in each set, {config.rounds} rounds"
    table = Table(title=title)
    table.add_column("distance", no_wrap=True)
    for heading in ("least s", "median s", "times genmod", "value"):
        table.add_column(heading, justify="right", no_wrap=True)
    for what in config.only:
        starts = {}
        for name, label in ROWS.items():
            distance, _, maker = name.partition("/")
            if distance != what:
                continue
            if maker == "genmod" or has_module(peers, MODULES[maker]):
                starts[name] = functools.partial(start, name)
            else:
                console.print(f"{label}: not installed")
        answers = take_turns(starts, config.rounds)
        seconds = {name: [turn["seconds"] for turn in found] for name, found in answers.items()}
        base = seconds[f"{what}/genmod"]
        for name, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, base, strict=True))
            table.add_row(
                ROWS[name],
                f"{min(times):.2f}",
                f"{statistics.median(times):.2f}",
                f"{ratio:.2f}",
                f"{answers[name][-1]['value']:.9g}",
            )
    console.print(table)
    versions = package_versions(sys.executable, ("numpy",))
    theirs = package_versions(peers, ("torch", "torch_fidelity", "prdc", "scikit_learn"))
    console.print(", ".join(f"{name} {version}" for name, version in (versions | theirs).items()))


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
