"""Checks at the public doors: each raises ValueError with the argument, its value and the rule."""

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np


def positive_integer(name: str, value: Any) -> int:
    """Returns `value` as an int if it is a whole number of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return number


def positive(name: str, value: Any) -> None:
    """Refuses what is no finite number above 0."""
    if not _as_number(name, value) > 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def not_negative(name: str, value: Any) -> None:
    """Refuses what is no finite number of at least 0."""
    if not _as_number(name, value) >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def _as_number(name: str, value: Any) -> float:
    """A finite number as a float; NaN for what is none, but for a schedule, which is refused."""
    if callable(value):
        raise ValueError(
            f"{name} must be a number, got the function {_called(value)}; what follows a schedule "
            "is given to the learner by hyper={'name': schedule}, beside a function of its value, "
            "as lambda hyper: vae.elbo(model, beta=hyper['name'])"
        )
    return float(value) if is_finite_number(value) else math.nan


def is_finite_number(value: Any) -> bool:
    """Whether a value is one finite number, of Python, NumPy or JAX."""
    try:
        return not isinstance(value, str | bytes) and not np.ndim(value) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def _called(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


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


def summed_as(dtype: Any) -> Any:
    """The type in which numbers of a type are summed and averaged: float32, or a wider one."""
    return jnp.promote_types(dtype, jnp.float32)


def keys(keys: Any, num: int | None = None, *, of: str = "example") -> None:
    """Refuses what is not one key for each of `num` examples; of any number if that is None.

    Keys of another length would be broadcast: all examples would have the same noise.
    """
    dtype, shape = getattr(keys, "dtype", None), list(getattr(keys, "shape", ()))
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"keys must be one per {of}, typed keys as rng.per_example makes them, got "
            + (type(keys).__name__ if dtype is None else f"{dtype} {shape}")
        )
    if len(shape) != 1 or num not in (None, shape[0]):
        raise ValueError(f"keys must be one per {of}, [{'B' if num is None else num}], got {shape}")


def objective(returned: Any, size: int) -> tuple[Any, dict[str, Any]]:
    """Takes what an objective has returned apart: its losses [size], and the aux values of each.

    Raises:
      ValueError: if it is not (loss [size], aux), with floating losses and aux a dict of numbers
        [size] by name; what it is instead is said.
    """

    def refuse(expected: str, got: str) -> NoReturn:
        raise ValueError(f"the objective must return (loss [B], aux): {expected}, got {got}")

    if not isinstance(returned, tuple) or len(returned) != 2:
        hint = " (loss, {} for a loss without aux)" if _is_array(returned) else ""
        refuse("a tuple of these two", described(returned) + hint)
    losses, aux = returned
    per_example = f"one loss per example, of shape ({size},)"
    if not _is_array(losses):
        refuse(per_example, described(losses))
    if losses.shape != (size,):
        refuse(per_example, str(losses.shape))
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        refuse(f"{per_example} and of a floating type, as only those have gradients", losses.dtype)
    if not isinstance(aux, dict):
        refuse("aux a dict, {} for none", f"{described(aux)} as aux")
    for name, value in aux.items():
        if not isinstance(name, str):
            refuse("the names in aux strings", repr(name))
        if name == "loss":
            raise ValueError("aux must not use the name 'loss': it is the objective's own")
        if not (_is_array(value) and _is_real(value.dtype)):
            refuse("aux values numbers [B]", f"aux[{name!r}] = {described(value)}")
        if value.shape != (size,):
            hint = (
                "broadcast one of the whole batch by jnp.broadcast_to(value, loss.shape)"
                if not value.ndim
                else "take the mean or sum over the other axes"
            )
            refuse(
                f"aux values one per example, of shape ({size},)",
                f"aux[{name!r}] of shape {value.shape} ({hint})",
            )
    return losses, aux


def described(value: Any) -> str:
    """A value in a few words for a message: its type and shape, or what a small one is."""
    if _is_array(value):
        return f"an array {value.dtype} {list(value.shape)}"
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:60]
    if isinstance(value, dict):
        return f"a dict of {', '.join(map(repr, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_real(dtype: Any) -> bool:
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))


def values_within(
    name: str, values: Any, support: tuple[float, float], whose: str, *, hint: bool = True
) -> None:
    """Refuses an array with a value that is not finite or lies outside [low, high].

    Args:
      name: what the values are, such as "images".
      values: an array of any type; its values must be known.
      support: low and high. Floats may lie a rounding outside.
      whose: what has this range, such as "the likelihood".
      hint: whether to say what makes images of it.

    Raises:
      ValueError: with the values seen, the range, and what makes images of that range.
    """
    low, high = support
    values = np.asarray(values)
    seen = values.astype(np.float64) if values.dtype.kind not in "iub" else values
    finite = seen[np.isfinite(seen)]
    least, most = (float(f(finite)) if finite.size else math.nan for f in (np.min, np.max))
    slack = 1e-6 * (high - low) if math.isfinite(high - low) else 0.0
    if finite.size == seen.size and low - slack <= least and most <= high + slack:
        return
    wrong = seen.size - finite.size
    flaw = f", {wrong} of {seen.size} NaN or infinite" if wrong else ""
    ways = _PREPARE.get((low, high), "") if hint else ""
    raise ValueError(
        f"{name} must lie in {whose}'s range [{low:g}, {high:g}], got values from {least:.7g} to "
        f"{most:.7g} ({values.dtype}){flaw}{ways}"
    )


_PREPARE: dict[tuple[float, float], str] = {
    (0, 1): "; prepare=data.unit_interval makes them so of uint8 images",
    (-1, 1): "; prepare=data.signed_unit_interval makes them so of uint8 images",
}


def leading_axis(name: str, tree: Any) -> int:
    """The length of the leading axis that all arrays in `tree` share."""
    lengths = sorted({leaf.shape[:1] for leaf in jax.tree.leaves(tree)})
    if len(lengths) != 1 or lengths == [()]:
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(tree)]
        raise ValueError(f"{name} must hold arrays with one common leading axis, got {shapes}")
    return lengths[0][0]
