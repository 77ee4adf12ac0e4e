"""Cache of what the first read of a data set yields.

The results are kept on disk from one start to the next.
"""

import collections
import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmod._host import caches, decoding
from genmod._host.examples import Examples
from genmod.data.notes import say
from genmod.data.stores import (
    DecodedStore,
    MappedStore,
    Store,
    StreamedImages,
    device_budget,
    in_turn,
    rows_at_once,
)
from genmod.errors import DataError

_FEW_TO_SURVEY = 1000
"""Fewer examples than this are decoded in this process."""
DARK = "no value is above 1 of 255: all is black; masks of 0 and 1 should be multiplied by 255"


def file_state(stat: os.stat_result) -> tuple[int, ...]:
    """Identifies a file and its current version.

    Name, length and modification time are not enough, because a copy may share them. The time of
    the last change of the inode (ctime), the disk and the inode's number cannot be set at will.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino


class Digest:
    """Fingerprint of images and labels, computed piece by piece.

    The images are added some at a time, the labels at the end.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype):
        """Starts a fingerprint of images of shape [N, ...]."""
        self._digest = hashlib.sha256(f"{dtype.str} {tuple(shape)};".encode())

    def add(self, images: np.ndarray) -> None:
        """Adds the next images."""
        self._digest.update(np.ascontiguousarray(images).data)

    def end(self, labels: np.ndarray) -> str:
        """Adds the labels and returns the fingerprint."""
        self._digest.update(f"{labels.dtype.str} {labels.shape};".encode())
        self._digest.update(np.ascontiguousarray(labels).data)
        return f"sha256:{self._digest.hexdigest()}"


def fingerprint(images: np.ndarray | StreamedImages, labels: np.ndarray) -> str:
    """Returns the SHA-256 of types, shapes and values."""
    digest = Digest(images.shape, images.dtype)
    for rows in in_turn(images):
        digest.add(rows)
    return digest.end(labels)


class Facts(NamedTuple):
    """Result of the first read of a data set's part.

    Attributes:
      images: uint8 [N, H, W, C]; None if there are too many to keep.
      shape: shape of one image.
      labels: int32 [N].
      indices: indices of the examples that could be read, [N].
      fingerprint: fingerprint of images and labels.
      remarks: notes about choices and left-out examples, printed at every start.
    """

    images: np.ndarray | None
    shape: tuple[int, ...]
    labels: np.ndarray
    indices: np.ndarray
    fingerprint: str
    remarks: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all images."""
        return len(self.labels) * math.prod(self.shape)


def scan(
    examples: Examples,
    *,
    keep: Callable[[int], bool],
    skip_corrupt: bool = False,
    in_colour: Callable[[], bool] = lambda: False,
    hint: str = "",
) -> Facts:
    """Decodes every example once and collects labels, shape and fingerprint.

    Args:
      examples: examples in their order.
      keep: function that decides whether to keep so many bytes of images in memory.
      skip_corrupt: whether to leave out examples that cannot be read.
      in_colour: function that decides whether images that are all grey get as many channels as
        images in colour.
      hint: advice to add to the error about images of different sizes.

    Raises:
      DataError: if an example cannot be read and skip_corrupt is false, or if none can be read.
      ValueError: if the sizes of the images differ.
    """
    from genmod._host.bars import tqdm

    num = len(examples)
    shape = (*_first_shape(examples)[:2], examples.depth)
    size = math.prod(shape)
    images = np.empty((num, *shape), np.uint8) if keep(num * size) else None
    byte = np.dtype(np.uint8)
    digests = {depth: Digest((num, *shape[:2], depth), byte) for depth in (1, shape[2])}
    found: list[decoding.Found] = []
    dark = True
    firsts = range(0, num, rows_at_once(size))
    wanted = (np.arange(first, min(first + firsts.step, num)) for first in firsts)
    here = num < _FEW_TO_SURVEY
    with tqdm(total=num, desc="images", unit="", leave=False, disable=None) as bar:
        for rows, ones in decoding.decoded(examples, wanted, shape, here=here):
            if all(one.shape for one in ones):  # an unreadable example is reported first
                _refuse_sizes(examples, shape, ones, len(found), hint)
            if shape[2] > 1 and any(one.shape and one.shape[2] > 1 for one in ones):
                digests.pop(1, None)  # some image is in colour
            if images is None:
                for depth, digest in digests.items():
                    digest.add(rows[..., :depth])
            else:
                images[len(found) : len(found) + len(rows)] = rows
            dark = dark and is_dark([rows[[one.shape is not None for one in ones]]])
            found += ones
            bar.update(len(rows))
    errors = [one.error for one in found if one.shape is None]
    if errors and (not skip_corrupt or len(errors) == num):
        raise DataError(_and_others(errors[0], len(errors) - 1))
    _refuse_sizes(examples, shape, found, 0, hint)
    is_grey = all(one.shape is None or one.shape[2] == 1 for one in found) and not in_colour()
    shape = (*shape[:2], 1 if is_grey else shape[2])
    indices = np.array([index for index, one in enumerate(found) if one.shape is not None])
    labels = np.array([found[index].label for index in indices], np.int32)
    if images is not None:
        images = np.ascontiguousarray(images[indices, ..., : shape[2]])
        seen = fingerprint(images, labels)
    elif errors:  # the running digest includes the unreadable examples
        seen = fingerprint(StreamedImages(DecodedStore(examples, shape), indices), labels)
    else:
        seen = digests[shape[2]].end(labels)
    return Facts(images, shape, labels, indices, seen, _remarks(found, errors, dark))


def _remarks(found: Sequence[decoding.Found], errors: Sequence[str], dark: bool) -> tuple[str, ...]:
    num = len(found)
    traits = collections.Counter(trait for one in found for trait in one.traits)
    said = [f"{count:,} of {num:,} pictures {trait}" for trait, count in sorted(traits.items())]
    if errors:
        said.append(
            f"{len(errors)} of {num} pictures cannot be read and are left out, the first: "
            f"{errors[0]}"
        )
    return (*said, *[DARK] * dark)


def is_dark(parts: Iterable[np.ndarray]) -> bool:
    """Returns whether all values are at most 1.

    The first array with a larger value ends the search.
    """
    return all(part.max(initial=0) <= 1 for part in parts)


def _first_shape(examples: Examples) -> tuple[int, ...]:
    """Returns the shape of the first readable image."""
    first, error = None, None
    for index in range(len(examples)):
        try:
            return examples.read(index).image.shape
        except DataError as raised:
            first, error = first or str(raised), raised
    raise DataError(_and_others(f"{first}", len(examples) - 1)) from error


def _and_others(error: str, num: int) -> str:
    return error + f" (and {num} others)" * (num > 0)


def _refuse_sizes(
    examples: Examples,
    shape: Sequence[int],
    found: Sequence[decoding.Found],
    first: int,
    hint: str,
) -> None:
    for index, one in enumerate(found, first):
        if one.shape is None or one.shape in (tuple(shape), (*shape[:2], 1)):
            continue
        shown = 2 if one.shape[:2] != tuple(shape[:2]) else 3
        raise ValueError(
            f"images must have one size, got {list(shape[:shown])} ({examples.where(0)}) and "
            f"{list(one.shape[:shown])} ({examples.where(index)}){hint}"
        )


def cached(
    where: str,
    identity: Any,
    find: Callable[[], Facts],
    store: Callable[[Facts], Store] | None = None,
) -> tuple[np.ndarray | StreamedImages, np.ndarray, str]:
    """Returns images, labels and fingerprint, cached if possible, as `recalled` does."""
    images, known = recalled(where, identity, find, store)
    return images, known.labels, known.fingerprint


def recalled(
    where: str,
    identity: Any,
    find: Callable[[], Facts],
    store: Callable[[Facts], Store] | None = None,
) -> tuple[np.ndarray | StreamedImages, Facts]:
    """Returns images, and what the first read yields, cached if possible.

    The result of `find` is kept on disk, with the images as a file that is mapped into memory. The
    kept images are used only if they still have the fingerprint with which they were written. If no
    images are kept, or if they do not fit onto the device, they are streamed.

    Args:
      where: name of the data in remarks.
      identity: value in terms of JSON that identifies the data and changes whenever they change.
      find: function that reads the data; it returns the images too if they fit onto the device.
      store: function that returns the `Store` of images that are not kept; None if images are
        always kept.
    """
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    folder = caches.folder() / "data" / key
    known = _recall(folder)
    if known is not None and known.images is None:
        # During decoding a grey image takes as much memory as a coloured one.
        most = known.num_bytes * (3 if known.shape[2] == 1 else 1)
        if store is None or most <= device_budget():
            known = None  # the images fit onto the device now
    if known is None:
        shutil.rmtree(folder, ignore_errors=True)
        known = find()
        # The cache is optional: a full disk or a read-only folder is no error.
        with contextlib.suppress(OSError):
            _keep(folder, known)
            if known.images is not None:
                known = known._replace(images=np.load(folder / "images.npy", mmap_mode="r"))
    for remark in known.remarks:
        say(f"{where}: {remark}")
    images: np.ndarray | StreamedImages | None = known.images
    if images is None:
        assert store is not None
        images = StreamedImages(store(known), known.indices)
    elif isinstance(images, np.memmap) and known.num_bytes > device_budget():
        mapped = MappedStore(folder / "images.npy", images.offset, len(images), known.shape)
        images = StreamedImages(mapped, np.arange(len(images)))
    return images, known


def _recall(folder: Path) -> Facts | None:
    try:
        facts = json.loads((folder / "facts.json").read_text())
        labels, indices = (np.load(folder / f"{name}.npy") for name in ("labels", "places"))
        if facts.pop("sum") != fingerprint(indices, labels):
            return None
        shape, remarks = (tuple(facts.pop(name)) for name in ("shape", "remarks"))
        known = Facts(None, shape, labels, indices, remarks=remarks, **facts)
        if not (folder / "images.npy").exists():
            return known
        images = np.load(folder / "images.npy", mmap_mode="r")
        whole = fingerprint(images, labels) == known.fingerprint
        return known._replace(images=images) if whole else None
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError):
        return None


def _keep(folder: Path, known: Facts) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        facts = {
            "shape": known.shape,
            "fingerprint": known.fingerprint,
            "remarks": known.remarks,
            "sum": fingerprint(known.indices, known.labels),
        }
        (partial / "facts.json").write_text(json.dumps(facts))
        arrays = {"labels": known.labels, "places": known.indices, "images": known.images}
        for name, array in arrays.items():
            if array is not None:
                np.save(partial / f"{name}.npy", array)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
