"""What to train on a folder of pictures where nothing else is said."""

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
"""Pictures are brought to the first of these that they reach."""
_LOOKED_AT = 1000


class Choice(NamedTuple):
    """What was chosen for a folder.

    Attributes:
      experiment: the file to train.
      flags: its flags, by name; those that the command gives itself take precedence.
      found: what the folder holds, in words.
    """

    experiment: Path
    flags: dict[str, str]
    found: str


def choose(folder: str | Path) -> Choice:
    """Chooses how to train on a folder of pictures, by what is in it.

    Small square pictures of one size stay as they are, others become squares of 64 or 32 pixels;
    batches are of 64, or a tenth of few pictures; training takes some 3,000 steps.

    Raises:
      DataError: if there are no pictures that can be read.
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
    """The flags of a choice that the command does not give, and those that it gives."""
    own = {word.partition("=")[0].removeprefix("--").replace("_", "-") for word in given}
    chosen = [
        word
        for name, value in choice.flags.items()
        if name not in own
        for word in (f"--{name}", value)
    ]
    return [*chosen, *given]


def _side(sizes: Sequence[tuple[int, int]]) -> int | None:
    """The side to bring pictures to; None leaves them as they are."""
    width, height = sizes[0]
    if len(set(sizes)) == 1 and width == height <= _SIDES[0] and width % 4 == 0:
        return None
    shorter = statistics.median(min(size) for size in sizes)
    return next((side for side in _SIDES if side <= shorter), _SIDES[-1])


def _heads(paths: Sequence[str]) -> tuple[list[tuple[int, int]], bool]:
    """Sizes of some pictures, spread over all, and whether there is one in colour."""
    some = paths[:: max(1, len(paths) // _LOOKED_AT)]
    heads = [head for head in map(examples.head, some) if head is not None]
    if not heads:
        raise DataError(f"{paths[0]}: no picture; nor are the others in its folder")
    return [size for size, _ in heads], any(colour for _, colour in heads)
