"""Figures for any model with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genmod.data import Dataset
from genmod.report.grids import column_title, comparison, image_grid
from genmod.report.latents import class_names, latent_plane, manifold_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHUNK = 500
"""Number of images that are encoded at a time."""
_MOST_CODES = 10_000
"""Maximum number of codes in the latent plane."""
_SIDE = 10
"""Number of images in a row of a path through the latents, and largest number of rows."""


def autoencoder_figures(
    train: Dataset,
    test: Dataset,
    *,
    encode: Callable[..., Any],
    decode: Callable[..., Any],
    samples: Any | None = None,
    manifold: bool = True,
    conditional: bool = False,
    columns: Sequence[str] = (),
) -> dict[str, Figure]:
    """Draws data, samples, reconstructions, the latent plane and paths through the latents.

    The manifold is the decoded latent plane, drawn only if the codes are two-dimensional. That of a
    conditional model is of one class, the least label. Longer codes are traversed instead: a row
    changes one latent of the first test image's code. The interpolations lead along a line from
    the code of one test image to that of the next; those of a conditional model stay in the class
    of the first.

    Args:
      train: data set for the grid of training data.
      test: data set for the reconstructions and the latent plane.
      encode: function from images in [0, 1], float32 [N, H, W, C], to codes [N, L].
      decode: function from codes [N, L] to images [N, H, W, C] in [0, 1].
      samples: draws from the model, as for `image_grid`; not drawn if None.
      manifold: whether to draw the manifold. Its points are quantiles of N(0, I), so use False if
        this is not the prior.
      conditional: whether `encode` and `decode` take the images' labels [N] as a second argument.
      columns: names of the classes of the samples, if they have a class in each column.

    Returns:
      Figures by name: `data`, `samples`, `reconstructions`, `latents` of two or more dimensions,
      `manifold`, `traversals`, `interpolations`.
    """
    shown = np.asarray(test.images[:_MOST_CODES])
    labels = np.asarray(test.labels[:_MOST_CODES])

    def given(labels: np.ndarray) -> tuple[np.ndarray, ...]:
        return (labels,) if conditional else ()

    parts = [slice(first, first + _CHUNK) for first in range(0, len(shown), _CHUNK)]
    codes = np.concatenate(
        [encode(shown[part].astype(np.float32) / 255, *given(labels[part])) for part in parts]
    )
    dimensions = codes.shape[1]
    whose = "the" if len(shown) == len(test.images) else f"the first {len(shown):,}"
    figures = {
        "data": image_grid(train.images[:100], title="training data"),
        "reconstructions": comparison(
            shown[:50],
            decode(codes[:50], *given(labels[:50])),
            title="test images, each above its reconstruction",
        ),
    }
    if dimensions > 1:
        figures["latents"] = latent_plane(
            codes,
            labels,
            title=f"codes of {whose} test images ({dimensions} dimensions), by class",
            classes=test.classes,
        )
    if samples is not None:
        title = column_title("decoded draws from the prior", columns)
        figures["samples"] = image_grid(samples, title=title)
    if manifold and dimensions == 2:
        points, least = manifold_points(20), labels.min()
        (name,) = class_names([least], test.classes)
        figures["manifold"] = image_grid(
            decode(points, *given(np.full(len(points), least))),
            title=f"the latent plane{f' of class {name}' * conditional}, decoded at normal "
            "quantiles",
        )
    else:
        latents, paths = _traversals(codes)
        figures["traversals"] = image_grid(
            decode(paths, *given(np.full(len(paths), labels[0]))),
            columns=_SIDE,
            title="one latent changed in each row, from the 1st to the 99th percentile of its "
            f"codes; latents, from the top: {', '.join(str(one + 1) for one in latents)}",
        )
    if len(codes) > 1:
        num = min(len(codes) // 2, _SIDE)
        first, last = codes[: 2 * num : 2, None], codes[1 : 2 * num : 2, None]
        weights = np.linspace(0, 1, _SIDE, dtype=codes.dtype)[:, None]
        lines = (1 - weights) * first + weights * last
        figures["interpolations"] = image_grid(
            decode(lines.reshape(-1, dimensions), *given(np.repeat(labels[: 2 * num : 2], _SIDE))),
            columns=_SIDE,
            title="lines from the code of one test image to that of the next",
        )
    return figures


def _traversals(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the latents of the most spread codes, and codes along them.

    Returns:
      Indices of latents [K], the most spread first, and codes [K * _SIDE, L].
    """
    latents = np.argsort(-codes.std(0), kind="stable")[:_SIDE]
    low, high = np.quantile(codes[:, latents], [0.01, 0.99], axis=0)
    paths = np.tile(codes[0], (len(latents), _SIDE, 1))
    for path, latent, start, end in zip(paths, latents, low, high, strict=True):
        path[:, latent] = np.linspace(start, end, _SIDE)
    return latents, paths.reshape(-1, codes.shape[1])
