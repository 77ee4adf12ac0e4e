"""The von Mises-Fisher posterior: its constants, density, draws, and gradients through draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from genmod import nets, rng, vae
from genmod.vae import spheres
from genmod.vae.spheres import uniform_sphere, von_mises_fisher

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
NUM = 5000  # of draws, in one size that is compiled once
CONCENTRATIONS = np.float32([1e-3, 0.1, 1.0, 7.0, 60.0, 800.0, 1e4])
X = jax.random.uniform(rng.root(0), (3, 4, 4, 1))


def keys(num, seed=1):
    return rng.per_example(rng.root(seed), num)


def resultant(dim, k):
    """The mean of cos(angle), in float64."""
    return special.ive(dim / 2, k) / special.ive(dim / 2 - 1, k)


def log_constant(dim, k):
    """The logarithm of the integral of exp(k cos) over the sphere, relative to the area."""
    v = dim / 2 - 1
    return special.gammaln(v + 1) + v * np.log(2 / k) + np.log(special.ive(v, k)) + k


def divergence(dim, k):
    return k * resultant(dim, k) - log_constant(dim, k)


def same(vector, num):
    return jnp.broadcast_to(jnp.asarray(vector, jnp.float32), (num, len(vector)))


def axis(dim):
    """A mean direction in no special position, whose first coordinate is negative."""
    vector = np.cos(np.arange(dim) + 2.0)
    return vector / np.linalg.norm(vector)


# Constants, against scipy's Bessel functions


@pytest.mark.parametrize("dim", [2, slow(3), slow(4), 10, slow(51)])
def test_divergence_and_resultant_length_are_scipys(dim):
    k = np.float64(CONCENTRATIONS)

    @jax.jit
    def facts(k):
        rest, length = spheres._constants(dim, k)
        one = lambda k: spheres._constants(dim, k[None])[1][0]  # noqa: E731
        slope = jax.vmap(jax.grad(one))(k)
        of = lambda k: uniform_sphere(dim).kl_divergence((), jnp.zeros((len(k), dim)), k)  # noqa: E731
        return rest, length, slope, of(k), jax.grad(lambda k: of(k).sum())(k)

    rest, length, slope, kl, kl_slope = facts(CONCENTRATIONS)
    a = resultant(dim, k)
    np.testing.assert_allclose(length, a, rtol=1e-6)
    np.testing.assert_allclose(rest, k - log_constant(dim, k), rtol=1e-6, atol=5e-6)
    np.testing.assert_allclose(kl, divergence(dim, k), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(kl[:-2], divergence(dim, k)[:-2], rtol=1e-5, atol=1e-5)
    # By the recurrence of the Bessel functions, where float64 bears the cancellation.
    expected = 1 - a**2 - (dim - 1) * a / k
    np.testing.assert_allclose(slope[:-1], expected[:-1], rtol=1e-3)
    np.testing.assert_allclose(kl_slope[:-1], (k * expected)[:-1], rtol=1e-3, atol=1e-6)


def test_without_concentration_it_is_uniform_with_finite_gradients():
    for dim in (2, 20):
        z = same(axis(dim), 1)
        own = von_mises_fisher(dim).log_prob
        both = jax.jit(jax.value_and_grad(lambda k: own(z, -z, k)[0]))  # noqa: B023
        value, slope = both(jnp.zeros(1))
        assert abs(value - uniform_sphere(dim).log_prob((), z)[0]) < 1e-5
        np.testing.assert_allclose(slope, -1, rtol=1e-6)  # the mean of cos is zero


# The density


def test_the_density_integrates_to_one_on_the_circle_and_the_sphere():
    angle = np.linspace(-np.pi, np.pi, 4001)[:-1]
    circle = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    height = np.linspace(-1, 1, 4001)
    sphere = np.stack([np.sqrt(1 - height**2), 0 * height, height], 1).astype(np.float32)
    for k in (0.0, 0.5, 12.0, 100.0):
        of = lambda z, mean: np.exp(  # noqa: E731
            np.float64(vae_density(z, same(mean, len(z)), jnp.full(len(z), k)))  # noqa: B023
        )
        assert abs(of(circle, [0.6, -0.8]).mean() * 2 * np.pi - 1) < 1e-4
        total = 2 * np.pi * integrate.simpson(of(sphere, [0.0, 0.0, 1.0]), x=height)
        assert abs(total - 1) < 1e-4


vae_density = jax.jit(von_mises_fisher(3).log_prob)


def test_the_density_integrates_to_one_by_importance():
    num, dim = 4 * NUM, 12
    prior = uniform_sphere(dim)
    z = prior.sample(keys(num), ())
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=1), 1, rtol=1e-5)
    log_q = vae_density(z, same(axis(dim), num), jnp.full(num, 4.0))
    ratio = np.exp(np.float64(log_q - prior.log_prob((), z)))
    assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / np.sqrt(num)


def test_the_uniform_density_is_one_over_the_area():
    for dim, area in ((2, 2 * np.pi), (3, 4 * np.pi), (4, 2 * np.pi**2)):
        found = uniform_sphere(dim).log_prob((), jnp.zeros((1, dim)))
        np.testing.assert_allclose(found, -np.log(area), rtol=1e-6)


# Draws

draw = jax.jit(spheres.sample)


@pytest.mark.parametrize("dim", [2, slow(3), slow(4), 20])
def test_draws_have_the_mean_and_the_spread(dim):
    num, mean = NUM, axis(dim)
    for k in (0.0, 0.7, 10.0, 2000.0):
        z = np.float64(draw(keys(num), same(mean, num), jnp.full(num, k)))
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-6)
        a = resultant(dim, k) if k else 0.0
        error = z.std(0, ddof=1) / np.sqrt(num)
        assert np.all(np.abs(z.mean(0) - a * mean) < 4.5 * error + 1e-6)
        # Around the mean all directions are alike: with B = 1 - E cos^2 their variances are
        # B / (L - 1) each.
        across = z - (z @ mean)[:, None] * mean
        around = 1 - 1 / dim if k == 0 else (dim - 1) * a / k
        other = np.roll(mean, 1) - (np.roll(mean, 1) @ mean) * mean
        squares = (across @ (other / np.linalg.norm(other))) ** 2
        spread = squares.std(ddof=1) / np.sqrt(num)
        assert abs(squares.mean() - around / (dim - 1)) < 4.5 * spread + 1e-7


def test_heights_on_the_sphere_have_their_closed_distribution():
    num, k = NUM, 3.0
    z = draw(keys(num, 7), same([0.0, 0.6, -0.8], num), jnp.full(num, k))
    height = np.float64(z) @ [0.0, 0.6, -0.8]
    cdf = lambda w: np.expm1(k * (w + 1)) / np.expm1(2 * k)  # noqa: E731
    assert stats.kstest(height, cdf).pvalue > 1e-3


def test_a_draw_belongs_to_its_example():
    mean = same(axis(3), NUM)
    found = draw(keys(NUM), mean, jnp.full(NUM, 5.0))
    other = draw(keys(NUM), mean, jnp.full(NUM, 500.0).at[:3].set(5.0))
    np.testing.assert_array_equal(found[:3], other[:3])
    with pytest.raises(ValueError, match=r"keys must be one per example, \[5000\]"):
        spheres.sample(keys(1), mean, jnp.full(NUM, 5.0))


def test_a_draw_of_a_run_that_has_diverged_ends():
    z = draw(keys(NUM), same(axis(3), NUM), jnp.full(NUM, 5.0).at[1].set(np.nan))
    assert np.array_equal(np.isnan(z).all(1), np.arange(NUM) == 1)


# Gradients through draws


def quantile(dim, k, level):
    """The angle below which a part of the draws lies, in float64."""
    density = lambda t: np.sin(t) ** (dim - 2) * np.exp(k * (np.cos(t) - 1))  # noqa: E731
    below = lambda t: integrate.quad(density, 0, t, epsabs=0, epsrel=1e-11)[0]  # noqa: E731
    total = integrate.quad(density, 0, np.pi, epsabs=0, epsrel=1e-11)[0]
    return optimize.brentq(lambda t: below(t) / total - level, 0, np.pi, xtol=1e-13)


@pytest.mark.parametrize(
    ("dim", "k"), [(2, 0.3), slow(2, 9.0), slow(3, 2.0), slow(7, 0.01), (7, 30.0)]
)
def test_an_angle_follows_the_concentration_at_a_constant_quantile(dim, k):
    levels, step = [0.001, 0.2, 0.6, 0.999], 1e-4 * k
    angles = jnp.array([quantile(dim, k, level) for level in levels], jnp.float32)
    expected = [
        (quantile(dim, k + step, level) - quantile(dim, k - step, level)) / (2 * step)
        for level in levels
    ]
    moving = lambda k: spheres._following(dim, angles, k)  # noqa: E731
    found = jax.jvp(moving, (jnp.full(4, k),), (jnp.ones(4),))
    np.testing.assert_array_equal(found[0], angles)
    np.testing.assert_allclose(found[1], expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("dim", [2, slow(3), slow(8)])
def test_the_mean_gradient_through_draws_is_that_of_the_mean(dim):
    """The mean of a linear function c z is A(k) c mean, for every k and mean direction."""
    num, k, c = NUM, 3.0, np.sin(np.arange(dim) + 1.0)
    vector = 2 * axis(dim)  # not of norm 1: split takes its direction
    raw = np.log(np.expm1(k))
    posterior = von_mises_fisher(dim)

    def one(output, key):
        z = posterior.sample(key[None], *posterior.split(output[None]))
        return z[0] @ jnp.asarray(c, jnp.float32)

    output = jnp.asarray([*vector, raw], jnp.float32)
    found = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 0)))(output, keys(num, 3))
    found = np.float64(found)
    a, mean = resultant(dim, k), axis(dim)
    slope = 1 - a**2 - (dim - 1) * a / k
    expected = [*(a * (c - (c @ mean) * mean) / 2), slope * (c @ mean) * special.expit(raw)]
    error = found.std(0, ddof=1) / np.sqrt(num)
    assert np.all(np.abs(found.mean(0) - expected) < 4.5 * error + 1e-6)


def test_extreme_angles_have_finite_gradients():
    angles = jnp.array([0.0, 1e-20, np.pi, 3.14159])
    for dim in (2, 3, 9):
        for k in (0.0, 1.0, 1e5):
            speed = jax.jit(spheres._speed, static_argnums=0)(dim, angles, jnp.full(4, k))
            assert np.isfinite(speed).all()


# The model

MODEL = vae.make(
    nets.mlp((6,), 4),
    nets.mlp((6,), (4, 4, 1)),
    latent_dim=3,
    prior=uniform_sphere,
    posterior=von_mises_fisher,
)


def test_the_model_has_the_closed_divergence_which_is_the_mean_of_its_estimate():
    params = jax.jit(MODEL.init)(rng.root(0), X)

    @jax.jit
    def facts(keys, params, x):
        _, aux = vae.elbo(MODEL)(keys, params, x)
        return aux["kl"], *MODEL.encode(params, x)

    kl, mean, k = facts(keys(3), params, X)
    np.testing.assert_allclose(jnp.linalg.norm(mean, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(kl, divergence(3, np.float64(k)), rtol=1e-4)
    mean, k = same(axis(3), NUM), jnp.full(NUM, 5.0)
    z = draw(keys(NUM), mean, k)
    log_ratio = np.float64(vae_density(z, mean, k)) + np.log(4 * np.pi)
    error = log_ratio.std(ddof=1) / np.sqrt(NUM)
    assert abs(log_ratio.mean() - divergence(3, 5.0)) < 4 * error


def test_gradients_of_a_bound_are_finite():
    objective = vae.iwae(MODEL, num_samples=3, estimator="dreg")
    params = jax.jit(MODEL.init)(rng.root(0), X)
    gradients = jax.jit(jax.grad(lambda p: objective(keys(3), p, X)[0].sum()))(params)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0


def test_an_output_of_zero_has_a_direction_and_gradients():
    posterior = von_mises_fisher(3)

    def total(output):
        mean, concentration = posterior.split(output)
        return mean.sum() + concentration.sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.zeros((1, 4)))
    np.testing.assert_allclose(value, 1 + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 0, 0.5]])


# Bad input


def test_a_sphere_has_two_dimensions_around_it_at_least():
    for make in (von_mises_fisher, uniform_sphere):
        with pytest.raises(ValueError, match="latent_dim must be at least 2 for a sphere, got 1"):
            make(1)


def test_prior_and_posterior_are_both_on_the_sphere():
    make = functools.partial(vae.make, nets.mlp((6,), 4), nets.mlp((6,), (4, 4, 1)), latent_dim=3)
    with pytest.raises(ValueError, match="a prior in the whole space and a posterior on the sph"):
        make(posterior=von_mises_fisher)
    with pytest.raises(ValueError, match="a prior on the sphere and a posterior in the whole sp"):
        make(prior=uniform_sphere)


def test_the_encoder_returns_a_vector_and_a_number():
    with pytest.raises(ValueError, match=r"\[B, latent_dim \+ 1\] = \[B, 4\], got \[2, 6\]"):
        von_mises_fisher(3).split(jnp.zeros((2, 6)))
