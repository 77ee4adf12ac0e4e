"""What can happen to a run folder: kills at chosen places, two processes, full disks."""

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from commands import assert_same_end, refused
from counting import experiment, look

from genmod import report
from genmod._host import environment, lock
from genmod.experiment import Observation
from genmod.runs import logs, runner
from genmod.runs.folder import Folder
from genmod.train import checkpoint

pytestmark = pytest.mark.end_to_end

SMALL_RUN = ("train", "small", "--run-dir")


@pytest.fixture(scope="module")
def finished(place, process):
    """`genmod train small`, which nothing disturbs; it warms the cache of compiled programs."""
    folder = Folder(place / "undisturbed")
    ended = process("undisturbed", *SMALL_RUN, "undisturbed").ended()
    assert (ended.code, ended.err) == (0, "")
    return folder


@pytest.fixture
def copied(finished, place, request):
    """A copy of a finished run, by name in the folder that processes work in."""
    name = f"copy for {request.node.name}"
    return Folder(Path(shutil.copytree(finished.path, place / name)))


# Each kill is a number of operations on files of checkpoints, 14 for each save: 1 is just before
# the first save of a process, 14 where a step is complete and has not got its name, later ones
# are in pruning. Saves are due at the end of each epoch.
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("epochs", "kills"),
    [(3, (1, 14, 30)), pytest.param(60, tuple(range(1, 46)), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
@pytest.mark.reliability(3)
def test_killed_at_an_epochs_end_and_before_the_first_step(place, process, finished, epochs, kills):
    folder = place / f"killed {epochs}"
    options = ("--epochs", epochs, "--checkpoint-every", 4, "--keep", 1)
    command = (*SMALL_RUN, folder.name, *options)
    first = process("killed", *command, fault="block:compile")
    first.wait_for("<compile>")
    first.send(signal.SIGKILL)
    assert first.ended().code == -signal.SIGKILL
    assert checkpoint.steps(folder / "checkpoints") == []
    for number in kills:
        ended = process("killed", *command, fault=f"kill:{number}").ended()
        assert ended.code == -signal.SIGKILL, ended
    ended = process("killed", *command).ended()
    assert (ended.code, ended.err) == (0, "")
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == [f"{4 * epochs:09d}"]
    if epochs != 3:
        process("whole", *SMALL_RUN, "whole", *options).ended(600)
    assert_same_end(folder, finished.path if epochs == 3 else place / "whole")


def seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.reliability(11)
def test_a_second_process_is_refused_and_a_dead_ones_lock_is_taken(place, process, finished):
    command = (*SMALL_RUN, "locked")
    first = process("first", *command, fault="pause:restore")
    first.wait_for("<restore>")
    before = seconds_of_children()
    ended = process("second", *command, "--epochs", 9).ended()
    # Its own time: how long it waits for a core is not its doing.
    assert seconds_of_children() - before < 2
    host = os.uname().nodename
    refused(ended, 2, f"run_dir 'locked' is in use by process {first.pid} on {host}")

    first.send(signal.SIGKILL)
    assert first.ended().code == -signal.SIGKILL
    assert (place / "locked" / "lock.json").exists(), "it had no time to clean up"
    ended = process("third", *command).ended()
    assert (ended.code, ended.err) == (0, "")
    assert_same_end(place / "locked", finished.path)


@pytest.mark.reliability(11)
def test_looking_at_a_run_in_training_needs_no_lock(genmod, copied, tmp_path):
    with lock.held(copied.path):
        refused(genmod(*SMALL_RUN, copied.path), 2, "is in use by process")
        assert genmod("runs", copied.path).code == 0
        assert genmod("sample", copied.path, "--out", tmp_path / "samples.png").code == 0
    lock.refuse_running(copied.path)


@pytest.mark.reliability(11)
def test_the_folder_that_has_no_name_in_the_command_is_locked_too(genmod, place):
    with lock.held(place / "runs" / "small" / "seed-7"):
        refused(genmod("train", "small", "--seed", 7), 2, "seed-7' is in use by process")


@pytest.mark.reliability(12)
@pytest.mark.slow
def test_a_disk_that_is_full_at_a_save_is_named_and_the_run_goes_on_later(process, copied):
    command = (*SMALL_RUN, copied.path.name, "--epochs", 5)
    ended = process("full", *command, fault="limit:8000").ended()
    refused(ended, 1, "checkpoints/000000020: cannot be written: File too large", "MB free on that")
    assert checkpoint.steps(copied.checkpoints) == [12]
    ended = process("freed", *command).ended()
    assert (ended.code, ended.err) == (0, "")
    assert "continuing at step 12" in ended.first_line
    # Nor is anything left of what could not be written.
    names = sorted(path.name for path in copied.checkpoints.iterdir())
    assert names == ["000000012", "000000020"]


@pytest.mark.slow
@pytest.mark.reliability(12)
def test_a_small_disk_that_is_full(place, process, finished):
    disk = place / "small disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=260k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting needs rights that this process has not")
    try:
        run = disk / "run"
        options = ("--epochs", 20, "--checkpoint-every", 4, "--keep", 9)
        ended = process("tmpfs", *SMALL_RUN, run, *options).ended()
        refused(ended, 1, "cannot be written: No space left on device", "MB free on that disk")
        steps = checkpoint.steps(run / "checkpoints")
        assert steps
        subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        ended = process("tmpfs", *SMALL_RUN, run, *options).ended()
        assert (ended.code, ended.err) == (0, "")
        assert f"continuing at step {steps[-1]}" in ended.first_line
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.reliability(13)
def test_a_disk_that_is_full_while_logging_is_named_and_the_run_goes_on_later(place, process):
    command = (*SMALL_RUN, "logging", "--epochs", 60, "--log-every", 1)
    process("warm", *SMALL_RUN, "warm", "--epochs", 1).ended()
    ended = process("logging", *command, fault="limit:16000").ended()
    refused(ended, 1, "logging/metrics.jsonl: cannot be written: File too large", "MB free")
    folder = Folder(place / "logging")
    (*_, newest) = checkpoint.steps(folder.checkpoints)
    assert newest % 20 == 0
    assert logs.read_metrics(folder)[-1]["step"] >= newest
    ended = process("logging", *command).ended()
    assert (ended.code, ended.err) == (0, "")
    assert f"continuing at step {newest}" in ended.first_line
    assert [row["step"] for row in logs.read_metrics(folder)] == list(range(1, 241))


@pytest.mark.reliability(14)
def test_a_folder_by_any_path_will_do(place, process, finished):
    (place / "real").mkdir()
    (place / "a link").symlink_to("real", target_is_directory=True)
    name = "a link/missing/läuft ⌘ 'so'"
    ended = process("path", *SMALL_RUN, name).ended()
    assert (ended.code, ended.err) == (0, "")
    assert_same_end(place / "real" / "missing" / "läuft ⌘ 'so'", finished.path)


@pytest.mark.parametrize("kind", ["file", "below a file", "link to nothing", "not writable"])
@pytest.mark.reliability(14)
def test_a_folder_that_cannot_be_is_refused_before_training(genmod, tmp_path, kind):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "away")
    (tmp_path / "closed").mkdir(mode=0o555)
    path = {
        "file": tmp_path / "file",
        "below a file": tmp_path / "file" / "run",
        "link to nothing": tmp_path / "link",
        # Root may write where it is not allowed to, but not here.
        "not writable": Path("/proc/run") if os.getuid() == 0 else tmp_path / "closed" / "run",
    }[kind]
    ended = genmod(*SMALL_RUN, path)
    refused(ended, 2, f"run_dir {str(path)!r}", "expected a")
    assert ended.out == ""


@pytest.mark.reliability(14)
def test_a_run_that_may_only_be_read_is_refused_before_training(genmod, copied, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may write everywhere, so it is told
        patch.setattr(lock.filelock.FileLock, "acquire", lambda *_, **__: refuse())
        ended = genmod(*SMALL_RUN, copied.path, "--epochs", 9)
    refused(ended, 2, "cannot be written: Permission denied; expected a folder that can")
    assert ended.out == ""


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--learning-rate", 0.5, "learning_rate is 0.01 there and 0.5 here"),
        ("--latent-dim", 3, "latent_dim is 2 there and 3 here"),
        ("--batch-size", 8, "batch_size is 16 there and 8 here"),
        ("--seed", 1, "seed is 0 there and 1 here"),
    ],
)
@pytest.mark.reliability(15)
def test_another_configuration_is_refused_by_field(genmod, copied, flag, value, said):
    before = {path: path.read_bytes() for path in copied.path.rglob("*") if path.is_file()}
    refused(genmod(*SMALL_RUN, copied.path, flag, value), 2, said)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.reliability(15)
def test_another_data_set_is_refused(genmod, copied, altered):
    other = copied.path.parent / "experiments" / "small.py"
    altered(("* 37 % 256", "* 41 % 256")).rename(other)
    try:
        refused(genmod(*SMALL_RUN, copied.path), 2, "data is 'sha256:", "there and 'sha256:")
    finally:
        shutil.copy(copied.experiment, other)


@pytest.mark.parametrize("where", ["look", "picture"])
@pytest.mark.reliability(26)
def test_what_fails_in_a_look_is_a_warning_and_training_goes_on(tmp_path, capsys, where):
    class NoPicture:
        def savefig(self, path):
            raise RuntimeError("no picture today")

    def fails(key, state):
        if where == "look":
            raise RuntimeError("no look today")
        return Observation(numbers={"seen": 1.0}, figures={"samples": NoPicture()})

    whole, folder = (Folder(tmp_path / name) for name in ("whole", "folder"))
    for one in (whole, folder):
        one.path.mkdir()
    runner.run(experiment(3, observe=look), whole, seed=0, progress=False)
    threads = threading.active_count()  # Orbax keeps one of its own
    capsys.readouterr()
    end = {"evaluate": lambda key, state: {}, "figures": lambda key, state: {}}
    runner.run(experiment(3, observe=fails, **end), folder, seed=0, progress=False)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: step 10: ")
    assert f"RuntimeError: no {where} today ({__file__}:" in warning
    rows = [[row["a_loss"] for row in logs.read_metrics(one)] for one in (whole, folder)]
    assert rows[0] == rows[1]
    assert ("seen" in logs.read_metrics(folder)[0]) == (where == "picture")
    assert checkpoint.steps(folder.checkpoints) == [30]
    assert threading.active_count() <= threads, "a thread is left"


@pytest.mark.reliability(26)
def test_what_fails_at_the_end_is_raised_after_all_else(tmp_path, capsys):
    def no_numbers(key, state):
        raise RuntimeError("no numbers today")

    folder = Folder(tmp_path)
    built = experiment(2, evaluate=no_numbers, figures=lambda key, state: look(key, state).figures)
    for _ in range(2):  # and the same command says so again
        with pytest.raises(RuntimeError, match="no numbers today"):
            runner.run(built, folder, seed=0, progress=False)
        assert {path.name for path in folder.pictures.glob("*")} == {"samples.png", "curves.png"}
        assert checkpoint.steps(folder.checkpoints) == [20]
    assert not folder.evaluation.exists()
    mended = dataclasses.replace(built, evaluate=lambda key, state: {"good": 1.0})
    runner.run(mended, folder, seed=0, progress=False)
    assert logs.read_evaluation(folder) == {"good": 1.0}


@pytest.mark.reliability(26)
def test_pictures_that_fail_at_the_end_do_not_keep_the_others(tmp_path):
    class NoPicture:
        def savefig(self, path):
            raise RuntimeError("no picture today")

    folder = Folder(tmp_path)
    pictures = {"bad": NoPicture(), "good": report.curves([{"step": 1, "loss": 1.0}])}
    built = experiment(2, evaluate=lambda key, state: {}, figures=lambda key, state: pictures)
    with pytest.raises(RuntimeError, match="no picture today"):
        runner.run(built, folder, seed=0, progress=False)
    assert {path.name for path in folder.pictures.glob("*")} == {"good.png", "curves.png"}


@pytest.mark.reliability(28)
def test_neither_place_nor_hash_seed_nor_language_changes_a_bit(place, environment, finished):
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    other = {
        **environment,
        "GENMOD_CACHE_DIR": str(elsewhere / "cache"),  # and nothing that was compiled before
        "PYTHONHASHSEED": "4711",
        "TZ": "Pacific/Kiritimati",
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "C",
    }
    command = [sys.executable, "-m", "genmod", "train"]
    command += [str(place / "experiments" / "small.py"), "--run-dir", "run"]
    subprocess.run(command, cwd=elsewhere, env=other, check=True, capture_output=True, timeout=120)
    assert_same_end(elsewhere / "run", finished.path)


@pytest.mark.reliability(43)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
@pytest.mark.reliability(43)
def test_the_number_of_cores_may_change_bits_and_is_recorded():
    # One core or two: the loss of article_vae differs in its last digits after an epoch, as XLA
    # adds up the parts of a product in another order. `mixtures` has smaller ones and does not.
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert environment.device()["cores"] == 1
    finally:
        os.sched_setaffinity(0, cores)
    assert environment.device()["cores"] == len(cores)
