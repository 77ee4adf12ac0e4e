"""Lock of a run folder.

It makes sure that one process at a time works there.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from genmod._host import disk

FILES = frozenset({"lock", "lock.json"})
"""Names of a lock's files in a run folder.

The system locks the first; the second names the process that holds the lock.
"""


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Holds the lock of a run folder.

    The folder is created if it does not exist. The system releases the lock when the process ends,
    in whatever way.

    Raises:
      ValueError: immediately, if another process holds the lock (the message names it), or if
        nothing can be written in the folder.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_acquired(folder).release)
            stack.callback((folder / "lock.json").unlink, missing_ok=True)
            # The holder needs its own file: older versions of filelock empty the locked file when
            # they open it.
            holder = {"pid": os.getpid(), "host": socket.gethostname()}
            disk.write_json(folder / "lock.json", holder)
        except OSError as error:
            raise ValueError(
                f"run_dir {str(folder)!r} cannot be written: {error.strerror or error}; "
                "expected a folder that can"
            ) from error
        yield


def refuse_running(folder: str | Path) -> None:
    """Refuses a run folder that another process holds.

    It changes nothing in the folder.

    Raises:
      ValueError: if another process holds the lock, which the message names.
    """
    folder = Path(folder)
    # Other problems of the folder are reported by the code that opens it.
    with contextlib.suppress(OSError):
        if (folder / "lock").is_file():
            _acquired(folder).release()


def _acquired(folder: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            f"run_dir {str(folder)!r} is in use by {_holder(folder)}; "
            "expected to be alone: wait for it, stop it, or take another --run-dir"
        ) from None
    return lock


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / "lock.json").read_text())
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
