"""Robust standard output and standard error for commands.

A stream may be closed, a pipe whose reader has ended, a file on a full disk, or a terminal that
hangs up, and its encoding may lack a character. None of these may end a run: during training, text
that cannot be printed is dropped. A command whose result is its output ends instead, without a
traceback.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""Modes of the standard streams, in the order of their descriptors."""


def open_descriptors() -> None:
    """Opens closed standard descriptors onto the null device.

    They are 0, 1 and 2. Otherwise the next file that is opened would get such a descriptor, and
    printed text would go into that file.
    """
    for number, (name, mode) in enumerate(_MODES.items()):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)  # also if both are equal: dup2 makes it inheritable
            if nothing != number:
                os.close(nothing)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


@contextlib.contextmanager
def guarded(*, is_result: bool = False) -> Iterator[None]:
    """Makes printing raise no errors in its body.

    A character that the stream's encoding lacks is written as an escape. Once a stream fails, later
    text is dropped; for standard output, one note on standard error says so.

    Args:
      is_result: whether the output is the result of the command. In that case a failure of standard
        output ends the command: with SystemExit of 128 + SIGPIPE if its reader has ended, else with
        DiskError.
    """
    if isinstance(sys.stdout, _Stream):  # an outer context covers the whole command
        yield
        return
    open_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Output(sys.stdout, is_result), _Stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def say(descriptor: int, text: str) -> None:
    """Writes a line; safe in signal handlers, never fails."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{text}\n".encode(errors="backslashreplace"))


class _Stream:
    """Stream to which writing never fails.

    All other attributes are those of the wrapped stream.
    """

    def __init__(self, stream: Any):
        self._stream = stream
        self._gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text, if the stream still accepts it."""
        try:
            return 0 if self._gone else self._stream.write(text)
        except UnicodeEncodeError:
            coding = self._stream.encoding
            return self.write(text.encode(coding, "backslashreplace").decode(coding))
        except (OSError, ValueError) as error:
            self._refused(error)
            return 0

    def writelines(self, lines: Any) -> None:
        """Writes each line, if the stream still accepts it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flushes the stream, if it still accepts text."""
        try:
            if not self._gone:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._refused(error)

    def _refused(self, error: OSError | ValueError) -> None:
        if isinstance(error, BlockingIOError):
            return  # a slow reader: this text is lost, the next may not be
        if isinstance(error, ValueError) and not self._stream.closed:
            raise error
        self._gone = True
        # Python writes the rest of the buffer when it ends, and libraries write to the descriptor
        # directly. All of that goes to the null device from now on.
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
        self._end(error)

    def _end(self, error: OSError | ValueError) -> None:
        """Handles the first failure of the stream."""


class _Output(_Stream):
    """Standard output with its way to report a failure."""

    def __init__(self, stream: Any, is_result: bool):
        super().__init__(stream)
        self._is_result = is_result

    def _end(self, error: OSError | ValueError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        if not self._is_result:
            print(
                f"note: standard output takes no more ({reason}): the run goes on without it",
                file=sys.stderr,
            )
        elif isinstance(error, BrokenPipeError):
            raise SystemExit(128 + signal.SIGPIPE)
        else:
            from genmod._host.disk import DiskError

            raise DiskError(f"standard output cannot be written: {reason}") from error
