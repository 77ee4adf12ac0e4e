"""Default training setup for a folder of pictures."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from genmod._host import examples
from genmod.data import folders
from genmod.errors import DataError
from genmod.runs import catalogue

_STEPS = 3000
_BATCH_SIZE = 64
_SIDES = (64, 32)
"""Sides of the squares that pictures become, in pixels.

The first that is at most the median of the pictures' shorter sides is used, or else the last.
"""
_LOOKED_AT = 1000
"""Approximate number of pictures whose headers are read."""


class Choice(NamedTuple):
    """Experiment and flags chosen for a folder.

    Attributes:
      experiment: the experiment file.
      flags: its flags, by name; flags given in the command take precedence.
      found: contents of the folder, in words.
    """

    experiment: Path
    flags: dict[str, str]
    found: str


def choose(folder: str | Path) -> Choice:
    """Chooses how to train on a folder of pictures.

    The pictures decide. Small square pictures of one size stay as they are, others become squares
    of 64 or 32 pixels. A batch has 64 pictures, or a tenth of them all if that is less. Training
    takes about 3,000 steps.

    Raises:
      DataError: if no picture can be read.
    """
    listed = folders.folder(str(folder), size=None)
    places = listed.parts.get("train") or range(len(listed.pictures))
    sizes, colour = _heads([listed.pictures.files[place] for place in places])
    num, classes = len(places), len({listed.pictures.labels[place] for place in places})
    batch_size = min(_BATCH_SIZE, max(1, num // 10))
    epochs = max(1, round(_STEPS * batch_size / num))
    flags = {
        "dataset": f"folder:{folder}",
        "batch-size": str(batch_size),
        "epochs": str(epochs),
        "decay-epochs": str(epochs),
    }
    side = _side(sizes)
    if side is not None:
        flags["image-size"] = str(side)
    width, height = sizes[0]
    found = ", ".join(
        [
            f"{num:,} pictures" + (f" of {classes} classes" if classes > 1 else ""),
            f"{width} x {height}" + (" and other sizes" if len(set(sizes)) > 1 else ""),
            "in colour" if colour else "grey",
        ]
    )
    return Choice(catalogue.shipped() / "pictures.py", flags, found)


def arguments(choice: Choice, given: Sequence[str]) -> list[str]:
    """Returns the chosen flags, followed by the given ones.

    A chosen flag is left out if the command gives it, too.
    """
    own = {word.partition("=")[0].removeprefix("--").replace("_", "-") for word in given}
    chosen = [
        word
        for name, value in choice.flags.items()
        if name not in own
        for word in (f"--{name}", value)
    ]
    return [*chosen, *given]


def _side(sizes: Sequence[tuple[int, int]]) -> int | None:
    """Returns the side of the resized pictures, in pixels.

    None leaves the pictures as they are.
    """
    width, height = sizes[0]
    if len(set(sizes)) == 1 and width == height <= _SIDES[0] and width % 4 == 0:
        return None
    shorter = statistics.median(min(size) for size in sizes)
    return next((side for side in _SIDES if side <= shorter), _SIDES[-1])


def _heads(paths: Sequence[str]) -> tuple[list[tuple[int, int]], bool]:
    """Returns the sizes of some pictures, and whether any is coloured.

    The pictures are spread over all paths.

    Raises:
      DataError: if no picture can be read.
    """
    some = paths[:: max(1, len(paths) // _LOOKED_AT)]
    heads = [head for head in map(examples.head, some) if head is not None]
    if not heads:
        raise DataError(f"{paths[0]}: not a picture; nor are the others in its folder")
    return [size for size, _ in heads], any(colour for _, colour in heads)
