"""One step of a run, rebuilt example by example.

It tells what the step saw, what each example gave, and which of them made a run diverge.

    again = replay.step("runs/mnist_vae/seed-0", 1234)
    print(again.inspection.terms["loss"], replay.offenders(again, 10).places)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, data, rng, train
from genmod.runs import goals, loading, logs, runner
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.types import Batch, Key, Parts


class Replayed(NamedTuple):
    """Step of a run, before its update.

    Attributes:
      step: number of the step, counted from 1.
      origin: step of the checkpoint from which it was rebuilt; 0 for the start.
      num_steps: number of steps of the run.
      key: key of its random draws.
      state: state of the learner before the step.
      batch: its batch, [B, ...].
      metrics: its metrics, bit-identical to those of the run.
      inspection: its terms example by example, which agree with the metrics up to rounding; None
        for a learner without `inspect`.
      indices: indices of the examples in the data set, [B]; None if the batches do not come from
        `data.batches`. For batches of `data.together`, those of each part by name.
      images: the examples as images [B, H, W, C], taken from the data set if their indices are
        known; None if they are not images. For batches of `data.together`, those of each part by
        name, as they are in the batch.
    """

    step: int
    origin: int
    num_steps: int
    key: Key
    state: Any
    batch: Batch
    metrics: dict[str, Any]
    inspection: train.Inspection | None
    indices: np.ndarray | dict[str, np.ndarray | None] | None
    images: np.ndarray | dict[str, np.ndarray | None] | None


class Offenders(NamedTuple):
    """Examples that stand out in a step.

    Attributes:
      places: their indices in the batch, [n].
      term: the term of which they have the largest values; None if they have values that are not
        finite.
      num: number of all such examples, which is more than n if fewer were asked for.
      part: the part of the batch that they belong to, for batches of `data.together`; else None.
    """

    places: np.ndarray
    term: str | None
    num: int
    part: str | None = None


class Gradient(NamedTuple):
    """Gradient of one array of parameters.

    Attributes:
      norm: Euclidean norm.
      num_bad: number of its values that are not finite.
      size: number of its values.
    """

    norm: float
    num_bad: int
    size: int


def step(run_folder: str | Path, step: int, *, index: int = 0) -> Replayed:
    """Rebuilds a step of a run.

    It begins at the nearest checkpoint before the step, or at the start of the run. If the
    experiment was edited between two starts, each step is taken by the source of the start that
    took it.

    Args:
      run_folder: the run folder; nothing in it is changed.
      step: the step, counted from 1 as in the log and in `train.NonFiniteError`.
      index: index of the run, from 0, if the folder holds several seeds.

    Raises:
      ValueError: if the folder does not hold a run, there is no such step or index, the run became
        non-finite before the step, or the data set is no longer the same.
      CheckpointError: if that checkpoint holds other arrays than the experiment's. A damaged one is
        skipped.
    """
    step = checks.positive_integer("step", step)
    folder = Folder(Path(run_folder))
    opened = loading.rebuild(folder)
    loading.say(opened.remarks)
    stages = loading.Stages(folder, opened)
    whole, seeds = opened.whole, opened.whole.learner.seeds
    rows = logs.read_metrics(folder)
    ended = goals.recorded(opened.recorded, rows).ended
    num_steps = whole.num_steps if ended is None else rows[-1]["step"]
    if step > num_steps:
        raise ValueError(f"step must be one of the run's {num_steps} steps, got {step}")
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
    indices = jax.tree.map(np.asarray, places)
    if isinstance(indices, dict):
        images = {name: _images(part) for name, part in seen.batch.items()}
    else:
        images = _images(seen.batch if indices is None else whole.dataset.images[indices])
    return Replayed(
        step=step,
        origin=origin,
        num_steps=num_steps,
        key=seen.key,
        state=state,
        batch=seen.batch,
        metrics=seen.metrics,
        inspection=inspection,
        indices=indices,
        images=images,
    )


def offenders(replayed: Replayed, num: int = 8) -> Offenders:
    """Returns the examples that stand out in a step.

    They have a value that is not finite in any term. If there are none, the examples with the
    largest loss are returned.

    Args:
      replayed: a step of a learner with `inspect`.
      num: largest number of examples.

    Raises:
      ValueError: if num is not positive, or the learner has no `inspect`.
    """
    num = checks.positive_integer("num", num)
    parts = list(replayed.batch) if isinstance(replayed.batch, Parts) else [None]
    for part in parts:
        bad = [places[~np.isfinite(v)] for v, places in by_example(replayed, part).values()]
        found = np.unique(np.concatenate([np.zeros(0, np.int32), *bad]))
        if len(found):
            return Offenders(found[:num], None, len(found), part)
    for part in parts:
        for term, (values, places) in by_example(replayed, part).items():
            worst = places[np.argsort(-values, kind="stable")]
            ordered = np.array(list(dict.fromkeys(worst.tolist())))
            return Offenders(ordered[:num], term, len(ordered), part)
    return Offenders(np.zeros(0, np.int32), None, 0)


def by_example(
    replayed: Replayed, part: str | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the values of each term, with their examples.

    A term has its values [n] and the indices in the batch [n] of the examples that they belong to.
    The losses come first. Terms without a value for each example are left out.

    Args:
      replayed: a step of a learner with `inspect`.
      part: the part of the batch whose terms are returned, for batches of `data.together`: its
        losses, and the terms of as many values if no other part has as many. None for all terms.

    Raises:
      ValueError: if the learner has no `inspect`.
    """
    if replayed.inspection is None:
        raise ValueError("the learner has no inspect: its step cannot be taken apart")
    known: Mapping[str, Any] = replayed.inspection.examples or {}
    values = replayed.inspection.terms
    terms = {n: np.asarray(v) for n, v in {**logs.losses(values), **values}.items()}
    if isinstance(replayed.batch, Parts):
        sizes = {name: checks.leading_axis(name, own) for name, own in replayed.batch.items()}
        terms = {n: v for n, v in terms.items() if part in (None, _part_of(n, v, sizes))}
        return {name: (value, np.arange(len(value))) for name, value in terms.items()}
    size = checks.leading_axis("batch", replayed.batch)
    places = {name: np.asarray(known.get(name, np.arange(size))) for name in terms}
    return {n: (terms[n], places[n]) for n in terms if terms[n].shape == places[n].shape}


def _part_of(term: str, values: np.ndarray, sizes: Mapping[str, int]) -> str | None:
    """Returns the part that a term's values belong to; None if several could be."""
    named = [name for name in sizes if term.endswith(f"/{name}")]
    fitting = named or [name for name, size in sizes.items() if values.shape == (size,)]
    return fitting[0] if len(fitting) == 1 else None


def gradients(replayed: Replayed) -> dict[str, Gradient]:
    """Returns the gradient of each array of parameters, by path.

    Raises:
      ValueError: if the learner has no `inspect`.
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
    """Returns the images among the examples of a batch; None if there are none or several."""
    if isinstance(examples, dict):
        found = [own for own in map(_images, examples.values()) if own is not None]
        return found[0] if len(found) == 1 else None
    if not hasattr(examples, "ndim") or examples.ndim != 4 or examples.shape[-1] not in (1, 3):
        return None
    pixels = examples.dtype == np.uint8 or jnp.issubdtype(examples.dtype, jnp.floating)
    return np.asarray(examples) if pixels else None
