"""Weights of evaluation networks: their files and their fingerprint."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genmod.errors import DataError

SUFFIXES = (".npz", ".safetensors")
"""Endings of files with weights."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads arrays by name from an npz or a safetensors file.

    Raises:
      ValueError: if the name of the file ends otherwise.
      DataError: if the file is missing or damaged.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"weights must be a file .npz or .safetensors, got {str(path)!r}")
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        import safetensors.numpy

        return safetensors.numpy.load(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: missing; expected a file with weights") from None
    except Exception as error:
        raise DataError(f"{path}: damaged ({error})") from None


def named(weights: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a tree by their names, such as "layer_0.kernel"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Returns arrays called "layer.name" as a dict of dicts."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, _, own = name.rpartition(".")
        found.setdefault(layer, {})[own] = array
    return found


def fingerprint(weights: Any) -> str:
    """Returns the SHA-256 of the names, shapes, types and values of a tree of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(named(weights).items()):
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"
