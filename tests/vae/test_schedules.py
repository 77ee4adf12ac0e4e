"""Weights of the KL term, over steps and between groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import rng, train
from genmod.vae.schedules import balanced, cyclical


@pytest.mark.parametrize("period", [1, 7, 10])
@pytest.mark.parametrize("ramp", [0.25, 0.5, 1.0])
def test_a_weight_rises_and_stays_in_each_cycle(period, ramp):
    schedule = jax.jit(cyclical(period=period, ramp=ramp, largest=4.0))
    steps = np.arange(3 * period)
    share = steps % period / period  # tau in the paper, whose steps begin at 1
    expected = np.where(share <= ramp, 4 * share / ramp, 4)
    found = [schedule(step) for step in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0].shape == ()


def test_a_cycle_is_exact_at_late_steps():
    schedule = cyclical(period=1000, ramp=0.5)
    step = 2**30 + 276  # the 100th of its cycle; float32 does not know it
    assert float(schedule(jnp.int32(step))) == pytest.approx(0.2)


def test_a_learner_follows_the_cycle():
    def objective(hyper):
        return lambda keys, params, x: (params + 0 * x, {"beta": hyper["beta"] + 0 * x})

    hyper = {"beta": cyclical(period=4, largest=2.0)}
    learner = train.learner(lambda key, x: jnp.zeros(()), objective, optax.sgd(0.1), hyper=hyper)
    step, x = jax.jit(learner.step), jnp.ones(3)
    state, found = learner.init(rng.root(0), x), []
    for number in range(6):
        state, metrics = step(rng.at_step(rng.root(1), number), state, x)
        found.append(float(metrics["beta"]))
    assert found == [0, 1, 2, 2, 0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 0}, "period must be a positive whole number, got 0"),
        ({"period": 2.5}, "period must be a positive whole number, got 2.5"),
        ({"period": 4, "ramp": 0}, "ramp must be a number above 0 and at most 1, got 0"),
        ({"period": 4, "ramp": 1.5}, "ramp must be a number above 0 and at most 1, got 1.5"),
        ({"period": 4, "largest": -1}, "largest must be a number of at least 0, got -1"),
    ],
)
def test_what_is_no_cycle_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cyclical(**options)


KL = np.array([[3.0, 1.0, 0.0], [5.0, -0.2, 0.0]], np.float32)  # an estimate may be negative


def test_groups_weigh_as_much_as_they_tell_for_their_size():
    sizes = [20, 2, 1]
    weights = (np.abs(KL).mean(0) + 0.01) / sizes
    weights /= weights.mean()
    np.testing.assert_allclose(balanced(KL, sizes=sizes), KL @ weights, rtol=1e-6)
    gradient = jax.grad(lambda kl: balanced(kl, sizes=sizes).sum())(jnp.asarray(KL))
    np.testing.assert_allclose(gradient, np.tile(weights, (2, 1)), rtol=1e-5)
    alike = np.tile(KL[:, :1], (1, 3))
    np.testing.assert_allclose(balanced(alike), alike.sum(1), rtol=1e-6)
    assert balanced(jnp.asarray(KL, jnp.bfloat16)).dtype == jnp.float32
    np.testing.assert_array_equal(balanced(0 * KL), np.zeros(2), "not 0 / 0")


@pytest.mark.parametrize(
    ("kl", "sizes", "message"),
    [
        (KL[0], None, r"kl must be of the groups of a batch, \[B, G\], got \[3\]"),
        (KL, [1, 2], "sizes must be those of the 3 groups, got 2"),
        (KL, [1, 2, 0], "sizes must be a positive whole number, got 0"),
    ],
)
def test_groups_that_do_not_fit_are_refused(kl, sizes, message):
    with pytest.raises(ValueError, match=message):
        balanced(kl, sizes=sizes)
