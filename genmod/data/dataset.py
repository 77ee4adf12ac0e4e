"""Data sets of labelled images, and subsets of them."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.data import files
from genmod.data.cache import Facts, cached, fingerprint
from genmod.data.splits import resolve
from genmod.data.stores import StreamedImages, device_budget
from genmod.errors import NoSuchSplit
from genmod.types import Batch


class Dataset(NamedTuple):
    """Images with their labels.

    Attributes:
      images: uint8 [N, H, W, C], or `StreamedImages`, which are indexed in the same way, if they do
        not fit onto the device; for a mixture, points float32 [N, D].
      labels: int32 [N]; for a mixture, the mode of each point.
      fingerprint: SHA-256 of shapes, types and values; it does not depend on the file format.
      classes: names of the labels 0, 1, ...; empty if they have no names.
      held_out: description of the hold-out set that was taken from these examples for testing, with
        the hash of its indices; empty if the data have a part to test on.
      files: paths of the pictures, in the order of the images, for a folder of pictures; empty for
        any other data.
    """

    images: np.ndarray | StreamedImages
    labels: np.ndarray
    fingerprint: str
    classes: tuple[str, ...] = ()
    held_out: str = ""
    files: tuple[str, ...] = ()

    @property
    def labelled(self) -> dict[str, Any]:
        """Examples with their labels, for `batches`."""
        return {"image": self.images, "label": self.labels}


Part = Callable[[], Dataset]


def from_arrays(images: Any, labels: Any = None) -> Dataset:
    """Makes a data set of NumPy or JAX arrays.

    Args:
      images: uint8 [N, H, W] or [N, H, W, C].
      labels: whole numbers of at least 0, [N]; all 0 if None.

    Raises:
      ValueError: if a shape or type is wrong, there is no image, or a label is out of range.
    """
    return of_arrays(*files.checked("from_arrays", images, labels))


def of_arrays(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = ()) -> Dataset:
    """Makes a data set of checked arrays."""
    return Dataset(images, labels, fingerprint(images, labels), classes)


def select(name: str, parts: Mapping[str, Part], split: str) -> Dataset:
    """Returns a split, given the data set's parts."""
    for one in split.split("+"):
        try:
            checks.known(f"split of {name}", one.partition("[")[0].strip(), parts)
        except ValueError as error:
            raise NoSuchSplit(str(error)) from None
    if split in parts:
        return parts[split]()
    sizes = {part: len(read().images) for part, read in parts.items() if part in split}
    ranges = resolve(split, sizes)
    (part, first, last), *more = ranges
    if not more:
        return chosen(parts[part](), slice(first, last))
    pieces = [(parts[part](), slice(first, last)) for part, first, last in ranges]
    labels = np.concatenate([whole.labels[index] for whole, index in pieces])
    own = tuple(path for whole, index in pieces for path in whole.files[index])
    views = [w.images.view(index) for w, index in pieces if isinstance(w.images, StreamedImages)]
    if len(views) == len(pieces) and all(view.store == views[0].store for view in views):
        # All pieces come from one store: the result is a view of it, so no image is read here.
        indices = np.concatenate([view.indices for view in views])
        seen = "+".join(whole.fingerprint for whole, _ in pieces)
        together = Dataset(
            StreamedImages(views[0].store, indices), labels, seen, pieces[0][0].classes, files=own
        )
        return chosen(together, slice(None))
    images = np.concatenate([whole.images[index] for whole, index in pieces])
    return of_arrays(images, labels, pieces[0][0].classes)._replace(files=own)


def image_and_label(batch: Batch) -> tuple[Any, Any]:
    """Returns images and labels of a batch.

    It is the `condition` of a model whose batches are made of `Dataset.labelled`.
    """
    return batch["image"], batch["label"]


def num_classes(*datasets: Dataset) -> int:
    """Returns the number of classes of data sets.

    It is 1 more than the largest label, and 1 for data without labels.

    Args:
      *datasets: data sets with the same classes, such as those of training and testing.

    Example:
      >>> import numpy as np
      >>> from genmod import data
      >>> images = np.zeros((2, 28, 28), np.uint8)
      >>> data.num_classes(data.from_arrays(images, [0, 2]), data.from_arrays(images))
      3
    """
    return 1 + max(int(dataset.labels.max()) for dataset in datasets)


def chosen(whole: Dataset, index: Any) -> Dataset:
    """Returns the examples at an index."""
    labels = whole.labels[index]
    own = tuple(np.array(whole.files, object)[index]) if whole.files else ()
    if not isinstance(whole.images, StreamedImages):
        return of_arrays(whole.images[index], labels, whole.classes)._replace(files=own)
    some = whole.images.view(index)

    def find() -> Facts:
        images = some[:] if some.nbytes <= device_budget() else some
        kept = None if isinstance(images, StreamedImages) else images
        return Facts(kept, some.shape[1:], labels, some.indices, fingerprint(images, labels))

    identity = ["of", whole.fingerprint, hashlib.sha256(some.indices.tobytes()).hexdigest()]
    found = cached("", identity, find, lambda known: some.store)
    return Dataset(*found, whole.classes, files=own)
