"""Several processes that are one run: real ones, two CPU devices each."""

import json
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import pytest
from commands import SMALL, Process, refused
from jax._src import distributed

from genmod._host import cluster
from genmod.runs import logs
from genmod.runs.folder import Folder
from genmod.train import checkpoint

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def alone(place, environment):
    """What a user has: the tests' own devices are none of the processes'."""
    return {name: value for name, value in environment.items() if name != "XLA_FLAGS"}


@pytest.fixture
def together(place, alone):
    """Starts two processes on a run, which answers nobody else."""
    started = []

    def start(folder, *arguments, fault=None):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        flags = ["--devices", "2", "--coordinator", f"localhost:{port}", "--num-processes", "2"]
        flags += ["--process-id"]
        command = ["train", str(SMALL), "--run-dir", str(folder), *map(str, arguments), *flags]
        processes = [
            Process(place, alone, f"{folder.name}-{k}-{port}", *command, str(k), fault=what)
            for k, what in enumerate([fault, None])
        ]
        started.extend(processes)
        return processes

    yield start
    for one in started:
        one.kill()


def rows(folder):
    found = logs.read_metrics(Folder(folder))
    return [{k: v for k, v in row.items() if k != "examples_per_s"} for row in found]


def assert_same_curve(ours, theirs):
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in b:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6)


def test_two_processes_are_one_run_of_four_devices(place, alone, together, tmp_path):
    # The two stream: each reads what its own devices need.
    options = ["--epochs", "3", "--data-gb", "1e-6"]
    first, second = (p.ended(180) for p in together(tmp_path / "two", *options))
    assert (first.code, second.code) == (0, 0), (first, second)
    assert "a new run of 12 steps" in first.out
    assert "64 examples, 0.0 MB, streamed" in first.out
    assert "negative_elbo" in first.out
    assert "epoch" not in second.out  # only the leader speaks
    command = ["train", str(SMALL), "--run-dir", str(tmp_path / "four"), "--devices", "4"]
    four = Process(place, alone, "four", *command).ended()
    assert four.code == 0, four
    assert_same_curve(rows(tmp_path / "two"), rows(tmp_path / "four"))

    # What two processes have saved, one can continue, and the other way round.
    command = ["train", str(SMALL), "--run-dir", str(tmp_path / "two"), "--epochs", "6"]
    longer = Process(place, alone, "longer", *command).ended()
    assert "continuing at step 12" in longer.out, longer
    first, second = (p.ended(180) for p in together(tmp_path / "four", "--epochs", "6"))
    assert "continuing at step 12" in first.out, (first, second)
    assert_same_curve(rows(tmp_path / "two"), rows(tmp_path / "four"))


def until_saved(folder, processes):
    end = time.monotonic() + 90
    while not checkpoint.steps(folder / "checkpoints"):
        assert all(p._process.poll() is None for p in processes), [p.ended() for p in processes]
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.1)


LONG = ["--epochs", "100000", "--log-every", "40", "--checkpoint-every", "40", "--no-progress"]


@pytest.mark.reliability(31)
def test_a_lost_process_ends_the_other_and_the_run_goes_on(place, alone, together, tmp_path):
    first, second = processes = together(tmp_path / "run", *LONG)
    until_saved(tmp_path / "run", processes)
    second.send(signal.SIGKILL)
    began = time.monotonic()
    refused(first.ended(), 6, "process 1 of 2 has not been heard of", "start all of them again")
    assert time.monotonic() - began < 60
    second.ended()
    saved = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    # On another number of processes, and equal to a run that nothing happened to.
    epochs = str(saved // 4 + 20)
    for name in ("run", "undisturbed"):
        options = ["--epochs", epochs, *LONG[2:]]
        command = ["train", str(SMALL), "--run-dir", str(tmp_path / name), *options]
        ended = Process(place, alone, name, *command).ended()
        assert ended.code == 0, ended
    assert_same_curve(rows(tmp_path / "run"), rows(tmp_path / "undisturbed"))


@pytest.mark.slow
@pytest.mark.reliability(31)
def test_a_sum_that_fails_as_a_process_is_lost_is_told_as_that(together, tmp_path):
    first, second = together(tmp_path / "run", *LONG, fault="fail:save")
    first.wait_for("<save>")
    second.send(signal.SIGKILL)
    refused(first.ended(), 6, "process 1 of 2 has not been heard of", "start all of them again")


def test_a_signal_to_one_process_stops_all_with_one_checkpoint(together, tmp_path):
    first, second = processes = together(tmp_path / "run", *LONG)
    until_saved(tmp_path / "run", processes)
    second.send(signal.SIGTERM)
    first, second = first.ended(), second.ended()
    assert (first.code, second.code) == (143, 143), (first, second)
    (step,) = [int(line.split()[3][:-1]) for line in first.out.splitlines() if "saved at" in line]
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == step


def test_a_process_that_fails_says_why_and_ends_the_other(together, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("not a run")
    first, second = (p.ended(180) for p in together(tmp_path / "run"))
    refused(first, 2, "exists and is not a genmod run")
    refused(second, 6, "process 0 of 2 has failed: see what it says")
    assert os.listdir(tmp_path / "run") == ["notes.txt"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num-processes", "2"], "all or none, got no coordinator and no process_id"),
        (
            ["--coordinator", "localhost:1", "--num-processes", "2", "--process-id", "2"],
            "process_id must be below num_processes 2, got 2",
        ),
        (["--cluster"], "the other processes of the run cannot be joined"),
    ],
)
def test_half_of_a_cluster_is_refused(place, alone, flags, said, tmp_path):
    command = ["train", str(SMALL), "--run-dir", str(tmp_path / "run"), *flags]
    refused(Process(place, alone, "half", *command).ended(), 2, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_seeds_are_spread_over_processes(place, alone, together, tmp_path):
    first, second = (p.ended(180) for p in together(tmp_path / "two", "--seeds", "4"))
    assert (first.code, second.code) == (0, 0), (first, second)
    command = ["train", str(SMALL), "--run-dir", str(tmp_path / "one"), "--seeds", "4"]
    assert Process(place, alone, "one", *command).ended().code == 0
    ours, theirs = rows(tmp_path / "two"), rows(tmp_path / "one")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a["seeds"]["loss"], b["seeds"]["loss"], rtol=1e-5)
    evaluations = [
        json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("one", "two")
    ]
    np.testing.assert_allclose(*(e["seeds"]["negative_elbo"] for e in evaluations), rtol=1e-5)


def test_the_leaders_service_ends_after_all_have_left(monkeypatch):
    """Else a process that is about to leave is aborted, with 134, by what it hears last."""
    done = []

    class Part:
        def __init__(self, name):
            self.shutdown = lambda: done.append(name)

    monkeypatch.setattr(distributed, "global_state", distributed.State())
    distributed.global_state.client = Part("client")
    distributed.global_state.service = Part("service")
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: done.append(seconds))
    cluster._part()
    assert done == ["client", cluster._BEAT, "service"]
    assert distributed.global_state.service is None


class Store(dict):
    """What the processes of a run share."""

    def key_value_set(self, name, value, allow_overwrite):
        assert allow_overwrite
        self[name] = value

    def key_value_try_get(self, name):
        if name not in self:
            raise RuntimeError(f"NOT_FOUND: {name}")
        return self[name]


@pytest.fixture
def watch(monkeypatch):
    """Makes the watch of a process of two, which beats a hundred times a second."""
    monkeypatch.setattr(cluster, "_BEAT", 0.01)
    store = Store()

    def make(me):
        state = distributed.State()
        state.process_id, state.num_processes, state.client = me, 2, store
        monkeypatch.setattr(distributed, "global_state", state)
        return cluster._Watch(), store

    return make


@pytest.mark.parametrize("answer", [cluster._LEFT, cluster._FAILED, cluster._FINISHED])
def test_a_leader_that_fails_stays_until_the_others_know_why(watch, answer):
    """Else they only find, if they are slow, that it cannot be reached."""
    leader, store = watch(0)
    store["genmod/1"] = "1"
    leaving = threading.Thread(target=leader.leave, args=[cluster._FAILED])
    leaving.start()
    leaving.join(0.5)
    assert leaving.is_alive()
    assert store["genmod/0"] == cluster._FAILED
    store["genmod/1"] = answer
    leaving.join(10)
    assert not leaving.is_alive()


def test_a_leader_that_fails_does_not_wait_for_a_lost_process(watch, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.3)
    leader, store = watch(0)
    store["genmod/1"] = "1"
    leaving = threading.Thread(target=leader.leave, args=[cluster._FAILED])
    leaving.start()
    leaving.join(10)
    assert not leaving.is_alive()


def test_a_process_tells_that_it_ends_because_of_another(watch, monkeypatch, capfd):
    monkeypatch.setattr(cluster.os, "_exit", sys.exit)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    second, store = watch(1)
    store["genmod/0"] = cluster._FAILED
    with pytest.raises(SystemExit) as ended:
        second._run()
    assert ended.value.code == cluster.LOST
    assert store["genmod/1"] == cluster._LEFT
    assert "process 0 of 2 has failed: see what it says" in capfd.readouterr().err
