"""Features for golden values: each case is a formula, so that only the values need to be kept.

The formulas add, multiply and compare numbers of `np.random.default_rng`, which have the same bits
everywhere; a matrix product would not.
"""

import numpy as np

SIZES = {64: (2, 64, 2048), 800: (2, 64, 2048), 10_000: (2, 64, 2048)}


def skewed(seed, num, width, *, scale=1.0, shift=0.0):
    """Correlated features, cut at 0 as those of a network are, float32 [num, width]."""
    z = np.random.default_rng(seed).standard_normal((num, width))
    mixed = z + 0.5 * np.roll(z, 1, axis=1) + 0.5 * z[:, :1]
    scaled = mixed * np.linspace(0.25, 2.0, width) * scale + 0.25 + shift
    return np.maximum(scaled, 0).astype(np.float32)


def plain(num, width):
    return skewed(1, num, width), skewed(2, num, width, scale=1.1, shift=0.1)


def lattice(seed, num, width):
    """Small whole numbers: many distances are the same, and all are exact."""
    return np.random.default_rng(seed).integers(0, 4, (num, width)).astype(np.float32)


def duplicated():
    """Each row stands there eight times, and some rows in both sets."""
    real, fake = lattice(3, 40, 6), lattice(4, 40, 6)
    fake[:10] = real[:10]
    return np.tile(real, (8, 1)), np.tile(fake, (8, 1))


def copied():
    """A third of the fakes are copies of real rows."""
    real, fake = plain(300, 16)
    fake[::3] = real[::3]
    return real, fake


def low_rank():
    """64 columns, of which each is one of five, or twice one of them."""
    columns = np.arange(64)
    real, fake = skewed(1, 500, 5), skewed(2, 500, 5, scale=1.5, shift=0.5)
    return tuple(x[:, columns % 5] * (1 + columns % 2).astype(np.float32) for x in (real, fake))


def constant_columns():
    real, fake = plain(300, 32)
    real[:, ::2] = fake[:, ::2] = 1.5
    fake[:, 0] = 2.0
    return real, fake


def far():
    """Means that are large beside the standard deviations."""
    real, fake = plain(400, 8)
    return real + np.float32(100), fake + np.float32(100)


def unequal():
    return skewed(1, 300, 24), skewed(2, 800, 24, scale=1.1, shift=0.1)


def same():
    real, _ = plain(300, 8)
    return real, real.copy()


def constant():
    """A generator that always makes the same image."""
    real, fake = plain(300, 8)
    fake[:] = fake[0]
    return real, fake


def ties():
    return lattice(5, 250, 4), lattice(6, 250, 4)


SPECIAL = (
    duplicated, copied, low_rank, constant_columns, far, unequal, same, constant, ties
)  # fmt: skip
CASES = {
    f"{num} x {width}": lambda num=num, width=width: plain(num, width)
    for num, widths in SIZES.items()
    for width in widths
} | {case.__name__: case for case in SPECIAL}
SLOW = {"10000 x 2048", "10000 x 64", "10000 x 2"}


def logits(num=1000, classes=10):
    """Logits of a classifier, float32 [num, classes]."""
    return 3 * np.random.default_rng(7).standard_normal((num, classes)).astype(np.float32)
