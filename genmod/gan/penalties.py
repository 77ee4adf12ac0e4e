"""Penalties on the gradient of a discriminator (critic).

A penalty is a function `(keys [B], critic, real, fake) -> [B]`. `critic` is any function from
x [B, ...] to [B], or to [B / packing] if it judges packs. Every penalty is differentiable with
respect to the critic's parameters. Penalties are added with `+` and weighted with `*`:

    penalty = 0.5 * gan.r1 + 0.5 * gan.r2

Your own penalty is a function of these four arguments. Make it a `Penalty` with `gan.Penalty.of`,
or pass the function to the learner as it is.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, devices, rng
from genmod.types import Array, Keys, Params

Critic = Callable[[Array], Array]
PenaltyFunction = Callable[[Keys, Critic, Array, Array], Array]

_SAME = "r1, r2 and gradient_penalty are the same in microbatches"


@dataclasses.dataclass(frozen=True)
class Penalty:
    """Weighted sum of gradient penalties.

    Calling it returns one value per example, [B].

    Attributes:
      terms: triples (name, weight, function). A weight may be a traced number. Names must
        differ: a term is reported under its name, and draws its noise from a random stream of that
        name, independent of every other use of the keys.
      doc: text of the penalty for `help(penalty)`, which becomes its `__doc__`.

    Raises:
      ValueError: if two terms share a name, or a name is not a non-empty string.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import gan, rng
      >>> penalty = 0.5 * gan.r1 + 10 * gan.gradient_penalty
      >>> [(name, weight) for name, weight, _ in penalty.terms]
      [('r1', 0.5), ('gradient_penalty', 10.0)]
      >>> critic = lambda x: 2 * x[:, 0]  # its gradient has the norm 2 everywhere
      >>> real, fake = jnp.ones((3, 1)), jnp.zeros((3, 1))
      >>> penalty(rng.per_example(rng.root(0), 3), critic, real, fake).tolist()
      [12.0, 12.0, 12.0]
    """

    terms: tuple[tuple[str, Any, PenaltyFunction], ...]
    doc: str | None = dataclasses.field(default=None, compare=False, repr=False)

    # Without this, NumPy would multiply an array by a penalty element by element.
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
        if self.doc is not None:
            object.__setattr__(self, "__doc__", self.doc)

    @classmethod
    def of(cls, function: PenaltyFunction, name: str | None = None) -> Penalty:
        """Makes a penalty of weight 1 from a function.

        Args:
          function: the penalty, `(keys, critic, real, fake) -> [B]`. Its docstring is that of the
            penalty.
          name: its name in reports; the function's own name if None.

        Raises:
          ValueError: if the function is a lambda and has no name.
        """
        name = name or getattr(function, "__name__", "penalty")
        if name == "<lambda>":
            raise ValueError("a lambda has no name to be reported by: Penalty.of(function, name)")
        doc = inspect.getdoc(function) if inspect.isfunction(function) else None
        return cls(((name, 1.0, function),), doc)

    def __call__(self, keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        """Returns the weighted sum of the terms.

        Args:
          keys: one key per example, [B]. Each term draws from the stream "penalty NAME".
          critic: function from x [B, ...] to [B], or to [B / packing] if it judges packs.
          real: real images, floating, [B, ...].
          fake: generated images, floating, [B, ...].

        Returns:
          [B].

        Raises:
          ValueError: if real and fake differ in shape or are not floating, or there is not one
            key for each example. A single key of shape [1] is not broadcast.
        """
        if real.shape != fake.shape:
            raise ValueError(
                f"real and fake must have one shape, got {real.shape} and {fake.shape}"
            )
        for name, x in (("real", real), ("fake", fake)):
            if not jnp.issubdtype(x.dtype, jnp.floating):
                raise ValueError(f"{name} must be floating, got {x.dtype} (scale the images first)")
        checks.keys(keys, len(real))
        total = jnp.zeros(len(real), checks.summed_as(real.dtype))
        for name, weight, function in self.terms:
            own = rng.stream(keys, f"penalty {name}")
            total = total + weight * function(own, critic, real, fake)
        return total

    def __add__(self, other: Penalty) -> Penalty:
        if not isinstance(other, Penalty):
            return NotImplemented
        return Penalty(self.terms + other.terms)

    def __rmul__(self, weight: float | Array) -> Penalty:
        if callable(weight) and not isinstance(weight, Penalty):
            # The check refuses a schedule with a message on how to use one.
            checks.not_negative("a penalty's weight", weight)
        if not isinstance(weight, int | float | np.number | jax.Array) or jnp.ndim(weight):
            return NotImplemented
        if not isinstance(weight, jax.core.Tracer):
            checks.not_negative("a penalty's weight", float(weight))
        return Penalty(tuple((name, weight * old, f) for name, old, f in self.terms))

    __mul__ = __rmul__


def _gradients(critic: Critic, x: Array) -> Array:
    """Returns the critic's gradient at each example, [B, D].

    It is the gradient of the critic's sum over the batch. If examples interact (packing, batch
    normalisation), an example's gradient includes its effect on the others' outputs, as in every
    implementation of these penalties. With packing it is the example's own part of its pack's
    gradient: the squared norms of a pack's examples add up to that of the pack.
    """
    return _gradients_of_packs(critic, x).reshape(len(x), -1)


def _gradients_of_packs(critic: Critic, x: Array) -> Array:
    """Returns the critic's gradient at each pack.

    Its shape is [B / packing, packing * D]. A pack consists of consecutive examples; without
    packing, of one example.
    """

    def total(x: Array) -> tuple[Array, Array]:
        judged = critic(x)
        return jnp.sum(judged), judged

    gradients, judged = jax.grad(total, has_aux=True)(x)
    return gradients.reshape(packs(judged, len(x)), -1)


def packs(judged: Array, num: int) -> int:
    """Returns the number of packs into which a critic puts `num` examples.

    Without packing, it is the number of examples.

    Raises:
      ValueError: if the critic's outputs are not one number for each example or pack.
    """
    if judged.ndim != 1 or not len(judged) or num % len(judged):
        raise ValueError(
            "the critic must give one number for each example or each pack of equally many, "
            f"[B] or [B / packing] with B = {num}, got {list(judged.shape)}"
        )
    return len(judged)


def of_examples(values: Array, num: int) -> Array:
    """Returns one value for each of `num` examples.

    If the critic judges packs, an example has the value of its pack.
    """
    return values if len(values) == num else jnp.repeat(values, num // len(values))


def wide(values: Array) -> Array:
    """Returns values in float32 at least, the type in which they are summed."""
    return values.astype(checks.summed_as(values.dtype))


def _norms_at(critic: Critic, x: Array) -> Array:
    """Returns |grad D| at each example, [B]; of packs, that of its pack."""
    return of_examples(_norms(_gradients_of_packs(critic, x)), len(x))


def _squared_norms(gradients: Array) -> Array:
    return jnp.einsum(
        "bd,bd->b",
        gradients,
        gradients,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=checks.summed_as(gradients.dtype),
    )


def _norms(gradients: Array) -> Array:
    """Returns norms [B] whose derivative at 0 is 0.

    The derivative of a square root would be infinite there.
    """
    squared = _squared_norms(gradients)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


@Penalty.of
def r1(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    """R1 penalty: the squared gradient at real images.

        |grad D(x)|^2,    x real

    The paper's weight is gamma / 2: gamma = 1 is `0.5 * r1`. Of a pack (`gan.packed`) each image
    has its own part of the gradient, so the mean over images is that over packs divided by their
    size.

    References:
      Mescheder, Geiger & Nowozin, Which Training Methods for GANs do actually Converge?, 2018
      (arXiv:1801.04406), equation 9.
    """
    del keys, fake
    return _squared_norms(_gradients(critic, real))


@Penalty.of
def r2(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    """R2 penalty: the squared gradient at generated images.

        |grad D(x)|^2,    x generated

    The paper's weight is gamma / 2: gamma = 1 is `0.5 * r2`. Packs count as those of `r1` do.

    References:
      Mescheder, Geiger & Nowozin, Which Training Methods for GANs do actually Converge?, 2018
      (arXiv:1801.04406), equation 10.
    """
    del keys, real
    return _squared_norms(_gradients(critic, fake))


def _uniform(keys: Keys, x: Array, shape: tuple[int, ...]) -> Array:
    """Draws uniform numbers for each example.

    They lie in [0, 1) and have the shape [B, *shape]. Each example's numbers come from its own key.
    """
    checks.keys(keys, len(x))
    return jax.vmap(lambda key: jax.random.uniform(key, shape, x.dtype))(keys)


@Penalty.of
def gradient_penalty(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    """Gradient penalty of WGAN-GP, between real and generated images.

        (|grad D(x)| - 1)^2,    x = u real + (1 - u) fake,    u uniform in [0, 1)

    The paper's weight is 10. Each example draws its own point on the line between its real and its
    generated image. A critic that judges packs (PacGAN) is a function of packs. The norm is then
    that of its gradient with respect to the whole pack, and the pack's consecutive examples share
    one value.

    References:
      Gulrajani et al., Improved Training of Wasserstein GANs, 2017 (arXiv:1704.00028), equation 3.
      Lin et al., PacGAN: The Power of Two Samples in Generative Adversarial Networks, 2018
      (arXiv:1712.04086).
    """
    return jnp.square(_norms_at(critic, _between(keys, real, fake)) - 1)


def _between(keys: Keys, real: Array, fake: Array) -> Array:
    """Draws a point between each example's real and its generated image."""
    share = _uniform(keys, real, (1,) * (real.ndim - 1))
    return share * real + (1 - share) * fake


@Penalty.of
def one_sided_gradient_penalty(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    """One-sided gradient penalty, which gradients below 1 do not pay.

        max(0, |grad D(x)| - 1)^2,    x = u real + (1 - u) fake,    u uniform in [0, 1)

    A 1-Lipschitz critic has gradients of norm 1 at most, not of norm 1 everywhere. Points and packs
    are those of `gradient_penalty`. (The paper calls it the Lipschitz penalty, WGAN-LP.)

    References:
      Petzka et al., On the Regularization of Wasserstein GANs, 2018 (arXiv:1709.08894).
    """
    return jnp.square(jax.nn.relu(_norms_at(critic, _between(keys, real, fake)) - 1))


@Penalty.of
def maximal_gradient_penalty(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    """Maximal gradient penalty, which bounds the critic's Lipschitz constant.

        max over the batch of |grad D(x)|^2,    x = u real + (1 - u) fake,    u uniform in [0, 1)

    Every example has this one value: the square of an estimate, from below, of the critic's
    Lipschitz constant between the data and the generated images. Points and packs are those of
    `gradient_penalty`. The maximum is over all devices that share the batch. A microbatch does not
    know it, so microbatches are refused (ValueError).

    References:
      Zhou et al., Lipschitz Generative Adversarial Nets, 2019 (arXiv:1902.05687).
    """
    devices.refuse_microbatch("maximal_gradient_penalty needs the largest gradient", _SAME)
    squared = _squared_norms(_gradients_of_packs(critic, _between(keys, real, fake)))
    return jnp.broadcast_to(jnp.max(devices.gather(squared)), len(real))


@Penalty.of
def dragan(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
    """DRAGAN's gradient penalty, near the real images.

        (|grad D(x)| - 1)^2,    x = real + noise,    noise uniform in [0, s / 2)

    The paper's weight is 10. s is the standard deviation of all values in the batch, over all
    devices that share the batch. A microbatch cannot know it, so microbatches are refused
    (ValueError). If the critic judges packs, the norm is that of the pack, as in
    `gradient_penalty`.

    The paper adds Gaussian noise, with a variance to be tuned. The noise here is that of the
    authors' code: it is drawn for each value and follows the scale of the data. (Their code then
    moves only a random part of the way to that point; the paper and this penalty do not.)

    References:
      Kodali et al., On Convergence and Stability of GANs, 2017 (arXiv:1705.07215).
    """
    del fake
    noise = _uniform(keys, real, real.shape[1:])
    near = real + 0.5 * jax.lax.stop_gradient(_deviation(real)) * noise
    return jnp.square(_norms_at(critic, near) - 1)


def _deviation(x: Array) -> Array:
    """Returns the standard deviation of a batch's values.

    If devices share the batch, it is that of all their shares together.
    """
    devices.refuse_microbatch("dragan needs the standard deviation", _SAME)
    wide = x.astype(checks.summed_as(x.dtype))
    mean = devices.mean(jnp.mean(wide))
    return jnp.sqrt(devices.mean(jnp.mean(jnp.square(wide - mean)))).astype(x.dtype)


def weighted(*terms: tuple[float, Penalty]) -> Penalty:
    """Returns the weighted sum of penalties.

    It suits weights from a configuration: a penalty of weight 0 is left out, neither computed nor
    logged.

    Args:
      *terms: pairs (weight, penalty).
    """
    parts = [weight * penalty for weight, penalty in terms if weight]
    return sum(parts, Penalty(()))


def weight_clipping(limit: float) -> Callable[[Params], Params]:
    """Returns a function that clips parameters.

    It clips each number to [-limit, limit]. Apply it to the critic's parameters after each of its
    updates.

    Args:
      limit: largest absolute value of a parameter; 0.01 in the paper.

    Raises:
      ValueError: if limit is not positive.

    References:
      Arjovsky, Chintala & Bottou, Wasserstein GAN, 2017 (arXiv:1701.07875), algorithm 1.
    """
    checks.positive("limit", limit)
    return lambda params: jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), params)
