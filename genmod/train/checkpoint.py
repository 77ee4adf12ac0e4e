"""Checkpoints, written by Orbax and verified by a manifest.

Each step has one folder. The life of a checkpoint:

1. Orbax writes the arrays to `saving-000000600/`.
2. Every file is synced to the disk, then `manifest.json` with the sizes and SHA-256 of all files.
3. The folder is renamed to `000000600/`. From here on it counts as a checkpoint.
4. Older steps than those to keep are renamed to `trash-...`, then removed.

A start removes `saving-*` and `trash-*`. A step that differs from its manifest is never loaded:
`restore_newest` moves it to `damaged/`, where nothing deletes it, and takes the one before it.

Saving is synchronous: when `save` returns, the step is on disk, and no thread is left. Only one
process at a time may write, so the caller must hold the run folder's lock.
"""

import contextlib
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as orbax

from genmod import checks, devices
from genmod._host import disk
from genmod.train import manifest, uncompensated
from genmod.train.manifest import CheckpointError

_DAMAGED = "damaged"
# These prefixes mark a step that is being written or deleted. A start removes both.
_SAVING, _TRASH = "saving-", "trash-"
_ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"
_SETTLES = 10.0
"""Seconds that Orbax's threads get to end after an error."""


class Restored(NamedTuple):
    """Checkpoint that `restore_newest` has read.

    Attributes:
      step: number of the step.
      tree: tree of arrays, like the target.
      remarks: one line for each newer step that was damaged and has been moved aside.
    """

    step: int
    tree: Any
    remarks: list[str]


def save(
    folder: str | Path, step: int, tree: Any, *, keep: int = 2, config_hash: str | None = None
) -> Path:
    """Writes a tree of arrays as the checkpoint of `step`.

    Afterwards it removes all checkpoints but the newest `keep`.

    Args:
      folder: folder of the checkpoints of one run; created if it does not exist.
      step: number of the step; a checkpoint of the same step is left as it is.
      tree: a tree of arrays.
      keep: number of checkpoints to keep, the new one included.
      config_hash: hash of the run's configuration, for the manifest.

    Returns:
      The folder of this checkpoint.

    Raises:
      ValueError: if keep is not positive.
      DiskError: if the disk is full or cannot be written; earlier checkpoints stay as they were.
    """
    keep = checks.positive_integer("keep", keep)
    folder = Path(folder).absolute()
    path = _path(folder, step)
    leads = jax.process_index() == 0
    if not devices.agree(leads and step in steps(folder)):
        partial = folder / f"{_SAVING}{path.name}"
        try:
            with disk.writing(path), _silence_orbax_logging(), _join_orbax_threads():
                if leads:
                    folder.mkdir(parents=True, exist_ok=True)
                    _remove_unfinished(folder)
                devices.agree(0)  # all processes wait until the first has made the folder
                with _spelt(partial) as place:
                    orbax.save(place, tree)
                if leads:
                    manifest.write(partial, step, config_hash)
                    if path.exists():  # this older folder has lost its manifest
                        _move_aside(folder, path)
                    partial.rename(path)
                    disk.sync_folder(folder)
        except BaseException:
            if leads:
                _remove_unfinished(folder)
            raise
    if not leads:
        return path
    others = [old for old in steps(folder) if old != step]
    for old in others[: max(0, len(others) + 1 - keep)]:
        _remove(folder, old)
    return path


def steps(folder: str | Path) -> list[int]:
    """Returns the steps that have a checkpoint, in ascending order."""
    return [
        int(path.name)
        for path in _step_folders(Path(folder))
        if (path / manifest.MANIFEST).exists()
    ]


def restore(folder: str | Path, target: Any, *, step: int | None = None) -> Any:
    """Reads a checkpoint.

    Nothing changes on the disk.

    Args:
      folder: folder of the checkpoints, as given to `save`.
      target: a tree of arrays or `jax.ShapeDtypeStruct` (as `jax.eval_shape` gives) with the
        structure, shapes and types expected. Nothing is ever cast, cut or padded to fit, except
        the running sums of version 0.1, which had the types of their metrics.
      step: step of the checkpoint; the newest if None.

    Returns:
      A tree like `target`. Each leaf is placed by the `sharding` of the target's leaf, if it has
      one, and on the default device otherwise.

    Raises:
      CheckpointError: if there is no such checkpoint, it cannot be read, or it holds other arrays
        than the target; the message names each difference.
    """
    folder = Path(folder).absolute()
    found = steps(folder)
    if not found or (step is not None and step not in found):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise CheckpointError(f"{folder}: expected {wanted}, found the steps {found}")
    return _read(_path(folder, found[-1] if step is None else step), target)


def restore_newest(folder: str | Path, target: Any) -> Restored | None:
    """Reads the newest intact checkpoint and moves damaged ones aside.

    Only a damaged checkpoint leads it to an older step. A checkpoint that holds other arrays than
    the target is refused, and nothing is moved. If all checkpoints are damaged, none is moved
    either: the next start must not take the run for a new one.

    Args:
      folder: folder of the checkpoints, as given to `save`.
      target: target of the arrays, as given to `restore`.

    Returns:
      The step with its tree and remarks, or None if there is no checkpoint at all.

    Raises:
      CheckpointError: if the checkpoint holds other arrays than the target, or if every one is
        damaged; the message names each difference or damage.
    """
    folder = Path(folder).absolute()
    if jax.process_count() == 1:
        clean(folder)
        return _newest(folder, lambda path: _read(path, target))
    newest = None  # the first process finds the step that all of them read
    if jax.process_index() == 0:
        clean(folder)
        newest = _newest(folder, manifest.verify)
    step = devices.agree(newest.step if newest else 0)
    if not step:
        return None
    return Restored(step, restore(folder, target, step=step), newest.remarks if newest else [])


def restore_before(folder: str | Path, target: Any, step: int) -> tuple[int, Any] | None:
    """Reads the newest intact checkpoint of an earlier step.

    Nothing changes on the disk.

    Args:
      folder: folder of the checkpoints, as given to `save`.
      target: target of the arrays, as given to `restore`.
      step: step before which the checkpoint must be.

    Returns:
      The step and its tree; None if there is no such checkpoint.

    Raises:
      CheckpointError: if the checkpoint holds other arrays than the target.
    """
    earlier = [path for path in _step_folders(Path(folder).absolute()) if int(path.name) < step]
    path, tree, _ = _newest_intact(earlier, lambda path: _read(path, target))
    return None if path is None else (int(path.name), tree)


def _newest(folder: Path, read: Callable[[Path], Any]) -> Restored | None:
    """Returns the newest intact step, with the result of `read`.

    Newer steps, for which `read` has raised `Damaged`, are moved aside.
    """
    path, tree, damaged = _newest_intact(_step_folders(folder), read)
    if path is None and damaged:
        raise CheckpointError("no checkpoint is left: " + "; ".join(why for _, why in damaged))
    if path is None:
        return None
    step = int(path.name)
    remarks = [
        f"{why}; moved to {_move_aside(folder, bad)}, continuing from step {step}"
        for bad, why in damaged
    ]
    return Restored(step, tree, remarks)


def _newest_intact(
    paths: list[Path], read: Callable[[Path], Any]
) -> tuple[Path | None, Any, list[tuple[Path, str]]]:
    """Returns the last intact path and its content.

    The content is the result of `read`. Damaged paths, which come later, are returned as well, each
    with its error.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(paths):
        try:
            return path, read(path), damaged
        except manifest.Damaged as error:
            damaged.append((path, str(error)))
    return None, None, damaged


def clean(folder: str | Path) -> None:
    """Removes unfinished and half-deleted steps of a killed process."""
    folder = Path(folder).absolute()
    _remove_unfinished(folder)
    for path in folder.glob(f"{_TRASH}*"):
        shutil.rmtree(path, ignore_errors=True)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def _step_folders(folder: Path) -> list[Path]:
    """Returns the folders of steps, in ascending order.

    Only names that `save` gives count: a folder `7` is not a step.
    """
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if re.fullmatch(r"\d{9}|[1-9]\d{9,}", path.name)]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name))


def _remove_unfinished(folder: Path) -> None:
    for path in [*folder.glob(f"{_SAVING}*"), *folder.glob(f"*{_ORBAX_UNFINISHED}*")]:
        shutil.rmtree(path, ignore_errors=True)


def _remove(folder: Path, step: int) -> None:
    """Deletes the folder of a step.

    One rename hides it before its files are deleted, so that no reader sees a part of a step.
    """
    trash = folder / f"{_TRASH}{step:09d}"
    shutil.rmtree(trash, ignore_errors=True)
    _path(folder, step).rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _move_aside(folder: Path, path: Path) -> Path:
    """Moves a damaged step to `damaged/`.

    A number is added to its name if that is taken.
    """
    aside = folder / _DAMAGED
    aside.mkdir(exist_ok=True)
    names = (f"{path.name}{f'-{i}' if i else ''}" for i in range(len(list(aside.iterdir())) + 1))
    free = next(aside / name for name in names if not (aside / name).exists())
    path.rename(free)
    disk.sync_folder(folder)
    return free


@contextlib.contextmanager
def _silence_orbax_logging() -> Iterator[None]:
    """Silences Orbax's log.

    For one error, Orbax logs the traceback of every thread, and raises the error as well.
    """
    logger = logging.getLogger("absl")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


@contextlib.contextmanager
def _spelt(path: Path) -> Iterator[str]:
    """Yields a path that Orbax accepts.

    If the name of a folder is not valid Unicode, the path goes through a symbolic link.
    """
    with contextlib.ExitStack() as stack:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory()), "checkpoints")
            link.symlink_to(path.parent)
            path = link / path.name
        yield str(path)


@contextlib.contextmanager
def _join_orbax_threads() -> Iterator[None]:
    """Waits for Orbax's threads if Orbax fails.

    They would go on writing into a folder that is about to be removed.
    """
    before = set(threading.enumerate())
    try:
        yield
    except Exception:
        end = time.monotonic() + _SETTLES
        for thread in set(threading.enumerate()) - before:
            if type(thread) is not threading.Thread:  # the thread of its event loop never ends
                # The thread's own `join` would raise the error of the thread.
                threading.Thread.join(thread, max(0.0, end - time.monotonic()))
        raise


def _read(path: Path, target: Any) -> Any:
    """Returns the tree of a step.

    Its files are verified first, and its arrays must be those of the target.
    """
    manifest.verify(path)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or default
        ),
        target,
    )
    wanted = placed
    try:
        with _silence_orbax_logging(), _spelt(path) as place:
            stored = orbax.metadata(place).metadata
            if uncompensated.is_saved_so(stored, placed):
                wanted = uncompensated.target_of(stored, placed)
            _check_same_arrays(path, stored, wanted)
            tree = _load_arrays(place, stored, wanted)
    except CheckpointError:
        raise
    except Exception as error:
        # Orbax raises whatever its storage raises, often with the cause hidden one level down.
        cause = error.__cause__ or error
        message = f"{path}: cannot be read: {type(cause).__name__}: {cause}"
        # A lack of memory is not damage: an older step would not fit either.
        no_room = isinstance(cause, MemoryError) or "RESOURCE_EXHAUSTED" in str(cause)
        raise (CheckpointError if no_room else manifest.Damaged)(message) from error
    # Orbax stores keys as words and restores the kind of key that was saved, which may differ.
    _check_same_arrays(path, tree, wanted, kind_of_key=True)
    return tree if wanted is placed else uncompensated.completed(tree, placed)


def _load_arrays(place: str, stored: Any, target: Any) -> Any:
    """Loads the arrays of a checkpoint that has the same ones as the target, by name.

    Containers without arrays count for nothing: a state may have got one since it was saved, such
    as the average of a learner that keeps none.
    """
    wants, named = _named_leaves(target), jax.tree_util.tree_map_with_path
    loaded = orbax.load(place, named(lambda at, leaf: wants.get(_name(at), leaf), stored))
    arrays = _named_leaves(loaded)
    return named(lambda at, leaf: arrays[_name(at)], target)


def _check_same_arrays(path: Path, stored: Any, target: Any, *, kind_of_key: bool = False) -> None:
    """Refuses a checkpoint with other arrays than the target.

    Names, shapes and types are compared.
    """
    has = {n: _describe(leaf, kind_of_key) for n, leaf in _named_leaves(stored).items()}
    wants = {n: _describe(leaf, kind_of_key) for n, leaf in _named_leaves(target).items()}
    differences = [
        f"{name}: expected {wants.get(name, 'nothing')}, found {has.get(name, 'nothing')}"
        for name in sorted(has.keys() | wants.keys())
        if has.get(name) != wants.get(name)
    ]
    if differences:
        raise CheckpointError(f"{path}: holds other arrays: " + "; ".join(differences))


def _named_leaves(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves if hasattr(leaf, "dtype")}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _describe(leaf: Any, kind_of_key: bool) -> str:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) and not kind_of_key:
        leaf = jax.eval_shape(jax.random.key_data, leaf)  # stored as the key's words
    return f"{leaf.dtype} {list(leaf.shape)}"
