"""The parser of the command: which subcommands there are."""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from genmod.cli import training
from genmod.runs import catalogue

Command = Callable[..., int]
"""Subcommand: its arguments are its flags, its result is the exit code."""


def parse(known: Mapping[str, Command], arguments: Sequence[str]) -> int:
    """Parses the arguments and runs their subcommand.

    Args:
      known: subcommands by their names.
      arguments: arguments of the command line.
    """
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


def _description(name: str, function: Command, arguments: Sequence[str]) -> str | None:
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
        genmod; or a folder of your own pictures, for which a model and its size are chosen. A word
        that names both is the experiment: ./word is the folder.
    """
    return training.train(experiment, [])
