"""Averages over a data set: each example once, and the numbers that an experiment reports."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from genmod import evaluate, rng

EXAMPLES = np.arange(1, 8, dtype=np.float32)[:, None]


def objective(keys, params, x):
    return params * x[:, 0], {"square": jnp.square(x[:, 0])}


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_example_is_used_once(batch_size):
    values = evaluate.over_examples(
        rng.root(0), 2.0, EXAMPLES, objective=objective, batch_size=batch_size
    )
    np.testing.assert_array_equal(values["loss"], 2 * EXAMPLES[:, 0])
    np.testing.assert_array_equal(values["square"], EXAMPLES[:, 0] ** 2)


def test_the_numbers_of_a_test_set_have_names_and_a_standard_error():
    evaluation = evaluate.on_test(objective, EXAMPLES, loss="distance")
    numbers = evaluation(rng.root(0), SimpleNamespace(params=2.0))
    # 2, 4, ..., 14: the mean is 8, the standard deviation 2 * sqrt(14 / 3).
    assert numbers == {
        "test_distance": 8.0,
        "test_square": pytest.approx(20.0),
        "test_distance_standard_error": pytest.approx(2 * np.sqrt(14 / 3) / np.sqrt(7)),
    }
