"""`genmod completion`: shell completion."""

import contextlib
import io
from typing import Annotated, Any, Literal

import tyro

from genmod.cli import commands, parser, training
from genmod.runs import catalogue


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "tcsh"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")
    ],
) -> int:
    """Prints a completion script for a shell.

    It completes commands, the names of experiments, and their flags. For bash: `genmod completion
    bash > ~/.local/share/bash-completion/completions/genmod`.

    Args:
      shell: the shell: bash, zsh or tcsh.
    """
    found: dict[str, Any] = {}
    for name in catalogue.names():
        with contextlib.suppress(Exception, SystemExit):  # a file may fail to load
            found[name] = training.options_of(catalogue.load(catalogue.find(name)))
    if not found:
        return _print_completion(shell, parser.train_help)
    if len(found) == 1:  # tyro needs two choices: the path is the other
        found |= {str(catalogue.find(name)): options for name, options in found.items()}
    choices = parser.choice(
        Annotated[Any, tyro.conf.subcommand(name=name, constructor=options)]
        for name, options in found.items()
    )

    def train_one(experiment: choices) -> int:  # pyrefly: ignore
        return 0

    return _print_completion(shell, train_one)


def _print_completion(shell: str, train: parser.Command) -> int:
    known = {"train": train, **commands.COMMANDS, "completion": completion}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parser.parse(known, ["--tyro-print-completion", shell])
    # If no word fits, as for run folders, bash completes the names of files.
    script = printed.getvalue().replace("complete -F", "complete -o default -F")
    # The shell would take the second line of a description for a word to complete.
    lines = script.split("\n")
    lines = [x.replace("\\n", " ") if x.startswith("COMPLETION_SPEC = ") else x for x in lines]
    print("\n".join(lines), end="")
    return 0
