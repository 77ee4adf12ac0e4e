"""Hamiltonian Monte Carlo: reversibility, invariance, acceptance and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import rng
from genmod.evaluate import hmc

COVARIANCE = np.array([[1.0, 0.9], [0.9, 1.0]])
PRECISION = np.linalg.inv(COVARIANCE)


def correlated(z):
    return -0.5 * jnp.einsum("bi,ij,bj->b", z, jnp.asarray(PRECISION, z.dtype), z)


def quartic(z):
    return -(z**4).sum(1) + jnp.sin(3 * z).sum(1)


def moved(target, keys, z, step_size, num_leapfrog):
    """The chains after one move from z, and the acceptance."""

    @jax.jit
    def run(keys, z, step_size):
        state = hmc.start(target, z)
        return hmc.step(keys, state, target, step_size=step_size, num_leapfrog=num_leapfrog)

    return run(keys, z, step_size)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-11)])
def test_leapfrog_leads_back(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        z, momentum = np.random.default_rng(0).normal(size=(2, 6, 3)).astype(dtype)
        target = hmc.density(quartic)
        begin = hmc.start(target, jnp.asarray(z))
        there, turned = hmc.leapfrog(begin, momentum, target, step_size=0.05, num_leapfrog=10)
        back, arrived = hmc.leapfrog(there, -turned, target, step_size=0.05, num_leapfrog=10)
        there, back, arrived = map(np.asarray, (there.position, back.position, arrived))
    assert there.dtype == dtype
    assert np.abs(there - z).max() > 0.1
    np.testing.assert_allclose(back, z, atol=tolerance)
    np.testing.assert_allclose(-arrived, momentum, atol=tolerance)


def test_a_move_keeps_volume_and_a_smaller_step_keeps_the_energy_better():
    with jax.enable_x64(True):
        target = hmc.density(quartic)

        def move(phase, size=0.1, num=4):
            state = hmc.start(target, phase[None, :2])
            state, end = hmc.leapfrog(
                state, phase[None, 2:], target, step_size=size, num_leapfrog=num
            )
            return jnp.concatenate([state.position[0], end[0]])

        def energy(phase):
            return float(quartic(phase[None, :2])[0] - 0.5 * (phase[2:] ** 2).sum())

        phase = jnp.array([0.3, -0.8, 1.1, 0.4])
        assert np.linalg.det(jax.jacfwd(move)(phase)) == pytest.approx(1, abs=1e-10)
        # The error of the energy is of second order in the step size.
        ends = [move(phase, 0.4 / num, num) for num in (10, 20)]
        errors = [abs(energy(end) - energy(phase)) for end in ends]
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize(("log_density", "step_size"), [(None, 1.2), (correlated, 0.45)])
def test_gaussians_are_invariant(log_density, step_size):
    """Chains that start at exact draws stay such: all moments, judged in standard errors."""
    num = 4000
    root = np.eye(2) if log_density is None else np.linalg.cholesky(COVARIANCE)
    target = hmc.density(log_density or (lambda z: -0.5 * jnp.square(z).sum(1)))
    noise = jax.random.normal(rng.root(0), (num, 2))

    @jax.jit
    def run(keys, z):
        def body(t, carry):
            state, accepted = carry
            state, each = hmc.step(
                rng.at_step(keys, t), state, target, step_size=step_size, num_leapfrog=3
            )
            return state, accepted + each / 6

        return jax.lax.fori_loop(0, 6, body, (hmc.start(target, z), jnp.zeros(num)))

    state, acceptance = run(rng.per_example(rng.root(1), num), noise @ jnp.asarray(root.T))
    assert 0.5 < acceptance.mean() < 0.95  # so that refusals matter
    white = np.linalg.solve(root, np.asarray(state.position, np.float64).T).T
    start = np.asarray(noise, np.float64)
    assert np.abs((white * start).mean(0)).max() < 0.2  # the chains have moved
    moments = {1: (0, 1), 2: (1, 2), 4: (3, 96)}  # order: mean and variance of a normal's power
    for order, (mean, variance) in moments.items():
        errors = ((white**order).mean(0) - mean) / np.sqrt(variance / num)
        assert np.abs(errors).max() < 4, order
    assert abs(white.prod(1).mean()) < 4 / np.sqrt(num)


def test_step_sizes_adapt_to_the_acceptance():
    """Each of two targets of different widths gets its own step size."""
    widths = jnp.repeat(jnp.array([1.0, 0.01]), 50)
    target = hmc.density(lambda z: -0.5 * jnp.square(z / widths[:, None]).sum(1))

    @jax.jit
    def run(keys, z):
        def body(t, carry):
            state, sizes, late = carry
            state, each = hmc.step(
                rng.at_step(keys, t), state, target, step_size=jnp.repeat(sizes, 50), num_leapfrog=5
            )
            each = each.reshape(2, 50).mean(1)
            return state, hmc.adapted(sizes, each), late + jnp.where(t >= 50, each / 50, 0)

        carry = (hmc.start(target, z), jnp.full(2, 0.5), jnp.zeros(2))
        return jax.lax.fori_loop(0, 100, body, carry)[1:]

    z = widths[:, None] * jax.random.normal(rng.root(0), (100, 10))
    sizes, acceptance = run(rng.per_example(rng.root(1), 100), z)
    np.testing.assert_allclose(acceptance, 0.65, atol=0.05)
    assert sizes[0] / sizes[1] == pytest.approx(100, rel=0.2)


def test_chains_do_not_depend_on_each_other():
    target = hmc.density(quartic)
    keys = rng.per_example(rng.root(0), 5)
    z = jax.random.normal(rng.root(1), (5, 3))
    sizes = jnp.array([0.1, 0.2, 0.3, 0.4, 0.5])
    whole, _ = moved(target, keys, z, sizes, 10)
    few, _ = moved(target, keys[1:3], z[1:3], sizes[1:3], 10)
    np.testing.assert_allclose(whole.position[1:3], few.position, rtol=1e-5)
    np.testing.assert_allclose(whole.log_density, quartic(whole.position), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("beyond", [jnp.nan, -jnp.inf, jnp.inf])
def test_proposals_that_are_not_finite_are_refused(beyond):
    target = hmc.density(lambda z: jnp.where(jnp.abs(z).max(1) < 1, -0.5 * (z * z).sum(1), beyond))
    after, acceptance = moved(target, rng.per_example(rng.root(0), 20), jnp.zeros((20, 2)), 0.5, 2)
    outside = np.asarray(acceptance) == 0
    assert 0 < outside.sum() < 20
    assert (np.asarray(after.position)[outside] == 0).all()
    assert np.isfinite(after.log_density).all()
    assert (np.abs(after.position) < 1).all()


def test_a_chain_leaves_a_place_of_density_zero():
    def log_density(z):
        return jnp.where(z[:, 0] < 0, -jnp.inf, -0.5 * (z * z).sum(1))

    target = hmc.density(log_density)
    after, acceptance = moved(
        target, rng.per_example(rng.root(0), 50), jnp.full((50, 1), -0.1), 0.5, 1
    )
    arrived = np.asarray(after.position[:, 0]) >= 0
    assert 0 < arrived.sum() < 50
    np.testing.assert_array_equal(acceptance, arrived.astype(np.float32))


@pytest.mark.parametrize(
    ("what", "keys", "options"),
    [
        ("keys must be one per chain", rng.per_example(rng.root(0), 2), {}),
        ("keys must be one per chain", rng.root(0), {}),
        ("num_leapfrog", rng.per_example(rng.root(0), 3), {"num_leapfrog": 0}),
    ],
)
def test_bad_input(what, keys, options):
    target = hmc.density(quartic)
    with pytest.raises(ValueError, match=what):
        hmc.step(keys, hmc.start(target, jnp.zeros((3, 1))), target, step_size=0.1, **options)
