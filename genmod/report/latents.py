"""Figures and axes of the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.report import canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def latent_plane(
    codes: Any, labels: Any, *, title: str | None = None, classes: Sequence[str] = ()
) -> Figure:
    """Draws codes in the plane, coloured by class.

    Two-dimensional codes are shown as they are, longer codes by their first two principal
    components.

    Args:
      codes: posterior means, [N, L] with L at least 2.
      labels: class of each code, integers [N].
      title: text above the plane.
      classes: names of the classes, by label; a label without a name is shown as its number.

    Raises:
      ValueError: if the shapes are others.
    """
    codes, labels = np.asarray(codes, np.float64), np.asarray(labels)
    if codes.ndim != 2 or codes.shape[1] < 2 or not len(codes) or labels.shape != codes.shape[:1]:
        raise ValueError(
            "codes must have the shape [N, L] with L >= 2, and labels [N]; "
            f"got {list(codes.shape)} and {list(labels.shape)}"
        )
    axes = latent_axes(codes)
    codes, names = (codes - axes.centre) @ axes.directions.T, axes.names

    figure = canvas.figure(6.4, 5.6, layout="constrained")
    panel = figure.subplots()
    found = np.unique(labels)
    dots = [
        panel.scatter(
            *codes[labels == label].T,
            s=4,
            color=canvas.colour(index),
            alpha=0.6,
            linewidths=0,
            label=str(label),
        )
        for index, label in enumerate(found)
    ]
    # The legend gets the names directly: matplotlib leaves out dots whose label begins with "_".
    legend = panel.legend(
        dots,
        class_names(found, classes),
        markerscale=4,
        fontsize=9,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    panel.set_xlabel(names[0])
    panel.set_ylabel(names[1])
    panel.set_aspect("equal", adjustable="datalim")
    panel.grid(alpha=0.3)
    if title:
        panel.set_title(title, fontsize=11, loc="left")
    return figure


def class_names(labels: Any, classes: Sequence[str]) -> list[str]:
    """Returns the names of labels [K].

    A label without a class name is named by its number.
    """
    return [
        str(classes[label]) if 0 <= label < len(classes) else str(label)
        for label in np.asarray(labels).tolist()
    ]


def manifold_points(side: int) -> np.ndarray:
    """Returns a grid that covers a 2-D latent space.

    Its decoded images show the whole manifold. The grid is even in probability under N(0, I): its
    coordinates are normal quantiles, as in figure 4 of Kingma & Welling (2014).

    Args:
      side: points along each edge.

    Returns:
      Points, float32 [side * side, 2], from the top left to the bottom right: the first coordinate
      grows to the right, the second upwards.
    """
    side = checks.positive_integer("side", side)
    quantiles = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    x, y = np.meshgrid(quantiles, quantiles[::-1])
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


class LatentAxes(NamedTuple):
    """Plane in which codes are shown.

    A code c is shown at

        directions @ (c - centre)

    Attributes:
      centre: code in the middle, [L].
      directions: orthonormal directions of both axes, [2, L].
      names: labels of the axes.
    """

    centre: np.ndarray
    directions: np.ndarray
    names: tuple[str, str]


def latent_axes(codes: np.ndarray) -> LatentAxes:
    """Returns the plane in which to show codes.

    Two-dimensional codes are shown as they are, longer codes by their first two principal
    components.

    Args:
      codes: codes, float64 [N, L] with L at least 2.
    """
    dimensions = codes.shape[1]
    if dimensions == 2:
        return LatentAxes(np.zeros(2), np.eye(2), ("$z_1$", "$z_2$"))
    centred = codes - codes.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a direction is arbitrary. A positive largest entry makes figures reproducible.
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    variance = np.zeros(codes.shape[1])  # a single code, or codes all alike, have no variance
    variance[: len(singular)] = singular**2
    axes = np.zeros((2, dimensions))
    axes[: len(directions)] = directions[:2]
    shares = variance[:2] / max(variance.sum(), np.finfo(np.float64).tiny)
    first, second = (
        f"component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)
    )
    return LatentAxes(codes.mean(axis=0), axes, (first, second))
