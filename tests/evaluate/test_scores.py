"""Scores by a classifier: golden values, closed forms, and bad input."""

import json
import warnings
from pathlib import Path

import feature_cases
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import nets, rng
from genmod.evaluate import classifier, scores

GOLDEN = json.loads((Path(__file__).parents[1] / "kept" / "distances.json").read_text())


def test_the_score_is_that_of_torch_fidelity():
    found = scores.classifier_score(feature_cases.logits())
    assert list(found) == pytest.approx(GOLDEN["classifier_score"], rel=1e-12)


def by_definition(logits):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(axis=0))), axis=1)))


def test_one_part_is_the_score_of_all_samples_in_any_order():
    logits = feature_cases.logits().astype(np.float64)
    found = scores.classifier_score(logits, splits=1)
    assert found.mean == pytest.approx(by_definition(logits), rel=1e-12)
    assert found.std == 0
    assert scores.classifier_score(logits[::-1], splits=1).mean == pytest.approx(found.mean)
    # Smaller parts know less of the mean prediction.
    assert scores.classifier_score(logits, splits=50).mean < found.mean


def test_parts_of_unequal_size_hold_every_sample():
    logits = feature_cases.logits(11).astype(np.float64)
    order = np.random.RandomState(2020).permutation(11)
    parts = [by_definition(logits[some]) for some in (order[:5], order[5:])]
    found = scores.classifier_score(logits, splits=2)
    assert found.mean == pytest.approx(np.mean(parts), rel=1e-12)
    assert found.std == pytest.approx(np.std(parts), rel=1e-12)


def test_it_lies_between_1_and_the_number_of_classes():
    sure = 1000 * np.eye(5)[np.arange(100) % 5]
    assert scores.classifier_score(sure, splits=1).mean == pytest.approx(5)
    assert scores.classifier_score(-sure, splits=1).mean == pytest.approx(
        by_definition(-sure / 1000 * 700)
    )
    one = 1000 * np.eye(5)[np.zeros(100, int)]
    assert scores.classifier_score(one).mean == 1
    assert scores.classifier_score(np.zeros((100, 5))).mean == pytest.approx(1)
    # A constant on top of the logits of a sample changes nothing, even a large one.
    shift = 1e4 * np.arange(100.0)[:, None]
    assert scores.classifier_score(sure + shift).mean == scores.classifier_score(sure).mean


def test_probabilities_in_place_of_logits_give_a_warning():
    logits = feature_cases.logits()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with pytest.warns(UserWarning, match="logits look like probabilities"):
        scores.classifier_score(p)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores.classifier_score(np.log(p)).mean == pytest.approx(
            scores.classifier_score(logits).mean, rel=1e-5
        )
        scores.classifier_score(np.abs(logits))


def images(labels):
    """Images whose brightness is their class."""
    pixels = np.zeros((len(labels), 4, 4, 1), np.uint8) + labels[:, None, None, None] * 200
    return {"image": jnp.asarray(pixels, jnp.uint8), "label": jnp.asarray(labels, jnp.int32)}


def test_training_on_samples_is_tested_on_real_images():
    recipe = classifier.Recipe(nets.mlp((), 2), optax.adam(0.1), batch_size=10, num_steps=20)
    labels = np.arange(40) % 2
    # A quarter of the test images have the other class.
    told = np.where(np.arange(40) < 10, 1 - labels, labels)
    test = {**images(labels), "label": jnp.asarray(told, jnp.int32)}
    found = scores.classification_accuracy_score(rng.root(0), recipe, images(labels), test)
    assert found.mean == 0.75
    assert found.error == pytest.approx(np.std(labels == told, ddof=1) / np.sqrt(40))


LOGITS = np.eye(3)
SOME = images(np.array([0, 1]))


def trained_on(samples=SOME, test=SOME):
    recipe = classifier.Recipe(nets.mlp((), 2), optax.adam(0.1), batch_size=2, num_steps=1)
    return scores.classification_accuracy_score(rng.root(0), recipe, samples, test)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scores.classifier_score(LOGITS), "logits must have at least 10 rows"),
        (lambda: scores.classifier_score(LOGITS[0]), r"logits must have the shape \[N, D\]"),
        (lambda: scores.classifier_score(LOGITS[:, :1], splits=1), "at least 2 classes"),
        (lambda: scores.classifier_score(LOGITS * np.nan, splits=1), "logits must be finite"),
        (lambda: scores.classifier_score(LOGITS, splits=0), "splits must be a positive"),
        (
            lambda: scores.classification_accuracy_score(
                rng.root(0), None, SOME, {**SOME, "label": SOME["label"][:1]}
            ),
            r"test must have images \[N, H, W, C\] and labels \[N\] .*\[2, 4, 4, 1\] and \[1\]",
        ),
        (
            lambda: scores.classification_accuracy_score(
                rng.root(0), None, images(np.zeros(0, int)), SOME
            ),
            "samples must have images",
        ),
        (
            lambda: trained_on({**SOME, "label": jnp.array([0, 2])}),
            r"samples must have labels in \[0, 2\), the classes of recipe.net, got 0 to 2",
        ),
        (
            lambda: trained_on(test={**SOME, "label": jnp.array([-1, 0])}),
            r"test must have labels in \[0, 2\), .* got -1 to 0",
        ),
        (
            lambda: trained_on({**SOME, "image": SOME["image"] / 255}),
            "samples must have uint8 images and integer labels, .* got float32 and int32",
        ),
        (
            lambda: trained_on(test={**SOME, "image": SOME["image"][:, :3]}),
            r"test must have images of the samples' shape \[4, 4, 1\], got \[3, 4, 1\]",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
