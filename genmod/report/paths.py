"""Figures of a latent space whose prior is N(0, I), for a model without an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from genmod.report.grids import image_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 10
"""Number of images in a row."""
_LIMITS = (2.0, 1.0, 0.5, 0.1)
"""Limits of the truncated latents, from the second row on."""


def prior_figures(
    z: np.ndarray, decode: Callable[..., Any], *, labels: np.ndarray | None = None
) -> dict[str, Figure]:
    """Draws interpolations between latents, and images of truncated latents.

    The interpolations lead over a sphere from one latent to another (White 2016): their norms are
    as likely as those of draws. The truncation of Brock et al. (2019) draws the components of a
    latent from N(0, I) within limits; here the row of a limit holds the same quantiles as the first
    row, so that a column shows what becomes of an image.

    Args:
      z: draws from N(0, I), [N, L] with N at least 4 and even; two for each interpolation.
      decode: function from latents [K, L] to images [K, H, W, C] in [0, 1].
      labels: distinct labels, [C], if `decode` takes the images' labels [K] as a second argument. A
        path has one label, and so has a column of truncated latents.

    Returns:
      Figures by name: `interpolations` and `truncation`.

    Raises:
      ValueError: if z has another shape.
    """
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or len(z) < 4 or len(z) % 2:
        raise ValueError(f"z must be [N, L] with N even and at least 4, got {list(z.shape)}")

    def drawn(latents: np.ndarray, of: np.ndarray) -> Any:
        given = () if labels is None else (np.asarray(labels)[of % len(labels)],)
        return decode(latents.astype(np.float32), *given)

    from scipy import special  # slow to import, and every run imports this file

    num = min(len(z) // 2, _SIDE)
    paths = _turned(z[: 2 * num : 2], z[1 : 2 * num : 2], np.linspace(0, 1, _SIDE))
    columns = z[:_SIDE]
    quantiles = special.ndtr(columns)
    truncated = [columns]
    for limit in _LIMITS:
        low, high = special.ndtr(-limit), special.ndtr(limit)
        truncated.append(special.ndtri(low + (high - low) * quantiles))
    of_columns = np.tile(np.arange(len(columns)), len(truncated))
    return {
        "interpolations": image_grid(
            drawn(paths.reshape(-1, z.shape[1]), np.repeat(np.arange(num), _SIDE)),
            columns=_SIDE,
            title="from one draw to another over the sphere between them",
        ),
        "truncation": image_grid(
            drawn(np.concatenate(truncated), of_columns),
            columns=len(columns),
            title="draws, and below them the same within limits of their latents: "
            f"{', '.join(f'{limit:g}' for limit in _LIMITS)}",
        ),
    }


def _turned(a: np.ndarray, b: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns paths [N, T, L] from a [N, L] to b by spherical linear interpolation.

    The direction turns at constant speed, and the norm changes linearly.
    """
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b)]
    u, w = a / norms[0], b / norms[1]
    angle = np.arccos(np.clip((u * w).sum(1), -1, 1))[:, None, None]
    across = w - (u * w).sum(1, keepdims=True) * u
    v = across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-12)
    t = steps[None, :, None]
    length = (1 - t) * norms[0][:, None] + t * norms[1][:, None]
    return length * (np.cos(t * angle) * u[:, None] + np.sin(t * angle) * v[:, None])
