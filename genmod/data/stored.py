"""Data sets that are read from where they are stored.

They are folders of pictures, prepared data sets of tensorflow-datasets, and mapped NPY files.
"""

import functools
import os
from collections.abc import Sequence

import numpy as np

from genmod._host.examples import Prepared
from genmod.data import folders
from genmod.data.cache import (
    DARK,
    Facts,
    cached,
    file_state,
    fingerprint,
    is_dark,
    recalled,
    scan,
)
from genmod.data.dataset import Dataset
from genmod.data.stores import (
    DecodedStore,
    MappedStore,
    StreamedImages,
    device_budget,
    in_turn,
)


def pictures(folder: folders.Folder, part: str, skip_corrupt: bool) -> Dataset:
    """Makes a data set of a folder's part."""
    indices = folder.parts[part]
    size = folder.pictures.size
    find = functools.partial(
        scan,
        folder.pictures.some(indices),
        keep=lambda num_bytes: num_bytes <= device_budget(),
        skip_corrupt=skip_corrupt,
        in_colour=lambda: folder.in_colour(part),
        hint="; give the size to which to resize and crop them: image_size",
    )

    def store(known: Facts) -> DecodedStore:
        return DecodedStore(folder.pictures, known.shape)

    root, background = folder.state[0], folder.pictures.background
    identity = ["folder", part, folder.state, size, skip_corrupt, background]
    images, known = recalled(root, identity, find, store)
    if isinstance(images, StreamedImages) and isinstance(images.store, DecodedStore):
        images = StreamedImages(images.store, images.indices + indices.start)
    files = tuple(folder.pictures.files[indices[place]] for place in known.indices.tolist())
    return Dataset(images, known.labels, known.fingerprint, folder.classes, files=files)


def prepared(examples: Prepared) -> Dataset:
    """Makes a data set of a prepared tensorflow-datasets split.

    If it has factors, the labels are those of the factor with the fewest values.
    """
    images, labels, seen = _read(examples)
    if examples.factors:
        sizes = [size for _, size in examples.factors]
        labels = np.ascontiguousarray(_unravelled(labels, sizes)[:, sizes.index(min(sizes))])
    return Dataset(images, labels, seen, examples.classes)


def factors_of(examples: Prepared) -> np.ndarray:
    """Returns the factors of a prepared split's examples, int32 [N, F].

    Raises:
      ValueError: if there are none.
    """
    if not examples.factors:
        raise ValueError(
            f"data set with factors expected, got that in {examples.folder}, whose examples have a "
            "single label"
        )
    return _unravelled(_read(examples)[1], [size for _, size in examples.factors])


def _unravelled(labels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    return np.stack(np.unravel_index(labels, sizes), axis=1).astype(np.int32)


def _read(examples: Prepared) -> tuple[np.ndarray | StreamedImages, np.ndarray, str]:
    """Returns images, labels and fingerprint."""
    find = functools.partial(scan, examples, keep=lambda num_bytes: num_bytes <= device_budget())
    return cached(
        examples.folder,
        ["tfds", os.path.realpath(examples.folder), examples.split, examples.state],
        find,
        lambda known: DecodedStore(examples, known.shape),
    )


def mapped_file(mapped: MappedStore) -> Dataset:
    """Makes a data set of a large, mapped NPY file."""
    images = StreamedImages(mapped, np.arange(mapped.num))

    def find() -> Facts:
        labels = np.zeros(mapped.num, np.int32)
        seen = fingerprint(images, labels)
        remarks = (DARK,) if is_dark(in_turn(images)) else ()
        return Facts(None, mapped.shape, labels, images.indices, seen, remarks)

    identity = ["npy", str(mapped.path.resolve()), *file_state(mapped.path.stat())]
    return Dataset(*cached(str(mapped.path), identity, find, lambda known: mapped))
