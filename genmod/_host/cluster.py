"""Runs of several processes, on one machine or many.

Each process runs the same program on its share of the devices and computes its share of every
batch. One of them, the leader, writes the files and prints the messages. A run cannot continue if
any process is lost, and a process that waits for a lost one would wait for ever. Therefore each
process sends heartbeats to the others, and ends if another one stops sending them.
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
"""Exit code of a process that ends because another is lost."""
_BEAT, _PATIENCE = 1.0, 20.0
"""Heartbeat interval and timeout, in seconds.

A process without a heartbeat for this timeout counts as lost.
"""
_JAX_PATIENCE = 60
"""Timeout of JAX's own heartbeats, in seconds.

It is longer than ours, because JAX then aborts the process with a stack trace.
"""
_FINISHED, _FAILED, _LEFT = "finished", "failed", "left"
"""End of a process: in order, by its own fault, or because another one has ended."""
_ADVICE = "this one ends too; to continue, start all of them again"

_broken = False


def leads() -> bool:
    """Returns whether this process is the leader.

    The leader writes the files. It is the first process, or the only one.
    """
    return jax.process_index() == 0


def broken() -> bool:
    """Returns whether this process of several has failed.

    A failed process cannot disconnect from the others in order.
    """
    return _broken


@contextlib.contextmanager
def joined(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Joins the other processes of a run.

    The connection lasts as long as the context. JAX must not have been used before. Without
    arguments, JAX finds the other processes from the environment (SLURM, GKE, TPU pods, Open MPI).
    If the body raises, the other processes end too.

    Args:
      coordinator: HOST:PORT of the first process, the same in all processes.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      ValueError: if only some of the three are given, or if the other processes cannot be found.
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
    # JAX sums across the CPUs of several processes with Gloo; other devices have their own means.
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
    """Disconnects processes that have all finished.

    The leader shuts down the service last. JAX would abort a process that is still connected at
    that moment, although its run is complete.
    """
    from jax._src import distributed

    state: Any = distributed.global_state
    service, state.service = state.service, None
    jax.distributed.shutdown()  # waits for all processes
    if service is not None:
        time.sleep(_BEAT)
        service.shutdown()


def _by_the_runtime(error: BaseException | None) -> bool:
    """Returns whether compiled code has failed.

    The cause may be that another process is lost; in that case the watch will notice it.
    """
    while error is not None and not isinstance(error, jax.errors.JaxRuntimeError):
        error = error.__cause__ or error.__context__
    return error is not None


class _Watch:
    """Thread that sends and checks heartbeats."""

    def __init__(self):
        # JAX has no public API for the key-value store that all processes of a run share.
        from jax._src import distributed

        self._store: Any = distributed.global_state.client
        # JAX's public functions know the process id only once the devices exist, and here they may
        # not exist yet.
        self._me: int = distributed.global_state.process_id
        self._num: int = distributed.global_state.num_processes or 1
        self._state = ""  # how this process has ended, if it has
        self._seen = {k: ("", time.monotonic()) for k in range(self._num) if k != self._me}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def leave(self, state: str) -> None:
        """Announces that this process ends.

        If it has finished without failure, it waits until all others have finished, too.
        """
        self._state = state
        if state == _FAILED:
            self._over.set()
            self._thread.join(_PATIENCE)  # it announces the failure
            self._wait_for_the_others()
            return
        while any(seen != _FINISHED for seen, _ in self._seen.values()):
            time.sleep(_BEAT / 10)
        time.sleep(2 * _BEAT)
        self._over.set()
        self._thread.join(_PATIENCE)  # a thread in JAX while the interpreter ends crashes it

    def _run(self) -> None:
        beat = 0
        while True:
            beat += 1
            sign = self._state or str(beat)
            try:
                self._announce(sign)
                for other in self._seen:
                    self._look(other)
            except Exception:
                if self._state == _FINISHED:
                    return  # the leader has finished and closed the store
                self._end(f"process 0 of {self._num}, which leads, cannot be reached")
            if self._over.wait(_BEAT) and sign == self._state:
                return

    def _announce(self, sign: str) -> None:
        self._store.key_value_set(f"genmod/{self._me}", sign, allow_overwrite=True)

    def _sign(self, other: int) -> str:
        """Returns what another process has announced last."""
        try:
            return self._store.key_value_try_get(f"genmod/{other}")
        except Exception as error:
            if "NOT_FOUND" not in str(error):
                raise
            return ""

    def _look(self, other: int) -> None:
        seen, since = self._seen[other]
        if seen == _FINISHED:
            return
        now = self._sign(other)
        if now == _FAILED:
            self._end(f"process {other} of {self._num} has failed: see what it says")
        if now != seen:
            self._seen[other] = (now, time.monotonic())
        elif time.monotonic() > since + _PATIENCE:
            self._end(f"process {other} of {self._num} has not been heard of for {_PATIENCE:.0f} s")

    def _wait_for_the_others(self) -> None:
        """Waits, if this is the leader, until the others have read why the run ends.

        The store ends with the leader. A process that is lost is not waited for.
        """
        end = time.monotonic() + _PATIENCE
        waiting = {
            other
            for other, (_, since) in self._seen.items()
            if time.monotonic() < since + _PATIENCE
        }
        while self._me == 0 and waiting and time.monotonic() < end:
            waiting = {k for k in waiting if self._sign(k) not in (_FINISHED, _FAILED, _LEFT)}
            time.sleep(_BEAT / 10)

    def _end(self, reason: str) -> None:
        if self._state:
            return
        sys.stdout.flush()
        terminal.say(2, f"genmod: error: {reason}; {_ADVICE}")
        with contextlib.suppress(Exception):  # the leader, and its store, may be gone
            self._announce(_LEFT)
            self._wait_for_the_others()
        os._exit(LOST)
