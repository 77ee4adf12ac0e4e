"""Configurations as JSON.

JSON strings stand for text, paths, enums (by their names), dates, and numbers that are not finite;
JSON lists for tuples and sets; JSON objects for dataclasses and dictionaries. Values are read back
by the types of the fields. A value that would not be read back unchanged is refused.
"""

import collections.abc
import dataclasses
import datetime
import enum
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

from genmod._host import disk

ALWAYS = frozenset({"seed", "epochs"})
_TIMES = (datetime.date, datetime.time)  # a datetime is a date
_WRONG = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError)
"""Errors that a value of a wrong type raises."""
_LONGEST = 100


def as_json(config: Any) -> dict[str, Any]:
    """Returns a configuration in JSON form.

    `from_json` makes an equal configuration of it.

    Raises:
      ValueError: if a field holds a value that cannot be written down and read back.
    """
    kinds = _fields(type(config))
    return {n: _written(type(config), n, kind, getattr(config, n)) for n, kind in kinds.items()}


def check_defaults(kind: type) -> None:
    """Refuses a class with defaults that `as_json` would refuse.

    Raises:
      ValueError: if there is such a default; the message names the field.
    """
    hints = _fields(kind)
    for field in dataclasses.fields(kind):
        if field.name in hints and has_default(field):
            _written(kind, field.name, hints[field.name], default_of(field))


def _written(config: type, name: str, kind: Any, value: Any) -> Any:
    """Returns the JSON form of a field's value."""
    try:
        written = _encode(kind, value)
        if same(_decode(kind, written), value):
            return written
    except _WRONG:
        pass
    raise ValueError(
        f"{config.__name__}.{name} is {_shortened(value)}, of type {type(value).__name__}, and "
        f"cannot be written down and read back as {_called(kind)}; expected numbers, text, paths, "
        "enums, dates, and tuples, lists, sets, dictionaries or dataclasses of them, annotated as "
        "what they are"
    )


def from_json(kind: type, values: Mapping[str, Any]) -> Any:
    """Reads back a configuration that `as_json` wrote.

    Fields that it lacks get their defaults.

    Raises:
      ValueError: if fields are unknown, or missing and without a default, or out of range.
    """
    known = _fields(kind)
    values = {**defaults(kind, values), **values}
    if set(known) != set(values):
        raise ValueError(
            f"the recorded configuration has the fields {sorted(values)}, "
            f"the experiment expects {sorted(known)}"
        )
    try:
        decoded = {name: _decode(known[name], value) for name, value in values.items()}
    except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"the recorded configuration does not fit: {error!r}") from None
    return kind(**decoded)


def defaults(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the defaults of fields that a recorded configuration lacks.

    They are in JSON form. Later versions of the experiment have added such fields; `seed` and
    `epochs` are in every record.
    """
    hints, found = _fields(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in hints and field.name not in {*values, *ALWAYS} and has_default(field):
            found[field.name] = _encode(hints[field.name], default_of(field))
    return found


def has_default(field: dataclasses.Field) -> bool:
    """Returns whether a field has a default."""
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def default_of(field: dataclasses.Field) -> Any:
    """Returns the default of a field that has one."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _fields(kind: type) -> dict[str, Any]:
    """Returns the annotations of the init fields, by name."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # an annotation may be any text
        hints = {}
    return {f.name: hints.get(f.name, Any) for f in dataclasses.fields(kind) if f.init}


def _called(kind: Any) -> str:
    return kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def same(one: Any, other: Any) -> bool:
    """Returns whether two values are equal.

    A list equals a tuple of the same elements, and NaN equals NaN.
    """
    one, other = _as_tuples(one), _as_tuples(other)
    return bool(one == other) or repr(one) == repr(other)


def _as_tuples(value: Any) -> Any:
    """Replaces lists by tuples, within them as well.

    JSON knows only lists; a frozen configuration holds tuples.
    """
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return tuple(map(_as_tuples, value))
    return value


# The functions below choose by type. `kind` is an annotation; Any tells them nothing.


def _bare(kind: Any) -> Any:
    """Strips wrappers that do not affect how a value is written.

    These are Annotated, NewType and aliases of type statements.
    """
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):  # a NewType
            kind = kind.__supertype__
        elif hasattr(kind, "__value__"):  # a type statement of Python 3.12
            kind = kind.__value__
        else:
            return kind


def _members(kind: Any) -> list[Any]:
    """Returns the types of a union, without None.

    The list is empty if the annotation is not a union.
    """
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return []
    return [one for one in typing.get_args(kind) if one is not type(None)]


def _inner(kind: Any, length: int) -> list[Any]:
    """Returns the annotations of a collection's elements."""
    arguments = typing.get_args(kind)
    if hasattr(kind, "_fields"):  # a NamedTuple
        hints = typing.get_type_hints(kind)
        return [hints.get(name, Any) for name in kind._fields]
    if typing.get_origin(kind) is tuple and Ellipsis not in arguments and arguments:
        return list(arguments)
    return [arguments[0] if arguments else Any] * length


def _encode(kind: Any, value: Any) -> Any:
    """Returns a value in JSON form."""
    kind = _bare(kind)
    members = _members(kind)
    if len(members) == 1:
        return _encode(members[0], value)
    if value is not None and members:
        return _encode_member(kind, members, value)
    if isinstance(value, enum.Enum) and not (
        isinstance(value, str | int) and not _is(kind, enum.Enum)
    ):
        return value.name
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | int):
        return _primitive(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else disk.named(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, _TIMES):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = _fields(type(value))
        return {name: _encode(one, getattr(value, name)) for name, one in hints.items()}
    if isinstance(value, Mapping):
        keys, values = typing.get_args(kind) or (Any, Any)
        encoded = {_encode_key(keys, k): _encode(values, v) for k, v in value.items()}
        if len(encoded) < len(value):
            raise TypeError("two keys have one name")
        return encoded
    if isinstance(value, tuple | list | set | frozenset):
        kinds = _inner(kind, len(value))
        listed = [_encode(one, v) for one, v in zip(kinds, value, strict=True)]
        return sorted(listed, key=json.dumps) if isinstance(value, set | frozenset) else listed
    if isinstance(kind, type) and isinstance(value, kind) and not callable(value):
        return str(value)  # such as a Fraction; `_written` checks that it can be read back
    raise TypeError(type(value).__name__)


def _primitive(value: str | int) -> str | int:
    """Returns text or an integer without its enum class."""
    return str.__str__(value) if isinstance(value, str) else int(value)


def _encode_key(kind: Any, key: Any) -> str:
    encoded = _encode(kind, key)
    return encoded if isinstance(encoded, str) else json.dumps(encoded)


def _encode_member(kind: Any, members: list[Any], value: Any) -> Any:
    """Encodes a value whose annotation is a union.

    The value stands alone if its type can be told from it, otherwise under the name of its type.
    """
    for member in members:
        try:
            encoded = _encode(member, value)
            if not _exactly(_decode(member, encoded, strict=True), value):
                continue
        except _WRONG:
            continue
        if not isinstance(encoded, dict):
            decoded = _decode(kind, encoded)
            if _exactly(decoded, value):
                return encoded
        return {_called(member): encoded}
    raise TypeError(type(value).__name__)


def _exactly(one: Any, other: Any) -> bool:
    return same(one, other) and (type(one) is type(other) or isinstance(other, list))


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _decode(kind: Any, value: Any, *, strict: bool = False) -> Any:
    """Reads back a value that `_encode` wrote.

    If `strict`, only the JSON form of the type itself is accepted.
    """
    kind = _bare(kind)
    if value is None:
        return None
    if members := _members(kind):
        return _decode_member(members, value) if members[1:] else _decode(members[0], value)
    origin = typing.get_origin(kind) or kind
    if origin is Literal:
        return _decode_literal(typing.get_args(kind), value)
    if _is(origin, enum.Enum):
        return (
            origin[value]
            if isinstance(value, str) and value in origin.__members__
            else origin(value)
        )
    if origin is float and isinstance(value, str):
        return disk.NOT_FINITE[value]
    if origin in (bool, int, float, str):
        wanted = (int, float) if origin is float else origin
        is_bool = isinstance(value, bool)
        if strict and (not isinstance(value, wanted) or is_bool != (origin is bool)):
            raise TypeError(f"{value!r} is not of type {origin.__name__}")
        return value if isinstance(value, list | dict) or not strict else origin(value)
    if _is(origin, bytes):
        return bytes.fromhex(value)
    if _is(origin, _TIMES[0]) or _is(origin, _TIMES[1]):
        return origin.fromisoformat(value)
    if dataclasses.is_dataclass(origin) and isinstance(origin, type):
        return from_json(origin, value)
    if _is(origin, collections.abc.Mapping):
        keys, values = typing.get_args(kind) or (Any, Any)
        return {_decode_key(keys, k): _decode(values, v, strict=strict) for k, v in value.items()}
    if isinstance(value, list):
        kinds = _inner(kind, len(value))
        listed = [_decode(one, v, strict=strict) for one, v in zip(kinds, value, strict=True)]
        if hasattr(origin, "_fields"):
            return origin(*listed)
        return origin(listed) if origin in (list, set, frozenset) else tuple(listed)
    if isinstance(origin, type) and isinstance(value, str) and origin is not object:
        return _abstract_or(origin, value)
    if strict and origin is not Any:
        raise TypeError(f"{value!r} is not of type {_called(kind)}")
    return value


def _abstract_or(origin: type, text: str) -> Any:
    """Makes a value of a type from text.

    The abstract os.PathLike gives a path.
    """
    if origin.__module__ == "os" and origin.__name__ == "PathLike":
        return Path(text)
    return origin(text)


def _decode_literal(known: tuple[Any, ...], value: Any) -> Any:
    for one in known:
        encoded = _encode(type(one), one)
        if encoded == value and type(encoded) is type(value):
            return one
    raise ValueError(f"{value!r} is not one of {known}")


def _decode_key(kind: Any, key: str) -> Any:
    try:
        return _decode(kind, key, strict=True)
    except _WRONG:
        return _decode(kind, json.loads(key), strict=True)


def _decode_member(members: list[Any], value: Any) -> Any:
    if isinstance(value, dict) and len(value) == 1:
        ((name, inner),) = value.items()
        for member in members:
            if _called(_bare(member)) == name or _called(member) == name:
                return _decode(member, inner)
    for member in members:
        try:
            return _decode(member, value, strict=True)
        except _WRONG:
            continue
    return _as_tuples(value)
