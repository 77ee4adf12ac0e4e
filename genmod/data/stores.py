"""Images that stay where they are stored, and how many there is room for on the device."""

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
"""So few are decoded at once, rather than handed to other processes."""
_CHUNK_BYTES = 2**25


def device_budget() -> int:
    """How many bytes of data may live on the device: $GENMOD_DATA_GB, or half of its memory.

    A CPU's memory is the machine's, or what its container has; its devices share it.
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
    """Images that lie outside of memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image, [H, W, C]."""
        ...

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        """For each of `wanted`, which are places [n], the images there, uint8 [n, H, W, C].

        Args:
          wanted: asked for as far ahead as is read.
          here: read in this process, when it is asked for.

        Raises:
          DataError: if something cannot be read, or is not what it was.
        """
        ...


@dataclasses.dataclass(frozen=True)
class DecodedStore:
    """Images that are decoded anew whenever they are wanted."""

    examples: Examples
    shape: tuple[int, ...]

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        """As in `Store`."""
        asked: list[np.ndarray] = []

        def noted() -> Iterator[np.ndarray]:
            for places in wanted:
                asked.append(places)
                yield places

        answers = decoding.decoded(self.examples, noted(), self.shape, here=here)
        for images, found in answers:
            places = asked.pop(0)
            for place, one in zip(places.tolist(), found, strict=True):
                if one.shape != self.shape and one.shape != (*self.shape[:2], 1):
                    raise DataError(one.error or self._changed(place, one.shape))
            yield images

    def _changed(self, place: int, shape: Any) -> str:
        return (
            f"{self.examples.where(place)} is an image {list(shape)} now; expected "
            f"{list(self.shape)}, as when the data set was read first: start again"
        )


@dataclasses.dataclass(frozen=True)
class MappedStore:
    """Images as the bytes of a file.

    Attributes:
      path: of the file.
      offset: of the first byte in it.
      num: number of images.
      shape: of an image.
    """

    path: Path
    offset: int
    num: int
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of all images."""
        return self.num * math.prod(self.shape)

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        """As in `Store`."""
        del here
        yield from map(self._rows, wanted)

    def _rows(self, places: np.ndarray) -> np.ndarray:
        # Not mapped into memory: pages that were read would count as this process's for long, and
        # what lies in between would be read, too.
        rows = np.empty((len(places), *self.shape), np.uint8)
        size = math.prod(self.shape)
        together = (np.diff(places) == 1).all()
        wanted = [(rows, places[0])] if together else zip(rows, places.tolist(), strict=True)
        try:
            with self.path.open("rb") as file:
                for row, place in wanted:
                    _fill(row, file.fileno(), self.offset + int(place) * size)
        except (OSError, EOFError) as error:
            raise DataError(f"{self.path}: cannot be read any more ({error})") from error
        return rows


def _fill(row: np.ndarray, descriptor: int, offset: int) -> None:
    """Reads a contiguous array out of a file."""
    rest = row.data.cast("B")
    while rest:
        num = os.preadv(descriptor, [rest], offset)
        if not num:
            raise EOFError(f"it ends at {offset:,} bytes")
        rest, offset = rest[num:], offset + num


class StreamedImages:
    """Images [N, H, W, C] that are read when they are asked for, by an index as NumPy has it.

    What `Dataset.images` is where they are too many for the device. `np.asarray` reads all.

    Attributes:
      store: where they lie.
      places: which of those in the store, [N].
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: Store, places: np.ndarray):
        self.store, self.places = store, places

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        return (len(self.places), *self.store.shape)

    @property
    def nbytes(self) -> int:
        """What they would take in memory."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> np.ndarray:
        places = self.places[np.asarray(index) if isinstance(index, jax.Array) else index]
        if places.ndim == 0:
            return self[np.asarray(index)[None]][0]
        if not places.size:
            return np.empty((*places.shape, *self.store.shape), np.uint8)
        here = places.size <= _FEW
        (images,) = self.store.read([places.ravel()], here=here)
        return images.reshape(*places.shape, *self.store.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("images that are streamed must be copied into memory, got copy=False")
        return self[:].astype(dtype or np.uint8, copy=False)

    def __repr__(self) -> str:
        return f"StreamedImages(uint8 {list(self.shape)}, {self.nbytes / 1e9:.2f} GB)"

    def read(self, wanted: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """For each of `wanted`, indices [n], the images there; read ahead."""
        return self.store.read(self.places[index] for index in wanted)

    def view(self, index: Any) -> "StreamedImages":
        """Some of them, still where they are."""
        return StreamedImages(self.store, self.places[index])


def in_turn(array: np.ndarray | StreamedImages) -> Iterator[np.ndarray]:
    """All rows, in order, some MB at a time."""
    rows = rows_at_once(math.prod(array.shape[1:]) * array.dtype.itemsize)
    firsts = range(0, len(array), rows)
    if isinstance(array, StreamedImages):
        yield from array.read(np.arange(k, min(k + rows, len(array))) for k in firsts)
    else:
        yield from (array[k : k + rows] for k in firsts)


def rows_at_once(num_bytes: int) -> int:
    """How many rows of so many bytes are handled at a time."""
    return max(1, _CHUNK_BYTES // max(1, num_bytes))
