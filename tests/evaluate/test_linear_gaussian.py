"""Probabilistic PCA against a dense multivariate normal in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from genmod import rng
from genmod.evaluate import linear_gaussian

CASES = [
    (5, 2, 0.3, "float64"),
    (2, 5, 1.0, "float64"),
    (1, 1, 2.0, "float32"),
    (40, 3, 1e-2, "float32"),
]


def dense(params):
    """W, b and the covariance of x, in float64."""
    weights, bias, sigma = (np.asarray(leaf, np.float64) for leaf in params)
    return weights, bias, weights @ weights.T + sigma**2 * np.eye(len(bias))


@pytest.mark.parametrize(("dims", "latent", "sigma", "dtype"), CASES)
def test_closed_forms_are_those_of_the_dense_normal(dims, latent, sigma, dtype):
    tolerance = 1e-9 if dtype == "float64" else 2e-4

    @jax.jit
    def computed():
        params = linear_gaussian.init(rng.root(0), dims, latent, sigma=sigma, dtype=dtype)
        x, z = linear_gaussian.sample(rng.per_example(rng.root(1), 4), params)
        found = linear_gaussian.log_likelihood(params, x)
        conditional = linear_gaussian.log_conditional(params, z, x)
        return params, x, z, found, linear_gaussian.posterior(params, x), conditional

    with jax.enable_x64(dtype == "float64"):
        params, x, z, found, (mean, covariance), conditional = computed()
        assert {leaf.dtype.name for leaf in (x, z, found, mean, covariance)} == {dtype}
    weights, bias, full = dense(params)
    x, z = np.asarray(x, np.float64), np.asarray(z, np.float64)
    truth = np.atleast_1d(multivariate_normal(bias, full).logpdf(x))
    np.testing.assert_allclose(found, truth, rtol=tolerance, atol=tolerance)
    gain = np.linalg.solve(full, weights).T
    exact = (x - bias) @ gain.T
    np.testing.assert_allclose(mean, exact, rtol=10 * tolerance, atol=10 * tolerance)
    spread = np.eye(latent) - gain @ weights
    np.testing.assert_allclose(covariance, spread, rtol=tolerance, atol=10 * tolerance)
    noise = multivariate_normal(np.zeros(dims), float(params.sigma) ** 2 * np.eye(dims))
    each = np.atleast_1d(noise.logpdf(x - z @ weights.T - bias))
    np.testing.assert_allclose(conditional, each, rtol=tolerance, atol=tolerance)


def test_the_elbo_lacks_the_divergence_to_the_posterior():
    @jax.jit
    def computed():
        params = linear_gaussian.init(rng.root(0), 6, 3, sigma=0.7, dtype="float64")
        x, _ = linear_gaussian.sample(rng.per_example(rng.root(1), 3), params)
        mean, logvar = linear_gaussian.marginals(params, x)
        mean, logvar = mean + 0.1, logvar - 0.2
        bound = linear_gaussian.elbo(params, x, mean, logvar)
        truth = linear_gaussian.log_likelihood(params, x)
        return bound, truth, mean, logvar, *linear_gaussian.posterior(params, x)

    with jax.enable_x64(True):
        bound, truth, mean, logvar, exact, covariance = map(np.asarray, computed())
    precision = np.linalg.inv(covariance)
    for i in range(3):
        variances = np.exp(logvar[i])
        offset = exact[i] - mean[i]
        divergence = 0.5 * (
            np.trace(precision * variances[None])
            + offset @ precision @ offset
            - 3
            + np.linalg.slogdet(covariance)[1]
            - np.log(variances).sum()
        )
        assert truth[i] - bound[i] == pytest.approx(divergence, rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_the_exact_posterior_are_the_likelihood(dtype):
    with jax.enable_x64(dtype == "float64"):
        columns = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 3)))[0] * [3, 1, 0.1]
        params = linear_gaussian.LinearGaussian(
            jnp.asarray(columns, dtype), jnp.ones(6, dtype), jnp.asarray(0.5, dtype)
        )
        x, _ = linear_gaussian.sample(rng.per_example(rng.root(1), 5), params)
        keys = rng.per_example(rng.root(2), 5)
        found = linear_gaussian.log_weight(keys, params, x)
        assert found.dtype == dtype
        tolerance = 1e-10 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(
            found, linear_gaussian.log_likelihood(params, x), rtol=tolerance, atol=tolerance
        )


def test_weights_of_another_proposal_have_the_likelihood_as_their_mean():
    num = 4000

    def proposal(params, x):
        mean, logvar = linear_gaussian.marginals(params, x)
        return mean + 0.1, logvar + 0.5

    @jax.jit
    def computed():
        params = linear_gaussian.init(rng.root(3), 4, 2, sigma=0.8)
        x, _ = linear_gaussian.sample(rng.per_example(rng.root(1), 1), params)
        log_weights = linear_gaussian.log_weight(
            rng.per_example(rng.root(2), num), params, jnp.repeat(x, num, axis=0), proposal=proposal
        )
        bound = linear_gaussian.elbo(params, x, *proposal(params, x))
        return linear_gaussian.log_likelihood(params, x)[0], bound[0], log_weights

    truth, bound, log_weights = (np.asarray(found, np.float64) for found in computed())
    ratios = np.exp(log_weights - truth)
    assert abs(ratios.mean() - 1) < 4 * ratios.std(ddof=1) / np.sqrt(num)
    # The mean of the log weights is the ELBO.
    assert abs(log_weights.mean() - bound) < 4 * log_weights.std(ddof=1) / np.sqrt(num)
    assert bound < truth


def test_samples_have_the_moments_of_the_model():
    params = linear_gaussian.init(rng.root(0), 3, 2, sigma=0.5)
    num = 20_000
    x, z = linear_gaussian.sample(rng.per_example(rng.root(1), num), params)
    _, bias, full = dense(params)
    standard = np.linalg.solve(np.linalg.cholesky(full), (np.asarray(x) - bias).T).T
    for values in (standard, np.asarray(z)):
        assert (np.abs(values.mean(0)) < 4 / np.sqrt(num)).all()
        off = np.abs(values.T @ values / num - np.eye(values.shape[1]))
        assert (off < 4 * np.sqrt(2 / num)).all()


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("num_dims", lambda p, x: linear_gaussian.init(rng.root(0), 0, 2)),
        ("latent_dim", lambda p, x: linear_gaussian.init(rng.root(0), 2, 1.5)),
        ("sigma", lambda p, x: linear_gaussian.init(rng.root(0), 2, 1, sigma=-1.0)),
        ("keys", lambda p, x: linear_gaussian.sample(rng.root(0), p)),
        ("x must", lambda p, x: linear_gaussian.log_likelihood(p, x[:, :2])),
        ("x must", lambda p, x: linear_gaussian.posterior(p, x[0])),
        ("z must", lambda p, x: linear_gaussian.log_conditional(p, x, x)),
        ("logvar", lambda p, x: linear_gaussian.elbo(p, x, x[:, :2], x)),
        ("keys", lambda p, x: linear_gaussian.log_weight(rng.per_example(rng.root(0), 2), p, x)),
    ],
)
def test_bad_input(what, call):
    params = linear_gaussian.init(rng.root(0), 3, 2)
    with pytest.raises(ValueError, match=what):
        call(params, jnp.zeros((1, 3)))
