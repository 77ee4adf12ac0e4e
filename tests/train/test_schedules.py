"""Learning rates over the steps of training."""

import jax
import numpy as np
import optax
import pytest

from genmod import train


@pytest.mark.parametrize(("steps", "peak"), [(1, 1e-5), (2, 2e-3), (7, 1.0), (50, 10.0)])
def test_it_is_the_cosine_then_halves_of_it(steps, peak):
    found = np.array(jax.vmap(train.cosine(peak, steps=steps))(np.arange(4 * steps)))
    first = jax.vmap(optax.cosine_decay_schedule(peak, steps))(np.arange(steps))
    np.testing.assert_array_equal(found[:steps], first, "the run that ends there has these bits")
    half = max(1, steps // 2)
    share = np.arange(3 * steps) % half / half
    expected = peak / 4 * (1 + np.cos(np.pi * share))
    np.testing.assert_allclose(found[steps:], expected, rtol=1e-5, atol=1e-6 * peak)


def test_no_step_after_the_end_is_without_effect():
    # A cosine that stays at zero trained nothing in epochs beyond its end, and did not say so.
    rate = train.cosine(1.0, steps=10)
    assert min(float(rate(step)) for step in range(10, 200)) > 0.04


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_other_lengths_are_refused(steps):
    with pytest.raises(ValueError, match=f"steps must be a positive whole number, got {steps}"):
        train.cosine(1.0, steps=steps)
