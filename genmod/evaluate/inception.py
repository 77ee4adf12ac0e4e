"""The Inception network of FID, KID and the Inception score.

It is Inception v3 (Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
arXiv:1512.00567) as in the TensorFlow graph of 2015-12-05, on which these scores are defined. That
graph differs from the published network: its average pooling leaves the padding out of its means,
the last block has a max pooling instead, and there are 1,008 classes. Images are enlarged as in
TensorFlow 1. torch-fidelity and pytorch-fid compute the same function.

The weights do not come with genmod. Both projects publish them as a file for PyTorch, which is to
be converted once:

    weights = torch.load("weights-inception-2015-12-05-6726825d.pth")
    safetensors.torch.save_file(weights, "inception.safetensors")
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from genmod import checks
from genmod.evaluate import _chunks, _weights
from genmod.types import Array, Params

SIZE = 299
"""Height and width of the images that the network sees."""
NUM_CLASSES = 1008

_EPSILON = 1e-3
_CHUNK = 16
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_ROW, _COLUMN, _SQUARE = (1, 7), (7, 1), (3, 3)
_Layer = Callable[..., Array]
"""Function `(name, x, width, window=(1, 1), stride=1, padding="SAME") -> y`.

It is a convolution to `width` channels with batch normalisation and ReLU.
"""


class Outputs(NamedTuple):
    """Outputs of the network.

    Attributes:
      pool: means of the last block over the image, the features of FID and KID, [B, 2048].
      unbiased_logits: logits without the bias of the last layer, from which torch-fidelity computes
        the Inception score, [B, 1008].
      logits: logits of the classes, [B, 1008].
    """

    pool: Any
    unbiased_logits: Any
    logits: Any


def load(path: str | Path) -> Params:
    """Reads the weights of the network from a file.

    Args:
      path: npz or safetensors file with arrays named as in PyTorch, `shapes()`. Further arrays
        whose name ends with "num_batches_tracked" are ignored.

    Returns:
      Parameters: for each convolution its "kernel" [h, w, I, O], which holds the scale of the batch
      normalisation too, and its "bias"; for "fc" the last layer, [2048, 1008].

    Raises:
      ValueError: if a name is missing or unknown, or an array has another shape; or if the name of
        the file ends otherwise.
      DataError: if the file is missing or damaged.
    """
    return _parameters(_weights.read(path), str(path))


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of all arrays of a weights file."""
    found: dict[str, tuple[int, ...]] = {}

    def note(name: str, x: Array, width: int, window: Any = (1, 1), *place: Any) -> Array:
        found[f"{name}.conv.weight"] = (width, x.shape[3], *window)
        found.update({f"{name}.bn.{part}": (width,) for part in _NORM})
        kernel = jnp.zeros((*window, x.shape[3], width))
        return _convolved(x, kernel, *place)

    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    pool = jax.eval_shape(functools.partial(_pool, note), image)
    return {**found, "fc.weight": (NUM_CLASSES, pool.shape[1]), "fc.bias": (NUM_CLASSES,)}


def outputs(params: Params, images: Any, *, chunk: int = _CHUNK, progress: bool = True) -> Outputs:
    """Returns the outputs of the network for many images.

    Args:
      params: parameters from `load`.
      images: images [N, H, W, C] of any size, uint8 or floating in [0, 1], with 3 channels, or with
        one that is used as all three. Floating values are rounded to multiples of 1 / 255, as the
        scores are defined on images of bytes.
      chunk: number of images that the network gets in one call.
      progress: whether to show a progress bar.

    Returns:
      Outputs, NumPy arrays float32 [N, ...].

    Raises:
      ValueError: if images are not as above, or chunk is not positive.
    """
    _chunks.check_images(images, "H", "W", "C")
    if images.shape[3] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels, got {list(images.shape)}")
    checks.positive_integer("chunk", chunk)
    function = functools.partial(_of_unit_interval, params)
    return _chunks.in_chunks(function, images, size=chunk, progress=progress)


def apply(params: Params, x: Array) -> Outputs:
    """Applies the network to images of bytes.

    Args:
      params: parameters from `load`.
      x: images [B, H, W, 3], whole numbers from 0 to 255 of any type.
    """

    def layer(name: str, x: Array, width: int, window: Any = (1, 1), *place: Any) -> Array:
        own = params[name]
        return jax.nn.relu(_convolved(x, own["kernel"], *place) + own["bias"].reshape(1, 1, 1, -1))

    pool = _pool(layer, (resized(x.astype(jnp.float32), SIZE) - 128) / 128)
    unbiased = pool @ params["fc"]["kernel"]
    return Outputs(pool, unbiased, unbiased + params["fc"]["bias"].reshape(1, -1))


def resized(x: Array, size: int) -> Array:
    """Resizes images bilinearly as TensorFlow 1 does.

    Pixel i of the result lies at i * n / size of the n pixels of the image, at which the image is
    interpolated; beyond the last pixel it is constant. (Usually the pixels' centres are aligned.)

    Args:
      x: images [B, H, W, C], floating.
      size: height and width of the result.
    """
    for axis in (1, 2):
        num = x.shape[axis]
        place = np.arange(size, dtype=np.float32) * np.float32(num / size)
        low = place.astype(np.int32)
        high = np.minimum(low + 1, num - 1)
        share = (place - low).reshape([size if own == axis else 1 for own in range(4)])
        below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = below + (above - below) * share
    return x


@jax.jit
def _of_unit_interval(params: Params, x: Array) -> Outputs:
    pixels = jnp.round(255 * x)
    return apply(params, jnp.broadcast_to(pixels, (*x.shape[:3], 3)))


_NORM = ("weight", "bias", "running_mean", "running_var")
"""Parts of a batch normalisation, all [O]."""


def _parameters(weights: dict[str, np.ndarray], where: str) -> Params:
    """Returns the parameters of named weights; each normalisation becomes a part of its kernel."""
    expected = shapes()
    known = {n: a for n, a in weights.items() if not n.endswith("num_batches_tracked")}
    missing, unknown = sorted(expected.keys() - known), sorted(known.keys() - expected)
    for what, names in (("lacks", missing), ("has unknown", unknown)):
        if names:
            raise ValueError(
                f"{where} must have the {len(expected)} arrays of the Inception network of "
                f"2015-12-05, but {what} {len(names)}, such as {names[0]!r}"
            )
    for name, shape in expected.items():
        if known[name].shape != shape:
            raise ValueError(f"{where}: {name} must be {shape}, got {known[name].shape}")
    exact = {name: array.astype(np.float64) for name, array in known.items()}
    params = {"fc": {"kernel": exact["fc.weight"].T, "bias": exact["fc.bias"]}}
    for weight in expected:
        name, is_convolution, _ = weight.partition(".conv.weight")
        if is_convolution:
            scale, shift, mean, variance = (exact[f"{name}.bn.{part}"] for part in _NORM)
            factor = scale / np.sqrt(variance + _EPSILON)
            kernel = exact[weight].transpose(2, 3, 1, 0) * factor
            params[name] = {"kernel": kernel, "bias": shift - mean * factor}
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), params)


def _convolved(x: Array, kernel: Array, stride: int = 1, padding: str = "SAME") -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS
    )


def _max(x: Array, stride: int, padding: str) -> Array:
    """Returns the maxima of 3 x 3 pixels."""
    window, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _mean(x: Array) -> Array:
    """Returns the means of 3 x 3 pixels, at the edges of those within the image."""
    total = lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    # The counts are computed here, as XLA would take minutes to fold a constant sum over windows.
    rows, columns = (np.convolve(np.ones(size), np.ones(3), "same") for size in x.shape[1:3])
    return total / np.outer(rows, columns).astype(np.float32)[None, :, :, None]


def _side_by_side(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=3)


def _pool(layer: _Layer, x: Array) -> Array:
    """Returns the pool features [B, 2048] of images [B, 299, 299, 3] in [-1, 1]."""
    x = layer("Conv2d_1a_3x3", x, 32, _SQUARE, 2, "VALID")
    x = layer("Conv2d_2a_3x3", x, 32, _SQUARE, 1, "VALID")
    x = layer("Conv2d_2b_3x3", x, 64, _SQUARE)
    x = _max(x, 2, "VALID")
    x = layer("Conv2d_3b_1x1", x, 80)
    x = layer("Conv2d_4a_3x3", x, 192, _SQUARE, 1, "VALID")
    x = _max(x, 2, "VALID")
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_a(_within(layer, name), x, pooled)
    x = _block_b(_within(layer, "Mixed_6a"), x)
    for name, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _block_c(_within(layer, name), x, inner)
    x = _block_d(_within(layer, "Mixed_7a"), x)
    x = _block_e(_within(layer, "Mixed_7b"), x, _mean(x))
    x = _block_e(_within(layer, "Mixed_7c"), x, _max(x, 1, "SAME"))
    return x.mean((1, 2))


def _within(layer: _Layer, block: str) -> _Layer:
    return lambda name, *rest: layer(f"{block}.{name}", *rest)


def _chain(layer: _Layer, name: str, x: Array, *places: tuple[Any, ...]) -> Array:
    """Applies layers in turn, called "name_1", "name_2" and so on."""
    for index, place in enumerate(places, 1):
        x = layer(f"{name}_{index}", x, *place)
    return x


def _block_a(layer: _Layer, x: Array, pooled: int) -> Array:
    return _side_by_side(
        layer("branch1x1", x, 64),
        _chain(layer, "branch5x5", x, (48,), (64, (5, 5))),
        _chain(layer, "branch3x3dbl", x, (64,), (96, _SQUARE), (96, _SQUARE)),
        layer("branch_pool", _mean(x), pooled),
    )


def _block_b(layer: _Layer, x: Array) -> Array:
    return _side_by_side(
        layer("branch3x3", x, 384, _SQUARE, 2, "VALID"),
        _chain(layer, "branch3x3dbl", x, (64,), (96, _SQUARE), (96, _SQUARE, 2, "VALID")),
        _max(x, 2, "VALID"),
    )


def _block_c(layer: _Layer, x: Array, inner: int) -> Array:
    double = (inner,), (inner, _COLUMN), (inner, _ROW), (inner, _COLUMN), (192, _ROW)
    return _side_by_side(
        layer("branch1x1", x, 192),
        _chain(layer, "branch7x7", x, (inner,), (inner, _ROW), (192, _COLUMN)),
        _chain(layer, "branch7x7dbl", x, *double),
        layer("branch_pool", _mean(x), 192),
    )


def _block_d(layer: _Layer, x: Array) -> Array:
    last = (192, _SQUARE, 2, "VALID")
    return _side_by_side(
        _chain(layer, "branch3x3", x, (192,), (320, _SQUARE, 2, "VALID")),
        _chain(layer, "branch7x7x3", x, (192,), (192, _ROW), (192, _COLUMN), last),
        _max(x, 2, "VALID"),
    )


def _block_e(layer: _Layer, x: Array, pooled: Array) -> Array:
    def both(name: str, x: Array) -> tuple[Array, Array]:
        return layer(f"{name}a", x, 384, (1, 3)), layer(f"{name}b", x, 384, (3, 1))

    return _side_by_side(
        layer("branch1x1", x, 320),
        *both("branch3x3_2", layer("branch3x3_1", x, 384)),
        *both("branch3x3dbl_3", _chain(layer, "branch3x3dbl", x, (448,), (384, _SQUARE))),
        layer("branch_pool", pooled, 192),
    )
