"""Files that are whole or not there, and what is said where the disk takes no more."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""What stands in JSON for numbers that it does not have."""


class DiskError(OSError):
    """A file cannot be written: a full disk, a quota, a limit, a failing or a read-only device."""


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Around what writes `path`: a refusal of the disk becomes an error that names it.

    Raises:
      DiskError: with the path, the reason and the free space of its disk. Other errors pass.
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is never seen half-written, nor empty after a power cut.

    Raises:
      DiskError: if it cannot be written; what was there before is left as it was.
    """
    partial = path.with_suffix(".partial")
    with writing(path):
        try:
            with partial.open("w") as file:
                file.write(json_text(content))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def json_text(content: Mapping[str, Any]) -> str:
    """What `write_json` writes."""
    return json.dumps(_as_json(content), indent=2, allow_nan=False) + "\n"


def json_line(content: Mapping[str, Any]) -> str:
    """The same in a line."""
    return json.dumps(_as_json(content), allow_nan=False)


def numbers(content: Any) -> Any:
    """What was read from JSON, with the numbers that are not finite in place of their names.

    Only for what holds no other text: earlier versions wrote NaN as Python does, which is read too,
    and so is null, which other programs write.
    """
    if content is None:
        return math.nan
    if isinstance(content, dict):
        return {name: numbers(value) for name, value in content.items()}
    if isinstance(content, list):
        return [numbers(value) for value in content]
    return NOT_FINITE.get(content, content) if isinstance(content, str) else content


def named(value: float) -> str:
    """The name of a number that is not finite, a key of `NOT_FINITE`."""
    return json.dumps(float(value))


def _as_json(content: Any) -> Any:
    """The same with the names of numbers that are not finite: JSON has no such numbers."""
    if isinstance(content, Mapping):
        return {name: _as_json(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_as_json(value) for value in content]
    return content if not isinstance(content, float) or math.isfinite(content) else named(content)


def sync_folder(path: Path) -> None:
    """Has the names in a folder survive a power cut; only the files' contents are not enough."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _reason(error: BaseException | None) -> str | None:
    """Why the disk refused, from an error or from what caused it; None if it did not."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.strerror
        # TensorStore, below Orbax, raises ValueError with the number in its text.
        found = re.search(r"os_error_code='?(\d+)", str(error))
        if found and int(found[1]) in errno.errorcode:
            return os.strerror(int(found[1]))
        error = error.__cause__
    return None


def _free(path: Path) -> str:
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:,.1f} MB"
