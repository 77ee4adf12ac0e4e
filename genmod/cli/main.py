"""The command `genmod`.

Exit codes: 0 done, 1 a bug or a disk that cannot be written, 2 wrong usage or configuration (also a
run folder in use), 3 bad data, 4 training diverged, 5 damaged checkpoint, 6 another process of the
run is gone, 130 Ctrl-C, 143 SIGTERM. Any other signal N that stops a run gives 128 + N.

`genmod verify` and `genmod export`: 0 if every bit agrees, 1 if something differs.
"""

import functools
import operator
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from genmod._host import startup, terminal
from genmod._host.stop import Stop
from genmod.cli import commands, training
from genmod.runs import catalogue

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
    return parse_command({"train": train_help}, arguments)


def parse_command(train: dict[str, Callable[..., int]], arguments: list[str]) -> int:
    """Parses the arguments and runs their subcommand.

    Args:
      train: the subcommand `train`, by its name.
      arguments: arguments of the command line.
    """
    from genmod.cli.completion import completion

    known = {**train, **commands.COMMANDS, "completion": completion}
    choices = choice(
        Annotated[
            Any,
            tyro.conf.subcommand(
                name=name,
                constructor=function,
                description=_description(name, function, arguments),
            ),
        ]
        for name, function in known.items()
    )
    return tyro.cli(
        choices,
        args=arguments,
        prog="genmod",
        description="Generative modelling in JAX. `genmod COMMAND --help` describes a command.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def choice(alternatives: Iterable[Any]) -> Any:
    """Returns the union of several types."""
    return functools.reduce(operator.or_, alternatives)


def _description(name: str, function: Callable[..., int], arguments: Sequence[str]) -> str | None:
    """Returns the description of a command in help texts.

    It is one line in the list of commands. In a command's own help, None stands for the whole
    docstring.
    """
    line = (function.__doc__ or "").partition("\n")[0]
    if arguments[:1] != [name]:
        return line
    if function is not train_help:
        return None
    return f"{line}\n\nExperiments: {', '.join(catalogue.files()) or 'none'}."


def train_help(
    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")],
) -> int:
    """Trains an experiment: `genmod train EXPERIMENT --help` lists its flags.

    Args:
      experiment: a Python file, or the name of one in ./experiments or of one that comes with
        genmod; or a folder of your own pictures, for which a model and its size are chosen.
    """
    return training.train(experiment, [])


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
