"""`genmod` on a part of MNIST, as a process: python tests/support/few_digits.py < COMMANDS.

Each line of the standard input is a command; it stops at the first that fails.
"""

import shlex
import sys

from genmod import data
from genmod.data import mnist

NUM = {"train": 1000, "test": 200}
_load_mnist = mnist.load


def load(split, data_dir):
    """What loads MNIST, with the first images alone."""
    whole = _load_mnist(split, data_dir)
    return data.from_arrays(whole.images[: NUM[split]], whole.labels[: NUM[split]])


def run_each(lines):
    """Runs commands one after the other in this process."""
    for line in lines:
        try:
            main(shlex.split(line))
        except SystemExit as ended:
            if ended.code:
                sys.exit(f"exit code {ended.code} of genmod {line}")


if __name__ == "__main__":
    from genmod.cli.main import main

    mnist.load = load
    run_each(sys.stdin)
