"""Ctrl-C, SIGTERM and others that end a process: what they do depends on what there is to save.

Where nothing is to be saved, the process ends at once. In a step, the run saves after it; in a
look at the run, which may take long, the look is cut short for the save. A second Ctrl-C or SIGTERM
is final.

A terminal that hangs up (SIGHUP), a limit of CPU time (SIGXCPU) and the warnings that a scheduler
sends before its time limit, as SLURM does with --signal (SIGUSR1, SIGUSR2), stop a run as well.
They insist on nothing when they come again, or before SIGTERM: a terminal that closes sends two, a
limit of CPU time one a second. One that is ignored, as under nohup, or has a handler of the
program's own is left alone. SIGQUIT keeps its meaning: to end at once, and to dump memory.

Python hears a signal only between two of its own instructions, and a compiler may keep it waiting
for minutes; so a thread listens too, and acts in its place when it does not come back in time.
"""

import contextlib
import enum
import os
import select
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Self

from genmod._host import terminal

_INSISTING = (signal.SIGINT, signal.SIGTERM)
_OTHERS = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""Heard only where they would end the process."""
_PATIENCE, _PATIENCE_AGAIN = 2.0, 0.3
"""Seconds in which the program itself may act on a signal, or on the second, before the thread."""


class Phase(enum.Enum):
    """What a signal finds."""

    NOTHING_TO_SAVE = enum.auto()
    STEPPING = enum.auto()
    LOOKING = enum.auto()


class Stopped(SystemExit):
    """The process ends: nothing is left to save. `code` is 128 + the signal."""


class Cut(BaseException):
    """A look is cut short: the run is to be saved."""


class Stop:
    """A context within which signals stop a run.

    With the arguments of the command it owns the process, and may end it while compiled code is
    running. Without, as in a notebook, it only raises: Ctrl-C is the usual KeyboardInterrupt.

    Attributes:
      signal: the signal that has been heard, or None.
      phase: what there is to save; nothing, at first.
    """

    def __init__(self, arguments: Sequence[str] | None = None):
        """With the arguments of the command, if it owns the process."""
        self._owns_process = arguments is not None
        arguments = arguments or ()
        self.signal: int | None = None
        self._insisted = False
        self.phase = Phase.NOTHING_TO_SAVE
        self._command = shlex.join(["genmod", *arguments]) if arguments[:1] == ["train"] else None
        self._depth = 0
        self._before: dict[int, Any] = {}
        self._save: Callable[[], int] | None = None
        self._looking_since = 0.0
        self._claim = threading.Lock()

    def __enter__(self) -> Self:
        """Listens; entered again, it listens again, if others have since taken its place."""
        self._depth += 1
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may listen, and nobody has asked this one
        if not self._before:
            self._before = {number: signal.getsignal(number) for number in _INSISTING}
            others = {number: signal.getsignal(number) for number in _OTHERS}
            self._before |= {n: found for n, found in others.items() if found is signal.SIG_DFL}
            if self._owns_process:
                self._start_thread()
        for number in self._before:
            signal.signal(number, self._heard)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        self._depth -= 1
        if self._depth or not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._owns_process:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writing)
            self._thread.join()  # one that wakes while Python goes down takes it down with a crash
        self._before = {}
        if isinstance(error, Stopped):
            self._say_nothing_new()

    @contextlib.contextmanager
    def looking(self, save: Callable[[], int]) -> Iterator[None]:
        """Around a look at the run, which a signal cuts short.

        Args:
          save: saves the run as it is before the look, and returns its step. It is called only
            where the look does not come back, from another thread, and the process ends after it.

        Raises:
          Cut: when a signal is heard: the caller saves.
        """
        self._save, self._looking_since = save, time.monotonic()
        try:
            self.phase = Phase.LOOKING
            yield
        finally:
            with self._claim:  # waits for the end of the process, if the thread is saving
                self.phase = Phase.STEPPING

    def saved_at(self, step: int) -> str:
        """What is said after a save."""
        return f"saved at step {step:,}" + (f"; to continue: {self._command}" * bool(self._command))

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again = self._insisted and number in _INSISTING
        self._insisted |= number in _INSISTING
        if self.signal is not None and not again:
            return
        self.signal = number
        if again or self.phase is Phase.NOTHING_TO_SAVE:
            if number == signal.SIGINT and not self._owns_process:
                raise KeyboardInterrupt
            raise Stopped(128 + number)
        # Not print: the signal may have come in the middle of another one.
        terminal.say(2, "\nstopping: saving after this step (once more to stop at once)")
        if self.phase is Phase.LOOKING:
            raise Cut

    def _start_thread(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, args=(reading,), daemon=True)
        self._thread.start()

    def _listen(self, reading: int) -> None:
        """Runs in a thread: the signals arrive here whatever the program is doing."""
        number, heard, patience, insisted = 0, 0.0, _PATIENCE, False
        while True:
            if select.select([reading], [], [], 0.1 if number else None)[0]:
                byte = os.read(reading, 1)
                if not byte:
                    os.close(reading)
                    return
                again = insisted and byte[0] in _INSISTING
                insisted |= byte[0] in _INSISTING
                if again or (byte[0] in self._before and not number):
                    patience = _PATIENCE_AGAIN if again else _PATIENCE
                    number, heard = byte[0], time.monotonic()
            elif time.monotonic() < max(heard, self._looking_since) + patience:
                continue
            elif patience == _PATIENCE_AGAIN or self.phase is Phase.NOTHING_TO_SAVE:
                self._say_nothing_new()
                os._exit(128 + number)
            elif self.phase is Phase.LOOKING:
                with self._claim:
                    if self.phase is Phase.LOOKING:  # and now it cannot end before the save
                        self._save_and_exit(number)

    def _save_and_exit(self, number: int) -> None:
        assert self._save is not None
        try:
            terminal.say(1, self.saved_at(self._save()))
        except Exception as error:
            terminal.say(2, f"genmod: error: {error}")
            os._exit(1)
        os._exit(128 + number)

    def _say_nothing_new(self) -> None:
        if self._command:
            sys.stdout.flush()
            terminal.say(1, f"stopped; to continue: {self._command}")
