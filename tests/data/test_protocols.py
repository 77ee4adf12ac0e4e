"""What a model sees of a stored image: exact values, and noise judged in standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import data, rng

EVERY = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def keys(num, name="noise"):
    return rng.per_example(rng.stream(rng.root(0), name), num)


def test_a_threshold_divides_the_grey_values_in_two():
    found = data.thresholded(keys(1), jnp.asarray(EVERY)).ravel()
    np.testing.assert_array_equal(found, [0.0] * 128 + [1.0] * 128)


def test_dequantized_values_are_uniform_within_their_own_step():
    images = jnp.tile(jnp.asarray(EVERY), (400, 1, 1, 1))
    found = np.asarray(jax.jit(data.dequantized)(keys(400), images), np.float64)
    assert found.dtype == np.float64
    assert 0 <= found.min() <= found.max() < 1
    np.testing.assert_array_equal(np.floor(256 * found), images)
    noise = 256 * found - np.asarray(images)
    # Mean 1/2, variance 1/12, fourth central moment 1/80.
    error = np.sqrt(1 / 12 / noise.size)
    assert abs(noise.mean() - 0.5) < 4 * error
    error = np.sqrt((1 / 80 - 1 / 144) / noise.size)
    assert abs(noise.var() - 1 / 12) < 4 * error
    assert data.dequantized(keys(1), jnp.full((1, 2, 2, 1), 255, jnp.uint8)).max() < 1


def test_noise_belongs_to_the_example_and_is_fresh():
    images = jnp.tile(jnp.asarray(EVERY), (5, 1, 1, 1))
    whole = data.dequantized(keys(5), images)
    np.testing.assert_array_equal(data.dequantized(keys(5)[:2], images[:2]), whole[:2])
    assert not np.array_equal(data.dequantized(keys(5, "other"), images), whole)


def test_a_fixed_binarisation_is_drawn_once():
    images = np.repeat(EVERY, 2000, 0)
    key = rng.stream(rng.root(0), "once")
    found = data.binarized_once(key, images)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 255}
    np.testing.assert_array_equal(found, data.binarized_once(key, images))
    np.testing.assert_array_equal(found[:10], data.binarized_once(key, images[:10]))
    share = EVERY[0] / 255
    error = np.sqrt(share * (1 - share) / 2000)
    assert (np.abs((found == 255).mean(0) - share) <= 4.5 * error).all()
    other = data.binarized_once(rng.stream(rng.root(0), "another"), images)
    assert not np.array_equal(found, other)
    np.testing.assert_array_equal(data.unit_interval(keys(10), jnp.asarray(found[:10])).max(), 1.0)


def test_padding_puts_an_image_in_the_middle():
    found = data.padded(EVERY, 21, value=7)
    assert found.shape == (1, 21, 21, 1)
    np.testing.assert_array_equal(found[:, 2:18, 2:18], EVERY)
    assert (found == 7).sum() == 21**2 - 16**2 + 1
    assert isinstance(data.padded(jnp.asarray(EVERY), 32), jax.Array)
    assert data.padded(EVERY, 32).dtype == np.uint8
    with pytest.raises(ValueError, match="within 15 x 15"):
        data.padded(EVERY, 15)


@pytest.mark.parametrize("prepare", [data.thresholded, data.dequantized])
@pytest.mark.parametrize(
    "images", [jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 4, 4), jnp.uint8)], ids=["floats", "rank"]
)
def test_other_than_bytes_is_refused(prepare, images):
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, C\], got"):
        prepare(keys(2), images)
    with pytest.raises(ValueError, match="images must be uint8"):
        data.binarized_once(rng.root(0), np.asarray(images))


# Preparing field by field.


PICTURES = np.random.default_rng(0).integers(0, 256, (12, 4, 3, 1), np.uint8)
FIELDS = {"image": PICTURES, "mask": PICTURES[::-1], "label": np.arange(12, dtype=np.int32)}


def by_hand(key, step, size):
    """The keys of the examples of a batch."""
    return rng.per_example(rng.at_step(rng.stream(key, "prepare"), step), size)


@pytest.mark.parametrize("stream", [False, True])
def test_each_field_is_prepared_by_its_function_under_keys_of_its_own(stream):
    prepare = {"image": data.binarized, "mask": data.dequantized}
    batch_at = data.batches(FIELDS, batch_size=5, prepare=prepare, stream=stream)
    for step in (0, 3):
        batch = batch_at(rng.root(1), step)
        assert list(batch) == sorted(FIELDS)
        index = data.indices_at(rng.root(1), step, 12, batch_size=5)
        np.testing.assert_array_equal(batch["label"], index)
        for field, function in prepare.items():
            own = rng.stream(by_hand(rng.root(1), step, 5), field)
            expected = jax.jit(function)(own, jnp.asarray(FIELDS[field])[index])
            np.testing.assert_array_equal(batch[field], expected)


def test_preparing_one_field_more_changes_no_other():
    alone, both = (
        data.batches(FIELDS, batch_size=6, prepare=prepare)(rng.root(0), 0)
        for prepare in (
            {"image": data.binarized},
            {"mask": data.binarized, "image": data.binarized},
        )
    )
    np.testing.assert_array_equal(alone["image"], both["image"])
    np.testing.assert_array_equal(np.asarray(alone["mask"]).dtype, np.uint8)
    # Two fields of the same values have noise of their own.
    same = {"image": PICTURES, "mask": PICTURES}
    batch = data.batches(same, batch_size=12, prepare=dict.fromkeys(same, data.binarized))
    drawn = batch(rng.root(0), 0)
    assert (np.asarray(drawn["image"]) != np.asarray(drawn["mask"])).any()


def test_functions_by_field_serve_all_that_prepare():
    prepare, examples = {"image": data.unit_interval}, {"image": PICTURES, "label": FIELDS["label"]}
    expected = np.asarray(PICTURES[:3], np.float32) / np.float32(255)
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf[:3]), examples)
    batch = data.by_field(prepare)(keys(3), rows)
    np.testing.assert_allclose(batch["image"], expected, rtol=1e-6)
    batch = data.batch_at(rng.root(0), 0, examples, batch_size=12, prepare=prepare)
    ordered = np.asarray(batch["image"])[np.argsort(batch["label"])]
    np.testing.assert_allclose(ordered, PICTURES / np.float32(255), rtol=1e-6)

    def mirrored(keys, batch):
        return {**batch, "image": batch["image"][:, :, ::-1]}

    flipped = data.augmented(mirrored, prepare)
    np.testing.assert_allclose(flipped(keys(3), rows)["image"][:, :, ::-1], expected, rtol=1e-6)
    field = {"image": data.augmented(data.flip, data.unit_interval)}
    either = np.asarray(data.by_field(field)(keys(3), rows)["image"])
    for one, own in zip(either, expected, strict=True):
        assert any(np.allclose(one, other, rtol=1e-6) for other in (own, own[:, ::-1]))


def test_functions_by_field_have_names_and_can_be_compared():
    prepare = {"image": data.augmented(data.flip, data.binarized), "mask": data.unit_interval}
    names = {"image": "augmented(flip, binarized)", "mask": "unit_interval"}
    for stream in (False, True):
        batch_at = data.batches(FIELDS, batch_size=5, prepare=prepare, stream=stream)
        assert data.describe(batch_at)["prepare"] == names
    one, same = (data.by_field(prepare) for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != data.by_field({"image": data.unit_interval})


def test_a_dict_that_changes_later_changes_no_batch():
    prepare = {"image": data.unit_interval}
    batch_at = data.batches(FIELDS, batch_size=5, prepare=prepare)
    prepare["image"] = data.signed_unit_interval
    assert batch_at(rng.root(0), 0)["image"].min() >= 0


@pytest.mark.parametrize(
    ("examples", "prepare", "said"),
    [
        (FIELDS, {"picture": data.binarized}, "got 'picture' where the examples have 'image', "),
        (FIELDS, {"image": data.binarized, "Label": data.unchanged}, "got 'image', 'Label' where"),
        (PICTURES, {"image": data.binarized}, r"got an array uint8 \[2, 4, 3, 1\]"),
        ((PICTURES, PICTURES), {"image": data.binarized}, "fields 'image'.* got a tuple of 2"),
        (FIELDS, {"image": None}, "or a dict of such functions by field, got None for 'image'"),
        (FIELDS, {3: data.binarized}, "dict of such functions by field, got a function for 3"),
        (FIELDS, "binarized", "or a dict of such functions by field, got 'binarized'"),
        (FIELDS, None, "or a dict of such functions by field, got None"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_prepare_the_examples_is_refused(examples, prepare, said, stream):
    with pytest.raises(ValueError, match=said):
        data.batches(examples, batch_size=2, prepare=prepare, stream=stream)


@pytest.mark.parametrize(
    ("examples", "came"),
    [(FIELDS, "a dict of 'image', 'label', 'mask'"), ((PICTURES, PICTURES), "a tuple of 2")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_examples_that_are_no_array_are_told_how_to_be_prepared(examples, came, stream):
    said = f"images must be uint8 .*got {came}; expected .*" + r'\{"image": data.unit_interval\}'
    with pytest.raises(ValueError, match=said):
        data.batches(examples, batch_size=2, stream=stream)
    with pytest.raises(ValueError, match=r"images must be \[B, H, W, C\], got a (dict|tuple) of"):
        data.flip(keys(2), examples)


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.text(max_size=3), st.sampled_from([data.unchanged, data.binarized]), max_size=3
    ),
    st.sets(st.text(max_size=3), min_size=1, max_size=3),
)
def test_any_fields_are_prepared_or_refused(prepare, fields):
    examples = dict.fromkeys(fields, PICTURES)
    if prepare.keys() <= fields:
        batch_at = data.batches(examples, batch_size=2, prepare=prepare)
        shapes = jax.eval_shape(batch_at, rng.root(0), 0)
        drawn = {field for field, leaf in shapes.items() if leaf.dtype == jnp.float32}
        assert drawn == {field for field, one in prepare.items() if one is data.binarized}
    else:
        with pytest.raises(ValueError, match="prepare must name fields of the examples"):
            data.batches(examples, batch_size=2, prepare=prepare)
