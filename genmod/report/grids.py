"""Grids of images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_INCHES_PER_IMAGE = 0.6


def image_grid(images: Any, *, columns: int | None = None, title: str | None = None) -> Figure:
    """Draws images side by side, row by row.

    Args:
      images: images [N, H, W, 1] or [N, H, W, 3]; uint8, or floating in [0, 1].
      columns: images in a row; as many as rows if None.
      title: text above the images.

    Raises:
      ValueError: if images have another shape or type.
    """
    images = _as_floats(images)
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    return _draw(_tile(images, checks.positive_integer("columns", columns)), columns, title)


def save_grid(images: Any, path: str | Path) -> None:
    """Writes images side by side as a PNG file.

    A pixel of an image is a pixel of the file, which is small and quickly written.

    Args:
      images: images [N, H, W, 1] or [N, H, W, 3]; uint8, or floating in [0, 1].
      path: path of the file.

    Raises:
      ValueError: if images have another shape or type.
    """
    picture(images).save(path)


def picture(images: Any) -> Image:
    """Returns images side by side as one Pillow image.

    There are as many images in a row as rows. A pixel of an image is a pixel of the result.
    """
    from PIL import Image

    images = _as_floats(images)
    tiled = _tile(images, math.ceil(math.sqrt(len(images))))
    values = np.round(tiled * 255).astype(np.uint8)
    return Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)


def generator_figures(real: Any, samples: Any) -> dict[str, Figure]:
    """Draws a hundred training images, and generated images.

    Args:
      real: training images [N, H, W, C], uint8 or floating in [0, 1].
      samples: generated images [M, H, W, C], uint8 or floating in [0, 1].

    Returns:
      Figures by name: `data` and `samples`.
    """
    return {
        "data": image_grid(real[:100], title="training data"),
        "samples": image_grid(samples, title="generated"),
    }


def comparison(
    originals: Any, others: Any, *, columns: int = 10, title: str | None = None
) -> Figure:
    """Draws each original above its counterpart.

    Rows of originals alternate with rows of counterparts.

    Args:
      originals: images [N, H, W, C], uint8 or floating in [0, 1].
      others: counterparts of the same shape, such as reconstructions.
      columns: images in a row.
      title: text above the images.

    Raises:
      ValueError: if the shapes differ.
    """
    columns = checks.positive_integer("columns", columns)
    originals, others = _as_floats(originals), _as_floats(others)
    if originals.shape != others.shape:
        raise ValueError(
            f"originals and others must have one shape, got {originals.shape} and {others.shape}"
        )
    rows = [
        image
        for first in range(0, len(originals), columns)
        for row in (originals[first : first + columns], others[first : first + columns])
        for image in _filled(row, columns)
    ]
    return _draw(_tile(np.stack(rows), columns), columns, title)


def _as_floats(images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"images must have the shape [N, H, W, 1] or [N, H, W, 3], got {list(images.shape)}"
        )
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be uint8, or floating in [0, 1], got {images.dtype}")
    scale = 255 if images.dtype == np.uint8 else 1
    return np.clip(images.astype(np.float32) / scale, 0, 1)


def _filled(images: np.ndarray, length: int) -> np.ndarray:
    """Appends white images, up to `length` images in all."""
    missing = length - len(images)
    return np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)], constant_values=1)


def _tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles images to one picture [rows * H, columns * W, C]."""
    rows = -(-len(images) // columns)
    _, height, width, channels = images.shape
    grid = _filled(images, rows * columns).reshape(rows, columns, height, width, channels)
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width, channels)


def _draw(picture: np.ndarray, columns: int, title: str | None) -> Figure:
    height, width = picture.shape[:2]
    inches = max(4.0, columns * _INCHES_PER_IMAGE)
    header = 0.4 if title else 0.0
    body = inches * height / width
    figure = canvas.figure(inches, body + header)
    axes = figure.add_axes((0, 0, 1, body / (body + header)))
    axes.set_axis_off()
    axes.imshow(
        picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1
    )
    if title:
        figure.suptitle(
            title, x=0.02, y=1 - 0.1 / (body + header), ha="left", va="top", fontsize=11
        )
    return figure
