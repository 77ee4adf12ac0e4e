"""The augmentations of adaptive discriminator augmentation (ADA).

    T(x) = colour(sample x at the points of one affine map)

Each elementary change happens with probability p, which training may move. Below a p of about .8 a
generator cannot satisfy the discriminator by images that are augmented themselves, so that nothing
of it leaks into the samples.

References:
  Karras et al., Training Generative Adversarial Networks with Limited Data, 2020
  (arXiv:2006.06676), appendix B.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.data.augment import Augmentation, check_images
from genmod.types import Array, Key, Keys

_GROUPS = ("blit", "geometry", "color")


def adaptive(
    probability: float | Array,
    *,
    groups: str = "blit,geometry,color",
    image_range: tuple[float, float] = (-1.0, 1.0),
) -> Augmentation:
    """Makes the augmentation of adaptive discriminator augmentation (ADA).

    Each of these changes has its own coin of the given probability, for each image:

    - `blit`: mirror (one time in two), turn by a multiple of 90 degrees, shift by whole pixels, up
      to an eighth of the size;
    - `geometry`: scale by 2^(.2 n), turn by any angle (before and after the next change, with a
      joint probability of p), scale one axis by 2^(.2 n) and the other by its inverse, shift by
      n / 8 of the size, with n ~ N(0, 1);
    - `color`: add .2 n, scale by 2^(.5 n), and flip the brightness (one time in two), all about the
      middle of the range. Images of three channels also turn their hue by any angle and scale their
      saturation by 2^n.

    The affine changes of an image are one map, at whose points it is sampled by bilinear
    interpolation. Pixels from outside the image have the lowest value of the range. (The authors'
    code mirrors the image there, and filters it as it is sampled.) Colours may leave the range.

    As `augment` of `train.adversarial`, with a probability that `gan.moving_probability` moves:

        train.adversarial(
            model, loss, optimizers,
            augment=lambda now: data.adaptive(now["probability"]),
            memory={"probability": 0.0}, remember=gan.moving_probability(),
        )

    Args:
      probability: probability p of each change, in [0, 1]; a traced value is not checked.
      groups: names of the groups, separated by commas.
      image_range: least and largest value of the images.

    Returns:
      A function `(keys [B], images [B, H, W, C]) -> images`, of the same type.

    Raises:
      ValueError: if probability lies outside [0, 1], a group is unknown, or image_range is empty;
        when called, if the images are not floating [B, H, W, C].

    References:
      Karras et al., Training Generative Adversarial Networks with Limited Data, 2020
      (arXiv:2006.06676), appendix B.
    """
    if not isinstance(probability, jax.core.Tracer):
        checks.probability("probability", probability)
    names = groups.split(",")
    for name in names:
        checks.known("group of augmentations", name, _GROUPS)
    low, high = image_range
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"image_range must be (low, high) with low < high, got {image_range}")

    def augment(keys: Keys, images: Array) -> Array:
        check_images(keys, images, floating=True)
        p = jnp.asarray(probability, jnp.float32)

        def changed(key: Key, image: Array) -> Array:
            coins = _Coins(key, p)
            if "blit" in names or "geometry" in names:
                image = _sampled(image, _affine(coins, names, image.shape), low)
            if "color" in names:
                scaled = (image - low) * (2 / (high - low)) - 1
                image = (_coloured(coins, scaled) + 1) * ((high - low) / 2) + low
            return image

        return jax.vmap(changed)(keys, images)

    return augment


class _Coins:
    """Random choices of an image: each change has a stream of its own."""

    def __init__(self, key: Key, probability: Array):
        self._key = key
        self._probability = probability

    def chosen(self, name: str, value: Any, neutral: Any, probability: Any = None) -> Array:
        """Returns the value if the coin of this change shows it, else the neutral one."""
        p = self._probability if probability is None else probability
        coin = jax.random.uniform(rng.stream(self._key, f"coin of {name}"))
        return jnp.where(coin < p, value, neutral)

    def normal(self, name: str) -> Array:
        return jax.random.normal(rng.stream(self._key, name))

    def normals(self, name: str) -> Array:
        return jax.random.normal(rng.stream(self._key, name), (2,))

    def uniform(self, name: str, most: float = 1.0) -> Array:
        return jax.random.uniform(rng.stream(self._key, name), minval=-most, maxval=most)

    def whole(self, name: str, num: int) -> Array:
        return jax.random.randint(rng.stream(self._key, name), (), 0, num)

    def angle(self, name: str, probability: Any = None) -> Array:
        return self.chosen(name, self.uniform(name, math.pi), 0.0, probability)

    def power(self, name: str, std: float) -> Array:
        return self.chosen(name, jnp.exp2(std * self.normal(name)), 1.0)

    @property
    def of_one_turn(self) -> Array:
        """Probability of each of two turns that have the joint probability p."""
        return 1 - jnp.sqrt(1 - self._probability)


def _affine(coins: _Coins, names: list[str], shape: tuple[int, ...]) -> Array:
    """Returns the map [2, 3] from (row, column) of the result to those of the image.

    Both are measured from the middle of the image. The map is the product of the inverse changes,
    in their order.
    """
    size = jnp.array(shape[:2], jnp.float32)
    inverse = jnp.eye(3)
    if "blit" in names:
        mirror = coins.chosen("mirror", 1.0 - 2.0 * coins.whole("mirror", 2), 1.0)
        inverse = inverse @ _scaling(1.0, mirror)
        quarters = coins.chosen("quarter turn", coins.whole("quarter turn", 4), 0)
        inverse = inverse @ _quarter_turn(quarters)
        key = [coins.uniform(f"whole shift {axis}", 1 / 8) for axis in "xy"]
        shift = coins.chosen("whole shift", jnp.round(jnp.stack(key) * size), 0.0)
        inverse = inverse @ _shift(-shift)
    if "geometry" in names:
        scale = coins.power("scale", 0.2)
        inverse = inverse @ _scaling(1 / scale, 1 / scale)
        inverse = inverse @ _turn(-coins.angle("first turn", coins.of_one_turn))
        stretch = coins.power("stretch", 0.2)
        inverse = inverse @ _scaling(1 / stretch, stretch)
        inverse = inverse @ _turn(-coins.angle("last turn", coins.of_one_turn))
        shift = coins.chosen("shift", coins.normals("shift") * size / 8, 0.0)
        inverse = inverse @ _shift(-shift)
    return inverse[:2]


def _scaling(rows: Any, columns: Any) -> Array:
    return jnp.diag(jnp.stack([jnp.asarray(rows, jnp.float32), columns, 1.0]))


def _turn(angle: Array) -> Array:
    return _linear(jnp.cos(angle), jnp.sin(angle))


def _quarter_turn(quarters: Array) -> Array:
    # Exact: a cosine of pi / 2 would move pixels by rounding.
    cosines = jnp.array([1.0, 0.0, -1.0, 0.0])
    return _linear(cosines[quarters], cosines[quarters - 1])


def _linear(cosine: Array, sine: Array) -> Array:
    zero, one = jnp.zeros(()), jnp.ones(())
    rows = [cosine, -sine, zero, sine, cosine, zero, zero, zero, one]
    return jnp.stack(rows).reshape(3, 3)


def _shift(by: Array) -> Array:
    return jnp.eye(3).at[:2, 2].set(by)


def _sampled(image: Array, inverse: Array, fill: float) -> Array:
    """Returns an image [H, W, C] sampled at the points of a map, by bilinear interpolation."""
    height, width, channels = image.shape
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    points = jnp.stack([rows.ravel(), columns.ravel()], axis=1) - middle[None]
    where = jnp.matmul(points, inverse[:, :2].T, precision="highest") + inverse[None, :, 2]
    # A border of one pixel: farther points are all at it.
    padded = jnp.pad(image, [(1, 1), (1, 1), (0, 0)], constant_values=fill)
    most = jnp.array([height + 1.0, width + 1.0])
    where = jnp.clip(where + middle[None] + 1, 0, most[None])
    first = jnp.minimum(jnp.floor(where), most[None] - 1)
    weight = (where - first).astype(image.dtype)
    row, column = first.astype(jnp.int32).T
    flat = padded.reshape(-1, channels)

    def at(down: int, right: int) -> Array:
        return flat[(row + down) * (width + 2) + column + right]

    by_row, by_column = weight[:, :1], weight[:, 1:]
    above = (1 - by_column) * at(0, 0) + by_column * at(0, 1)
    below = (1 - by_column) * at(1, 0) + by_column * at(1, 1)
    return ((1 - by_row) * above + by_row * below).reshape(image.shape)


def _coloured(coins: _Coins, image: Array) -> Array:
    """Returns an image in [-1, 1] with other colours."""
    channels = image.shape[-1]
    grey = jnp.ones((channels,)) / math.sqrt(channels)
    along = jnp.outer(grey, grey)
    offset = coins.chosen("brightness", 0.2 * coins.normal("brightness"), 0.0)
    contrast = coins.power("contrast", 0.5)
    matrix = contrast * jnp.eye(channels)
    flipped = coins.chosen("brightness flip", coins.whole("brightness flip", 2), 0)
    matrix = (jnp.eye(channels) - 2 * flipped * along) @ matrix
    if channels == 3:
        matrix = _hue_turn(coins.angle("hue"), grey) @ matrix
        saturation = coins.power("saturation", 1.0)
        matrix = (along + (jnp.eye(3) - along) * saturation) @ matrix
    shift = matrix @ jnp.full((channels,), offset)
    dtype = image.dtype
    return image @ matrix.T.astype(dtype) + shift.astype(dtype)[None, None]


def _hue_turn(angle: Array, axis: Array) -> Array:
    """Returns the rotation [3, 3] of colours about an axis of length 1 (Rodrigues' formula)."""
    x, y, z = axis
    zero = jnp.zeros(())
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * (cross @ cross)
