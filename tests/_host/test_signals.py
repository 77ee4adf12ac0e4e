"""Ctrl-C and SIGTERM in every phase of a run: faults 4 and 5 of the README's table."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from commands import assert_same_end

from genmod._host.stop import Cut, Phase, Stop
from genmod.runs.folder import Folder
from genmod.train import checkpoint

pytestmark = pytest.mark.end_to_end

PATIENCE = 15  # seconds; 5 where nothing else runs, and a pause lasts 200

AT_ONCE = [
    ("pause", "import"),
    ("block", "compile"),
    ("pause", "restore"),
    ("block", "evaluate"),
    ("pause", "figures"),
]
WITH_A_SAVE = [("pause", "look"), ("block", "look"), ("pause", "save")]


@pytest.fixture(scope="module")
def undisturbed(place, process):
    """What `genmod train small` leaves behind; it also warms the cache of compiled programs."""
    folder = Folder(place / "undisturbed")
    ended = process("undisturbed", "train", "small", "--run-dir", folder.path).ended()
    assert (ended.code, ended.err) == (0, "")
    return folder


@pytest.fixture(scope="module")
def stopped(place, process, undisturbed):
    """Runs that hear a signal in a phase: how they ended, and seconds from signal to end."""
    found = {}
    signals = {True: signal.SIGTERM, False: signal.SIGINT}
    for i, (kind, phase) in enumerate([*AT_ONCE, *WITH_A_SAVE]):
        number = signals[i % 3 != 0]
        name = f"{kind}-{phase}"
        command = ("train", "small", "--run-dir", name, "--checkpoint-every", "4")
        one = process(name, *command, fault=f"{kind}:{phase}")
        one.wait_for(f"<{phase}>")
        one.send(number)
        began = time.monotonic()
        found[kind, phase] = (number, one.ended(), time.monotonic() - began)
    return found


@pytest.mark.parametrize(("kind", "phase"), AT_ONCE)
@pytest.mark.reliability(4)
def test_a_signal_where_nothing_is_to_be_saved_ends_the_process(stopped, place, kind, phase):
    number, ended, seconds = stopped[kind, phase]
    assert ended.code == 128 + number, ended
    assert seconds < PATIENCE
    assert "Traceback" not in ended.err
    command = f"genmod train small --run-dir {kind}-{phase} --checkpoint-every 4"
    assert ended.out.splitlines()[-1] == f"stopped; to continue: {command}"
    steps = checkpoint.steps(place / f"{kind}-{phase}" / "checkpoints")
    assert steps == ([8, 12] if phase in ("evaluate", "figures") else [])


@pytest.mark.parametrize(("kind", "phase"), WITH_A_SAVE)
@pytest.mark.reliability(4)
def test_a_signal_in_a_look_or_a_save_saves_the_step(
    stopped, place, genmod, undisturbed, kind, phase
):
    number, ended, seconds = stopped[kind, phase]
    assert ended.code == 128 + number, ended
    assert seconds < PATIENCE
    assert "Traceback" not in ended.err
    command = f"train small --run-dir {kind}-{phase} --checkpoint-every 4"
    assert ended.out.splitlines()[-1] == f"saved at step 4; to continue: genmod {command}"
    folder = Folder(place / f"{kind}-{phase}")
    assert checkpoint.steps(folder.checkpoints) == [4]

    # The log point whose look was cut short is not lost.
    ended = genmod(*command.split())
    assert (ended.code, ended.err) == (0, "")
    assert "continuing at step 4" in ended.first_line
    assert_same_end(folder.path, undisturbed.path)
    assert not folder.unlogged.exists()


@pytest.mark.reliability(5)
def test_a_second_ctrl_c_does_not_wait_for_the_save(place, process, genmod, undisturbed):
    folder = Folder(Path(shutil.copytree(undisturbed.path, place / "twice")))
    command = ("train", "small", "--run-dir", "twice", "--epochs", "5")
    one = process("twice", *command, fault="block:look")
    one.wait_for("<look>")
    one.send(signal.SIGINT)
    time.sleep(0.2)
    one.send(signal.SIGINT)
    began = time.monotonic()
    ended = one.ended()
    assert ended.code == 130
    assert time.monotonic() - began < PATIENCE
    assert checkpoint.steps(folder.checkpoints) == [12]
    assert "continuing at step 12" in genmod(*command).first_line


@pytest.mark.reliability(5)
def test_in_a_notebook_ctrl_c_is_what_it_always_is():
    before, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    with Stop() as stop:
        assert threading.active_count() == threads, "nobody but the program may end the process"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.reliability(5)
def test_a_look_without_a_signal_changes_nothing():
    with Stop() as stop:
        with stop.looking(lambda: 0):
            pass
        assert (stop.signal, stop.phase) == (None, Phase.STEPPING)
        with pytest.raises(Cut), stop.looking(lambda: 0):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
