"""From stored examples to what a model sees: pure functions `(keys [B], examples) -> x`."""

import math

import jax
import jax.numpy as jnp

from genmod.types import Array, Batch, Keys


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
      ValueError: if images are not uint8 [B, H, W, C].
    """
    _check(images)
    size = math.prod(images.shape[1:])

    def draw(key: jax.Array) -> Array:
        words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
        return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:size]

    bits = jax.vmap(draw)(keys)
    value = images.reshape(bits.shape).astype(jnp.uint32)
    threshold = 257 * value + (value >> 7)  # round(65536 v / 255), as 65536 = 257 * 255 + 1
    return (bits < threshold).astype(jnp.float32).reshape(images.shape)


def _check(images: Array) -> None:
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [B, H, W, C], got {images.dtype} {list(images.shape)}"
        )
