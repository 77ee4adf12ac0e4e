"""Table of GANs on the 2-D mixtures.

    python experiments/tables/mixtures.py --out table.json

The rows are four games on the ring and on the grid, with ten seeds each. A row is the experiment
`mixtures` with the flags of its game, and all seeds of a row are one program (`train.over_seeds`):
seed k of a row is `genmod train mixtures --seed k` with these flags. The table has mean and
standard error over seeds of PacGAN's three scores on 2,500 samples, drawn from the exponential
moving average (EMA) of the generator. Beside them are the scores of perfect samples, and those that
PacGAN published for its own, larger networks.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from genmod import checks, data, devices, evaluate, rng, train
from genmod._host import machine
from genmod.runs import catalogue, several

GAMES: dict[str, dict[str, Any]] = {
    "nonsaturating": {"loss": "nonsaturating", "r1": 0.0, "r2": 0.0},
    "nonsaturating, packing 4": {"loss": "nonsaturating", "r1": 0.0, "r2": 0.0, "packing": 4},
    "relativistic + r1 + r2": {},
    "relativistic + r1 + r2, finite differences": {"sigma": 0.01},
}
SAMPLES = 2500
# Table 1 of Lin et al. (2018) has these scores: modes, share of high quality, reverse KL. Their
# generator has 4 layers of 400 units, their discriminator 3 maxout layers of 200.
PUBLISHED = {
    "ring": {"GAN": (6.3, 0.982, 0.45), "PacGAN4": (7.8, 0.959, 0.07)},
    "grid": {"GAN": (17.3, 0.948, 0.70), "PacGAN4": (24.8, 0.936, 0.04)},
}


@dataclass(frozen=True)
class Options:
    """Options of the table."""

    seeds: int = 10
    """Number of seeds of each row: 0, 1, 2, ..."""
    epochs: int = 31
    """Length of each run and of its cosine schedule, in epochs."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="JSON")] = None
    """File of all scores; rows in it are not computed again."""

    def __post_init__(self):
        for name in ("seeds", "epochs"):
            checks.positive_integer(name, getattr(self, name))


def scores(mixture: str, flags: dict[str, Any], options: Options) -> tuple[list[Any], float]:
    """Computes the scores of each seed of one row.

    Also returns the seconds that all seeds took together.
    """
    file = catalogue.load(Path(__file__).parents[1] / "mixtures.py")
    config = file.Config(
        mixture=mixture, epochs=options.epochs, decay_epochs=options.epochs, **flags
    )
    built = file.build(config)
    learner = several.over(built, 0, options.seeds, jax.devices()).learner
    began = time.perf_counter()
    (*_, end) = train.run(learner, rng.root(0), built.batch_at, num_steps=built.num_steps)
    samples = jax.jit(learner.sample, static_argnums=2)(rng.root(1), end.state, SAMPLES)
    seconds = time.perf_counter() - began
    truth = data.MIXTURES[mixture]
    found = [evaluate.mixture_modes(np.asarray(x), truth.centers, truth.std) for x in samples]
    return [(s.captured, s.high_quality, s.reverse_kl) for s in found], seconds


def main(options: Options) -> None:
    """Computes missing rows and prints the table."""
    if options.seeds > 1:  # each core trains its share of the seeds
        jax.config.update("jax_num_cpu_devices", devices.evenly(options.seeds, machine.cores()))
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for mixture in PUBLISHED:
        for name, flags in GAMES.items():
            row = _row(mixture, name, options)
            if row not in kept:
                found, seconds = scores(mixture, flags, options)
                kept[row] = {"scores": found, "seconds": seconds}
                print(row, f"{seconds:.0f} s", found, flush=True)
                if options.out:
                    options.out.write_text(json.dumps(kept, indent=1) + "\n")
    _print(kept, options)


def _row(mixture: str, name: str, options: Options) -> str:
    return f"{mixture}: {name}, {options.seeds} seeds, {options.epochs} epochs"


def _print(kept: dict[str, Any], options: Options) -> None:
    table = Table("mixture", "game", "modes", "fewest", "high quality", "reverse KL", "seconds")
    for mixture, published in PUBLISHED.items():
        for name in GAMES:
            row = kept[_row(mixture, name, options)]
            values = np.array(row["scores"], np.float64)
            cells = [
                f"{mean:.3g} +- {error:.1g}"
                for mean, error in (evaluate.estimate(column) for column in values.T)
            ]
            fewest = f"{values[:, 0].min():.0f}"
            seconds = f"{row['seconds']:.0f}"
            table.add_row(mixture, name, cells[0], fewest, cells[1], cells[2], seconds)
        truth = data.MIXTURES[mixture]
        # The floor depends on the number of samples and not on their values.
        some = np.resize(truth.centers, (SAMPLES, 2))
        floor = evaluate.mixture_modes(some, truth.centers, truth.std).floor
        modes, quality = f"{floor.captured:.3g}", f"{floor.high_quality:.3f}"
        kl = f"{floor.reverse_kl:.4f}"
        table.add_row(mixture, "perfect samples", modes, modes, quality, kl, "")
        for name, values in published.items():
            cells = [f"{value:.3g}" for value in values]
            table.add_row(mixture, f"{name} (published)", cells[0], "", cells[1], cells[2], "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
