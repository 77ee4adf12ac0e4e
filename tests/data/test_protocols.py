"""What a model sees of a stored image: exact values, and noise judged in standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
