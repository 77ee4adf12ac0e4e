"""Small images of four classes that show their class."""

import numpy as np

CLASSES = 4
LABELS = np.random.default_rng(0).permutation(np.tile(np.arange(CLASSES, dtype=np.int32), 60))


def rows_of_light(labels):
    """Images [N, 8, 8, 1] of which those of class c have light in rows 2 c and 2 c + 1 alone."""
    noise = np.arange(64).reshape(8, 8, 1) * 37 + 11 * np.arange(len(labels))[:, None, None, None]
    lit = np.arange(8) // 2 == labels[:, None]
    return np.where(lit[:, :, None, None], 180 + noise % 70, 0).astype(np.uint8)


def brightest(images):
    """The class that each image shows, [N]."""
    return np.asarray(images).reshape(len(images), CLASSES, -1).mean(2).argmax(1)
