"""How a configuration is written down as JSON, read back by the types of its fields, and named.

Text stands for paths, enums (by their names), dates, and numbers that are not finite; lists for
tuples and sets, objects for dataclasses and dictionaries. What would not come back as it was is
refused.
"""

import collections.abc
import dataclasses
import datetime
import enum
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Literal

from genmod._host import disk

_KINDS = ("idx", "npz", "npy", "folder", "call")
"""Kinds of data that are named by where they lie."""
_ALWAYS = frozenset({"seed", "epochs"})
_TIMES = (datetime.date, datetime.time)  # a datetime is a date
_WRONG = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError)
"""What is raised where a value is not of a type."""
_LONGEST = 100


def as_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON holds it; `from_json` makes an equal one of it.

    Raises:
      ValueError: if a field holds what cannot be written down and read back.
    """
    kinds = _fields(type(config))
    return {n: _written(type(config), n, kind, getattr(config, n)) for n, kind in kinds.items()}


def check_defaults(kind: type) -> None:
    """Refuses a class of configurations whose defaults `as_json` would refuse.

    Raises:
      ValueError: with the name of the field.
    """
    hints = _fields(kind)
    for field in dataclasses.fields(kind):
        if field.name in hints and _has_default(field):
            _written(kind, field.name, hints[field.name], _default(field))


def _written(config: type, name: str, kind: Any, value: Any) -> Any:
    """What stands in JSON for the value of a field."""
    try:
        written = _encode(kind, value)
        if _same(_decode(kind, written), value):
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
    """The configuration that `as_json` wrote down; fields that it lacks have their defaults.

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
    """The defaults, as JSON holds them, of fields that a recorded configuration lacks.

    They are of later versions of the experiment; `seed` and `epochs` are in every record.
    """
    hints, found = _fields(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in hints and field.name not in {*values, *_ALWAYS} and _has_default(field):
            found[field.name] = _encode(hints[field.name], _default(field))
    return found


def identity(kind: type | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recorded configuration says which run it is: all but its length, and places.

    Args:
      kind: of the configuration; nothing is known of its fields if None.
      values: as JSON holds them.
    """
    fields = {} if kind is None else {field.name: field for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        role = fields[name].metadata.get("genmod") if name in fields else None
        if name == "epochs" or role == "place":
            continue
        data, _, where = str(value).partition(":")
        has_place = role == "kind and place" and where and data in _KINDS
        found[name] = data if has_place else value
    return found


def located(config: Any, folder: str | Path) -> Any:
    """The configuration with the places of data from the root on, where they lie below a folder."""
    changes = {}
    for field in dataclasses.fields(config):
        role, value = field.metadata.get("genmod"), getattr(config, field.name)
        data, _, where = ("", "", value) if role == "place" else str(value).partition(":")
        if role is None or not where or (data and data not in _KINDS):
            continue
        # Of idx:FOLDER/BEGINNING-OF-ITS-NAMES and of call:FILE:F, what is there is not the whole.
        place = Path(folder, Path(where).expanduser())
        if place.is_absolute() and place.parent.is_dir() and str(place) != where:
            changes[field.name] = f"{data}:{place}" if data else str(place)
    return dataclasses.replace(config, **changes) if changes else config


def name(config: Any, seeds: int = 1) -> str:
    """A folder name that says what a configuration changes: `seed-0`, `seed-1_latent_dim-2`.

    Several seeds are `seeds-0-9`; of data that are named by where they lie, it has the last part.

    The same command gives the same name and so finds its run again; another configuration gets a
    folder of its own. `epochs` is left out, as a longer run continues a shorter one.
    """
    parts = [f"seed-{config.seed}"]
    if seeds > 1:
        parts = [f"seeds-{config.seed}-{config.seed + seeds - 1}"]
    for field in dataclasses.fields(config):
        value, role = getattr(config, field.name), field.metadata.get("genmod")
        if field.name in _ALWAYS or not field.init or role == "place":
            continue
        if not _has_default(field) or not _same(value, _default(field)):
            text = str(_readable(value))
            parts.append(f"{field.name}-{_last_part(text) if role else text}")
    found = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))
    if len(found) > _LONGEST:
        found = f"{found[:80]}_{hashlib.sha256(found.encode()).hexdigest()[:12]}"
    return found


def _last_part(text: str) -> str:
    """`folder-birds` of `folder:/home/me/pictures/birds`."""
    data, _, where = text.partition(":")
    if data not in _KINDS:
        return text
    file, _, function = where.rpartition(":") if data == "call" else (where, "", "")
    last = Path(file).expanduser().resolve().name
    return "-".join(part for part in (data, last, function) if part)


def _readable(value: Any) -> Any:
    """A value as a folder's name tells it: enums by their names."""
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return "-".join([type(value).__name__, *(f"{n}-{_readable(v)}" for n, v in fields)])
    if isinstance(value, tuple | list):
        # As it is printed: runs of earlier versions are found under that name.
        one = [_Printed(v) if isinstance(v, enum.Enum | PurePath) else v for v in value]
        return tuple(one) if isinstance(value, tuple) else one
    return value


class _Printed:
    """Stands for a value in a list that is printed."""

    def __init__(self, value: Any):
        self._text = str(_readable(value))

    def __repr__(self) -> str:
        return self._text


def _has_default(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def _default(field: dataclasses.Field) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def _fields(kind: type) -> dict[str, Any]:
    """The annotations of the fields that make a configuration, by name."""
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


def _same(one: Any, other: Any) -> bool:
    """Whether values are equal, lists and tuples being the same, and NaN itself."""
    one, other = _as_tuples(one), _as_tuples(other)
    return bool(one == other) or repr(one) == repr(other)


def _as_tuples(value: Any) -> Any:
    """JSON knows only lists; a frozen configuration holds tuples."""
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return tuple(map(_as_tuples, value))
    return value


# By type. `kind` is an annotation, of which Any says nothing.


def _bare(kind: Any) -> Any:
    """An annotation without what does not say how a value is written."""
    while True:
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):  # a NewType
            kind = kind.__supertype__
        elif hasattr(kind, "__value__"):  # a type statement's, of Python 3.12
            kind = kind.__value__
        else:
            return kind


def _members(kind: Any) -> list[Any]:
    """The types of a union without None; none for what is no union."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return []
    return [one for one in typing.get_args(kind) if one is not type(None)]


def _inner(kind: Any, length: int) -> list[Any]:
    """The annotations of the elements of a collection."""
    arguments = typing.get_args(kind)
    if hasattr(kind, "_fields"):  # a NamedTuple
        hints = typing.get_type_hints(kind)
        return [hints.get(name, Any) for name in kind._fields]
    if typing.get_origin(kind) is tuple and Ellipsis not in arguments and arguments:
        return list(arguments)
    return [arguments[0] if arguments else Any] * length


def _encode(kind: Any, value: Any) -> Any:
    """A value as JSON holds it."""
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
        return str(value)  # such as a Fraction: whether it comes back is tried
    raise TypeError(type(value).__name__)


def _primitive(value: str | int) -> str | int:
    """Text or a number as it is, without what an enum adds."""
    return str.__str__(value) if isinstance(value, str) else int(value)


def _encode_key(kind: Any, key: Any) -> str:
    encoded = _encode(kind, key)
    return encoded if isinstance(encoded, str) else json.dumps(encoded)


def _encode_member(kind: Any, members: list[Any], value: Any) -> Any:
    """What is of one of several types: as it is where that tells which, else with its name."""
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
    return _same(one, other) and (type(one) is type(other) or isinstance(other, list))


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _decode(kind: Any, value: Any, *, strict: bool = False) -> Any:
    """The value that `_encode` wrote; strictly, only what is of the type's own form in JSON."""
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
            raise TypeError(f"{value!r} is no {origin.__name__}")
        return value if isinstance(value, list | dict) or not strict else origin(value)
    if _is(origin, bytes):
        return bytes.fromhex(value)
    if _is(origin, _TIMES[0]) or _is(origin, _TIMES[1]):
        return origin.fromisoformat(value)
    if dataclasses.is_dataclass(origin) and isinstance(origin, type):
        return from_json(origin, value)
    if _is(origin, collections.abc.Mapping):
        keys, values = typing.get_args(kind) or (Any, Any)
        found = {_decode_key(keys, k): _decode(values, v, strict=strict) for k, v in value.items()}
        return found
    if isinstance(value, list):
        kinds = _inner(kind, len(value))
        listed = [_decode(one, v, strict=strict) for one, v in zip(kinds, value, strict=True)]
        if hasattr(origin, "_fields"):
            return origin(*listed)
        return origin(listed) if origin in (list, set, frozenset) else tuple(listed)
    if isinstance(origin, type) and isinstance(value, str) and origin is not object:
        return _abstract_or(origin, value)
    if strict and origin is not Any:
        raise TypeError(f"{value!r} is no {_called(kind)}")
    return value


def _abstract_or(origin: type, text: str) -> Any:
    """What a type makes of a text; of types such as os.PathLike, a path."""
    if origin.__module__ == "os" and origin.__name__ == "PathLike":
        return Path(text)
    return origin(text)


def _decode_literal(known: tuple[Any, ...], value: Any) -> Any:
    for one in known:
        encoded = _encode(type(one), one)
        if encoded == value and type(encoded) is type(value):
            return one
    raise ValueError(f"{value!r} is none of {known}")


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
