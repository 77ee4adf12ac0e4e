"""Preprocessing of stored examples into a model's inputs.

A preprocessing function is a pure function:

    (keys [B], examples) -> x

Examples that are a dict can be prepared field by field, each by a function of its own.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Batch, Key, Keys

Preprocessing: TypeAlias = Callable[[Keys, Any], Any]
"""Function `(keys [B], raw examples) -> batch`; one key per example."""
Prepare: TypeAlias = Preprocessing | Mapping[str, Preprocessing]
"""Preprocessing function, or such functions by field for examples that are a dict.

Fields without a function stay unchanged, as in `by_field`.
"""

_CHUNK = 5000


@dataclasses.dataclass(frozen=True)
class ByField:
    """Preprocessing of examples that are a dict, as `by_field` makes it.

    Attributes:
      functions: pairs of a field and its preprocessing function.
    """

    functions: tuple[tuple[str, Preprocessing], ...]

    def __call__(self, keys: Keys, examples: Batch) -> Batch:
        """Prepares the fields that have a function."""
        functions = dict(self.functions)
        named = ", ".join(map(repr, functions)) or "none"
        if not isinstance(examples, dict):
            raise ValueError(
                f"prepare has functions for the fields {named}, which expects examples that are a "
                f"dict, got {checks.described(examples)}"
            )
        if not functions.keys() <= examples.keys():
            raise ValueError(
                f"prepare must name fields of the examples, got {named} where the examples have "
                f"{', '.join(map(repr, examples)) or 'none'}"
            )
        return {
            field: functions[field](rng.stream(keys, field), values)
            if field in functions
            else values
            for field, values in examples.items()
        }


def by_field(functions: Mapping[str, Preprocessing]) -> ByField:
    """Makes a preprocessing function of one function per field.

    `prepare={"image": data.binarized}` is short for `prepare=by_field({"image": data.binarized})`.
    Fields without a function stay unchanged. Each function has its own stream of keys, so that
    preparing one field more changes no other.

    Args:
      functions: preprocessing functions `(keys [B], values [B, ...]) -> prepared` by field.

    Raises:
      ValueError: if a field is not a string or its function not callable; on use, if the examples
        are not a dict or lack a field.

    Example:
      >>> import numpy as np
      >>> from genmod import data, rng
      >>> examples = {"image": np.full((3, 1, 1, 1), 255, np.uint8), "label": np.array([7, 7, 7])}
      >>> prepare = {"image": data.unit_interval}
      >>> batch = data.batches(examples, batch_size=2, prepare=prepare)(rng.root(0), 0)
      >>> batch["image"].ravel().tolist(), batch["label"].tolist()
      ([1.0, 1.0], [7, 7])
    """
    for field, function in functions.items():
        if not isinstance(field, str) or not callable(function):
            raise ValueError(
                "prepare must be a function (keys [B], examples) -> batch, or a dict of such "
                f"functions by field, got {checks.described(function)} for {field!r}"
            )
    return ByField(tuple(functions.items()))


def as_function(prepare: Prepare) -> Preprocessing:
    """Returns the function that `prepare` means.

    Raises:
      ValueError: if it is neither a function nor a dict of functions by field.
    """
    if isinstance(prepare, Mapping):
        return by_field(prepare)
    if not callable(prepare):
        raise ValueError(
            "prepare must be a function (keys [B], examples) -> batch, or a dict of such functions "
            f"by field, got {checks.described(prepare)}"
        )
    return prepare


def prepared(prepare: Prepare, key: Key, step: int | Array, examples: Batch) -> Batch:
    """Prepares the raw examples of a step.

    Each example gets its own key at each step.
    """
    size = checks.leading_axis("examples", examples)
    keys = rng.per_example(rng.at_step(rng.stream(key, "prepare"), step), size)
    return as_function(prepare)(keys, examples)


def name_of(function: Callable[..., Any]) -> str | dict[str, Any]:
    """Returns a preprocessing function's name, as written to record.json.

    For a function made by a genmod factory, this is the factory's name; for one made of functions
    by field, a dict of their names.
    """
    if isinstance(function, ByField):
        return {field: name_of(one) for field, one in function.functions}
    name = getattr(function, "__qualname__", type(function).__name__)
    ours = getattr(function, "__module__", "").startswith("genmod.")
    return name.partition(".<locals>")[0] if ours else name


def unit_interval(keys: Keys, images: Array) -> Array:
    """Scales grey values to [0, 1].

        uint8 [B, H, W, C] -> float32 [B, H, W, C]

    A pixel of value v becomes v / 255.

    Raises:
      ValueError: if images are not uint8 [B, H, W, C].
    """
    del keys
    _check(images)
    rows = images.reshape(len(images), -1)  # XLA's CPU backend vectorises the last axis
    return (rows.astype(jnp.float32) / 255).reshape(images.shape)


def signed_unit_interval(keys: Keys, images: Array) -> Array:
    """Scales grey values to [-1, 1], the range of tanh.

        uint8 [B, H, W, C] -> float32 [B, H, W, C]

    A pixel of value v becomes (2 v - 255) / 255 (Radford et al. 2016).

    Raises:
      ValueError: if images are not uint8 [B, H, W, C].
    """
    del keys
    _check(images)
    rows = images.reshape(len(images), -1)
    # The numerator is a whole number, which float32 holds exactly: white must not exceed 1.
    return ((2 * rows.astype(jnp.float32) - 255) / 255).reshape(images.shape)


def unchanged(keys: Keys, examples: Batch) -> Batch:
    """Returns examples as they are stored.

    Use it for data that need no preprocessing, such as the points of a mixture, [B, ...].
    """
    del keys
    return examples


def binarized(keys: Keys, images: Array) -> Array:
    """Binarises images anew at every step (dynamic binarisation).

    Each pixel is drawn as 0 or 1, with its grey value as the probability (Salakhutdinov & Murray
    2008; the protocol of Burda et al. 2016). A pixel of value v is 1 with probability
    round(65536 v / 255) / 65536. This is within 2**-17 of v / 255, exactly 0 for v = 0, and exactly
    1 for v = 255. Sixteen raw random bits decide it, which costs a fraction of a uniform float.

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
    """Binarises images with a threshold.

    Pixels of at least 128 become 1, others 0. This binarisation is deterministic. It yields another
    data set than `binarized`, so likelihoods under the two cannot be compared.

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
    """Adds uniform noise to grey values (uniform dequantisation).

        (v + u) / 256  with  u ~ U[0, 1)

    A density of these values bounds the probability of the bytes. On average, minus the log
    density in bits per pixel, plus 8, is at least the bits per pixel of the bytes (Theis et al.
    2016, section 3.1).

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
    # The eight bits of the value stand above sixteen bits of noise. All 24 bits are exact in
    # float32, and the result never reaches 1.
    values = (rows << 16) + bits
    return (values.astype(jnp.float32) * 2.0**-24).reshape(images.shape)


def binarized_once(key: Key, images: np.ndarray) -> np.ndarray:
    """Binarises images once (static binarisation).

    Each pixel is drawn as 0 or 255, with its grey value as the probability. The result for an image
    depends only on the key and the image's index. `unit_interval` turns these images into zeros and
    ones.

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
        indices = jnp.arange(first, first + len(chunk), dtype=jnp.uint32)
        keys = jax.vmap(rng.at_step, (None, 0))(key, indices)
        drawn[first : first + len(chunk)] = 255 * np.asarray(draw(keys, chunk)).astype(np.uint8)
    return drawn


def padded(images: Any, size: int, value: int = 0) -> Any:
    """Pads images to a square.

    The images are placed in the middle, such as images of 28 x 28 in a square of 32 x 32.

    Args:
      images: [N, H, W, C], an array of NumPy or JAX.
      size: side of the square, at least H and W.
      value: value of the padding.

    Returns:
      Images [N, size, size, C] of the same type.

    Raises:
      ValueError: if an image is larger than the square, or the array has another rank.
    """
    if images.ndim != 4 or max(images.shape[1:3]) > size:
        raise ValueError(f"images must be [N, H, W, C] within {size} x {size}, got {images.shape}")
    missing = [size - side for side in images.shape[1:3]]
    widths = [(0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)]
    pad = jnp.pad if isinstance(images, jax.Array) else np.pad
    return pad(images, widths, constant_values=value)


def _check(images: Any) -> None:
    if not hasattr(images, "dtype"):
        raise ValueError(
            f"images must be uint8 [B, H, W, C], got {checks.described(images)}; expected prepare="
            '{"image": data.unit_interval}, which prepares that field of a dict and passes on the '
            "others, or a function (keys, examples) -> batch of such examples"
        )
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [B, H, W, C], got {images.dtype} {list(images.shape)}"
            "; prepare=data.unchanged passes other data on as they are"
        )
