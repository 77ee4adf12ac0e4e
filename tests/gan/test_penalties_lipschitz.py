"""Penalties that bound the critic's Lipschitz constant: what `gradient_penalty` has not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import devices, rng
from genmod.gan import penalties

NUM, DIM = 8, 3


def keys(num=NUM):
    return rng.per_example(rng.root(0), num)


def drawn(seed=0):
    """A matrix, real and generated points."""
    random = np.random.default_rng(seed)
    return random.normal(size=(DIM, DIM)), *random.normal(size=(2, NUM, DIM))


def quadratic(matrix, x):
    return jnp.einsum("bi,ij,bj->b", x, matrix, x, precision="highest")


def points(penalty, real, fake):
    """Where a penalty looks, [B, DIM]."""
    seen = []

    def critic(x):
        seen.append(jax.lax.stop_gradient(x))
        return x.sum(1)

    penalty(keys(), critic, real, fake)
    return np.asarray(seen[0], np.float64)


def closed_form(matrix, x):
    """Norm of the gradient S x, with S = A + A', and d|S x|^2 / dA = 2 (g x' + x g'), each [B]."""
    gradient = x @ (matrix + matrix.T)
    outer = np.einsum("bi,bj->bij", gradient, x)
    return np.linalg.norm(gradient, axis=1), 2 * (outer + outer.transpose(0, 2, 1))


def value_and_slope(penalty, matrix, real, fake):
    def mean(matrix):
        values = penalty(keys(), lambda x: quadratic(matrix, x), real, fake)
        return values.mean(), values

    with jax.enable_x64(True):
        (_, values), slope = jax.value_and_grad(mean, has_aux=True)(jnp.asarray(matrix))
        assert values.dtype == slope.dtype == jnp.float64
        return values, slope, points(penalty, real, fake)


def test_the_one_sided_penalty_spares_gradients_below_one():
    matrix, real, fake = drawn()
    matrix = 0.3 * matrix
    penalty = penalties.one_sided_gradient_penalty
    values, slope, x = value_and_slope(penalty, matrix, real, fake)
    norm, squared_slope = closed_form(matrix, x)
    above = np.maximum(norm - 1, 0)
    assert 0 < (above > 0).sum() < NUM  # some pay, some do not
    np.testing.assert_allclose(values, above**2, rtol=1e-10, atol=1e-14)
    # d(n - 1)^2 = 2 (n - 1) dn, and dn = d(n^2) / 2n.
    each = (above / norm)[:, None, None] * squared_slope
    np.testing.assert_allclose(slope, each.mean(0), rtol=1e-10, atol=1e-12)


def test_the_maximal_penalty_is_that_of_the_steepest_point():
    matrix, real, fake = drawn(1)
    penalty = penalties.maximal_gradient_penalty
    values, slope, x = value_and_slope(penalty, matrix, real, fake)
    norm, squared_slope = closed_form(matrix, x)
    steepest = np.argmax(norm)
    np.testing.assert_allclose(values, np.full(NUM, norm[steepest] ** 2), rtol=1e-10)
    # The gradient is that of the steepest point alone, not an eighth of it.
    np.testing.assert_allclose(slope, squared_slope[steepest], rtol=1e-10)


@pytest.mark.parametrize(
    "penalty", [penalties.one_sided_gradient_penalty, penalties.maximal_gradient_penalty]
)
def test_the_points_lie_between_each_pair(penalty):
    _, real, fake = (a.astype(np.float32) for a in drawn())
    share = (points(penalty, real, fake) - fake) / (real - fake)
    np.testing.assert_allclose(share, np.broadcast_to(share[:, :1], share.shape), atol=1e-4)
    assert np.all((share > -1e-4) & (share < 1 + 1e-4))
    assert np.ptp(share[:, 0]) > 0.3


def test_the_steepest_point_may_lie_on_another_device():
    matrix, real, fake = (a.astype(np.float32) for a in drawn(2))
    penalty = penalties.maximal_gradient_penalty

    def step(keys, real, fake):
        """Value [B] and gradient as a step takes them: its own mean, then that over devices."""

        def mean(matrix):
            values = penalty(keys, lambda x: quadratic(matrix, x), real, fake)
            return values.mean(), values

        slope, values = jax.grad(mean, has_aux=True)(jnp.asarray(matrix))
        return values, devices.mean(slope)

    values, slope = step(keys(), real, fake)
    cut = [a.reshape(4, 2, *a.shape[1:]) for a in (keys(), real, fake)]
    shares, slopes = jax.pmap(step, axis_name=devices.AXIS)(*cut)
    np.testing.assert_allclose(shares.ravel(), values, rtol=1e-5)
    for one in slopes:
        np.testing.assert_allclose(one, slope, rtol=1e-4, atol=1e-5)


def test_a_microbatch_does_not_know_the_steepest_point():
    matrix, real, fake = drawn()
    with (
        devices.microbatch(),
        pytest.raises(
            ValueError, match=r"maximal_gradient_penalty needs .* microbatches must be 1"
        ),
    ):
        value_and_slope(penalties.maximal_gradient_penalty, matrix, real, fake)
