"""A run repeated from its record: every bit agrees, or what does not is named."""

import json
import shutil

import jax
import numpy as np
import pytest
from commands import load_once, over_seeds_once, small_run

from genmod import rng, train
from genmod._host import disk
from genmod.runs import catalogue, loading, logs, record, runner, several, verify
from genmod.runs.folder import Folder
from genmod.train import checkpoint

pytestmark = pytest.mark.end_to_end


@pytest.fixture(autouse=True)
def built_once(monkeypatch):
    """An experiment that is opened again is not compiled again."""
    monkeypatch.setattr(catalogue, "load", load_once)
    monkeypatch.setattr(several, "over_seeds", over_seeds_once)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A run with log points and checkpoints at 4, 8 and 12; not to be changed."""
    return small_run(tmp_path_factory.mktemp("kept") / "run", checkpoint_every=4, keep=3)


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of it, to be changed."""
    return Folder(shutil.copytree(kept.path, tmp_path / "run"))


def change_record(folder, **changes):
    disk.write_json(folder.record, {**record.read(folder), **changes})


def change_row(folder, number, **changes):
    rows = logs.read_metrics(folder)
    rows[number].update(changes)
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_healthy_run_agrees_bit_for_bit(kept):
    before = {path: path.read_bytes() for path in kept.path.rglob("*") if path.is_file()}
    first = verify.run(kept.path)
    assert (first.steps, first.log_points, first.checkpoints) == (4, [4], [4])
    assert (first.difference, first.changes) == (None, [])
    assert first.num_values > 500
    whole = verify.run(kept.path, everything=True)
    assert (whole.steps, whole.log_points, whole.checkpoints) == (12, [4, 8, 12], [4, 8, 12])
    assert (whole.difference, whole.changes) == (None, [])
    some = verify.run(kept.path, steps=10)
    assert (some.steps, some.log_points) == (8, [4, 8])
    after = {path: path.read_bytes() for path in kept.path.rglob("*") if path.is_file()}
    assert after == before


def test_a_row_that_was_changed_is_named_with_both_values(folder):
    loss = logs.read_metrics(folder)[1]["loss"]
    other = float(np.nextafter(np.float32(loss), np.float32(0)))
    change_row(folder, 1, loss=other)
    found = verify.run(folder.path, everything=True)
    assert found.difference == f"step 8: loss was {other} in the run's log and is {loss} now"
    assert (found.steps, found.log_points, found.checkpoints) == (8, [4], [4])
    assert verify.run(folder.path).difference is None, "it lies after the first log point"


def test_timings_are_no_difference_and_a_missing_row_is(folder):
    change_row(folder, 0, examples_per_s=1.0)
    assert verify.run(folder.path, everything=True).difference is None
    rows = folder.metrics.read_text().splitlines(keepends=True)
    folder.metrics.write_text(rows[0] + rows[2])
    found = verify.run(folder.path, everything=True)
    assert found.difference == "step 8: the log has no log point here"


def test_a_bit_of_a_checkpoint_that_was_changed_is_named(folder):
    opened = loading.rebuild(folder)
    carry = checkpoint.restore(folder.checkpoints, runner.check(opened.whole, 0), step=8)
    bias = carry.state.params.decoder["output"]["bias"]
    words = np.asarray(bias).copy()
    words.view(np.uint32)[5] ^= 1
    carry.state.params.decoder["output"]["bias"] = jax.numpy.asarray(words)
    shutil.rmtree(folder.checkpoints / "000000008")
    checkpoint.save(folder.checkpoints, 8, carry, keep=3)
    found = verify.run(folder.path, everything=True)
    assert found.difference == (
        f"step 8: state.params.decoder.output.bias was {words[5]} in the run's checkpoint and is "
        f"{bias[5]} now (the first of 1 in 36 values)"
    )
    assert (found.log_points, found.checkpoints) == ([4, 8], [4])


def test_a_damaged_checkpoint_is_a_difference(folder):
    (file,) = (folder.checkpoints / "000000004" / "state").glob("manifest.ocdbt")
    file.write_bytes(file.read_bytes()[:10])
    found = verify.run(folder.path)
    assert found.difference.startswith("step 4: ")
    assert "damaged" in found.difference


def test_what_else_has_changed_is_said(folder):
    found = record.read(folder)
    source = folder.path.parent / "mine.py"
    source.write_text(folder.experiment.read_text() + "# more\n")
    change_record(
        folder,
        code={**found["code"], "genmod": "0" * 64, "source": str(source)},
        versions={**found["versions"], "jax": "0.1.2"},
        data="sha256:aa",
    )
    again = verify.run(folder.path)
    assert again.difference is None, "every bit agrees all the same"
    said = "\n".join(again.changes)
    assert "jax was 0.1.2 when the run began" in said
    assert f"(SHA-256 {'0' * 12} then, {record.package_hash()[:12]} now)" in said
    assert f"{source} has changed since the run began (its copy is {folder.experiment})" in said
    assert "the data set was sha256:aa and is sha256:" in said
    source.unlink()
    assert f"{source} is no longer there" in "\n".join(verify.run(folder.path).changes)


def test_another_experiment_file_is_said_and_its_bits_differ(folder):
    text = folder.experiment.read_text()
    folder.experiment.write_text(text.replace("jnp.nan, 1.0)", "jnp.nan, 1.5)"))
    found = verify.run(folder.path)
    assert found.difference.startswith("step 4: loss was ")
    said = "\n".join(found.changes)
    assert f"{folder.experiment} is not the experiment file that the run began with" in said


def test_a_record_of_an_earlier_version_does(folder):
    found = record.read(folder)
    for name in ("code", "starts", "seeds"):
        del found[name]
    disk.write_json(folder.record, found)
    whole = verify.run(folder.path, everything=True)
    assert (whole.difference, whole.changes, whole.log_points) == (None, [], [4, 8, 12])


@pytest.mark.parametrize("stop", [6, 8])
def test_a_run_that_was_stopped_and_went_on_otherwise_agrees(tmp_path, stop):
    # It was stopped between two log points, or ended there; then it went on with other ones.
    folder = small_run(tmp_path / "run", epochs=2, nan_at_step=7 if stop == 6 else 0)
    assert checkpoint.steps(folder.checkpoints)[-1] == stop
    if stop == 6:
        text = folder.record.read_text()
        folder.record.write_text(text.replace('"nan_at_step": 7', '"nan_at_step": 0'))
    small_run(tmp_path / "run", log_every=5, keep=3)
    logged = [row["step"] for row in logs.read_metrics(folder)]
    assert logged == ([4, 10, 12] if stop == 6 else [4, 8, 10, 12])
    starts = record.read(folder)["starts"]
    assert [(s["step"], s["log_every"]) for s in starts] == [(0, 4), (stop, 5)]
    found = verify.run(folder.path, everything=True)
    assert (found.difference, found.log_points) == (None, logged)
    assert found.checkpoints == [stop, 12]


def test_a_run_that_diverged_agrees_up_to_there(tmp_path):
    folder = small_run(tmp_path / "run", nan_at_step=7, log_every=9)
    found = verify.run(folder.path)
    assert (found.steps, found.checkpoints, found.difference) == (6, [6], None)
    with pytest.raises(ValueError, match=r"steps must be from 6, .* to 6, as far as .* got; got 1"):
        verify.run(folder.path, steps=1)


def test_many_seeds_are_repeated_together(tmp_path):
    folder = small_run(tmp_path / "run", seeds=2, epochs=1)
    found = verify.run(folder.path, everything=True)
    assert (found.steps, found.difference) == (4, None)
    rows = logs.read_metrics(folder)
    rows[0]["seeds"]["loss"][1] += 1
    change_row(folder, 0, seeds=rows[0]["seeds"])
    assert verify.run(folder.path).difference.startswith("step 4: seeds was ")


def test_what_cannot_be_repeated_is_refused(folder, tmp_path):
    for steps in (3, 13):
        with pytest.raises(ValueError, match=f"from 4, .*, to 12, .*; got {steps}"):
            verify.run(folder.path, steps=steps)
    with pytest.raises(ValueError, match="steps must be a positive whole number, got 0"):
        verify.run(folder.path, steps=0)
    with pytest.raises(ValueError, match="cannot be given together"):
        verify.run(folder.path, steps=4, everything=True)
    with pytest.raises(ValueError, match="is not a run folder"):
        verify.run(tmp_path / "nowhere")
    shutil.rmtree(folder.checkpoints)
    folder.metrics.unlink()
    with pytest.raises(ValueError, match="no log point and no checkpoint"):
        verify.run(folder.path)


def test_steps_one_by_one_are_those_of_a_run(kept):
    opened = loading.rebuild(kept)
    learner, batch_at = opened.whole.learner, opened.whole.batch_at
    carry = train.start(learner, rng.root(0), batch_at)
    carry = train.advance(learner, rng.root(0), batch_at, carry, 0)
    for _ in range(4):
        carry = train.advance(learner, rng.root(0), batch_at, carry, 1)
    metrics, drained = train.pop_metrics(carry)
    assert metrics["loss"] == logs.read_metrics(kept)[0]["loss"]
    assert (int(drained.count), float(drained.totals["loss"])) == (0, 0.0)
    stored = checkpoint.restore(kept.checkpoints, runner.check(opened.whole, 0), step=4)
    for a, b in zip(jax.tree.leaves(stored), jax.tree.leaves(drained), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_command_ends_with_the_code_of_what_it_found(genmod, folder):
    ended = genmod("verify", folder.path)
    assert (ended.code, ended.err) == (0, "")
    assert "every bit agrees over 4 steps: 1 log point (step 4), 1 checkpoint (step 4)" in ended.out
    change_row(folder, 2, kl=1.0)
    ended = genmod("verify", folder.path, "--all")
    assert (ended.code, ended.err) == (1, "")
    assert "differs at step 12: kl was 1.0 in the run's log and is " in ended.out
    assert "agrees before: 2 log points (step 4, 8), 2 checkpoints (step 4, 8)" in ended.out
    for arguments in (("--steps", 0), ("--steps", 4, "--all"), ("--steps", "many")):
        assert genmod("verify", folder.path, *arguments).code == 2
