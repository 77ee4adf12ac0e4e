import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import rng


def words(key):
    return np.asarray(jax.random.key_data(key)).tolist()


def test_streams_are_the_same_in_every_process_and_version():
    # Written down once: if these change, every seeded result of every user changes.
    assert words(rng.root(7)) == [0, 7]
    assert words(rng.stream(rng.root(7), "data")) == [2251006887, 4218044236]
    assert words(rng.at_step(rng.root(7), 3)) == [276534068, 1641862660]


def test_streams_steps_and_examples_all_differ():
    key = rng.root(0)
    keys = [rng.stream(key, name) for name in ("data", "step", "init", "order")]
    keys += [rng.at_step(key, step) for step in range(100)]
    keys += list(rng.per_example(rng.stream(key, "examples"), 100))
    assert len({tuple(words(k)) for k in keys}) == len(keys)


@pytest.mark.costly
@settings(max_examples=15)
@given(st.integers(1, 50), st.integers(1, 50))
def test_an_examples_key_does_not_depend_on_the_size_of_the_batch(small, large):
    small, large = sorted((small, large))
    key = rng.root(1)
    assert words(rng.per_example(key, large)[:small]) == words(rng.per_example(key, small))


def test_an_examples_key_does_not_depend_on_the_device_that_holds_it():
    key = rng.root(2)
    whole = jax.random.key_data(rng.per_example(key, 6))

    def share(_):
        return jax.random.key_data(rng.per_example(key, 3, axis_name="devices"))

    parts = jax.pmap(share, axis_name="devices")(np.arange(2))
    np.testing.assert_array_equal(np.asarray(parts).reshape(6, 2), whole)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", None, True])
def test_a_seed_that_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be a whole number in \[0, 2\*\*32\), got"):
        rng.root(seed)


def test_numpy_integers_are_seeds():
    assert words(rng.root(np.int64(5))) == words(rng.root(5))
