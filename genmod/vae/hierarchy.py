"""Hierarchies of latents: VAEs with several layers.

A hierarchical model is a `Vae` whose latents are those of all layers side by side,

    z = (z_1, ..., z_K),    p(z) = p(z_1 | z_2) ... p(z_K),

with z_1 nearest to the data. So every objective that rests on log weights serves it, such as `iwae`
and `elbo`, and so do `log_weight`, `generate` and `reconstruct`. What is known of single layers is
an attribute of the model's `sample` (`LayeredDraw`), which the functions here use.

The parameters of q(z | x) are a central point and all that a draw needs: as the posterior of a
layer depends on the draws of others, there are weights of networks among it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Batch, Keys, Metrics, Net, Objective
from genmod.vae.model import Vae, VaeParams
from genmod.vae.objectives import check_weight, of_whole_batch
from genmod.vae.priors import Prior


@dataclasses.dataclass(frozen=True)
class LayeredDraw:
    """Reparametrised draw `(keys [B], *parameters) -> z [B, L]` of all layers.

    Attributes:
      function: the draw.
      terms: the negative ELBO at one draw, `(keys [B], params, x, c) -> (reconstruction [B], kl [B,
        K])`, with the KL divergence of each layer.
      prior_at: the prior at a temperature, `temperature -> Prior`.
    """

    function: Callable[..., Array]
    terms: Callable[..., tuple[Array, Array]]
    prior_at: Callable[[float], Prior]

    def __call__(self, keys: Keys, *parameters: Any) -> Array:
        """Returns one draw for each key."""
        return self.function(keys, *parameters)


def layer_terms(model: Vae) -> Callable[[Keys, VaeParams, Batch], tuple[Array, Array]]:
    """Returns the function of the negative ELBO's terms, layer by layer.

    The function is `(keys [B], params, batch) -> (reconstruction [B], kl [B, K])`, at one draw, in
    nats. The reconstruction term is -log p(x | z), kl holds what each layer adds to the KL
    divergence, from z_1 upwards. Their sum is the negative ELBO in expectation.

    In a `ladder` each layer's term is a KL divergence, in closed form, given the layers above. So
    is that of the top layer of a `chain`, given the layer below. The other terms of a chain are
    log q(z_i | z_i-1) - log p(z_i | z_i+1) at the draw, and may be negative.

    Args:
      model: hierarchical VAE, made by `chain` or `ladder`.

    Raises:
      ValueError: if the model is another.
    """
    terms = _layers(model).terms

    def of_batch(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Array]:
        return terms(keys, params, *model.condition(batch))

    return of_batch


def layered_elbo(
    model: Vae,
    *,
    beta: float | Array = 1.0,
    nats: float | Array = 0.0,
    whole_batch: bool = False,
) -> Objective:
    """Returns the negative ELBO of a hierarchical VAE as an objective.

        loss = -log p(x | z) + beta * sum_i max(nats, KL_i),    z ~ q(z | x), one draw

    KL_i is the term of layer i in `layer_terms`: with closed forms its gradient has less noise than
    that of `elbo`. A layer below its free nats (free bits) has no gradient of it, so that it is not
    pulled to its prior before other layers use it. Free nats are meant for a `ladder`, where KL_i
    is a divergence.

    Args:
      model: hierarchical VAE, made by `chain` or `ladder`.
      beta: weight of the KL divergences, at least 0.
      nats: free nats of each layer, at least 0.
      whole_batch: whether the mean of KL_i over the batch is compared with the free nats, as in the
        paper, not that of each image. The objective then looks at its whole batch
        (`train.learner(whole_batch=True)`).

    Returns:
      An objective, with one loss per image. Its aux holds `reconstruction` and `kl` [B], and
      `kl_layer` [B, K], all unweighted; `kl_layer/0` is that of z_1.

    Raises:
      ValueError: if the model has no layers, or beta or nats is below 0; when called, if there is
        not one key for each image.

    References:
      Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016
      (arXiv:1606.04934), appendix C.8.
    """
    check_weight("beta", beta)
    check_weight("nats", nats)
    terms = layer_terms(model)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        reconstruction, layers = terms(keys, params, batch)
        weighed = jnp.broadcast_to(layers.mean(0), layers.shape) if whole_batch else layers
        # Without free nats nothing is cut: a term of a chain may be negative.
        weighed = jnp.where(nats > 0, jnp.maximum(weighed, nats), weighed)
        kl = layers.sum(1)
        loss = reconstruction + beta * weighed.sum(1)
        return loss, {"reconstruction": reconstruction, "kl": kl, "kl_layer": layers}

    return of_whole_batch("layered_elbo", objective) if whole_batch else objective


def moments_in(output: Any, shape: tuple[int, ...], name: str) -> tuple[Array, Array]:
    """Returns the mean and the log-variance that a network's output holds.

    Args:
      output: the output, [B, ..., 2 C]: the means, then the log-variances.
      shape: shape of the latents of one example, (..., C).
      name: name of the network, for messages.
    """
    expected = (*shape[:-1], 2 * shape[-1])
    if getattr(output, "shape", (None,))[1:] != expected:
        sizes = ", ".join(map(str, expected))
        raise ValueError(
            f"{name} must return [B, {sizes}], the means and the log-variances of {shape} latents, "
            f"got {checks.described(output)}"
        )
    mean, logvar = jnp.split(output, 2, axis=-1)
    return mean, logvar


def of_layer(keys: Keys, i: int) -> Keys:
    """Returns the keys of layer i, counted from 0."""
    return rng.stream(keys, f"layer_{i + 1}")


def unconditioned(name: str, net: Any, *, gets_one: bool) -> None:
    """Refuses anything but a network that needs no condition, unless it gets one."""
    if not isinstance(net, Net):
        raise ValueError(f"{name} must be a Net, got {checks.described(net)}")
    if net.needs_condition and not gets_one:
        raise ValueError(
            f"{name} must be a network of one input, as only the first encoder and the decoder of "
            "p(x|z) get the condition, got one that needs it"
        )


def _layers(model: Vae) -> LayeredDraw:
    if not isinstance(model.sample, LayeredDraw):
        raise ValueError(
            "model must have layers of latents, as vae.chain and vae.ladder make them, got one "
            f"whose sample is a {type(model.sample).__name__}"
        )
    return model.sample
