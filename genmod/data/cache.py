"""What reading a data set for the first time has found, remembered from one start to the next."""

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
"""So few are decoded at once, rather than handed to other processes."""
DARK = "no value is above 1 of 255: all is black; masks of 0 and 1 should be multiplied by 255"


def file_state(stat: os.stat_result) -> tuple[int, ...]:
    """What tells a file from any other, and from itself once it was written to again.

    Names, lengths and times do not: a copy may have all of them. The time of the last change of its
    entry and the place on its disk cannot be set at will.
    """
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino


class Digest:
    """A fingerprint in the making: of images, some after the others, and then of their labels."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype):
        """Of images of this shape in all, [N, ...]."""
        self._digest = hashlib.sha256(f"{dtype.str} {tuple(shape)};".encode())

    def add(self, images: np.ndarray) -> None:
        """The next of them."""
        self._digest.update(np.ascontiguousarray(images).data)

    def end(self, labels: np.ndarray) -> str:
        """The fingerprint."""
        self._digest.update(f"{labels.dtype.str} {labels.shape};".encode())
        self._digest.update(np.ascontiguousarray(labels).data)
        return f"sha256:{self._digest.hexdigest()}"


def fingerprint(images: np.ndarray | StreamedImages, labels: np.ndarray) -> str:
    """SHA-256 over types, shapes and values of both arrays."""
    digest = Digest(images.shape, images.dtype)
    for rows in in_turn(images):
        digest.add(rows)
    return digest.end(labels)


class Facts(NamedTuple):
    """What reading a part of a data set for the first time has found.

    Attributes:
      images: uint8 [N, H, W, C]; None where they are too many to be kept.
      shape: of an image.
      labels: int32 [N].
      places: which of all examples could be read, [N].
      fingerprint: of images and labels.
      remarks: what was left out or chosen, in words; to be said at every start.
    """

    images: np.ndarray | None
    shape: tuple[int, ...]
    labels: np.ndarray
    places: np.ndarray
    fingerprint: str
    remarks: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Of the images."""
        return len(self.labels) * math.prod(self.shape)


def scan(
    examples: Examples,
    *,
    keep: Callable[[int], bool],
    skip_corrupt: bool = False,
    in_colour: Callable[[], bool] = lambda: False,
    hint: str = "",
) -> Facts:
    """Decodes every example once: whether it can be read, its label, and what they are together.

    Args:
      examples: in their order.
      keep: whether so many bytes of images are to be kept in memory.
      skip_corrupt: leave out those that cannot be read.
      in_colour: whether images that are all grey are to have as many channels as those in colour.
      hint: what to do about images of different sizes.

    Raises:
      DataError: if one cannot be read and skip_corrupt is false, or none can be.
      ValueError: if their sizes differ.
    """
    from tqdm.auto import tqdm

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
            if all(one.shape for one in ones):  # an error comes first
                _refuse_sizes(examples, shape, ones, len(found), hint)
            if shape[2] > 1 and any(one.shape and one.shape[2] > 1 for one in ones):
                digests.pop(1, None)  # they are not all grey
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
    places = np.array([place for place, one in enumerate(found) if one.shape is not None])
    labels = np.array([found[place].label for place in places], np.int32)
    if images is not None:
        images = np.ascontiguousarray(images[places, ..., : shape[2]])
        seen = fingerprint(images, labels)
    elif errors:  # what was summed up holds them, too
        seen = fingerprint(StreamedImages(DecodedStore(examples, shape), places), labels)
    else:
        seen = digests[shape[2]].end(labels)
    return Facts(images, shape, labels, places, seen, _remarks(found, errors, dark))


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
    """Whether no value in any of some arrays is above 1; the first that has one ends the search."""
    return all(part.max(initial=0) <= 1 for part in parts)


def _first_shape(examples: Examples) -> tuple[int, ...]:
    """That of the first image that can be read."""
    first, error = None, None
    for place in range(len(examples)):
        try:
            return examples.read(place).image.shape
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
    for place, one in enumerate(found, first):
        if one.shape is None or one.shape in (tuple(shape), (*shape[:2], 1)):
            continue
        shown = 2 if one.shape[:2] != tuple(shape[:2]) else 3
        raise ValueError(
            f"images must have one size, got {list(shape[:shown])} ({examples.where(0)}) and "
            f"{list(one.shape[:shown])} ({examples.where(place)}){hint}"
        )


def cached(
    where: str,
    identity: Any,
    find: Callable[[], Facts],
    store: Callable[[Facts], Store] | None = None,
) -> tuple[np.ndarray | StreamedImages, np.ndarray, str]:
    """Images, labels and fingerprint of what `find` finds, which is looked for but once.

    What has been found is kept on disk, the images as a file that is mapped into memory; these
    count only while they have the fingerprint with which they were written. Where there are none,
    or they are too many for the device, the images are streamed.

    Args:
      where: what to call the data in a remark.
      identity: what tells these data from any others, and whether anything in them has changed, as
        JSON holds it.
      find: finds it, with the images where they fit onto the device.
      store: where images that are not kept lie; None where they always are.
    """
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    folder = caches.folder() / "data" / key
    known = _recall(folder)
    if known is not None and known.images is None:
        # While they are decoded, grey ones take as much as coloured ones.
        most = known.num_bytes * (3 if known.shape[2] == 1 else 1)
        if store is None or most <= device_budget():
            known = None  # there is room for the images now
    if known is None:
        shutil.rmtree(folder, ignore_errors=True)
        known = find()
        # A full disk or a folder that is not ours: nothing is lost.
        with contextlib.suppress(OSError):
            _keep(folder, known)
            if known.images is not None:
                known = known._replace(images=np.load(folder / "images.npy", mmap_mode="r"))
    for remark in known.remarks:
        say(f"{where}: {remark}")
    images: np.ndarray | StreamedImages | None = known.images
    if images is None:
        assert store is not None
        images = StreamedImages(store(known), known.places)
    elif isinstance(images, np.memmap) and known.num_bytes > device_budget():
        mapped = MappedStore(folder / "images.npy", images.offset, len(images), known.shape)
        images = StreamedImages(mapped, np.arange(len(images)))
    return images, known.labels, known.fingerprint


def _recall(folder: Path) -> Facts | None:
    try:
        facts = json.loads((folder / "facts.json").read_text())
        labels, places = (np.load(folder / f"{name}.npy") for name in ("labels", "places"))
        if facts.pop("sum") != fingerprint(places, labels):
            return None
        shape, remarks = (tuple(facts.pop(name)) for name in ("shape", "remarks"))
        known = Facts(None, shape, labels, places, remarks=remarks, **facts)
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
            "sum": fingerprint(known.places, known.labels),
        }
        (partial / "facts.json").write_text(json.dumps(facts))
        arrays = {"labels": known.labels, "places": known.places, "images": known.images}
        for name, array in arrays.items():
            if array is not None:
                np.save(partial / f"{name}.npy", array)
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
