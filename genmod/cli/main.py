"""The command `genmod`.

Exit codes: 0 done, 1 a bug or a disk that cannot be written, 2 wrong usage or configuration (also a
run folder in use), 3 bad data, 4 training diverged, 5 damaged checkpoint, 6 another process of the
run is gone, 130 Ctrl-C, 143 SIGTERM. Any other signal N that stops a run gives 128 + N.

`genmod verify` and `genmod export`: 0 if every bit agrees, 1 if something differs.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from genmod._host import startup, terminal
from genmod._host.stop import Stop
from genmod.cli import commands, completion, parser, training

_FAILED, _USAGE, _BAD_DATA, _BAD_CHECKPOINT = 1, 2, 3, 5
_CODES = {"DiskError": _FAILED, "DataError": _BAD_DATA, "CheckpointError": _BAD_CHECKPOINT}


def main(arguments: Sequence[str] | None = None, stop: Stop | None = None) -> None:
    """Runs the command and exits with its code.

    `stop` is a listener to signals that is active already; without it the command starts its own.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    is_result = arguments[:1] != ["train"]
    with terminal.guarded(is_result=is_result), stop or Stop(arguments) as stop:
        try:
            try:
                code = _dispatch(arguments, stop)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except Exception as error:
            code = _explain(error, "--debug" in arguments)
    if "genmod._host.cluster" in sys.modules and sys.modules["genmod._host.cluster"].broken():
        sys.stderr.flush()
        os._exit(code)  # a normal exit would wait for the other processes
    sys.exit(code)


def _dispatch(arguments: list[str], stop: Stop) -> int:
    # `train` is parsed in two steps, as the experiment's file defines its flags.
    if arguments[:1] == ["train"] and arguments[1:] and not arguments[1].startswith("-"):
        return training.train(arguments[1], arguments[2:], stop)
    known = {"train": parser.train_help, **commands.COMMANDS, "completion": completion.completion}
    return parser.parse(known, arguments)


def _explain(error: Exception, debug: bool) -> int:
    """Prints an error and returns its exit code."""
    problem = startup.missing_platform(error) if "jax" in sys.modules else None
    if problem and not debug:
        print(f"genmod: error: {problem}", file=sys.stderr)
        return _USAGE
    # The names of errors are compared, as importing their modules would take a second.
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("genmod.")]
    known = [_CODES[name] for name in names if name in _CODES]
    code = known[0] if known else _USAGE
    # An error that genmod itself raises needs no traceback. An error from elsewhere, such as the
    # code of an experiment, is a bug, and a traceback helps to find it.
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1]) if frames else True
    expected = (isinstance(error, ValueError) or bool(known)) and ours
    if debug or not (expected or isinstance(error, OSError)):
        traceback.print_exception(error)
        return code if expected or isinstance(error, OSError) else _FAILED
    print(f"genmod: error: {error}", file=sys.stderr)
    return code
