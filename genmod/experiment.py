"""What an experiment is: what `build(config)` of an experiment file returns."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
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
"""So many images does a look draw by default."""


class Observation(NamedTuple):
    """What a look at a run in training has seen.

    Attributes:
      numbers: by name, for the log; arrays [num] where there are several runs.
      figures: matplotlib figures by name; each look's are kept.
      warnings: what the person who trains should hear of, each of them once.
      images: grids of images [N, H, W, C] by name; each look's are kept, pixel for pixel.
    """

    numbers: Mapping[str, Any] = MappingProxyType({})
    figures: Mapping[str, Figure] = MappingProxyType({})
    warnings: Sequence[str] = ()
    images: Mapping[str, Any] = MappingProxyType({})


class Latents(NamedTuple):
    """The latent space of a model, for its pictures, the report's explorer and an export.

    Attributes:
      dim: number of latent dimensions L.
      decoder: `(key, state) -> (z [B, L] -> images [B, H, W, C] in [0, 1])`; the key is for
        networks that settle statistics first, as `Learner.decoder` has it.
      encode: `(state, x [B, H, W, C] in [0, 1]) -> codes [B, L]`; None where there is no encoder.
      normal: whether decoding z ~ N(0, I) draws from the model.
    """

    dim: int
    decoder: Callable[[Key, Any], Callable[[Array], Array]]
    encode: Callable[[Any, Array], Array] | None = None
    normal: bool = True


class Experiment(NamedTuple):
    """What `build(config)` of an experiment file returns.

    Attributes:
      learner: what is trained.
      batch_at: `(key, step) -> batch`, as from `data.batches`.
      dataset: the training data; its length and batch_size make an epoch, its fingerprint the
        record.
      batch_size: number of examples in a batch, as `batch_at` has them.
      epochs: where the run ends. Nothing else may depend on it: that lets a finished run go on.
      observe: `(key, state) -> Observation`, at log points during training, always with the same
        key: samples keep their noise from look to look. If None, a grid of samples where `latents`
        are given, else nothing.
      evaluate: `(key, state) -> numbers by name`, once, at the end; a look's numbers if None.
      figures: `(key, state) -> matplotlib figures by name`, once, at the end. If None, those of
        `latents` where they are given, else a look's.
      observe_every: steps between two looks; an epoch's if None.
      show: `samples -> matplotlib figure`, for `genmod sample`; a grid of images if None.
      latents: the model's latent space, where it makes images of it.
      test: images that are not trained on, for pictures of reconstructions and codes.
    """

    learner: Learner
    batch_at: BatchAt
    dataset: Dataset
    batch_size: int
    epochs: float
    observe: Callable[[Key, Any], Observation] | None = None
    evaluate: Callable[[Key, Any], Mapping[str, float]] | None = None
    figures: Callable[[Key, Any], Mapping[str, Figure]] | None = None
    observe_every: int | None = None
    show: Callable[[Any], Figure] | None = None
    latents: Latents | None = None
    test: Dataset | None = None

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

    def check_batch_size(self) -> None:
        """Refuses a batch size that is not that of `batch_at`.

        Raises:
          ValueError: with both numbers.
        """
        known = data.describe(self.batch_at).get("batch_size")
        if known is None and not isinstance(self.batch_at, Stream):
            batch = jax.eval_shape(self.batch_at, rng.root(0), np.int32(0))
            sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(batch)}
            ((known,),) = sizes if len(sizes) == 1 and () not in sizes else [(self.batch_size,)]
        if known != self.batch_size:
            raise ValueError(
                f"Experiment.batch_size must be that of batch_at, got {self.batch_size} where the "
                f"batches have {known} examples: epochs and rates would be wrong"
            )

    def sample(self, key: Key, state: Any, num: int) -> Array:
        """The learner's samples, compiled: images [num, H, W, C]."""
        return jax.jit(self.learner.sample, static_argnums=2)(key, state, num)

    def observation(self, key: Key, state: Any) -> Observation:
        """A look at a run in training: `observe`, or samples where it is None."""
        if self.observe is not None:
            return self.observe(key, state)
        if self.latents is None or not self.latents.normal:
            return Observation()
        return Observation(images={"samples": self.sample(key, state, _DRAWN)})

    def final_figures(self, key: Key, state: Any) -> Mapping[str, Figure] | None:
        """The pictures of the end: `figures`, or those of the latents; None without either."""
        if self.figures is not None:
            return self.figures(key, state)
        latents = self.latents
        if latents is None:
            return None
        samples = self.sample(key, state, 100) if latents.normal else None
        if latents.encode is None or self.test is None:
            return report.generator_figures(self.dataset.images, samples)
        return report.autoencoder_figures(
            self.dataset,
            self.test,
            encode=jax.jit(functools.partial(latents.encode, state)),
            decode=jax.jit(latents.decoder(key, state)),
            samples=samples,
            manifold=latents.normal,
        )

    def epoch(self, step: int) -> float:
        """Number of epochs that `step` steps make."""
        return step * self.batch_size / len(self.dataset.images)


def over_seeds(built: Experiment, seed: int, num: int) -> Experiment:
    """`num` runs of an experiment as one, of seed, seed + 1, ...

    Its functions take keys [num] and a state with a leading axis of runs. Numbers become arrays
    [num], NaN where a run has none of a name; figures get the seed into their name; looks draw
    those of the first run.
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

    return built._replace(
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
    """An experiment as it is run: with several seeds as one program, on several devices.

    Raises:
      ValueError: if the last seed is none.
    """
    checks.seed("seed", seed + seeds - 1)
    if seeds > 1:
        built = over_seeds(built, seed, seeds)
    if len(devices) > 1:
        built = built._replace(learner=train.over_devices(built.learner, how, devices))
    return built
