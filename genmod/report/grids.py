"""Grids of images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
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
_LETTERS_PER_INCH = 12
"""Number of letters of a title in an inch, at its font size."""
_MOST_CLASSES = 30
"""Largest number of classes that have columns of their own."""


def image_grid(images: Any, *, columns: int | None = None, title: str | None = None) -> Figure:
    """Draws images side by side, row by row.

    Args:
      images: images [N, H, W, 1] or [N, H, W, 3], or in rows, [rows, columns, H, W, C]; uint8, or
        floating in [0, 1].
      columns: images in a row; for images that are not in rows, as many as rows if None.
      title: text above the images.

    Raises:
      ValueError: if images have another shape or type.
    """
    images, own = _in_line(images)
    columns = own if columns is None else checks.positive_integer("columns", columns)
    return _draw(_tile(images, columns), columns, title)


def class_columns(labels: Any, num: int) -> np.ndarray | None:
    """Returns the labels of a grid with a class in each column.

    The columns of a few classes are repeated, so that the grid has about as many columns as rows.

    Args:
      labels: distinct labels, [K].
      num: number of images that the grid may have; it has one row at least.

    Returns:
      Labels [rows, columns], in turn in each row; None for a single class, or more than 30.
    """
    labels = np.asarray(labels)
    if not 1 < len(labels) <= _MOST_CLASSES:
        return None
    row = np.tile(labels, max(1, round(math.sqrt(num) / len(labels))))
    return np.tile(row, (max(1, num // len(row)), 1))


def column_title(title: str, names: Sequence[str]) -> str:
    """Returns a title that names the classes that columns show in turn.

    Without names it is the title itself.
    """
    return f"{title}, a class in each column, in turn: {', '.join(names)}" if names else title


def save_grid(images: Any, path: str | Path) -> None:
    """Writes images side by side as a PNG file.

    A pixel of an image is a pixel of the file, which is small and quickly written.

    Args:
      images: images [N, H, W, 1] or [N, H, W, 3], or in rows, [rows, columns, H, W, C]; uint8, or
        floating in [0, 1].
      path: path of the file.

    Raises:
      ValueError: if images have another shape or type.
    """
    picture(images).save(path)


def picture(images: Any) -> Image:
    """Returns images side by side as one Pillow image.

    There are as many images in a row as rows, if they are not in rows already. A pixel of an image
    is a pixel of the result.
    """
    from PIL import Image

    tiled = _tile(*_in_line(images))
    values = np.round(tiled * 255).astype(np.uint8)
    return Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values)


def generator_figures(
    real: Any, samples: Any | None, *, columns: Sequence[str] = ()
) -> dict[str, Figure]:
    """Draws a hundred training images, and generated images.

    Args:
      real: training images [N, H, W, C], uint8 or floating in [0, 1].
      samples: generated images, as for `image_grid`; not drawn if None.
      columns: names of the classes of the samples, if they have a class in each column.

    Returns:
      Figures by name: `data` and `samples`.
    """
    figures = {"data": image_grid(real[:100], title="training data")}
    if samples is not None:
        figures["samples"] = image_grid(samples, title=column_title("generated", columns))
    return figures


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


def _in_line(images: Any) -> tuple[np.ndarray, int]:
    """Returns images [N, H, W, C] as floats, and how many are in a row."""
    images = np.asarray(images)
    columns = images.shape[1] if images.ndim == 5 else 0
    images = _as_floats(images.reshape(-1, *images.shape[2:]) if columns else images)
    return images, columns or math.ceil(math.sqrt(len(images)))


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
    most = int(inches * _LETTERS_PER_INCH)
    lines = [line for one in (title or "").splitlines() for line in textwrap.wrap(one, most)]
    header = 0.2 * (1 + len(lines)) if lines else 0.0
    body = inches * height / width
    figure = canvas.figure(inches, body + header)
    axes = figure.add_axes((0, 0, 1, body / (body + header)))
    axes.set_axis_off()
    axes.imshow(
        picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1
    )
    if lines:
        text, top = "\n".join(lines), 1 - 0.1 / (body + header)
        figure.suptitle(text, x=0.02, y=top, ha="left", va="top", fontsize=11)
    return figure
