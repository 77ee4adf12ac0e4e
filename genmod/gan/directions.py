"""Latent space of a trained generator: its main directions, and the latents of given images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.gan.model import Gan, GanParams, LatentPrior
from genmod.gan.sampling import check_generator
from genmod.types import Array, Keys

Distance = Callable[[Array, Array], Array]
"""Function `(generated [B, ...], images [B, ...]) -> [B]`."""


class Directions(NamedTuple):
    """Directions in latent space, from that of the largest effect.

    Attributes:
      vectors: unit vectors, perpendicular to each other, [K, L].
      eigenvalues: squared norm of the change that each makes in the first layer, [K].
    """

    vectors: Array
    eigenvalues: Array


def directions(weight: Array | np.ndarray) -> Directions:
    """Returns the directions that change a generator's first layer most (SeFa).

    The layer is y = A z + b. A step along the unit vector n changes it by A n, of the squared norm
    n^T A^T A n. The directions are the eigenvectors of

        A^T A n = lambda n,

    in order of the eigenvalues lambda, from the largest. The first weight of a generator is A^T, as
    networks here keep it: `weight` [L, M]. `z + 3 * vectors[k]` is a step along direction k, for
    `model.generate`. The sign of a vector is such that its largest component is positive.

    K is the lesser of L and M; if M is less than L, all directions perpendicular to those returned
    change nothing. A generator of `nets.conditional` appends the condition to z, so that the first
    L rows of its weight are those of z. If z enters several layers, put their weights side by side,
    [L, M1 + M2]. The authors' code first divides each of the M columns by its norm.

    Args:
      weight: weight of the layer, floating, [L, M], such as `params.generator["layer_0"]["kernel"]`
        of `nets.mlp`.

    Raises:
      ValueError: if weight is not finite floating numbers [L, M].

    References:
      Shen & Zhou, Closed-Form Factorization of Latent Semantics in GANs, 2021 (arXiv:2007.06600).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import gan
      >>> found = gan.directions(jnp.array([[1.0, 0.0], [0.0, 3.0]]))
      >>> found.vectors.tolist(), found.eigenvalues.tolist()
      ([[0.0, 1.0], [1.0, 0.0]], [9.0, 1.0])
    """
    weight = jnp.asarray(weight)
    if weight.ndim != 2 or not weight.size or not jnp.issubdtype(weight.dtype, jnp.floating):
        raise ValueError(
            "weight must be floating numbers [L, M], with L latents; reshape that of a convolution "
            f"so, got {checks.described(weight)}"
        )
    if not isinstance(weight, jax.core.Tracer):
        checks.values_within("weight", weight, (-np.inf, np.inf), "a finite number", hint=False)
    # Singular vectors are exact where a product A^T A would lose half of the digits.
    weight = weight.astype(checks.summed_as(weight.dtype))
    columns, singular, _ = jnp.linalg.svd(weight, full_matrices=False)
    largest = jnp.argmax(jnp.abs(columns), axis=0)
    signs = jnp.sign(jnp.take_along_axis(columns, largest[None], axis=0))
    return Directions((signs * columns).T, jnp.square(singular))


class Projection(NamedTuple):
    """Images of a generator that are near to given ones.

    Attributes:
      z: their latents, [B, L].
      images: generated images, [B, ...].
      distance: distance of each from the given image, [B].
    """

    z: Array
    images: Array
    distance: Array


def squared_distance(generated: Array, images: Array) -> Array:
    """Returns the sum of squared differences of each image, [B]."""
    dtype = checks.summed_as(jnp.result_type(generated, images))
    squares = jnp.square(generated.astype(dtype) - images.astype(dtype))
    return squares.reshape(len(squares), -1).sum(-1)


def project(
    model: Gan,
    keys: Keys,
    params: GanParams,
    images: Array | np.ndarray,
    *,
    optimizer: Any,
    num_steps: int,
    num_starts: int = 8,
    distance: Distance = squared_distance,
    prior_weight: float = 0.0,
    c: Any = None,
) -> Projection:
    """Returns the latents whose images are nearest to given ones.

    From each of several draws of p(z), the steps of an optimizer minimise

        distance(G(z), image) - prior_weight * log p(z).

    The least value of all steps of all starts is kept, for each image. It is not always the global
    minimum, as G is not convex: more starts help. The steps of an image depend on no other image,
    with any optimizer. Memory is that of num_starts * B images and their gradients.

    Args:
      model: the GAN.
      keys: one key per image, [B], for the starts.
      params: trained parameters, with standing statistics (`model.standing`).
      images: the images to find, floating, in the range of the generator's, [B, ...].
      optimizer: an optimizer of optax, such as `optax.adam(0.05)`, or any pair of functions
        `init(z) -> state` and `update(gradient, state, z) -> (update, state)` as attributes.
      num_steps: number of steps from each start.
      num_starts: number of starts for each image.
      distance: function `(generated [B, ...], images [B, ...]) -> [B]`, such as one of features;
        that of an image must not depend on others.
      prior_weight: weight of the prior, at least 0. With the squared distance of images with
        Gaussian noise of the variance v, the weight 2 v gives the most probable z given the image.
        0 needs no density of the latents, and lets z leave the support of uniform ones.
      c: condition of each image, a tree of arrays [B, ...]; None for none.

    Raises:
      ValueError: if there is not one key per image, images do not have the shape of the generator's
        or are not floating, a number is out of range, the distance is not one per image, optimizer
        lacks a function, the prior has a weight but no known density, the condition does not suit
        the model, or the generator uses statistics of its batch.

    References:
      Creswell & Bharath, Inverting The Generator Of A Generative Adversarial Network, 2016
      (arXiv:1611.05644), algorithm 1, for the minimisation.
      Bora et al., Compressed Sensing using Generative Models, 2017 (arXiv:1703.03208), for several
      starts.

    Examples:
      >>> import optax
      >>> from genmod import gan, nets, rng
      >>> model = gan.make(nets.mlp((8,), (6, 6, 1)), nets.mlp((8,), 1), latent_dim=2)
      >>> x, keys = jax.numpy.zeros((3, 6, 6, 1)), rng.per_example(rng.root(1), 3)
      >>> params = model.init(rng.root(0), x)
      >>> found = gan.project(model, keys, params, x, optimizer=optax.adam(0.05), num_steps=10)
      >>> found.z.shape, found.images.shape, found.distance.shape
      ((3, 2), (3, 6, 6, 1), (3,))
    """
    num_steps = checks.positive_integer("num_steps", num_steps)
    num_starts = checks.positive_integer("num_starts", num_starts)
    images = jnp.asarray(images)
    checks.keys(keys, len(images) if images.ndim else None)
    log_prior = _weighted_prior(model, prior_weight)
    _check_given(optimizer, images)
    made = check_generator(model, keys, params, c)
    if images.shape != made.shape:
        raise ValueError(
            f"images must have the shape of the generator's, {list(made.shape)}, "
            f"got {list(images.shape)}"
        )
    found = jax.eval_shape(distance, made, images)
    if getattr(found, "shape", None) != (len(images),):
        raise ValueError(
            f"distance must return one number per image, [{len(images)}], "
            f"got {checks.described(found)} {list(getattr(found, 'shape', ()))}"
        )

    dtype = checks.summed_as(found.dtype)

    def objective(z: Array) -> Array:
        value = distance(model.generate(params, z, c), images)
        return value.astype(dtype) - log_prior(z)

    def better(best: tuple[Array, Array], z: Array, value: Array) -> tuple[Array, Array]:
        which = value < best[1]
        return jnp.where(which[:, None], z, best[0]), jnp.where(which, value, best[1])

    def step(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        z, state, best = carry
        value, pull = jax.vjp(objective, z)
        best = better(best, z, value)
        # Each image has a state of its own, in case that an update depends on all it is given.
        update, state = jax.vmap(optimizer.update)(pull(jnp.ones_like(value))[0], state, z)
        return (z + update, state, best), None

    def descend(index: Array) -> tuple[Array, Array]:
        z = model.latent(rng.at_step(rng.stream(keys, "start"), index))
        best = z, jnp.full(len(z), jnp.inf, dtype)
        carry = z, jax.vmap(optimizer.init)(z), best
        z, _, best = jax.lax.scan(step, carry, None, num_steps)[0]
        return better(best, z, objective(z))

    latents, values = jax.vmap(descend)(jnp.arange(num_starts))
    z = latents[jnp.argmin(values, axis=0), jnp.arange(len(images))]
    generated = model.generate(params, z, c)
    return Projection(z, generated, distance(generated, images))


def _weighted_prior(model: Gan, weight: float) -> Callable[[Array], Array]:
    """Returns a function of z [B, L]: the weight times log p(z), [B]."""
    checks.not_negative("prior_weight", weight)
    if not weight:  # 0 times the infinity outside the support would be NaN
        return lambda z: jnp.zeros(len(z), z.dtype)
    prior = model.latent
    if not isinstance(prior, LatentPrior):
        raise ValueError(
            "prior_weight must be 0 unless the model's latent is a LatentPrior, whose density is "
            f"known, got {weight} and {checks.described(prior)}"
        )
    return lambda z: weight * prior.log_prob(z)


def _check_given(optimizer: Any, images: Array) -> None:
    """Refuses what is no optimizer, and images that are not floating."""
    for name in ("init", "update"):
        if not callable(getattr(optimizer, name, None)):
            raise ValueError(
                "optimizer must have the functions init and update, as optax.adam(0.05) does, "
                f"got {checks.described(optimizer)}"
            )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating, got {images.dtype} (scale them first)")
