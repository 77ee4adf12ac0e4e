"""Data sets in files of one's own: IDX, NPZ, NPY, and folders of pictures.

Nothing in a file is ever executed: Python objects inside NPZ or NPY are refused.
"""

import functools
import gzip
import itertools
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmod.data.stores import Mapped
from genmod.decoding import Pictures, is_coloured
from genmod.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, uint8 [N, H, W, C], and labels, int32 [N]."""
Part = Callable[[], Arrays]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PARTS = {"train": "train", "t10k": "test", "test": "test"}
_IDX = re.compile(r"(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?$")
_FOLDERS = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation"), "val")


def checked(where: str, images: Any, labels: Any = None) -> Arrays:
    """Images and labels of any origin as genmod has them.

    Args:
      where: what to call them in an error.
      images: uint8 [N, H, W] or [N, H, W, C].
      labels: whole numbers of at least 0, [N]; all 0 if None.

    Raises:
      ValueError: if a shape or type is another, there is no image, or a label is out of range.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"{where}: images must be uint8 [N, H, W] or [N, H, W, C], grey values from 0 to 255, "
            f"got {images.dtype} {list(images.shape)}"
        )
    images = images[..., None] if images.ndim == 3 else images
    labels = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}: labels must be whole numbers [{len(images)}], one an image, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    if not 0 <= labels.min() <= labels.max() < 2**31:
        raise ValueError(
            f"{where}: labels must be from 0 to 2**31 - 1, got {labels.min()} to {labels.max()}"
        )
    return images, labels.astype(np.int32)


def idx_parts(where: str) -> dict[str, Part]:
    """The parts of a data set in the files of MNIST, Fashion-MNIST, KMNIST or EMNIST.

    Args:
      where: a folder, or where it holds several sets the beginning of a file's name in it, such as
        `gzip/emnist-letters`. EMNIST stores its images on their side and mirrored: those in files
        whose name begins with `emnist-`, as its own do, are read upright.

    Raises:
      DataError: if there is no such file, or one of a pair is missing.
    """
    path = Path(where).expanduser()
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    found: dict[str, dict[str, list[Path]]] = {}
    for file in sorted(folder.glob("*")) if folder.is_dir() else ():
        match = _IDX.search(file.name)
        if match and file.name.startswith(prefix):
            part = found.setdefault(_PARTS[match["part"]], {})
            part.setdefault(match["what"], []).append(file)
    if not found:
        raise DataError(
            f"{path}: holds no IDX files; expected names such as train-images-idx3-ubyte.gz and "
            "train-labels-idx1-ubyte.gz"
        )
    parts: dict[str, Part] = {}
    for name, files in found.items():
        if sorted(files) != ["images", "labels"] or any(len(f) > 1 for f in files.values()):
            names = ", ".join(file.name for group in files.values() for file in group)
            raise DataError(
                f"{path}: part {name!r} must be one file of images and one of labels, got {names}; "
                "of several sets in a folder, name one: idx:FOLDER/BEGINNING-OF-ITS-NAMES"
            )
        parts[name] = functools.partial(_read_pair, files["images"][0], files["labels"][0])
    return parts


def _read_pair(images: Path, labels: Path) -> Arrays:
    arrays = checked(str(images), read_idx(images), read_idx(labels))
    if images.name.startswith("emnist-"):
        # Cohen et al. (2017) wrote them column by column, as MATLAB has them.
        return np.ascontiguousarray(arrays[0].swapaxes(1, 2)), arrays[1]
    return arrays


def read_idx(path: Path, contents: bytes | None = None) -> np.ndarray:
    """An array of bytes in the IDX format, gzipped or not.

    Args:
      path: of the file.
      contents: of the file, where it has been read already.

    Raises:
      DataError: if the file is damaged, or holds no bytes.
    """
    try:
        contents = path.read_bytes() if contents is None else contents
        if contents[:2] == b"\x1f\x8b":
            contents = gzip.decompress(contents)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    # 0, 0, the type (8 is bytes), the rank, a size for each axis, the values.
    kind, rank = contents[:3], contents[3] if len(contents) > 3 else 0
    head = 4 + 4 * rank
    sizes = np.frombuffer(contents, ">i4", rank, 4).tolist() if len(contents) >= head else []
    whole = len(sizes) == rank > 0 and len(contents) == head + math.prod(sizes)
    if kind != b"\0\0\x08" or not whole:
        raise DataError(
            f"{path}: damaged, or no IDX file of bytes: it has {len(contents):,} bytes and begins "
            f"with {contents[:8].hex(' ')}"
        )
    return np.frombuffer(contents, np.uint8, offset=head).reshape(sizes)


def numpy_parts(where: str) -> dict[str, Part]:
    """The parts of a data set in an NPY file, or an NPZ file.

    An NPZ file holds `images` and, if there are any, `labels`; or `x_train`, `y_train`, `x_test`
    and `y_test`, as those of Keras do. Labels may also be a column [N, 1].

    Raises:
      DataError: if the file is missing or damaged, or holds Python objects.
      ValueError: if it does not hold such arrays.
    """
    path = Path(where).expanduser()
    try:
        with path.open("rb") as file:
            loaded = np.load(file)
            arrays = {"images": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; expected an NPY or NPZ file") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        why = str(error)
        if "Object arrays" in why:  # to make one again is to run what the file says
            why = "it holds Python objects, which are never loaded"
        elif "containing" in why:
            why = "it has not the format of NPY or NPZ"
        raise DataError(f"{path}: damaged, or no file of plain arrays: {why}") from None
    pairs = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
    pairs = {part: pair for part, pair in pairs.items() if pair[0] in arrays}
    pairs = pairs or {"train": ("images", "labels")}
    if "images" not in arrays and "x_train" not in arrays:
        raise ValueError(
            f"{path}: expected the arrays images (and labels), or x_train, y_train, x_test and "
            f"y_test, got {', '.join(sorted(arrays)) or 'none'}"
        )

    def read(images: str, labels: str) -> Arrays:
        column = arrays.get(labels)
        if column is not None and column.shape[1:] == (1,):
            column = column[:, 0]
        return checked(f"{path}: {images}", arrays[images], column)

    return {part: lambda pair=pair: read(*pair) for part, pair in pairs.items()}


def mapped(where: str) -> Mapped | None:
    """The images of an NPY file as they lie in it; None if they are not plain bytes in order."""
    path = Path(where).expanduser()
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return None
    plain = isinstance(array, np.memmap) and array.flags.c_contiguous and array.dtype == np.uint8
    if not plain or array.ndim not in (3, 4) or not array.size:
        return None
    return Mapped(path, array.offset, len(array), (*array.shape[1:], 1)[:3])


class Folder(NamedTuple):
    """A folder of pictures.

    Attributes:
      pictures: all of them.
      parts: places of the pictures of each part.
      state: of the pictures, what tells whether one has changed: names, lengths and times.
    """

    pictures: Pictures
    parts: dict[str, range]
    state: list[tuple[str, int, int]]

    def in_colour(self, part: str) -> bool:
        """Whether another part holds a picture in colour: then this one is in colour, too."""
        others = (places for name, places in self.parts.items() if name != part)
        return any(is_coloured(self.pictures.files[place]) for one in others for place in one)


def folder(where: str, *, size: int | None) -> Folder:
    """Lists a data set of pictures: FOLDER/CLASS/PICTURE, or all of one class in FOLDER.

    Folders `train`, `test` and `val` (or `valid`, `validation`) in it are its parts. Classes are
    numbered in the order of their names, over all parts.

    Args:
      where: the folder.
      size: side of the square to which each picture is resized and cropped; None leaves them.

    Raises:
      DataError: if there are no pictures.
    """
    root = Path(where).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: {'no folder' if root.exists() else 'missing'}; expected pictures")
    found = {root / name: part for name, part in _FOLDERS.items() if (root / name).is_dir()}
    listed: dict[str, list[tuple[str, str]]] = {}
    for one, part in (found or {root: "train"}).items():
        listed[part] = listed.get(part, []) + list(_pictures_in(one))
    files = [path for part in listed.values() for path, _ in part]
    if not files:
        raise DataError(f"{root}: holds no pictures; expected files {', '.join(PICTURES)}")
    classes = [name for part in listed.values() for _, name in part]
    numbers = {name: number for number, name in enumerate(sorted(set(classes)))}
    stats = ((path, os.stat(path)) for path in files)
    begins = len(os.path.join(root, ""))
    state = [(path[begins:], stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    ends = list(itertools.accumulate(map(len, listed.values()), initial=0))
    spans = zip(listed, itertools.pairwise(ends), strict=True)
    return Folder(
        Pictures(files, [numbers[name] for name in classes], size),
        {part: range(*span) for part, span in spans if span[0] < span[1]},
        state,
    )


def _pictures_in(folder: Path) -> Iterator[tuple[str, str]]:
    """Pictures with their class, the name of the folder they lie in below `folder`; in order."""
    # Of hundreds of thousands, paths as objects would take seconds.
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        name = Path(where).relative_to(folder).as_posix()
        for file in sorted(files):
            path = os.path.join(where, file)
            if file.lower().endswith(PICTURES) and file[0] != "." and os.path.isfile(path):
                yield path, name
