"""The processor, and the cores and memory that this process may use."""

import contextlib
import os
import platform
from pathlib import Path

_CPU = Path("/proc/cpuinfo")
_VECTORS = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "sve")
"""Beginnings of the names of the vector extensions that compilers choose between."""
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def cores() -> int:
    """Returns the number of cores that this process may use.

    XLA's CPU backend divides its sums into as many parts.
    """
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def cpu() -> str:
    """Describes the processor: model, and vector extensions.

    XLA compiles for exactly this processor, and results of another kind differ in the last bits.
    """
    try:
        lines = _CPU.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    facts = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    numbers = [name for name in ("cpu family", "model", "stepping") if name in facts]
    words = [facts.get("model name", ""), *(f"{name} {facts[name]}" for name in numbers)]
    flags = facts.get("flags") or facts.get("Features", "")
    words.append(" ".join(sorted(flag for flag in flags.split() if flag.startswith(_VECTORS))))
    return ", ".join(filter(None, words))


def memory() -> int:
    """Returns the bytes of memory that this process may use.

    This is the memory of the machine or the limit of its container, whichever is smaller.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, _LIMITS):
        with contextlib.suppress(OSError, ValueError):  # no such file, or it holds "max"
            found.append(int(path.read_text()))
    return min(found)
