"""Examples that are decoded one by one, and the processes that decode them.

Decoding a small picture is mostly Python, which takes one core however many threads there are: so
it is done by processes. They import this module, which therefore needs neither JAX nor other rooms.
"""

import bisect
import collections
import contextlib
import dataclasses
import functools
import itertools
import logging
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from genmod._host import machine
from genmod.errors import DataError

_PIECE_BYTES = 2**21
_PIECE_ROWS = 256
"""How much a process decodes at a time: so much that handing it over costs nothing beside it."""
_MOST_PROCESSES = 16
_ATTEMPTS = 3
"""How often a piece is given to a process, where those end before they have decoded it."""
_GREY = ("1", "L", "LA")
_MOST_PIXELS = 2**29
"""Of a picture that is made small: 1.6 GB while it is decoded in colour."""
BACKGROUNDS = ("white", "black")
_LAID = {
    ground: f"have transparent places, which are laid on {ground} (background)"
    for ground in BACKGROUNDS
}
_PAGES = "have several pages or frames, of which the first is taken"


class Example(NamedTuple):
    """An image as it was decoded.

    Attributes:
      image: uint8 [H, W, C].
      label: its label.
      traits: what was done with it beyond decoding, in words that go on after "pictures".
    """

    image: np.ndarray
    label: int
    traits: tuple[str, ...] = ()


class Examples(Protocol):
    """Examples that are stored each by itself, and decoded when they are wanted."""

    @property
    def depth(self) -> int:
        """The most channels that an image may have; a grey one is repeated in all of them."""
        ...

    def __len__(self) -> int: ...

    def some(self, places: Sequence[int]) -> Self:
        """Those at some places alone, with no more than is needed to read them."""
        ...

    def read(self, place: int) -> Example:
        """One of them.

        Raises:
          DataError: if it cannot be read.
        """
        ...

    def where(self, place: int) -> str:
        """What to call one of them in an error."""
        ...


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture files.

    Attributes:
      files: their paths.
      labels: the class of each.
      size: side of the square to which each is resized (bicubic, its shorter side) and cropped (its
        middle); None leaves them as they are.
      background: the ground on which transparent places are laid, white or black.
    """

    files: Sequence[str]
    labels: Sequence[int]
    size: int | None = None
    background: str = "white"
    depth: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def some(self, places: Sequence[int]) -> "Pictures":
        """As in `Examples`."""
        chosen = [[of[place] for place in places] for of in (self.files, self.labels)]
        return dataclasses.replace(self, files=chosen[0], labels=chosen[1])

    def read(self, place: int) -> Example:
        """As in `Examples`: turned as its EXIF says; one channel if it is grey, else three."""
        image, traits = read_picture(self.files[place], self.size, self.background)
        return Example(image, self.labels[place], traits)

    def where(self, place: int) -> str:
        """As in `Examples`."""
        return self.files[place]


def head(path: str) -> tuple[tuple[int, int], bool] | None:
    """Width and height of a picture, and whether it has colours; None if it cannot be read."""
    try:
        with _open(path)[0] as picture:
            return picture.size, picture.mode not in _GREY
    except Exception:  # Pillow's decoders raise whatever they meet
        return None


def is_coloured(path: str) -> bool:
    """Whether a picture has colours, as its head says; False if it cannot be read."""
    found = head(path)
    return found is not None and found[1]


def read_picture(
    path: str, size: int | None, background: str = "white"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """One picture, uint8 [H, W, 1] if it is grey and [H, W, 3] else, with its traits.

    See `Pictures` and `Example`.

    Raises:
      DataError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        picture, most = _open(path)
        with picture:
            _refuse_large(picture, most, size)
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"it has the mode {picture.mode}; expected 8 bits a channel")
            # The second picture of an MPO is a camera's own, for another kind of display.
            several = getattr(picture, "is_animated", False) and picture.format != "MPO"
            ImageOps.exif_transpose(picture, in_place=True)
            picture, is_laid = _laid(picture, background)
            mode = "L" if picture.mode in _GREY else "RGB"
            if picture.mode != mode:
                picture = picture.convert(mode)
            if size is not None:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            values = np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise DataError(
            f"{path}: cannot be read ({error}); mend or delete it, or leave out what cannot be "
            "read: skip_corrupt"
        ) from error
    traits = (*[_PAGES] * several, *[_LAID[background]] * is_laid)
    return values[..., None] if values.ndim == 2 else values, traits


def _open(path: str) -> tuple[Any, int | None]:
    """A picture of any size, of which no pixel is decoded yet, and Pillow's limit of pixels."""
    from PIL import Image

    # Pillow refuses or warns at once, whatever is to become of the picture.
    with _opening:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path), most
        finally:
            Image.MAX_IMAGE_PIXELS = most


_opening = threading.Lock()


def _refuse_large(picture: Any, most: int | None, size: int | None) -> None:
    """Refuses what would fill the memory: by itself, or while it is made small."""
    if most is None or picture.width * picture.height <= most:
        return
    claimed = f"it claims {picture.width} x {picture.height} pixels; expected at most"
    if size is None:
        raise ValueError(
            f"{claimed} {most:,}, or that they be made small: the size to which to resize and crop "
            "pictures is image_size"
        )
    # A JPEG is decoded at an eighth of its size in a fraction of the memory; no other format is.
    picture.draft(None, (2 * size, 2 * size))
    if picture.width * picture.height > max(most, _MOST_PIXELS):
        raise ValueError(f"{claimed} {max(most, _MOST_PIXELS):,}")


def _laid(picture: Any, background: str) -> tuple[Any, bool]:
    """A picture with its transparent places laid on a ground, and whether there are any."""
    from PIL import Image

    if not picture.has_transparency_data:
        return picture, False
    opaque = "L" if picture.mode in _GREY else "RGB"
    layer = picture.convert("LA" if opaque == "L" else "RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return picture, False
    laid = Image.new(opaque, layer.size, background)
    laid.paste(layer.convert(opaque), mask=alpha)
    return laid, True


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A split of a data set that tensorflow-datasets has prepared, stored as array_record.

    Attributes:
      folder: of the prepared version.
      split: as tensorflow-datasets understands it.
      places: which of its examples.
      state: of its files, what tells whether one has changed: names, and `cache.file_state`.
      depth: the channels of an image.
      classes: names of the labels; empty where they have none.
    """

    folder: str
    split: str
    places: Sequence[int]
    state: tuple[tuple[Any, ...], ...]
    depth: int
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def some(self, places: Sequence[int]) -> "Prepared":
        """As in `Examples`."""
        return dataclasses.replace(self, places=[self.places[place] for place in places])

    def read(self, place: int) -> Example:
        """As in `Examples`."""
        source, _ = _prepared(self.folder, self.split, self.state)
        try:
            example = source[self.places[place]]
            # Past the end of a file that was cut off, TFDS reads an example of None, without error.
            return Example(example["image"], int(example["label"]))
        except ImportError:  # Pillow is not installed
            raise
        except Exception as error:
            file, example = self._where(place)
            raise DataError(
                f"{file}: damaged or missing: {example} cannot be read ({error}); delete "
                f"{self.folder} and prepare the data set again"
            ) from error

    def where(self, place: int) -> str:
        """As in `Examples`."""
        return ": ".join(self._where(place))

    def _where(self, place: int) -> tuple[str, str]:
        index = self.places[place]
        _, files = _prepared(self.folder, self.split, self.state)
        ends = list(itertools.accumulate(part.take for part in files))
        file = files[bisect.bisect(ends, index)].filename
        return str(file), f"example {index} of split {self.split!r}"


@functools.lru_cache(maxsize=4)
def _prepared(folder: str, split: str, state: Any) -> tuple[Any, Any]:
    """The examples of a prepared split, with random access, and the files they lie in."""
    del state  # other files are another answer
    import tensorflow_datasets as tfds

    # What absl says, it says anew in each process.
    logging.getLogger("absl").addFilter(_no_advice)
    builder = tfds.core.read_only_builder.builder_from_directory(folder)
    source = builder.as_data_source(split=split, file_format="array_record")
    return source, builder.info.splits[split].file_instructions


def _no_advice(record: logging.LogRecord) -> bool:
    return "OpenCV is not installed" not in record.getMessage()


class Found(NamedTuple):
    """What an example turned out to be.

    Attributes:
      shape: of its image, [H, W, C]; None if it could not be read.
      label: its label; -1 if it could not be read.
      error: why it could not be read.
      traits: as of `Example`.
    """

    shape: tuple[int, ...] | None
    label: int = -1
    error: str = ""
    traits: tuple[str, ...] = ()


def decode(examples: Examples, rows: np.ndarray) -> list[Found]:
    """Decodes all examples into rows, uint8 [N, H, W, C]; one that does not fit is not written."""
    found = []
    for place in range(len(examples)):
        try:
            image, label, traits = examples.read(place)
        except DataError as error:
            found.append(Found(None, error=str(error)))
            continue
        fits = image.shape[:2] == rows.shape[1:3] and image.shape[2] in (1, rows.shape[3])
        if fits:
            rows[place] = image
        found.append(Found(image.shape, label, traits=traits))
    return found


def processes() -> int:
    """How many processes decode: $GENMOD_WORKERS, or one a core, at most 16; 0 is this one."""
    text = os.environ.get("GENMOD_WORKERS") or str(min(machine.cores(), _MOST_PROCESSES))
    if not text.isdecimal():
        raise ValueError(f"GENMOD_WORKERS must be a whole number of at least 0, got {text!r}")
    return int(text)


def decoded(
    examples: Examples,
    wanted: Iterable[np.ndarray],
    shape: Sequence[int],
    *,
    here: bool = False,
) -> Iterator[tuple[np.ndarray, list[Found]]]:
    """Decodes examples by several processes, ahead of whoever takes them.

    Args:
      examples: where they are.
      wanted: places [n] of the examples of each answer; asked for as far ahead as is decoded.
      shape: [H, W, C] of an image.
      here: decode in this process, when an answer is asked for.

    Yields:
      For each of `wanted` in turn, images uint8 [n, H, W, C], and what was found of each.

    Raises:
      DataError: if the processes end again and again.
    """
    num = 0 if here else processes()
    if num == 0:
        for places in wanted:
            rows = np.empty((len(places), *shape), np.uint8)
            yield rows, decode(examples.some(places.tolist()), rows)
        return
    size = int(np.prod(shape))
    most = max(1, min(_PIECE_ROWS, _PIECE_BYTES // size))
    waiting: collections.deque[_Piece] = collections.deque()
    with contextlib.ExitStack() as stack:
        slots = stack.enter_context(_shared(2 * num + 2, most * size))
        stack.callback(_abandon, waiting)
        for number, piece in enumerate(_pieces(examples, wanted, shape, most)):
            if len(waiting) == slots.num:
                yield from _settle(waiting, slots)
            piece.slot = number % slots.num
            _submit(piece, slots)
            waiting.append(piece)
        while waiting:
            yield from _settle(waiting, slots)


@dataclasses.dataclass
class _Piece:
    """Some of the rows of an answer.

    Attributes:
      examples: what to decode.
      answer: the whole answer, and what was found of its rows so far.
      rows: which of its rows.
      slot: where in the shared memory they come.
      future: what the process says.
      attempts: how often it was given to one.
    """

    examples: Examples
    answer: tuple[np.ndarray, list[Found]]
    rows: slice
    slot: int = 0
    future: Future | None = None
    attempts: int = 0


def _pieces(
    examples: Examples, wanted: Iterable[np.ndarray], shape: Sequence[int], most: int
) -> Iterator[_Piece]:
    for places in wanted:
        answer = np.empty((len(places), *shape), np.uint8), []
        for first in range(0, len(places), most):
            rows = slice(first, min(first + most, len(places)))
            yield _Piece(examples.some(places[rows].tolist()), answer, rows)


def _submit(piece: _Piece, slots: "_Slots") -> None:
    images = piece.answer[0]
    rows = piece.rows.stop - piece.rows.start, *images.shape[1:]
    piece.attempts += 1
    task = (_decode_into, slots.path, slots.token, piece.slot * slots.size, rows, piece.examples)
    try:
        piece.future = _pool(processes()).submit(*task)
    except BrokenProcessPool:
        _pool.cache_clear()
        piece.future = _pool(processes()).submit(*task)


def _settle(
    waiting: collections.deque[_Piece], slots: "_Slots"
) -> Iterator[tuple[np.ndarray, list[Found]]]:
    """Waits for the first piece, and yields its answer if that is whole."""
    while True:
        piece = waiting[0]
        assert piece.future is not None
        try:
            found = piece.future.result()
            break
        except BrokenProcessPool as error:  # one was killed, and so all others ended
            if piece.attempts == _ATTEMPTS:
                raise DataError(
                    f"the processes that decode ended {_ATTEMPTS} times while they decoded "
                    f"{piece.examples.where(0)} and what follows; is there enough memory?"
                ) from error
            _submit(piece, slots)  # those behind it have their turn when they come first
    waiting.popleft()
    images, all_found = piece.answer
    images[piece.rows] = slots.view(piece.slot, images[piece.rows].shape)
    all_found += map(Found._make, found)
    if len(all_found) == len(images):
        yield piece.answer


def _abandon(waiting: Iterable[_Piece], wait: Callable[[Any], Any] = wait) -> None:
    """Ends what is not wanted any more."""
    # Whoever opens the memory must have done so before another file has its descriptor. (At the end
    # of the interpreter this module has no `wait` any more; hence the argument.)
    futures = [piece.future for piece in waiting if piece.future is not None]
    wait([future for future in futures if not future.cancel()])


class _Slots:
    """Memory that is shared with the processes, in slots that are used in turn."""

    def __init__(self, memory: mmap.mmap, path: str, num: int, size: int):
        self._memory, self.path, self.num, self.size = memory, path, num, size
        self.token = next(_tokens)

    def view(self, slot: int, shape: Sequence[int]) -> np.ndarray:
        """What a slot holds."""
        return np.ndarray(shape, np.uint8, self._memory, slot * self.size)


_tokens = itertools.count()
"""A number for each memory: a path may come again."""


@contextlib.contextmanager
def _shared(num: int, size: int) -> Iterator[_Slots]:
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            # It has no name that a killed process could leave behind, nor /dev/shm's small limit.
            descriptor = os.memfd_create("genmod")
            stack.callback(os.close, descriptor)
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
        else:
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            descriptor, path = file.fileno(), file.name
        os.ftruncate(descriptor, num * size)
        # Not closed by hand: views of it may live.
        yield _Slots(mmap.mmap(descriptor, num * size), path, num, size)


class _Process(SpawnProcess):
    """A process that does not run the main module again: a script needs no guard against that."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _Process


@functools.cache
def _pool(num: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(num, mp_context=_Context(), initializer=_begin)


# From here on: in the processes that decode.


def _begin() -> None:
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # a terminal or a scheduler sends it to all; the parent decides
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's: what it cannot read is said by its error
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed tells nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


@functools.lru_cache(maxsize=4)
def _opened(path: str, token: int) -> mmap.mmap:
    del token
    descriptor = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def _decode_into(
    path: str, token: int, offset: int, shape: Sequence[int], examples: Examples
) -> list[tuple[Any, ...]]:
    found = decode(examples, np.ndarray(shape, np.uint8, _opened(path, token), offset))
    # What is the same object, and plain, is sent in a fraction of the time.
    same: dict[Any, Any] = {}

    def once(value: Any) -> Any:
        return same.setdefault(value, value)

    return [(once(one.shape), one.label, one.error, once(one.traits)) for one in found]
