"""The loop: the same numbers however the steps are run, cut up, interrupted or repeated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import data, nets, rng, train, vae
from genmod.train import chunk, loop


@pytest.fixture(scope="module")
def vae_run(digits):
    """A small VAE's learner and its batches; 130 is no divisor of 1,000."""
    model = vae.make(nets.mlp((16,), 4, heads=2), nets.mlp((16,), (28, 28, 1)), latent_dim=2)
    learner = train.learner(model.init, vae.elbo(model), optax.adam(1e-3))
    return learner, data.batches(digits, batch_size=130, prepare=data.binarized)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def last(points):
    *_, point = points
    return point


@pytest.mark.costly
def test_the_same_seed_gives_the_same_bits_and_another_does_not(vae_run):
    runs = [
        list(train.run(vae_run[0], rng.root(seed), vae_run[1], num_steps=30, log_every=7))
        for seed in (0, 0, 1)
    ]
    assert bits(runs[0][-1].carry) == bits(runs[1][-1].carry)
    assert [p.metrics for p in runs[0]] == [p.metrics for p in runs[1]]
    assert bits(runs[0][-1].carry) != bits(runs[2][-1].carry)
    assert [p.step for p in runs[0]] == [7, 14, 21, 28, 30]


@pytest.mark.end_to_end
@settings(max_examples=8)
@given(stop=st.integers(1, 39), log_every=st.integers(1, 40))
def test_a_run_continued_from_anywhere_ends_in_the_same_bits(vae_run, stop, log_every):
    learner, batch_at = vae_run
    key = rng.root(3)
    whole = list(train.run(learner, key, batch_at, num_steps=40, log_every=log_every))

    # Stop in the middle of a log interval, save, and continue from what was saved.
    before = list(
        train.run(
            learner,
            key,
            batch_at,
            num_steps=40,
            log_every=log_every,
            on_call=lambda step: step >= stop,
        )
    )
    saved = jax.device_get(before[-1].carry)
    after = list(
        train.run(
            learner,
            key,
            batch_at,
            num_steps=40,
            log_every=log_every,
            carry=jax.tree.map(jnp.asarray, saved),
        )
    )
    logged = [p for p in [*before, *after] if p.metrics]
    assert [(p.step, p.metrics) for p in logged] == [(p.step, p.metrics) for p in whole]
    final = after[-1] if after else before[-1]
    assert bits(final.carry) == bits(whole[-1].carry)


@pytest.mark.end_to_end
def test_uncompiled_and_jitted_steps_give_the_numbers_of_the_loop(vae_run):
    learner, batch_at = vae_run
    key = rng.root(0)
    looped = last(train.run(learner, key, batch_at, num_steps=2))
    eager = last(train.run(learner, key, batch_at, num_steps=2, compiled=False))

    step = jax.jit(learner.step)
    state = train.start(learner, key, batch_at).state
    losses = []
    for index in range(2):
        batch = batch_at(rng.stream(key, "data"), index)
        state, metrics = step(rng.at_step(rng.stream(key, "step"), index), state, batch)
        losses.append(float(metrics["loss"]))

    # Same operations, but fused differently: the last bits may differ.
    for other in (eager.state, state):
        for a, b in zip(jax.tree.leaves(looped.state), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(looped.metrics["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(looped.metrics["loss"], eager.metrics["loss"], rtol=1e-5)


def test_one_program_serves_calls_of_every_length(vae_run):
    learner, batch_at = vae_run
    before = chunk.advance._cache_size()
    fresh = learner._replace(step=lambda *args: learner.step(*args))
    points = list(train.run(fresh, rng.root(0), batch_at, num_steps=100, log_every=33))
    list(train.run(fresh, rng.root(1), batch_at, num_steps=50, log_every=10, carry=points[0].carry))
    assert chunk.advance._cache_size() == before + 1


def test_the_length_of_the_calls_changes_no_bit(vae_run, monkeypatch):
    learner, batch_at = vae_run
    whole = last(train.run(learner, rng.root(0), batch_at, num_steps=40, log_every=20))
    monkeypatch.setattr(loop, "_SECONDS_PER_CALL", 0.0)  # one step a call
    single = last(train.run(learner, rng.root(0), batch_at, num_steps=40, log_every=20))
    assert bits(whole.carry) == bits(single.carry)
    assert whole.metrics == single.metrics


def test_calls_grow_until_they_take_half_a_second():
    calls = loop._CallLength()
    lengths = []
    for seconds_per_step in [2.0] + [1e-3] * 9:  # the first call compiles
        lengths.append(calls.length)
        calls.took(calls.length, calls.length * seconds_per_step)
    assert lengths == [1, 1, 8, 64, 500, 500, 500, 500, 500, 500]
    calls.took(500, 5000.0)
    assert calls.length == 1


def test_yielded_carries_stay_valid_while_the_run_goes_on(vae_run):
    learner, batch_at = vae_run
    points = list(train.run(learner, rng.root(0), batch_at, num_steps=20, log_every=5))
    steps = [int(point.carry.step) for point in points]
    assert steps == [5, 10, 15, 20]
    again = last(
        train.run(learner, rng.root(0), batch_at, num_steps=20, log_every=5, carry=points[1].carry)
    )
    assert bits(again.carry) == bits(points[-1].carry)


def test_the_program_updates_its_state_in_place(vae_run):
    learner, batch_at = vae_run
    carry = train.start(learner, rng.root(0), batch_at)
    chunk.advance(learner, rng.root(0), batch_at, carry, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry.state))


def test_a_plain_function_is_a_source_of_batches_too(vae_run):
    learner, batch_at = vae_run
    plain = last(train.run(learner, rng.root(0), lambda k, s: batch_at(k, s), num_steps=6))
    partial = last(train.run(learner, rng.root(0), batch_at, num_steps=6))
    assert bits(plain.carry) == bits(partial.carry)


def counting(bad_step=None, poison=None):
    """A learner that counts; at one step its loss, or its state alone, becomes NaN."""

    def step(key, state, batch):
        number = state["number"] + 1
        value = number.astype(jnp.float32) + 0 * state["weight"]
        if bad_step is not None:
            value = jnp.where(number == bad_step, jnp.nan, value)
        weight = state["weight"]
        if poison is not None:
            weight = jnp.where(number == poison, jnp.inf, weight)
        return {"number": number, "weight": weight}, {"loss": value, "twice": 2 * value}

    def init(key, batch):
        return {"number": jnp.zeros((), jnp.int32), "weight": jnp.ones(())}

    return train.Learner(init, step, lambda key, state, num: jnp.zeros((num,)))


def ones(key, step):
    return jnp.ones((2, 1))


def test_metrics_are_means_over_the_log_interval():
    points = list(train.run(counting(), rng.root(0), ones, num_steps=10, log_every=4))
    assert [(p.step, p.metrics["loss"]) for p in points] == [(4, 2.5), (8, 6.5), (10, 9.5)]
    assert [p.metrics["twice"] for p in points] == [5.0, 13.0, 19.0]


@pytest.mark.parametrize(
    ("bad_step", "compiled"),
    [(1, True), (2, True), (17, True), (64, True), (100, True), (1, False), (5, False)],
)
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(bad_step, compiled):
    points = train.run(
        counting(bad_step), rng.root(0), ones, num_steps=100, log_every=30, compiled=compiled
    )
    with pytest.raises(train.NonFiniteError, match=f"non-finite in step {bad_step}: loss nan") as e:
        list(points)
    assert e.value.step == bad_step
    assert np.isnan(e.value.metrics["loss"])
    assert int(e.value.carry.step) == int(e.value.carry.state["number"]) == bad_step - 1
    assert int(e.value.carry.count) == (bad_step - 1) % 30
    assert np.isfinite(e.value.carry.totals["loss"])


@pytest.mark.parametrize("poison", [1, 5, 40])
def test_a_state_that_is_ruined_is_blamed_on_the_step_that_ruined_it(poison):
    # The update overflows at one step; only the loss of the next step shows it.
    with pytest.raises(train.NonFiniteError) as e:
        list(train.run(counting(poison=poison), rng.root(0), ones, num_steps=60, log_every=60))
    assert e.value.step == poison
    assert int(e.value.carry.step) == poison - 1
    assert float(e.value.carry.state["weight"]) == 1.0


def test_an_infinity_that_was_there_from_the_start_is_no_failure():
    carry = train.start(counting(), rng.root(0), ones)
    carry = carry._replace(state={**carry.state, "best": jnp.array(jnp.inf)})
    learner = counting()._replace(
        step=lambda key, state, batch: (
            {**counting().step(key, state, batch)[0], "best": state["best"]},
            counting().step(key, state, batch)[1],
        )
    )
    assert last(train.run(learner, rng.root(0), ones, num_steps=5, carry=carry)).step == 5


def test_a_run_that_begins_ruined_says_so():
    carry = train.start(counting(), rng.root(0), ones)
    ruined = carry._replace(state={**carry.state, "weight": jnp.array(jnp.nan)})
    with pytest.raises(train.NonFiniteError, match="in step 1"):
        list(train.run(counting(), rng.root(0), ones, num_steps=5, carry=ruined))


def test_a_real_run_that_diverges_keeps_its_last_finite_state(digits):
    model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (28, 28, 1)), latent_dim=2)
    learner = train.learner(model.init, vae.elbo(model), optax.sgd(1e20))
    batch_at = data.batches(digits, batch_size=100)
    with pytest.raises(train.NonFiniteError) as e:
        list(train.run(learner, rng.root(0), batch_at, num_steps=50, log_every=50))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(e.value.carry.state))
    assert int(e.value.carry.step) == e.value.step - 1


@pytest.mark.parametrize("name", ["num_steps", "log_every"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_bad_lengths_are_refused_at_once(name, value):
    arguments = {"num_steps": 10, "log_every": 5, name: value}
    with pytest.raises(ValueError, match=f"{name} must be a positive whole number, got {value}"):
        train.run(counting(), rng.root(0), ones, **arguments)


def test_a_finished_run_has_nothing_to_do():
    carry = last(train.run(counting(), rng.root(0), ones, num_steps=10)).carry
    assert list(train.run(counting(), rng.root(0), ones, num_steps=10, carry=carry)) == []
