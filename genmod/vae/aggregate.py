"""Objectives that look at the aggregate posterior.

    q(z) = mean over x of q(z | x)

A single example tells nothing about this density, so these objectives compare the examples of a
batch. They have an attribute `whole_batch`, by which a learner gives them the whole batch, and they
refuse microbatches.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Batch, Keys, Metrics, Objective
from genmod.vae import normal
from genmod.vae.likelihoods import check_images
from genmod.vae.model import Vae, VaeParams
from genmod.vae.objectives import check_weight, elbo, of_whole_batch, terms_at

Estimator = Literal["weighted", "stratified"]
"""Names of the estimators of log q(z) from a batch."""
ESTIMATORS: tuple[Estimator, ...] = ("weighted", "stratified")

Kind = Literal["I", "II"]
"""Names of the covariances that DIP regularises."""
KINDS: tuple[Kind, ...] = ("I", "II")
_LEAST_SIGMA = 1e-3
"""Least standard deviation of `optimal_sigma`."""

Kernel = Literal["imq", "rbf"]
"""Names of the kernels of `mmd`."""
KERNELS: dict[str, Callable[[Array], Array]] = {
    "imq": lambda squares: 1 / (1 + squares),
    "rbf": lambda squares: jnp.exp(-squares),
}
"""Kernels by name, as functions of scaled squared distances."""


def beta_tc(
    model: Vae,
    *,
    beta: float | Array,
    num_examples: int,
    alpha: float | Array = 1.0,
    gamma: float | Array = 1.0,
    estimator: Estimator = "weighted",
) -> Objective:
    """Returns the objective of the beta-TCVAE, which weighs the total correlation.

        loss = -log p(x | z) + alpha * (log q(z | x) - log q(z))
             + beta * (log q(z) - sum_j log q(z_j))
             + gamma * (sum_j log q(z_j) - log p(z)),    z ~ q(z | x)

    The three weighted terms are the mutual information of code and example, the total correlation
    of the latents, and their dimension-wise KL divergence. Their sum is the KL divergence of the
    draw, log q(z | x) - log p(z). So with all weights 1 the loss is the negative ELBO, whatever the
    estimates of q(z) and q(z_j) are.

    These two densities are estimated from the M examples of the batch (`aggregate_posterior` of
    `evaluate` takes a whole data set), by weights of the posteriors q(z_i | x_k):

    - "weighted": 1 / (N M) for each. It is biased: if all posteriors are equal, the total
      correlation is (L - 1) log N in place of 0. Losses of different beta differ by such constants.
    - "stratified": 1 / N for the example itself, (N - M + 1) / (N (M - 1)) for the one after it in
      the batch, and 1 / (M - 1) for any other. Its estimate of q(z) is unbiased.

    Args:
      model: the VAE, with the posterior `diagonal_normal`.
      beta: weight of the total correlation, at least 0.
      num_examples: number of examples N in the data set.
      alpha: weight of the mutual information, at least 0.
      gamma: weight of the dimension-wise KL divergence, at least 0.
      estimator: "weighted" or "stratified".

    Returns:
      An objective, with one loss per image in nats, that looks at its whole batch. Its aux holds
      `reconstruction`, `kl` (at the draw), `mutual_information`, `total_correlation` and
      `dimension_wise_kl` [B], all in nats and unweighted.

    Raises:
      ValueError: if a weight is below 0, num_examples not positive, the estimator unknown, or the
        posterior another; when called, if num_examples is below the batch size, a stratified batch
        has one example, or there is not one key for each image.

    References:
      Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018
      (arXiv:1802.04942), equation 4, section 3.2 and appendix C.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> params, x = model.init(rng.root(0), jnp.zeros((3, 6, 6, 1))), jnp.zeros((3, 6, 6, 1))
      >>> objective = vae.beta_tc(model, beta=6.0, num_examples=60_000)
      >>> loss, aux = objective(rng.per_example(rng.root(1), 3), params, x)
      >>> loss.shape, objective.whole_batch
      ((3,), True)
    """
    for name, weight in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        check_weight(name, weight)
    num_examples = checks.positive_integer("num_examples", num_examples)
    checks.known("estimator", estimator, ESTIMATORS)
    _check_diagonal("beta_tc", model)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        mean, logvar = model.encode(params, x, c)
        z = model.sample(keys, mean, logvar)
        reconstruction, kl = terms_at(model, params, x, c, z, (mean, logvar))
        parts = _divided(kl, z, mean, logvar, _log_weights(estimator, len(z), num_examples))
        weighted = zip((alpha, beta, gamma), parts.values(), strict=True)
        loss = reconstruction + sum(weight * part for weight, part in weighted)
        return loss, {"reconstruction": reconstruction, "kl": kl, **parts}

    return of_whole_batch("beta_tc", objective)


def dip(
    model: Vae, *, off_diagonal: float | Array, diagonal: float | Array, kind: Kind = "I"
) -> Objective:
    """Returns the objective of the DIP-VAE, which regularises the latents' covariance.

        loss = -log p(x | z) + KL(q(z | x) || p(z))
             + off_diagonal * sum_(i != j) C_ij^2 + diagonal * sum_i (C_ii - 1)^2

    C is a covariance over the examples of the batch, with the divisor B:

        I:   C = Cov(mean)                                  the means of q(z | x)
        II:  C = Cov(mean) + diag(mean over x of exp(logvar))    all of q(z)

    Args:
      model: the VAE, with the posterior `diagonal_normal`.
      off_diagonal: weight of the covariances of two latents, at least 0.
      diagonal: weight of the variances' distance from 1, at least 0.
      kind: "I" or "II".

    Returns:
      An objective, with one loss per image, that looks at its whole batch. Its aux holds
      `reconstruction` and `kl` [B] as that of `elbo`, and the two sums of squares, `off_diagonal`
      and `diagonal` [B], which are the same for all images.

    Raises:
      ValueError: if a weight is below 0, the kind unknown, or the posterior another; when called,
        if there is not one key for each image.

    References:
      Kumar et al., Variational Inference of Disentangled Latent Concepts from Unlabeled
      Observations, 2018 (arXiv:1711.00848), equations 6 and 7.
    """
    check_weight("off_diagonal", off_diagonal)
    check_weight("diagonal", diagonal)
    checks.known("kind", kind, KINDS)
    _check_diagonal("dip", model)
    bound = elbo(model)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        loss, aux = bound(keys, params, batch)
        mean, logvar = model.encode(params, *model.condition(batch))
        mean, logvar = (a.astype(checks.summed_as(a.dtype)) for a in (mean, logvar))
        check_two("dip", mean)
        centred = mean - mean.mean(0, keepdims=True)
        covariance = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST)
        variances = jnp.diagonal(covariance) / len(mean)
        others = covariance / len(mean) - jnp.diag(variances)
        if kind == "II":
            variances += jnp.exp(logvar).mean(0)
        squares = {
            "off_diagonal": jnp.square(others).sum(),
            "diagonal": jnp.square(variances - 1).sum(),
        }
        penalty = off_diagonal * squares["off_diagonal"] + diagonal * squares["diagonal"]
        each = {name: jnp.broadcast_to(value, loss.shape) for name, value in squares.items()}
        return loss + penalty, {**aux, **each}

    return of_whole_batch("dip", objective)


def mmd(
    model: Vae,
    *,
    weight: float | Array,
    kl_weight: float | Array = 0.0,
    deterministic: bool = False,
    kernel: Kernel = "imq",
    scales: Sequence[float] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
) -> Objective:
    """Returns the objective of the MMD-WAE, or of the InfoVAE with a KL term.

        loss = -log p(x | z) + kl_weight * KL(q(z | x) || p(z)) + weight * MMD^2(q(z), p(z))

    MMD is the maximum mean discrepancy of the aggregate posterior from the prior. Its square is
    estimated from the codes z_i of the batch and as many draws p_i of the prior by a U-statistic,
    which is 0 on average if the two are equal, and so often below 0:

        MMD^2 = mean_(i != j) k(z_i, z_j) + mean_(i != j) k(p_i, p_j) - 2 mean_(i, j) k(z_i, p_j)

    The kernel is a sum over scales s, with the squared distance of two latents in units of 2 L, its
    mean between two draws from N(0, I):

        imq:  k(a, b) = sum_s 1 / (1 + r / s),    rbf:  k(a, b) = sum_s exp(-r / s),
        r = |a - b|^2 / (2 L)

    The WAE has no KL term; the InfoVAE with alpha and lambda has kl_weight = 1 - alpha and weight =
    alpha + lambda - 1.

    Args:
      model: the VAE.
      weight: weight of the squared discrepancy, at least 0; lambda in the paper of the WAE.
      kl_weight: weight of the KL term, at least 0. It is in closed form where there is one.
      deterministic: whether the mean of q(z | x) is the code, in place of a draw.
      kernel: "imq" (inverse multiquadratics) or "rbf" (Gaussians).
      scales: scales s of the kernel; by default those of the WAE's authors.

    Returns:
      An objective, with one loss per image, that looks at its whole batch. Its aux holds
      `reconstruction` [B] in nats, the squared discrepancy `mmd` [B], which is the same for all
      images, and, unless deterministic, `kl` [B] in nats.

    Raises:
      ValueError: if a weight is below 0, the kernel unknown, a scale not positive, there is no
        scale, or a deterministic code has a KL term; when called, if the batch has one image, or
        there is not one key for each image.

    References:
      Tolstikhin et al., Wasserstein Auto-Encoders, 2018 (arXiv:1711.01558), algorithm 2 and section
      4. Zhao et al., InfoVAE: Balancing Learning and Inference in Variational Autoencoders, 2019
      (arXiv:1706.02262).
    """
    check_weight("weight", weight)
    check_weight("kl_weight", kl_weight)
    checks.known("kernel", kernel, KERNELS)
    scales = _checked_scales(scales)
    if deterministic and (isinstance(kl_weight, jax.core.Tracer) or kl_weight != 0):
        raise ValueError(
            "kl_weight must be 0 with deterministic=True, as a point has no KL divergence from the "
            f"prior, got {kl_weight}"
        )

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        checks.keys(keys, len(x))
        if len(x) < 2:
            raise ValueError(f"mmd compares pairs of images, got a batch of {len(x)}")
        parameters = model.encode(params, x, c)
        codes = rng.stream(keys, "codes")
        z = parameters[0] if deterministic else model.sample(codes, *parameters)
        reconstruction, kl = terms_at(model, params, x, c, z, parameters, closed_form=True)
        posterior = functools.partial(model.encode, params)
        drawn = model.prior.sample(rng.stream(keys, "prior"), params.prior, posterior)
        squared = jnp.broadcast_to(_squared_mmd(z, drawn, KERNELS[kernel], scales), kl.shape)
        aux = {"reconstruction": reconstruction, "mmd": squared}
        loss = reconstruction + weight * squared
        return (loss, aux) if deterministic else (loss + kl_weight * kl, {**aux, "kl": kl})

    return of_whole_batch("mmd", objective)


def optimal_sigma(model: Vae, *, beta: float | Array = 1.0) -> Objective:
    """Returns the objective of the sigma-VAE, whose pixels share the best standard deviation.

        loss = -log N(x; D(z), sigma^2) + beta * KL(q(z | x) || p(z)),    z ~ q(z | x)

    D(z) is the mean image, and sigma^2 the mean squared error over the pixels of the whole batch:
    the variance at which the batch's mean loss is least. There the loss has no slope by sigma, so
    its gradient is that at a constant sigma. sigma is at least 1e-3, for images that are made
    without an error. As it depends on x, this is no density of x: to evaluate the model, give
    `gaussian(std=...)` the `sigma` of training images.

    Args:
      model: the VAE. Its likelihood only makes mean images, such as `gaussian(std=1.0)`.
      beta: weight of the KL term, at least 0.

    Returns:
      An objective, with one loss per image in nats, that looks at its whole batch. Its aux holds
      `reconstruction` and `kl` [B] in nats, and `sigma` [B], which is the same for all images.

    Raises:
      ValueError: if beta is below 0; when called, if images and mean images differ in shape, or
        there is not one key for each image.

    References:
      Rybkin et al., Simple and Effective VAE Training with Calibrated Decoders, 2021
      (arXiv:2006.13202).
    """
    check_weight("beta", beta)

    def objective(keys: Keys, params: VaeParams, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        parameters = model.encode(params, x, c)
        z = model.sample(keys, *parameters)
        _, kl = terms_at(model, params, x, c, z, parameters, closed_form=True)
        mean = model.likelihood.mean(model.decode(params, z, c))
        check_images("the mean images", mean, x)
        errors = jnp.square(x - mean).reshape(len(x), -1)
        errors = errors.astype(checks.summed_as(errors.dtype))
        variance = jax.lax.stop_gradient(jnp.maximum(errors.mean(), _LEAST_SIGMA**2))
        constant = 0.5 * errors.shape[1] * jnp.log(2 * np.pi * variance)
        reconstruction = errors.sum(1) / (2 * variance) + constant
        sigma = jnp.broadcast_to(jnp.sqrt(variance), kl.shape)
        aux = {"reconstruction": reconstruction, "kl": kl, "sigma": sigma}
        return reconstruction + beta * kl, aux

    return of_whole_batch("optimal_sigma", objective)


def check_two(name: str, codes: Array) -> None:
    """Refuses a batch of one example."""
    if len(codes) < 2:
        raise ValueError(f"{name} compares examples and needs at least 2, got {len(codes)}")


def _check_diagonal(name: str, model: Vae) -> None:
    if not model.posterior.is_diagonal_normal:
        raise ValueError(
            f"{name} needs the mean and variance of each latent, which are known of the posterior "
            "diagonal_normal alone, got another"
        )


def _checked_scales(scales: Sequence[float]) -> tuple[float, ...]:
    if not len(scales):
        raise ValueError("scales must hold at least one number, got none")
    for scale in scales:
        checks.positive("scales", scale)
    return tuple(scales)


def _log_weights(estimator: Estimator, size: int, num_examples: int) -> np.ndarray:
    """Returns the log weight of the posterior of x_k in the density of z_i, [M, M]."""
    if num_examples < size:
        raise ValueError(f"num_examples must be at least the batch's {size}, got {num_examples}")
    if estimator == "weighted":
        return np.full((size, size), -np.log(num_examples) - np.log(size))
    if size < 2:
        raise ValueError(f"the stratified estimator needs at least 2 examples, got {size}")
    index = np.arange(size)
    weights = np.full((size, size), 1 / (size - 1))
    weights[index, index] = 1 / num_examples
    weights[index, (index + 1) % size] = (num_examples - size + 1) / (num_examples * (size - 1))
    return np.log(weights)


def _divided(
    kl: Array, z: Array, mean: Array, logvar: Array, log_weights: np.ndarray
) -> dict[str, Array]:
    """Divides the KL divergence of each draw into three parts, in nats.

    Args:
      kl: log q(z_i | x_i) - log p(z_i), [M].
      z: the draws, [M, L].
      mean: means of the posteriors, [M, L].
      logvar: logarithms of their variances, [M, L].
      log_weights: log weight of posterior k in the density of draw i, [M, M].
    """
    z, mean, logvar = (a.astype(checks.summed_as(a.dtype)) for a in (z, mean, logvar))
    weights = jnp.asarray(log_weights, z.dtype)
    own = normal.log_normal(z, mean, logvar)

    # One latent at a time, computed again in the backward pass: ten times faster than all at once,
    # as an array [M, M, L] does not fit into a CPU's cache. `log_normal` of all pairs would take
    # the exponential of a variance for each pair.
    @jax.checkpoint
    def add(joint: Array, latent: tuple[Array, ...]) -> tuple[Array, Array]:
        z, mean, logvar, scale = latent
        squares = jnp.square((z[:, None] - mean[None]) * scale[None])
        each = -0.5 * (squares + (logvar + math.log(2 * math.pi))[None])
        return joint + each, jax.nn.logsumexp(each + weights, axis=1)

    latents = (z.T, mean.T, logvar.T, jnp.exp(-0.5 * logvar).T)
    joint, products = jax.lax.scan(add, weights, latents)
    joint, product = jax.nn.logsumexp(joint, axis=1), products.sum(0)
    return {
        "mutual_information": own - joint,
        "total_correlation": joint - product,
        "dimension_wise_kl": product - (own - kl),
    }


def _squared_mmd(
    z: Array, drawn: Array, kernel: Callable[[Array], Array], scales: tuple[float, ...]
) -> Array:
    """Returns the unbiased estimate of MMD^2 from two samples [B, L] each."""
    size, dim = z.shape

    def similarity(a: Array, b: Array) -> Array:
        offsets = jnp.square(a[:, None] - b[None])
        squares = jnp.sum(offsets, -1, dtype=checks.summed_as(offsets.dtype)) / (2 * dim)
        return jnp.stack([kernel(squares / scale) for scale in scales]).sum(0)

    def within(a: Array) -> Array:
        pairs = jnp.where(np.eye(size, dtype=bool), 0, similarity(a, a))
        return pairs.sum() / (size * (size - 1))

    return within(z) + within(drawn) - 2 * similarity(z, drawn).mean()
