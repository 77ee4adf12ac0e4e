"""Figures for any model with an encoder and a decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from genmod.data import Dataset
from genmod.report.grids import comparison, image_grid
from genmod.report.latents import latent_plane, manifold_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_CODES = 10_000
"""Maximum number of codes in the latent plane."""


def autoencoder_figures(
    train: Dataset,
    test: Dataset,
    *,
    encode: Callable[[np.ndarray], Any],
    decode: Callable[[Any], Any],
    samples: Any | None = None,
    manifold: bool = True,
) -> dict[str, Figure]:
    """Draws data, samples, reconstructions, the latent plane and the manifold.

    The manifold is the decoded latent plane, drawn only if the codes are two-dimensional.

    Args:
      train: data set for the grid of training data.
      test: data set for the reconstructions and the latent plane.
      encode: function from images in [0, 1], float32 [N, H, W, C], to codes [N, L].
      decode: function from codes [N, L] to images [N, H, W, C] in [0, 1].
      samples: draws from the model, [N, H, W, C] in [0, 1]; not drawn if None.
      manifold: whether to draw the manifold. Its points are quantiles of N(0, I), so use False if
        this is not the prior.

    Returns:
      Figures by name: `data`, `samples`, `reconstructions`, `latents`, `manifold`.
    """
    shown = np.asarray(test.images[:_MOST_CODES])
    codes = np.asarray(encode(shown.astype(np.float32) / 255))
    dimensions = codes.shape[1]
    figures = {
        "data": image_grid(train.images[:100], title="training data"),
        "reconstructions": comparison(
            shown[:50],
            decode(codes[:50]),
            title="test images, each above its reconstruction",
        ),
        "latents": latent_plane(
            codes,
            test.labels[:_MOST_CODES],
            title=f"codes of the test set ({dimensions} dimensions), by class",
            classes=test.classes,
        ),
    }
    if samples is not None:
        figures["samples"] = image_grid(samples, title="decoded draws from the prior")
    if manifold and dimensions == 2:
        figures["manifold"] = image_grid(
            decode(manifold_points(20)), title="the latent plane, decoded at normal quantiles"
        )
    return figures
