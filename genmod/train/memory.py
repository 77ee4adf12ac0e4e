"""Memory: fields of the parameters that no gradient moves."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key, Params

Remember = Callable[[Key, dict[str, Params], Any], Mapping[str, Any]]
"""Function `(key, fields, notes) -> values` of fields that no player moves."""


def remembered(
    remember: Remember | None,
    key: Key,
    fields: dict[str, Params],
    owners: Mapping[str, str],
    notes: Mapping[str, Any],
    *,
    offered: bool = False,
) -> dict[str, Params]:
    """Returns the fields, with those that no player moves as `remember` says.

    Args:
      remember: the function; None leaves all fields as they are.
      key: the step's key.
      fields: all fields, after the players' turns.
      owners: the player that moves a field, by field.
      notes: notes of all players, by name.
      offered: whether notes need not be read.

    Raises:
      ValueError: if `remember` returns a field of a player, an unknown field, or another form of a
        field than before.
    """
    if remember is None:
        if notes:
            warnings.warn(
                f"nobody reads the notes {sorted(notes)}: the learner has no remember",
                stacklevel=2,
            )
        return fields
    read = _Read(notes)
    values = remember(rng.stream(key, "remember"), fields, read)
    if (unread := sorted(set(notes) - read.names)) and not offered:
        warnings.warn(f"remember does not read the notes {unread}", stacklevel=2)
    if not isinstance(values, Mapping):
        raise ValueError(f"remember must return a dict of fields, got {checks.described(values)}")
    for name, value in values.items():
        if name in owners:
            raise ValueError(
                f"remember must not move the field {name!r}: the player {owners[name]!r} does"
            )
        checks.known("field of remember", name, fields.keys() - owners.keys())
        _check_form(name, value, fields[name])
    return {**fields, **as_arrays(dict(values))}


def as_arrays(tree: Any) -> Any:
    """Returns a tree of arrays whose types are their own.

    The type of a Python number, or of `jnp.full(2, 1.0)`, is weak. A step would make it another,
    and the next step would be compiled anew.
    """

    def typed(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(leaf.dtype) if leaf.weak_type else leaf

    return jax.tree.map(typed, tree)


class _Read(dict[str, Any]):
    """Notes, and the names of those that were read."""

    def __init__(self, notes: Mapping[str, Any]):
        super().__init__(notes)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        self.names.update(self)
        return super().items()

    def values(self) -> Any:
        self.names.update(self)
        return super().values()


def _all_read(notes: _Read) -> tuple[list[Any], tuple[str, ...]]:
    """Returns the notes with their names, all of which are then read."""
    names = sorted(notes)
    return [notes[name] for name in names], tuple(names)


jax.tree_util.register_pytree_node(
    _Read, _all_read, lambda names, notes: _Read(dict(zip(names, notes, strict=True)))
)


def _check_form(name: str, value: Any, before: Any) -> None:
    """Refuses a remembered value of another form than before."""

    def form(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree)

    forms = [jax.tree.structure(tree) for tree in (value, before)]
    if forms[0] != forms[1] or form(value) != form(before):
        raise ValueError(
            f"remember must keep the form of the field {name!r}, {form(before)}, got {form(value)}"
        )
