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
computes its number once while the others wait. The table has the median over rounds and, as ratio
to genmod, the median of the ratios within a round. Differences under 15 % are noise. The values of
both must agree, and are printed.
"""

import contextlib
import dataclasses
import io
import sys
import types
from collections.abc import Callable
from typing import Any

import comparison
import numpy as np
from workers import Job, Turns, run

# The workers run this file, too, and those of the peers have neither JAX nor rich.

KINDS = {"frechet": "Fréchet distance", "coverage": "precision, ..., coverage"}
PEERS = {"frechet/torch-fidelity": "torch_fidelity", "coverage/prdc": "prdc"}
ROWS = {
    "frechet/genmod": f"{KINDS['frechet']}, genmod",
    "frechet/torch-fidelity": f"{KINDS['frechet']}, torch-fidelity",
    "coverage/genmod": f"{KINDS['coverage']}, genmod",
    "coverage/prdc": f"{KINDS['coverage']}, prdc",
}


@dataclasses.dataclass(frozen=True)
class Config(comparison.Options):
    """Options of the benchmark."""

    rows: int = 10_000
    """Number of rows of each set."""
    width: int = 2048
    """Number of features."""
    only: tuple[str, ...] = ("frechet", "coverage")
    """Distances to measure: frechet, coverage."""
    timeout: float = 1200.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows <= 10:
            raise ValueError(f"rows must be more than 10, got {self.rows}")


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
    title = f"{config.rows:,} rows of {config.width:,} features in each set, {config.rounds} rounds"
    headings = ("median s", "min-max", "times genmod", "value")
    table = comparison.open_table(title, "distance", *headings)
    for what in comparison.chosen(config.only, KINDS):
        labels = {name: label for name, label in ROWS.items() if name.startswith(what)}
        answers = comparison.measured(
            "distances",
            labels,
            lambda name: Job(name, "", batch_size=config.width, steps=config.rows),
            config,
            console,
            peers={name: PEERS[name] for name in labels if name in PEERS},
        )
        for name, found in answers.items():
            table.add_row(
                ROWS[name],
                *comparison.median_and_extent(comparison.seconds(found), digits=2),
                comparison.times_of(answers, name, base=f"{what}/genmod"),
                f"{found[-1]['value']:.9g}",
            )
    console.print(table)
    theirs = ("torch", "torch_fidelity", "prdc", "scikit_learn")
    comparison.print_versions(console, config, own=("numpy",), peers=theirs)


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
