"""Data sets in files of one's own: IDX, NPZ, NPY, and folders of pictures.

Nothing in a file is ever executed: Python objects inside NPZ or NPY are refused.
"""

import functools
import gzip
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from genmod.data.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]
"""Images, uint8 [N, H, W, C], and labels, int32 [N]."""
Part = Callable[[], Arrays]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_PARTS = {"train": "train", "t10k": "test", "test": "test"}
_IDX = re.compile(r"(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?$")
_GREY = ("1", "L", "LA")


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


def folder_parts(
    where: str, *, size: int | None, skip_corrupt: bool
) -> tuple[dict[str, Part], list[tuple[str, int, int]]]:
    """The parts of a data set of pictures: FOLDER/CLASS/PICTURE, or all of one class in FOLDER.

    Folders `train` and `test` (or `val`) in it are its parts. Classes are numbered in the order of
    their names, over all parts. Pictures are turned as their EXIF says, and are grey if all are
    grey and colour else.

    Args:
      where: the folder.
      size: side of the square to which each picture is resized (bicubic, its shorter side) and
        cropped (its middle); None leaves them as they are.
      skip_corrupt: leave out pictures that cannot be read, with a warning that counts them.

    Returns:
      The parts, and what tells whether a picture has changed: their names, lengths and times.

    Raises:
      DataError: if there are no pictures; when read, if one is damaged.
      ValueError: when read, if their sizes differ and size is None.
    """
    root = Path(where).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: {'no folder' if root.exists() else 'missing'}; expected pictures")
    roots = {"train": "train", "test": "test", "val": "test"}
    parts = {part: root / name for name, part in roots.items() if (root / name).is_dir()}
    listed = {part: _listed(folder) for part, folder in (parts or {"train": root}).items()}
    if not any(listed.values()):
        raise DataError(f"{root}: holds no pictures; expected files {', '.join(PICTURES)}")
    classes = sorted({name for files in listed.values() for name in files.values()})
    numbers = {name: number for number, name in enumerate(classes)}
    stats = ((path, path.stat()) for files in listed.values() for path in files)
    state = [(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    read = {
        part: functools.partial(_read_pictures, files, numbers, size, skip_corrupt)
        for part, files in listed.items()
        if files
    }
    return read, state


def _listed(folder: Path) -> dict[Path, str]:
    """Pictures by their class: the name of the folder they lie in, below `folder`."""
    named = [path for path in sorted(folder.rglob("[!.]*")) if path.suffix.lower() in PICTURES]
    return {p: p.relative_to(folder).parent.as_posix() for p in named if p.is_file()}


def _read_pictures(
    files: Mapping[Path, str], numbers: Mapping[str, int], size: int | None, skip_corrupt: bool
) -> Arrays:
    from tqdm.auto import tqdm

    def read(path: Path) -> np.ndarray | DataError:
        try:
            return read_picture(path, size)
        except DataError as error:
            return error

    with ThreadPoolExecutor() as threads:
        bar = tqdm(threads.map(read, files), "pictures", len(files), leave=False, disable=None)
        found = dict(zip(files, bar, strict=True))
    errors = [value for value in found.values() if isinstance(value, DataError)]
    if errors and (not skip_corrupt or len(errors) == len(files)):
        raise DataError(
            f"{errors[0]}" + f" (and {len(errors) - 1} others)" * (len(errors) > 1)
        ) from errors[0]
    if errors:
        warnings.warn(
            f"{len(errors)} of {len(files)} pictures cannot be read and are left out, "
            f"the first: {errors[0]}",
            stacklevel=2,
        )
    pictures = {path: value for path, value in found.items() if isinstance(value, np.ndarray)}
    shapes = {value.shape[:2]: path for path, value in pictures.items()}
    if len(shapes) > 1:
        (a, first), (b, second), *_ = shapes.items()
        raise ValueError(
            f"pictures must have one size, got {list(a)} ({first}) and {list(b)} ({second}); "
            "give the size to which to resize and crop them: image_size"
        )
    depth = max(value.shape[2] for value in pictures.values())
    images = np.empty((len(pictures), *next(iter(shapes)), depth), np.uint8)
    for row, value in zip(images, pictures.values(), strict=True):
        row[:] = value  # a grey one among colours has three equal channels
    return images, np.array([numbers[files[path]] for path in pictures], np.int32)


def read_picture(path: Path, size: int | None) -> np.ndarray:
    """One picture, uint8 [H, W, 1] if it is grey and [H, W, 3] else.

    Raises:
      DataError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if opened.mode.startswith(("I", "F")):
                raise ValueError(f"it has the mode {opened.mode}; expected 8 bits a channel")
            picture = ImageOps.exif_transpose(opened)
            picture = picture.convert("L" if picture.mode in _GREY else "RGB")
            if size is not None:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            values = np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise DataError(
            f"{path}: cannot be read ({error}); mend or delete it, or leave out what cannot be "
            "read: skip_corrupt"
        ) from error
    return values[..., None] if values.ndim == 2 else values
