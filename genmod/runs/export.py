"""Export of a run's sampler, for programs without genmod.

sampler.stablehlo        `(parameters, key data uint32 [2]) -> images [num, H, W, C]`, as
                         `jax.export` writes it; runs on CPU, CUDA and TPU, and with later versions
                         of JAX. That of a conditional model has the condition, a tree of arrays
                         [num, ...], as its third argument
parameters.safetensors   the parameters that sampling depends on, by name
export.json              origin of the sampler, shapes, and SHA-256 of both files
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from genmod import checks, rng
from genmod._host import disk, environment
from genmod.experiment import Experiment
from genmod.runs import loading, record
from genmod.runs.folder import Folder
from genmod.types import Array, Key

PLATFORMS = ("cpu", "cuda", "tpu")
_SAMPLER, _PARAMETERS, _ABOUT = "sampler.stablehlo", "parameters.safetensors", "export.json"


class Exported(NamedTuple):
    """Sampler that was exported.

    Attributes:
      sample: function `key -> images [num, H, W, C]`; `(key, condition)` of a conditional model.
      parameters: the parameters, by name.
      about: contents of `export.json`.
    """

    sample: Callable[..., Array]
    parameters: dict[str, np.ndarray]
    about: dict[str, Any]


def write(
    built: Experiment, state: Any, folder: Path, *, num: int, about: Mapping[str, Any]
) -> None:
    """Writes the sampler of a state into a folder.

    Args:
      built: the experiment, as a single run.
      state: state of its learner.
      folder: folder to write; made if it does not exist.
      num: number of images that a call of the sampler draws.
      about: further entries of `export.json`.

    Raises:
      ValueError: if num is not positive or the learner cannot sample.
      DiskError: if a file cannot be written.
    """
    checks.positive_integer("num", num)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    structure = jax.tree.structure(state)

    def sample(parameters: Mapping[str, Array], key_data: Array, *condition: Any) -> Array:
        leaves = [parameters.get(name, leaf) for name, leaf in named.items()]
        # The key gets genmod's kind, whatever JAX's default kind is.
        key = jax.random.wrap_key_data(key_data, impl=jax.random.key_impl(rng.root(0)))
        return built.learner.sample(key, jax.tree.unflatten(structure, leaves), num, *condition)

    rest = (jax.random.key_data(rng.root(0)), *_example_condition(built, num))
    used = _used(sample, named, rest)
    exported = jax.export.export(jax.jit(sample), platforms=PLATFORMS)(used, *rest)
    (images,) = exported.out_avals
    program = exported.serialize()
    weights = safetensors.numpy.save({name: np.asarray(value) for name, value in used.items()})
    content = {
        **about,
        "num": num,
        "images": {"shape": list(images.shape), "dtype": str(images.dtype)},
        **_about_condition(built, num),
        "platforms": list(PLATFORMS),
        "versions": environment.versions(),
        "parameters": {name: list(np.shape(value)) for name, value in used.items()},
        "sha256": {
            _SAMPLER: hashlib.sha256(program).hexdigest(),
            _PARAMETERS: hashlib.sha256(weights).hexdigest(),
        },
    }
    with disk.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _SAMPLER).write_bytes(program)
        (folder / _PARAMETERS).write_bytes(weights)
    disk.write_json(folder / _ABOUT, content)


def load(folder: str | Path) -> Exported:
    """Loads a sampler that was exported.

    Raises:
      ValueError: if a file is missing, or is not the one that was written.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / _ABOUT).read_text())
        contents = {name: (folder / name).read_bytes() for name in about["sha256"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder)!r} is not an exported sampler: {error}") from None
    for name, content in contents.items():
        digest = hashlib.sha256(content).hexdigest()
        if digest != about["sha256"][name]:
            raise ValueError(
                f"{folder / name} is damaged: SHA-256 {digest}, expected {about['sha256'][name]}"
            )
    exported = jax.export.deserialize(bytearray(contents[_SAMPLER]))
    parameters = safetensors.numpy.load(contents[_PARAMETERS])
    call = jax.jit(exported.call)
    (_, _, *expected), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)

    def sample(key: Key, condition: Any = None) -> Array:
        given = _checked(condition, *expected) if expected else _refused(condition)
        return call(parameters, jax.random.key_data(key), *given)

    return Exported(sample, parameters, about)


def run(
    path: str | Path,
    folder: str | Path | None = None,
    *,
    num: int = 100,
    index: int = 0,
    best: bool = False,
) -> tuple[Path, Exported, bool]:
    """Exports the sampler of a run and checks its images.

    They are compared with the run's own, bit for bit. Those of a conditional run are compared for
    conditions that occur in its data.

    Args:
      path: the run folder.
      folder: folder to write; RUN/export if None.
      num: number of images that a call draws.
      index: index of the run, from 0, if the folder holds several seeds.
      best: whether to export the best checkpoint rather than the newest, as in `loading.load_run`.

    Returns:
      The folder, the sampler loaded from it, and whether every bit agrees.

    Raises:
      ValueError: if the folder does not hold a run, or an argument is out of range.
      CheckpointError: if no checkpoint can be restored.
    """
    checks.positive_integer("num", num)
    built, state = loading.load_run(path, index, best=best)
    recorded = record.read(Folder(Path(path)))
    out = Path(folder) if folder is not None else Path(path) / "export"
    about = {
        **{name: recorded[name] for name in ("experiment", "config", "data")},
        "seed": recorded["config"]["seed"] + index,
        "checkpoint": "best" if best else "newest",
    }
    write(built, state, out, num=num, about=about)
    loaded = load(out)
    key = rng.root(0)
    condition = _example_condition(built, num)
    own = np.asarray(built.sample(key, state, num, *condition))
    same = np.asarray(loaded.sample(key, *condition)).tobytes() == own.tobytes()
    return out, loaded, same


def _example_condition(built: Experiment, num: int) -> tuple[Any, ...]:
    """Returns a condition of `num` images that occurs in the data; none without conditions."""
    conditions = built.learner.conditions
    return () if conditions is None else (conditions.draw(rng.root(0), num),)


def _about_condition(built: Experiment, num: int) -> dict[str, Any]:
    """Describes the condition for `export.json`.

    Each of its arrays has an entry with its shape and type; one array alone has no name. Labels are
    given with their names.
    """
    found: dict[str, Any] = {}
    for condition in _example_condition(built, num):
        found["condition"] = {
            jax.tree_util.keystr(path, simple=True, separator="."): {
                "shape": list(leaf.shape),
                "dtype": str(leaf.dtype),
            }
            for path, leaf in jax.tree_util.tree_leaves_with_path(condition)
        }
    if built.labels is not None:
        names = built.class_names(built.labels)
        found["classes"] = dict(zip(map(str, built.labels.tolist()), names, strict=True))
    return found


def _checked(condition: Any, expected: Any) -> tuple[Any]:
    """Returns the condition for the sampler, in the types of its arrays.

    Raises:
      ValueError: if it is missing, or has another form than expected.
    """

    def form(tree: Any) -> Any:
        return jax.tree.map(_form, tree)

    if form(condition) != form(expected):
        raise ValueError(
            f"condition must be {form(expected)}, one entry for each image, got {form(condition)}"
        )
    return (jax.tree.map(lambda leaf, one: np.asarray(leaf, one.dtype), condition, expected),)


def _form(leaf: Any) -> str:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    kind = "whole numbers" if jnp.issubdtype(dtype, jnp.integer) else "numbers"
    return f"{kind} {list(np.shape(leaf))}"


def _refused(condition: Any) -> tuple[()]:
    if condition is not None:
        raise ValueError("condition must be None, as this sampler takes none")
    return ()


def _used(
    sample: Callable[..., Array], named: Mapping[str, Any], rest: tuple[Any, ...]
) -> dict[str, Any]:
    """Returns the parameters that the images depend on.

    The exported program leaves out the others.
    """
    whole = jax.export.export(jax.jit(sample))(dict(named), *rest)
    kept = set(whole.module_kept_var_idx)
    # JAX numbers arguments in the order of the tree, which sorts dictionaries by key.
    return {name: named[name] for place, name in enumerate(sorted(named)) if place in kept}
