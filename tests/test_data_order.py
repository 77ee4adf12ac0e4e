"""The order of examples is a keyed bijection, with random access."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from genmod import data, rng


def order(num, seed=0, positions=None):
    positions = np.arange(num) if positions is None else positions
    return np.asarray(data.shuffled(rng.root(seed), jnp.asarray(positions), num))


@settings(max_examples=15)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1))
@example(1, 0)
@example(2, 0)
@example(3, 1)
def test_every_index_comes_exactly_once(num, seed):
    np.testing.assert_array_equal(np.sort(order(num, seed)), np.arange(num))


def test_every_index_of_mnist_comes_exactly_once():
    for seed in range(3):
        np.testing.assert_array_equal(np.sort(order(60_000, seed)), np.arange(60_000))


def test_the_largest_range_is_a_bijection_too():
    num = 2**31 - 1
    positions = np.concatenate([np.arange(50_000), num - 1 - np.arange(50_000)])
    index = order(num, positions=positions)
    assert index.min() >= 0
    assert len(np.unique(index)) == len(positions)


def test_an_index_does_not_depend_on_what_is_asked_with_it():
    whole = order(1001)
    for position in (0, 17, 1000):
        assert order(1001, positions=[position])[0] == whole[position]


def test_keys_give_orders_that_have_nothing_in_common():
    # Two random permutations agree in a number of places that is Poisson with mean 1.
    keys = jax.random.split(rng.root(0), 200)
    positions = jnp.arange(5000)
    orders = np.asarray(jax.vmap(lambda key: data.shuffled(key, positions, 5000))(keys))
    agreements = [np.sum(first == second) for first, second in orders.reshape(100, 2, 5000)]
    fixed = [np.sum(order == np.arange(5000)) for order in orders]
    for counts in (agreements, fixed):
        assert abs(np.mean(counts) - 1) < 4 / np.sqrt(len(counts))


@pytest.mark.parametrize("num", [8, 10, 100])
def test_every_index_is_as_likely_at_every_position(num):
    keys = jax.random.split(rng.root(3), 4000)
    positions = jnp.arange(num)
    orders = np.asarray(jax.vmap(lambda key: data.shuffled(key, positions, num))(keys))
    for position in (0, num // 2, num - 1):
        counts = np.bincount(orders[:, position], minlength=num)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_are_torn_apart():
    # Serial correlation of a random order of n numbers is about N(0, 1/n).
    for num in (1000, 60_000):
        index = order(num, seed=5).astype(np.float64)
        assert abs(np.corrcoef(index[:-1], index[1:])[0, 1]) < 4 / np.sqrt(num)


def test_small_ranges_reach_every_order():
    keys = jax.random.split(rng.root(4), 3000)
    positions = jnp.arange(4)
    orders = np.asarray(jax.vmap(lambda key: data.shuffled(key, positions, 4))(keys))
    counts = collections.Counter(map(tuple, orders.tolist()))
    assert len(counts) == 24
    assert max(counts.values()) < 3 * min(counts.values())


@pytest.mark.parametrize("num", [0, -3, 2**31, 1.5])
def test_a_range_that_is_none_is_refused(num):
    with pytest.raises(ValueError, match="num must be"):
        data.shuffled(rng.root(0), jnp.arange(3), num)
