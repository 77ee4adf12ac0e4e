"""The prior of codes: its bound and its draws, against sums over all grids and orders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import nets, rng
from genmod.vae.code_priors import code_prior

K, P = 2, 3
NET = nets.mlp((6,), (P, K), activation=jnp.tanh, kernel_init=nets.normal(1.0))
PRIOR = code_prior(NET, grid=(P,), num_codes=K)
ALL = np.array(list(itertools.product(range(K), repeat=P)))
PARAMS = jax.jit(PRIOR.init)(rng.root(0), jnp.asarray(ALL, jnp.int32))


def keys(num, seed):
    return rng.per_example(rng.root(seed), num)


def log_probabilities():
    """log p of each grid in each order, from the network's answers one by one, [orders, grids]."""

    def told(codes, known):
        x = np.zeros((P, K + 1), np.float32)
        x[np.arange(P), np.where(known, codes, K)] = 1
        logits = np.asarray(NET.apply(PARAMS, x[None])[0], float)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    found = []
    for order in itertools.permutations(range(P)):
        known, total = np.zeros((len(ALL), P), bool), np.zeros(len(ALL))
        for place in order:
            total += [told(*grid)[place, grid[0][place]] for grid in zip(ALL, known, strict=True)]
            known[:, place] = True
        found.append(total)
    return np.array(found)


@pytest.mark.costly
def test_the_loss_is_the_mean_over_all_orders_and_draws_are_of_their_mixture():
    log_p = log_probabilities()
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-6)
    many = jnp.tile(jnp.asarray(ALL, jnp.int32), (3000, 1))
    loss, _ = jax.jit(PRIOR.objective)(keys(len(many), 1), PARAMS, many)
    loss = np.asarray(loss, float).reshape(3000, -1)
    assert (np.abs(loss.mean(0) + log_p.mean(0)) < 4 * loss.std(0) / np.sqrt(3000)).all()

    mixture = np.exp(log_p).mean(0)
    assert np.abs(np.exp(log_p[0]) - mixture).max() > 0.02  # the order matters
    drawn = np.asarray(jax.jit(PRIOR.sample)(keys(6000, 2), PARAMS)) @ 2 ** np.arange(P)[::-1]
    seen = np.bincount(drawn, minlength=len(ALL)) / 6000
    assert (np.abs(seen - mixture) < 4.5 * np.sqrt(mixture * (1 - mixture) / 6000)).all()


def test_any_network_from_images_to_images_will_do():
    prior = code_prior(nets.residual_stage(4, cells=1, out=3), grid=(2, 2), num_codes=3)
    codes = jnp.array([[[0, 1], [2, 0]]] * 50)
    params = jax.jit(prior.init)(rng.root(0), codes)
    loss, _ = jax.jit(prior.objective)(keys(50, 3), params, codes)
    assert np.isfinite(loss).all()
    drawn = jax.jit(prior.sample)(keys(5, 4), params)
    assert drawn.shape == (5, 2, 2)
    assert drawn.dtype == jnp.int32
    assert set(np.unique(drawn)) <= {0, 1, 2}


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"whole numbers \['B', 3\], got an array int32 \[4, 2\]"):
        PRIOR.objective(keys(4, 0), PARAMS, jnp.zeros((4, 2), jnp.int32))
    with pytest.raises(ValueError, match=r"whole numbers \['B', 3\], got an array float32"):
        PRIOR.init(rng.root(0), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"keys must be one per example, \[4\], got \[3\]"):
        PRIOR.objective(keys(3, 0), PARAMS, jnp.zeros((4, 3), jnp.int32))
    wide = code_prior(nets.mlp((), (P, K + 1)), grid=(P,), num_codes=K)
    params = wide.init(rng.root(0), jnp.zeros((4, P), jnp.int32))
    with pytest.raises(ValueError, match=r"must return logits \[4, 3, 2\], got \[4, 3, 3\]"):
        wide.objective(keys(4, 0), params, jnp.zeros((4, P), jnp.int32))
    with pytest.raises(ValueError, match="grid must be a positive whole number, got 0"):
        code_prior(NET, grid=(0,), num_codes=K)
    with pytest.raises(ValueError, match="num_codes must be a positive whole number"):
        code_prior(NET, grid=(P,), num_codes=0)


def test_a_code_that_the_prior_does_not_have_is_refused():
    with pytest.raises(ValueError, match="codes must lie in"):
        PRIOR.objective(rng.per_example(rng.root(0), 1), PARAMS, jnp.full((1, P), K))
