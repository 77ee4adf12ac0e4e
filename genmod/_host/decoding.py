"""Processes that decode examples.

Decoding a small picture is mostly Python code, which uses a single core with any number of threads.
Therefore several processes do it. They import this module, so it needs neither JAX nor other
folders of genmod.

The pool is Python's own `ProcessPoolExecutor`. This module adds what genmod guarantees beyond it:

- Scripts need no `__main__` guard (`_Process`).
- Processes end with a parent that was killed (`_end_with_parent`). If a process is killed itself,
  it is replaced, and its work is given to another one (`_settle`).
- Images come back through shared memory (`_Slots`). This is a third faster than the executor's
  pipes: two processes decode 14,500 instead of 10,300 JPEG files of 64 x 64 pixels per second.
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
"""Limits on the size of a piece that a process decodes.

The pieces are so large that the cost of transferring them is negligible.
"""
_MOST_PROCESSES = 16
_ATTEMPTS = 3
"""Number of attempts to decode a piece if processes die."""


class Found(NamedTuple):
    """Result of decoding one example: shape and label, or the error.

    Attributes:
      shape: shape of the image, [H, W, C]; None if it could not be read.
      label: label of the example; -1 if it could not be read.
      error: reason why it could not be read; empty if it could.
      traits: properties of the picture, as in `Example`.
    """

    shape: tuple[int, ...] | None
    label: int = -1
    error: str = ""
    traits: tuple[str, ...] = ()


def decode(examples: Examples, rows: np.ndarray) -> list[Found]:
    """Decodes all examples into rows, uint8 [N, H, W, C].

    An image whose shape does not fit is not written.
    """
    found = []
    for index in range(len(examples)):
        try:
            image, label, traits = examples.read(index)
        except DataError as error:
            found.append(Found(None, error=str(error)))
            continue
        fits = image.shape[:2] == rows.shape[1:3] and image.shape[2] in (1, rows.shape[3])
        if fits:
            rows[index] = image
        found.append(Found(image.shape, label, traits=traits))
    return found


def processes() -> int:
    """Returns the number of processes that decode.

    This is $GENMOD_WORKERS or, if that is not set, one per core and at most 16. With 0, this
    process decodes.

    Raises:
      ValueError: if $GENMOD_WORKERS is not a whole number of at least 0.
    """
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
    """Decodes examples in several processes, ahead of the caller.

    Args:
      examples: the examples to decode from.
      wanted: indices [n] of the examples of each answer; the iterable is consumed as far as
        examples are decoded ahead.
      shape: shape of one image, [H, W, C].
      here: whether to decode in this process, when an answer is requested.

    Yields:
      For each array of indices, in order: images, uint8 [n, H, W, C], and the result of decoding
      each example.

    Raises:
      DataError: if the processes die repeatedly.
    """
    num = 0 if here else processes()
    if num == 0:
        for indices in wanted:
            rows = np.empty((len(indices), *shape), np.uint8)
            yield rows, decode(examples.some(indices.tolist()), rows)
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
    """Piece of an answer: some of its rows.

    Attributes:
      examples: the examples to decode.
      answer: the whole answer, with the results of its rows so far.
      rows: the rows of the answer that this piece covers.
      slot: number of the slot in the shared memory.
      future: the result of the process.
      attempts: number of times that the piece was given to a process.
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
    for indices in wanted:
        answer = np.empty((len(indices), *shape), np.uint8), []
        for first in range(0, len(indices), most):
            rows = slice(first, min(first + most, len(indices)))
            yield _Piece(examples.some(indices[rows].tolist()), answer, rows)


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
    """Waits for the first piece; yields its answer if complete."""
    while True:
        piece = waiting[0]
        assert piece.future is not None
        try:
            found = piece.future.result()
            break
        except BrokenProcessPool as error:  # one was killed, so the pool ended all others
            if piece.attempts == _ATTEMPTS:
                raise DataError(
                    f"the processes that decode ended {_ATTEMPTS} times while they decoded "
                    f"{piece.examples.where(0)} and what follows; is there enough memory?"
                ) from error
            _submit(piece, slots)  # later pieces are submitted again when they become the first
    waiting.popleft()
    images, all_found = piece.answer
    images[piece.rows] = slots.view(piece.slot, images[piece.rows].shape)
    all_found += map(Found._make, found)
    if len(all_found) == len(images):
        yield piece.answer


def _abandon(waiting: Iterable[_Piece], wait: Callable[[Any], Any] = wait) -> None:
    """Cancels pieces that are no longer wanted."""
    # A process opens the memory by its descriptor, so it must have done so before another file
    # reuses the descriptor. (`wait` is an argument because Python clears this module's globals when
    # the interpreter exits.)
    futures = [piece.future for piece in waiting if piece.future is not None]
    wait([future for future in futures if not future.cancel()])


class _Slots:
    """Shared memory, divided into slots that are used in turn."""

    def __init__(self, memory: mmap.mmap, path: str, num: int, size: int):
        self._memory, self.path, self.num, self.size = memory, path, num, size
        self.token = next(_tokens)

    def view(self, slot: int, shape: Sequence[int]) -> np.ndarray:
        """Returns the contents of a slot as an array."""
        return np.ndarray(shape, np.uint8, self._memory, slot * self.size)


_tokens = itertools.count()
"""Unique numbers of shared memories, whose paths may recur."""


@contextlib.contextmanager
def _shared(num: int, size: int) -> Iterator[_Slots]:
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            # A memfd leaves no name behind if the process is killed, and is not subject to
            # /dev/shm's small limit.
            descriptor = os.memfd_create("genmod")
            stack.callback(os.close, descriptor)
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
        else:
            file = stack.enter_context(tempfile.NamedTemporaryFile())
            descriptor, path = file.fileno(), file.name
        os.ftruncate(descriptor, num * size)
        # The mapping is not closed explicitly, as arrays may still refer to it.
        yield _Slots(mmap.mmap(descriptor, num * size), path, num, size)


class _Process(SpawnProcess):
    """Process that does not run the main module again.

    Therefore scripts need no `__main__` guard.
    """

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


# The functions from here on run in the processes that decode.


def _begin() -> None:
    # A terminal or a scheduler sends these signals to all processes; the parent decides what to do.
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's warnings: its errors say what it cannot read
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is gone."""
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
    # Pickle sends repeated references to one plain object in a fraction of the time.
    same: dict[Any, Any] = {}

    def once(value: Any) -> Any:
        return same.setdefault(value, value)

    return [(once(one.shape), one.label, one.error, once(one.traits)) for one in found]
