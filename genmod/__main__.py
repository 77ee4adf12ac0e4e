"""Command `genmod`, also run by `python -m genmod`."""

import sys

from genmod._host import terminal
from genmod._host.stop import Stop


def main() -> None:
    """Runs the command and exits with its code.

    Signals are handled before the rest of genmod is imported.
    """
    arguments = sys.argv[1:]
    with terminal.guarded(is_result=arguments[:1] != ["train"]), Stop(arguments) as stop:
        from genmod.cli import main as cli

        cli.main(stop=stop)


if __name__ == "__main__":
    main()
