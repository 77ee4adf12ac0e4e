"""One long-lived process a framework, and the line protocol between it and the main program.

Frameworks are compared by letting them take turns: each lives in a process of its own, and only
the one that is asked works while the others wait on their standard input. The main program holds
the `Worker` end, the process the `Turns` end:

    main program                    worker
    "epoch"                   ->    trains one epoch
                              <-    {"seconds": ..., "idle_cpu_seconds": ..., "loss": ...}
    "stop" (or a closed pipe) ->    ends its loop
                              <-    {"peak_rss_mb": ..., "python": ...}

What a worker runs is a module with a function `train(turns, job)`, which calls `turns.begin()`
before and `turns.end(...)` after every epoch, for ever; `begin` ends the loop by raising `Stop`.
This file imports only the standard library and NumPy, because peers run it without genmod.
"""

import contextlib
import dataclasses
import gzip
import importlib
import json
import os
import platform
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO, cast

import numpy as np

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


class Stop(Exception):
    """The main program wants no further epoch; it ends a loop, as StopIteration does."""


class WorkerError(RuntimeError):
    """A worker died, did not answer in time, or could not be started."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker is to train.

    Attributes:
        variant: which of the module's ways to train.
        archives: folder of the MNIST archives (gzipped IDX files).
        batch_size: examples in a batch.
        steps: steps in an epoch, over the first `steps * batch_size` examples.
        epochs: epochs that will be asked for, at most.
        seed: seed of the weights, the order and the noise.
    """

    variant: str
    archives: str
    batch_size: int = 100
    steps: int = 600
    epochs: int = 1
    seed: int = 0


def read_images(archives: str) -> np.ndarray:
    """Training images of MNIST, uint8 [60000, 784], straight from the gzipped IDX file."""
    with gzip.open(Path(archives) / "train-images-idx3-ubyte.gz") as file:
        header = np.frombuffer(file.read(16), dtype=">i4")
        images = np.frombuffer(file.read(), dtype=np.uint8)
    magic, count, height, width = (int(number) for number in header)
    if magic != 0x803 or images.size != count * height * width:
        raise ValueError(f"expected an IDX file of images, got header {header} in {archives}")
    return images.reshape(count, height * width)


# The worker's end.


class Turns:
    """The worker's end of the pipe: waits for a turn, times it and answers."""

    def __init__(self, requests: TextIO, answers: TextIO) -> None:
        self._requests = requests
        self._answers = answers
        self._started = 0.0
        self._cpu_at_answer = time.process_time()

    def begin(self) -> None:
        """Waits for the next turn and starts its clock; raises `Stop` when there is none."""
        line = self._requests.readline().strip()
        if line != "epoch":
            raise Stop
        # All threads of the process count: a framework that trains ahead, or spins while it
        # should wait, would spoil its own time and everybody else's, and shows here.
        self._idle_cpu = time.process_time() - self._cpu_at_answer
        self._started = time.perf_counter()

    def end(self, **results: float) -> None:
        """Stops the clock and answers with the seconds and `results` (plain numbers)."""
        seconds = time.perf_counter() - self._started
        self._say(seconds=seconds, idle_cpu_seconds=self._idle_cpu, **results)
        self._cpu_at_answer = time.process_time()

    def close(self) -> None:
        """Answers for the last time, with the peak memory of this process."""
        # Linux counts ru_maxrss in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        self._say(peak_rss_mb=peak / 1e6, python=platform.python_version())

    def _say(self, **answer: float | str) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def main() -> None:
    """Runs the worker named on the command line: the module and its job as JSON."""
    module, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    # Answers get a descriptor of their own, so that nothing a library prints can mix with them.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    turns = Turns(sys.stdin, answers)
    trainer = importlib.import_module(module)
    with contextlib.suppress(Stop):
        trainer.train(turns, job)
    turns.close()


# The main program's end.


class Worker:
    """The main program's end: a process that trains one epoch whenever it is asked to."""

    def __init__(
        self,
        python: str,
        module: str,
        job: Job,
        environment: Mapping[str, str] | None = None,
        timeout: float = 600.0,
    ) -> None:
        """Starts `module` under the interpreter `python`.

        Args:
            python: interpreter to run.
            module: module with a `train` function, importable from this file's folder.
            job: what to train.
            environment: variables to set on top of the main program's own.
            timeout: seconds to wait for an answer before the worker counts as dead.
        """
        self._timeout = timeout
        # A file and not a pipe: nobody reads it unless the worker dies, and a full pipe would
        # block the worker.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        command = [python, "-c", "import workers; workers.main()", module]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(dataclasses.asdict(job))],
                cwd=HERE,  # `-c` puts it at the head of the import path
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                start_new_session=True,  # so that `_end` reaches its compilers too
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(f"cannot start {python}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()
        self._errors.close()

    def epoch(self) -> dict[str, Any]:
        """Lets the worker train one epoch and returns its answer."""
        return self._ask("epoch")

    def stop(self) -> dict[str, Any]:
        """Ends the worker and returns its last answer, with the peak memory."""
        answer = self._ask("stop")
        self._end()
        return answer

    def _ask(self, request: str) -> dict[str, Any]:
        requests = cast(TextIO, self._process.stdin)
        answers = cast(TextIO, self._process.stdout)
        try:
            requests.write(request + "\n")
            requests.flush()
        except BrokenPipeError:
            raise self._failure("died") from None
        # An answer is one line and answers alternate with requests, so the text buffer is empty
        # here and waiting on the descriptor itself is safe.
        if not select.select([answers], [], [], self._timeout)[0]:
            raise self._failure(f"gave no answer in {self._timeout:.0f} s")
        line = answers.readline()
        if not line:
            raise self._failure("died")
        return json.loads(line)

    def _failure(self, what: str) -> WorkerError:
        """The error to raise, with the last line that the worker wrote about it."""
        self._end()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return WorkerError(f"{what}: {lines[-1].strip()}" if lines else what)

    def _end(self) -> None:
        """Ends the process and whatever it started; harmless when called again."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                cast(TextIO, pipe).close()


def take_turns(
    starts: Mapping[str, Callable[[], Worker]], rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """Lets workers take turns: each one's answers, of a turn a round, after one to warm up.

    Raises:
        WorkerError: with the worker's name.
    """
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, start in starts.items():
            try:
                workers[name] = stack.enter_context(start())
                workers[name].epoch()
            except WorkerError as error:
                raise WorkerError(f"{name}: {error}") from error
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                answers[name].append(worker.epoch())
        return answers


def milliseconds(answers: list[dict[str, Any]], steps: int) -> list[float]:
    """Of a step, in each of a worker's turns of so many steps."""
    return [1e3 * answer["seconds"] / steps for answer in answers]


def this_checkout() -> dict[str, str]:
    """The variable with which a worker finds this checkout's genmod, installed or not."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def open_console() -> Any:
    """Where the tables go, after a warning if the machine has other work."""
    from rich.console import Console

    # A pipe has no width of its own, and Rich's 80 columns would break the table's cells.
    found = Console(width=None if sys.stdout.isatty() else 100)
    load = os.getloadavg()[0]
    if load > 0.5:
        # Threads that wait for each other in a spin suffer most, so ratios change as well.
        found.print(f"[yellow]the machine is not quiet (load average {load:.1f})")
    return found


def run(main: Callable[[Any, Any], None], config: type, description: str | None) -> int:
    """Runs a benchmark as a command, and returns its exit status.

    Args:
        main: `(config, console) -> None`, which prints the table.
        config: dataclass of its flags.
        description: what `--help` says.
    """
    import tyro

    chosen, console = tyro.cli(config, description=description), open_console()
    try:
        main(chosen, console)
    except WorkerError as error:
        console.print(f"[red]{error}", highlight=False)
        return 1
    return 0


def has_module(python: str, name: str) -> bool:
    """Whether the interpreter `python` can be started and would find the module `name`."""
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    try:
        return subprocess.run([python, "-c", probe, name], check=False).returncode == 0
    except OSError:
        return False


def package_versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of the named distributions under the interpreter `python`, where installed."""
    probe = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.name.lower().replace('-', '_'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found[n] for n in sys.argv[1:] if n in found}))"
    )
    try:
        process = subprocess.run(
            [python, "-c", probe, *names], check=True, capture_output=True, text=True
        )
        return json.loads(process.stdout)
    except (OSError, subprocess.CalledProcessError, json.JSONDecodeError):
        return {}
