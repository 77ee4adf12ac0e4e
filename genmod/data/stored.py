"""Data sets that are read from where they are stored.

They are folders of pictures, prepared data sets of tensorflow-datasets, and mapped NPY files.
"""

import functools
import os

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
    """Makes a data set of a prepared tensorflow-datasets split."""
    find = functools.partial(scan, examples, keep=lambda num_bytes: num_bytes <= device_budget())
    found = cached(
        examples.folder,
        ["tfds", os.path.realpath(examples.folder), examples.split, examples.state],
        find,
        lambda known: DecodedStore(examples, known.shape),
    )
    return Dataset(*found, examples.classes)


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
