"""Manifest of a checkpoint: size and SHA-256 of each file.

It is needed because Orbax loads a file with a flipped bit without an error.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import genmod
from genmod._host import disk

MANIFEST = "manifest.json"


class CheckpointError(Exception):
    """A checkpoint is missing or damaged, or holds other arrays."""


class Damaged(CheckpointError):
    """A checkpoint is damaged; an older one may be intact."""


def write(path: Path, step: int, config_hash: str | None) -> None:
    """Syncs a complete step to the disk, its manifest last."""
    files = {str(file.relative_to(path)): _sum(file, sync=True) for file in _files(path)}
    manifest = {
        "step": step,
        "config_hash": config_hash,
        "versions": _versions(),
        "files": files,
    }
    disk.write_json(path / MANIFEST, _with_checksum(manifest))
    for inner in [folder for folder in path.rglob("*") if folder.is_dir()]:
        disk.sync_folder(inner)
    disk.sync_folder(path)


def verify(path: Path) -> None:
    """Refuses a checkpoint whose files differ from its manifest.

    It is called before Orbax reads them.
    """
    try:
        text = (path / MANIFEST).read_text()
        manifest = json.loads(text)
        expected, step = dict[str, Any](manifest["files"]), manifest["step"]
        intact = disk.json_text(_with_checksum(manifest)) == text
    # A hostile file may be nested too deeply for the parser (RecursionError).
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"unreadable: {error!r}"
        raise Damaged(f"{path}: damaged: its {MANIFEST} is {reason}") from None
    if not intact:
        raise Damaged(f"{path}: damaged: its {MANIFEST} is not what was written")
    if step != int(path.name):
        raise Damaged(f"{path}: damaged: its {MANIFEST} is that of step {step!r}")
    try:
        found = {str(file.relative_to(path)): _sum(file) for file in _files(path)}
    except OSError as error:
        raise Damaged(f"{path}: damaged: it cannot be read: {error}") from None
    names = sorted(expected.keys() | found.keys())
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    if wrong:
        raise Damaged(
            f"{path}: damaged: {', '.join(wrong)} is not what was written "
            "(SHA-256 differs, or the file is missing or new)"
        )


def _with_checksum(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a manifest with the SHA-256 of its content as `seal`."""
    content = {name: value for name, value in manifest.items() if name != "seal"}
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return content | {"seal": seal}


def _files(path: Path) -> list[Path]:
    """Returns the files of a checkpoint except its manifest."""
    return [f for f in sorted(path.rglob("*")) if f.is_file() and f != path / MANIFEST]


def _sum(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Returns size and SHA-256 of a file.

    With `sync`, the file is on the disk before this returns.
    """
    with path.open("rb") as file:
        if sync:  # Orbax syncs the files of its arrays only
            os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": sha256}


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("jax", "orbax-checkpoint")
    return {"genmod": genmod.__version__} | {p: importlib.metadata.version(p) for p in packages}
