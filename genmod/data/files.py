"""Data sets in users' own files: IDX, NPZ and NPY.

Nothing in a file is ever executed: Python objects inside NPZ or NPY are refused.
"""

import functools
import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genmod.data.cache import DARK
from genmod.data.notes import named, say
from genmod.data.stores import MappedStore
from genmod.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, uint8 [N, H, W, C], and labels, int32 [N]."""
Part = Callable[[], Arrays]

_PARTS = {"train": "train", "t10k": "test", "test": "test"}
_IDX = re.compile(r"(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?$")
_LABELS = re.compile(
    r"(.*_)?(labels?|y|targets?|class|classes|categor(y|ies))(_.*)?", re.IGNORECASE
)


def checked(where: str, images: Any, labels: Any = None) -> Arrays:
    """Checks images and labels and converts them.

    Args:
      where: name of the data for errors.
      images: uint8 [N, H, W] or [N, H, W, C].
      labels: whole numbers of at least 0, [N]; all 0 if None.

    Raises:
      ValueError: if a shape or type is wrong, there is no image, or a label is out of range.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not images.size:
        raise ValueError(
            f"{where}: images must be uint8 [N, H, W] or [N, H, W, C], grey values from 0 to 255, "
            f"got {images.dtype} {list(images.shape)}{_towards_bytes(images)}"
        )
    images = images[..., None] if images.ndim == 3 else images
    refuse_channels(where, images.shape)
    if images.max() <= 1:
        say(f"{where}: {DARK}")
    labels = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{where}: labels must be whole numbers [{len(images)}], one per image, "
            f"got {labels.dtype} {list(labels.shape)}{_towards_numbers(labels)}"
        )
    if not 0 <= labels.min() <= labels.max() < 2**31:
        raise ValueError(
            f"{where}: labels must be from 0 to 2**31 - 1, got {labels.min()} to {labels.max()}"
        )
    return images, labels.astype(np.int32)


def refuse_channels(where: str, shape: Sequence[int]) -> None:
    """Refuses images that are neither grey nor in colour.

    Args:
      where: name of the data for errors.
      shape: shape of the images, [N, H, W, C].

    Raises:
      ValueError: if C is not 1 or 3; the message suggests what the array may be instead.
    """
    if shape[3] in (1, 3):
        return
    hint = ""
    if shape[1] in (1, 3):
        hint = f"; is it [N, C, H, W] with C = {shape[1]}? then images.transpose(0, 2, 3, 1) is"
    elif shape[3] in (2, 4):
        hint = "; if the last channel is opacity, lay the images on a ground and leave it out"
    raise ValueError(
        f"{where}: images must be [N, H, W, C] with C = 1 (grey) or 3 (colours), "
        f"got {list(shape)}{hint}"
    )


def _towards_bytes(images: np.ndarray) -> str:
    """Returns a hint for converting images to bytes."""
    if not images.size or images.ndim not in (3, 4) or images.dtype == np.uint8:
        return ""
    if images.dtype == bool:
        return "; 255 * images.astype(np.uint8) converts them"
    if images.dtype.kind not in "iuf":
        return ""
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
        return "; (255 * images).round().astype(np.uint8) converts them"
    if 0 <= low <= high <= 255:
        return "; images.astype(np.uint8) converts them"
    return f", from {low:g} to {high:g}"


def _towards_numbers(labels: np.ndarray) -> str:
    """Returns a hint for converting labels to integers."""
    if labels.ndim == 2 and labels.dtype.kind in "iufb" and (labels.sum(axis=1) == 1).all():
        return "; are they one-hot? then labels.argmax(axis=1)"
    if labels.ndim == 1 and labels.dtype.kind == "f" and (labels == labels.round()).all():
        return "; labels.astype(np.int32) converts them"
    if labels.ndim == 1 and labels.dtype.kind in "USO":
        return "; np.unique(labels, return_inverse=True)[1] numbers them"
    return ""


def idx_parts(where: str) -> dict[str, Part]:
    """Returns the parts of a data set of IDX files.

    This is the file format of MNIST, Fashion-MNIST, KMNIST and EMNIST. EMNIST stores its images
    rotated and mirrored; images in files whose names begin with `emnist-`, as those of EMNIST do,
    are turned upright.

    Args:
      where: a folder or, if it holds several data sets, the folder with the beginning of the file
        names, such as `gzip/emnist-letters`.

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
        # Cohen et al. (2017) wrote the images column by column, as MATLAB stores them.
        return np.ascontiguousarray(arrays[0].swapaxes(1, 2)), arrays[1]
    return arrays


def read_idx(path: Path, contents: bytes | None = None) -> np.ndarray:
    """Reads an IDX file of bytes, gzipped or not.

    Args:
      path: path of the file.
      contents: the file's contents if it has been read already.

    Raises:
      DataError: if the file is damaged, or its values are not bytes.
    """
    try:
        contents = path.read_bytes() if contents is None else contents
        if contents[:2] == b"\x1f\x8b":
            contents = gzip.decompress(contents)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged: {error}") from None
    # The file holds 0, 0, the type (8 is bytes), the rank, a size for each axis, and the values.
    kind, rank = contents[:3], contents[3] if len(contents) > 3 else 0
    head = 4 + 4 * rank
    sizes = np.frombuffer(contents, ">i4", rank, 4).tolist() if len(contents) >= head else []
    whole = len(sizes) == rank > 0 and len(contents) == head + math.prod(sizes)
    if kind != b"\0\0\x08" or not whole:
        raise DataError(
            f"{path}: damaged, or not an IDX file of bytes: it has {len(contents):,} bytes and "
            f"begins with {contents[:8].hex(' ')}"
        )
    return np.frombuffer(contents, np.uint8, offset=head).reshape(sizes)


def numpy_parts(where: str) -> dict[str, Part]:
    """Returns the parts of an NPY or NPZ file.

    An NPZ file holds `images` and optionally `labels`; or, as the files of Keras do, `x_train`,
    `y_train`, `x_test` and `y_test`, and optionally `x_val` and `y_val`. Labels may also be a
    column [N, 1]. A note names the arrays that are not used.

    Raises:
      DataError: if the file is missing or damaged, or holds Python objects.
      ValueError: if it does not hold such arrays, or the labels have another name.
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
        if "Object arrays" in why:  # restoring an object executes code from the file
            why = "it holds Python objects, which are never loaded"
        elif "containing" in why:
            why = "it does not have the format of NPY or NPZ"
        raise DataError(f"{path}: damaged, or not a file of plain arrays: {why}") from None
    pairs = {part: (f"x_{part}", f"y_{part}") for part in ("train", "test", "val")}
    pairs = {part: pair for part, pair in pairs.items() if pair[0] in arrays}
    pairs = pairs if "train" in pairs else {"train": ("images", "labels")}
    if pairs["train"][0] not in arrays:
        raise ValueError(
            f"{path}: expected the arrays images (and labels), or x_train, y_train, x_test and "
            f"y_test, got {', '.join(sorted(arrays)) or 'none'}"
        )
    unused = sorted(set(arrays) - {name for pair in pairs.values() for name in pair})
    lacking = [pair for pair in pairs.values() if pair[1] not in arrays]
    for images, labels in lacking:
        _refuse_other_labels(path, arrays, unused, images, labels)
    if len(lacking) < len(pairs):
        for images, labels in lacking:
            say(f"{path}: there is no array {labels!r}: all labels of {images!r} are 0")
    if unused:
        say(f"{path}: arrays that are not used: {named(unused)}")

    def read(images: str, labels: str) -> Arrays:
        column = arrays.get(labels)
        if column is not None and column.shape[1:] == (1,):
            column = column[:, 0]
        return checked(f"{path}: {images}", arrays[images], column)

    return {part: lambda pair=pair: read(*pair) for part, pair in pairs.items()}


def _refuse_other_labels(
    path: Path, arrays: dict[str, np.ndarray], unused: Sequence[str], images: str, labels: str
) -> None:
    """Refuses an unused array that seems to hold labels."""
    for name in unused:
        if _LABELS.fullmatch(name) and arrays[name].shape[:1] == arrays[images].shape[:1]:
            raise ValueError(
                f"{path}: there is no array {labels!r}, but {name!r} holds "
                f"{len(arrays[name]):,} values, one per image: call it {labels!r}"
            )


def mapped(where: str) -> MappedStore | None:
    """Returns an NPY file's images as a view of the file.

    The result is None if the file does not hold images as plain bytes in C order.
    """
    path = Path(where).expanduser()
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return None
    plain = isinstance(array, np.memmap) and array.flags.c_contiguous and array.dtype == np.uint8
    if not plain or array.ndim not in (3, 4) or not array.size:
        return None
    if array.ndim == 4:
        refuse_channels(str(path), array.shape)
    return MappedStore(path, array.offset, len(array), (*array.shape[1:], 1)[:3])
