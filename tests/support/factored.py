"""Fixed codes and factors, for scores of disentanglement and for those who know them already.

`tests/kept/make_disentanglement.py` imports this under another interpreter: it needs NumPy alone.
"""

import numpy as np

GROUPS = {"train": 300, "test": 200}
GROUP_SIZE = 8


def grid(*sizes, times=1):
    """Every combination of the values of all factors, so many times."""
    return np.tile(np.indices(sizes).reshape(len(sizes), -1).T, (times, 1))


def rotated(codes, angle=np.pi / 4):
    """Codes whose first two are turned into each other."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = codes.astype(np.float64)
    turned[:, :2] = codes[:, :2] @ np.array([[cos, sin], [-sin, cos]])
    return turned


def _drawn(seed, num=400, sizes=(3, 2, 4)):
    draw = np.random.default_rng(seed)
    return draw, np.stack([draw.integers(0, size, num) for size in sizes], axis=1)


def mixed(seed=1):
    """Linear mixtures of three factors with noise, and a code of noise alone."""
    draw, factors = _drawn(seed)
    codes = factors @ draw.normal(size=(3, 5)) + 0.5 * draw.normal(size=(len(factors), 5))
    codes[:, 4] = draw.normal(size=len(factors))
    return codes, factors


def bent(seed=2):
    """A code for each factor, bent and noisy, and one that hardly varies."""
    draw, factors = _drawn(seed)
    clear = np.tanh(factors - factors.mean(0)) + 0.4 * draw.normal(size=factors.shape)
    still = 0.01 * draw.normal(size=(len(factors), 1))
    return np.concatenate([clear, still], axis=1), factors


def quantized(seed=3):
    """Mixtures that are rounded to few values."""
    codes, factors = mixed(seed)
    return np.round(codes), factors


CASES = {"mixed": mixed, "bent": bent, "quantized": quantized}


def halves(codes, factors):
    """The first half to train on, the other one to test on."""
    half = len(codes) // 2
    return (codes[:half], factors[:half]), (codes[half:], factors[half:])


def groups(codes, factors, num, seed):
    """Examples [B] that share the value of a factor, and this factor, `num` times."""
    draw = np.random.default_rng(seed)
    for _ in range(num):
        fixed = draw.integers(factors.shape[1])
        value = factors[draw.integers(len(factors)), fixed]
        yield draw.choice(np.flatnonzero(factors[:, fixed] == value), GROUP_SIZE), fixed


def spread(num_states, num=50):
    """Numbers of some states, from the first to the last."""
    return np.linspace(0, num_states - 1, num).astype(np.int64)
