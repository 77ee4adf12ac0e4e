"""Atomic writing of files, and errors of disks."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Names that represent non-finite numbers in JSON."""


class DiskError(OSError):
    """Error: a file cannot be written.

    The cause is a full disk, a quota, a limit, or a failing or read-only device.
    """


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns disk errors into a DiskError that names `path`.

    Raises:
      DiskError: if the disk refuses to write; the message gives the path, the reason and the free
        space on the disk. Other errors pass unchanged.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        message = f"{path}: cannot be written: {reason}; {_free(Path(path))} free on that disk"
        raise DiskError(message) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file that takes the place of `path` once it is complete.

    Nobody ever sees the file half-written, nor empty after a power cut.

    Raises:
      DiskError: if it cannot be written; an existing file stays unchanged.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically, as `replacing` does.

    Raises:
      DiskError: if it cannot be written; an existing file stays unchanged.
    """
    with replacing(path) as file:
        file.write(json_text(content).encode())


def json_text(content: Mapping[str, Any]) -> str:
    """Returns the text that `write_json` writes."""
    return json.dumps(_as_json(content), indent=2, allow_nan=False) + "\n"


def json_line(content: Mapping[str, Any]) -> str:
    """Returns content as one line of JSON."""
    return json.dumps(_as_json(content), allow_nan=False)


def numbers(content: Any) -> Any:
    """Restores non-finite numbers in content that was read from JSON.

    Names such as "NaN" become numbers. Use it only for content without other strings. The NaN that
    earlier versions wrote in Python's way is accepted too, and so is null, which other programs
    write.
    """
    if content is None:
        return math.nan
    if isinstance(content, dict):
        return {name: numbers(value) for name, value in content.items()}
    if isinstance(content, list):
        return [numbers(value) for value in content]
    return NOT_FINITE.get(content, content) if isinstance(content, str) else content


def named(value: float) -> str:
    """Returns a non-finite number's name, a key of `NOT_FINITE`."""
    return json.dumps(float(value))


def _as_json(content: Any) -> Any:
    """Replaces non-finite numbers by names, as JSON lacks them."""
    if isinstance(content, Mapping):
        return {name: _as_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_as_json(value) for value in content]
    return content if not isinstance(content, float) or math.isfinite(content) else named(content)


def sync_folder(path: Path) -> None:
    """Makes the file names in a folder survive a power cut.

    Syncing the files themselves saves only their contents.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _reason(error: BaseException | None) -> str | None:
    """Returns why the disk refused, given an error.

    The causes of the error are searched as well. The result is None if it is not a disk error.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.strerror
        # TensorStore, which Orbax uses, raises ValueError with the error number in its text.
        found = re.search(r"os_error_code='?(\d+)", str(error))
        if found and int(found[1]) in errno.errorcode:
            return os.strerror(int(found[1]))
        error = error.__cause__
    return None


def _free(path: Path) -> str:
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:,.1f} MB"
