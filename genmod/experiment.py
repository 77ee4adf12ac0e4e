"""Experiments: the parts that `build(config)` of an experiment file returns."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from genmod import checks, data, report, rng, train
from genmod.data import Dataset
from genmod.train import Learner
from genmod.types import Array, BatchAt, Key, Keys, Stream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN = 64
"""Number of images that an observation draws by default."""


class Observation(NamedTuple):
    """Result of observing a run in training.

    Attributes:
      numbers: numbers by name, for the log; arrays [num] if there are several runs.
      figures: matplotlib figures by name; those of each observation are kept.
      warnings: texts for the person who trains; each is printed once.
      images: grids of images [N, H, W, C] by name; those of each observation are kept, pixel for
        pixel.
    """

    numbers: Mapping[str, Any] = MappingProxyType({})
    figures: Mapping[str, Figure] = MappingProxyType({})
    warnings: Sequence[str] = ()
    images: Mapping[str, Any] = MappingProxyType({})


class Latents(NamedTuple):
    """Latent space of a model.

    Pictures, the explorer of the report and exports use it.

    Attributes:
      dim: number of latent dimensions L.
      decoder: `(key, state) -> (z [B, L] -> images [B, H, W, C] in [0, 1])`; the key is for
        networks that settle statistics first, as in `Learner.decoder`.
      encode: `(state, x [B, H, W, C] in [0, 1]) -> codes [B, L]`; None without an encoder.
      standard_normal_prior: whether decoding z ~ N(0, I) draws from the model.
    """

    dim: int
    decoder: Callable[[Key, Any], Callable[[Array], Array]]
    encode: Callable[[Any, Array], Array] | None = None
    standard_normal_prior: bool = True

    @classmethod
    def of(cls, model: Any) -> Latents:
        """Returns the latent space of a VAE with the prior N(0, I).

        Images are the means of p(x|z), codes the means of q(z|x).

        Args:
          model: a `Vae`, or anything with `latent_dim`, `encode`, `decode` and `likelihood`.
        """
        return cls(
            model.latent_dim,
            decoder=lambda key, state: (
                lambda z: model.likelihood.mean(model.decode(state.params, z))
            ),
            encode=lambda state, x: model.encode(state.params, x)[0],
        )


@dataclass(frozen=True)
class Settings:
    """Flags of every experiment: base class of a Config.

    Each field of a subclass is checked by the range in its annotation, such as `checks.Count`.
    """

    seed: checks.Seed = 0
    """Seed of everything random."""
    epochs: checks.Count = 10
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 100
    """Examples in a batch."""

    def __post_init__(self):
        checks.fields(self)


@dataclass(frozen=True)
class Experiment:
    """An experiment: what `build(config)` of an experiment file returns.

    Attributes:
      learner: the learner to train.
      batch_at: `(key, step) -> batch`, as from `data.batches`.
      dataset: the training data. An epoch is as long as they are; the record has their fingerprint.
      epochs: length of the run. Nothing else may depend on it: that lets a finished run go on.
      batch_size: number of examples in a batch; read from batch_at if 0.
      observe: `(key, state) -> Observation`, at log points during training, always with the same
        key: samples keep their noise from one observation to the next. If None, a grid of samples
        if there are `latents`, else nothing.
      evaluate: `(key, state) -> numbers by name`, once, at the end. If None, the numbers of an
        observation.
      figures: `(key, state) -> matplotlib figures by name`, once, at the end. If None, those of
        `latents` if there are any, else those of an observation.
      observe_every: steps between two observations; those of an epoch if None.
      show: `samples -> matplotlib figure`, for `genmod sample`; a grid of images if None.
      latents: latent space of the model, if it makes images of it.
      test: test data, for pictures of reconstructions and codes.

    Raises:
      ValueError: if batch_size is not that of batch_at, or batch_at does not say it.
    """

    learner: Learner
    batch_at: BatchAt
    dataset: Dataset
    batch_size: int = 0
    epochs: float = 1
    observe: Callable[[Key, Any], Observation] | None = None
    evaluate: Callable[[Key, Any], Mapping[str, float]] | None = None
    figures: Callable[[Key, Any], Mapping[str, Figure]] | None = None
    observe_every: int | None = None
    show: Callable[[Any], Figure] | None = None
    latents: Latents | None = None
    test: Dataset | None = None

    def __post_init__(self):
        known = _batch_size_of(self.batch_at) or self.batch_size
        if self.batch_size not in (0, known):
            raise ValueError(
                f"Experiment.batch_size must be that of batch_at, got {self.batch_size} where the "
                f"batches have {known} examples: epochs and rates would be wrong"
            )
        if not known:
            raise ValueError("Experiment.batch_size must be given, as batch_at does not say it")
        object.__setattr__(self, "batch_size", known)

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole run."""
        # As a fraction: 0.07 epochs of 100 examples are 7, not 7.000000000000001.
        examples = Fraction(str(self.epochs)) * len(self.dataset.images)
        return max(1, math.ceil(examples / self.batch_size))

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of an epoch, rounded up."""
        return math.ceil(len(self.dataset.images) / self.batch_size)

    def sample(self, key: Key, state: Any, num: int) -> Array:
        """Returns samples of the learner, images [num, H, W, C], by a compiled program."""
        return jax.jit(self.learner.sample, static_argnums=2)(key, state, num)

    def observation(self, key: Key, state: Any) -> Observation:
        """Observes a run in training: by `observe`, or as samples if it is None."""
        if self.observe is not None:
            return self.observe(key, state)
        if self.latents is None or not self.latents.standard_normal_prior:
            return Observation()
        return Observation(images={"samples": self.sample(key, state, _DRAWN)})

    def final_figures(self, key: Key, state: Any) -> Mapping[str, Figure] | None:
        """Draws the pictures of the end: by `figures`, or from the latents.

        Returns:
          Figures by name; None if the experiment has neither.
        """
        if self.figures is not None:
            return self.figures(key, state)
        latents = self.latents
        if latents is None:
            return None
        samples = self.sample(key, state, 100) if latents.standard_normal_prior else None
        if latents.encode is None or self.test is None:
            return report.generator_figures(self.dataset.images, samples)
        return report.autoencoder_figures(
            self.dataset,
            self.test,
            encode=jax.jit(functools.partial(latents.encode, state)),
            decode=jax.jit(latents.decoder(key, state)),
            samples=samples,
            manifold=latents.standard_normal_prior,
        )

    def epoch(self, step: int) -> float:
        """Returns the number of epochs that `step` steps make."""
        return step * self.batch_size / len(self.dataset.images)


def over_seeds(built: Experiment, seed: int, num: int) -> Experiment:
    """Returns `num` runs of an experiment as one experiment.

    The runs are those of seed, seed + 1, and so on. The functions of the experiment take keys [num]
    and a state with a leading axis of runs. Numbers become arrays [num], NaN if a run lacks a name.
    Figures of the end get the seed into their names; observations draw those of the first run.
    """
    seeds = range(seed, seed + num)

    def each(function: Callable[[Key, Any], Any], keys: Keys, state: Any) -> list[Any]:
        runs = [jax.tree.map(lambda leaf, k=k: leaf[k], state) for k in range(num)]
        return [function(keys[k], run) for k, run in enumerate(runs)]

    def together(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}

    def observe(keys: Keys, state: Any) -> Observation:
        seen = each(built.observation, keys, state)
        return Observation(
            together([one.numbers for one in seen]),
            seen[0].figures,
            [
                f"seed {s}: {text}"
                for s, one in zip(seeds, seen, strict=True)
                for text in one.warnings
            ],
            seen[0].images,
        )

    def evaluate(keys: Keys, state: Any) -> Mapping[str, Any]:
        assert built.evaluate is not None
        return together(each(built.evaluate, keys, state))

    def figures(keys: Keys, state: Any) -> Mapping[str, Figure]:
        def draw(key: Key, state: Any) -> Mapping[str, Figure]:
            found = built.final_figures(key, state)
            return built.observation(key, state).figures if found is None else found

        drawn = zip(seeds, each(draw, keys, state), strict=True)
        return {f"seed-{s}/{name}": figure for s, ones in drawn for name, figure in ones.items()}

    return dataclasses.replace(
        built,
        learner=train.over_seeds(built.learner, num),
        observe=observe,
        evaluate=built.evaluate and evaluate,
        figures=figures,
    )


def over(
    built: Experiment,
    seed: int,
    seeds: int = 1,
    devices: Sequence[jax.Device] = (),
    how: Literal["pmap", "sharded"] = "sharded",
) -> Experiment:
    """Returns an experiment over several seeds, on several devices.

    Args:
      built: the experiment, as one run on one device.
      seed: seed of the first run.
      seeds: number of runs in one program.
      devices: devices to use; the default one if there are less than two.
      how: way in which a batch is spread, see `train.over_devices`.

    Raises:
      ValueError: if the last seed is out of range.
    """
    checks.seed("seed", seed + seeds - 1)
    if seeds > 1:
        built = over_seeds(built, seed, seeds)
    if len(devices) > 1:
        built = dataclasses.replace(built, learner=train.over_devices(built.learner, how, devices))
    return built


def _batch_size_of(batch_at: BatchAt) -> int | None:
    """Returns the number of examples in a batch; None if it is unknown."""
    known = data.describe(batch_at).get("batch_size")
    if known is None and not isinstance(batch_at, Stream):
        batch = jax.eval_shape(batch_at, rng.root(0), np.int32(0))
        shapes = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
        if len(shapes) == 1 and () not in shapes:
            ((known,),) = shapes
    return known
