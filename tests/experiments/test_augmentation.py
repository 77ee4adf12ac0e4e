"""The study of synthetic data: of a run, and of the table."""

import importlib
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from light import CLASSES, LABELS, brightest, rows_of_light

from genmod import data, nets, report, rng, train
from genmod.evaluate import classifier
from genmod.runs import catalogue

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


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


@pytest.mark.costly
@pytest.mark.parametrize(("model", "per_class"), [("vae", False), ("gan", True)])
def test_synthetic_images_are_of_the_classes_that_were_asked_for(
    archive, monkeypatch, model, per_class
):
    file = catalogue.load(EXPERIMENTS / "augmentation.py")
    config = file.Config(
        dataset=f"npz:{archive}",
        model=model,
        per_class=per_class,
        augmented_model=True,
        images_per_class=20,
        batch_size=40,
        latent_dim=2,
        hidden=(16,),
        synthetic=12,
        shift=0.0,
    )
    built = file.build(config)
    assert data.describe(built.batch_at)["prepare"] == {
        "image": "augmented(compose, unit_interval)"
    }
    state = jax.jit(lambda key: train.fit(built.learner, key, built.batch_at, 300))(rng.root(0))

    def share(images, labels):  # by chance: 0.25
        return (brightest(images) == labels).mean()

    for labels in (LABELS[:42], np.full(10, 2)):
        images = built.learner.sample(rng.root(1), state, len(labels), labels)
        assert share(images, labels) > 0.75

    monkeypatch.setattr(report, "image_grid", lambda images, columns, title: (images, columns))
    for name, (images, columns) in built.figures(rng.root(2), state).items():
        assert (len(images), columns) == (10 * CLASSES, CLASSES)
        assert share(images, np.arange(10 * CLASSES) % columns) > (
            0.75 if name == "samples" else 0.99
        )

    def watched(key, recipe, real, made, test, *, augment):
        assert share(real["image"], real["label"]) == 1
        if made is not None:
            assert (np.bincount(made["label"]) == config.synthetic).all()
            assert share(made["image"], made["label"]) > 0.75
        return len(made["label"]) if made else 0

    monkeypatch.setattr(classifier, "score", watched)
    assert list(built.evaluate(rng.root(3), state).values()) == [0, 0, *[12 * CLASSES] * 2]


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "tables")
    return importlib.import_module("augmentation")


@pytest.mark.end_to_end
@pytest.mark.slow
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
