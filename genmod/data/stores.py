"""Images that stay on disk until they are needed.

This module also computes how many bytes of data fit onto the device.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from genmod import checks
from genmod._host import decoding, machine
from genmod._host.examples import Examples
from genmod.errors import DataError

_FEW = 64
"""Up to so many images are read in this process."""
_CHUNK_BYTES = 2**25


def device_budget() -> int:
    """Returns how many bytes of data the device may hold.

    This is $GENMOD_DATA_GB or, if that is not set, half of the device's memory. A CPU's memory is
    that of the machine or of its container, and is divided among the CPU's devices.
    """
    text = os.environ.get("GENMOD_DATA_GB")
    if text:
        try:
            given = float(text)
        except ValueError:
            given = math.nan
        checks.positive("GENMOD_DATA_GB", given)
        return int(given * 1e9)
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return machine.memory() // 2 // jax.local_device_count()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", machine.memory()) // 2


class Store(Protocol):
    """Images outside of memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, [H, W, C]."""
        ...

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        """Yields the images for each array of indices.

        Args:
          wanted: arrays of indices [n]; the iterable is consumed as far as images are read ahead.
          here: whether to read in this process and only on request.

        Yields:
          Images, uint8 [n, H, W, C].

        Raises:
          DataError: if an image cannot be read, or has changed.
        """
        ...


@dataclasses.dataclass(frozen=True)
class DecodedStore:
    """Images that are decoded each time they are needed."""

    examples: Examples
    shape: tuple[int, ...]

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        """Yields images, as `Store.read` does."""
        asked: list[np.ndarray] = []

        def noted() -> Iterator[np.ndarray]:
            for indices in wanted:
                asked.append(indices)
                yield indices

        answers = decoding.decoded(self.examples, noted(), self.shape, here=here)
        for images, found in answers:
            indices = asked.pop(0)
            for index, one in zip(indices.tolist(), found, strict=True):
                if one.shape != self.shape and one.shape != (*self.shape[:2], 1):
                    raise DataError(one.error or self._changed(index, one.shape))
            yield images

    def _changed(self, index: int, shape: Any) -> str:
        return (
            f"{self.examples.where(index)} is an image {list(shape)} now; expected "
            f"{list(self.shape)}, as when the data set was read first: start again"
        )


@dataclasses.dataclass(frozen=True)
class MappedStore:
    """Images stored as the bytes of a file.

    Attributes:
      path: path of the file.
      offset: offset of the first image in the file, in bytes.
      num: number of images.
      shape: shape of one image, [H, W, C].
    """

    path: Path
    offset: int
    num: int
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Number of bytes of all images."""
        return self.num * math.prod(self.shape)

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        """Yields images, as `Store.read` does."""
        del here
        yield from map(self._rows, wanted)

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        # The file is read, not mapped into memory: pages of a mapping would count as this process's
        # memory for a long time, and the system would also read data between the wanted rows.
        rows = np.empty((len(indices), *self.shape), np.uint8)
        size = math.prod(self.shape)
        together = (np.diff(indices) == 1).all()
        wanted = [(rows, indices[0])] if together else zip(rows, indices.tolist(), strict=True)
        try:
            with self.path.open("rb") as file:
                for row, index in wanted:
                    _fill(row, file.fileno(), self.offset + int(index) * size)
        except (OSError, EOFError) as error:
            raise DataError(f"{self.path}: cannot be read any more ({error})") from error
        return rows


def _fill(row: np.ndarray, descriptor: int, offset: int) -> None:
    """Fills a contiguous array with bytes of a file."""
    rest = row.data.cast("B")
    while rest:
        num = os.preadv(descriptor, [rest], offset)
        if not num:
            raise EOFError(f"it ends at {offset:,} bytes")
        rest, offset = rest[num:], offset + num


class StreamedImages:
    """Images that are read when they are indexed.

    Their shape is [N, H, W, C]. They accept the same indices as a NumPy array; `np.asarray` reads
    all of them. `Dataset.images` is of this class if the images do not fit onto the device.

    Attributes:
      store: source of the images.
      indices: indices of the images in the store, [N].
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: Store, indices: np.ndarray):
        self.store, self.indices = store, indices

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of all images, [N, H, W, C]."""
        return (len(self.indices), *self.store.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes of all images."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> np.ndarray:
        indices = self.indices[np.asarray(index) if isinstance(index, jax.Array) else index]
        if indices.ndim == 0:
            return self[np.asarray(index)[None]][0]
        if not indices.size:
            return np.empty((*indices.shape, *self.store.shape), np.uint8)
        here = indices.size <= _FEW
        (images,) = self.store.read([indices.ravel()], here=here)
        return images.reshape(*indices.shape, *self.store.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images that are streamed must be copied into memory, got copy=False")
        return self[:].astype(dtype or np.uint8, copy=False)

    def __repr__(self) -> str:
        return f"StreamedImages(uint8 {list(self.shape)}, {self.nbytes / 1e9:.2f} GB)"

    def read(self, wanted: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the images for each array of indices [n]."""
        return self.store.read(self.indices[index] for index in wanted)

    def view(self, index: Any) -> "StreamedImages":
        """Returns the images at an index, without reading them."""
        return StreamedImages(self.store, self.indices[index])


def in_turn(array: np.ndarray | StreamedImages) -> Iterator[np.ndarray]:
    """Yields all rows in order, some MB at a time."""
    rows = rows_at_once(math.prod(array.shape[1:]) * array.dtype.itemsize)
    firsts = range(0, len(array), rows)
    if isinstance(array, StreamedImages):
        yield from array.read(np.arange(k, min(k + rows, len(array))) for k in firsts)
    else:
        yield from (array[k : k + rows] for k in firsts)


def rows_at_once(num_bytes: int) -> int:
    """Returns how many rows to handle at a time."""
    return max(1, _CHUNK_BYTES // max(1, num_bytes))
