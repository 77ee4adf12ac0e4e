"""Stacked-MNIST: every channel is the digit that the triple says, and the mode says which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genmod import data, rng
from genmod.data.cache import fingerprint


def images_of(num, height=4, width=3):
    """Images that tell their number: every pixel of image i is i."""
    return np.broadcast_to(
        np.arange(num, dtype=np.uint8)[:, None, None, None], (num, height, width, 1)
    )


def drawn(num, num_digits, seed=0):
    return np.asarray(data.triples(rng.root(seed), num, num_digits))


def test_all_digits_are_those_of_both_splits():
    train, test = data.load("mnist"), data.load("mnist", "test")
    every = data.all_digits()
    assert (every.images.shape, every.images.dtype) == ((70_000, 28, 28, 1), np.uint8)
    assert every.labels.dtype == np.int32
    np.testing.assert_array_equal(every.images[:60_000], train.images)
    np.testing.assert_array_equal(every.images[60_000:], test.images)
    np.testing.assert_array_equal(every.labels, np.concatenate([train.labels, test.labels]))
    assert every.fingerprint == data.fingerprint(every.images, every.labels)


def test_digits_of_a_folder_that_has_none_are_missed(tmp_path):
    with pytest.raises(data.DataError, match=f"{tmp_path}.*missing"):
        data.all_digits(data_dir=tmp_path)


def test_triples_are_independent_and_uniform():
    num, num_digits = 20_000, 7
    chosen = drawn(num, num_digits)
    assert (chosen.shape, chosen.dtype) == ((num, 3), np.int32)
    modes = chosen @ [num_digits**2, num_digits, 1]
    assert stats.chisquare(np.bincount(modes, minlength=num_digits**3)).pvalue > 1e-4


def test_a_triple_does_not_depend_on_how_many_there_are():
    np.testing.assert_array_equal(drawn(5, 70_000), drawn(40, 70_000)[:5])
    assert not np.array_equal(drawn(5, 70_000), drawn(5, 70_000, seed=1))


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 2**16))
def test_a_stack_has_the_digits_of_its_triple_as_channels_and_its_mode_says_so(num, many, seed):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (num, 3, 2, 1), np.uint8)
    labels = draw.integers(0, 10, num)
    chosen = draw.integers(0, num, (many, 3))
    stacks, modes = data.stack(images, labels, chosen)
    assert (stacks.dtype, stacks.shape) == (np.uint8, (many, 3, 2, 3))
    assert (modes.dtype, modes.shape) == (np.int32, (many,))
    for stack, mode, triple in zip(stacks, modes, chosen, strict=True):
        for channel, index in enumerate(triple):
            np.testing.assert_array_equal(stack[..., channel], images[index, ..., 0])
        assert f"{mode:03d}" == "".join(str(labels[index]) for index in triple)


def test_a_data_set_of_stacks_makes_them_when_they_are_indexed():
    digits = data.Dataset(images_of(50), np.arange(50, dtype=np.int32) % 10, "")
    three = data.triples(rng.root(0), 20, 50)
    stacks = data.stacked_dataset(digits, three)
    images, modes = data.stack(digits.images, digits.labels, three)
    assert stacks.images.shape == images.shape
    np.testing.assert_array_equal(stacks.images[3:9], images[3:9])
    np.testing.assert_array_equal(np.asarray(stacks.images), images)
    np.testing.assert_array_equal(data.stacked_modes(stacks.labels), modes)
    whole = data.Dataset(images, stacks.labels, "")
    assert stacks.fingerprint == fingerprint(*whole[:2])
    for one in (stacks, whole):
        np.testing.assert_array_equal(data.mean_image(one.images), data.mean_image(images))


def test_no_stacks_are_none():
    stacks, modes = data.stack(images_of(3), np.arange(3), np.zeros((0, 3), int))
    assert stacks.shape == (0, 4, 3, 3)
    assert modes.shape == (0,)


def test_every_mode_has_its_number():
    digits = np.indices((10, 10, 10)).reshape(3, -1).T
    np.testing.assert_array_equal(data.stacked_modes(digits), np.arange(1000))
    np.testing.assert_array_equal(data.stacked_modes(digits.astype(np.uint8)), np.arange(1000))


def test_frequencies_of_modes_are_products_of_those_of_digits():
    labels = np.array([0, 0, 0, 1, 9, 9])
    frequencies = data.stacked_frequencies(labels)
    assert frequencies.shape == (1000,)
    assert frequencies.sum() == pytest.approx(1)
    assert frequencies[0] == pytest.approx(1 / 8)
    assert frequencies[109] == pytest.approx(1 / 6 * 1 / 2 * 1 / 3)
    assert frequencies[190] == pytest.approx(frequencies[901])
    assert np.count_nonzero(frequencies) == 27
    np.testing.assert_allclose(data.stacked_frequencies(np.arange(10)), 1e-3)


def test_a_fixed_set_comes_in_epochs_that_hold_every_stack_once():
    # Where epochs end within a batch, too: 10 stacks in batches of 4.
    fixed = np.arange(30).reshape(10, 3)
    at = data.stacked_batches(images_of(30), batch_size=4, triples=fixed, prepare=data.unchanged)
    stacks = np.concatenate(jax.jit(jax.vmap(at, (None, 0)))(rng.root(0), jnp.arange(5)))
    assert (stacks.dtype, stacks.shape) == (np.uint8, (20, 4, 3, 3))
    for epoch in (stacks[:10], stacks[10:]):
        np.testing.assert_array_equal(np.sort(epoch[:, 0, 0, 0]), fixed[:, 0])
    for channel in range(3):
        same = stacks[..., :1] + np.uint8(channel)
        np.testing.assert_array_equal(stacks[..., channel : channel + 1], same)
    # The order is that of any other data set of this size.
    indices = jax.jit(data.batches(fixed, batch_size=4, prepare=data.unchanged))
    np.testing.assert_array_equal(stacks[4:8, 0, 0], indices(rng.root(0), jnp.int32(1)))


def test_fresh_stacks_differ_at_every_step_and_are_the_same_again():
    at = data.stacked_batches(images_of(200), batch_size=8, prepare=data.unchanged)
    compiled = jax.jit(at)
    first, again, later = (compiled(rng.root(0), jnp.int32(step)) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)
    many = np.asarray(jax.jit(jax.vmap(at, (None, 0)))(rng.root(0), jnp.arange(500)))
    np.testing.assert_array_equal(many[:2], [first, later])
    counts = np.bincount(many[:, :, 0, 0].ravel(), minlength=200)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("fixed", [None, np.zeros((4, 3), int)])
def test_stacks_are_prepared_with_a_key_of_their_own(fixed):
    def noisy(keys, stacks):
        noise = jax.vmap(lambda key: jax.random.uniform(key, stacks.shape[1:]))(keys)
        return stacks.astype(jnp.float32) + noise

    at = data.stacked_batches(images_of(1), batch_size=4, triples=fixed, prepare=noisy)
    at = jax.jit(at)
    batches = np.stack([at(rng.root(0), jnp.int32(step)) for step in (0, 1)])
    assert len(np.unique(batches)) > 0.99 * batches.size


def test_the_digits_are_an_argument_of_a_compiled_program_not_a_constant_in_it(digits):
    fixed = drawn(5000, 1000)
    for triples in (None, fixed):
        at = data.stacked_batches(
            digits, batch_size=8, triples=triples, prepare=data.signed_unit_interval
        )
        lowered = jax.jit(lambda at, key: at(key, 0)).lower(at, rng.root(0))
        text = lowered.as_text()
        assert len(text) < fixed.nbytes
        assert "tensor<1000x28x28x1xui8>" in text.split("\n", 3)[1] + text.split("\n", 3)[2]
        assert lowered.out_info.shape == (8, 28, 28, 3)


def test_stacks_go_to_the_unit_interval_unless_told():
    at = data.stacked_batches(np.full((2, 4, 4, 1), 255, np.uint8), batch_size=2)
    np.testing.assert_array_equal(at(rng.root(0), 0), np.ones((2, 4, 4, 3), np.float32))


def stacked(**changes):
    options = {"images": images_of(5), "labels": np.arange(5), "triples": np.zeros((2, 3), int)}
    return data.stack(**(options | changes))


def batches_of(images=None, **changes):
    images = images_of(5) if images is None else images
    return data.stacked_batches(images, **({"batch_size": 2} | changes))


@pytest.mark.parametrize("make", [stacked, batches_of])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((5, 4, 4, 1))}, r"images must be uint8 \[N, H, W, 1\], got float"),
        ({"images": np.zeros((5, 4, 4, 3), np.uint8)}, r"got uint8 \[5, 4, 4, 3\]"),
        ({"images": np.zeros((5, 4, 4), np.uint8)}, r"got uint8 \[5, 4, 4\]"),
        ({"images": np.zeros((0, 4, 4, 1), np.uint8)}, r"got uint8 \[0, 4, 4, 1\]"),
        ({"triples": np.zeros((2, 2), int)}, r"triples must be integers .*\[M, 3\], got int64 \[2"),
        ({"triples": np.zeros(3, int)}, r"triples must be integers .*got int64 \[3\]"),
        ({"triples": np.zeros((2, 3))}, "triples must be integers .*got float64"),
        ({"triples": np.full((2, 3), 5)}, "triples must be indices of 5 images, got 5 to 5"),
        ({"triples": np.array([[0, -1, 4]])}, "triples must be indices of 5 images, got -1 to 4"),
    ],
)
def test_images_and_triples_that_do_not_fit_are_refused(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stacked(labels=np.arange(4)), r"labels must be one per image, \[5\], got \[4\]"),
        (lambda: stacked(labels=np.full(5, 10)), "digits must be 0 to 9, got 10 to 10"),
        (lambda: stacked(labels=np.zeros(5)), "digits must be integers .*got float64"),
        (lambda: data.stacked_modes(np.zeros((2, 4), int)), r"\[M, 3\], got int64 \[2, 4\]"),
        (lambda: data.stacked_modes(np.array([[0, -1, 9]])), "0 to 9, got -1 to 9"),
        (lambda: data.stacked_frequencies(np.zeros(0, int)), r"shape \[N\], got int64 \[0\]"),
        (lambda: data.stacked_frequencies(np.zeros(3)), "labels must be integers .*got float64"),
        (lambda: data.stacked_frequencies(np.array([3, 11])), "0 to 9, got 3 to 11"),
        (lambda: drawn(0, 5), "num must be a positive whole number, got 0"),
        (lambda: drawn(5, 0), "num_digits must be a positive whole number, got 0"),
        (lambda: drawn(5, 2**31), "num_digits must be below 2\\*\\*31, got 2147483648"),
        (lambda: batches_of(batch_size=0), "batch_size must be a positive whole number, got 0"),
        (
            lambda: batches_of(batch_size=5, triples=np.zeros((4, 3), int)),
            "batch_size must be at most the number of examples 4, got 5",
        ),
    ],
)
def test_what_makes_no_stacks_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_frequencies_are_those_of_all_possible_stacks(labels):
    labels = np.array(labels)
    every = np.indices((len(labels),) * 3).reshape(3, -1).T
    counts = np.bincount(data.stacked_modes(labels[every]), minlength=1000)
    np.testing.assert_allclose(
        data.stacked_frequencies(labels), counts / counts.sum(), rtol=1e-12, atol=1e-15
    )
