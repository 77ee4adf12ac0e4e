"""Latent space, seen."""

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
    """Codes in the plane, coloured by class.

    Two-dimensional codes are shown as they are; of longer ones, the first two principal components.

    Args:
      codes: posterior means, [N, L] with L at least 2.
      labels: integers, [N].
      title: shown above.
      classes: names of the classes, by label; a label without a name is its own.

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
    # Not as labels of the dots: a name that begins with "_" would be left out of the legend.
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
    """What to call labels [K]: the names of their classes where they have names."""
    return [
        str(classes[label]) if 0 <= label < len(classes) else str(label)
        for label in np.asarray(labels).tolist()
    ]


def manifold_points(side: int) -> np.ndarray:
    """Points of a 2-D latent space for a picture of the whole manifold.

    The grid is even in probability under N(0, I): its coordinates are normal quantiles, as in
    figure 4 of Kingma & Welling (2014).

    Args:
      side: points along each edge.

    Returns:
      float32 [side * side, 2], from the top left to the bottom right: the first coordinate grows to
      the right, the second upwards.
    """
    side = checks.positive_integer("side", side)
    quantiles = [NormalDist().inv_cdf((i + 0.5) / side) for i in range(side)]
    x, y = np.meshgrid(quantiles, quantiles[::-1])
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


class LatentAxes(NamedTuple):
    """The plane in which codes are shown: a code c is at directions @ (c - centre).

    Attributes:
      centre: the code in the middle, [L].
      directions: of both axes, orthonormal, [2, L].
      names: what to call the axes.
    """

    centre: np.ndarray
    directions: np.ndarray
    names: tuple[str, str]


def latent_axes(codes: np.ndarray) -> LatentAxes:
    """Two-dimensional codes as they are; of longer ones, the first two principal components.

    Args:
      codes: float64 [N, L] with L at least 2.
    """
    dimensions = codes.shape[1]
    if dimensions == 2:
        return LatentAxes(np.zeros(2), np.eye(2), ("$z_1$", "$z_2$"))
    centred = codes - codes.mean(axis=0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a direction is arbitrary: make its largest entry positive, so pictures repeat.
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    variance = np.zeros(codes.shape[1])  # one code, or codes all alike, have none to share out
    variance[: len(singular)] = singular**2
    axes = np.zeros((2, dimensions))
    axes[: len(directions)] = directions[:2]
    shares = variance[:2] / max(variance.sum(), np.finfo(np.float64).tiny)
    first, second = (
        f"component {i + 1} ({share:.0%} of variance)" for i, share in enumerate(shares)
    )
    return LatentAxes(codes.mean(axis=0), axes, (first, second))
