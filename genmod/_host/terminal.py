"""Standard output and standard error, as a command needs them.

They may be closed, a pipe whose reader goes away, a full disk, a terminal that hangs up, or unable
to spell a name. None of that is a reason to lose a run: while one trains, what cannot be printed is
left out. A command whose result is what it prints ends instead, without a traceback.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}
"""How each standard stream is opened, in the order of their descriptors."""


def open_descriptors() -> None:
    """Opens the descriptors 0, 1 and 2 onto nothing where they are closed.

    Else the next file that is opened gets one of them, and what is printed goes into that file.
    """
    for number, (name, mode) in enumerate(_MODES.items()):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)  # also where they are one: then it is handed on to children
            if nothing != number:
                os.close(nothing)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


@contextlib.contextmanager
def guarded(*, is_result: bool = False) -> Iterator[None]:
    """While this lasts, printing raises no error.

    A character that a stream cannot spell is written as its escape. Once a stream
    takes no more, what is printed there is left out; of standard output that is said once, on
    standard error.

    Args:
      is_result: whether what is printed is what the command is for. Then it ends where standard
        output takes no more: by SystemExit with 128 + SIGPIPE where its reader went away, else by
        DiskError.
    """
    if isinstance(sys.stdout, _Stream):  # within another one, which is for the whole command
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
    """Writes a line as a signal's handler or another thread may, and never fails."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{text}\n".encode(errors="backslashreplace"))


class _Stream:
    """A stream to which one can always write; in all else it is the one it stands for."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._gone = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            return 0 if self._gone else self._stream.write(text)
        except UnicodeEncodeError:
            coding = self._stream.encoding
            return self.write(text.encode(coding, "backslashreplace").decode(coding))
        except (OSError, ValueError) as error:
            self._refused(error)
            return 0

    def writelines(self, lines: Any) -> None:
        """Writes what can be written of each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Has written what can be written."""
        try:
            if not self._gone:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._refused(error)

    def _refused(self, error: OSError | ValueError) -> None:
        if isinstance(error, BlockingIOError):
            return  # its reader is slow: this is lost, and the next may not be
        if isinstance(error, ValueError) and not self._stream.closed:
            raise error
        self._gone = True
        # What still lies in its buffer is written when Python ends, and libraries write to the
        # descriptor itself: that goes nowhere from now on.
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)
        self._end(error)

    def _end(self, error: OSError | ValueError) -> None:
        """Does what is to be done about it, once."""


class _Output(_Stream):
    """Standard output."""

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
