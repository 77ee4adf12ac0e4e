"""Experiments: the parts that `build(config)` of an experiment file returns."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from genmod import checks, data, evaluate, report, rng, train
from genmod.data import Dataset
from genmod.train import Learner
from genmod.types import Array, BatchAt, Key, Keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWN = 64
"""Number of images that an observation draws by default."""
_ENCODED = 500
"""Number of images that an observation encodes by default."""


class Observation(NamedTuple):
    """Result of observing a run in training.

    Attributes:
      numbers: numbers by name, for the log; arrays [num] if there are several runs.
      figures: matplotlib figures by name; those of each observation are kept.
      warnings: texts for the person who trains; each is printed once.
      images: grids of images by name, [N, H, W, C] or [rows, columns, H, W, C]; those of each
        observation are kept, pixel for pixel.
    """

    numbers: Mapping[str, Any] = MappingProxyType({})
    figures: Mapping[str, Figure] = MappingProxyType({})
    warnings: Sequence[str] = ()
    images: Mapping[str, Any] = MappingProxyType({})


class Likelihood(NamedTuple):
    """Likelihood of a model with latents, for `genmod evaluate`.

    Attributes:
      log_weight: `(keys [B], params, batch) -> log w [B]`, one draw's log p(x, z) - log q(z|x) in
        nats, such as `vae.log_weight(model)`.
      examples: test data, an array [N, ...] or a tree of such arrays, as in the batches of
        training.
      prepare: preprocessing of the examples, as for `data.batches`; None leaves them unchanged.
    """

    log_weight: Callable[[Keys, Any, Any], Array]
    examples: Any
    prepare: Any = None


class Latents(NamedTuple):
    """Latent space of a model.

    Pictures, the explorer of the report, and the commands `encode` and `reconstruct` use it. If the
    learner has conditions, the functions get the condition c [B, ...] as their last argument.

    Attributes:
      dim: number of latent dimensions L.
      decoder: `(key, state) -> ((z [B, L], c=None) -> images [B, H, W, C] in [0, 1])`; the key is
        for networks that settle statistics first, as in `Learner.decoder`.
      encode: `(state, x [B, H, W, C] in [0, 1], c=None) -> codes [B, L]`; None without an encoder.
      standard_normal_prior: whether decoding z ~ N(0, I) draws from the model.
      posterior: `(state, x, c=None) -> (mean [B, L], logvar [B, L])` of a diagonal Gaussian q(z|x);
        None if it is another distribution.
    """

    dim: int
    decoder: Callable[[Key, Any], Callable[..., Array]]
    encode: Callable[..., Array] | None = None
    standard_normal_prior: bool = True
    posterior: Callable[..., tuple[Array, ...]] | None = None

    @classmethod
    def of(cls, model: Any) -> Latents:
        """Returns the latent space of a VAE.

        Images are the means of p(x|z), codes the means of q(z|x). They are those of the moving
        average of the parameters if the state has one, as samples are.

        Args:
          model: a `Vae`, or anything with `latent_dim`, `encode`, `decode`, `likelihood`, `prior`
            and `posterior`.
        """

        def decoder(key: Key, state: Any) -> Callable[..., Array]:
            return lambda z, *c: model.likelihood.mean(model.decode(train.drawn_from(state), z, *c))

        def encode(state: Any, x: Array, *c: Any) -> Array:
            return model.encode(train.drawn_from(state), x, *c)[0]

        def posterior(state: Any, x: Array, *c: Any) -> tuple[Array, ...]:
            return model.encode(train.drawn_from(state), x, *c)

        is_diagonal = getattr(model.posterior, "is_diagonal_normal", False)
        return cls(
            model.latent_dim,
            decoder,
            encode,
            model.prior.is_standard_normal,
            posterior if is_diagonal else None,
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

    def steps(self, epochs: int, num: int) -> int:
        """Returns the steps of epochs of `num` examples, at least one."""
        return max(1, epochs * num // self.batch_size)

    def refuse_unused(self, *flags: tuple[str, bool, str]) -> None:
        """Refuses flags that are given, but not used.

        Args:
          *flags: name of a flag, whether it is used, and the name of what does not use it.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, used, what in flags:
            value = getattr(self, name)
            if not used and value != defaults[name]:
                raise ValueError(f"{name} is not used by {what}, got {value}")


@dataclass(frozen=True)
class Goal:
    """Logged number that a run is to improve, the smaller the better by default.

    If there are several runs in one program, it is their mean.

    Attributes:
      metric: name of a metric, or of a number of `Experiment.validate` or `Experiment.observe`.
      larger_is_better: whether larger values are better.

    Raises:
      ValueError: if metric is not a name.
    """

    metric: str
    larger_is_better: bool = False

    def __post_init__(self):
        if not isinstance(self.metric, str) or not self.metric:
            raise ValueError(f"metric must be the name of a logged number, got {self.metric!r}")

    def __str__(self) -> str:
        return f"the {'largest' if self.larger_is_better else 'smallest'} {self.metric}"

    @classmethod
    def of(cls, name: str, goal: str | Goal) -> Goal:
        """Returns a goal that may be given by its metric alone.

        Args:
          name: name of the argument, for the message.
          goal: the goal, or the metric whose smallest value is best.

        Raises:
          ValueError: if it is neither.
        """
        if isinstance(goal, Goal):
            return goal
        if not isinstance(goal, str) or not goal:
            raise ValueError(f"{name} must be the name of a logged number or a Goal, got {goal!r}")
        return cls(goal)


@dataclass(frozen=True)
class Patience:
    """End of a run whose goal no longer improves.

    The run ends at the first log point at which the number has not improved for `patience` of the
    log points that hold it. NaN is no improvement. The log alone decides, so a run that is stopped
    and continued, or repeated by `genmod verify`, ends at the same step.

    A run that has ended does not go on, with more epochs neither. It goes on if `build` returns a
    more patient experiment, as after its file was edited; a field of its `Config` cannot change
    within a run folder.

    Attributes:
      goal: the goal, or the metric whose smallest value is best.
      patience: number of log points without an improvement at which the run ends.
      smallest_change: change from the best value that counts as an improvement; a smaller one, or
        an equal one, does not.

    Raises:
      ValueError: if patience is not positive, smallest_change is negative, or goal is not a goal.
    """

    goal: str | Goal
    patience: checks.Count
    smallest_change: checks.Weight = 0.0

    def __post_init__(self):
        object.__setattr__(self, "goal", Goal.of("goal", self.goal))
        checks.fields(self)

    def __str__(self) -> str:
        by = f" by more than {self.smallest_change:g}" if self.smallest_change else ""
        return f"patience {self.patience} on {self.goal}{by}"


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
        (`grid`) and a warning of posterior collapse if there are `latents`, else nothing.
      evaluate: `(key, state) -> numbers by name`, once, at the end. If None, the numbers of an
        observation.
      figures: `(key, state) -> matplotlib figures by name`, once, at the end. If None, those of
        `latents` if there are any, else those of an observation.
      observe_every: steps between two observations; those of an epoch if None.
      validate: `(key, state) -> numbers by name`, such as `evaluate.on_test(...)`, at log points
        during training, always with the same key. The numbers are logged beside the metrics. It is
        also called once before the first step of each start, where its mistakes are refused.
      validate_every: steps between two validations, each at the next log point; those of an epoch
        if None.
      until: patience that ends the run before its epochs are over.
      best: goal, or the metric whose smallest value is best. The checkpoint of the best log point
        is then kept beside the newest; the first one if several are equally good.
      show: `samples -> matplotlib figure`, for `genmod sample`; a grid of images if None.
      latents: latent space of the model, if it makes images of it.
      test: test data, for pictures of reconstructions and codes, and for `genmod evaluate`.
      likelihood: likelihood of the model, for `genmod evaluate`.
      reference: images of which the floors of distances are taken, such as all of which the
        training data are a few; the training data if None.

    Raises:
      ValueError: if batch_size is not that of batch_at, or batch_at does not say it; if until, best
        or validate_every are not what is described above.
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
    validate: Callable[[Key, Any], Mapping[str, Any]] | None = None
    validate_every: int | None = None
    until: Patience | None = None
    best: str | Goal | None = None
    show: Callable[[Any], Figure] | None = None
    latents: Latents | None = None
    test: Dataset | None = None
    likelihood: Likelihood | None = None
    reference: Dataset | None = None

    def __post_init__(self):
        num = len(self.dataset.images)
        known = data.batch_size_of(self.batch_at, num, self.batch_size) or self.batch_size
        if self.batch_size not in (0, known):
            raise ValueError(
                f"Experiment.batch_size must be that of batch_at, got {self.batch_size} where the "
                f"batches have {known} examples: epochs and rates would be wrong"
            )
        if not known:
            raise ValueError("Experiment.batch_size must be given, as batch_at does not say it")
        object.__setattr__(self, "batch_size", known)
        if self.validate_every is not None:
            checks.positive_integer("Experiment.validate_every", self.validate_every)
            if self.validate is None:
                raise ValueError("Experiment.validate_every needs Experiment.validate, got None")
        if not isinstance(self.until, Patience | None):
            raise ValueError(f"Experiment.until must be a Patience, got {self.until!r}")
        if self.best is not None:
            object.__setattr__(self, "best", Goal.of("Experiment.best", self.best))

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

    @property
    def labels(self) -> np.ndarray | None:
        """Distinct labels that samples can be asked for; None if conditions are no labels."""
        conditions = self.learner.conditions
        return None if conditions is None else conditions.labels

    @property
    def is_given_labels(self) -> bool:
        """Whether the learner's conditions are the labels of its data set."""
        conditions = self.learner.conditions
        return conditions is not None and conditions.are(self.dataset.labels)

    def class_names(self, labels: Any) -> list[str]:
        """Returns names of labels that samples can be asked for."""
        return report.class_names(labels, self.dataset.classes if self.is_given_labels else ())

    def sample(self, key: Key, state: Any, num: int, condition: Any = None) -> Array:
        """Returns samples of the learner, images [num, H, W, C], by a compiled program.

        The condition of a conditional model is a tree of arrays [num, ...]; if it is None, the
        learner draws it.
        """
        given = () if condition is None else (condition,)
        return jax.jit(self.learner.sample, static_argnums=2)(key, state, num, *given)

    def grid(self, key: Key, state: Any, num: int) -> Array:
        """Returns samples for a grid, with a class in each column if they have classes.

        Returns:
          Images [rows, classes, H, W, C] by `report.class_columns`, or else [num, H, W, C].
        """
        labels = None if self.labels is None else report.class_columns(self.labels, num)
        if labels is None:
            return self.sample(key, state, num)
        images = self.sample(key, state, labels.size, labels.ravel())
        return images.reshape(*labels.shape, *images.shape[1:])

    def observation(self, key: Key, state: Any) -> Observation:
        """Observes a run in training: by `observe`, or as samples if it is None."""
        if self.observe is not None:
            return self.observe(key, state)
        if self.latents is None:
            return Observation()
        samples = self._drawn(self.latents, key, state, _DRAWN)
        return Observation(
            images={} if samples is None else {"samples": samples},
            warnings=self._collapse(self.latents, state),
        )

    def _collapse(self, latents: Latents, state: Any) -> list[str]:
        """Warns if no latent unit tells one test image from another (posterior collapse)."""
        conditional = self.learner.conditions is not None
        if latents.posterior is None or (conditional and not self.is_given_labels):
            return []
        seen = self.test or self.dataset
        x = np.asarray(seen.images[:_ENCODED], np.float32) / 255
        c = (seen.labels[:_ENCODED],) if conditional else ()
        mean, _ = jax.jit(latents.posterior)(state, x, *c)
        if len(mean) < 2 or not np.isfinite(mean).all() or evaluate.active_units(mean).num_active:
            return []
        return [
            f"posterior collapse: none of {latents.dim} latent units is active, that is has a mean "
            "whose variance over images exceeds 0.01; samples then ignore the latents"
        ]

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
        samples = self._drawn(latents, key, state, 100)
        in_columns = samples is not None and samples.ndim == 5
        columns = self.class_names(self.labels) if in_columns else []
        conditional = self.learner.conditions is not None
        # Of test images only the labels are known, no other conditions.
        if latents.encode is None or self.test is None or (conditional > self.is_given_labels):
            figures = report.generator_figures(self.dataset.images, samples, columns=columns)
            if latents.standard_normal_prior and conditional <= self.is_given_labels:
                z = jax.random.normal(rng.stream(key, "paths"), (20, latents.dim))
                decode = jax.jit(latents.decoder(key, state))
                figures |= report.prior_figures(np.asarray(z), decode, labels=self.labels)
            return figures
        return report.autoencoder_figures(
            self.dataset,
            self.test,
            encode=jax.jit(functools.partial(latents.encode, state)),
            decode=jax.jit(latents.decoder(key, state)),
            samples=samples,
            manifold=latents.standard_normal_prior,
            conditional=conditional,
            columns=columns,
        )

    def _drawn(self, latents: Latents, key: Key, state: Any, num: int) -> Array | None:
        """Draws samples for a grid; returns None of a model that has no prior."""
        try:
            return self.grid(key, state, num)
        except train.NoSampler:
            if latents.standard_normal_prior:
                raise
            return None

    def epoch(self, step: int) -> float:
        """Returns the number of epochs that `step` steps make."""
        return step * self.batch_size / len(self.dataset.images)
