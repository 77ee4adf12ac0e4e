"""From stored examples to what a model sees: pure functions `(keys [B], examples) -> x`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Batch, Key, Keys

Prepare = Callable[[Keys, Batch], Batch]
"""`(keys [B], raw examples) -> batch`, with a key of its own for each example."""

_CHUNK = 5000


def prepared(prepare: Prepare, key: Key, step: int | Array, examples: Batch) -> Batch:
    """The raw examples of a step, prepared: each draws from a key that is its own at this step."""
    size = checks.leading_axis("examples", examples)
    return prepare(rng.per_example(rng.at_step(rng.stream(key, "prepare"), step), size), examples)


def name_of(function: Callable[..., Any]) -> str:
    """What to call a function in a record; one of genmod's, or what it has made, by its name."""
    name = getattr(function, "__qualname__", type(function).__name__)
    ours = getattr(function, "__module__", "").startswith("genmod.")
    return name.partition(".<locals>")[0] if ours else name


def unit_interval(keys: Keys, images: Array) -> Array:
    """Grey values in [0, 1]: uint8 [B, H, W, C] -> float32 [B, H, W, C], divided by 255.

    Raises:
      ValueError: if images are not uint8 [B, H, W, C].
    """
    del keys
    _check(images)
    rows = images.reshape(len(images), -1)  # a long last axis, for the vectors of a CPU
    return (rows.astype(jnp.float32) / 255).reshape(images.shape)


def signed_unit_interval(keys: Keys, images: Array) -> Array:
    """Grey values in [-1, 1], the range of tanh: uint8 [B, H, W, C] -> float32 [B, H, W, C].

    A pixel of value v becomes (2 v - 255) / 255; Radford et al. (2016).

    Raises:
      ValueError: if images are not uint8 [B, H, W, C].
    """
    del keys
    _check(images)
    rows = images.reshape(len(images), -1)
    # From whole numbers, which are exact: white must not come out above 1.
    return ((2 * rows.astype(jnp.float32) - 255) / 255).reshape(images.shape)


def unchanged(keys: Keys, examples: Batch) -> Batch:
    """Examples as they are stored, such as the points of a mixture: [B, ...] -> [B, ...]."""
    del keys
    return examples


def binarized(keys: Keys, images: Array) -> Array:
    """Pixels drawn as 0 or 1 with their grey value as the probability, anew at every draw.

    Salakhutdinov & Murray (2008); the protocol of Burda et al. (2016). A pixel of value v is 1 with
    probability round(65536 v / 255) / 65536: within 2**-17 of v / 255, and exactly 0 at 0 and 1 at
    255. Sixteen raw random bits decide it, which costs a fraction of a uniform float.

    Args:
      keys: one key per image, [B].
      images: uint8 [B, H, W, C].

    Returns:
      float32 [B, H, W, C], each value 0 or 1.

    Raises:
      ValueError: if images are not uint8 [B, H, W, C], or keys are not one per image.
    """
    _check(images)
    checks.keys(keys, len(images), of="image")
    size = math.prod(images.shape[1:])

    def draw(key: jax.Array) -> Array:
        words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
        return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]

    bits = jax.vmap(draw)(keys)
    value = images.reshape(bits.shape).astype(jnp.uint32)
    threshold = 257 * value + (value >> 7)  # round(65536 v / 255), as 65536 = 257 * 255 + 1
    return (bits < threshold).astype(jnp.float32).reshape(images.shape)


def thresholded(keys: Keys, images: Array) -> Array:
    """Pixels that are 1 from half of the grey values on, else 0: no noise.

    Another data set than that of `binarized`: the likelihoods of the two are not to be compared.

    Args:
      keys: one key per image, [B]; not used.
      images: uint8 [B, H, W, C].

    Returns:
      float32 [B, H, W, C], 1 where the value is at least 128.

    Raises:
      ValueError: if images are not uint8 [B, H, W, C].
    """
    del keys
    _check(images)
    rows = images.reshape(len(images), -1)
    return (rows >= 128).astype(jnp.float32).reshape(images.shape)


def dequantized(keys: Keys, images: Array) -> Array:
    """Grey values with uniform noise of their own width: (v + u) / 256 with u in [0, 1).

    A density of these bounds the probability of the bytes: minus its logarithm, in bits per pixel
    and plus 8, is at least theirs (Theis et al. 2016, section 3.1).

    Args:
      keys: one key per image, [B].
      images: uint8 [B, H, W, C].

    Returns:
      float32 [B, H, W, C] in [0, 1), with fresh noise at every draw.

    Raises:
      ValueError: if images are not uint8 [B, H, W, C], or keys are not one per image.
    """
    _check(images)
    checks.keys(keys, len(images), of="image")
    rows = images.reshape(len(images), -1).astype(jnp.uint32)
    bits = jax.vmap(lambda key: jax.random.bits(key, rows.shape[1:], jnp.uint16))(keys)
    # Sixteen bits of noise below eight of the value: all 24 are exact in float32, and 1 is never
    # reached.
    values = (rows << 16) + bits
    return (values.astype(jnp.float32) * 2.0**-24).reshape(images.shape)


def binarized_once(key: Key, images: np.ndarray) -> np.ndarray:
    """Pixels drawn as 0 or 255 with their grey value as the probability, once and for all.

    The protocol of a fixed binarisation; which pixels are drawn depends on the key and the image's
    place alone. Of these images `unit_interval` makes zeros and ones.

    Args:
      key: a single key.
      images: uint8 [N, H, W, C].

    Returns:
      uint8 [N, H, W, C], each value 0 or 255.

    Raises:
      ValueError: if images are not uint8 [N, H, W, C].
    """
    _check(images)
    draw = jax.jit(binarized)
    drawn = np.empty(images.shape, np.uint8)
    for first in range(0, len(images), _CHUNK):
        chunk = images[first : first + _CHUNK]
        places = jnp.arange(first, first + len(chunk), dtype=jnp.uint32)
        keys = jax.vmap(rng.at_step, (None, 0))(key, places)
        drawn[first : first + len(chunk)] = 255 * np.asarray(draw(keys, chunk)).astype(np.uint8)
    return drawn


def padded(images: Any, size: int, value: int = 0) -> Any:
    """Images in the middle of a square, such as those of 28 x 28 on 32 x 32.

    Args:
      images: [N, H, W, C], NumPy's or JAX's.
      size: side of the square, at least H and W.
      value: what to pad with.

    Returns:
      [N, size, size, C], of the same type.

    Raises:
      ValueError: if an image is larger, or has another rank.
    """
    if images.ndim != 4 or max(images.shape[1:3]) > size:
        raise ValueError(f"images must be [N, H, W, C] within {size} x {size}, got {images.shape}")
    missing = [size - side for side in images.shape[1:3]]
    widths = [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)]
    pad = jnp.pad if isinstance(images, jax.Array) else np.pad
    return pad(images, widths, constant_values=value)


def _check(images: Any) -> None:
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [B, H, W, C], got {images.dtype} {list(images.shape)}"
        )
