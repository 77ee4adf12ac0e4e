"""Bits per dimension against the entropy of bytes and the bound by dequantisation."""

import jax.numpy as jnp
import numpy as np
import pytest

from genmod import evaluate


@pytest.mark.parametrize("shape", [1, 3072, (28, 28, 1), (32, 32, 3), ()])
def test_uniform_bytes_have_eight_bits(shape):
    num_dims = np.prod(shape)
    assert evaluate.bits_per_dim(num_dims * np.log(256), shape) == pytest.approx(8)
    # Their uniform density on [0, 1), [-1, 1) and [0, 256): minus its logarithm, in nats.
    for low, high in ((0, 1), (-1, 1), (0, 256)):
        nats = num_dims * np.log(high - low)
        width = (high - low) / 256
        assert evaluate.bits_per_dim(nats, shape, bin_width=width) == pytest.approx(8)


def test_a_density_that_is_constant_on_each_bin_has_the_bits_of_its_bytes():
    """Theis et al. 2016, section 3.1: the bound is tight there, and above the bits elsewhere."""
    generator = np.random.default_rng(0)
    probability = generator.dirichlet(np.full(256, 0.3))
    entropy = -np.sum(probability * np.log2(probability, where=probability > 0, out=np.zeros(256)))
    density = 256 * probability  # on [0, 1)
    nats = -np.sum(probability * np.log(density, where=density > 0, out=np.zeros(256)))
    assert evaluate.bits_per_dim(nats, 1, bin_width=1 / 256) == pytest.approx(entropy)

    # A density that varies within the bins: p(x) = 2 x on [0, 1).
    edges = np.arange(257) / 256
    bins = np.diff(edges**2)
    exact = -np.sum(bins * np.log2(bins))
    integral = edges * (np.log(2 * edges, where=edges > 0, out=np.zeros(257)) - 1)
    of_each = -256 * np.diff(integral)  # mean of -log p(x) over the noise in a bin
    bound = evaluate.bits_per_dim(np.sum(bins * of_each), 1, bin_width=1 / 256)
    assert exact < bound < exact + 1e-2


def test_arrays_of_any_kind_keep_theirs():
    nats = np.array([1.0, 2.0]) * 4 * np.log(2)
    for kind in (np.asarray, jnp.asarray):
        found = evaluate.bits_per_dim(kind(nats), (2, 2, 1))
        assert isinstance(found, type(kind(nats)))
        np.testing.assert_allclose(found, [1, 2], rtol=1e-6)
    assert isinstance(evaluate.bits_per_dim(1.0, 4), float)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((28, 0), {}, "shape must be a positive whole number, got 0"),
        (2.5, {}, r"shape must be a positive whole number, got 2\.5"),
        (4, {"bin_width": 0}, "bin_width must be a positive number, got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.bits_per_dim(1.0, shape, **options)
