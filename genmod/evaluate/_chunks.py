"""Functions of images, applied chunk by chunk."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from genmod import checks

_CHECKED = 1000
"""Number of images whose range is checked at a time."""


def check_images(images: Any, *shape: int | str) -> None:
    """Refuses anything but images of a shape, uint8 or floating in [0, 1].

    Args:
      images: array or `StreamedImages`.
      *shape: shape (H, W, C) of one image; a text such as "H" accepts any size.

    Raises:
      ValueError: if there is no image, or shape, type or range are others.
    """
    given = tuple(getattr(images, "shape", ()))
    fits = len(given) == 1 + len(shape) and all(
        isinstance(size, str) or size == own for size, own in zip(shape, given[1:], strict=True)
    )
    if not fits or 0 in given:
        form = ", ".join(map(str, ("N", *shape)))
        raise ValueError(f"images must be [{form}], got {checks.described(images)}")
    if images.dtype == np.uint8:
        return
    if not jax.numpy.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be uint8, or floating in [0, 1], got {images.dtype}")
    for start in range(0, len(images), _CHECKED):
        some = images[start : start + _CHECKED]
        checks.values_within("images", some, (0, 1), "the feature function")


def in_chunks(
    function: Callable[[np.ndarray], Any], images: Any, *, size: int, progress: bool = True
) -> Any:
    """Returns a function's values for many images.

    All chunks have one shape, so that a compiled function is compiled once. Matrix products have
    the highest precision.

    Args:
      function: `images float32 [size, H, W, C] in [0, 1] -> tree of arrays [size, ...]`, in which
        no example depends on another.
      images: images [N, H, W, C], uint8 or floating in [0, 1].
      size: number of images in a chunk.
      progress: whether to show a progress bar, if that is a terminal.

    Returns:
      Tree of NumPy arrays [N, ...].
    """
    from genmod._host.bars import tqdm

    num, parts = len(images), []
    hidden = None if progress and num > size else True
    with jax.default_matmul_precision("highest"):
        for start in tqdm(range(0, num, size), unit="chunk", leave=False, disable=hidden):
            some = np.asarray(images[start : start + size])
            x = some.astype(np.float32) / np.float32(255 if some.dtype == np.uint8 else 1)
            missing = [(0, size - len(x)), *[(0, 0)] * (x.ndim - 1)]
            parts.append(jax.tree.map(np.asarray, function(np.pad(x, missing))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num], *parts)
