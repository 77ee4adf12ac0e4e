"""Generated points over the modes that they should reach."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = 5


def plane(samples: Any, centers: Any, *, real: Any = None, title: str | None = None) -> Figure:
    """Draws generated points over the true modes.

    The modes determine the limits of the axes; the title counts the points that lie outside.

    Args:
      samples: generated points, [N, 2].
      centers: mean of each mode, [K, 2], shown as rings.
      real: real points, [M, 2], shown pale below the others.
      title: text above the plane.

    Raises:
      ValueError: if a shape differs from these, or centers are not finite.
    """
    return planes([(title or "", samples)], centers, real=real)


def planes(panels: Sequence[tuple[str, Any]], centers: Any, *, real: Any = None) -> Figure:
    """Draws planes side by side.

    They may show several steps of training, for instance.

    Args:
      panels: title and generated points [N, 2] of each plane; five planes are in a row.
      centers: mean of each mode, [K, 2].
      real: real points, [M, 2], shown pale below the others in each plane.

    Raises:
      ValueError: if there are no panels, a shape differs from these, or centers are not finite.
    """
    centers = _points("centers", centers)
    if not np.isfinite(centers).all():
        raise ValueError("centers must be finite, got NaN or infinity")
    if not panels:
        raise ValueError("panels must hold at least one pair of a title and samples, got none")
    clouds = [(title, _points("samples", samples)) for title, samples in panels]
    real = None if real is None else _points("real", real)

    limits = _limits(centers)
    columns = min(len(clouds), _PANELS_PER_ROW)
    rows = math.ceil(len(clouds) / columns)
    side = 5.2 if len(clouds) == 1 else 3.2
    headings = [_heading(title, samples, limits, side) for title, samples in clouds]
    lines = max(heading.count("\n") + 1 for heading in headings)
    width, height = limits[:, 1] - limits[:, 0]
    figure = canvas.figure(
        side * columns, (side * height / width + 0.15 + 0.2 * lines) * rows, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, heading, (_, samples) in zip(axes, headings, clouds, strict=False):
        _draw(panel, samples, centers, real, limits)
        panel.set_title(heading, fontsize=10, loc="left")
    for panel in axes[len(clouds) :]:
        panel.set_axis_off()
    return figure


def _heading(title: str, samples: np.ndarray, limits: np.ndarray, inches: float) -> str:
    """Returns the title and the number of points outside.

    The text is broken into lines that are at most `inches` wide.
    """
    outside = int(np.sum(~_inside(samples, limits)))
    note = f"{outside:,} of {len(samples):,} outside" if outside else ""
    # An inch holds 12 characters at this font size.
    return textwrap.fill(", ".join(filter(None, [title, note])), width=int(12 * inches))


def _draw(
    panel: Axes,
    samples: np.ndarray,
    centers: np.ndarray,
    real: np.ndarray | None,
    limits: np.ndarray,
) -> None:
    if real is not None:
        panel.scatter(*real.T, s=9, color="0.8", linewidths=0, label="real")
    panel.scatter(
        *centers.T,
        s=110,
        facecolors="none",
        edgecolors="0.45",
        linewidths=0.8,
        zorder=2,
        label="modes",
    )
    panel.scatter(
        *samples[_inside(samples, limits)].T,
        s=5,
        color=canvas.colour(0),
        alpha=0.5,
        linewidths=0,
        label="generated",
    )
    panel.set_xlim(*limits[0])
    panel.set_ylim(*limits[1])
    panel.set_aspect("equal")
    panel.spines[:].set_color("0.8")
    panel.tick_params(labelsize=8, color="0.8")


def _limits(centers: np.ndarray) -> np.ndarray:
    """Returns limits [[left, right], [bottom, top]] around the modes.

    The margin keeps a plane from being much wider than high.
    """
    low, high = centers.min(axis=0), centers.max(axis=0)
    margin = 0.25 * max(float((high - low).max()), 1e-3)
    middle, half = (low + high) / 2, (high - low) / 2 + margin
    return np.stack([middle - half, middle + half], axis=1)


def _inside(points: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Returns whether each point lies within limits.

    A point with NaN does not.
    """
    return np.all((points >= limits[None, :, 0]) & (points <= limits[None, :, 1]), axis=1)


def _points(name: str, points: Any) -> np.ndarray:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(f"{name} must have the shape [N, 2], got {list(points.shape)}")
    return points
