"""One step of a run, again: what it saw, what each example gave, and which of them was the cause.

>>> again = replay.step("runs/mnist_vae/seed-0", 1234)
>>> print(again.inspection.terms["loss"], replay.offenders(again, 10).places)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, data, rng, train
from genmod.runs import loading, logs, runner
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.types import Batch, Key


class Replayed(NamedTuple):
    """A step of a run, before its update.

    Attributes:
      step: which one, counted from 1.
      origin: the checkpoint's step from which it was rebuilt; 0 for the start.
      num_steps: how many the run has.
      key: what it draws from.
      state: the learner's state before it.
      batch: what it sees, [B, ...].
      metrics: what it reports, in the bits of the run.
      inspection: the same example by example, up to rounding; None for a learner without `inspect`.
      indices: the examples' places in the data set, [B]; None where the batches are not those of
        `data.batches`.
      images: the examples as images [B, H, W, C], out of the data set where their places are known;
        None where they are no images.
    """

    step: int
    origin: int
    num_steps: int
    key: Key
    state: Any
    batch: Batch
    metrics: dict[str, Any]
    inspection: train.Inspection | None
    indices: np.ndarray | None
    images: np.ndarray | None


class Offenders(NamedTuple):
    """Examples that stand out in a step.

    Attributes:
      places: which of the batch, [n].
      term: whose largest values they have; None where they have values that are not finite.
      num: how many there are: more than n where only some are wanted.
    """

    places: np.ndarray
    term: str | None
    num: int


class Gradient(NamedTuple):
    """The gradient of one array of parameters.

    Attributes:
      norm: Euclidean.
      num_bad: how many of its values are not finite.
      size: how many values it has.
    """

    norm: float
    num_bad: int
    size: int


def step(run_folder: str | Path, step: int, *, index: int = 0) -> Replayed:
    """Rebuilds a step of a run, from the nearest checkpoint before it or from the start.

    Where the experiment was edited between two starts, each step is taken by the source of the
    start that took it.

    Args:
      run_folder: of the run; nothing in it is changed.
      step: which step, counted from 1 as the log and `train.NonFiniteError` do.
      index: which of the runs, where the folder holds several seeds; the first is 0.

    Raises:
      ValueError: if the folder is not that of a run, there is no such step or index, the run became
        non-finite before it, or the data set is no longer the same.
      CheckpointError: if that checkpoint holds other arrays than the experiment's. A damaged one is
        passed over.
    """
    step = checks.positive_integer("step", step)
    folder = Folder(Path(run_folder))
    opened = loading.rebuild(folder)
    loading.say(opened.remarks)
    stages = loading.Stages(folder, opened)
    whole, seeds = opened.whole, opened.whole.learner.seeds
    if step > whole.num_steps:
        raise ValueError(f"step must be one of the run's {whole.num_steps} steps, got {step}")
    checks.index_of_run(index, seeds or 1)
    if whole.dataset.fingerprint != opened.recorded["data"]:
        raise ValueError(
            f"the data set is {whole.dataset.fingerprint} now, and was {opened.recorded['data']} "
            "when the run began; expected the same: its batches cannot be made again"
        )
    key = runner.keys(whole, opened.config.seed)
    shapes = runner.check(whole, opened.config.seed)
    origin, carry = checkpoint.restore_before(folder.checkpoints, shapes, step) or (0, None)
    if carry is None:
        first = stages.at(1).whole
        carry = train.start(first.learner, key, first.batch_at)
    try:
        carry = stages.advance(key, carry, step - 1 - origin)
    except train.NonFiniteError as error:
        raise ValueError(f"step must be at most {error.step}, got {step}: {error}") from None
    took = stages.at(step)
    whole = took.whole
    seen, state = train.next_step(whole.learner, key, whole.batch_at, carry), carry.state
    if seeds is not None:
        seen, state, key = jax.tree.map(lambda leaf: leaf[index], (seen, state, key))
        seen = seen._replace(metrics={n: value.tolist() for n, value in seen.metrics.items()})
    inspect = took.single.learner.inspect
    inspection = None if inspect is None else jax.jit(inspect)(seen.key, state, seen.batch)
    places = data.indices_of(whole.batch_at, rng.stream(key, "data"), step - 1)
    indices = None if places is None else np.asarray(places)
    images = _images(seen.batch if indices is None else whole.dataset.images[indices])
    return Replayed(
        step=step,
        origin=origin,
        num_steps=opened.whole.num_steps,
        key=seen.key,
        state=state,
        batch=seen.batch,
        metrics=seen.metrics,
        inspection=inspection,
        indices=indices,
        images=images,
    )


def offenders(replayed: Replayed, num: int = 8) -> Offenders:
    """The examples with a value that is not finite in any term, or else of the largest loss.

    Args:
      replayed: a step of a learner with `inspect`.
      num: how many at most.

    Raises:
      ValueError: if num is not positive, or the step was not taken apart.
    """
    num = checks.positive_integer("num", num)
    terms = by_example(replayed)
    bad = [places[~np.isfinite(values)] for values, places in terms.values()]
    found = np.unique(np.concatenate([np.zeros(0, np.int32), *bad]))
    if len(found):
        return Offenders(found[:num], None, len(found))
    term = next(iter(terms), None)
    if term is None:
        return Offenders(found, None, 0)
    values, places = terms[term]
    ordered = np.array(list(dict.fromkeys(places[np.argsort(-values, kind="stable")].tolist())))
    return Offenders(ordered[:num], term, len(ordered))


def by_example(replayed: Replayed) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each term's values [n], with the places in the batch [n] of the examples they belong to.

    The losses come first. Terms that have no value for each example are left out.

    Raises:
      ValueError: if the step was not taken apart.
    """
    if replayed.inspection is None:
        raise ValueError("the learner has no inspect: its step cannot be taken apart")
    size = checks.leading_axis("batch", replayed.batch)
    known: Mapping[str, Any] = replayed.inspection.examples or {}
    values = replayed.inspection.terms
    terms = {n: np.asarray(v) for n, v in {**logs.losses(values), **values}.items()}
    places = {name: np.asarray(known.get(name, np.arange(size))) for name in terms}
    return {n: (terms[n], places[n]) for n in terms if terms[n].shape == places[n].shape}


def gradients(replayed: Replayed) -> dict[str, Gradient]:
    """The gradient of each array of parameters, by its path.

    Raises:
      ValueError: if the step was not taken apart.
    """
    if replayed.inspection is None:
        raise ValueError("the learner has no inspect: its step cannot be taken apart")
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(replayed.inspection.gradients):
        values = np.asarray(leaf, np.float64).ravel()
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        num_bad = int(np.sum(~np.isfinite(values)))
        with np.errstate(all="ignore"):
            found[name] = Gradient(float(np.sqrt(values @ values)), num_bad, values.size)
    return found


def _images(examples: Any) -> np.ndarray | None:
    if not hasattr(examples, "ndim") or examples.ndim != 4 or examples.shape[-1] not in (1, 3):
        return None
    pixels = examples.dtype == np.uint8 or jnp.issubdtype(examples.dtype, jnp.floating)
    return np.asarray(examples) if pixels else None
