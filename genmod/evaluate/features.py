"""Feature functions, in whose values sets of images are compared.

A feature function has a name and the hash of its weights, with which a distance says what it was
measured with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.data import Dataset
from genmod.evaluate import _chunks, _weights, inception, judges

_CHUNK = 500


class Features(NamedTuple):
    """Feature function with its name and hash.

    Attributes:
      name: name of the function.
      fingerprint: SHA-256 of its weights; empty if it has none.
      of: `images [N, H, W, C] -> features float32 [N, D]`, for images that are floating in [0, 1]
        or uint8. Matrix products have the highest precision.
    """

    name: str
    fingerprint: str
    of: Callable[[Any], np.ndarray]


def packaged(name: str) -> Features:
    """Returns the features of a judge that comes with genmod.

    They are the 128 values before its last layer. Of images with several channels, such as
    Stacked-MNIST, they are those of each channel, side by side.

    Args:
      name: name of a judge, one of `judges.names()`, such as "mnist".

    Raises:
      ValueError: if no judge has this name.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import features
      >>> extractor = features.packaged("mnist")
      >>> extractor.name, extractor.of(np.zeros((5, 28, 28, 1), np.uint8)).shape
      ('mnist', (5, 128))
    """
    judge = judges.classifier(name)

    def by_channel(images: np.ndarray) -> np.ndarray:
        channels = range(images.shape[3])
        return np.hstack([judge.features(images[..., one : one + 1]) for one in channels])

    def of(images: Any) -> np.ndarray:
        _chunks.check_images(images, *judges.SHAPE[:2], "C")
        return _chunks.in_chunks(by_channel, images, size=_CHUNK)

    return Features(name, judge.fingerprint, of)


def pixels() -> Features:
    """Returns the pixels themselves as features.

    They are in [0, 1], and [H * W * C] for each image.
    """

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)

    return given("pixels", flat)


def of_inception(path: str | Path) -> Features:
    """Returns the pool features of the Inception network, on which FID and KID are defined.

    Args:
      path: npz or safetensors file with its weights, as for `inception.load`.

    Raises:
      ValueError: if the file holds other weights.
      DataError: if the file is missing or damaged.
    """
    params = inception.load(path)

    def of(images: Any) -> np.ndarray:
        return inception.outputs(params, images).pool

    return Features("inception-2015-12-05", _weights.fingerprint(params), of)


def given(
    name: str, function: Callable[[Any], Any], *, weights: Any = None, chunk: int = _CHUNK
) -> Features:
    """Returns a function of your own as a feature function.

    Args:
      name: name of the function, for the protocols of scores.
      function: `images float32 [chunk, H, W, C] in [0, 1] -> features [chunk, D]`, in which no
        image depends on another. It is compiled if it is given as `jax.jit(function)`.
      weights: tree of arrays on which the function depends, for its fingerprint; None for none.
      chunk: number of images in a call; the last ones are padded with zeros.

    Raises:
      ValueError: if name is empty or chunk not positive; on use, if the function does not return
        finite features [chunk, D].

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import features
      >>> brightness = features.given("brightness", lambda x: x.mean((1, 2)))
      >>> brightness.of(np.full((2, 4, 4, 1), 255, np.uint8)).tolist()
      [[1.0], [1.0]]
    """
    if not name:
        raise ValueError(f"name must be a text that names the features, got {name!r}")
    checks.positive_integer("chunk", chunk)

    def checked(images: np.ndarray) -> np.ndarray:
        found = np.asarray(function(images))
        if found.ndim != 2 or len(found) != len(images) or not found.shape[1]:
            raise ValueError(
                f"function must return features [{len(images)}, D], got {checks.described(found)}"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"function must return finite features, got NaN or infinity: {name}")
        return found.astype(np.float32)

    def of(images: Any) -> np.ndarray:
        _chunks.check_images(images, "H", "W", "C")
        return _chunks.in_chunks(checked, images, size=min(chunk, len(images)))

    return Features(name, "" if weights is None else _weights.fingerprint(weights), of)


def named(name: str | None, dataset: Dataset) -> Features:
    """Returns the features of a name, or those that suit a data set.

    Args:
      name: "pixels"; the name of a judge, such as "mnist"; or an npz or safetensors file
        with the weights of the Inception network, as for `of_inception`. None chooses the
        packaged judge that reads the data set (`judges.that_reads`), and pixels if none does.
      dataset: the data set. Points [N, D] are their own features.

    Raises:
      ValueError: if the name is unknown, or points are given features of images.
      DataError: if the file is missing or damaged.
    """
    if dataset.images.ndim == 2:
        if name is not None:
            raise ValueError(f"features of images must not be given for points, got {name!r}")
        return Features("points", "", lambda points: np.asarray(points, np.float32))
    if name is None:
        judge = judges.that_reads(dataset)
        return pixels() if judge is None else packaged(judge.name)
    if Path(name).suffix in _weights.SUFFIXES:
        return of_inception(name)
    checks.known("features", name, ["pixels", *judges.names()])
    return pixels() if name == "pixels" else packaged(name)
