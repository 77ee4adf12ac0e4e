"""Remarks about data: what was chosen or left out, said where a person reads it."""

import contextlib
import functools
import sys
from collections.abc import Sequence

_SHOWN = 3


@functools.cache
def say(remark: str) -> None:
    """Prints `note: REMARK` to standard error, once in a process.

    No warning: a choice that has been made is no mistake, and programs that turn warnings into
    errors shall train all the same.
    """
    if sys.stderr is None:  # print would take standard output
        return
    with contextlib.suppress(OSError):  # a reader that went away is no reason to lose a run
        print(f"note: {remark}", file=sys.stderr, flush=True)


def named(names: Sequence[str]) -> str:
    """The first few of some names, and how many others there are."""
    rest = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {rest:,} other{'s' * (rest > 1)}" if rest > 0 else shown
