"""Weights and images on which the Inception network is compared with torch-fidelity's.

The numbers come from NumPy's `RandomState`, whose stream is frozen, so that no file of 100 MB has
to be kept. This file imports NumPy alone, for `tests/kept/make_inception.py`.
"""

import numpy as np


def weights(shapes):
    """Weights of these names and shapes, with which activations stay of order 1."""
    random, found = np.random.RandomState(0), {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith((".running_var", ".bn.weight")):
            found[name] = random.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            found[name] = random.uniform(-0.2, 0.2, shape)
        else:
            deviation = np.sqrt((2 if len(shape) == 4 else 1) / np.prod(shape[1:]))
            found[name] = deviation * np.sqrt(3) * random.uniform(-1, 1, shape)
    return {name: array.astype(np.float32) for name, array in found.items()}


def images():
    """Two images of bytes [2, 32, 40, 3], one of noise and one smooth."""
    noise = np.random.RandomState(1).randint(0, 256, (32, 40, 3))
    rows, columns = np.mgrid[:32, :40]
    smooth = np.stack([rows * 8, columns * 6, (rows * columns) % 256], axis=-1)
    return np.stack([noise, smooth]).astype(np.uint8)
