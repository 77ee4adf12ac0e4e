"""Notes on standard error about choices and left-out data."""

import contextlib
import functools
import sys
from collections.abc import Sequence

from genmod._host.words import counted

_SHOWN = 3


@functools.cache
def say(remark: str) -> None:
    """Prints `note: REMARK` to standard error, once per process.

    This is not a Python warning, because a deliberate choice is not a mistake, and programs that
    turn warnings into errors must still be able to train.
    """
    if sys.stderr is None:  # print would write to standard output
        return
    with contextlib.suppress(OSError):  # a closed pipe must not end a run
        print(f"note: {remark}", file=sys.stderr, flush=True)


def named(names: Sequence[str]) -> str:
    """Lists the first few names and counts the others."""
    rest = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {counted(rest, 'other')}" if rest > 0 else shown
