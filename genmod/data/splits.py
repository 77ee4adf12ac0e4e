"""Parts of parts: the split language of tensorflow-datasets, for every other source."""

import re
from collections.abc import Mapping

from genmod import checks

_SPLIT = re.compile(
    r"\s*(?P<part>\w+)\s*(\[\s*(?P<first>-?\d+%?)?\s*:\s*(?P<last>-?\d+%?)?\s*\])?\s*"
)


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
