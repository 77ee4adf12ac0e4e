"""Cores and memory that this process may use."""

import contextlib
import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cores() -> int:
    """Returns the number of cores that this process may use.

    XLA's CPU backend divides its sums into as many parts.
    """
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def memory() -> int:
    """Returns the bytes of memory that this process may use.

    This is the memory of the machine or the limit of its container, whichever is smaller.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _LIMITS):
        with contextlib.suppress(OSError, ValueError):  # no such file, or it holds "max"
            found.append(int(path.read_text()))
    return min(found)
