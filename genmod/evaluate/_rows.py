"""Rows of features: their checks, and all pairs of rows tile by tile.

A tile is computed in float64 and thrown away, so that memory does not grow with the number of
pairs.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from genmod import checks

_TILE = 2048
"""Rows on each side of a tile."""


def matrix(name: str, features: Any, least: int) -> np.ndarray:
    """Returns features as float32 or float64 [N, D], or refuses them.

    Features of either type are not copied.

    Args:
      name: name of the features, for messages.
      features: any array of numbers [N, D].
      least: smallest number of rows N.

    Raises:
      ValueError: if they have another shape or type, are too few, or are not finite; the first row
        with a NaN or an infinity is named.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"{name} must have the shape [N, D], got {list(features.shape)}")
    if features.dtype not in (np.float32, np.float64):
        if not (jnp.issubdtype(features.dtype, jnp.floating) or features.dtype.kind in "biu"):
            raise ValueError(f"{name} must be real numbers, got {checks.described(features)}")
        features = features.astype(np.float64)
    if len(features) < least:
        raise ValueError(
            f"{name} must have at least {least} rows, got {list(features.shape)}, which is too few"
        )
    for rows in blocks(len(features)):
        finite = np.isfinite(features[rows]).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{name} must be finite, got NaN or infinity, first in row "
                f"{rows.start + int(finite.argmin())}"
            )
    return features


def pair(real: Any, fake: Any, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets of features of one width, checked as `matrix` does.

    Raises:
      ValueError: as for `matrix`, or if the widths differ.
    """
    return tuple(alike({"real": real, "fake": fake}, least).values())  # pyrefly: ignore


def alike(sets: dict[str, Any], least: int) -> dict[str, np.ndarray]:
    """Returns sets of features of one width, checked as `matrix` does.

    Args:
      sets: features by name.
      least: smallest number of rows of each.

    Raises:
      ValueError: as for `matrix`, or if the widths differ.
    """
    found = {name: matrix(name, features, least) for name, features in sets.items()}
    if len({features.shape[1] for features in found.values()}) > 1:
        got = " and ".join(f"{name} {list(x.shape)}" for name, x in found.items())
        raise ValueError(f"{' and '.join(found)} must have the same width D, got {got}")
    return found


def refuse_constant(sets: dict[str, np.ndarray], why: str) -> None:
    """Refuses sets whose rows are all the same.

    Args:
      sets: features by name.
      why: what does not exist for them, for the message.
    """
    for name, features in sets.items():
        if all((features[rows] == features[0]).all() for rows in blocks(len(features))):
            raise ValueError(
                f"{name} must have different rows, got {len(features)} that are all the same: {why}"
            )


def blocks(num: int) -> list[slice]:
    """Returns consecutive slices that cover `num` rows."""
    return [slice(first, min(first + _TILE, num)) for first in range(0, num, _TILE)]


class Tile(NamedTuple):
    """Pairs of some rows x with some rows y.

    Attributes:
      rows: place of the rows x.
      columns: place of the rows y.
      x: rows x, float64 [A, D].
      y: rows y, float64 [B, D].
    """

    rows: slice
    columns: slice
    x: np.ndarray
    y: np.ndarray


def tiles(
    x: np.ndarray,
    y: np.ndarray | None = None,
    *,
    center: Any = 0.0,
    what: str = "",
    progress: bool = True,
) -> Iterator[Tile]:
    """Yields all pairs of a row of x and a row of y.

    Without y they are the pairs of rows of x; of two tiles that mirror each other, only that above
    the diagonal is yielded.

    Args:
      x: rows [N, D].
      y: rows [M, D]; None for those of x.
      center: point to subtract from all rows.
      what: name of what is computed, for the progress bar.
      progress: whether a progress bar is shown on a terminal.
    """
    from genmod._host.bars import tqdm

    own = y is None
    others = x if own else y
    places = [
        (rows, columns)
        for rows in blocks(len(x))
        for columns in blocks(len(others))
        if not own or columns.start >= rows.start
    ]
    last, some, center = None, x, np.asarray(center, np.float64)
    bar = tqdm(places, desc=what, unit="tile", leave=False, disable=None if progress else True)
    for rows, columns in bar:
        if rows != last:
            last, some = rows, x[rows] - center
        same = own and rows == columns
        yield Tile(rows, columns, some, some if same else others[columns] - center)


class DistanceTile(NamedTuple):
    """Distances between some rows x and some rows y.

    Attributes:
      rows: place of the rows x.
      columns: place of the rows y.
      distances: Euclidean distances, float32 [A, B].
    """

    rows: slice
    columns: slice
    distances: np.ndarray


def distances(
    x: np.ndarray, y: np.ndarray | None = None, *, what: str = "", progress: bool = True
) -> Iterator[DistanceTile]:
    """Yields the Euclidean distances of all pairs, as `tiles` does.

    The square is computed in float64, as

        |x - y|^2 = |x|^2 + |y|^2 - 2 x.y

    of rows with the mean of x subtracted, which loses the fewest digits. The square and its root
    are rounded to float32, as scikit-learn (and so prdc) does for float32 features: two distances
    that differ by rounding only are then a tie. Equal rows have the distance 0 exactly, and without
    y the distance of a row to itself is infinite.
    """
    center = np.mean(x, axis=0, dtype=np.float64)
    of_x = _identities(x)
    of_y = of_x if y is None else _identities(y)
    number = {identity: i for i, identity in enumerate(dict.fromkeys([*of_x, *of_y]))}
    numbers = [np.array([number[identity] for identity in each]) for each in (of_x, of_y)]
    copies = len(number) < (len(of_x) if y is None else len(of_x) + len(of_y))
    for rows, columns, a, b in tiles(x, y, center=center, what=what, progress=progress):
        squared = (-2 * a) @ b.T
        squared += np.einsum("nd,nd->n", a, a)[:, None]
        squared += np.einsum("nd,nd->n", b, b)[None, :]
        found = np.maximum(squared, 0, out=squared).astype(np.float32)
        np.sqrt(found, out=found)
        if copies:
            found[numbers[0][rows, None] == numbers[1][None, columns]] = 0
        if y is None and rows == columns:
            np.fill_diagonal(found, np.inf)
        yield DistanceTile(rows, columns, found)


def _identities(x: np.ndarray) -> list[bytes]:
    """Returns a short hash of each row; equal rows have the same."""
    # Adding 0 makes -0 a 0, and float64 holds each float32: equal numbers then have equal bytes.
    return [hashlib.blake2b((row + np.float64(0)).tobytes(), digest_size=16).digest() for row in x]
