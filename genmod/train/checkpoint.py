"""Checkpoints: one folder a step, written by Orbax, checked by us.

Saving is synchronous: when `save` returns, the step is on disk; there is no manager to close and no
thread left behind. A step is a folder named by its number, and counts once it holds a manifest, the
last file to be written: the SHA-256 of every other. Orbax itself loads a flipped bit in silence.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as orbax

from genmod import checks

_MANIFEST = "manifest.json"
_TRASH = "trash-"


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or does not hold what it should."""


def save(folder: str | Path, step: int, tree: Any, *, keep: int = 2) -> Path:
    """Writes a tree of arrays as the checkpoint of `step`, then removes all but the newest ones.

    Args:
      folder: holds the checkpoints of one run; made if it is not there.
      step: number of the step; a checkpoint of the same step is left as it is.
      tree: a tree of arrays.
      keep: how many checkpoints to keep, the new one included.

    Returns:
      The folder of this checkpoint.

    Raises:
      ValueError: if keep is not positive.
    """
    keep = checks.positive_integer("keep", keep)
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, step)
    if step not in steps(folder):
        shutil.rmtree(path, ignore_errors=True)  # what a killed save left behind
        orbax.save(str(path), tree)
        _write_manifest(path)
    for old in steps(folder)[:-keep]:
        _remove(folder, old)
    return path


def steps(folder: str | Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, in ascending order."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.parent.name) for path in folder.glob(f"*[0-9]/{_MANIFEST}"))


def restore(folder: str | Path, target: Any, *, step: int | None = None) -> Any:
    """Reads a checkpoint back.

    Args:
      folder: as given to `save`.
      target: a tree of arrays or `jax.ShapeDtypeStruct` (as `jax.eval_shape` gives) with the
        structure, shapes and types expected; nothing is ever cast, cut or padded to fit.
      step: which checkpoint; the newest if None.

    Returns:
      A tree like `target`, on the default device.

    Raises:
      CheckpointError: if there is no such checkpoint, it cannot be read, or it holds other arrays
        than the target; each difference is named.
    """
    folder = Path(folder).absolute()
    found = steps(folder)
    if not found or (step is not None and step not in found):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise CheckpointError(f"{folder}: expected {wanted}, found the steps {found}")
    path = _path(folder, found[-1] if step is None else step)
    _verify(path)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), target
    )
    try:
        stored = orbax.metadata(str(path)).metadata
        _compare(path, stored, placed)
        return orbax.load(str(path), placed)
    except CheckpointError:
        raise
    except Exception as error:
        # Orbax raises whatever its storage raises, often with the cause hidden one level down.
        cause = error.__cause__ or error
        raise CheckpointError(f"{path}: cannot be read: {type(cause).__name__}: {cause}") from error


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def _remove(folder: Path, step: int) -> None:
    """Takes a step out of sight in one rename before its files go: it is never seen in part."""
    trash = folder / f"{_TRASH}{step:09d}"
    shutil.rmtree(trash, ignore_errors=True)
    _path(folder, step).rename(trash)
    shutil.rmtree(trash)


def _hashes(path: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint but its manifest."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != _MANIFEST
    }


def _write_manifest(path: Path) -> None:
    manifest = {"sha256": _hashes(path)}
    partial = path / f"{_MANIFEST}.partial"
    with partial.open("w") as file:
        json.dump(manifest, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path / _MANIFEST)


def _verify(path: Path) -> None:
    """Refuses a checkpoint whose files are not those that were written, before Orbax sees it."""
    try:
        expected = json.loads((path / _MANIFEST).read_text())["sha256"]
        found = _hashes(path)
        names = sorted(expected.keys() | found.keys())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged: its {_MANIFEST} cannot be read: {error}") from None
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    if wrong:
        raise CheckpointError(
            f"{path}: damaged: {', '.join(wrong)} is not what was written "
            "(SHA-256 differs, or the file is missing or new)"
        )


def _compare(path: Path, stored: Any, target: Any) -> None:
    """Refuses a checkpoint whose arrays differ from the target's in name, shape or type."""
    has = {name: _describe(leaf) for name, leaf in _named_leaves(stored).items()}
    wants = {name: _describe(leaf) for name, leaf in _named_leaves(target).items()}
    differences = [
        f"{name}: expected {wants.get(name, 'nothing')}, found {has.get(name, 'nothing')}"
        for name in sorted(has.keys() | wants.keys())
        if has.get(name) != wants.get(name)
    ]
    if differences:
        raise CheckpointError(f"{path}: holds other arrays: " + "; ".join(differences))


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in leaves
        if hasattr(leaf, "dtype")
    }


def _describe(leaf: Any) -> str:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)  # stored as the key's words
    return f"{leaf.dtype} {list(leaf.shape)}"
