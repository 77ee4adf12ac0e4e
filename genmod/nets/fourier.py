"""Fourier features of low-dimensional points."""

from collections.abc import Sequence

import jax.numpy as jnp

from genmod import checks
from genmod.nets.wrapping import wrapped
from genmod.types import Array, Net


def fourier_features(net: Net, frequencies: Sequence[float]) -> Net:
    """Makes a network of Fourier features.

    The features of points x [B, D] for F frequencies f are [B, D (1 + 2 F)]:

        x, sin(2 pi f x), cos(2 pi f x)

    With them a network can fit fine detail. The paper draws the frequencies at random; here they
    are given.

    Args:
      net: network of the features.
      frequencies: numbers of periods per unit of x, such as (0.25, 0.5, 1, 2).

    Returns:
      A Net with the parameters of `net`, which takes a condition if `net` does.

    Raises:
      ValueError: if there is no frequency, or one is not positive; when called, if the points are
        not [B, D].

    References:
      Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
      Domains, 2020 (arXiv:2006.10739).
    """
    frequencies = tuple(frequencies)
    if not frequencies:
        raise ValueError("frequencies must hold at least one number, got none")
    for frequency in frequencies:
        checks.positive("frequencies", frequency)

    def features(x: Array) -> Array:
        if x.ndim != 2:
            raise ValueError(f"points must be [B, D], got shape {x.shape}")
        angles = [2 * jnp.pi * frequency * x for frequency in frequencies]
        waves = [wave(angle) for angle in angles for wave in (jnp.sin, jnp.cos)]
        return jnp.concatenate([x, *waves], axis=-1)

    return wrapped(net, before=features)
