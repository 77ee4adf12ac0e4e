"""Small classifiers: what they train on, what they learn, and how they are judged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from light import CLASSES, LABELS, rows_of_light

from genmod import data, nets, rng, train
from genmod.evaluate import classifier


def small():
    net = nets.mlp((8,), CLASSES)
    recipe = classifier.Recipe(net, optax.adam(1e-2), 16, 30)
    real = {"image": jnp.asarray(rows_of_light(LABELS)), "label": jnp.asarray(LABELS)}
    return recipe, real


def test_every_arm_has_the_same_steps_of_the_same_size(monkeypatch):
    recipe, real = small()
    some, seen = jax.tree.map(lambda leaf: leaf[:40], real), []

    def watched(learner, key, batch_at, num_steps):
        assert jax.config.jax_default_matmul_precision == "highest"
        batch = jax.eval_shape(batch_at, key, 0)
        seen.append((num_steps, jax.tree.map(jnp.shape, batch)))
        return learner.init(key, real)

    monkeypatch.setattr(train, "fit", watched)
    monkeypatch.setattr(classifier, "accuracy", lambda *_: None)
    for made in (None, some):
        for augment in (None, data.translate(1 / 8)):
            classifier.score(rng.root(0), recipe, some, made, real, augment=augment)
    assert seen == [(30, {"image": (16, 8, 8, 1), "label": (16,)})] * 4


def test_a_classifier_learns_what_it_is_shown():
    recipe, real = small()
    shifted = {**real, "label": (real["label"] + 1) % CLASSES}
    few = jax.tree.map(lambda leaf: leaf[:40], real)
    score = jax.jit(lambda key, made: classifier.score(key, recipe, few, made, real))
    assert score(rng.root(0), few) > 0.9
    assert score(rng.root(0), shifted) < 0.9, "labels that are wrong must do harm"


def test_half_of_a_batch_is_generated():
    _, real = small()
    made = {"image": jnp.full((9, 8, 8, 1), 7, jnp.uint8), "label": jnp.full((9,), 3, jnp.int32)}
    batch_at = jax.jit(classifier._batch_at, static_argnums=0)
    batch = batch_at(16, real, made, rng.root(0), 0)
    assert ((batch["image"] == 7).all((1, 2, 3)) == (np.arange(16) >= 8)).all()


def test_accuracy_counts_every_image_once():
    net = nets.Net(lambda key, x: (), lambda params, x: x.reshape(len(x), -1)[:, :3])
    images = np.zeros((10, 1, 3, 1), np.uint8)
    images[:, 0, 1] = 9
    labels = np.array([1, 1, 1, 0, 1, 2, 1, 1, 0, 1])
    assert float(classifier.accuracy(net, (), images, labels, chunk=4)) == pytest.approx(0.7)


@pytest.mark.parametrize(("num", "labels"), [(0, 0), (3, 2)])
def test_an_accuracy_needs_images_and_their_labels(num, labels):
    images = np.zeros((num, 1, 3, 1), np.uint8)
    with pytest.raises(ValueError, match=rf"images and labels .* got \[{num}, 1, 3, 1\] and \["):
        classifier.accuracy(nets.mlp((), 3), (), images, np.zeros(labels, int))


def test_the_cross_entropy_of_a_logit_of_1000_is_a_number():
    """A published defect: through probabilities, it is NaN at a logit of 100."""
    logits = jnp.array([1000.0, 0.0])
    net = nets.Net(
        lambda key, x: logits, lambda params, x: jnp.broadcast_to(params[None], (len(x), 2))
    )
    batch = {"image": jnp.zeros((4, 1, 1, 1), jnp.uint8), "label": jnp.ones(4, jnp.int32)}
    learner = classifier.learner(net, optax.sgd(1.0))
    state = train.fit(learner, rng.root(0), lambda key, step: batch, 1)
    # The slope is softmax(logits) - (0, 1).
    np.testing.assert_array_equal(state.params, [999.0, 1.0])


def test_generated_images_are_stored_with_the_labels_that_they_were_asked_for():
    images, labels = jnp.linspace(-0.1, 1.1, 6).reshape(6, 1, 1, 1), jnp.array([3, 1, 1, 0, 2, 3])
    made = classifier.labelled(images, labels)
    assert made["image"].dtype == jnp.uint8
    assert made["image"].ravel().tolist() == [0, 36, 97, 158, 219, 255]
    assert made["label"].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            np.zeros((3, 2, 2, 1), np.uint8),
            LABELS[:3],
            "images must be floating .* got an array ui",
        ),
        (np.zeros((3, 2, 2), np.float32), LABELS[:3], r"images must be .* got .* \[3, 2, 2\]"),
        (
            np.zeros((3, 2, 2, 1), np.float32),
            LABELS[:2],
            r"labels must be integers \[3\], .* \[2\]",
        ),
        (
            np.zeros((3, 2, 2, 1), np.float32),
            np.zeros(3),
            "labels must be integers .* got .*float32",
        ),
        (np.full((3, 2, 2, 1), np.nan, np.float32), LABELS[:3], "images must be finite"),
    ],
)
def test_images_or_labels_of_another_kind_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        classifier.labelled(images, labels)


def test_a_fit_is_the_run_and_among_several_the_one_alone():
    recipe, real = small()
    learner = classifier.learner(recipe.net, recipe.optimizer, augment=data.translate(1 / 8))
    batch_at = data.batches(real, batch_size=16, prepare=data.unchanged)
    (*_, end) = train.run(learner, rng.root(3), batch_at, num_steps=7)
    keys = rng.of_seeds(rng.root(2), 3)
    fits = jax.jit(lambda keys: jax.lax.map(lambda k: train.fit(learner, k, batch_at, 7), keys))
    for alone, mapped in zip(jax.tree.leaves(end.state), jax.tree.leaves(fits(keys)), strict=True):
        np.testing.assert_allclose(mapped[1], alone, atol=1e-6)
    with pytest.raises(ValueError, match="num_steps must be a positive whole number, got 0"):
        train.fit(learner, rng.root(0), batch_at, 0)
    with pytest.raises(ValueError, match="must be a single run, got one over 2 seeds"):
        train.fit(train.over_seeds(learner, 2), rng.root(0), batch_at, 1)
