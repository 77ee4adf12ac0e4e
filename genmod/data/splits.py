"""Parts of parts: the split language of tensorflow-datasets, for every other source.

And the divisions of MNIST under which results were published.
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
    ranges = resolve(split, sizes)
    return hash_of((part, np.arange(first, last)) for part, first, last in ranges)


def hash_of(chosen: Iterable[tuple[str, np.ndarray]]) -> str:
    """SHA-256 of some examples: after the name of each part, int32 places [n] in it."""
    digest = hashlib.sha256()
    for part, places in chosen:
        digest.update(part.encode() + b":" + places.astype("<i4").tobytes())
    return f"sha256:{digest.hexdigest()}"


HELD_OUT = "a tenth of each class, by a key that is the same for every seed"
"""How examples are held out of data that have no part to test on."""


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which examples to hold out for testing: a tenth of all, and of each class its tenth.

    The choice rests on the labels alone: in other runs of the same data it is the same. Tenths of
    classes that are no whole numbers are rounded so that they add up to a tenth of all, by largest
    remainder; a class of ten examples or more gives at least one.

    Args:
      labels: whole numbers [N]; all of them equal where there are no classes.

    Returns:
      Places [N // 10], in order.
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
    # Of classes with equal remainders not those of the first labels, but of the shuffled order.
    largest = np.lexsort((rank[by_class[first]], -(sizes % 10)))
    wanted[largest[: num // 10 - wanted.sum()]] += 1
    within = np.arange(num) - np.repeat(first, sizes)
    return np.sort(by_class[within < np.repeat(wanted, sizes)])


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
    if re.fullmatch("-0+%?", match["last"] or ""):
        last = 0  # as in Python, where -0 is 0: whoever computes a bound may come to it
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
