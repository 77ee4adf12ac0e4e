"""Penalties that keep a discriminator's gradient small: `(keys [B], critic, real, fake) -> [B]`.

`critic` is any function x [B, ...] -> [B] (or [B / packing]), whose parameters the caller
differentiates: every penalty is itself differentiable by them. Penalties are combined with `+` and
weighted with `*`:

    penalty = 0.5 * gan.r1 + 0.5 * gan.r2

A penalty of one's own is a function of those four arguments, made one by `gan.Penalty.of`, or
handed to the learner as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Keys, Params

Critic = Callable[[Array], Array]
PenaltyFunction = Callable[[Keys, Critic, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A weighted sum of penalties; calling it gives [B].

    Attributes:
      terms: (name, weight, function) of each; a weight may be a traced number. Names differ: a
        term draws from a stream of its name, which no other use of the keys has, and is reported
        under it.

    Raises:
      ValueError: if two terms have one name, or a name is none.
    """

    terms: tuple[tuple[str, Any, PenaltyFunction], ...]

    # NumPy would multiply an array by a penalty itself, number by number.
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.terms]
        for name in names:
            if not (isinstance(name, str) and name):
                raise ValueError(f"a penalty's name must be a word, got {name!r}")
        if len(set(names)) < len(names):
            raise ValueError(
                f"penalties that are added must differ in name, got {names}: "
                "weigh one with *, or name it with Penalty.of(function, name)"
            )

    @classmethod
    def of(cls, function: PenaltyFunction, name: str | None = None) -> Penalty:
        """A function `(keys, critic, real, fake) -> [B]` as a penalty of weight 1.

        Args:
          function: the penalty.
          name: what it is called in reports; the function's own name by default.
        """
        return cls(((name or getattr(function, "__name__", "penalty"), 1.0, function),))

    def __call__(self, keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        """The weighted sum.

        Args:
          keys: one per example, [B]; each term draws from the stream "penalty NAME".
          critic: x [B, ...] -> [B], or [B / packing].
          real: real images, floating, [B, ...].
          fake: generated images, floating, [B, ...].

        Returns:
          [B].

        Raises:
          ValueError: if real and fake differ in shape or are not floating, or keys are not one
            per example.
        """
        if real.shape != fake.shape:
            raise ValueError(
                f"real and fake must have one shape, got {real.shape} and {fake.shape}"
            )
        for name, x in (("real", real), ("fake", fake)):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                raise ValueError(f"{name} must be floating, got {x.dtype} (scale the images first)")
        checks.keys(keys, len(real))
        total = jnp.zeros(len(real), real.dtype)
        for name, weight, function in self.terms:
            own = rng.stream(keys, f"penalty {name}")
            total = total + weight * function(own, critic, real, fake)
        return total

    def __add__(self, other: Penalty) -> Penalty:
        if not isinstance(other, Penalty):
            return NotImplemented
        return Penalty(self.terms + other.terms)

    def __rmul__(self, weight: float | Array) -> Penalty:
        if callable(weight) and not isinstance(weight, Penalty):  # a schedule: this says what to do
            checks.not_negative("a penalty's weight", weight)
        if not isinstance(weight, int | float | np.number | jax.Array) or jnp.ndim(weight):
            return NotImplemented
        if not isinstance(weight, jax.core.Tracer):
            checks.not_negative("a penalty's weight", float(weight))
        return Penalty(tuple((name, weight * old, f) for name, old, f in self.terms))

    __mul__ = __rmul__


def _gradients(critic: Critic, x: Array) -> Array:
    """The critic's gradient at each example, [B, D].

    Of the sum over the batch: where the critic's output for one example depends on others (packing,
    batch normalisation), their share is in it, as in every implementation of these penalties. With
    packing it is each example's own part of its pack's gradient: the squared norms of a pack's
    examples add up to that of the pack.
    """
    return _gradients_of_packs(critic, x).reshape(len(x), -1)


def _gradients_of_packs(critic: Critic, x: Array) -> Array:
    """The critic's gradient at each pack of consecutive examples, [B / packing, packing * D]."""

    def total(x: Array) -> tuple[Array, Array]:
        judged = critic(x)
        return jnp.sum(judged), judged

    gradients, judged = jax.grad(total, has_aux=True)(x)
    if judged.ndim != 1 or not len(judged) or len(x) % len(judged):
        raise ValueError(
            "the critic must give one number for each example or each pack of equally many, "
            f"[B] or [B / packing] with B = {len(x)}, got {list(judged.shape)}"
        )
    return gradients.reshape(len(judged), -1)


def _distance_from_one(critic: Critic, x: Array) -> Array:
    """(|grad D| - 1)^2 at each example, [B]: that of its pack, where the critic judges packs."""
    each = jnp.square(_norms(_gradients_of_packs(critic, x)) - 1)
    return each if len(each) == len(x) else jnp.repeat(each, len(x) // len(each))


def _squared_norms(gradients: Array) -> Array:
    return jnp.einsum("bd,bd->b", gradients, gradients, precision=jax.lax.Precision.HIGHEST)


def _norms(gradients: Array) -> Array:
    """Norms whose derivative at 0 is 0, where that of a square root is infinite."""
    squared = _squared_norms(gradients)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def _r1(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    del keys, fake
    return _squared_norms(_gradients(critic, real))


def _r2(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    del keys, real
    return _squared_norms(_gradients(critic, fake))


r1 = Penalty.of(_r1, "r1")
"""|grad D(x)|^2 at real images (Mescheder, Geiger & Nowozin 2018, equation 9).

Their weight is gamma / 2: gamma = 1 is `0.5 * r1`.
"""

r2 = Penalty.of(_r2, "r2")
"""|grad D(x)|^2 at generated images (Mescheder et al. 2018, equation 10; weight gamma / 2)."""


def _uniform(keys: Keys, x: Array, shape: tuple[int, ...]) -> Array:
    """Numbers in [0, 1), of one shape for each example of x and from its own key."""
    checks.keys(keys, len(x))
    return jax.vmap(lambda key: jax.random.uniform(key, shape, x.dtype))(keys)


def _gradient_penalty(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    share = _uniform(keys, real, (1,) * (real.ndim - 1))
    between = share * real + (1 - share) * fake
    return _distance_from_one(critic, between)


gradient_penalty = Penalty.of(_gradient_penalty, "gradient_penalty")
"""(|grad D(x)| - 1)^2 at points between a real and a generated image (WGAN-GP).

Gulrajani et al. (2017), equation 3, where its weight is 10. Each example draws its own point,
uniform on the line from one to the other. Where the critic judges packs (Lin et al. 2018), it is a
function of packs, and the norm is that of its gradient by all of a pack: the pack's consecutive
examples share one value.
"""


def _dragan(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    del fake
    noise = _uniform(keys, real, real.shape[1:])
    near = real + 0.5 * jax.lax.stop_gradient(_deviation(real)) * noise
    return _distance_from_one(critic, near)


def _deviation(x: Array) -> Array:
    """The standard deviation of all values of a batch, wherever its examples lie."""
    if any(cut.what == devices.MICROBATCHES for cut in devices.cuts()):
        raise ValueError(
            "dragan needs the standard deviation of the whole batch, which "
            "microbatches do not know: microbatches must be 1 with it (r1, r2 and gradient_penalty "
            "are the same in microbatches)"
        )
    wide = x.astype(checks.summed_as(x.dtype))
    mean = devices.mean(jnp.mean(wide))
    return jnp.sqrt(devices.mean(jnp.mean(jnp.square(wide - mean)))).astype(x.dtype)


dragan = Penalty.of(_dragan, "dragan")
"""(|grad D(x)| - 1)^2 near the real images (DRAGAN; Kodali et al. 2017, equation 1; weight 10).

The paper adds Gaussian noise of a variance to be tuned. This is the noise of the authors' code,
which follows the data's scale: uniform in [0, s / 2), drawn for each value, with s the standard
deviation of all values in the batch, over all devices that share it; a microbatch does not know it
and is refused (ValueError). (Their code then goes only a random part of the way to that
point, which the paper does not.) Of packs, the norm is that of the pack, as in `gradient_penalty`.
"""


def weighted(*terms: tuple[float, Penalty]) -> Penalty:
    """The sum of penalties, (weight, penalty) each, without those of weight 0.

    For weights that come from a configuration: what weighs nothing is neither computed nor logged.
    """
    parts = [weight * penalty for weight, penalty in terms if weight]
    return sum(parts, Penalty(()))


def weight_clipping(limit: float) -> Callable[[Params], Params]:
    """A transform of parameters: each number is kept in [-limit, limit].

    Arjovsky et al. (2017), algorithm 1, where the limit is 0.01. Apply it to the critic's
    parameters after each of its updates.

    Raises:
      ValueError: if limit is not positive.
    """
    checks.positive("limit", limit)
    return lambda params: jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), params)
