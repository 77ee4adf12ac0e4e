"""Table of log-likelihoods of a VAE and a GAN by annealed importance sampling.

    python experiments/tables/likelihood.py --out FOLDER

It is the comparison of Wu et al. (2017, arXiv:1611.04273) on continuous MNIST, for their small
decoder 10-64-256-256-1024-784. Both models are trained on images with uniform noise on the grey
values, in [0, 1), and get a spherical Gaussian observation, whose sigma is chosen on validation
images. The lower bound of log p(x) on test images is by annealed importance sampling; the gap
between both bounds on images that the model simulates (bidirectional Monte Carlo) tells how far it
may be trusted. Expect, in about half an hour of processor time, 621 +- 37 nats for VAE-10 with a
gap of 1.8 +- 0.4, and 132 +- 27 for GAN-10 with a gap of 0.6 +- 0.2.

Training and sampling are shorter than in the article: its 16 chains, 10,000 temperatures and 1,000
test images are `--chains 16 --temperatures 10000 --images 1000`, a matter for a GPU. Everything is
kept in a folder, so an interrupted table continues.
"""

import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.console import Console
from rich.table import Table

from genmod import checks, data, evaluate, gan, nets, rng, train, vae
from genmod.evaluate.annealing import annealed, bidirectional
from genmod.evaluate.observation import choose_sigma, gaussian_observation

LATENT_DIM = 10
HIDDEN = (64, 256, 256, 1024)
SHAPE = (28, 28, 1)
# Table 1 of Wu et al. (2017): AIS on test images with its error, gap of BDMC.
PUBLISHED = {"VAE": (705.4, 7.4, 0.8), "GAN": (328.8, 5.5, 0.9)}


@dataclass(frozen=True)
class Options:
    """Options of the table."""

    dataset: str = "mnist"
    """Data set: mnist, or idx:FOLDER."""
    epochs: int = 10
    """Length of training of each model, in epochs of 50,000 images."""
    vae_sigma: float = 0.1
    """Standard deviation of the VAE's observation while it is trained."""
    sigmas: tuple[float, ...] = (0.07, 0.09, 0.11, 0.13, 0.16, 0.19, 0.23, 0.28)
    """Candidates for the standard deviation of the observation."""
    validation: int = 10
    """Validation images on which sigma is chosen."""
    images: int = 50
    """Test images."""
    simulated: int = 25
    """Simulated images, for the gap."""
    at_once: int = 25
    """Images that are annealed together and kept; an interruption loses no more."""
    chains: int = 8
    """Chains for each image."""
    temperatures: int = 500
    """Intermediate distributions; a fourth of them to choose sigma."""
    seed: int = 0
    """Seed of everything."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for models and numbers; what is in it is not computed again."""

    def __post_init__(self):
        counts = ("epochs", "validation", "images", "simulated", "at_once", "chains")
        for name in (*counts, "temperatures"):
            checks.positive_integer(name, getattr(self, name))
        checks.positive("vae_sigma", self.vae_sigma)
        checks.seed("seed", self.seed)

    @property
    def recipe(self) -> str:
        """Training of the models, as part of names."""
        return f"{self.dataset.replace('/', '-')}, {self.epochs} epochs, seed {self.seed}"

    @property
    def budget(self) -> str:
        """Annealing of the images, as part of names."""
        return f"{self.chains} chains, {self.temperatures} temperatures"


class Model(NamedTuple):
    """Model to be trained, and its generator.

    Attributes:
      learner: the learner.
      params: function `(key, state) -> params` for the generator.
      generate: function `(params, z [B, 10]) -> images [B, 28, 28, 1]`.
    """

    learner: train.Learner
    params: Callable[[Any, Any], Any]
    generate: Callable[[Any, Any], Any]


def variational(options: Options) -> Model:
    """Returns the VAE, with a Gaussian observation of fixed sigma."""
    observed = gaussian_observation(lambda params, mean: mean, options.vae_sigma)
    likelihood = vae.Likelihood(functools.partial(observed.log_likelihood, ()), lambda mean: mean)
    model = vae.make(
        nets.mlp(HIDDEN[::-1], 2 * LATENT_DIM, heads=2),
        nets.mlp(HIDDEN, SHAPE, output=jax.nn.sigmoid),
        latent_dim=LATENT_DIM,
        likelihood=likelihood,
    )
    learner = train.learner(
        model.init,
        vae.elbo(model),
        optax.adam(optax.cosine_decay_schedule(1e-3, options.epochs * 500)),
        sample=vae.generate(model),
    )
    return Model(learner, lambda key, state: state.params, vae.decode_mean(model))


def adversarial(options: Options) -> Model:
    """Returns the GAN, with batch normalisation in its generator.

    After training, the generator's statistics are those of many draws and stand still.
    """
    del options
    model = gan.make(
        nets.mlp(HIDDEN, SHAPE, norm="batch", output=jax.nn.sigmoid),
        nets.mlp(
            HIDDEN[::-1], 1, activation=functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
        ),
        latent_dim=LATENT_DIM,
        image_range=(0, 1),
    )
    learner = train.adversarial(model, gan.nonsaturating, optax.adam(2e-4, b1=0.5))
    return Model(learner, lambda key, state: model.standing(key, state.params), model.generate)


MODELS: dict[str, Callable[[Options], Model]] = {"VAE": variational, "GAN": adversarial}


class Kept:
    """Numbers and models in a folder, each of which is computed once."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.file = folder and folder / "numbers.json"
        self.numbers: dict[str, Any] = {}
        if self.file and self.file.exists():
            self.numbers = json.loads(self.file.read_text())

    def number(self, name: str, compute: Callable[[], Any]) -> Any:
        """Returns a value that JSON can hold, by its name."""
        if name not in self.numbers:
            began = time.perf_counter()
            self.numbers[name] = compute()
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self.file.write_text(json.dumps(self.numbers, indent=1) + "\n")
        return self.numbers[name]

    def arrays(self, name: str, like: Any, compute: Callable[[], Any]) -> Any:
        """Returns a tree of arrays of the structure of `like`, by its name."""
        file = self.folder and self.folder / f"{name}.npz"
        if file and file.exists():
            with np.load(file) as found:
                return jax.tree.unflatten(jax.tree.structure(like), list(found.values()))
        began = time.perf_counter()
        tree = jax.block_until_ready(compute())
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, *map(np.asarray, jax.tree.leaves(tree)))
        return tree


def trained(name: str, model: Model, images: Any, options: Options, kept: Kept) -> Any:
    """Returns the parameters of a trained model."""
    key = rng.stream(rng.root(options.seed), name)
    batch_at = data.batches(images, batch_size=100, prepare=data.dequantized)

    def compute(key: Any) -> Any:
        num_steps = options.epochs * len(images) // 100
        (*_, end) = train.run(model.learner, key, batch_at, num_steps=num_steps)
        return jax.jit(model.params)(rng.stream(key, "standing"), end.state)

    def like(key: Any) -> Any:
        return model.params(key, model.learner.init(key, batch_at(key, jnp.int32(0))))

    return kept.arrays(f"{name}, {options.recipe}", jax.eval_shape(like, key), lambda: compute(key))


def spans(num: int, options: Options) -> Iterator[tuple[int, int]]:
    """Yields first and last number of the images that are annealed together."""
    for first in range(0, num, options.at_once):
        yield first, min(first + options.at_once, num)


def bounds(name: str, options: Options, kept: Kept) -> dict[str, Any]:
    """Returns sigma, lower bounds on test images, and both bounds on simulated ones."""
    source = data.Source(dataset=options.dataset, splits="vamp")
    images = {part: source.load(part) for part in ("train", "val", "test")}
    model = MODELS[name](options)
    params = trained(name, model, images["train"].images, options, kept)
    key = rng.stream(rng.stream(rng.root(options.seed), name), "evaluate")
    common = {"latent_dim": LATENT_DIM, "num_chains": options.chains}

    def noisy(part: str, first: int, last: int) -> np.ndarray:
        keys = rng.per_example(rng.stream(key, part), last)[first:]
        return np.asarray(data.dequantized(keys, jnp.asarray(images[part].images[first:last])))

    def chosen() -> dict[str, Any]:
        found = choose_sigma(
            rng.stream(key, "sigma"),
            params,
            noisy("val", 0, options.validation),
            model.generate,
            sigmas=options.sigmas,
            num_temperatures=math.ceil(options.temperatures / 4),
            batch_size=2 * options.at_once,
            **common,
        )
        lower = {f"{s:g}": one for s, one in zip(found.sigmas, found.lower, strict=True)}
        return {"sigma": found.sigma, "lower": lower}

    row = f"{name}, {options.recipe}, {options.budget}"
    candidates = "/".join(f"{sigma:g}" for sigma in options.sigmas)
    what = f"{row}: sigma of {candidates} on {options.validation} images"
    sigma = kept.number(what, chosen)["sigma"]
    model_of = gaussian_observation(model.generate, sigma)
    common["num_temperatures"] = options.temperatures

    def test(first: int, last: int) -> dict[str, Any]:
        """Returns lower bounds with their errors."""
        own = rng.at_step(rng.stream(key, "annealed"), first)
        found = annealed(own, params, noisy("test", first, last), model_of[0], **common)
        return {
            "lower": found.lower.tolist(),
            "error": found.error.tolist(),
            "acceptance": found.acceptance.tolist(),
        }

    def simulate(first: int, last: int) -> dict[str, Any]:
        """Returns both bounds."""
        own = rng.at_step(rng.stream(key, "simulated"), first)
        found = bidirectional(own, params, last - first, *model_of, **common).interval
        return {"lower": found.lower.tolist(), "upper": found.upper.tolist()}

    def together(part: str, num: int, compute: Callable[[int, int], Any]) -> dict[str, np.ndarray]:
        parts = [
            kept.number(f"{row}, sigma {sigma:g}: {part} {first} to {last - 1}", call)
            for first, last in spans(num, options)
            for call in [functools.partial(compute, first, last)]
        ]
        return {field: np.concatenate([one[field] for one in parts]) for field in parts[0]}

    return {
        "sigma": sigma,
        "test": together("test", options.images, test),
        "simulated": together("simulated", options.simulated, simulate),
    }


def main(options: Options) -> None:
    """Computes what is missing and prints the table."""
    kept = Kept(options.out)
    table = Table(
        *("model", "sigma", "AIS, test", "BDMC gap", "largest gap", "error over chains"),
        title=f"log p(x) in nats: {options.recipe}, {options.budget}",
    )
    for name in MODELS:
        found = bounds(name, options, kept)
        test, simulated = found["test"], found["simulated"]
        mean, error = evaluate.estimate(test["lower"])
        gaps = simulated["upper"] - simulated["lower"]
        gap, gap_error = evaluate.estimate(gaps)
        table.add_row(
            f"{name}-{LATENT_DIM}",
            f"{found['sigma']:g}",
            f"{mean:.1f} +- {error:.1f}",
            f"{gap:.1f} +- {gap_error:.1f}",
            f"{gaps.max():.1f}",
            f"{np.mean(test['error']):.2f}",
        )
    for name, (lower, error, gap) in PUBLISHED.items():
        row = f"{name}-{LATENT_DIM} (published)"
        table.add_row(row, "", f"{lower:.1f} +- {error:.1f}", f"{gap:.1f}", "", "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
