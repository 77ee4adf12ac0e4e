"""NPZ files that are written atomically, chunk by chunk."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

import numpy as np

from genmod._host import disk


def write_npz(
    path: Path,
    name: str,
    num: int,
    rows: Iterable[np.ndarray],
    others: Callable[[], dict[str, np.ndarray]],
) -> None:
    """Writes an NPZ file, of which one array need not fit into memory.

    Args:
      path: the file, which is replaced once it is complete.
      name: name of this array.
      num: its length.
      rows: its rows, chunk by chunk.
      others: function that returns the other arrays by name, after all rows are written.

    Raises:
      DiskError: if it cannot be written.
    """
    with disk.replacing(path) as raw, zipfile.ZipFile(raw, "w") as archive:
        # An entry made by ZipInfo has no time: the same arrays give the same file.
        with archive.open(_entry(name), "w", force_zip64=True) as file:
            _write_rows(file, num, rows)
        for other, value in others().items():
            with archive.open(_entry(other), "w", force_zip64=True) as file:
                _write_rows(file, len(value), [value])


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")


def _write_rows(file: IO[bytes], num: int, rows: Iterable[np.ndarray]) -> None:
    """Writes an array of `num` rows in the format of NPY."""
    for number, some in enumerate(rows):
        if not number:
            header = np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(some))
            header["shape"] = (num, *some.shape[1:])
            np.lib.format.write_array_header_2_0(file, header)
        file.write(np.ascontiguousarray(some).tobytes())
