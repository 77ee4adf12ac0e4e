"""Checks at the public doors: each raises ValueError with the argument, its value and the rule."""

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any

import jax


def positive_integer(name: str, value: Any) -> int:
    """Returns `value` as an int if it is a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return number


def positive(name: str, value: float) -> None:
    """Refuses a number that is not finite and above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def not_negative(name: str, value: float) -> None:
    """Refuses a number that is not finite and at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def seed(name: str, value: Any) -> int:
    """Returns `value` as an int if it is a seed: a whole number in [0, 2**32).

    Unlike `rng.root` it makes no key, which would start JAX: a configuration is checked by it.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < 2**32:
        raise ValueError(f"{name} must be a whole number in [0, 2**32), got {value!r}")
    return number


def index_of_run(index: int, num: int) -> None:
    """Refuses what does not say which of `num` runs is meant."""
    if not 0 <= index < num:
        raise ValueError(f"index must be one of the {num} runs, from 0, got {index}")


def known(what: str, value: str, names: Iterable[str]) -> None:
    """Refuses a name that is not among `names`, and gives the nearest ones."""
    names = sorted(names)
    if value in names:
        return
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown {what} {value!r}; {hint}there is: {', '.join(names) or 'none'}")


def leading_axis(name: str, tree: Any) -> int:
    """The length of the leading axis that all arrays in `tree` share."""
    lengths = sorted({leaf.shape[:1] for leaf in jax.tree.leaves(tree)})
    if len(lengths) != 1 or lengths == [()]:
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(tree)]
        raise ValueError(f"{name} must hold arrays with one common leading axis, got {shapes}")
    return lengths[0][0]
