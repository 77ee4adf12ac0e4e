"""Few labelled images of each class: folds, networks that know the class, and the study of both."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, nets, rng, train
from genmod.evaluate import classifier
from genmod.runs import catalogue

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
CLASSES = 4
LABELS = np.tile(np.arange(CLASSES, dtype=np.int32), 60)


def rows_of_light(labels):
    """Images [N, 8, 8, 1] of which those of class c have light in rows 2 c and 2 c + 1 alone."""
    noise = np.arange(64).reshape(8, 8, 1) * 37 + 11 * np.arange(len(labels))[:, None, None, None]
    lit = np.arange(8) // 2 == labels[:, None]
    return np.where(lit[:, :, None, None], 180 + noise % 70, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A file of 240 training and 40 test images."""
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    test = LABELS[:40]
    np.savez(
        path,
        x_train=rows_of_light(LABELS),
        y_train=LABELS,
        x_test=rows_of_light(test),
        y_test=test,
    )
    return path


def test_folds_are_disjoint_and_balanced_and_the_key_alone_decides():
    labels = np.asarray(jax.random.randint(rng.root(0), (500,), 0, 3))
    folds = [data.fold(rng.root(1), labels, 20, index) for index in range(5)]
    assert len(np.unique(np.concatenate(folds))) == 5 * 60
    for places in folds:
        assert (labels[places] == np.arange(60) % 3).all()
    assert (data.fold(rng.root(1), labels, 20, 3) == folds[3]).all()
    assert (data.fold(rng.root(2), labels, 20, 3) != folds[3]).any()


@pytest.mark.parametrize(
    ("num", "index", "message"),
    [
        (0, 0, "num must be a positive whole number, got 0"),
        (2, -1, "index must be a whole number of at least 0, got -1"),
        (20, 3, r"fold 3 of 20 examples a class needs 80 of class 0, which has 60"),
    ],
)
def test_a_fold_that_cannot_be_is_refused(num, index, message):
    with pytest.raises(ValueError, match=message):
        data.fold(rng.root(0), LABELS, num, index)


def test_balanced_batches_show_each_class_in_epochs_of_its_own():
    places = np.arange(24, dtype=np.int32)  # example i is of class i mod 4
    batch_at = data.balanced_batches(places, 4, batch_size=12, prepare=data.unchanged)
    seen = np.stack([jax.jit(batch_at)(rng.root(0), step) for step in range(4)])
    assert (seen % 4 == np.arange(12) % 4).all()
    for epoch in (seen[:2], seen[2:]):
        assert sorted(epoch.ravel()) == list(range(24))
    assert (seen[:2] // 4 != seen[2:] // 4).any()
    rows = seen[0].reshape(3, 4) // 4
    assert (rows != rows[:, :1]).any(), "the classes must not share their order"


@pytest.mark.parametrize(
    ("num", "batch_size", "message"),
    [
        (22, 12, "the number of examples must be a multiple of the 4 classes, got 22"),
        (24, 10, "batch_size must be a multiple of the 4 classes, got 10"),
        (24, 28, "batch_size must be at most the number of examples 6, got 7"),
    ],
)
def test_what_cannot_be_balanced_is_refused(num, batch_size, message):
    with pytest.raises(ValueError, match=message):
        data.balanced_batches(np.zeros(num), 4, batch_size=batch_size, prepare=data.unchanged)


@pytest.mark.parametrize("num", [12, 3])
def test_each_class_has_a_network_of_its_own(num):
    net = nets.mlp((5,), (2, 3))
    own = nets.per_class(net, 4)
    x = jax.random.normal(rng.root(0), (num, 7))
    params = own.init(rng.root(1), x)
    y = own.apply(params, x)
    for label in range(min(num, 4)):
        alone = net.apply(jax.tree.map(lambda leaf, c=label: leaf[c], params), x[label::4])
        np.testing.assert_allclose(y[label::4], alone, atol=1e-6)
    kernels = params["layer_0"]["kernel"]
    assert (kernels[0] != kernels[1]).any()


def test_one_network_is_given_the_class_of_each_place():
    net = nets.conditional(nets.mlp((), 2), 4)
    x = jnp.ones((6, 3, 1))
    params = net.init(rng.root(0), x)
    y = net.apply(params, x)
    kernel = params["output"]["kernel"]
    assert kernel.shape == (3 + 4, 2)
    expected = kernel[:3].sum(0)[None] + 2 * kernel[3 + np.arange(6) % 4]
    np.testing.assert_allclose(y, expected, rtol=1e-5)


@pytest.mark.parametrize("of_classes", [nets.conditional, nets.per_class])
def test_such_networks_sample_without_a_batch_where_the_network_does(of_classes):
    net = of_classes(nets.mlp((5,), 2, norm="batch"), 4)
    x = jax.random.normal(rng.root(0), (3, 8, 6))
    params = net.init(rng.root(1), x[0])
    standing = net.standing(params, x)
    y = jax.jit(net.apply)(standing, x[0])
    np.testing.assert_allclose(net.apply(standing, x[0, :4]), y[:4], atol=1e-6)
    with pytest.raises(ValueError, match="classes must be a positive whole number, got 0"):
        of_classes(nets.mlp((), 2), 0)


def small():
    net = nets.mlp((8,), CLASSES)
    recipe = classifier.Recipe(net, optax.adam(1e-2), 16, 30)
    real = {"images": jnp.asarray(rows_of_light(LABELS)), "labels": jnp.asarray(LABELS)}
    return recipe, real


def test_every_arm_has_the_same_steps_of_the_same_size(monkeypatch):
    recipe, real = small()
    some, seen = jax.tree.map(lambda leaf: leaf[:40], real), []

    def watched(learner, key, batch_at, num_steps):
        batch = jax.eval_shape(batch_at, key, 0)
        seen.append((num_steps, jax.tree.map(jnp.shape, batch)))
        return learner.init(key, real)

    monkeypatch.setattr(train, "fit", watched)
    monkeypatch.setattr(classifier, "accuracy", lambda *_: None)
    for made in (None, some):
        for augment in (None, data.translate(1 / 8)):
            classifier.score(rng.root(0), recipe, some, made, real, augment=augment)
    assert seen == [(30, {"images": (16, 8, 8, 1), "labels": (16,)})] * 4


def test_a_classifier_learns_what_it_is_shown():
    recipe, real = small()
    shifted = {**real, "labels": (real["labels"] + 1) % CLASSES}
    few = jax.tree.map(lambda leaf: leaf[:40], real)
    score = jax.jit(lambda key, made: classifier.score(key, recipe, few, made, real))
    assert score(rng.root(0), few) > 0.9
    assert score(rng.root(0), shifted) < 0.9, "labels that are wrong must do harm"


def test_half_of_a_batch_is_generated():
    _, real = small()
    made = {"images": jnp.full((9, 8, 8, 1), 7, jnp.uint8), "labels": jnp.full((9,), 3, jnp.int32)}
    batch = classifier._batch_at(16, real, made, rng.root(0), 0)
    assert ((batch["images"] == 7).all((1, 2, 3)) == (np.arange(16) >= 8)).all()


def test_accuracy_counts_every_image_once():
    net = nets.Net(lambda key, x: (), lambda params, x: x.reshape(len(x), -1)[:, :3])
    images = np.zeros((10, 1, 3, 1), np.uint8)
    images[:, 0, 1] = 9
    labels = np.array([1, 1, 1, 0, 1, 2, 1, 1, 0, 1])
    assert float(classifier.accuracy(net, (), images, labels, chunk=4)) == pytest.approx(0.7)


def test_generated_images_are_stored_with_the_labels_of_their_places():
    made = classifier.made_of_classes(jnp.linspace(-0.1, 1.1, 6).reshape(6, 1, 1, 1), 4)
    assert made["images"].dtype == jnp.uint8
    assert made["images"].ravel().tolist() == [0, 36, 97, 158, 219, 255]
    assert made["labels"].tolist() == [0, 1, 2, 3, 0, 1]


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


@pytest.mark.parametrize(("model", "per_class"), [("vae", False), ("gan", True)])
def test_synthetic_images_are_of_the_classes_that_were_asked_for(archive, model, per_class):
    file = catalogue.load(EXPERIMENTS / "augmentation.py")
    config = file.Config(
        dataset=f"npz:{archive}",
        model=model,
        per_class=per_class,
        images_per_class=20,
        batch_size=40,
        latent_dim=2,
        hidden=(16,),
    )
    built = file.build(config)
    fit = jax.jit(lambda key: train.fit(built.learner, key, built.batch_at, 300))
    images = built.learner.sample(rng.root(1), fit(rng.root(0)), 42)
    light = np.asarray(images).reshape(42, 4, 16).mean(2)
    assert (light.argmax(1) == np.arange(42) % CLASSES).mean() > 0.75  # by chance: 0.25


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "tables")
    return importlib.import_module("augmentation")


@pytest.mark.end_to_end
def test_the_table_is_computed_once_and_a_fold_of_it_is_the_experiment(
    archive, tmp_path, table, capsys, monkeypatch
):
    # Compiled in a fraction of the time that convolutions take.
    monkeypatch.setattr(nets, "dcgan_discriminator", lambda out, **_: nets.mlp((), out))
    options = table.Options(
        generators=("a VAE a class",),
        data=(f"npz:{archive}",),
        images=(25,),
        synthetic=(20,),
        folds=2,
        steps=5,
        classifier_steps=6,
        out=tmp_path / "table.json",
        figure=tmp_path / "pictures" / "table.png",
    )
    table.main(options)
    kept = json.loads(options.out.read_text())
    assert len(kept) == 2
    assert options.figure.stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "rows.npz, 25 images a class, 2 folds" in shown

    file = catalogue.load(EXPERIMENTS / "augmentation.py")
    config = file.Config(
        seed=1,
        fold=1,
        dataset=f"npz:{archive}",
        per_class=True,
        images_per_class=25,
        epochs=5,
        synthetic=20,
        classifier_steps=6,
    )
    built = file.build(config)
    assert built.num_steps == 5
    (*_, end) = train.run(built.learner, rng.root(1), built.batch_at, num_steps=5)
    alone = built.evaluate(rng.stream(rng.root(1), "evaluate"), end.state)
    several = {**kept[next(iter(kept))], **kept[list(kept)[1]]}
    for arm, name in {
        "none": "none",
        "classic": "classic",
        "synthetic": "synthetic, 20",
        "classic_and_synthetic": "classic + synthetic, 20",
    }.items():
        assert several[name][1] == pytest.approx(alone[f"accuracy_{arm}"], abs=1e-6), arm

    monkeypatch.setattr(catalogue, "load", None)  # nothing is to be built again
    table.main(options)
    assert json.loads(options.out.read_text()) == kept
    assert shown.splitlines()[-8:] == capsys.readouterr().out.splitlines()[-8:]


def test_a_table_of_nothing_is_refused(table):
    with pytest.raises(ValueError, match="folds must be at least 2, for a standard error, got 1"):
        table.Options(folds=1)
    with pytest.raises(ValueError, match="images and synthetic must be a positive whole number"):
        table.Options(synthetic=(0,))
    with pytest.raises(ValueError, match="unknown generator 'a VAE'; did you mean 'a VAE a class'"):
        table.Options(generators=("a VAE",))
