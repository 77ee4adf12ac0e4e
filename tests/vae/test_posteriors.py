"""Posteriors of a user: each a few lines, with the Monte Carlo divergence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from genmod import nets, rng, vae

X = jax.random.uniform(rng.root(0), (3, 4, 4, 1))
DECODER = nets.mlp((6,), (4, 4, 1))


def full_normal(dim):
    """A Gaussian with any covariance: mean and its Cholesky factor."""
    rows, columns = np.tril_indices(dim)

    def split(output):
        factor = jnp.zeros((len(output), dim, dim)).at[:, rows, columns].set(output[:, dim:])
        diagonal = jnp.arange(dim)
        return output[:, :dim], factor.at[:, diagonal, diagonal].set(
            jnp.exp(factor[:, diagonal, diagonal])
        )

    def sample(keys, mean, factor):
        noise = jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)
        return mean + jnp.einsum("bij,bj->bi", factor, noise)

    def log_prob(z, mean, factor):
        solve = jax.vmap(partial(jax.scipy.linalg.solve_triangular, lower=True))
        log_det = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1)
        return vae.log_normal(solve(factor, z - mean)) - log_det

    return vae.Posterior(split, sample, log_prob)


def test_a_full_covariance_is_a_few_lines():
    model = vae.make(nets.mlp((6,), 5), DECODER, latent_dim=2, posterior=full_normal)
    params = model.init(rng.root(0), X)
    mean, factor = model.encode(params, X)
    assert mean.shape == (3, 2)
    assert factor.shape == (3, 2, 2)
    # The closed form is of a diagonal Gaussian and would be wrong here.
    assert model.prior.kl_divergence is None
    num = 4000
    keys = rng.per_example(rng.root(1), num)
    _, aux = vae.elbo(model)(keys, params, jnp.broadcast_to(X[:1], (num, *X.shape[1:])))
    m, cholesky = np.asarray(mean[0], np.float64), np.asarray(factor[0], np.float64)
    covariance = cholesky @ cholesky.T
    exact = 0.5 * (np.trace(covariance) + m @ m - 2 - np.linalg.slogdet(covariance)[1])
    kl = np.asarray(aux["kl"], np.float64)
    assert abs(kl.mean() - exact) < 4 * kl.std(ddof=1) / np.sqrt(num)
    np.testing.assert_allclose(
        model.posterior.log_prob(mean + 0.1, mean, factor)[0],
        stats.multivariate_normal(m, covariance).logpdf(m + 0.1),
        rtol=1e-4,
    )


def test_another_split_of_the_same_density_keeps_the_closed_form():
    def clipped(dim):
        mine = vae.diagonal_normal(dim)

        def split(output):
            mean, logvar = mine.split(output)
            return mean, jnp.clip(logvar, -0.1, 0.1)

        return mine._replace(split=split)

    model = vae.make(nets.mlp((6,), 4, heads=2), DECODER, latent_dim=2, posterior=clipped)
    params = model.init(rng.root(0), X)
    mean, logvar = model.encode(params, X)
    assert np.abs(logvar).max() <= np.float32(0.1)
    _, aux = vae.elbo(model)(rng.per_example(rng.root(1), 3), params, X)
    np.testing.assert_array_equal(aux["kl"], vae.kl_divergence(mean, logvar))
