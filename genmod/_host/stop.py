"""Handling of signals that end a process, such as Ctrl-C.

The effect of a signal, such as SIGINT (Ctrl-C) or SIGTERM, depends on what there is to save. If
there is nothing to save, the process ends immediately. During a step, the run is saved after the
step. During an observation of the run, which may take long, the observation is interrupted and the
run is saved. A second Ctrl-C or SIGTERM ends the process immediately in all cases.

A run is also stopped by a terminal that hangs up (SIGHUP), by a limit on CPU time (SIGXCPU), and by
the warnings that a scheduler sends before its time limit (SIGUSR1, SIGUSR2; SLURM with --signal).
If these signals come again, or before SIGTERM, they do not force an immediate end: a terminal that
closes sends two, and a limit on CPU time sends one per second. A signal stays untouched if it is
ignored, as under nohup, or if the program has its own handler. SIGQUIT keeps its meaning: it ends
the process immediately and dumps its memory.

Python handles a signal only between two of its own instructions, and compilation may delay that for
minutes. Therefore a thread listens too, and acts if the main thread does not react in time.
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
"""Signals handled only if they would end the process."""
_PATIENCE, _PATIENCE_AGAIN = 2.0, 0.3
"""Seconds before the thread acts.

The first applies to a first signal, the second to a second one. Until then the program itself may
act.
"""


class Phase(enum.Enum):
    """State of the process when a signal arrives."""

    NOTHING_TO_SAVE = enum.auto()
    STEPPING = enum.auto()
    LOOKING = enum.auto()


class Stopped(SystemExit):
    """Exit of the process when nothing is left to save.

    `code` is 128 + the signal.
    """


class Cut(BaseException):
    """Interruption of an observation: the caller must save the run."""


class Stop:
    """Context within which signals stop a run.

    If it is given the arguments of the command, it owns the process and may end it while compiled
    code is running. If not, as in a notebook, it only raises exceptions; Ctrl-C raises the usual
    KeyboardInterrupt.

    Attributes:
      signal: the signal that has arrived, or None.
      phase: the current phase, which says what there is to save; at first, nothing.
    """

    def __init__(self, arguments: Sequence[str] | None = None):
        """Takes the command's arguments if it owns the process."""
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
        """Starts to listen for signals.

        It may be entered again. It then sets its handlers again, in case others have replaced them.
        """
        self._depth += 1
        if threading.current_thread() is not threading.main_thread():
            return self  # Python allows handlers only in the main thread
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
            self._thread.join()  # a thread that wakes during interpreter shutdown crashes it
        self._before = {}
        if isinstance(error, Stopped):
            self._say_nothing_new()

    @contextlib.contextmanager
    def looking(self, save: Callable[[], int]) -> Iterator[None]:
        """Makes its body an observation that a signal interrupts.

        Args:
          save: function that saves the run as it is before the observation, and returns its step.
            It is called only if the observation does not return in time, from another thread, and
            the process ends after it.

        Raises:
          Cut: if a signal arrives; the caller must save the run.
        """
        self._save, self._looking_since = save, time.monotonic()
        try:
            self.phase = Phase.LOOKING
            yield
        finally:
            with self._claim:  # if the thread is saving, wait for the process to end
                self.phase = Phase.STEPPING

    def saved_at(self, step: int) -> str:
        """Returns the message after a save."""
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
        # print is unsafe here: the signal may have interrupted another print.
        terminal.say(2, "\nstopping: saving after this step (again to stop immediately)")
        if self.phase is Phase.LOOKING:
            raise Cut

    def _start_thread(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, args=(reading,), daemon=True)
        self._thread.start()

    def _listen(self, reading: int) -> None:
        """Runs the thread that listens for signals.

        Signals arrive here whatever the program is doing.
        """
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
                    if self.phase is Phase.LOOKING:  # it cannot end now before the save
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
