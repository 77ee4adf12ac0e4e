"""Kills processes that save and prune, at random moments, and looks at what each leaves behind.

    python tests/support/killed_saves.py FOLDER NUMBER

It prints a line for each kill: the steps that stand there and the last step that was reported as
saved. The processes are forks of this one, which has done all imports and has no threads yet.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from genmod.train import checkpoint

TREE = {"big": np.arange(50_000, dtype=np.float32), "small": np.ones(3, np.float32)}


def save_on_and_on(folder: Path, step: int, done: int) -> None:
    """Saves step after step, as fast as it can, and reports each."""
    checkpoint.clean(folder)
    while True:
        step += 1
        checkpoint.save(folder, step, TREE | {"step": np.asarray(step, np.int32)}, keep=2)
        os.write(done, b"%d\n" % step)


def look(folder: Path, reported: int) -> None:
    """Has the folder cleaned as a start does, and every listed step read."""
    checkpoint.clean(folder)
    names = sorted(path.name for path in folder.iterdir())
    steps = checkpoint.steps(folder)
    assert names == [f"{step:09d}" for step in steps], names
    assert steps, "no checkpoint is left"
    assert steps[-1] in (reported, reported + 1), (steps, reported)
    target = TREE | {"step": np.asarray(0, np.int32)}
    for step in steps:
        assert int(checkpoint.restore(folder, target, step=step)["step"]) == step
    newest = checkpoint.restore_newest(folder, target)
    assert newest is not None
    assert (newest.step, newest.remarks) == (steps[-1], [])


def fork(work, *arguments) -> int:
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return child


def main(folder: Path, number: int) -> None:
    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    moments = random.Random(number)
    reported = 0
    for _ in range(number):
        reading, writing = os.pipe()
        child = fork(save_on_and_on, folder, reported, writing)
        os.close(writing)
        with os.fdopen(reading) as reports:
            # Two steps first: the third prunes.
            for _ in range(2):
                reported = int(reports.readline())
            time.sleep(moments.uniform(0, 0.25))
            os.kill(child, signal.SIGKILL)
            reported = max([reported, *map(int, reports.read().split())])
        os.waitpid(child, 0)
        left = sorted(path.name for path in folder.iterdir())
        _, status = os.waitpid(fork(look, folder, reported), 0)
        assert status == 0, left
        reported = checkpoint.steps(folder)[-1]
        print(" ".join(left), flush=True)


main(Path(sys.argv[1]), int(sys.argv[2]))
