"""`genmod completion`: what makes a shell complete commands."""

import contextlib
import io
from collections.abc import Callable
from typing import Annotated, Any, Literal

import tyro

from genmod.cli import main, training
from genmod.runs import catalogue


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "tcsh"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")
    ],
) -> int:
    """Prints what makes a shell complete commands, the names of experiments, their flags.

    For bash: `genmod completion bash > ~/.local/share/bash-completion/completions/genmod`.

    Args:
      shell: bash, zsh or tcsh.
    """
    found: dict[str, Any] = {}
    for name in catalogue.names():
        with contextlib.suppress(Exception, SystemExit):  # any Python file, which may not load
            found[name] = training.options_of(catalogue.load(catalogue.find(name)))
    if not found:
        return _print_completion(shell, main.train_help)
    if len(found) == 1:  # tyro wants a choice; the file itself is one
        found |= {str(catalogue.find(name)): options for name, options in found.items()}
    choices = main.choice(
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=options)]
        for name, options in found.items()
    )

    def train_one(experiment: choices) -> int:  # pyrefly: ignore
        return 0

    return _print_completion(shell, train_one)


def _print_completion(shell: str, train: Callable[..., int]) -> int:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main.parse_command({"train": train}, ["--tyro-print-completion", shell])
    # Where nothing fits, as for run folders, bash shall complete the names of files.
    print(printed.getvalue().replace("complete -F", "complete -o default -F"), end="")
    return 0
