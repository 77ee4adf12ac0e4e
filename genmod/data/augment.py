"""Data augmentation on the device.

An augmentation is a pure function:

    (keys [B], images [B, H, W, C]) -> images

The random choices for example i depend on key i alone. The result has the shape and dtype of the
images, and can be differentiated with respect to them any number of times. All augmentations raise
ValueError if the images have another rank or if there is not one key per image.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.data.protocols import Prepare, Preprocessing, as_function, name_of
from genmod.types import Array, Batch, Key, Keys

Augmentation = Callable[[Keys, Array], Array]


def flip(keys: Keys, images: Array) -> Array:
    """Mirrors each image with probability 1/2.

    Left and right are swapped. The images may have any dtype.
    """
    check_images(keys, images)
    flipped = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def translate(share: float = 1 / 8, *, fill: float = 0) -> Augmentation:
    """Makes an augmentation that shifts images.

    On an axis of n pixels the shift is uniform among the whole numbers of pixels from -m to m,
    where m is n * share rounded to the nearest whole number, halves up (Zhao et al. 2020, as in
    their code). The images may have any dtype.

    Args:
      share: the largest shift as a share of the image's size, in [0, 1].
      fill: the value of the pixels that come in from outside; "black" in the images' range.

    Raises:
      ValueError: if share lies outside [0, 1] or fill is not finite; on use, if the images' dtype
        cannot represent fill.
    """
    checks.probability("share", share)
    _check_fill(fill)

    def augment(keys: Keys, images: Array) -> Array:
        check_images(keys, images)
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
    """Makes an augmentation that cuts a hole into images.

    This is Cutout of DeVries & Taylor (2017), with a hole at a random position. On a side of n
    pixels the hole has s pixels, where s is n * share rounded to the nearest whole number, halves
    up. It consists of the s pixels from c - s // 2 on, with c uniform in {0, ..., n} if s is even
    and in {0, ..., n - 1} if s is odd. The part of the hole that lies outside the image is dropped
    (Zhao et al. 2020, as in their code). The images may have any dtype.

    Args:
      share: the hole's share of each side, in [0, 1].
      fill: the value in the hole.

    Raises:
      ValueError: if share lies outside [0, 1] or fill is not finite; on use, if the images' dtype
        cannot represent fill.
    """
    checks.probability("share", share)
    _check_fill(fill)

    def augment(keys: Keys, images: Array) -> Array:
        check_images(keys, images)
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
    """Adds a random number to each image.

        x + u  with  u ~ U(-.5, .5)

    This is one of the colour changes of Zhao et al. (2020). The image's range must have a width of
    2, such as [-1, 1]. Values may leave this range, as they may in `saturation` and `contrast`.

    Raises:
      ValueError: if images are not floating.
    """
    check_images(keys, images, floating=True)
    return images + _uniform(keys, images, -0.5, 0.5)


def saturation(keys: Keys, images: Array) -> Array:
    """Scales each pixel's distance to its grey value.

        (x - m) * u + m  with  u ~ U(0, 2)

    This is one of the colour changes of Zhao et al. (2020). The mean m is taken over the pixel's
    channels. Images of one channel stay unchanged.

    Raises:
      ValueError: if images are not floating.
    """
    check_images(keys, images, floating=True)
    # XLA's CPU backend runs a reduction over a short last axis as scalar code; sums of channels are
    # vectorised.
    channels = jnp.split(images, images.shape[3], axis=3)
    mean = functools.reduce(jnp.add, channels) / len(channels)
    return (images - mean) * _uniform(keys, images, 0, 2) + mean


def contrast(keys: Keys, images: Array) -> Array:
    """Scales each image's distance to its mean.

        (x - m) * u + m  with  u ~ U(.5, 1.5)

    This is one of the colour changes of Zhao et al. (2020). The mean m is taken over the whole
    image.

    Raises:
      ValueError: if images are not floating.
    """
    check_images(keys, images, floating=True)
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) * _uniform(keys, images, 0.5, 1.5) + mean


def compose(*augmentations: Augmentation) -> Augmentation:
    """Chains augmentations in the given order.

    Each one gets its own random numbers.

    Raises:
      ValueError: if no augmentation is given.
    """
    if not augmentations:
        raise ValueError("compose must get at least one augmentation, got none")

    def augment(keys: Keys, images: Array) -> Array:
        for place, one in enumerate(augmentations):
            images = one(rng.stream(keys, f"augmentation {place}"), images)
        return images

    return augment


def diffaugment(policy: str = "color,translation,cutout", *, fill: float = 0) -> Augmentation:
    """Makes the differentiable augmentation DiffAugment (Zhao et al. 2020).

    It is applied to all images that a discriminator receives, real and generated.

    Args:
      policy: names in the order of application, separated by commas: `color` is `brightness`,
        `saturation`, `contrast`; `translation` is `translate(1/8)`; `cutout` is `cutout(1/2)`.
      fill: the fill value of `translation` and `cutout`. The paper uses 0 for images in [-1, 1].

    Raises:
      ValueError: if a name is unknown or fill is not finite; on use, if policy contains `color` and
        the images are not floating.
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


def augmented(augment: Augmentation, prepare: Prepare) -> Preprocessing:
    """Puts an augmentation before `prepare`, for `data.batches`.

    To augment one field of examples that are a dict, give the result for this field:
    `prepare={"image": data.augmented(data.flip, data.unit_interval)}`.

    Args:
      augment: augmentation of the images as they are stored, such as `flip` for uint8.
      prepare: `(keys [B], raw examples) -> batch`; its random numbers are independent of those of
        `augment`.

    Raises:
      ValueError: if prepare is neither a function nor a dict of functions by field.
    """
    prepare = as_function(prepare)

    def both(keys: Keys, images: Batch) -> Batch:
        images = augment(rng.stream(keys, "augment"), images)
        return prepare(rng.stream(keys, "prepare"), images)

    both.__qualname__ = f"augmented({name_of(augment)}, {name_of(prepare)})"
    return both


def _uniform(keys: Keys, images: Array, low: float, high: float) -> Array:
    """Draws one number per image, [B, 1, 1, 1].

    The draw is float32 for every dtype, so images of any precision get the same numbers.
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1), jnp.float32, low, high))
    return draw(keys).astype(images.dtype)


def _pixels(size: int, share: float) -> int:
    return int(size * share + 0.5)


def check_images(keys: Keys, images: Array, *, floating: bool = False) -> None:
    """Refuses images that are not [B, H, W, C], or have not one key each."""
    if getattr(images, "ndim", None) != 4:
        got = list(images.shape) if hasattr(images, "shape") else checks.described(images)
        raise ValueError(f"images must be [B, H, W, C], got {got}")
    if floating and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating, got {images.dtype} (scale the images first)")
    checks.keys(keys, len(images), of="image")


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
