"""Identities and names of runs, from their configurations.

A run folder is named by what its configuration changes, so that the same command finds it again.
"""

import dataclasses
import enum
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from genmod.runs import configs

_LONGEST = 100
"""Number of characters in the longest name."""
_KINDS = ("idx", "npz", "npy", "folder", "call")
"""Kinds of data that are named by a path."""


def identity(kind: type | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a configuration that identifies a run.

    The length of the run (`epochs`) and the paths of data are left out: of folder:DIR, `folder`
    remains.

    Args:
      kind: class of the configuration; if None, no field is taken for a path.
      values: the configuration in JSON form.
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
    """Returns a configuration with absolute paths of data.

    Its relative paths start from `folder`. A path whose parent does not exist stays as it is.
    """
    changes = {}
    for field in dataclasses.fields(config):
        role, value = field.metadata.get("genmod"), getattr(config, field.name)
        data, _, where = ("", "", value) if role == "place" else str(value).partition(":")
        if role is None or not where or (data and data not in _KINDS):
            continue
        # The parent is checked: idx:FOLDER/PREFIX and call:FILE:F do not end in a file's name.
        place = Path(folder, Path(where).expanduser())
        if place.is_absolute() and place.parent.is_dir() and str(place) != where:
            changes[field.name] = f"{data}:{place}" if data else str(place)
    return dataclasses.replace(config, **changes) if changes else config


def name(config: Any, seeds: int = 1) -> str:
    """Returns a folder name made of the changed fields.

    Examples are `seed-0` and `seed-1_latent_dim-2`; several seeds are `seeds-0-9`. Data that are
    named by a path appear with its last part.

    The same command gives the same name and so finds its run again; another configuration gets
    another folder. `epochs` is left out, as a longer run continues a shorter one.
    """
    parts = [f"seed-{config.seed}"]
    if seeds > 1:
        parts = [f"seeds-{config.seed}-{config.seed + seeds - 1}"]
    for field in dataclasses.fields(config):
        value, role = getattr(config, field.name), field.metadata.get("genmod")
        if field.name in configs.ALWAYS or not field.init or role == "place":
            continue
        if not configs.has_default(field) or not configs.same(value, configs.default_of(field)):
            text = str(_readable(value))
            parts.append(f"{field.name}-{_last_part(text) if role else text}")
    joined = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))
    if len(joined) > _LONGEST:
        joined = f"{joined[:80]}_{hashlib.sha256(joined.encode()).hexdigest()[:12]}"
    return joined


def _last_part(text: str) -> str:
    """Shortens the name of data to its last part.

    `folder:/home/me/pictures/birds` becomes `folder-birds`.
    """
    data, _, where = text.partition(":")
    if data not in _KINDS:
        return text
    file, _, function = where.rpartition(":") if data == "call" else (where, "", "")
    last = Path(file).expanduser().resolve().name
    return "-".join(part for part in (data, last, function) if part)


def _readable(value: Any) -> Any:
    """Returns a value in the form that folder names have.

    Enums stand there by their names.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return "-".join([type(value).__name__, *(f"{n}-{_readable(v)}" for n, v in fields)])
    if isinstance(value, tuple | list):
        # The printed form keeps the folder names of earlier versions.
        one = [_Printed(v) if isinstance(v, enum.Enum | PurePath) else v for v in value]
        return tuple(one) if isinstance(value, tuple) else one
    return value


class _Printed:
    """Element of a list that is printed in its readable form."""

    def __init__(self, value: Any):
        self._text = str(_readable(value))

    def __repr__(self) -> str:
        return self._text
