"""Augmentations on the device: pure functions `(keys [B], images [B, H, W, C]) -> images`.

The noise belongs to the example: what example i gets depends on key i alone. The result has the
images' shape and dtype, and is differentiable by the images as often as one likes. Where images of
another rank, or keys that are not one per image, are passed, ValueError says so.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.data.protocols import Prepare, name_of
from genmod.types import Array, Batch, Key, Keys

Augmentation = Callable[[Keys, Array], Array]


def flip(keys: Keys, images: Array) -> Array:
    """Left and right change places, with probability 1/2; of any dtype."""
    _check(keys, images)
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def translate(share: float = 1 / 8, *, fill: float = 0) -> Augmentation:
    """A shift by whole pixels on each axis, of images of any dtype.

    On an axis of n pixels it is uniform among the whole numbers from -m to m, with m = n * share to
    the nearest whole number, halves up (Zhao et al. 2020; in their code).

    Args:
      share: the largest shift's share of the size, in [0, 1].
      fill: the value of the pixels that come in from outside; "black" in the images' range.

    Raises:
      ValueError: if share lies outside [0, 1] or fill is not finite; on use, if the images' dtype
        has no such value.
    """
    _check_share(share)
    _check_fill(fill)

    def augment(keys: Keys, images: Array) -> Array:
        _check(keys, images)
        _check_fill(fill, images)
        _, height, width, channels = images.shape
        most = _pixels(height, share), _pixels(width, share)
        around = [(0, 0), *((m, m) for m in most), (0, 0)]
        padded = jnp.pad(images, around, constant_values=fill)
        spans = jnp.array([2 * m + 1 for m in most], jnp.int32)

        def shifted(key: Key, image: Array) -> Array:
            start = jnp.append(jax.random.randint(key, (2,), 0, spans, jnp.int32), 0)
            return jax.lax.dynamic_slice(image, start, (height, width, channels))

        return jax.vmap(shifted)(keys, padded)

    return augment


def cutout(share: float = 1 / 2, *, fill: float = 0) -> Augmentation:
    """A hole in the image at a uniform place, of images of any dtype (DeVries & Taylor 2017).

    A side of n pixels has a hole of s = n * share to the nearest whole number, halves up: the s
    pixels from c - s // 2 on, with c uniform in {0, ..., n} where s is even and in {0, ..., n - 1}
    where it is odd. What lies outside the image is lost (Zhao et al. 2020; in their code).

    Args:
      share: the hole's share of each side, in [0, 1].
      fill: the value in the hole.

    Raises:
      ValueError: if share lies outside [0, 1] or fill is not finite; on use, if the images' dtype
        has no such value.
    """
    _check_share(share)
    _check_fill(fill)

    def augment(keys: Keys, images: Array) -> Array:
        _check(keys, images)
        _check_fill(fill, images)
        size = images.shape[1:3]
        hole = [_pixels(n, share) for n in size]
        spans = jnp.array([n + 1 - s % 2 for n, s in zip(size, hole, strict=True)], jnp.int32)

        def inside(key: Key) -> Array:
            centre = jax.random.randint(key, (2,), 0, spans, jnp.int32)
            rows, columns = (
                (jnp.arange(n) >= c - s // 2) & (jnp.arange(n) < c - s // 2 + s)
                for n, s, c in zip(size, hole, centre, strict=True)
            )
            return rows[:, None, None] & columns[None, :, None]

        return jnp.where(jax.vmap(inside)(keys), jnp.asarray(fill, images.dtype), images)

    return augment


def brightness(keys: Keys, images: Array) -> Array:
    """Adds u ~ U(-.5, .5) to an image, whose range has a width of 2 (Zhao et al. 2020).

    The values may leave their range; so they do in `saturation` and `contrast`.

    Raises:
      ValueError: if images are not floating.
    """
    _check(keys, images, floating=True)
    return images + _uniform(keys, images, -0.5, 0.5)


def saturation(keys: Keys, images: Array) -> Array:
    """(x - m) * u + m, m the mean over a pixel's channels, u ~ U(0, 2) (Zhao et al. 2020).

    It leaves images of one channel as they are.

    Raises:
      ValueError: if images are not floating.
    """
    _check(keys, images, floating=True)
    # Not as a reduction: over a short last axis those run in scalar code on a CPU.
    channels = jnp.split(images, images.shape[3], axis=3)
    mean = functools.reduce(jnp.add, channels) / len(channels)
    return (images - mean) * _uniform(keys, images, 0, 2) + mean


def contrast(keys: Keys, images: Array) -> Array:
    """(x - m) * u + m, m the mean over the image, u ~ U(.5, 1.5) (Zhao et al. 2020).

    Raises:
      ValueError: if images are not floating.
    """
    _check(keys, images, floating=True)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) * _uniform(keys, images, 0.5, 1.5) + mean


def compose(*augmentations: Augmentation) -> Augmentation:
    """One augmentation after the other, the first first; each draws its own noise.

    Raises:
      ValueError: if there are none.
    """
    if not augmentations:
        raise ValueError("compose must get at least one augmentation, got none")

    def augment(keys: Keys, images: Array) -> Array:
        for place, one in enumerate(augmentations):
            images = one(rng.stream(keys, f"augmentation {place}"), images)
        return images

    return augment


def diffaugment(policy: str = "color,translation,cutout", *, fill: float = 0) -> Augmentation:
    """Differentiable augmentation of what a discriminator sees (DiffAugment; Zhao et al. 2020).

    Args:
      policy: names with commas between them, in their order: `color` is `brightness`, `saturation`,
        `contrast`; `translation` is `translate(1/8)`; `cutout` is `cutout(1/2)`.
      fill: of the last two. The paper's is 0 for images in [-1, 1].

    Raises:
      ValueError: if a name is unknown or fill not finite; on use, if images are not floating for
        `color`.
    """
    parts = {
        "color": compose(brightness, saturation, contrast),
        "translation": translate(fill=fill),
        "cutout": cutout(fill=fill),
    }
    names = policy.split(",")
    for name in names:
        checks.known("augmentation", name, parts)
    return compose(*(parts[name] for name in names))


def augmented(augment: Augmentation, prepare: Prepare) -> Prepare:
    """A `prepare` for `data.batches`: the stored images augmented, then prepared.

    Args:
      augment: of the images as they are stored, such as `flip` of uint8.
      prepare: `(keys [B], raw examples) -> batch`; it draws other noise than `augment`.
    """

    def both(keys: Keys, images: Batch) -> Batch:
        images = augment(rng.stream(keys, "augment"), images)
        return prepare(rng.stream(keys, "prepare"), images)

    both.__qualname__ = f"augmented({name_of(augment)}, {name_of(prepare)})"
    return both


def _uniform(keys: Keys, images: Array, low: float, high: float) -> Array:
    """One number for each image, [B, 1, 1, 1]; whatever their precision, the same."""
    draw = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1), jnp.float32, low, high))
    return draw(keys).astype(images.dtype)


def _pixels(size: int, share: float) -> int:
    return int(size * share + 0.5)


def _check(keys: Keys, images: Array, *, floating: bool = False) -> None:
    if images.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C], got {list(images.shape)}")
    if floating and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating, got {images.dtype} (scale the images first)")
    checks.keys(keys, len(images), of="image")


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"share must be a number in [0, 1], got {share!r}")


def _check_fill(fill: float, images: Array | None = None) -> None:
    if not math.isfinite(fill):
        raise ValueError(f"fill must be a finite number, got {fill!r}")
    if images is not None and jnp.issubdtype(images.dtype, jnp.integer):
        least, most = jnp.iinfo(images.dtype).min, jnp.iinfo(images.dtype).max
        if not (least <= fill <= most and fill == int(fill)):
            raise ValueError(
                f"fill must be a whole number in [{least}, {most}] for images of "
                f"{images.dtype}, got {fill!r}"
            )
