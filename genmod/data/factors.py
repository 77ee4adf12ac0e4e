"""Images with known factors of variation, made by formulas.

Scores of disentanglement (`evaluate.mig` and others) compare codes with such factors. Nothing is
downloaded and nothing is stored: an image is a pure function of its factors.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.data.cache import fingerprint
from genmod.data.dataset import Dataset, Part, select
from genmod.data.order import shuffled
from genmod.types import Array, Key

SIDE = 64
"""Height and width of all images that are not pooled, in pixels."""
_CHUNK = 1024


class Factors(NamedTuple):
    """Space of images with known factors.

    Attributes:
      title: name of the space, for figures and tables.
      names: name of each factor.
      sizes: number of values of each factor; factor f is a whole number in [0, sizes[f]).
      image_of: pure function `factors [B, F] -> images uint8 [B, H, W, C]`, with H = W = 64 unless
        they are `pooled`.
      classes: names of the values of the first factor, if these are the labels of the images; empty
        if the images have no labels.
    """

    title: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    image_of: Callable[[Any], Array]
    classes: tuple[str, ...] = ()

    @property
    def num_states(self) -> int:
        """Number of different images."""
        return math.prod(self.sizes)


def xy_squares(*, spacing: int = 8, grid_size: int | None = None) -> Factors:
    """Returns XYSquares: one square in each of three colours.

    Each square, 8 x 8 pixels of 255 on 0, has one channel for itself. The upper left corner of the
    square of colour c lies at

        (offset + spacing * x_c, offset + spacing * y_c)

    The offset centres the grid. At a spacing of 8 or more the squares at different places do not
    overlap, so that the pixelwise distance of two images says nothing about the distance of their
    factors. The smaller the spacing, the more it says.

    Source: Michlo et al. 2022, "Overlooked implications of the reconstruction loss for VAE
    disentanglement"; images equal those of `XYSquaresData` in their library disent.

    Args:
      spacing: distance of neighbouring places, in pixels.
      grid_size: number of places in each direction; as many as fit if None. At the default spacing
        these are 8, which makes 8^6 images.

    Raises:
      ValueError: if a number is not a positive whole number, or there are more places than fit or
        only one.

    Example:
      >>> from genmod import data
      >>> data.xy_squares().image_of([[0, 0, 7, 7, 3, 4]]).shape
      (1, 64, 64, 3)
    """
    square = 8
    spacing = checks.positive_integer("spacing", spacing)
    most = (SIDE - square) // spacing + 1
    if most < 2:
        raise ValueError(f"spacing must be at most {SIDE - square}, got {spacing}")
    places = most if grid_size is None else checks.positive_integer("grid_size", grid_size)
    if not 2 <= places <= most:
        raise ValueError(
            f"grid_size must be from 2 to {most}, which fit at spacing {spacing}, got {places}"
        )
    offset = (SIDE - square - (places - 1) * spacing) // 2
    names = tuple(f"{axis}_{color}" for color in "RGB" for axis in "xy")
    sizes = (places,) * 6

    def image_of(factors: Any) -> Array:
        corners = offset + spacing * _checked(factors, names, sizes)
        pixels = jnp.arange(SIDE, dtype=jnp.int32)[None, None, :] - corners[:, :, None]
        inside = (pixels >= 0) & (pixels < square)
        columns, rows = inside[:, 0::2], inside[:, 1::2]  # [B, 3, 64] each
        image = jnp.einsum("bcy,bcx->byxc", rows, columns)
        return image.astype(jnp.uint8) * jnp.uint8(255)

    return Factors("XYSquares", names, sizes, image_of)


def sprites() -> Factors:
    """Returns sprites (not dSprites): one white shape on black.

    The factors are its shape (3), scale (5), orientation (12), x and y (16 each): 46,080 images,
    all different. A pixel at (u, v) columns and rows from the centre of the shape has the value

        round(255 clip(s - g(u cos t + v sin t, v cos t - u sin t) + 1/2, 0, 1))

    with the inradius s = 4, 5, ..., 8 pixels and, by shape,

        square:    g(a, b) = max(|a|, |b|)
        triangle:  g(a, b) = max(b, (sqrt(3) a - b) / 2, (-sqrt(3) a - b) / 2)
        ellipse:   g(a, b) = sqrt(a^2 / 4 + b^2)

    Value o of the orientation is the angle

        t = (2 pi / m) (o / 12)

    A shape that is turned by 2 pi / m looks the same: m is 4 for the square, 3 for the triangle, 2
    for the ellipse. So an orientation is part of a turn of another size for each shape, and no two
    orientations look the same. The centre lies at the pixel corners 17, 19, ..., 47 in x and y, so
    that no shape is cut off. Labels are the shapes.

    dSprites (Matthey et al. 2017) has other shapes and sizes: published scores on it are not
    comparable.

    Example:
      >>> from genmod import data
      >>> space = data.sprites()
      >>> dict(zip(space.names, space.sizes))
      {'shape': 3, 'scale': 5, 'orientation': 12, 'x': 16, 'y': 16}
      >>> space.image_of([[0, 4, 6, 0, 15]]).shape
      (1, 64, 64, 1)
    """
    sizes = (3, 5, 12, 16, 16)
    names = ("shape", "scale", "orientation", "x", "y")
    at = np.arange(SIDE, dtype=np.int32)

    def image_of(factors: Any) -> Array:
        shape, scale, orientation, x, y = _checked(factors, names, sizes).T
        patches = jnp.asarray(_patches())[shape, scale, orientation]
        side = patches.shape[1]

        def placed(patch: Array, x: Array, y: Array) -> Array:
            rows, columns = at - 2 * y, at - 2 * x
            there = [(place >= 0) & (place < side) for place in (rows, columns)]
            found = patch[rows.clip(0, side - 1)][:, columns.clip(0, side - 1)]
            return jnp.where(there[0][:, None] & there[1][None, :], found, 0)

        return jax.vmap(placed)(patches, x, y)[..., None]

    return Factors(
        "sprites (not dSprites)", names, sizes, image_of, ("square", "triangle", "ellipse")
    )


def pooled(space: Factors, size: int) -> Factors:
    """Returns a space of smaller images, whose pixels are means.

    A pixel is the mean of size x size pixels, rounded, with halves upwards. Training on a quarter
    of the pixels takes a third of the time.

    Args:
      space: the space of images.
      size: side of the squares of pixels that become one; 1 changes nothing.

    Raises:
      ValueError: if size is not positive; when called, if it does not divide the images' side.

    Example:
      >>> from genmod import data
      >>> data.pooled(data.sprites(), 2).image_of([[0, 4, 6, 0, 15]]).shape
      (1, 32, 32, 1)
    """
    size = checks.positive_integer("size", size)

    def image_of(factors: Any) -> Array:
        images = space.image_of(factors)
        num, height, width, channels = images.shape
        if height % size or width % size:
            raise ValueError(f"size must divide the images' {height} x {width} pixels, got {size}")
        squares = images.reshape(num, height // size, size, width // size, size, channels)
        total = squares.astype(jnp.int32).sum((2, 4))
        return ((total + size * size // 2) // (size * size)).astype(images.dtype)

    return space if size == 1 else space._replace(image_of=image_of)


@functools.cache
def _patches() -> np.ndarray:
    """Draws each sprite around its centre, uint8 [3, 5, 12, 34, 34].

    They are drawn in float64 by NumPy and only moved by JAX, so that the images are the same on
    every device.
    """
    side = np.arange(-17, 17) + 0.5
    v, u = np.meshgrid(side, side, indexing="ij")
    scales = np.arange(4.0, 9.0)[:, None, None, None]
    steps = np.arange(12)[:, None, None] / 12
    drawn = []
    for turns, gauge in (
        (4, lambda a, b: np.maximum(abs(a), abs(b))),
        (3, lambda a, b: np.maximum(b, (math.sqrt(3) * abs(a) - b) / 2)),
        (2, lambda a, b: np.sqrt(a * a / 4 + b * b)),
    ):
        angle = 2 * math.pi / turns * steps
        a, b = (u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle))
        drawn.append(np.clip(scales - gauge(a, b) + 0.5, 0, 1))
    return np.round(255 * np.stack(drawn)).astype(np.uint8)


def sample_factors(key: Key, space: Factors, num: int) -> Array:
    """Draws the factors of independent images.

    All values are equally likely. Draw i depends on key i alone and is the same for any num.

    Args:
      key: a single key.
      space: the space of images.
      num: number of draws N.

    Returns:
      Factors, int32 [N, F]; `space.image_of` makes the images of them.

    Raises:
      ValueError: if num is not positive.
    """
    num = checks.positive_integer("num", num)
    sizes = jnp.asarray(space.sizes, jnp.int32)

    def draw(key: Key) -> Array:
        return jax.random.randint(key, sizes.shape, 0, sizes, jnp.int32)

    return jax.vmap(draw)(rng.per_example(key, num))


def factor_dataset(key: Key, space: Factors, num: int) -> tuple[Dataset, np.ndarray]:
    """Draws a data set of independent images.

    Args:
      key: a single key.
      space: the space of images.
      num: number of images N.

    Returns:
      The data set, and the factors of its images, int32 [N, F].

    Raises:
      ValueError: if num is not positive.
    """
    factors = np.asarray(sample_factors(key, space, num))
    return _rendered(space, factors), factors


class _Named(NamedTuple):
    """Space that has a name among the data sets.

    Attributes:
      space: the space of images.
      train: number of images to train on.
      test: number of images to test on.
    """

    space: Factors
    train: int
    test: int


# All sprites are in one part or the other. So many squares are 220 MB and 25 MB.
NAMED = {
    "xy_squares": _Named(xy_squares(), 18_000, 2_000),
    "sprites": _Named(sprites(), 41_472, 4_608),
}
"""Spaces by the names of their data sets."""


def factors_of(
    name: str, split: str = "train", *, data_dir: str | Path | None = None
) -> np.ndarray:
    """Returns the factors of a data set's images.

    Args:
      name: name of the data set: "xy_squares", "sprites", or a data set of tensorflow-datasets
        whose examples have classes with names that begin with `label_`, such as "tfds:dsprites".
        Its factors are these classes, in alphabetical order.
      split: a split, as in `load`.
      data_dir: folder of tensorflow-datasets, as in `load`.

    Returns:
      Factors of the images of `load(name, split)` in their order, int32 [N, F].

    Raises:
      ValueError: if name or split is unknown, or the examples have no factors.
      DataError: if the data set is damaged or not prepared.

    Example:
      >>> from genmod import data
      >>> data.factors_of("sprites", "test[:100]").shape
      (100, 5)
    """
    kind, _, where = name.partition(":")
    if kind == "tfds":
        from genmod.data import stored, tfds

        folder = None if data_dir is None else str(data_dir)
        return stored.factors_of(tfds.examples(where, split, folder))
    checks.known("data set with factors", name, NAMED)

    def part(factors: np.ndarray) -> Dataset:
        labels = np.zeros(len(factors), np.int32)
        return Dataset(factors, labels, fingerprint(factors, labels))

    states = {which: functools.partial(part, found) for which, found in _states(name).items()}
    return np.asarray(select(name, states, split).images)


def parts(name: str) -> dict[str, Part]:
    """Returns the parts of a named data set."""
    space = NAMED[name].space
    return {
        part: functools.partial(_rendered, space, factors)
        for part, factors in _states(name).items()
    }


@functools.cache
def _states(name: str) -> dict[str, np.ndarray]:
    """Returns the factors of each part; no image is in both.

    They are drawn without replacement, by a key that is the same in every run.
    """
    space, train, test = NAMED[name]
    place = jnp.arange(train + test, dtype=jnp.int32)
    drawn = jax.jit(shuffled, static_argnums=2)(
        rng.stream(rng.root(0), name), place, space.num_states
    )
    factors = np.stack(np.unravel_index(np.asarray(drawn), space.sizes), axis=1).astype(np.int32)
    return {"train": factors[:train], "test": factors[train:]}


def _rendered(space: Factors, factors: np.ndarray) -> Dataset:
    """Makes the data set of images with these factors."""
    image_of = jax.jit(space.image_of)
    chunks = [factors[first : first + _CHUNK] for first in range(0, len(factors), _CHUNK)]
    images = np.concatenate([np.asarray(image_of(chunk)) for chunk in chunks])
    labels = factors[:, 0] if space.classes else np.zeros(len(factors), np.int32)
    labels = np.ascontiguousarray(labels)
    return Dataset(images, labels, fingerprint(images, labels), space.classes)


def _checked(factors: Any, names: tuple[str, ...], sizes: tuple[int, ...]) -> Array:
    """Returns factors as int32 [B, F], or refuses them.

    The range of values that are traced cannot be checked.
    """
    found = factors if isinstance(factors, jax.Array) else np.asarray(factors)
    if (
        found.ndim != 2
        or found.shape[1] != len(sizes)
        or not jnp.issubdtype(found.dtype, np.integer)
    ):
        raise ValueError(
            f"factors must be integers [B, {len(sizes)}], got {found.dtype} {list(found.shape)}"
        )
    if not isinstance(found, jax.core.Tracer):
        for values, name, size in zip(np.asarray(found).T, names, sizes, strict=True):
            if len(values) and not 0 <= values.min() <= values.max() < size:
                raise ValueError(
                    f"factors: {name} must be in [0, {size}), got {values.min()} to {values.max()}"
                )
    return jnp.asarray(found, jnp.int32)
