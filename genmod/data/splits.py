"""Splits of data sets.

This module implements the split syntax of tensorflow-datasets for all other sources, and holds the
divisions of MNIST that published results use.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.data.order import shuffled

_SPLIT = re.compile(
    r"\s*(?P<part>\w+)\s*(\[\s*(?P<first>-?\d+%?)?\s*:\s*(?P<last>-?\d+%?)?\s*\])?\s*"
)

SIZES = {"train": 60_000, "test": 10_000}
"""Sizes of MNIST's parts, which its successors share."""


class Division(NamedTuple):
    """Division of a data set into splits.

    Attributes:
      train: the split for training.
      val: the split for model selection; empty if there is none.
      test: the split for testing.
    """

    train: str
    val: str
    test: str


DIVISIONS = {
    # Burda et al. (2016), in their code, use the last 400 training images for model selection.
    "iwae": Division("train[:59600]", "train[59600:]", "test"),
    # Tomczak & Welling (2018) do so in their code; Wu et al. (2017) also say 50,000 and 10,000.
    "vamp": Division("train[:50000]", "train[50000:]", "test"),
    "full": Division("train", "", "test"),
}
"""Divisions of MNIST's 60,000 and 10,000 images in published results."""


def places_hash(split: str, sizes: Mapping[str, int]) -> str:
    """Returns the SHA-256 of a split's indices (`hash_of`)."""
    ranges = resolve(split, sizes)
    return hash_of((part, np.arange(first, last)) for part, first, last in ranges)


def hash_of(chosen: Iterable[tuple[str, np.ndarray]]) -> str:
    """Returns the SHA-256 of chosen examples.

    The hash covers, for each entry, the name of the part, a colon, and the indices [n] within this
    part as little-endian int32.
    """
    digest = hashlib.sha256()
    for part, indices in chosen:
        digest.update(part.encode() + b":" + indices.astype("<i4").tobytes())
    return f"sha256:{digest.hexdigest()}"


HELD_OUT = "a tenth of each class, by a key that is the same for every seed"
"""Description of a hold-out set, for records."""


def held_out(labels: np.ndarray) -> np.ndarray:
    """Chooses the hold-out set: a tenth of each class, for testing.

    The choice depends on the labels alone, so it is the same in all runs on the same data. If the
    tenth of a class is not a whole number, it is rounded by the largest-remainder method, so that
    the classes add up to a tenth of all examples. A class of ten examples or more gives at least
    one.

    Args:
      labels: whole numbers [N]; all equal if there are no classes.

    Returns:
      Indices [N // 10], in increasing order.
    """
    num = len(labels)
    order = jax.jit(shuffled, static_argnums=2)(
        rng.stream(rng.root(0), "held out"), jnp.arange(num, dtype=jnp.int32), num
    )
    rank = np.empty(num, np.int64)
    rank[np.asarray(order)] = np.arange(num)
    _, kinds, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    by_class = np.lexsort((rank, kinds))
    first = np.cumsum(sizes) - sizes
    wanted = sizes // 10
    # Ties between equal remainders are broken by the shuffled order, not by the labels.
    largest = np.lexsort((rank[by_class[first]], -(sizes % 10)))
    wanted[largest[: num // 10 - wanted.sum()]] += 1
    within = np.arange(num) - np.repeat(first, sizes)
    return np.sort(by_class[within < np.repeat(wanted, sizes)])


def resolve(split: str, sizes: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Returns the ranges of examples that a split names.

    Examples of splits are "train", "train[:90%]", "train[-5000:]" and "train+test".

    Args:
      split: parts joined by +, each with an optional range in examples or in percent; percentages
        are rounded to the nearest example.
      sizes: number of examples of each existing part.

    Returns:
      For each range the part, the index of its first example, and the index after its last.

    Raises:
      ValueError: if a part is unknown, or a range is malformed, out of bounds or empty.
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
    if re.fullmatch("-0+%?", match["last"] or ""):
        last = 0  # as in Python, where -0 is 0: a computed bound may be -0
    if not 0 <= first < last <= num:
        raise ValueError(
            f"split {split!r}: {one.strip()!r} must be within the {num} examples of "
            f"{match['part']!r} and not empty, got those from {first} to {last}"
        )
    return match["part"], first, last


def _place(bound: str, num: int) -> int:
    """Returns a bound's index; negative bounds count backwards."""
    value = int(bound.removesuffix("%"))
    if bound.endswith("%"):
        value = round(num * value / 100)
    return value + num if bound.startswith("-") else value
