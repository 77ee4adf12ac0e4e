"""Repetition of a run from its record.

It tells whether every bit that the run left behind agrees.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from genmod import checks, rng, train
from genmod._host import source
from genmod.experiment import Experiment
from genmod.runs import goals, kept_sources, loading, logs, record, runner, watch
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.train.chunk import runs_sequentially
from genmod.types import Key, Keys

_TIMINGS = ("examples_per_s",)


class Verified(NamedTuple):
    """Result of repeating a run.

    Attributes:
      steps: number of steps that were repeated; if something differs, its step.
      log_points: steps of the log points that agree.
      checkpoints: steps of the checkpoints that agree.
      num_values: number of all values that were compared.
      difference: the first difference, with its step, its name and both values; None if every bit
        agrees.
      changes: changes since the run began, such as of versions, device, code or data. They are
        the likely cause if bits differ.
    """

    steps: int
    log_points: list[int]
    checkpoints: list[int]
    num_values: int
    difference: str | None
    changes: list[str]


def run(run_folder: str | Path, *, steps: int | None = None, everything: bool = False) -> Verified:
    """Repeats the first steps of a run in memory.

    Log points and checkpoints, the best one among them, are compared bit for bit; timings are left
    out. A run on several devices is repeated on one. If the experiment was edited between two
    starts, each step is repeated by the source of the start that took it.

    Args:
      run_folder: the run folder; nothing in it is changed.
      steps: number of steps; by default up to the first log point, or up to the first checkpoint if
        there is no log point.
      everything: whether to repeat the whole run, up to its last log point or checkpoint.

    Raises:
      ValueError: if the folder does not hold a run, the run has not got so far, or there would be
        nothing to compare.
    """
    folder = Folder(Path(run_folder))
    opened = loading.rebuild(folder)
    stages = loading.Stages(folder, opened)
    whole, seed = opened.whole, opened.config.seed
    places = {place: checkpoint.steps(place) for place in (folder.checkpoints, folder.best)}
    saved = places[folder.checkpoints]
    rows, unlogged = _rows(folder, saved)
    reached = max([0, *rows, *saved])
    if steps is not None and everything:
        raise ValueError("steps cannot be given together with everything")
    if everything:
        steps = reached
    elif steps is None:
        steps = min(rows or saved or [0])
    if not (rows or saved):
        raise ValueError(f"{str(folder.path)!r} has no log point and no checkpoint to compare with")
    first = min([*rows, *saved])
    if not first <= checks.positive_integer("steps", steps) <= reached:
        raise ValueError(
            f"steps must be from {first}, the first log point or checkpoint there is to compare "
            f"with, to {reached}, as far as the run has got; got {steps}"
        )

    begun = opened.recorded.get("starts", [])
    points = _log_points(begun, rows, reached)
    key, at = runner.keys(whole, seed), 0
    whole = stages.at(1).whole
    carry = train.start(whole.learner, key, whole.batch_at)
    agreed: dict[str, list[int]] = {"log": [], "checkpoints": []}
    num_values, difference = 0, None
    marks = sorted({*points, *rows, *(step for there in places.values() for step in there)})
    for mark in [step for step in marks if step <= steps]:
        compiled = all(s.get("compiled", True) for s in begun if s["step"] < mark)
        try:
            carry = stages.advance(key, carry, mark - at, compiled=compiled)
        except train.NonFiniteError as error:
            difference = f"step {error.step}: in the run all was finite, and now {error}"
            at = error.step
            break
        at, whole = mark, stages.at(mark).whole
        if mark in points or mark in rows:
            metrics, carry = train.pop_metrics(carry)
            row = runner.log_row(whole, mark, metrics)
            if mark != unlogged:
                took = [start["log_every"] for start in begun if start["step"] < mark]
                row = _observed(whole, key, carry.state, row, rows.get(mark, {}), took[-1:])
            difference = _row_difference(mark, rows.get(mark), row)
            num_values += len(row)
            agreed["log"] += [mark] * (difference is None)
        found = [place for place, there in places.items() if mark in there]
        for place in found:
            difference = difference or _checkpoint_difference(place, mark, carry)
            num_values += sum(leaf.size for leaf in jax.tree.leaves(carry))
        if difference is None and folder.best in found:
            difference = _best_difference(opened, mark, rows)
        agreed["checkpoints"] += [mark] * (bool(found) and difference is None)
        if difference is not None:
            break
    changed = _changes(folder, opened)
    return Verified(at, agreed["log"], agreed["checkpoints"], num_values, difference, changed)


def _rows(folder: Folder, saved: Sequence[int]) -> tuple[dict[int, dict[str, Any]], int | None]:
    """Returns the log points by their step.

    One that a stopped run left unfinished is among them; its step is returned as well. It has
    neither validation nor observation.
    """
    rows = {row["step"]: row for row in logs.read_metrics(folder)}
    unlogged = logs.read_unlogged(folder, saved[-1]) if saved else None
    if unlogged is None:
        return rows, None
    return {**rows, unlogged["step"]: unlogged}, unlogged["step"]


def _log_points(
    starts: Sequence[Mapping[str, Any]], rows: Mapping[int, Any], reached: int
) -> list[int]:
    """Returns the steps at which the run must have logged.

    Its starts tell them. Before the first start in the record, they are the steps that it logged.
    """
    ends = [*(start["step"] for start in starts[1:]), reached]
    points = [step for step in rows if not starts or step <= starts[0]["step"]]
    for start, end in zip(starts, ends, strict=False):
        began, every = start["step"], start["log_every"]
        points = [step for step in points if step <= began]  # the start went back to this step
        points += range((began // every + 1) * every, end + 1, every)
        if began < start["num_steps"] <= end:
            points.append(start["num_steps"])
    return sorted(set(points))


def _observed(
    experiment: Experiment,
    key: Key | Keys,
    state: Any,
    row: dict[str, Any],
    logged: Mapping[str, Any],
    log_every: Sequence[int],
) -> dict[str, Any]:
    """Returns the row of a log point with its validation and its observation.

    It has an observation if the row in the log has further numbers.

    Args:
      experiment: the experiment that took the step.
      key: the run's key.
      state: the learner's state.
      row: row without them.
      logged: row in the log.
      log_every: interval of the log points; empty if the record does not have it.
    """
    every = log_every[0] if log_every else experiment.steps_per_epoch
    if watch.validation_is_due(experiment, row["step"], every):
        row = logs.joined(row, watch.validated(experiment, key, state, row))
    if not set(logged) - set(row) - set(_TIMINGS):
        return row
    seen = experiment.observation(rng.stream(key, "observe"), state)
    return logs.joined(row, logs.summary(logs.named(seen.numbers, row)[0]))


def _best_difference(
    opened: loading.Rebuilt, step: int, rows: Mapping[int, Mapping[str, Any]]
) -> str | None:
    before = [row for at, row in sorted(rows.items()) if at <= step]
    best = goals.recorded(opened.recorded, before).best.step
    if best == step:
        return None
    return f"step {step}: the best checkpoint is of this step, and the best log point is {best}"


def _row_difference(
    step: int, logged: Mapping[str, Any] | None, row: Mapping[str, Any]
) -> str | None:
    if logged is None:
        return f"step {step}: the log has no log point here"
    # Values are compared as JSON, which tells every bit of a number; there NaN equals NaN.
    there, here = ({n: json.dumps(v) for n, v in one.items()} for one in (logged, row))
    for name in {**here, **there}:
        if name not in _TIMINGS and there.get(name) != here.get(name):
            values = there.get(name, "not there"), here.get(name, "not there")
            return f"step {step}: {name} was {values[0]} in the run's log and is {values[1]} now"
    return None


def _checkpoint_difference(folder: Path, step: int, carry: train.Carry) -> str | None:
    try:
        stored = checkpoint.restore(folder, _shapes(carry), step=step)
    except checkpoint.CheckpointError as error:
        return f"step {step}: {error}"
    pairs = zip(jax.tree_util.tree_leaves_with_path(stored), jax.tree.leaves(carry), strict=True)
    for (path, then), now in pairs:
        there, here = _numbers(then), _numbers(now)
        differs = np.array([a.tobytes() != b.tobytes() for a, b in zip(there, here, strict=True)])
        if differs.any():
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            place = np.flatnonzero(differs)[0]
            return (
                f"step {step}: {name} was {there[place]} in the run's checkpoint and is "
                f"{here[place]} now (the first of {differs.sum()} in {differs.size} values)"
            )
    return None


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _numbers(leaf: Any) -> np.ndarray:
    """Returns the values of an array, or the words of keys, [n]."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).ravel()


def _changes(folder: Folder, opened: loading.Rebuilt) -> list[str]:
    """Returns what has changed since the run began."""
    recorded, fingerprint = opened.recorded, opened.whole.dataset.fingerprint
    changes = [*opened.remarks, *record.changes(recorded)]
    code = recorded.get("code", {})
    if code:
        first = hashlib.sha256(folder.experiment.read_bytes()).hexdigest()
        if first != code["experiment"]:
            said = "is not the experiment file that the run began with"
            changes.append(f"{folder.experiment} {said}")
        file = Path(code["source"])
        if file.is_file():
            changes += kept_sources.changes(recorded, folder.path, source.read(file), file)
        else:
            changes.append(f"{file} is no longer there (its copy is {folder.experiment})")
    if fingerprint != recorded["data"]:
        changes.append(f"the data set was {recorded['data']} and is {fingerprint} now")
    devices = max((start.get("devices", 1) for start in recorded.get("starts", [])), default=1)
    alone = opened.whole.learner.seeds is not None and runs_sequentially(opened.whole.learner)
    if devices > 1 and not alone:
        changes.append(f"the run had {devices} devices, and was repeated on one: bits may differ")
    return changes
