"""The command `genmod`, also as `python -m genmod`."""

import sys

from genmod.stop import Stop


def main() -> None:
    """Runs the command and exits with its code; a signal is heard before anything is imported."""
    with Stop(sys.argv[1:]) as stop:
        from genmod import cli

        cli.main(stop=stop)


if __name__ == "__main__":
    main()
