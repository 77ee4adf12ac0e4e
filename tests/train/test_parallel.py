"""One run on several devices: the run that it would be on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, gan, nets, rng, train, vae


def images(num=48):
    return np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1)).astype(np.uint8)


@functools.cache  # what several tests train is compiled once
def autoencoder():
    model = vae.make(nets.mlp((8,), 6, heads=2), nets.mlp((8,), (4, 4, 1)), latent_dim=3)
    return train.learner(model.init, vae.elbo(model), optax.adam(1e-2))


@functools.cache
def game(loss=gan.relativistic_average, **options):
    """A game whose every part could go wrong: examples that are compared, normalised, packed."""
    model = gan.make(
        nets.mlp((8,), (4, 4, 1), output=jax.nn.sigmoid, norm="batch"),
        gan.packed(nets.mlp((8,), 1), 2),
        latent_dim=3,
    )
    return train.adversarial(
        model,
        loss,
        optax.sgd(1e-2),
        penalty=0.5 * gan.r1 + 0.5 * gan.gradient_penalty,
        discriminator_steps=2,
        ema_half_life=50,
        **options,
    )


LEARNERS = {"autoencoder": autoencoder, "game": game}


@functools.cache
def batch_at():
    return data.batches(images(), batch_size=16)


def curve(learner, num_steps=100, seed=0):
    points = train.run(learner, rng.root(seed), batch_at(), num_steps=num_steps, log_every=10)
    return list(points)


def assert_same_run(ours, theirs, tolerance=1e-5):
    """Equal log points, to the tolerance, and a state that is one state, not one a device."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.step == b.step
        for name in b.metrics:
            np.testing.assert_allclose(
                a.metrics[name], b.metrics[name], rtol=tolerance, atol=tolerance, err_msg=name
            )
    ours, theirs = ours[-1].carry, theirs[-1].carry
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.costly
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("how", [pytest.param("pmap", marks=pytest.mark.end_to_end), "sharded"])
@pytest.mark.parametrize("num", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)), 4])
def test_one_two_and_four_devices_give_the_same_run(name, how, num):
    learner = LEARNERS[name]()
    many = curve(train.over_devices(learner, how, jax.devices()[:num]))
    assert_same_run(many, curve(learner))
    # As the run over devices would be saved and restored: without them.
    for leaf in jax.tree.leaves(many[-1].carry):
        assert leaf.is_fully_replicated


@pytest.mark.costly
@pytest.mark.parametrize("sequential", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_seeds_are_spread_over_devices(sequential):
    learner = train.over_seeds(autoencoder(), 4, sequential=sequential)
    alone = curve(learner, 50)
    many = curve(train.over_devices(learner, devices=jax.devices()[:2]), 50)
    assert_same_run(many, alone, tolerance=0 if sequential else 1e-5)
    for leaf in jax.tree.leaves(many[-1].state):
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}


@pytest.mark.parametrize("how", ["sharded", pytest.param("pmap", marks=pytest.mark.slow)])
def test_a_run_goes_on_with_another_number_of_devices(how):
    learner = autoencoder()
    four = train.over_devices(learner, how, jax.devices()[:4])
    half = curve(four, 50)[-1].carry
    rest = list(
        train.run(learner, rng.root(0), batch_at(), num_steps=100, log_every=10, carry=half)
    )
    assert_same_run(rest, curve(learner)[5:])
    half = curve(learner, 50)[-1].carry
    rest = list(train.run(four, rng.root(0), batch_at(), num_steps=100, log_every=10, carry=half))
    assert_same_run(rest, curve(learner)[5:])


def test_a_forgotten_mean_is_found_before_training():
    def init(key, batch):
        return {"weight": jnp.zeros(4)}

    def step(key, state, batch):
        gradient = jax.grad(lambda w: jnp.mean(batch @ w))(state["weight"])
        return {"weight": state["weight"] - gradient}, {"loss": jnp.zeros(())}

    learner = train.over_devices(
        train.Learner(init, step, lambda *_: None), "pmap", jax.devices()[:2]
    )
    with pytest.raises(ValueError, match="weight differs: the step must take the mean of its grad"):
        train.run(
            learner, rng.root(0), lambda key, step: jnp.arange(32.0).reshape(8, 4), num_steps=1
        )


@pytest.mark.parametrize("how", ["pmap", "sharded"])
def test_shares_must_be_equal(how):
    three = jax.devices()[:3]
    with pytest.raises(ValueError, match=r"batch of 16 examples cannot be cut .* for 3 devices"):
        curve(train.over_devices(autoencoder(), how, three), 1)
    with pytest.raises(ValueError, match="4 seeds cannot be cut into equal shares for 3 devices"):
        curve(train.over_devices(train.over_seeds(autoencoder(), 4), how, three), 1)


def test_an_unknown_way_and_no_devices_are_refused():
    with pytest.raises(ValueError, match="unknown how 'pmapp'; did you mean 'pmap'"):
        train.over_devices(autoencoder(), "pmapp")
    with pytest.raises(ValueError, match="devices must hold at least one device"):
        train.over_devices(autoencoder(), devices=[])
