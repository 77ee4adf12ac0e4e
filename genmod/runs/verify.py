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
from genmod.runs import kept_sources, loading, logs, record, runner
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.train.chunk import runs_sequentially

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

    Log points and checkpoints are compared bit for bit; timings are left out. A run on several
    devices is repeated on one. If the experiment was edited between two starts, each step is
    repeated by the source of the start that took it.

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
    saved = checkpoint.steps(folder.checkpoints)
    rows = _rows(folder, saved)
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
    for mark in sorted(step for step in {*points, *rows, *saved} if step <= steps):
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
            if mark in rows and set(rows[mark]) - set(row) - set(
                _TIMINGS
            ):  # the row has an observation
                seen = whole.observation(rng.stream(key, "observe"), carry.state)
                row = logs.joined(row, logs.summary(logs.named(seen.numbers, row)[0]))
            difference = _row_difference(mark, rows.get(mark), row)
            num_values += len(row)
            agreed["log"] += [mark] * (difference is None)
        if difference is None and mark in saved:
            difference = _checkpoint_difference(folder, mark, carry)
            num_values += sum(leaf.size for leaf in jax.tree.leaves(carry))
            agreed["checkpoints"] += [mark] * (difference is None)
        if difference is not None:
            break
    changed = _changes(folder, opened)
    return Verified(at, agreed["log"], agreed["checkpoints"], num_values, difference, changed)


def _rows(folder: Folder, saved: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Returns the log points by their step.

    One that a stopped run left unfinished is among them.
    """
    rows = logs.read_metrics(folder)
    unlogged = logs.read_unlogged(folder, saved[-1]) if saved else None
    return {row["step"]: row for row in [*rows, *([unlogged] if unlogged else [])]}


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


def _checkpoint_difference(folder: Folder, step: int, carry: train.Carry) -> str | None:
    try:
        stored = checkpoint.restore(folder.checkpoints, _shapes(carry), step=step)
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
