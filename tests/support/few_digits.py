"""`genmod` on a part of MNIST, as a process: python tests/support/few_digits.py ARGUMENTS."""

from genmod import data
from genmod.data import mnist

NUM = {"train": 1000, "test": 200}
_load_mnist = mnist.load


def load(split, data_dir):
    """What loads MNIST, with the first images alone."""
    whole = _load_mnist(split, data_dir)
    return data.from_arrays(whole.images[: NUM[split]], whole.labels[: NUM[split]])


if __name__ == "__main__":
    from genmod.__main__ import main

    mnist.load = load
    main()
