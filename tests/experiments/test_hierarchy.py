"""The experiment on hierarchies: each net is built, trained and evaluated."""

from pathlib import Path

import jax
import numpy as np
import pytest

from genmod import rng, train
from genmod.runs import catalogue

MODULE = catalogue.load(Path(__file__).parents[2] / "experiments" / "hierarchy.py")
LAYERS = {"one-layer": (50,), "two-layer": (100, 50), "ladder": (196, 98, 98, 32)}


@pytest.mark.parametrize(
    "net",
    ["two-layer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("one-layer", "ladder"))],
)
def test_each_net_is_trained_sampled_and_weighed(net):
    found = MODULE.build(MODULE.Config(net=net, batch_size=20))
    assert found.num_steps == 50 * 60_000 / 20
    assert found.latents.dim == sum(LAYERS[net])
    key = rng.root(0)
    carry = train.abstract_carry(found.learner, key, found.batch_at)
    batch = jax.eval_shape(found.batch_at, key, 0)
    assert batch.shape == (20, 28, 28, 1)
    _, metrics = jax.eval_shape(found.learner.step, key, carry.state, batch)
    layers = {f"kl_layer/{i}" for i in range(len(LAYERS[net]))}
    assert layers | {"loss", "reconstruction", "kl"} == {m for m in metrics if "gradient" not in m}
    samples = jax.eval_shape(lambda state: found.learner.sample(key, state, 5), carry.state)
    assert samples.shape == (5, 28, 28, 1)
    weights = jax.eval_shape(
        found.likelihood.log_weight,
        jax.eval_shape(lambda: rng.per_example(key, 20)),
        carry.state.params,
        batch,
    )
    assert weights.shape == (20,)


@pytest.mark.slow
def test_free_nats_are_for_training_alone():
    found = MODULE.build(MODULE.Config(net="one-layer", free_nats=30.0))
    batch = jax.jit(found.batch_at)(rng.root(1), 0)
    state = jax.jit(found.learner.init)(rng.root(0), batch)
    inspect = jax.jit(found.learner.inspect)(rng.root(2), state, batch)
    terms = {name: np.asarray(value) for name, value in inspect.terms.items()}
    assert np.all(terms["kl"] < 30)
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + 30, rtol=1e-5)
