"""Gaussian mixtures in the plane.

All modes are known, so that mode collapse can be measured on them.
"""

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.data.cache import fingerprint
from genmod.data.dataset import Dataset
from genmod.types import Array, Key


class Mixture(NamedTuple):
    """Mixture of isotropic Gaussians with equal weights.

    Attributes:
      centers: float32 [K, D], the mean of each mode.
      std: the standard deviation of every mode, in each coordinate.
    """

    centers: np.ndarray
    std: float


def ring(num_modes: int = 8, *, radius: float = 1.0, std: float = 0.01) -> Mixture:
    """Places modes evenly on a circle around the origin.

    The first mode lies on the positive x-axis. The defaults are the 2D-ring of PacGAN (Lin et al.
    2018, section 4.1).

    Raises:
      ValueError: if num_modes is not a positive whole number, or radius or std is not positive.
    """
    num_modes = checks.positive_integer("num_modes", num_modes)
    checks.positive("radius", radius)
    checks.positive("std", std)
    angles = 2 * math.pi * np.arange(num_modes) / num_modes
    centers = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(centers.astype(np.float32), float(std))


def grid(side: int = 5, *, spacing: float = 2.0, std: float = 0.05) -> Mixture:
    """Places modes on a square grid centred at the origin.

    The modes are numbered row by row from the bottom left. The defaults are the 2D-grid of PacGAN
    (Lin et al. 2018, section 4.1): {-4, -2, 0, 2, 4}^2.

    Raises:
      ValueError: if side is not a positive whole number, or spacing or std is not positive.
    """
    side = checks.positive_integer("side", side)
    checks.positive("spacing", spacing)
    checks.positive("std", std)
    line = spacing * (np.arange(side) - (side - 1) / 2)
    x, y = np.meshgrid(line, line)
    return Mixture(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32), float(std))


MIXTURES: Mapping[str, Mixture] = MappingProxyType({"ring": ring(), "grid": grid()})
"""PacGAN's two mixtures by name."""


def sample_mixture(key: Key, mixture: Mixture, num: int) -> tuple[Array, Array]:
    """Draws independent points from a mixture.

    Draw i depends on key i alone and is the same for any num.

    Args:
      key: a single key.
      mixture: K modes in D dimensions.
      num: number of draws N.

    Returns:
      Points, float32 [N, D], and the mode of each, int32 [N].

    Raises:
      ValueError: if num is not positive or the mixture's arrays have other shapes.
    """
    num = checks.positive_integer("num", num)
    shape = jnp.shape(mixture.centers)
    if len(shape) != 2 or 0 in shape or jnp.shape(mixture.std) != ():
        raise ValueError(
            "mixture must have centers [K, D] and a single std, got the shapes "
            f"{list(shape)} and {list(jnp.shape(mixture.std))}"
        )
    centers = jnp.asarray(mixture.centers, jnp.float32)

    def draw(key: Key) -> tuple[Array, Array]:
        mode = jax.random.randint(rng.stream(key, "mode"), (), 0, shape[0], jnp.int32)
        noise = jax.random.normal(rng.stream(key, "noise"), shape[1:], jnp.float32)
        return centers[mode] + mixture.std * noise, mode

    return jax.vmap(draw)(rng.per_example(key, num))


_sample_mixture = functools.partial(jax.jit, static_argnums=2)(sample_mixture)


def mixture_dataset(key: Key, mixture: Mixture, num: int = 100_000) -> Dataset:
    """Draws a data set from a mixture.

    PacGAN trains on 100,000 draws. Train on the data set with
    `batches(dataset.images, batch_size=..., prepare=unchanged)`.

    Args:
      key: a single key.
      mixture: K modes in D dimensions.
      num: number of draws N.

    Returns:
      A data set whose images are the points, float32 [N, D], and whose labels are their modes.

    Raises:
      ValueError: if num is not positive or the mixture's arrays have other shapes.
    """
    points, modes = map(np.asarray, _sample_mixture(key, mixture, num))
    return Dataset(points, modes, fingerprint(points, modes))
