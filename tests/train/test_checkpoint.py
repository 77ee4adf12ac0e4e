import errno
import logging
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import rng
from genmod._host.disk import DiskError
from genmod.train import TrainState, checkpoint


def state(step=0, dtype=jnp.float32, **more):
    params = {
        "kernel": jnp.arange(6, dtype=dtype).reshape(2, 3) + step,
        "bias": jnp.ones(3),
        **more,
    }
    opt_state = (jnp.zeros(3), (), {"mu": jnp.float32(0.5)})
    return TrainState(jnp.int32(step), params, opt_state, {})


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path):
    saved = state(7, key=rng.root(3), empty={})
    checkpoint.save(tmp_path, 7, saved)
    restored = checkpoint.restore(tmp_path, jax.eval_shape(lambda: saved))
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_the_newest_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert checkpoint.steps(tmp_path) == [15, 20]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000015", "000000020"]
    assert int(checkpoint.restore(tmp_path, state()).step) == 20
    assert int(checkpoint.restore(tmp_path, state(), step=15).step) == 15


def test_a_relative_folder_with_spaces_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("a b/ü", 1, state(1))
    assert int(checkpoint.restore("a b/ü", state()).step) == 1


def test_what_a_killed_save_leaves_behind_is_no_checkpoint(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    unfinished = tmp_path / "000000002.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (tmp_path / "trash-000000000").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoint.steps(tmp_path) == [1]
    assert int(checkpoint.restore(tmp_path, state()).step) == 1


def test_nothing_is_restored_from_nothing(tmp_path):
    with pytest.raises(
        checkpoint.CheckpointError, match=r"expected a checkpoint, found the steps \[\]"
    ):
        checkpoint.restore(tmp_path / "none", state())
    checkpoint.save(tmp_path, 3, state(3))
    with pytest.raises(checkpoint.CheckpointError, match=r"of step 4, found the steps \[3\]"):
        checkpoint.restore(tmp_path, state(), step=4)


@pytest.mark.reliability(16)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            lambda: state(dtype=jnp.bfloat16),
            r"params\.kernel: expected bfloat16 \[2, 3\], found float32 \[2, 3\]",
        ),
        (
            lambda: state(scale=jnp.ones(2)),
            r"params\.scale: expected float32 \[2\], found nothing",
        ),
        (
            lambda: state()._replace(params={"bias": jnp.ones(3)}),
            r"params\.kernel: expected nothing, found float32 \[2, 3\]",
        ),
        (
            lambda: state()._replace(step=jnp.zeros((2,), jnp.int32)),
            r"step: expected int32 \[2\], found int32 \[\]",
        ),
    ],
)
def test_other_arrays_than_expected_are_named_never_cast(tmp_path, target, message):
    checkpoint.save(tmp_path, 1, state())
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.restore(tmp_path, target())


@pytest.mark.parametrize("damage", ["delete", "truncate"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, damage):
    path = checkpoint.save(tmp_path, 1, state())
    for file in [*path.rglob("manifest.ocdbt"), *path.rglob("d/*")]:
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(checkpoint.CheckpointError, match="000000001: "):
        checkpoint.restore(tmp_path, state())


def test_keeping_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="keep must be a positive whole number, got 0"):
        checkpoint.save(tmp_path / "new", 1, state(), keep=0)
    assert not (tmp_path / "new").exists()


def test_saving_leaves_no_thread_behind(tmp_path):
    checkpoint.save(tmp_path, 1, state())
    before = threading.active_count()
    for step in range(2, 12):
        checkpoint.save(tmp_path, step, state(step))
    assert threading.active_count() <= before


def test_one_flipped_bit_is_never_loaded_in_silence(tmp_path):
    path = checkpoint.save(tmp_path, 1, state())
    files = [file for file in path.rglob("*") if file.is_file()]
    assert len(files) > 5
    for file in files:
        contents = file.read_bytes()
        if not contents:
            continue
        middle = len(contents) // 2
        flipped = contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]
        file.write_bytes(flipped)
        with pytest.raises(checkpoint.CheckpointError, match="000000001: damaged: "):
            checkpoint.restore(tmp_path, state())
        file.write_bytes(contents)
    assert int(checkpoint.restore(tmp_path, state()).step) == 0


def test_a_step_counts_once_its_manifest_is_written(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    (checkpoint.save(tmp_path, 2, state(2)) / "manifest.json").unlink()  # killed just before
    assert checkpoint.steps(tmp_path) == [1]
    checkpoint.save(tmp_path, 2, state(2))
    assert int(checkpoint.restore(tmp_path, state()).step) == 2


def test_what_orbax_still_does_when_it_fails_is_waited_for(tmp_path, monkeypatch):
    class Late(threading.Thread):
        def run(self):
            time.sleep(0.3)
            late = tmp_path / "saving-000000007.orbax-checkpoint-tmp" / "late"
            late.parent.mkdir(parents=True)
            late.write_text("")
            logging.getLogger("absl").error("a traceback that nobody should see")

    def fails(path, tree):
        Late().start()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.orbax, "save", fails)
    heard = []
    monkeypatch.setattr(logging.getLogger("absl"), "handle", heard.append)
    with pytest.raises(DiskError, match="000000007: cannot be written: No space left on device"):
        checkpoint.save(tmp_path, 7, {"x": jnp.zeros(2)})
    assert not any(isinstance(thread, Late) for thread in threading.enumerate())
    assert list(tmp_path.iterdir()) == []
    assert heard == []


def test_a_state_that_has_got_an_empty_field_restores(tmp_path):
    """An average that a learner does not keep is `()`: older states have no such field."""
    before = {"params": {"w": jnp.arange(3.0)}, "step": jnp.int32(4)}
    checkpoint.save(tmp_path, 4, before)
    now = TrainState(jnp.int32(0), {"w": jnp.zeros(3)}, {}, {}, ())
    found = checkpoint.restore(tmp_path, jax.eval_shape(lambda: now))
    assert isinstance(found, TrainState)
    assert (found.opt_state, found.hyper, found.ema, int(found.step)) == ({}, {}, (), 4)
    np.testing.assert_array_equal(found.params["w"], before["params"]["w"])
