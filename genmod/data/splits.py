"""Parts of parts: the split language of tensorflow-datasets, for every other source.

And the divisions of MNIST under which results were published.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from genmod import checks

_SPLIT = re.compile(
    r"\s*(?P<part>\w+)\s*(\[\s*(?P<first>-?\d+%?)?\s*:\s*(?P<last>-?\d+%?)?\s*\])?\s*"
)

SIZES = {"train": 60_000, "test": 10_000}
"""Of MNIST, and of those that were made in its image."""


class Division(NamedTuple):
    """What is for training, for choosing, and for testing.

    Attributes:
      train: a split.
      val: a split; empty if nothing is held out.
      test: a split.
    """

    train: str
    val: str
    test: str


DIVISIONS = {
    # Burda et al. (2016), by their code: the last 400 of the training images choose.
    "iwae": Division("train[:59600]", "train[59600:]", "test"),
    # Tomczak & Welling (2018), by their code; Wu et al. (2017) say 50,000 and 10,000, too.
    "vamp": Division("train[:50000]", "train[50000:]", "test"),
    "full": Division("train", "", "test"),
}
"""Which of MNIST's 60,000 and 10,000 images a published result was trained and tested on."""


def places_hash(split: str, sizes: Mapping[str, int]) -> str:
    """SHA-256 of which examples a split holds: for each range the part and int32 places in it."""
    digest = hashlib.sha256()
    for part, first, last in resolve(split, sizes):
        digest.update(part.encode() + b":" + np.arange(first, last, dtype="<i4").tobytes())
    return f"sha256:{digest.hexdigest()}"


def resolve(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """The ranges that a split names: "train", "train[:90%]", "train[-5000:]", "train+test".

    Args:
      split: parts joined by +, each with an optional range of examples or of percent, which are
        rounded to the nearest example.
      sizes: number of examples of each part there is.

    Returns:
      For each: the part, its first example, and the one after its last.

    Raises:
      ValueError: if a part is unknown, a range is none, or it is empty.
    """
    return [_range(one, split, sizes) for one in split.split("+")]


def _range(one: str, split: str, sizes: Mapping[str, int]) -> tuple[str, int, int]:
    match = _SPLIT.fullmatch(one)
    if match is None:
        raise ValueError(
            f"unknown split {split!r}; expected a part of the data, such as 'train', 'train[:90%]' "
            "or 'train[1000:]+test'"
        )
    checks.known("split", match["part"], sizes)
    num = sizes[match["part"]]
    first, last = (
        default if bound is None else _place(bound, num)
        for bound, default in ((match["first"], 0), (match["last"], num))
    )
    if not 0 <= first < last <= num:
        raise ValueError(
            f"split {split!r}: {one.strip()!r} must be within the {num} examples of "
            f"{match['part']!r} and not empty, got those from {first} to {last}"
        )
    return match["part"], first, last


def _place(bound: str, num: int) -> int:
    """Where a bound lies among `num` examples; below 0 it counts from the end."""
    value = int(bound.removesuffix("%"))
    if bound.endswith("%"):
        value = round(num * value / 100)
    return value + num if bound.startswith("-") else value
