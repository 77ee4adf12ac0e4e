"""NumPy's old random generator, for numbers that others have drawn with it."""

import numpy as np


def legacy_generator(seed: int = 2020) -> np.random.RandomState:
    """Returns the generator with which torch-fidelity draws.

    Its published numbers depend on these draws, and no other generator repeats them. All else in
    genmod is drawn with keys (`genmod.rng`).
    """
    return np.random.RandomState(seed)
