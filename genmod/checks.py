"""Checks of arguments at the public functions.

Each raises a ValueError that gives the argument, its value and the rule.
"""

import dataclasses
import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, NoReturn, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np


def positive_integer(name: str, value: Any) -> int:
    """Returns `value` as an int, or refuses it as no positive whole number."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return number


def positive(name: str, value: Any) -> None:
    """Refuses anything but a finite number above 0."""
    if not _as_number(name, value) > 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def not_negative(name: str, value: Any) -> None:
    """Refuses anything but a finite number of at least 0."""
    if not _as_number(name, value) >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def probability(name: str, value: Any) -> None:
    """Refuses anything but a number in [0, 1]."""
    if not 0 <= _as_number(name, value) <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def _as_number(name: str, value: Any) -> float:
    """Returns a finite number as a float, anything else as NaN.

    A function (a schedule) is refused, with a hint on how to pass it.
    """
    if callable(value):
        called = getattr(value, "__qualname__", type(value).__name__)
        raise ValueError(
            f"{name} must be a number, got the function {called}; to follow a "
            "schedule, give the learner hyper={'name': schedule} and a function of its value, "
            "such as lambda hyper: vae.elbo(model, beta=hyper['name'])"
        )
    return float(value) if is_finite_number(value) else math.nan


def is_finite_number(value: Any) -> bool:
    """Returns whether a value is one finite Python, NumPy or JAX number."""
    try:
        return not isinstance(value, str | bytes) and not np.ndim(value) and math.isfinite(value)
    except (TypeError, ValueError, OverflowError):
        return False


def seed(name: str, value: Any) -> int:
    """Returns `value` as an int, or refuses it.

    A seed is a whole number in [0, 2**32). Unlike `rng.root`, this does not start JAX.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < 2**32:
        raise ValueError(f"{name} must be a whole number in [0, 2**32), got {value!r}")
    return number


def index_of_run(index: int, num: int) -> None:
    """Refuses an index of a run outside [0, num)."""
    if not 0 <= index < num:
        raise ValueError(f"index must be one of the {num} runs, from 0, got {index}")


def known(what: str, value: str, names: Iterable[str]) -> None:
    """Refuses a name that is not among `names`.

    The message suggests the nearest ones.
    """
    names = sorted(names)
    if value in names:
        return
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown {what} {value!r}; {hint}there is: {', '.join(names) or 'none'}")


def summed_as(dtype: Any) -> Any:
    """Returns the type in which numbers of `dtype` are summed.

    Sums and means are taken in float32 or, for a wider `dtype`, in that type.
    """
    return jnp.promote_types(dtype, jnp.float32)


def keys(keys: Any, num: int | None = None, *, of: str = "example") -> None:
    """Refuses anything but one typed key per example, [num].

    None accepts any number of examples. Keys of another length would be broadcast: all
    examples would have the same noise.
    """
    dtype, shape = getattr(keys, "dtype", None), list(getattr(keys, "shape", ()))
    if dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"keys must be one per {of}, typed keys as rng.per_example makes them, got "
            + (type(keys).__name__ if dtype is None else f"{dtype} {shape}")
        )
    if len(shape) != 1 or num not in (None, shape[0]):
        raise ValueError(f"keys must be one per {of}, [{'B' if num is None else num}], got {shape}")


class Returned(NamedTuple):
    """Result of an objective, checked.

    Attributes:
      losses: one loss per example, [B]; of several parts, those of each by name.
      aux: further values by name, [B] each.
      notes: values for `remember`, trees of arrays [B, ...] by name.
    """

    losses: Any
    aux: dict[str, Any]
    notes: dict[str, Any]


def objective(
    returned: Any, size: int | Mapping[str, int], what: str = "the objective"
) -> Returned:
    """Returns the losses, aux values and notes of an objective's result.

    Losses have one value per example, and so have aux values. An aux value `name` of shape
    [size, K] becomes K values, `name/0` to `name/K-1`.

    Args:
      returned: the objective's result.
      size: number of examples B; of a batch with several parts, that of each by name.
      what: name of the objective, for messages.

    Raises:
      ValueError: if the result is not (loss [size], aux) or (loss [size], aux, notes), with losses
        of a floating type, aux a dict of numbers [size] or [size, K] by name, and notes a dict of
        trees of arrays [size, ...]; the message describes the result.
    """

    def refuse(expected: str, got: Any) -> NoReturn:
        raise ValueError(f"{what} must return (loss [B], aux): {expected}, got {got}")

    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        hint = " (loss, {} for a loss without aux)" if _is_array(returned) else ""
        refuse("a tuple of these two", described(returned) + hint)
    losses, aux, notes = (*returned, {})[:3]
    if isinstance(size, int):
        _check_losses(losses, size, "one loss per example", refuse)
    else:
        if not isinstance(losses, dict) or set(losses) != set(size):
            refuse(f"as loss a dict with the losses of {', '.join(size)}", described(losses))
        for part, number in size.items():
            _check_losses(losses[part], number, f"one loss per example of {part}", refuse)
    sizes = {size} if isinstance(size, int) else set(size.values())
    if not isinstance(aux, dict):
        refuse("aux a dict, {} for none", f"{described(aux)} as aux")
    if not isinstance(notes, dict):
        refuse("notes a dict", f"{described(notes)} as notes")
    for name in (*aux, *notes):
        if not isinstance(name, str):
            refuse("the names in aux and notes strings", repr(name))
    if "loss" in aux:
        raise ValueError("aux must not use the name 'loss': it is the objective's own")
    for path, leaf in jax.tree_util.tree_leaves_with_path(notes):
        if not _is_array(leaf) or leaf.shape[:1] not in {(number,) for number in sizes}:
            where = jax.tree_util.keystr(path)
            refuse(
                f"notes one entry per example, [{_any_of(sizes)}, ...]",
                f"notes{where} = {described(leaf)}",
            )
    return Returned(losses, _each_number(aux, sizes, refuse), notes)


def _check_losses(losses: Any, size: int, what: str, refuse: Callable[[str, Any], Any]) -> None:
    what = f"{what}, of shape ({size},)"
    if not _is_array(losses):
        refuse(what, described(losses))
    if losses.shape != (size,):
        refuse(what, losses.shape)
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        refuse(f"{what} and of a floating type, as only those have gradients", losses.dtype)


def _each_number(
    aux: Mapping[str, Any], sizes: set[int], refuse: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """Returns aux values of one number per example.

    Values of K numbers per example become K values.
    """
    found = {}
    for name, value in aux.items():
        if not (_is_array(value) and _is_real(value.dtype)):
            refuse("aux values numbers [B] or [B, K]", f"aux[{name!r}] = {described(value)}")
        if value.ndim not in (1, 2) or value.shape[0] not in sizes:
            hint = (
                "broadcast one of the whole batch by jnp.broadcast_to(value, loss.shape)"
                if not value.ndim
                else "take the mean or sum over the other axes"
            )
            refuse(
                f"aux values one per example, of shape ({_any_of(sizes)},) or "
                f"({_any_of(sizes)}, K)",
                f"aux[{name!r}] of shape {value.shape} ({hint})",
            )
        columns = (
            {name: value}
            if value.ndim == 1
            else {f"{name}/{k}": value[:, k] for k in range(value.shape[1])}
        )
        for column, numbers in columns.items():
            if column in found:
                refuse("aux values of different names", f"{column!r} twice")
            found[column] = numbers
    return found


def _any_of(sizes: set[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


def networks(networks: Mapping[str, Any], condition: Any) -> None:
    """Refuses networks that do not agree with a model's `condition`.

    Args:
      networks: the model's networks (`Net`), by name.
      condition: function `batch -> (x, c)`; None for a model without condition.
    """
    if condition is None:
        for name, net in networks.items():
            if net.needs_condition:
                raise ValueError(
                    f"condition must be a function batch -> (x, c), as the {name} needs a "
                    "condition, got None"
                )
    elif not callable(condition):
        raise ValueError(
            f"condition must be a function batch -> (x, c), got {described(condition)}"
        )
    elif not any(net.takes_condition for net in networks.values()):
        raise ValueError(
            f"condition must be None, as neither the {' nor the '.join(networks)} takes a "
            "condition, (params, x, c); nets.conditional makes such networks"
        )


def images_and_condition(batch: Any, condition: Any, *, maker: str) -> tuple[Any, Any]:
    """Returns the images and the condition of a batch, checked.

    Args:
      batch: the images [B, ...], or what `condition` splits.
      condition: function `batch -> (x, c)`; None if the batch is the images.
      maker: name of the function that takes `condition`, for messages.
    """
    split = (batch, None) if condition is None else condition(batch)
    if not isinstance(split, tuple) or len(split) != 2:
        raise ValueError(f"condition must return (x, c), got {described(split)}")
    x, c = split
    if not getattr(x, "shape", ()):
        what, hint = "x, which condition returns,", ""
        if condition is None:
            what = "the batch"
            hint = f"; {maker}(..., condition=function) splits a tree into (x, c)"
        raise ValueError(f"{what} must be images [B, ...], got {described(x)}{hint}")
    if condition is not None:
        examples("c, which condition returns,", c, len(x))
    return x, c


def examples(what: str, tree: Any, size: int | None) -> None:
    """Refuses anything but a tree of arrays [size, ...], one entry per example.

    None accepts any number of examples.
    """
    leaves = jax.tree.leaves(tree)
    lengths = {tuple(getattr(leaf, "shape", ()))[:1] for leaf in leaves}
    expected = lengths - {()} if size is None else {(size,)}
    if len(lengths) != 1 or lengths != expected:
        got = ", ".join(map(described, leaves)) or described(tree)
        raise ValueError(
            f"{what} must be arrays [{'N' if size is None else size}, ...], one entry for each "
            f"example, got {got}"
        )


def augmented(made: Any, images: Any) -> None:
    """Refuses augmented images of another shape or type."""
    if (made.shape, made.dtype) != (images.shape, images.dtype):
        raise ValueError(
            f"augment must keep the images' shape and dtype, {list(images.shape)} {images.dtype}, "
            f"got {list(made.shape)} {made.dtype}"
        )


def takes(function: Callable[..., Any], num: int) -> bool:
    """Returns whether a function can be called with `num` arguments."""
    try:
        inspect.signature(function).bind(*range(num))
    except TypeError:
        return False
    except ValueError:  # a function of C may not tell its arguments
        return True
    return True


def described(value: Any) -> str:
    """Describes a value in a few words for a message.

    The words are its type and shape, or the value itself if it is small.
    """
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
    """Refuses an array with values outside [low, high], or not finite.

    Args:
      name: name of the values, such as "images".
      values: array of any type, with known values: it cannot be traced.
      support: the bounds low and high. Floats may exceed them by a rounding error.
      whose: owner of this range, such as "the likelihood".
      hint: True names the function that brings images into this range, if there is one.

    Raises:
      ValueError: the message gives the values, the range and the hint.
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
    """Returns the length of the leading axis shared by all arrays."""
    shapes = [tuple(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(tree)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or lengths == {()}:
        raise ValueError(f"{name} must hold arrays with one common leading axis, got {shapes}")
    return shapes[0][0]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Range of a configuration's field, in the metadata of its annotation.

    Attributes:
      check: `(name, value) -> None`, a refusal (ValueError) of values out of range.
    """

    check: Callable[[str, Any], Any]


def index(name: str, value: Any) -> None:
    """Refuses values that are not whole numbers of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number of at least 0, got {value!r}")


Seed = Annotated[int, Rule(seed)]
"""Seed of a run."""
Count = Annotated[int, Rule(positive_integer)]
"""Whole number of at least 1."""
Index = Annotated[int, Rule(index)]
"""Whole number of at least 0."""
Positive = Annotated[float, Rule(positive)]
"""Finite number above 0."""
Weight = Annotated[float, Rule(not_negative)]
"""Finite number of at least 0."""


def fields(config: Any) -> None:
    """Checks each field of a dataclass by the `Rule` in its annotation.

    Elements of a tuple are checked by theirs, as in `tuple[Count, ...]`.

    Raises:
      ValueError: if a value is out of range; the field is named.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        _check_by_hint(name, hint, getattr(config, name))


def _check_by_hint(name: str, hint: Any, value: Any) -> None:
    if get_origin(hint) is Annotated:
        for rule in hint.__metadata__:
            if isinstance(rule, Rule):
                rule.check(name, value)
    elif get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        if not isinstance(value, tuple | list):
            raise ValueError(f"{name} must be a tuple, got {value!r}")
        for element in value:
            _check_by_hint(name, get_args(hint)[0], element)
