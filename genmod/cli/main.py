"""The command `genmod`.

Exit codes: 0 done, 1 a bug or a disk that takes no more, 2 usage or configuration (also a run
folder in use), 3 bad data, 4 training diverged, 5 checkpoint damaged, 6 another process of the run
is gone, 130 Ctrl-C, 143 SIGTERM. `genmod verify`: 0 every bit agrees, 1 something differs.
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
    """Runs the command and exits with its code; `stop` listens to signals already."""
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
        os._exit(code)  # the orderly way waits for the other processes
    sys.exit(code)


def _dispatch(arguments: list[str], stop: Stop) -> int:
    # `train` is parsed in two steps: the experiment's file says which flags there are.
    if arguments[:1] == ["train"] and arguments[1:] and not arguments[1].startswith("-"):
        return training.train(arguments[1], arguments[2:], stop)
    return parse_command({"train": train_help}, arguments)


def parse_command(train: dict[str, Callable[..., int]], arguments: list[str]) -> int:
    """Parses arguments and runs the subcommand that they name.

    Args:
      train: the subcommand `train`, under its name.
      arguments: those of the command line.
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
        description="Generative modelling in JAX: `genmod COMMAND --help` says more of each.",
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


def choice(alternatives: Iterable[Any]) -> Any:
    """The type of what is one of several."""
    return functools.reduce(operator.or_, alternatives)


def _description(name: str, function: Callable[..., int], arguments: Sequence[str]) -> str | None:
    """A line for the list of commands; None where its own help has the whole docstring."""
    line = (function.__doc__ or "").partition("\n")[0]
    if arguments[:1] != [name]:
        return line
    if function is not train_help:
        return None
    return f"{line}\n\nThere is: {', '.join(catalogue.files()) or 'none'}."


def train_help(
    experiment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="EXPERIMENT")],
) -> int:
    """Trains an experiment: `genmod train EXPERIMENT --help` lists its flags.

    Args:
      experiment: a Python file, or the name of one in ./experiments or of those that come with
        genmod; or a folder of pictures of your own, for which a model and its size are chosen.
    """
    return training.train(experiment, [])


def _explain(error: Exception, debug: bool) -> int:
    """Prints an error for the person at the terminal and gives its exit code."""
    problem = startup.missing_platform(error) if "jax" in sys.modules else None
    if problem and not debug:
        print(f"genmod: error: {problem}", file=sys.stderr)
        return _USAGE
    # By name: whoever has not imported their modules, which takes a second, has not raised them.
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("genmod.")]
    known = [_CODES[name] for name in names if name in _CODES]
    code = known[0] if known else _USAGE
    # A refusal of ours speaks for itself. An error from elsewhere, such as an experiment's own
    # code, is a bug that somebody has to find.
    frames = traceback.extract_tb(error.__traceback__)
    ours = Path(frames[-1].filename).is_relative_to(Path(__file__).parents[1]) if frames else True
    expected = (isinstance(error, ValueError) or bool(known)) and ours
    if debug or not (expected or isinstance(error, OSError)):
        traceback.print_exception(error)
        return code if expected or isinstance(error, OSError) else _FAILED
    print(f"genmod: error: {error}", file=sys.stderr)
    return code
