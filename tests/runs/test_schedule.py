"""No schedule of logs, saves, crashes and signals ends a run in other numbers: fault 32."""

import contextlib
import functools
import os
import signal
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from genmod import data, train
from genmod._host import disk
from genmod._host.stop import Stopped
from genmod.experiment import Experiment, Observation, Patience
from genmod.runs import logs, progress, runner
from genmod.runs.folder import Folder
from genmod.train import checkpoint, manifest

pytestmark = pytest.mark.end_to_end


class Crash(BaseException):
    """Stands for the end of the process."""


def mixing():
    """A learner whose state depends on each batch, key and step that it has seen, in order."""

    def step(key, state, batch):
        x = jnp.mean(batch) + jax.random.uniform(key)
        state = jnp.sin(3 * state + x)
        return state, {"loss": jnp.sum(state)}

    def init(key, batch):
        return jax.random.normal(key, (3,))

    return train.Learner(init, step, lambda key, state, num: jnp.zeros((num, 2, 2, 1)))


PIXELS = (np.arange(32 * 4) * 37 % 256).astype(np.uint8).reshape(32, 2, 2, 1)
DATA = data.Dataset(PIXELS, np.zeros(32, np.int32), "none")
LEARNER, BATCHES = mixing(), data.batches(PIXELS, batch_size=4)  # once: they are compiled once


def build(total, every, look, patience=0, validate=None):
    goals: dict = {}
    if patience:
        goals = {"validate": validate or checked, "validate_every": 2, "best": "test"}
        goals["until"] = Patience("test", patience)
    return Experiment(
        **goals,
        learner=LEARNER,
        batch_at=BATCHES,
        dataset=DATA,
        batch_size=4,
        epochs=total / 8,
        observe=look,
        observe_every=every,
        evaluate=lambda key, state: {"end": float(jnp.sum(state))},
        figures=lambda key, state: {},
    )


def checked(key, state):
    return {"test": float(state[0] + jax.random.uniform(jax.random.fold_in(key, 0)))}


def seen(key, state):
    return Observation({"seen": float(state[0] + jax.random.uniform(jax.random.fold_in(key, 0)))})


def left(folder):
    """What must repeat, to the last bit."""
    step = checkpoint.steps(folder.checkpoints)[-1]
    built = build(step, 1, seen)
    carry = checkpoint.restore(folder.checkpoints, runner.check(built, 0))
    rows = [{**row, "examples_per_s": 0} for row in logs.read_metrics(folder)]
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(carry)]
    best = checkpoint.steps(folder.best)[-1:]
    if best:
        carry = checkpoint.restore(folder.best, runner.check(built, 0))
        leaves += [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(carry)]
    return step, best, leaves, rows, logs.read_evaluation(folder)


@functools.cache
def undisturbed(total, log_every, look_every, patience):
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        options = {"seed": 0, "log_every": log_every, "progress": False}
        runner.run(build(total, look_every, seen, patience), folder, **options)
        return left(folder)


def crashing(patch, place, number):
    """Ends the process, as it were, at the nth time that it comes to a place."""
    left_over = number

    def due():
        nonlocal left_over
        left_over -= 1
        return left_over == 0

    owner, name = {
        "before a save": (checkpoint, "save"),
        "after a save": (checkpoint, "save"),
        "before Orbax": (checkpoint.orbax, "save"),
        "before the manifest": (manifest, "write"),
        "before the name": (checkpoint.disk, "sync_folder"),
        "before pruning": (checkpoint, "_remove"),
        "before a row": (logs.Log, "write"),
        "after a row": (logs.Log, "write"),
        "in a step": (progress.Progress, "reached"),
    }[place]
    original = getattr(owner, name)

    def crash_or_go_on(*arguments, **options):
        crash = due()
        if crash and not place.startswith("after"):
            raise Crash
        result = original(*arguments, **options)
        if crash:
            raise Crash
        return result

    patch.setattr(owner, name, crash_or_go_on)


def signalling(number, look):
    """A look in which a signal comes, the nth time."""
    left_over = number

    def signalled(key, state):
        nonlocal left_over
        left_over -= 1
        if left_over == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return look(key, state)

    return signalled


PLACES = [
    "before a save",
    "after a save",
    "before Orbax",
    "before the manifest",
    "before the name",
    "before pruning",
    "before a row",
    "after a row",
    "in a step",
    "signal in a look",
    "signal in a validation",
    "damage",
    "full disk",
]
SCHEDULES = given(
    total=st.integers(1, 14),
    log_every=st.integers(1, 6),
    look_every=st.integers(1, 6),
    save_every=st.integers(1, 8),
    keep=st.integers(1, 3),
    patience=st.sampled_from([0, 1, 2, 9]),
    ends=st.lists(st.tuples(st.sampled_from(PLACES), st.integers(1, 6)), max_size=4),
)


def holds(total, log_every, look_every, save_every, keep, patience, ends):
    options = {"log_every": log_every, "checkpoint_every": save_every, "keep": keep}
    options |= {"seed": 0, "progress": False}
    with tempfile.TemporaryDirectory() as path:
        folder = Folder(Path(path))
        for place, number in ends:
            look = signalling(number, seen) if place == "signal in a look" else seen
            validate = signalling(number, checked) if place == "signal in a validation" else checked
            with pytest.MonkeyPatch.context() as patch:
                if place == "damage":
                    steps = checkpoint.steps(folder.checkpoints)
                    if len(steps) > 1:
                        (folder.checkpoints / f"{steps[-1]:09d}" / "_CHECKPOINT_METADATA").unlink(
                            missing_ok=True
                        )
                    continue
                if place == "full disk":
                    patch.setattr(checkpoint.orbax, "save", full)
                elif not place.startswith("signal"):
                    crashing(patch, place, number)
                with contextlib.suppress(Crash, Stopped, disk.DiskError):
                    built = build(total, look_every, look, patience, validate)
                    runner.run(built, folder, **options)
        runner.run(build(total, look_every, seen, patience), folder, **options)
        # One more where the run's last pruning was cut off: nothing is saved after it.
        assert len(checkpoint.steps(folder.checkpoints)) <= keep + 1
        assert not list(folder.checkpoints.glob("*-*"))
        assert left(folder) == undisturbed(total, log_every, look_every, patience)


def full(*_, **__):
    raise OSError(28, "No space left on device")


@settings(max_examples=8, phases=[Phase.explicit, Phase.generate])
@SCHEDULES
@pytest.mark.reliability(32)
def test_no_schedule_of_crashes_changes_a_bit(**schedule):
    holds(**schedule)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=300, phases=[Phase.explicit, Phase.generate])
@SCHEDULES
@pytest.mark.reliability(32)
def test_nor_does_any_of_many(**schedule):
    holds(**schedule)
