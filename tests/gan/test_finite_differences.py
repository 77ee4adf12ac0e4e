"""Finite differences against the gradients that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genmod import gan, rng
from genmod.gan import finite_differences

NUM, DIM, SIGMA = 4, 3, 0.5
MANY = 20_000
BOTH = {"real": finite_differences.approximate_r1, "fake": finite_differences.approximate_r2}
each = pytest.mark.parametrize("kind", BOTH)


def keys(num=NUM):
    return rng.per_example(rng.root(0), num)


def images(num=NUM):
    """Real and generated ones."""
    return np.random.default_rng(0).normal(size=(2, num, DIM)).astype(np.float32)


def seen(penalty, real, fake):
    """What the critic is shown: the moved and the own images."""
    shown = []

    def critic(x):
        shown.append(np.asarray(x))
        return x.sum(1)

    penalty(keys(len(real)), critic, real, fake)
    return shown


@each
def test_the_noise_is_normal_and_each_examples_own(kind):
    real, fake = images(500)
    moved, x = seen(BOTH[kind](SIGMA), real, fake)
    np.testing.assert_array_equal(x, {"real": real, "fake": fake}[kind])
    noise = (moved - x) / SIGMA
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    between = np.corrcoef(noise.T)[~np.eye(DIM, dtype=bool)]
    assert np.all(np.abs(between) < 4 / np.sqrt(500))
    # The first examples of a larger batch have the noise that they have alone.
    few, _ = seen(BOTH[kind](SIGMA), real[:3], fake[:3])
    np.testing.assert_array_equal(few, moved[:3])


@each
def test_value_and_gradient_are_the_closed_form_of_the_noise(kind):
    # D(x) = w'x + x'Ax: the difference and its derivatives by w and A, for the noise that is drawn.
    random = np.random.default_rng(1)
    w, matrix = random.normal(size=DIM), random.normal(size=(DIM, DIM))
    with jax.enable_x64(True):
        real, fake = (a.astype(np.float64) for a in images())
        penalty = BOTH[kind](SIGMA)

        def mean(params):
            w, matrix = params
            multiply = lambda a, b: jnp.matmul(a, b, precision="highest")  # noqa: E731
            critic = lambda x: multiply(x, w) + (multiply(x, matrix) * x).sum(1)  # noqa: E731
            values = penalty(keys(), critic, real, fake)
            return values.mean(), values

        (_, values), found = jax.value_and_grad(mean, has_aux=True)((w, matrix))
        after, before = seen(penalty, real, fake)
    outer = np.einsum("bi,bj->bij", after, after) - np.einsum("bi,bj->bij", before, before)
    slope = ((after - before) @ w + (outer * matrix).sum((1, 2))) / SIGMA
    assert values.dtype == jnp.float64
    np.testing.assert_allclose(values, slope**2, rtol=1e-9)
    by_w = (2 * slope[:, None] * (after - before) / SIGMA).mean(0)
    by_matrix = (2 * slope[:, None, None] * outer / SIGMA).mean(0)
    for mine, theirs in zip(found, (by_w, by_matrix), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)


@each
@pytest.mark.parametrize("sigma", [1e-2, 1.0])
def test_the_expectation_for_a_linear_critic_is_the_squared_gradient(kind, sigma):
    w = np.array([1.0, -2.0, 0.5], np.float32)
    critic = lambda x: jnp.matmul(x, w, precision="highest")  # noqa: E731
    x = np.zeros((MANY, DIM), np.float32)
    values = np.asarray(BOTH[kind](sigma)(keys(MANY), critic, x, x), np.float64)
    error = values.std() / np.sqrt(MANY)
    assert abs(values.mean() - w @ w) < 4 * error
    # The documented spread, sqrt(2) times the mean; its own error by the eighth moment of a normal.
    spread = np.sqrt(2) * (w @ w)
    assert abs(values.std() / spread - 1) < 4 * np.sqrt((15 - 1) / (4 * MANY))


def test_the_expectation_for_a_quadratic_critic_has_the_documented_bias():
    matrix = np.array([[1.0, 0.3, 0], [0.3, -0.5, 0.2], [0, 0.2, 2]])
    point, sigma = np.array([0.2, -0.4, 0.1]), 0.7

    def critic(x):
        return jnp.einsum("bi,ij,bj->b", x, matrix.astype(np.float32), x, precision="highest")

    x = np.tile(point.astype(np.float32), (MANY, 1))
    values = np.asarray(
        finite_differences.approximate_r1(sigma)(keys(MANY), critic, x, x), np.float64
    )
    exact = np.sum((2 * matrix @ point) ** 2)
    bias = sigma**2 * (np.trace(matrix) ** 2 + 2 * np.trace(matrix @ matrix))
    error = values.std() / np.sqrt(MANY)
    assert abs(values.mean() - exact - bias) < 4 * error < bias / 4


@each
def test_examples_of_a_pack_share_its_value(kind):
    weights = np.random.default_rng(2).normal(size=(2, DIM)).astype(np.float32)

    def packs(x):
        return jnp.matmul(x.reshape(len(x) // 2, -1), weights.ravel(), precision="highest")

    real, fake = images(MANY)
    values = BOTH[kind](SIGMA)(keys(MANY), packs, real, fake)
    np.testing.assert_array_equal(values[::2], values[1::2])
    # The mean is that of the exact penalty, whose examples have their own part of the pack.
    exact = {"real": gan.r1, "fake": gan.r2}[kind](keys(4), packs, real[:4], fake[:4]).mean()
    error = values[::2].std() / np.sqrt(MANY / 2)
    assert abs(values.mean() - exact) < 4 * error < exact / 10


@each
@pytest.mark.parametrize("sigma", [0, -1, np.nan, np.inf, "0.1"])
def test_a_sigma_that_is_not_positive_is_refused(kind, sigma):
    with pytest.raises(ValueError, match="sigma must be a positive number, got"):
        BOTH[kind](sigma)


@each
def test_a_critic_of_another_shape_is_refused(kind):
    with pytest.raises(ValueError, match=r"one number for each example .* got \[4, 1\]"):
        BOTH[kind](SIGMA)(keys(), lambda x: x[:, :1], *images())


def test_a_sigma_may_be_traced():
    def value(sigma):
        return finite_differences.approximate_r1(sigma)(keys(), lambda x: (x**2).sum(1), *images())

    np.testing.assert_allclose(jax.jit(value)(SIGMA), value(SIGMA), rtol=1e-5)
