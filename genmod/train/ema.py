"""Exponential moving averages (EMA) of parameters."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import optax

from genmod import checks
from genmod.types import Array, Params


class Ema(NamedTuple):
    """Exponential moving average of a player's parameters.

    Attributes:
      half_life: half-life, in examples that the player's updates have seen (Karras et al. 2018).
      ramp_up: upper bound of the half-life, as a share of the examples seen so far, so that the
        average soon forgets the first parameters (Karras et al. 2020).
    """

    half_life: float
    ramp_up: float = 0.05


def check(half_life: float | None, ramp_up: float) -> Ema | None:
    """Returns an average of this half-life; None for none.

    Raises:
      ValueError: if a value is not positive.
    """
    if half_life is None:
        return None
    checks.positive("ema_half_life", half_life)
    checks.positive("ema_ramp_up", ramp_up)
    return Ema(half_life, ramp_up)


def by_field(
    half_life: float | Mapping[str, float] | None, ramp_up: float, fields: list[str]
) -> dict[str, Ema]:
    """Returns the average of each field that has one.

    Args:
      half_life: half-life of the fields by name, or one for all.
      ramp_up: see `Ema`.
      fields: fields that players move.

    Raises:
      ValueError: if a value is not positive, or no player moves a field that is named.
    """
    if half_life is None:
        return {}
    lives = half_life if isinstance(half_life, Mapping) else dict.fromkeys(fields, half_life)
    for name in lives:
        checks.known("field of a player in ema_half_life", name, fields)
    found = {name: check(life, ramp_up) for name, life in lives.items()}
    return {name: average for name, average in found.items() if average is not None}


def updated(average: Ema, old: Params, new: Params, examples: int, step: Array) -> Params:
    """Returns the average after an update.

    Args:
      average: half-life of the average.
      old: the average so far.
      new: the parameters after the update.
      examples: number of examples that the update has seen.
      step: number of steps taken before.

    References:
      Karras et al., Progressive Growing of GANs, 2018 (arXiv:1710.10196).
      Karras et al., Analyzing and Improving the Image Quality of StyleGAN, 2020 (arXiv:1912.04958).
    """
    half_life = jnp.minimum(average.half_life, average.ramp_up * examples * step)
    # The old average has the weight 0 at the first step, where the half-life is 0.
    kept = jnp.exp2(-examples / half_life)
    return optax.incremental_update(new, old, 1 - kept)
