"""The order of examples is a keyed bijection, with random access."""

import collections
import math

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
    return np.asarray(shuffled(rng.root(seed), jnp.asarray(positions), num))


shuffled = jax.jit(data.shuffled, static_argnums=2)


def orders(num, many, seed):
    """Orders of many keys, [many, num]."""
    keys = jax.random.split(rng.root(seed), many)
    each = jax.jit(jax.vmap(lambda key: data.shuffled(key, jnp.arange(num), num)))
    return np.asarray(each(keys))


@settings(max_examples=10)
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
    found = orders(5000, 200, seed=0)
    agreements = [np.sum(first == second) for first, second in found.reshape(100, 2, 5000)]
    fixed = [np.sum(order == np.arange(5000)) for order in found]
    for counts in (agreements, fixed):
        assert abs(np.mean(counts) - 1) < 4 / np.sqrt(len(counts))


@pytest.mark.parametrize("num", [8, 10, 100])
def test_every_index_is_as_likely_at_every_position(num):
    found = orders(num, 4000, seed=3)
    for position in (0, num // 2, num - 1):
        counts = np.bincount(found[:, position], minlength=num)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_are_torn_apart():
    # Serial correlation of a random order of n numbers is about N(0, 1/n).
    for num in (1000, 60_000):
        index = order(num, seed=5).astype(np.float64)
        assert abs(np.corrcoef(index[:-1], index[1:])[0, 1]) < 4 / np.sqrt(num)


@pytest.mark.parametrize(("num", "many"), [(4, 5_000), (5, 20_000), (6, 100_000)])
def test_in_small_ranges_every_order_is_as_likely(num, many):
    counts = collections.Counter(map(tuple, orders(num, many, seed=4).tolist()))
    every = math.factorial(num)
    assert len(counts) == every
    assert stats.chisquare([*counts.values(), *[0] * (every - len(counts))]).pvalue > 1e-4


def is_odd(permutation):
    """Whether a permutation is odd: of its cycles, an odd number has an even length."""
    rest, odd = set(range(len(permutation))), False
    while rest:
        place = first = rest.pop()
        while (place := permutation[place]) != first:
            rest.remove(place)
            odd = not odd
    return odd


@pytest.mark.parametrize("num", [9, 25, 35, 121])
def test_half_of_the_orders_are_odd(num):
    # Shifts of halves that are both odd, 5 x 5 here, make even orders alone.
    odd = sum(map(is_odd, orders(num, 1000, seed=num).tolist()))
    assert abs(odd - 500) < 4 * math.sqrt(250)


@pytest.mark.parametrize("num", [6, 9, 16, 100])
def test_neighbours_are_neighbours_again_as_often_as_by_chance(num):
    many = 20_000
    found = np.abs(np.diff(orders(num, many, seed=7), axis=1)) == 1
    # Of num - 1 pairs of neighbours, each is next to the other again with probability 2 / num.
    number = found.sum(axis=1)
    error = number.std() / math.sqrt(many)
    assert abs(number.mean() - 2 * (num - 1) / num) < 4 * error


@pytest.mark.parametrize("num", [0, -3, 2**31, 1.5])
def test_a_range_that_is_none_is_refused(num):
    with pytest.raises(ValueError, match="num must be"):
        data.shuffled(rng.root(0), jnp.arange(3), num)
