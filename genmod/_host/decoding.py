"""Processes that decode examples.

Decoding a small picture is mostly Python, which takes one core however many threads there are: so
it is done by processes. They import this module, which therefore needs neither JAX nor other
folders.

The pool is Python's own `ProcessPoolExecutor`. Around it stands only what a promise needs:

- a script needs no `__main__` guard (`_Process`);
- processes end with a parent that was killed (`_end_with_parent`), and one that was killed itself
  is replaced, its work given to another (`_settle`);
- images come back through shared memory (`_Slots`), a third more in a second than through the
  executor's pipes: 14,500 against 10,300 JPEG files of 64 x 64 pixels, by two processes.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
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
from typing import Any, NamedTuple

import numpy as np

from genmod._host import machine
from genmod._host.examples import Examples
from genmod.errors import DataError

_PIECE_BYTES = 2**21
_PIECE_ROWS = 256
"""How much a process decodes at a time: so much that handing it over costs nothing beside it."""
_MOST_PROCESSES = 16
_ATTEMPTS = 3
"""How often a piece is given to a process, where those end before they have decoded it."""


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
