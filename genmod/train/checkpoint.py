"""Checkpoints: one folder a step, written by Orbax, checked by us.

Saving is synchronous: when `save` returns, the step is on disk under its final name; there is no
manager to close and no thread left behind. A step is a folder whose name is its number; while it is
written it has another name, and Orbax renames it when it is whole.
"""

import shutil
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as orbax

from genmod import checks

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
    path = folder / f"{step:09d}"
    if not path.exists():
        orbax.save(str(path), tree)
    for old in steps(folder)[:-keep]:
        _remove(folder, old)
    return path


def steps(folder: str | Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, in ascending order."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


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
    path = folder / f"{found[-1] if step is None else step:09d}"
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


def _remove(folder: Path, step: int) -> None:
    """Takes a step out of sight in one rename before its files go: it is never seen in part."""
    trash = folder / f"{_TRASH}{step:09d}"
    shutil.rmtree(trash, ignore_errors=True)
    (folder / f"{step:09d}").rename(trash)
    shutil.rmtree(trash)


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
