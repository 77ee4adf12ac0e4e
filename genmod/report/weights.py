"""Constants of a program as a page holds them: in 16 bits where that cannot be seen, else in 32."""

import base64
from typing import Any

import numpy as np

LEVELS: tuple[int | None, ...] = (64, 4096, None)
"""What is longer than so many numbers is written in 16 bits, to be tried in this order.

Where even the longest cannot be, None, nothing is. What is derived of variances ranges far, but is
short: it keeps its bits at little cost.
"""
MOST_WHOLE = 2**24
"""Whole numbers up to this one are exact in 32 bits."""


def written(value: Any, level: int | None) -> np.ndarray:
    """What is left of a constant once it has been written and read again: float32, of its shape."""
    values = np.asarray(value)
    if not _is_short(values, level):
        return values.astype(np.float32)
    whole, scale = _whole(values)
    return (whole.astype(np.float64) * scale).astype(np.float32)


def as_text(value: Any, level: int | None) -> dict[str, Any]:
    """A constant as JSON holds it, for `assets/interpreter.js`."""
    values = np.asarray(value)
    if not _is_short(values, level):
        return {"f32": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    whole, scale = _whole(values)
    return {"i16": base64.b64encode(whole.astype("<i2").tobytes()).decode(), "scale": scale}


def _is_short(values: np.ndarray, level: int | None) -> bool:
    """Whether a constant is one for 16 bits, which know neither infinity nor NaN."""
    if level is None or values.size <= level or values.dtype != np.float32:
        return False
    return bool(np.isfinite(values).all())


def _whole(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Whole numbers of at most 16 bits, and the number to multiply them by."""
    largest = max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
    scale = float(np.float32(largest / 32767))
    return np.clip(np.round(values.astype(np.float64) / scale), -32767, 32767), scale
