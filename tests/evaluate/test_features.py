"""Feature functions: what they compute, and what they are called."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import data
from genmod.evaluate import features, judges

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small chunks: programs of the tests are not optimised."""
    monkeypatch.setattr(judges, "_CHUNK", 30)
    monkeypatch.setattr(features, "_CHUNK", 30)


def test_pixels_are_flattened():
    images = RANDOM.integers(0, 256, (7, 4, 5, 3), np.uint8)
    found = features.pixels()
    assert (found.name, found.fingerprint) == ("pixels", "")
    np.testing.assert_array_equal(found.of(images), images.reshape(7, 60) / np.float32(255))
    floating = images / np.float32(255)
    np.testing.assert_array_equal(found.of(floating), floating.reshape(7, 60))
    np.testing.assert_array_equal(found.of(jnp.asarray(floating)), floating.reshape(7, 60))


def test_packaged_features_are_the_judges(digits):
    found, judge = features.packaged("mnist"), judges.classifier("mnist")
    assert (found.name, found.fingerprint) == ("mnist", judge.fingerprint)
    of = found.of(digits[:30])
    assert (of.shape, of.dtype) == ((30, 128), np.float32)
    np.testing.assert_array_equal(of, judge.features(digits[:30]))


def test_channels_are_looked_at_one_by_one(digits):
    stacks = digits[:30].reshape(10, 3, 28, 28).transpose(0, 2, 3, 1)
    found = features.packaged("mnist").of(stacks)
    one_by_one = features.packaged("mnist").of(digits[:30]).reshape(10, 3 * 128)
    np.testing.assert_allclose(found, one_by_one, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num", [1, 4, 5, 9])
def test_chunks_do_not_show(num):
    shapes = []

    def mean(x):
        shapes.append(x.shape)
        return x.mean((1, 2))

    images = RANDOM.uniform(size=(num, 3, 4, 2)).astype(np.float32)
    found = features.given("mean", mean, chunk=4).of(images)
    np.testing.assert_allclose(found, images.mean((1, 2)), rtol=1e-6)
    assert set(shapes) == {(min(4, num), 3, 4, 2)}


def test_products_have_the_highest_precision():
    seen = []

    def product(x):
        seen.append(jax.config.jax_default_matmul_precision)
        return x.reshape(len(x), -1)

    features.given("product", product).of(np.zeros((2, 2, 2, 1)))
    assert seen == ["highest"]


def test_weights_of_ones_own_have_a_fingerprint():
    weights = {"b": np.arange(3, dtype=np.float32), "a": {"kernel": jnp.ones((2, 2))}}

    def fingerprint(weights):
        return features.given("own", lambda x: x, weights=weights).fingerprint

    digest = hashlib.sha256(b"a.kernel (2, 2) float32\n" + np.ones(4, np.float32).tobytes())
    digest.update(b"b (3,) float32\n" + weights["b"].tobytes())
    assert fingerprint(weights) == f"sha256:{digest.hexdigest()}"
    others = [
        {**weights, "b": weights["b"] + 1},
        {**weights, "c": weights["b"]},
        {**weights, "b": weights["b"].astype(np.float64)},
        {"b": weights["b"], "a": {"kernel": jnp.ones((4, 1))}},
        {"b": weights["b"], "a": {"bias": jnp.ones((2, 2))}},
    ]
    assert len({fingerprint(weights), *map(fingerprint, others)}) == 6


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x, r"must return features \[2, D\], got an array float32 \[2, 2, 2, 1\]"),
        (lambda x: x.sum((1, 2, 3)), r"must return features \[2, D\]"),
        (lambda x: x[:1].sum((1, 2)), r"must return features \[2, D\]"),
        (lambda x: x.sum((1, 2)) * np.nan, "finite features, got NaN or infinity: own"),
    ],
)
def test_what_returns_no_features_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        features.given("own", function).of(np.zeros((2, 2, 2, 1), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name must be a text"),
        ({"name": "own", "chunk": 0}, "chunk must be a positive whole number"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        features.given(function=lambda x: x, **arguments)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 28, 28)), r"\[N, H, W, C\], got"),
        (np.zeros((0, 28, 28, 1)), r"\[N, H, W, C\], got"),
        (np.full((3, 28, 28, 1), 2.0), r"range \[0, 1\], got values from 2 to 2"),
        (np.zeros((3, 28, 28, 1), bool), "uint8, or floating in .* got bool"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        features.pixels().of(images)


def test_digits_are_recognised_whatever_they_are_called(digits, monkeypatch):
    monkeypatch.setattr(judges, "_TRIED", 30)
    labels = data.load("mnist").labels[:1000]
    found = features.named(None, data.from_arrays(digits, labels))
    assert (found.name, found.fingerprint) == ("mnist", judges.fingerprint("mnist"))
    # Digits with other labels, or with none, are not the judge's classes.
    assert features.named(None, data.from_arrays(digits, (labels + 1) % 10)).name == "pixels"
    assert features.named(None, data.from_arrays(digits)).name == "pixels"
    stacks = data.stacked_dataset(
        data.from_arrays(digits, labels), RANDOM.integers(0, 1000, (9, 3))
    )
    assert features.named(None, stacks).name == "mnist"


def test_other_images_are_compared_by_their_pixels():
    other = data.from_arrays(RANDOM.integers(0, 256, (10, 8, 8, 3), np.uint8))
    assert features.named(None, other).name == "pixels"


def test_features_are_found_by_their_name(tmp_path):
    other = data.from_arrays(RANDOM.integers(0, 256, (10, 8, 8, 3), np.uint8))
    assert features.named("mnist", other).name == "mnist"
    assert features.named("pixels", other).name == "pixels"
    with pytest.raises(ValueError, match="did you mean 'pixels'"):
        features.named("pixel", other)
    with pytest.raises(data.DataError, match=r"gone\.npz: missing"):
        features.named(str(tmp_path / "gone.npz"), other)
