"""The Inception network: its parts against references, the whole against torch-fidelity's."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from inception_case import images, weights

from genmod import rng
from genmod.data import DataError
from genmod.evaluate import features, inception

KEPT = Path(__file__).parents[1] / "kept" / "inception.npz"
GIVEN = os.environ.get("GENMOD_INCEPTION_WEIGHTS")


@pytest.fixture(scope="module")
def shapes():
    return inception.shapes()


def test_names_and_shapes_are_those_of_torch_fidelity(shapes):
    with np.load(KEPT) as kept:
        assert [f"{name} {shape}" for name, shape in sorted(shapes.items())] == list(kept["shapes"])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_outputs_are_those_of_torch_fidelity(shapes, tmp_path, ending):
    path = tmp_path / f"weights.{ending}"
    arrays = {**weights(shapes), "Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}
    save = safetensors.numpy.save_file if ending == "safetensors" else lambda a, p: np.savez(p, **a)
    save(arrays, path)
    found = inception.outputs(inception.load(path), images(), chunk=2)
    with np.load(KEPT) as kept:
        for name, array in found._asdict().items():
            assert array.dtype == np.float32
            scale = np.abs(kept[name]).max()
            np.testing.assert_allclose(array / scale, kept[name] / scale, atol=1e-5)
    extractor = features.of_inception(path)
    assert extractor.fingerprint.startswith("sha256:")
    assert extractor.of(images()[:1] / np.float32(255)).shape == (1, 2048)


@pytest.mark.slow
@pytest.mark.skipif(not GIVEN, reason="GENMOD_INCEPTION_WEIGHTS names no file with the weights")
def test_the_published_weights_tell_classes_apart():
    found = inception.outputs(inception.load(str(GIVEN)), images(), chunk=2)
    assert np.isfinite(found.logits).all()
    # Pool features of the trained network are averages of about .4, and none is negative.
    assert found.pool.min() >= 0
    assert 0.1 < found.pool.mean() < 1


@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 20, 299), (5, 3, 7), (9, 300, 4), (6, 6, 6)]
)
def test_images_are_resized_as_in_tensorflow_1(height, width, size):
    x = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.float64)
    # Sums over the two nearest pixels of each axis, weighted by their nearness.
    matrices = []
    for num in (height, width):
        place = np.arange(size) * num / size
        low = np.floor(place).astype(int)
        high, share = np.minimum(low + 1, num - 1), place - low
        matrix = np.zeros((size, num))
        np.add.at(matrix, (np.arange(size), low), 1 - share)
        np.add.at(matrix, (np.arange(size), high), share)
        matrices.append(matrix)
    expected = np.einsum("ih,bhwc,jw->bijc", matrices[0], x, matrices[1])
    found = jax.jit(inception.resized, static_argnums=1)(x.astype(np.float32), size)
    np.testing.assert_allclose(
        found, expected, atol=255 * 1e-5 * max(1, height / size, width / size)
    )


def windows(x):
    """The pixels of each 3 x 3 window that lie within the image."""
    _, height, width, _ = x.shape
    for row in range(height):
        for column in range(width):
            part = x[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            yield row, column, part


def test_means_leave_out_the_padding():
    x = np.random.default_rng(0).uniform(1, 2, (2, 5, 4, 3)).astype(np.float32)
    found = np.asarray(inception._mean(jnp.asarray(x)))
    for row, column, part in windows(x):
        np.testing.assert_allclose(found[:, row, column], part.mean((1, 2)), rtol=1e-6)


def test_maxima_leave_out_the_padding():
    x = np.random.default_rng(0).uniform(-2, -1, (2, 5, 4, 3)).astype(np.float32)
    found = np.asarray(inception._max(jnp.asarray(x), 1, "SAME"))
    for row, column, part in windows(x):
        np.testing.assert_array_equal(found[:, row, column], part.max((1, 2)))


def test_the_last_block_takes_maxima_and_the_one_before_means(shapes):
    """Both blocks compute the same function but for what their last branch sees."""
    seen = []

    def layer(name, x, width, *place):
        if name.startswith("Mixed_7") and name.endswith("branch_pool"):
            seen.append((name, x))
        return (
            jnp.ones((*x.shape[:3], width))
            if len(place) < 2
            else inception._convolved(x[..., :1], jnp.ones((*place[0], 1, width)), *place[1:])
        )

    x = jax.random.uniform(rng.root(0), (1, 299, 299, 3))
    text = str(jax.make_jaxpr(lambda x: inception._pool(layer, x))(x))
    assert [name for name, _ in seen] == ["Mixed_7b.branch_pool", "Mixed_7c.branch_pool"]
    # 8 blocks take means; 2 poolings of the stem, 2 that halve and the last block take maxima.
    assert (text.count("= reduce_window_sum"), text.count("= reduce_window_max")) == (8, 5)


def test_a_normalisation_becomes_part_of_the_kernel(shapes):
    name = "Conv2d_4a_3x3"
    arrays = {n: np.zeros(shape, np.float32) for n, shape in shapes.items()}
    arrays |= weights({n: shape for n, shape in shapes.items() if n.startswith(name)})
    params = inception._parameters(arrays, "weights")
    x = np.random.default_rng(0).normal(size=(50, 80))
    kernel = arrays[f"{name}.conv.weight"].astype(np.float64)[:, :, 1, 2]  # one place of 3 x 3
    scale, bias, mean, variance = (
        arrays[f"{name}.bn.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    expected = (x @ kernel.T - mean) / np.sqrt(variance + 0.001) * scale + bias
    own = params[name]
    np.testing.assert_allclose(
        x @ np.asarray(own["kernel"])[1, 2] + np.asarray(own["bias"]), expected, atol=1e-5
    )


def test_other_weights_are_refused(shapes, tmp_path):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    lacking = {n: a for n, a in arrays.items() if n != "fc.bias"}
    more = {**arrays, "AuxLogits.fc.bias": np.zeros(1000)}
    other = {**arrays, "fc.weight": np.zeros((1000, 2048))}
    for wrong, message in (
        (lacking, r"472 arrays .* lacks 1, such as 'fc.bias'"),
        (more, r"has unknown 1, such as 'AuxLogits.fc.bias'"),
        (other, r"fc.weight must be \(1008, 2048\), got \(1000, 2048\)"),
    ):
        with pytest.raises(ValueError, match=message):
            inception._parameters(wrong, "weights.npz")


def test_files_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors, got '.*weights\.pth'"):
        inception.load(tmp_path / "weights.pth")
    for name in ("weights.npz", "weights.safetensors"):
        with pytest.raises(DataError, match="missing"):
            inception.load(tmp_path / name)
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(DataError, match="damaged"):
            inception.load(tmp_path / name)


def test_what_is_no_image_is_refused():
    for shape, message in (((2, 8, 8, 2), "1 or 3 channels"), ((2, 8, 8), r"\[N, H, W, C\]")):
        with pytest.raises(ValueError, match=message):
            inception.outputs({}, np.zeros(shape))
    with pytest.raises(ValueError, match="chunk must be"):
        inception.outputs({}, np.zeros((2, 8, 8, 3)), chunk=0)
