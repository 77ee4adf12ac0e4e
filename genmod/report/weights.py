"""Constants of a program, encoded for the page.

Numbers have 16 bits if the difference cannot be seen, else 32 bits.
"""

import base64
from typing import Any

import numpy as np

LEVELS: tuple[int | None, ...] = (64, 4096, None)
"""Levels of compression, tried in this order.

At a level, constants of more numbers than the level have 16 bits. At the level None, which is left
if even the longest constants need 32 bits, no constant has 16 bits. Constants that are derived from
variances have a wide range, but they are short: their 32 bits cost little.
"""
MOST_WHOLE = 2**24
"""Limit up to which float32 holds whole numbers exactly."""


def written(value: Any, level: int | None) -> np.ndarray:
    """Returns a constant as the browser will read it.

    The result is float32 and has the shape of the constant.
    """
    values = np.asarray(value)
    if not _is_short(values, level):
        return values.astype(np.float32)
    whole, scale = _whole(values)
    return (whole.astype(np.float64) * scale).astype(np.float32)


def as_text(value: Any, level: int | None) -> dict[str, Any]:
    """Encodes a constant as JSON, for `assets/interpreter.js`."""
    values = np.asarray(value)
    if not _is_short(values, level):
        return {"f32": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    whole, scale = _whole(values)
    return {"i16": base64.b64encode(whole.astype("<i2").tobytes()).decode(), "scale": scale}


def _is_short(values: np.ndarray, level: int | None) -> bool:
    """Returns whether a constant is written with 16 bits.

    Constants with infinity or NaN are not: 16 bits cannot hold them.
    """
    if level is None or values.size <= level or values.dtype != np.float32:
        return False
    return bool(np.isfinite(values).all())


def _whole(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns 16-bit whole numbers and their common factor.

    The values are the whole numbers times the factor, except for rounding.
    """
    largest = max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
    scale = float(np.float32(largest / 32767))
    return np.clip(np.round(values.astype(np.float64) / scale), -32767, 32767), scale
