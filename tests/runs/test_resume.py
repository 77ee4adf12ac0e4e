"""A real run, killed at random moments and started again, ends in an undisturbed one's bits."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import assert_same_end, contents

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
QUICK = ["mnist_vae", "--epochs", "6", "--hidden", "40", "--latent-dim", "2"]
GAME = ["mixtures", "--epochs", "6", "--hidden", "64", "64", "--packing", "2"]
FULL = ["article_vae", "--epochs", "12"]
WAYS = [["--data-gb", "0.0001"], []]
"""The data streamed, and on the device: it makes no difference to a run that goes on."""


def start(arguments, folder):
    # One device, unlike the tests' two: the processes below are a user's.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["GENMOD_CACHE_DIR"] = str(folder.parent / "cache")
    options = ["--run-dir", str(folder), "--log-every", "70", "--checkpoint-every", "140"]
    return subprocess.Popen(
        [sys.executable, "-m", "genmod", "train", *arguments, *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(arguments, folder):
    process = start(arguments, folder)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return output


def rows_of(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("arguments", "kills"),
    [
        (QUICK, 1),
        pytest.param(GAME, 2, marks=pytest.mark.slow),
        pytest.param([*QUICK, "--epochs", "12"], 20, marks=pytest.mark.slow),
        pytest.param([*GAME, "--epochs", "12"], 20, marks=pytest.mark.slow),
        pytest.param(FULL, 8, marks=pytest.mark.slow),
    ],
    ids=["binarised", "game", "binarised-20", "game-20", "article"],
)
@pytest.mark.reliability(1)
def test_killed_at_random_moments_a_run_ends_in_the_same_bits(tmp_path, arguments, kills):
    first = finish(arguments, tmp_path / "undisturbed")
    assert "a new run of" in first.splitlines()[0]
    total = len((tmp_path / "undisturbed" / "metrics.jsonl").read_text().splitlines())

    moments = random.Random(0)
    for number, row in enumerate(sorted(moments.sample(range(3, total - 5), kills))):
        process = start([*arguments, *WAYS[number % 2]], tmp_path / "killed")
        while rows_of(tmp_path / "killed") < row and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    last = finish(arguments, tmp_path / "killed")
    assert "continuing at step" in last.splitlines()[0]

    assert_same_end(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_another_seed_ends_in_other_bits(tmp_path):
    # Without this, the test above could pass by comparing constants.
    short = ["article_vae", "--epochs", "1", "--hidden", "8"]
    for seed in ("0", "1"):
        finish([*short, "--seed", seed], tmp_path / seed)
    assert contents(tmp_path / "0")["arrays"] != contents(tmp_path / "1")["arrays"]
    assert contents(tmp_path / "0")["rows"] != contents(tmp_path / "1")["rows"]
