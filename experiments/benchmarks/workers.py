"""Worker processes that take turns, and their line protocol.

To be compared, frameworks take turns: each has its own long-lived process, and only the process
that is asked works, while the others wait on their standard input. The main program holds the
`Worker` end of the protocol, the process the `Turns` end:

    main program                    worker
    "epoch"                   ->    trains one epoch
                              <-    {"seconds": ..., "idle_cpu_seconds": ..., "loss": ...}
    "stop" (or a closed pipe) ->    ends its loop
                              <-    {"peak_rss_mb": ..., "python": ...}

A worker runs the function `train(turns, job)` of a module. In an endless loop, the function calls
`turns.begin()` before and `turns.end(...)` after every epoch; `begin` ends the loop by raising
`Stop`. This file imports only the standard library and NumPy, because peers run it without genmod.
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
    """Signal that the main program wants no further epoch.

    It ends a loop, as StopIteration does.
    """


class WorkerError(RuntimeError):
    """Failure of a worker.

    It died, did not answer in time, or could not be started.
    """


@dataclasses.dataclass(frozen=True)
class Job:
    """Task of a worker.

    Attributes:
        variant: variant of training, one of the module's.
        archives: folder of the MNIST archives (gzipped IDX files).
        batch_size: examples in a batch.
        steps: steps in an epoch, over the first `steps * batch_size` examples.
        epochs: maximum number of epochs that will be asked for.
        seed: seed of the weights, the order and the noise.
    """

    variant: str
    archives: str
    batch_size: int = 100
    steps: int = 600
    epochs: int = 1
    seed: int = 0


def read_images(archives: str) -> np.ndarray:
    """Reads MNIST's training images, uint8 [60000, 784].

    They are read directly from the gzipped IDX file.
    """
    with gzip.open(Path(archives) / "train-images-idx3-ubyte.gz") as file:
        header = np.frombuffer(file.read(16), dtype=">i4")
        images = np.frombuffer(file.read(), dtype=np.uint8)
    magic, count, height, width = (int(number) for number in header)
    if magic != 0x803 or images.size != count * height * width:
        raise ValueError(f"expected an IDX file of images, got header {header} in {archives}")
    return images.reshape(count, height * width)


# The worker's end.


class Turns:
    """Worker's end of the pipe.

    It waits for a turn, times it and answers.
    """

    def __init__(self, requests: TextIO, answers: TextIO) -> None:
        self._requests = requests
        self._answers = answers
        self._started = 0.0
        self._cpu_at_answer = time.process_time()

    def begin(self) -> None:
        """Waits for the next turn and starts its clock.

        Raises:
            Stop: if there is no further turn.
        """
        line = self._requests.readline().strip()
        if line != "epoch":
            raise Stop
        # The CPU time is that of all threads. It exposes a framework that trains ahead, or spins
        # while it should wait: its own time and those of the others would be wrong.
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
    """Runs the worker that the command line names.

    The arguments are the module and the job as JSON.
    """
    module, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    # Answers have their own file descriptor, so that output of libraries cannot mix with them.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    turns = Turns(sys.stdin, answers)
    trainer = importlib.import_module(module)
    with contextlib.suppress(Stop):
        trainer.train(turns, job)
    turns.close()


# The main program's end.


class Worker:
    """Main program's end of the pipe.

    The process trains one epoch whenever it is asked to.
    """

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
        # Errors go to a file and not to a pipe: the main program reads them only if the worker
        # dies, and a full pipe would block the worker.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit
        command = [python, "-c", "import workers; workers.main()", module]
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(dataclasses.asdict(job))],
                cwd=HERE,  # `python -c` imports from this folder first
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                start_new_session=True,  # `_end` thus kills the worker's compilers, too
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
        # An answer is one line, and answers alternate with requests. So the text buffer is empty
        # here, and `select` may wait on the descriptor itself.
        if not select.select([answers], [], [], self._timeout)[0]:
            raise self._failure(f"gave no answer in {self._timeout:.0f} s")
        line = answers.readline()
        if not line:
            raise self._failure("died")
        return json.loads(line)

    def _failure(self, what: str) -> WorkerError:
        """Returns the error to raise, with the worker's last line."""
        self._end()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return WorkerError(f"{what}: {lines[-1].strip()}" if lines else what)

    def _end(self) -> None:
        """Ends the process and all that it started.

        Further calls do nothing.
        """
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
    """Lets workers take turns and returns their answers.

    Each worker has one turn to warm up, then one turn per round.

    Raises:
        WorkerError: if a worker fails; the message begins with its name.
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
    """Returns the milliseconds per step in each of a worker's turns.

    A turn has `steps` steps.
    """
    return [1e3 * answer["seconds"] / steps for answer in answers]


def this_checkout() -> dict[str, str]:
    """Returns an environment variable for workers that use genmod.

    With it they import genmod from this checkout, even if it is not installed.
    """
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def open_console() -> Any:
    """Opens the console for the tables.

    It prints a warning if the machine has other work.
    """
    from rich.console import Console

    # A pipe has no width, and Rich's default of 80 columns would break the table's cells.
    found = Console(width=None if sys.stdout.isatty() else 100)
    load = os.getloadavg()[0]
    if load > 0.5:
        # Frameworks whose threads spin while they wait slow down most, so ratios change as well.
        found.print(f"[yellow]the machine is not quiet (load average {load:.1f})")
    return found


def run(main: Callable[[Any, Any], None], config: type, description: str | None) -> int:
    """Runs a benchmark as a command and returns its exit status.

    Args:
        main: function `(config, console) -> None` that prints the table.
        config: dataclass of the flags.
        description: text of `--help`.
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
    """Returns whether an interpreter has a module.

    It is False if the interpreter cannot be started.
    """
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    try:
        return subprocess.run([python, "-c", probe, name], check=False).returncode == 0
    except OSError:
        return False


def package_versions(python: str, names: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of packages that an interpreter has.

    Args:
        python: path of the interpreter.
        names: names of the packages; those that are not installed are left out.
    """
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
