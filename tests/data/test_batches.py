"""Batch i is a pure function of (key, i); protocols give the values they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genmod import data, rng


def as_stored(keys, examples):
    return examples


def numbers(num):
    return np.arange(num, dtype=np.int32)


def many(batch_at, key, steps):
    """Batches number 0 to steps - 1, one after the other."""
    return np.concatenate(jax.jit(jax.vmap(batch_at, (None, 0)))(key, jnp.arange(steps)))


@pytest.mark.costly
@settings(max_examples=10)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 100))
@example(7, 7, 0)
@example(1, 1, 0)
def test_every_epoch_holds_every_example_once(num, batch_size, seed):
    num, batch_size = max(num, batch_size), min(num, batch_size)
    batch_at = data.batches(numbers(num), batch_size=batch_size, prepare=as_stored)
    seen = many(batch_at, rng.root(seed), -(-3 * num // batch_size))
    for epoch in range(3):
        part = seen[epoch * num : (epoch + 1) * num]
        np.testing.assert_array_equal(np.sort(part), np.arange(num))


def test_epochs_differ_and_seeds_differ():
    batch_at = data.batches(numbers(100), batch_size=100, prepare=as_stored)
    orders = [batch_at(rng.root(seed), step) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(o.tolist()) for o in orders}) == 4


def test_a_batch_does_not_depend_on_those_before_it():
    batch_at = data.batches(numbers(1000), batch_size=30, prepare=as_stored)
    in_order = many(batch_at, rng.root(0), 70).reshape(70, 30)
    for step in (69, 3, 34):
        np.testing.assert_array_equal(batch_at(rng.root(0), step), in_order[step])
        compiled = jax.jit(batch_at)(rng.root(0), jnp.int32(step))
        np.testing.assert_array_equal(compiled, in_order[step])


def test_steps_far_beyond_32_bits_of_examples_are_right():
    # 60,000 examples in batches of 128: at 2**31 - 1 steps, 275 billion examples have been seen.
    num, size = 60_000, 128
    batch_at = data.batches(numbers(num), batch_size=size, prepare=as_stored)
    step = 2**31 - 1
    first = step * size
    epoch, position = divmod(first, num)
    order = rng.at_step(rng.stream(rng.root(0), "order"), epoch)
    within = min(size, num - position)
    expected = data.shuffled(order, jnp.arange(position, position + within), num)
    np.testing.assert_array_equal(batch_at(rng.root(0), step)[:within], expected)


def test_trees_of_examples_stay_together(digits):
    batch_at = data.batches((digits, numbers(1000)), batch_size=10, prepare=as_stored)
    x, index = batch_at(rng.root(0), 7)
    np.testing.assert_array_equal(x, digits[index])


def test_the_data_are_an_argument_of_a_compiled_program_not_a_constant_in_it(digits):
    batch_at = data.batches(digits, batch_size=10)
    text = jax.jit(lambda at, key: at(key, 0)).lower(batch_at, rng.root(0)).as_text()
    assert len(text) < digits.nbytes / 4
    assert "tensor<1000x28x28x1xui8>" in text.split("\n", 3)[1] + text.split("\n", 3)[2]


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (0, "batch_size must be a positive whole number, got 0"),
        (-5, "batch_size must be a positive whole number, got -5"),
        (2.5, "batch_size must be a positive whole number, got 2.5"),
        (101, "batch_size must be at most the number of examples 100, got 101"),
    ],
)
def test_a_batch_size_that_cannot_be_is_refused(batch_size, message):
    with pytest.raises(ValueError, match=message):
        data.batches(numbers(100), batch_size=batch_size, prepare=as_stored)


def test_examples_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"common leading axis, got \[\(3,\), \(4,\)\]"):
        data.batches((numbers(3), numbers(4)), batch_size=2, prepare=as_stored)
    with pytest.raises(ValueError, match="common leading axis"):
        data.batches(np.float32(3), batch_size=1, prepare=as_stored)


def test_a_cycle_that_cannot_be_counted_is_refused():
    examples = jax.ShapeDtypeStruct((2**31 - 1,), np.uint8)
    with pytest.raises(ValueError, match="batch_size 64 and the number of examples 2147483647"):
        jax.eval_shape(
            lambda e: data.batch_at(rng.root(0), 0, e, batch_size=64, prepare=as_stored), examples
        )


def test_grey_values_are_scaled_to_the_unit_interval():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    scaled = data.unit_interval(rng.per_example(rng.root(0), 1), jnp.asarray(every))
    np.testing.assert_allclose(scaled, every / 255, rtol=1e-7)
    assert scaled.dtype == jnp.float32
    assert scaled.min() == 0
    assert scaled.max() == 1


def test_grey_values_are_scaled_to_the_signed_unit_interval():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    for scale in (data.signed_unit_interval, jax.jit(data.signed_unit_interval)):
        scaled = scale(rng.per_example(rng.root(0), 1), jnp.asarray(every))
        assert scaled.dtype == jnp.float32
        np.testing.assert_allclose(scaled, every / 127.5 - 1, atol=1e-7)
        # Black and white are the ends of tanh's range, to the bit; grey is about 0 both ways.
        assert scaled.min() == -1
        assert scaled.max() == 1
        np.testing.assert_array_equal(scaled, -scaled[:, ::-1, ::-1])


def test_unchanged_examples_are_as_they_are_stored():
    points = np.linspace(-5, 5, 12, dtype=np.float32).reshape(6, 2)
    batch = data.batches(points, batch_size=6, prepare=data.unchanged)(rng.root(0), 0)
    assert batch.dtype == jnp.float32
    np.testing.assert_array_equal(np.sort(batch, axis=0), points)
    tree = {"a": points, "b": np.arange(6)}
    assert data.unchanged(rng.per_example(rng.root(0), 6), tree) is tree


def test_a_pixel_is_one_with_the_probability_that_the_docstring_gives():
    # The probability is threshold / 65536, found here by trying every pattern of 16 bits.
    value = np.arange(256)
    threshold = np.array([np.sum(np.arange(65536) < 257 * v + (v >> 7)) for v in value])
    np.testing.assert_array_equal(threshold, np.round(65536 * value / 255))
    assert np.abs(threshold / 65536 - value / 255).max() <= 2.0**-17


def test_binarized_pixels_are_bernoulli_draws_of_their_grey_value():
    num = 20_000
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = jnp.broadcast_to(every, (num, 16, 16, 1))
    drawn = np.asarray(data.binarized(rng.per_example(rng.root(0), num), images))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    p = every.squeeze() / 255
    z = (drawn.mean(0).squeeze() - p) * np.sqrt(num / np.maximum(p * (1 - p), 1e-12))
    assert np.abs(z[(p > 0) & (p < 1)]).max() < 4.5
    assert not drawn[..., 0, 0, 0].any(), "a black pixel is never drawn"
    assert drawn[..., 15, 15, 0].all(), "a white pixel is always drawn"
    # Neighbours share a random word: they must be independent all the same.
    pairs = np.corrcoef(drawn[:, 8, 0, 0], drawn[:, 8, 1, 0])[0, 1]
    assert abs(pairs) < 4.5 / np.sqrt(num)


def test_images_are_binarized_anew_at_every_step_and_the_same_again(digits):
    batch_at = data.batches(digits[:10], batch_size=10, prepare=data.binarized)
    first, again, next_epoch = (batch_at(rng.root(0), step) for step in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(np.sort(first, axis=0) != np.sort(next_epoch, axis=0))


def test_images_of_an_odd_size_are_binarized_too():
    images = jnp.full((2, 3, 3, 1), 255, jnp.uint8)
    assert data.binarized(rng.per_example(rng.root(0), 2), images).all()


@pytest.mark.parametrize("prepare", [data.unit_interval, data.signed_unit_interval, data.binarized])
@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4), np.uint8)]
)
def test_images_that_are_not_bytes_are_refused(prepare, images):
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, C\], got"):
        data.batches(images, batch_size=1, prepare=prepare)


@pytest.mark.parametrize("batch_size", [5, 7])
def test_the_examples_of_a_batch_are_known_by_their_place(batch_size):
    examples = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1)
    batch_at = data.batches(examples, batch_size=batch_size, prepare=data.unchanged)
    for step in (0, 1, 2, 9):
        places = data.indices_at(rng.root(4), step, 20, batch_size=batch_size)
        batch = batch_at(rng.root(4), step)
        assert batch.ravel().tolist() == places.tolist()
        assert data.indices_of(batch_at, rng.root(4), step).tolist() == places.tolist()
    assert data.indices_of(lambda key, step: batch_at(key, step), rng.root(4), 0) is None
    other = jax.tree_util.Partial(data.batch_at, rng.root(0))
    assert data.indices_of(other, rng.root(4), 0) is None
