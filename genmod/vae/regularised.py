"""Regularised deterministic autoencoders."""

from typing import Literal

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Batch, Keys, Metrics, Objective
from genmod.vae.model import Vae, VaeParams, decode_mean
from genmod.vae.objectives import check_weight

Penalty = Literal["l2", "gradient"]
"""Names of the penalties of the decoder."""
PENALTIES: tuple[Penalty, ...] = ("l2", "gradient")


def regularised(
    model: Vae,
    *,
    code_weight: float | Array,
    penalty: Penalty,
    penalty_weight: float | Array,
) -> Objective:
    """Returns the objective of a regularised autoencoder (RAE).

        loss = -log p(x | z) + code_weight * |z|^2 / 2 + penalty_weight * R,    z = mean of q(z | x)

    The code of an image is a point: in place of the VAE's noise, a penalty R keeps the decoder
    smooth.

    - "l2": R is the sum of squares of all parameters of the decoder.
    - "gradient": R is the sum of squares of the derivatives of the mean image D(z) by the latents.
      It is estimated without bias in one random direction v of signs, as |dD/dz v|^2.

    With both weights 0 the loss is that of a plain autoencoder. The paper's reconstruction error
    |x - D(z)|^2 is that of a Gaussian likelihood of variance 1/2, up to a constant. Parameters of
    the posterior's variance, if the encoder returns them, are not trained.

    Codes do not follow the prior: to draw images, first fit a density to the codes of the training
    images.

    Args:
      model: the VAE, of which the first parameter of the posterior is the code.
      code_weight: weight of the codes' squared norm, at least 0; beta in the paper.
      penalty: "l2" or "gradient".
      penalty_weight: weight of the decoder's penalty, at least 0; lambda in the paper.

    Returns:
      An objective, with one loss per image. Its aux holds `reconstruction` [B] in nats, `code_norm`
      [B], which is |z|^2 / 2, and `penalty` [B].

    Raises:
      ValueError: if a weight is below 0, or the penalty unknown; when called, if there is not one
        key for each image.

    References:
      Ghosh et al., From Variational to Deterministic Autoencoders, 2020 (arXiv:1903.12436), section
      3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> params, x = model.init(rng.root(0), jnp.zeros((3, 6, 6, 1))), jnp.zeros((3, 6, 6, 1))
      >>> objective = vae.regularised(model, code_weight=1e-2, penalty="l2", penalty_weight=1e-4)
      >>> objective(rng.per_example(rng.root(1), 3), params, x)[0].shape
      (3,)
    """
    check_weight("code_weight", code_weight)
    check_weight("penalty_weight", penalty_weight)
    checks.known("penalty", penalty, PENALTIES)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        checks.keys(keys, len(x))
        z = model.encode(params, x, c)[0]
        reconstruction = -model.likelihood.log_prob(model.decode(params, z, c), x)
        norm = 0.5 * sum_of_squares(z)
        if penalty == "l2":
            leaves = jax.tree.leaves(params.decoder)
            total = sum((sum_of_squares(leaf[None])[0] for leaf in leaves), jnp.zeros(()))
            squares = jnp.broadcast_to(total, norm.shape)
        else:
            squares = _squared_derivatives(rng.stream(keys, "direction"), model, params, z, c)
        loss = reconstruction + code_weight * norm + penalty_weight * squares
        return loss, {"reconstruction": reconstruction, "code_norm": norm, "penalty": squares}

    return objective


def _squared_derivatives(keys: Keys, model: Vae, params: VaeParams, z: Array, c: object) -> Array:
    """Estimates the sum of squares of the mean image's derivatives by the latents, [B]."""
    signs = jax.vmap(lambda key: jax.random.rademacher(key, z.shape[1:], z.dtype))(keys)
    _, slopes = jax.jvp(lambda z: decode_mean(model)(params, z, c), (z,), (signs,))
    return sum_of_squares(slopes)


def sum_of_squares(values: Array) -> Array:
    """Returns the sums of squares of each entry of the first axis, in float32 at least."""
    squares = jnp.square(values.reshape(len(values), -1))
    return jnp.sum(squares, axis=1, dtype=checks.summed_as(squares.dtype))
