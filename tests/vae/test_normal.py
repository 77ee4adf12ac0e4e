"""Densities and divergences of Gaussians against scipy in float64 and numerical integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from genmod import rng, vae

moderate = st.floats(-5, 5, width=32)


@given(st.lists(st.tuples(moderate, moderate, moderate), min_size=1, max_size=4))
def test_the_log_density_and_its_gradient_are_those_of_scipy(latents):
    z, mean, logvar = np.array(latents, np.float32).T
    scale = np.exp(0.5 * logvar.astype(np.float64))
    value, slopes = jax.value_and_grad(vae.log_normal, (0, 1, 2))(z, mean, logvar)
    expected = stats.norm.logpdf(z.astype(np.float64), mean, scale).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    standard = (z.astype(np.float64) - mean) / scale
    for slope, reference in zip(
        slopes, (-standard / scale, standard / scale, 0.5 * (standard**2 - 1)), strict=True
    ):
        np.testing.assert_allclose(slope, reference, rtol=1e-4, atol=1e-5)


def test_the_standard_density_needs_no_moments_and_components_broadcast():
    z = jax.random.normal(rng.root(0), (5, 3))
    mean, logvar = jax.random.normal(rng.root(1), (2, 4, 3))
    np.testing.assert_allclose(
        vae.log_normal(z), stats.norm.logpdf(np.asarray(z)).sum(1), rtol=1e-6
    )
    of_each = vae.log_normal(z[:, None], mean, logvar)
    assert of_each.shape == (5, 4)
    for k in range(4):
        own = [jnp.broadcast_to(m[k], z.shape) for m in (mean, logvar)]
        np.testing.assert_allclose(of_each[:, k], vae.log_normal(z, *own), rtol=1e-6)


@pytest.mark.parametrize("logvar", [-150.0, 0.0, 80.0])
def test_the_log_density_is_finite_at_its_mean_whatever_the_variance(logvar):
    # With exp(-logvar) as a factor of the square, a variance of exp(-150) gives 0 * inf.
    value, slope = jax.value_and_grad(lambda v: vae.log_normal(jnp.ones(1), 1.0, v))(logvar)
    np.testing.assert_allclose(value, -0.5 * (np.log(2 * np.pi) + logvar), rtol=1e-6)
    np.testing.assert_allclose(slope, -0.5)


@given(moderate, moderate, moderate, moderate)
def test_the_divergence_of_a_dimension_is_its_integral(mean, logvar, other_mean, other_logvar):
    value = vae.kl_normal(
        jnp.array([mean]), jnp.array([logvar]), jnp.array([other_mean]), jnp.array([other_logvar])
    )
    q, p = (stats.norm(m, np.exp(0.5 * v)) for m, v in ((mean, logvar), (other_mean, other_logvar)))
    # Gauss-Hermite quadrature is exact: the integrand is a polynomial of degree two.
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    z = mean + np.exp(0.5 * logvar) * nodes
    expected = np.sum(weights * (q.logpdf(z) - p.logpdf(z))) / np.sqrt(2 * np.pi)
    assert value.shape == (1,)
    np.testing.assert_allclose(value[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("difference", [1e-3, -1e-3, 1e-4])
def test_the_divergence_keeps_its_digits_near_equality(difference):
    logvar = jnp.array([0.5])
    other = logvar - difference
    exact = np.float64(logvar[0]) - np.float64(other[0])
    value = vae.kl_normal(jnp.zeros(1), logvar, 0.0, other)
    np.testing.assert_allclose(value[0], 0.5 * (np.expm1(exact) - exact), rtol=5e-3)
    assert float(vae.kl_normal(logvar, logvar, logvar, logvar)[0]) == 0


def test_the_dimensions_sum_to_the_divergence_from_the_standard_normal():
    mean, logvar = (jax.random.normal(key, (5, 3)) for key in jax.random.split(rng.root(0)))
    per_dimension = vae.kl_normal(mean, logvar, 0.0, 0.0)
    assert per_dimension.shape == (5, 3)
    np.testing.assert_allclose(per_dimension.sum(1), vae.kl_divergence(mean, logvar), rtol=1e-6)


def test_the_density_integrates_to_one():
    total, _ = integrate.quad(lambda z: np.exp(vae.log_normal(np.array([z]), 0.3, -1.2)), -6, 6)
    assert abs(total - 1) < 1e-5


def test_low_precision_is_summed_in_float32():
    z = jnp.full((1, 1000), 0.5, jnp.bfloat16)
    value = vae.log_normal(z)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, 1000 * stats.norm.logpdf(0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "got"),
    [
        (((5, 3), (5, 2), (5, 2)), r"z \(5, 3\), mean \(5, 2\), logvar \(5, 2\)"),
        (((5, 3), (5, 1), ()), r"z \(5, 3\), mean \(5, 1\), logvar \(\)"),
        (((5, 3), (4, 3), ()), r"z \(5, 3\), mean \(4, 3\), logvar \(\)"),
        (((), (), ()), r"z \(\), mean \(\), logvar \(\)"),
    ],
)
def test_latents_of_other_widths_are_refused(shapes, got):
    with pytest.raises(ValueError, match=r"arrays \[\.\.\., L\] of one L, or numbers, got " + got):
        vae.log_normal(*map(jnp.zeros, shapes))
