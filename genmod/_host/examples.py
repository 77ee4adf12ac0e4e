"""Examples that are decoded one by one: picture files, and what tensorflow-datasets has prepared.

Each process that decodes imports this module, which therefore needs neither JAX nor other folders.
"""

import bisect
import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from genmod.errors import DataError

_GREY = ("1", "L", "LA")
_MOST_PIXELS = 2**29
"""Of a picture that is made small: 1.6 GB while it is decoded in colour."""
BACKGROUNDS = ("white", "black")
_LAID = {
    ground: f"have transparent places, which are laid on {ground} (background)"
    for ground in BACKGROUNDS
}
_PAGES = "have several pages or frames, of which the first is taken"


class Example(NamedTuple):
    """An image as it was decoded.

    Attributes:
      image: uint8 [H, W, C].
      label: its label.
      traits: what was done with it beyond decoding, in words that go on after "pictures".
    """

    image: np.ndarray
    label: int
    traits: tuple[str, ...] = ()


class Examples(Protocol):
    """Examples that are stored each by itself, and decoded when they are wanted."""

    @property
    def depth(self) -> int:
        """The most channels that an image may have; a grey one is repeated in all of them."""
        ...

    def __len__(self) -> int: ...

    def some(self, places: Sequence[int]) -> Self:
        """Those at some places alone, with no more than is needed to read them."""
        ...

    def read(self, place: int) -> Example:
        """One of them.

        Raises:
          DataError: if it cannot be read.
        """
        ...

    def where(self, place: int) -> str:
        """What to call one of them in an error."""
        ...


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Picture files.

    Attributes:
      files: their paths.
      labels: the class of each.
      size: side of the square to which each is resized (bicubic, its shorter side) and cropped (its
        middle); None leaves them as they are.
      background: the ground on which transparent places are laid, white or black.
    """

    files: Sequence[str]
    labels: Sequence[int]
    size: int | None = None
    background: str = "white"
    depth: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def some(self, places: Sequence[int]) -> "Pictures":
        """As in `Examples`."""
        chosen = [[of[place] for place in places] for of in (self.files, self.labels)]
        return dataclasses.replace(self, files=chosen[0], labels=chosen[1])

    def read(self, place: int) -> Example:
        """As in `Examples`: turned as its EXIF says; one channel if it is grey, else three."""
        image, traits = read_picture(self.files[place], self.size, self.background)
        return Example(image, self.labels[place], traits)

    def where(self, place: int) -> str:
        """As in `Examples`."""
        return self.files[place]


def head(path: str) -> tuple[tuple[int, int], bool] | None:
    """Width and height of a picture, and whether it has colours; None if it cannot be read."""
    try:
        with _open(path)[0] as picture:
            return picture.size, picture.mode not in _GREY
    except Exception:  # Pillow's decoders raise whatever they meet
        return None


def is_coloured(path: str) -> bool:
    """Whether a picture has colours, as its head says; False if it cannot be read."""
    found = head(path)
    return found is not None and found[1]


def read_picture(
    path: str, size: int | None, background: str = "white"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """One picture, uint8 [H, W, 1] if it is grey and [H, W, 3] else, with its traits.

    See `Pictures` and `Example`.

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
            # The second picture of an MPO is a camera's own, for another kind of display.
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
    """A picture of any size, of which no pixel is decoded yet, and Pillow's limit of pixels."""
    from PIL import Image

    # Pillow refuses or warns at once, whatever is to become of the picture.
    with _opening:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path), most
        finally:
            Image.MAX_IMAGE_PIXELS = most


_opening = threading.Lock()


def _refuse_large(picture: Any, most: int | None, size: int | None) -> None:
    """Refuses what would fill the memory: by itself, or while it is made small."""
    if most is None or picture.width * picture.height <= most:
        return
    claimed = f"it claims {picture.width} x {picture.height} pixels; expected at most"
    if size is None:
        raise ValueError(
            f"{claimed} {most:,}, or that they be made small: the size to which to resize and crop "
            "pictures is image_size"
        )
    # A JPEG is decoded at an eighth of its size in a fraction of the memory; no other format is.
    picture.draft(None, (2 * size, 2 * size))
    if picture.width * picture.height > max(most, _MOST_PIXELS):
        raise ValueError(f"{claimed} {max(most, _MOST_PIXELS):,}")


def _laid(picture: Any, background: str) -> tuple[Any, bool]:
    """A picture with its transparent places laid on a ground, and whether there are any."""
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
    """A split of a data set that tensorflow-datasets has prepared, stored as array_record.

    Attributes:
      folder: of the prepared version.
      split: as tensorflow-datasets understands it.
      places: which of its examples.
      state: of its files, what tells whether one has changed: names, and `cache.file_state`.
      depth: the channels of an image.
      classes: names of the labels; empty where they have none.
    """

    folder: str
    split: str
    places: Sequence[int]
    state: tuple[tuple[Any, ...], ...]
    depth: int
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def some(self, places: Sequence[int]) -> "Prepared":
        """As in `Examples`."""
        return dataclasses.replace(self, places=[self.places[place] for place in places])

    def read(self, place: int) -> Example:
        """As in `Examples`."""
        source, _ = _prepared(self.folder, self.split, self.state)
        try:
            example = source[self.places[place]]
            # Past the end of a file that was cut off, TFDS reads an example of None, without error.
            return Example(example["image"], int(example["label"]))
        except ImportError:  # Pillow is not installed
            raise
        except Exception as error:
            file, example = self._where(place)
            raise DataError(
                f"{file}: damaged or missing: {example} cannot be read ({error}); delete "
                f"{self.folder} and prepare the data set again"
            ) from error

    def where(self, place: int) -> str:
        """As in `Examples`."""
        return ": ".join(self._where(place))

    def _where(self, place: int) -> tuple[str, str]:
        index = self.places[place]
        _, files = _prepared(self.folder, self.split, self.state)
        ends = list(itertools.accumulate(part.take for part in files))
        file = files[bisect.bisect(ends, index)].filename
        return str(file), f"example {index} of split {self.split!r}"


@functools.lru_cache(maxsize=4)
def _prepared(folder: str, split: str, state: Any) -> tuple[Any, Any]:
    """The examples of a prepared split, with random access, and the files they lie in."""
    del state  # other files are another answer
    import tensorflow_datasets as tfds

    # What absl says, it says anew in each process.
    logging.getLogger("absl").addFilter(_no_advice)
    builder = tfds.core.read_only_builder.builder_from_directory(folder)
    source = builder.as_data_source(split=split, file_format="array_record")
    return source, builder.info.splits[split].file_instructions


def _no_advice(record: logging.LogRecord) -> bool:
    return "OpenCV is not installed" not in record.getMessage()
