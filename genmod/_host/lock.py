"""One process at a time works in a run folder."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from genmod._host import disk

FILES = frozenset({"lock", "lock.json"})
"""What a lock leaves in a folder: the file that the system locks, and who holds it."""


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Holds a run folder, which is made if it is not there.

    The system lets go of it when the process ends, however it ends.

    Raises:
      ValueError: at once, if another process holds it, which is named; or if nothing can be written
        there.
    """
    folder = Path(folder)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_acquired(folder).release)
            stack.callback((folder / "lock.json").unlink, missing_ok=True)
            # Beside the locked file: older versions of filelock empty that one when they ask.
            holder = {"pid": os.getpid(), "host": socket.gethostname()}
            disk.write_json(folder / "lock.json", holder)
        except OSError as error:
            raise ValueError(
                f"run_dir {str(folder)!r} cannot be written: {error.strerror or error}; "
                "expected a folder that can"
            ) from error
        yield


def refuse_running(folder: str | Path) -> None:
    """Refuses a run folder that another process holds; changes nothing.

    Raises:
      ValueError: as `held` does.
    """
    folder = Path(folder)
    # What else may be wrong with the folder is for those to say who open it.
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
