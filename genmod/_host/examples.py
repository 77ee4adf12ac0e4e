"""Examples that are decoded one by one.

They are picture files and prepared data sets of tensorflow-datasets (TFDS). The processes that
decode import this module, so it needs neither JAX nor other folders of genmod.
"""

import bisect
import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from genmod.errors import DataError

_GREY = ("1", "L", "LA")
_MOST_PIXELS = 2**29
"""Largest number of pixels of a picture that is resized.

Decoding so many pixels in colour takes 1.6 GB.
"""
BACKGROUNDS = ("white", "black")
_LAID = {
    ground: f"have transparent places, which are laid on {ground} (background)"
    for ground in BACKGROUNDS
}
_PAGES = "have several pages or frames, of which the first is taken"


class Example(NamedTuple):
    """Decoded image with its label.

    Attributes:
      image: uint8 [H, W, C].
      label: label of the image.
      traits: notes on changes beyond decoding, each worded to follow the subject "pictures".
    """

    image: np.ndarray
    label: int
    traits: tuple[str, ...] = ()


class Examples(Protocol):
    """Examples that are stored one by one and decoded when needed."""

    @property
    def depth(self) -> int:
        """Largest number of channels of an image.

        A grey image is repeated in all channels.
        """
        ...

    def __len__(self) -> int: ...

    def some(self, indices: Sequence[int]) -> Self:
        """Returns the examples at some indices.

        The result holds only what is needed to read these examples.
        """
        ...

    def read(self, index: int) -> Example:
        """Reads and decodes one example.

        Raises:
          DataError: if it cannot be read.
        """
        ...

    def where(self, index: int) -> str:
        """Returns the name of an example for errors."""
        ...


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture files.

    Attributes:
      files: paths of the pictures.
      labels: class of each picture.
      size: side of the square to which each picture is resized (bicubic, its shorter side) and
        cropped (its middle); None keeps the sizes.
      background: background for transparent areas, "white" or "black".
      depth: number of channels of a picture in colour.
    """

    files: Sequence[str]
    labels: Sequence[int]
    size: int | None = None
    background: str = "white"
    depth: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def some(self, indices: Sequence[int]) -> "Pictures":
        """Returns the pictures at some indices."""
        chosen = [[of[index] for index in indices] for of in (self.files, self.labels)]
        return dataclasses.replace(self, files=chosen[0], labels=chosen[1])

    def read(self, index: int) -> Example:
        """Reads and decodes one picture.

        The picture is turned as its EXIF data say. It has one channel if it is grey, else three.

        Raises:
          DataError: if it cannot be read.
        """
        image, traits = read_picture(self.files[index], self.size, self.background)
        return Example(image, self.labels[index], traits)

    def where(self, index: int) -> str:
        """Returns the path of a picture."""
        return self.files[index]


def head(path: str) -> tuple[tuple[int, int], bool] | None:
    """Reads a picture's size, and whether it is in colour.

    The size is (width, height). The result is None if the picture cannot be read.
    """
    try:
        with _open(path)[0] as picture:
            return picture.size, picture.mode not in _GREY
    except Exception:  # Pillow's decoders raise whatever they meet
        return None


def is_coloured(path: str) -> bool:
    """Returns whether a picture is in colour.

    The file's header says so. The result is False if the picture cannot be read.
    """
    found = head(path)
    return found is not None and found[1]


def read_picture(
    path: str, size: int | None, background: str = "white"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads and decodes one picture.

    Args:
      path: path of the picture.
      size: side of the square to which it is resized and cropped, as in `Pictures`, or None.
      background: background for transparent areas, "white" or "black".

    Returns:
      The picture, uint8 [H, W, 1] if it is grey, else [H, W, 3]; and its traits, as in `Example`.

    Raises:
      DataError: if it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        picture, most = _open(path)
        with picture:
            _refuse_large(picture, most, size)
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"it has the mode {picture.mode}; expected 8 bits a channel")
            # A camera adds the second picture of an MPO file for other kinds of displays.
            several = getattr(picture, "is_animated", False) and picture.format != "MPO"
            ImageOps.exif_transpose(picture, in_place=True)
            picture, is_laid = _laid(picture, background)
            mode = "L" if picture.mode in _GREY else "RGB"
            if picture.mode != mode:
                picture = picture.convert(mode)
            if size is not None:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            values = np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise whatever they meet
        raise DataError(
            f"{path}: cannot be read ({error}); mend or delete it, or leave out what cannot be "
            "read: skip_corrupt"
        ) from error
    traits = (*[_PAGES] * several, *[_LAID[background]] * is_laid)
    return values[..., None] if values.ndim == 2 else values, traits


def _open(path: str) -> tuple[Any, int | None]:
    """Opens a picture of any size without decoding it.

    Returns:
      The picture, and Pillow's limit on the number of pixels.
    """
    from PIL import Image

    # Pillow would refuse a large picture when it is opened, even if it will be made smaller.
    with _opening:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path), most
        finally:
            Image.MAX_IMAGE_PIXELS = most


_opening = threading.Lock()


def _refuse_large(picture: Any, most: int | None, size: int | None) -> None:
    """Refuses a picture that is too large for the memory."""
    if most is None or picture.width * picture.height <= most:
        return
    claimed = f"it claims {picture.width} x {picture.height} pixels; expected at most"
    if size is None:
        raise ValueError(
            f"{claimed} {most:,}, or that they be made small: the size to which to resize and crop "
            "pictures is image_size"
        )
    # Pillow can decode a JPEG, but no other format, at down to 1/8 of its size, in little memory.
    picture.draft(None, (2 * size, 2 * size))
    if picture.width * picture.height > max(most, _MOST_PIXELS):
        raise ValueError(f"{claimed} {max(most, _MOST_PIXELS):,}")


def _laid(picture: Any, background: str) -> tuple[Any, bool]:
    """Fills transparent areas with the background.

    Returns:
      The opaque picture, and whether it had transparent areas.
    """
    from PIL import Image

    if not picture.has_transparency_data:
        return picture, False
    opaque = "L" if picture.mode in _GREY else "RGB"
    layer = picture.convert("LA" if opaque == "L" else "RGBA")
    alpha = layer.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return picture, False
    laid = Image.new(opaque, layer.size, background)
    laid.paste(layer.convert(opaque), mask=alpha)
    return laid, True


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Split of a data set that tensorflow-datasets has prepared.

    It is stored as array_record.

    Attributes:
      folder: folder of the prepared version.
      split: the split, in the syntax of tensorflow-datasets.
      indices: indices of the examples within the split.
      state: names of the files with `cache.file_state`, which change if a file changes.
      depth: number of channels of an image.
      classes: names of the labels; empty if they have none.
      factors: names of the features that are factors of variation, with their numbers of values. If
        there are any, the label of an example is the number of its combination, in C order.
    """

    folder: str
    split: str
    indices: Sequence[int]
    state: tuple[tuple[Any, ...], ...]
    depth: int
    classes: tuple[str, ...] = ()
    factors: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def some(self, indices: Sequence[int]) -> "Prepared":
        """Returns the examples at some indices."""
        return dataclasses.replace(self, indices=[self.indices[index] for index in indices])

    def read(self, index: int) -> Example:
        """Reads and decodes one example.

        Raises:
          DataError: if it cannot be read.
        """
        source, _ = _prepared(self.folder, self.split, self.state)
        try:
            example = source[self.indices[index]]
            # TFDS reads past the end of a truncated file without error and returns None.
            return Example(example["image"], self._label(example))
        except ImportError:  # Pillow is not installed
            raise
        except Exception as error:
            file, example = self._where(index)
            raise DataError(
                f"{file}: damaged or missing: {example} cannot be read ({error}); delete "
                f"{self.folder} and prepare the data set again"
            ) from error

    def _label(self, example: Mapping[str, Any]) -> int:
        if not self.factors:
            return int(example["label"])
        names, sizes = zip(*self.factors, strict=True)
        return int(np.ravel_multi_index([int(example[name]) for name in names], sizes))

    def where(self, index: int) -> str:
        """Returns the file and the number of an example."""
        return ": ".join(self._where(index))

    def _where(self, index: int) -> tuple[str, str]:
        number = self.indices[index]
        _, files = _prepared(self.folder, self.split, self.state)
        ends = list(itertools.accumulate(part.take for part in files))
        file = files[bisect.bisect(ends, number)].filename
        return str(file), f"example {number} of split {self.split!r}"


@functools.lru_cache(maxsize=4)
def _prepared(folder: str, split: str, state: Any) -> tuple[Any, Any]:
    """Opens a prepared split; returns its examples and files."""
    del state  # a part of the cache's key: changed files are opened again
    import tensorflow_datasets as tfds

    # absl would repeat its advice in each process.
    logging.getLogger("absl").addFilter(_no_advice)
    builder = tfds.core.read_only_builder.builder_from_directory(folder)
    source = builder.as_data_source(split=split, file_format="array_record")
    return source, builder.info.splits[split].file_instructions


def _no_advice(record: logging.LogRecord) -> bool:
    return "OpenCV is not installed" not in record.getMessage()
