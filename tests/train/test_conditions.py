"""Conditions in training and sampling: they belong to their examples, however a batch is cut."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import gan, nets, rng, train, vae

CLASSES, SHAPE = 4, (3, 3, 1)
LABELS = np.array([0, 3, 1, 1, 2, 0, 3, 3, 2, 1, 0, 2])
BATCH = {
    "image": jax.random.uniform(jax.random.key(0, impl="threefry2x32"), (12, *SHAPE)),
    "label": jnp.asarray(LABELS),
}


def split(batch):
    return batch["image"], batch["label"]


def of_class(net):
    return nets.conditional(net, CLASSES)


def autoencoder(**options):
    encoder, decoder = of_class(nets.mlp((4,), 4)), of_class(nets.mlp((4,), SHAPE))
    model = vae.make(encoder, decoder, latent_dim=2, condition=split)
    return train.learner(
        model.init,
        vae.elbo(model),
        optax.sgd(0.1),
        sample=vae.generate(model),
        conditions=LABELS,
        **options,
    )


def game(**options):
    generator, critic = of_class(nets.mlp((4,), SHAPE)), of_class(nets.mlp((4,), 1))
    model = gan.make(generator, critic, latent_dim=2, condition=split)
    options = {"penalty": 0.1 * gan.r1, "conditions": LABELS, **options}
    return train.adversarial(model, gan.relativistic, optax.sgd(0.1), **options)


LEARNERS = {"autoencoder": autoencoder, "game": game}


def stepped(learner, batch=BATCH, num=2):
    state, metrics = learner.init(rng.root(0), batch), {}
    step = jax.jit(learner.step)
    for number in range(num):
        state, metrics = step(rng.at_step(rng.root(1), number), state, batch)
    return state, metrics


@functools.cache
def alone(name):
    """A learner's steps in one piece on one device."""
    return stepped(LEARNERS[name]())


def close(found, expected):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.costly
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("how", ["microbatches", "pmap", "sharded"])
def test_labels_stay_with_their_images(name, how):
    """By their place in the batch they were others in every part of it."""
    make = LEARNERS[name]
    if how == "microbatches":
        learner = make(microbatches=3)
    else:
        learner = train.over_devices(make(), how, jax.devices()[:2])
    close(stepped(learner), alone(name))


@pytest.mark.parametrize(
    "options",
    [{"discriminator_steps": 2, "generator_steps": 3}, {"microbatches": 3}, {"joint_batch": True}],
)
def test_every_update_sees_the_labels_of_its_own_images(options):
    """Images are grey as their label says: a critic of the difference is never sure."""

    def generate(params, z, c):
        return params * 0 + c[:, None, None, None] * jnp.ones((1, *SHAPE))

    def judge(params, x, c):
        return params * (x.mean((1, 2, 3)) - c)

    networks = [nets.Net(lambda key, x, c: jnp.ones(()), apply) for apply in (generate, judge)]
    model = gan.make(*networks, latent_dim=2, condition=split)
    learner = train.adversarial(model, gan.nonsaturating, optax.sgd(0.1), **options)
    grey = jnp.asarray(LABELS, jnp.float32)[:, None, None, None] * jnp.ones((1, *SHAPE))
    _, metrics = stepped(learner, {"image": grey, "label": BATCH["label"]}, 1)
    assert (metrics["real_probability"], metrics["fake_probability"]) == (0.5, 0.5)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_sample_has_the_condition_that_was_asked_for(name):
    learner = LEARNERS[name]()
    state, _ = stepped(learner)
    asked = learner.sample(rng.root(2), state, 6, np.array([0, 1, 2, 3, 0, 1]))
    again = learner.sample(rng.root(2), state, 6, np.array([0, 1, 2, 3, 2, 1]))
    same = (np.asarray(asked) == np.asarray(again)).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(same, [True, True, True, True, False, True])
    many = train.over_seeds(learner, 2)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    both = many.sample(rng.root(2), states, 6, np.array([0, 1, 2, 3, 0, 1]))
    np.testing.assert_allclose(both[1], asked, rtol=1e-5, atol=1e-6)
    decoded = [learner.decoder] if name == "game" else []
    for decoder in decoded:
        z = jnp.ones((2, 2))
        images = decoder(rng.root(0), state)(z, jnp.array([0, 1]))
        assert images.shape == (2, *SHAPE)
        assert not np.array_equal(images[0], images[1])


def test_without_one_conditions_are_as_frequent_as_in_the_data():
    draw = lambda keys, params, c: c  # noqa: E731
    learner = train.learner(
        lambda key, x: jnp.ones(()),
        lambda keys, w, x: (w * x, {}),
        optax.sgd(0.1),
        sample=draw,
        conditions={"label": np.array([0, 0, 0, 1]), "size": np.eye(4, dtype=np.float32)},
    )
    state = learner.init(rng.root(0), jnp.ones(2))
    drawn = learner.sample(rng.root(1), state, 4000)
    share, error = float((drawn["label"] == 1).mean()), np.sqrt(0.25 * 0.75 / 4000)
    assert abs(share - 0.25) < 4 * error
    # A condition is one of an example: its parts stay together.
    np.testing.assert_array_equal(drawn["label"], drawn["size"][:, 3])
    other = learner.sample(rng.root(2), state, 4000)
    assert not np.array_equal(drawn["label"], other["label"])


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (np.zeros(5, int), r"condition must be arrays \[6, ...\]"),
        (np.zeros((6, 2), int), r"form of the learner's conditions, \['num'\], got \['num', 2\]"),
        ({"a": np.zeros(6, int)}, "form of the learner's conditions"),
    ],
)
def test_a_condition_of_another_form_is_refused(name, condition, message):
    learner = LEARNERS[name]()
    state = jax.eval_shape(learner.init, rng.root(0), BATCH)
    with pytest.raises(ValueError, match=message):
        learner.sample(rng.root(0), state, 6, condition)


def test_conditions_without_a_common_axis_are_refused():
    with pytest.raises(ValueError, match="conditions must hold arrays with one common leading"):
        train.Conditions({"a": np.zeros(3), "b": np.zeros(4)})


def test_a_model_without_condition_takes_none():
    model = vae.make(nets.mlp((4,), 4), nets.mlp((4,), SHAPE), latent_dim=2)
    learner = train.learner(model.init, vae.elbo(model), optax.sgd(0.1), sample=vae.generate(model))
    state = learner.init(rng.root(0), BATCH["image"])
    with pytest.raises(ValueError, match="c must be None, as the model of this decoder was made"):
        learner.sample(rng.root(1), state, 3, np.zeros(3, int))
    needing = autoencoder()._replace(conditions=None)
    assert needing.conditions is None


def test_labels_are_the_distinct_whole_numbers_of_the_conditions():
    known = train.Conditions(LABELS)
    np.testing.assert_array_equal(known.labels, [0, 1, 2, 3])
    assert known.are(LABELS)
    assert train.Conditions(np.arange(4)).are(LABELS), "each of them once: all are as frequent"
    assert not known.are(LABELS[::-1])
    assert not train.Conditions(LABELS // 2).are(LABELS)
    for others in (LABELS[:, None], LABELS.astype(np.float32), {"label": LABELS}, LABELS > 1):
        assert train.Conditions(others).labels is None
        assert not train.Conditions(others).are(others)


def test_a_learner_without_a_sample_function_has_an_error_of_its_own():
    alone = train.learner(lambda key, x: 0.0, lambda keys, params, x: (x, {}), optax.sgd(1.0))
    with pytest.raises(train.NoSampler, match=r"cannot sample: train\.learner got no"):
        alone.sample(rng.root(0), None, 3)
    player = train.Player(lambda keys, params, x: (x, {}), optax.sgd(1.0))
    game = train.game(lambda key, x: {"a": jnp.zeros(())}, {"a": player})
    with pytest.raises(train.NoSampler, match=r"cannot sample: train\.game got no"):
        game.sample(rng.root(0), game.init(rng.root(0), jnp.zeros(3)), 3)
