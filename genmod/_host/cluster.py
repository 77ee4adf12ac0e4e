"""Several processes, on one machine or many, that are one run.

Each runs the same program on its share of the devices, and each computes its share of every batch.
One of them, the leader, writes the files and speaks. A run cannot go on without any of them, and a
process that waits for one that is gone would wait for ever; so each shows the others that it lives,
and ends where one of them does not.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax

from genmod._host import terminal

LOST = 6
"""Exit code of a process that ends because another one is gone."""
_BEAT, _PATIENCE = 1.0, 20.0
"""Seconds between two signs of life, and without one before a process is given up."""
_JAX_PATIENCE = 60
"""Seconds before JAX's own watch, which aborts with a stack trace, gives a process up."""
_FINISHED, _FAILED = "finished", "failed"
_ADVICE = "this one ends too; to continue, start all of them again"

_broken = False


def leads() -> bool:
    """Whether this process writes the files: the first one, or the only one."""
    return jax.process_index() == 0


def broken() -> bool:
    """Whether this process has failed as one of several, so that it cannot leave in order."""
    return _broken


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Around all that a process of several does: nothing of JAX may have been used before.

    With no arguments JAX finds the others by what the environment says (SLURM, GKE, TPU pods, Open
    MPI). Where the body raises, the other processes end too.

    Args:
      coordinator: HOST:PORT of the first process, the same in all of them.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ValueError: if only some of the three are given, or the others cannot be found.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        lacking = " and no ".join(missing)
        raise ValueError(f"coordinator, num_processes, process_id: all or none, got no {lacking}")
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise ValueError(
            f"process_id must be below num_processes {num_processes}, got {process_id}"
        )
    # How the CPUs of several processes add up their numbers; other devices have their own ways.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=_JAX_PATIENCE
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"the other processes of the run cannot be joined: {error}") from error
    watch = _Watch()
    try:
        yield
    except BaseException as error:
        global _broken
        _broken = True
        if _by_the_runtime(error):
            time.sleep(_PATIENCE + 2 * _BEAT)
        watch.leave(_FAILED)
        raise
    watch.leave(_FINISHED)
    _part()


def _part() -> None:
    """Ends the connection of processes that have all finished: the leader's service comes last.

    A process that still listens when the service goes is aborted by JAX, its run being complete.
    """
    from jax._src import distributed

    state: Any = distributed.global_state
    service, state.service = state.service, None
    jax.distributed.shutdown()  # where all processes meet
    if service is not None:
        time.sleep(_BEAT)
        service.shutdown()


def _by_the_runtime(error: BaseException | None) -> bool:
    """Whether compiled code has failed: perhaps only as another process is gone, which shows."""
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Watch:
    """Shows that this process lives, and sees that the others do."""

    def __init__(self):
        # The store that all processes of a run share has no public door in JAX.
        from jax._src import distributed

        self._store: Any = distributed.global_state.client
        # Nor does it know before its devices are there who it is, and they may not be.
        self._me: int = distributed.global_state.process_id
        self._num: int = distributed.global_state.num_processes or 1
        self._state = ""  # how it has ended, if it has
        self._seen = {k: ("", time.monotonic()) for k in range(self._num) if k != self._me}
        threading.Thread(target=self._run, daemon=True).start()

    def leave(self, state: str) -> None:
        """Says that this process goes; where all is well, waits for the others to say so too."""
        self._state = state
        if state == _FAILED:
            time.sleep(3 * _BEAT)  # the leader takes the store with it
            return
        while any(seen != _FINISHED for seen, _ in self._seen.values()):
            time.sleep(_BEAT / 10)
        time.sleep(2 * _BEAT)

    def _run(self) -> None:
        beat = 0
        while True:
            beat += 1
            try:
                sign = self._state or str(beat)
                self._store.key_value_set(f"genmod/{self._me}", sign, allow_overwrite=True)
                for other in self._seen:
                    self._look(other)
            except Exception:
                if self._state == _FINISHED:
                    return  # the leader has gone home
                self._end(f"process 0 of {self._num}, which leads, cannot be reached")
            if self._state == _FAILED:
                return
            time.sleep(_BEAT)

    def _look(self, other: int) -> None:
        seen, since = self._seen[other]
        if seen == _FINISHED:
            return
        try:
            now = self._store.key_value_try_get(f"genmod/{other}")
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                raise
            now = ""
        if now == _FAILED:
            self._end(f"process {other} of {self._num} has failed: see what it says")
        if now != seen:
            self._seen[other] = (now, time.monotonic())
        elif time.monotonic() > since + _PATIENCE:
            self._end(f"process {other} of {self._num} has not been heard of for {_PATIENCE:.0f} s")

    def _end(self, reason: str) -> None:
        if self._state:
            return
        sys.stdout.flush()
        terminal.say(2, f"genmod: error: {reason}; {_ADVICE}")
        os._exit(LOST)
