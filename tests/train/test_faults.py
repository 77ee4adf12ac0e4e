"""Checkpoints cut off, damaged, hostile or of another model, and what a run makes of them."""

import gc
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from commands import assert_same_end, refused

from genmod import data, rng
from genmod._host import disk
from genmod.evaluate import judges
from genmod.runs import logs
from genmod.runs.folder import Folder
from genmod.train import checkpoint
from genmod.train.checkpoint import CheckpointError
from genmod.train.manifest import write as write_manifest

pytestmark = pytest.mark.end_to_end

KEPT = Path(__file__).parents[1] / "kept" / "run-0.1.0"


def tree(step):
    return {"kernel": jnp.arange(600.0).reshape(20, 30) + step, "step": jnp.int32(step)}


@pytest.fixture
def saved(tmp_path):
    """A folder with the steps 10 and 20, and its newest step's folder."""
    for step in (10, 20):
        newest = checkpoint.save(tmp_path / "steps", step, tree(step))
    return tmp_path / "steps", newest


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("kills", [12, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.reliability(6)
def test_a_process_killed_while_saving_or_pruning_leaves_whole_checkpoints(tmp_path, kills):
    script = Path(__file__).parents[1] / "support" / "killed_saves.py"
    command = [sys.executable, script, tmp_path / "steps", str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    left = done.stdout.splitlines()
    assert len(left) == kills
    assert any("saving-" in names for names in left), "no kill came in a save"


def assert_falls_back(folder, newest, name):
    """Asserts that the newest step is passed over, named and moved, and puts it back."""
    found = checkpoint.restore_newest(folder, jax.eval_shape(lambda: tree(0)))
    assert found is not None
    assert found.step == int(found.tree["step"]) == 10
    (remark,) = found.remarks
    assert remark.startswith(f"{newest}: damaged: ")
    assert name in remark
    assert remark.endswith(f"moved to {folder / 'damaged' / newest.name}, continuing from step 10")
    assert checkpoint.steps(folder) == [10]
    (folder / "damaged" / newest.name).rename(newest)
    (folder / "damaged").rmdir()


@pytest.mark.parametrize("places", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.reliability(8)
def test_a_flipped_bit_anywhere_falls_back_to_the_step_before(saved, places):
    folder, newest = saved
    chance = random.Random(8)
    assert len(files(newest)) >= 9
    for file in files(newest):
        content = file.read_bytes()
        for _ in range(places if content else 0):
            flipped = bytearray(content)
            flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            file.write_bytes(flipped)
            assert_falls_back(folder, newest, file.relative_to(newest).as_posix())
        file.write_bytes(content)
    found = checkpoint.restore_newest(folder, tree(0))
    assert (found.step, found.remarks) == (20, [])


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted"])
@pytest.mark.reliability(9)
def test_each_file_truncated_emptied_or_deleted_falls_back(saved, damage):
    folder, newest = saved
    for file in files(newest):
        content = file.read_bytes()
        if damage == "deleted":
            file.unlink()
        elif content:
            file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
        else:
            continue
        assert_falls_back(folder, newest, file.relative_to(newest).as_posix())
        file.write_bytes(content)


@pytest.mark.reliability(8)
def test_every_step_damaged_is_an_error_that_names_each_and_moves_none(saved):
    folder, _ = saved
    for file in folder.glob("*/_CHECKPOINT_METADATA"):
        file.write_bytes(b"{}")
    for _ in range(2):  # the next start shall not take it for a new run
        with pytest.raises(CheckpointError, match=r"no checkpoint is left: .*20: .*10: damaged"):
            checkpoint.restore_newest(folder, tree(0))
    assert checkpoint.steps(folder) == [10, 20]


@pytest.mark.reliability(8)
def test_a_step_under_the_name_of_another_is_damaged(saved):
    folder, newest = saved
    newest.rename(folder / "000000030")
    assert_falls_back(folder, folder / "000000030", "manifest.json is that of step 20")


@pytest.mark.reliability(9)
def test_two_damaged_steps_of_the_same_name_are_both_kept(saved):
    folder, newest = saved
    for _ in range(2):
        (newest / "manifest.json").unlink()
        assert checkpoint.restore_newest(folder, tree(0)).step == 10
        newest = checkpoint.save(folder, 20, tree(20))
    names = sorted(path.name for path in (folder / "damaged").iterdir())
    assert names == ["000000020", "000000020-1"]
    assert checkpoint.restore_newest(folder, tree(0)).step == 20


@pytest.mark.reliability(10)
def test_a_run_that_fell_back_saves_again_and_ends_as_if_undisturbed(process, place):
    def train(name, *options):
        command = ("train", "small", "--run-dir", name, "--checkpoint-every", 4, *options)
        return process(name, *command).ended()

    assert train("damaged").code == 0
    folder = Folder(place / "damaged")
    assert checkpoint.steps(folder.checkpoints) == [8, 12]
    (folder.checkpoints / "000000012" / "state" / "_METADATA").write_bytes(b"")

    ended = train("damaged", "--epochs", 6)
    assert ended.code == 0
    assert "continuing at step 8" in ended.first_line
    newest = Path.cwd() / folder.checkpoints / "000000012"
    assert ended.err.startswith(f"warning: {newest}: damaged: state/_METADATA is not what was")
    assert ended.err.count("\n") == 1
    assert checkpoint.steps(folder.checkpoints) == [20, 24]
    assert train("whole", "--epochs", 6).code == 0
    assert_same_end(folder.path, place / "whole")

    for step in (20, 24):
        (folder.checkpoints / f"{step:09d}" / "manifest.json").unlink()
    ended = train("damaged", "--epochs", 6)
    refused(ended, 5, "000000024: damaged: its manifest.json is missing", "000000020: damaged")


@pytest.mark.parametrize(
    ("stored", "target", "message"),
    [
        (rng.root(0), jax.random.key(0, impl="rbg"), r"key: expected uint32 \[4\], found uint32"),
        (
            jax.random.key(0, impl="rbg"),
            jax.random.key(0, impl="unsafe_rbg"),
            r"key: expected key<urbg> \[\], found key<rbg> \[\]",
        ),
        (rng.root(0), jnp.zeros(2, jnp.uint32), r"key: expected uint32 \[2\], found key<fry> \[\]"),
        (jnp.zeros(3), jnp.zeros(3, jnp.bfloat16), r"key: expected bfloat16 \[3\], found float32"),
        (jnp.zeros(3), jnp.zeros(4), r"key: expected float32 \[4\], found float32 \[3\]"),
    ],
    ids=["kind of key", "kind of key of one size", "no key", "type", "shape"],
)
@pytest.mark.reliability(16)
def test_another_type_is_named_and_neither_cast_nor_taken_for_damage(
    tmp_path, stored, target, message
):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"key": stored})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore_newest(tmp_path, {"key": target})
    assert checkpoint.steps(tmp_path) == [1, 2]


@pytest.mark.reliability(12)
def test_a_save_on_a_full_disk_leaves_the_earlier_steps_and_names_the_place(
    saved, monkeypatch, caplog
):
    folder, _ = saved

    def full(path, _):
        Path(f"{path}.orbax-checkpoint-tmp").mkdir()
        raise ValueError("OUT_OF_RANGE: Failed to write 8 bytes [os_error_code='28']")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.orbax, "save", full)
        message = r"000000030: cannot be written: No space left on device; [\d,.]+ MB free"
        with pytest.raises(disk.DiskError, match=message):
            checkpoint.save(folder, 30, tree(30))
    assert sorted(path.name for path in folder.iterdir()) == ["000000010", "000000020"]
    checkpoint.save(folder, 30, tree(30))
    assert checkpoint.restore_newest(folder, tree(0)).step == 30


# What somebody else has made, to do harm.


class Harm:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (Path.touch, (self._path,))


def resealed(path):
    """Writes the manifest anew: whoever plants a file can do so too."""
    (path / "manifest.json").unlink()
    write_manifest(path, int(path.name), None)


# Where it fails to read, Orbax leaves an event loop open, which is collected here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.reliability(24)
def test_a_pickle_in_place_of_a_file_is_never_run(tmp_path):
    import pickle

    harm = tmp_path / "harm"
    pickled = pickle.dumps(Harm(harm))
    whole = checkpoint.save(tmp_path / "whole", 1, tree(1))
    for i, file in enumerate(files(whole)):
        path = Path(shutil.copytree(whole, tmp_path / str(i) / "000000001"))
        (path / file.relative_to(whole)).write_bytes(pickled)
        if file.name != "manifest.json":
            resealed(path)
        try:
            found = checkpoint.restore(path.parent, tree(0))
        except CheckpointError:
            continue
        finally:
            assert not harm.exists()
            gc.collect()
        # Orbax does not read all of its files.
        assert np.asarray(found["kernel"]).tobytes() == np.asarray(tree(1)["kernel"]).tobytes()


@pytest.mark.parametrize("kind", ["npz of objects", "pickle"])
@pytest.mark.reliability(24)
def test_objects_in_place_of_the_classifiers_arrays_are_never_run(tmp_path, kind):
    import pickle

    path, harm = tmp_path / "classifier.npz", Harm(tmp_path / "harm")
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"0": harm, "about": harm}))
    else:
        np.savez(path, **{"0": np.zeros(1), "about": np.array([harm], object)})
    with pytest.raises(data.DataError, match=r"damaged \(.*allow_pickle="):
        judges.classifier(path)
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickle.dumps(harm))  # what would have happened
    assert (tmp_path / "harm").exists()


@pytest.mark.parametrize("target", [600, 10**12])
@pytest.mark.reliability(24)
def test_a_checkpoint_that_claims_a_trillion_numbers_is_refused_before_memory_is_taken(
    tmp_path, target
):
    path = checkpoint.save(tmp_path, 1, {"kernel": jnp.zeros(600)})
    storage = {"driver": "ocdbt", "base": f"file://{path}/state", "path": "kernel/"}
    tensorstore.open(
        {"driver": "zarr3", "kvstore": storage},
        create=True,
        delete_existing=True,
        shape=[10**12],
        dtype=tensorstore.float32,
    ).result()
    resealed(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = r"found float32 \[1000000000000\]" if target == 600 else "MemoryError"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore(tmp_path, {"kernel": jax.ShapeDtypeStruct((target,), jnp.float32)})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


DEEP = b"[" * 10**6
NESTED = b'{"files": ' + DEEP


@pytest.mark.parametrize("content", [DEEP, NESTED, b'{"files": [], "step": 20}', b"\xff\xfe", b"7"])
@pytest.mark.reliability(24)
def test_a_manifest_that_is_none_is_damage(saved, content):
    folder, newest = saved
    (newest / "manifest.json").write_bytes(content)
    assert_falls_back(folder, newest, "manifest.json")


@pytest.mark.parametrize("content", [DEEP, b'{"__class__": "os.system", "config": {}}'])
@pytest.mark.reliability(24)
def test_a_record_that_is_none_is_refused(genmod, tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    refused(genmod("sample", tmp_path), 2, f"{tmp_path / 'record.json'} is damaged")
    refused(genmod("train", "small", "--run-dir", tmp_path), 2, "record.json is damaged")


@pytest.mark.reliability(30)
def test_a_run_of_an_earlier_version_still_restores_and_goes_on(process, tmp_path):
    # Made by `genmod train small_experiment.py --run-dir run --epochs 2`; one for each version
    # whose checkpoints are of another form than those of the version before it.
    source = Path(shutil.copy(KEPT / "experiment.py", tmp_path / "small_experiment.py"))
    folder = Folder(Path(shutil.copytree(KEPT, tmp_path / "run")))
    ended = process("kept", "train", source, "--run-dir", folder.path, "--epochs", 3).ended()
    assert ended.code == 0, ended
    assert "continuing at step 8" in ended.first_line
    losses = [row["loss"] for row in logs.read_metrics(folder)]
    assert len(losses) == 3
    assert losses[2] < losses[1]


@pytest.mark.parametrize("num", [30, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.reliability(27)
def test_many_saves_and_restores_leave_nothing_behind(tmp_path, num):
    tree = {"kernel": jnp.arange(1_000_000.0)}
    target = jax.eval_shape(lambda: tree)

    def turn(step):
        checkpoint.save(tmp_path, step, tree)
        checkpoint.restore_newest(tmp_path, target)

    def held():
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return threading.active_count(), len(os.listdir("/proc/self/fd")), resident

    for step in range(1, 11):  # what is made once
        turn(step)
    threads, files, memory = held()
    for step in range(11, num + 1):
        turn(step)
    later_threads, later_files, later_memory = held()
    assert later_threads <= threads
    assert later_files <= files
    # A checkpoint holds 4 MB: one that stayed in each turn would show, among what the allocator
    # keeps for later, which levels off at some 150 MB.
    assert later_memory - memory < 3e6 * (num - 10)
