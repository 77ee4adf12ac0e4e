"""Statistics of data sets, and throughput of batches."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import rng
from genmod.data.dataset import Dataset
from genmod.data.stores import StreamedImages, in_turn
from genmod.types import BatchAt, Stream


class Summary(NamedTuple):
    """Statistics of a data set of images.

    Attributes:
      num: number of images.
      shape: shape of one image, (H, W, C).
      counts: number of images of each label, by label.
      mean: mean grey value of each channel, in [0, 1]; [C].
      std: standard deviation of each channel's grey values over all pixels; [C].
      num_bytes: number of bytes that the images take in memory.
    """

    num: int
    shape: tuple[int, ...]
    counts: dict[int, int]
    mean: np.ndarray
    std: np.ndarray
    num_bytes: int


def summary(dataset: Dataset) -> Summary:
    """Computes the statistics of a data set of images."""
    images, labels = dataset.images, dataset.labels
    # A histogram of grey values per channel is exact and needs no copy of the data in floats.
    depth = images.shape[-1]
    counts = np.zeros((depth, 256), np.int64)
    for rows in in_turn(images):
        chunk = rows.reshape(-1, depth)
        for channel in range(depth):
            counts[channel] += np.bincount(chunk[:, channel], minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.einsum("cv,cv->c", shares, (values[None] - mean[:, None]) ** 2))
    found = {int(k): int(n) for k, n in zip(*np.unique(labels, return_counts=True), strict=True)}
    return Summary(len(images), images.shape[1:], found, mean, std, images.nbytes)


def mean_image(images: np.ndarray | StreamedImages) -> np.ndarray:
    """Computes the mean of images [N, H, W, C].

    The result is float64 [H, W, C], in the units of the images' values. Streamed images are read
    once, some at a time.
    """
    total = np.zeros(images.shape[1:])
    for rows in in_turn(images):
        total += rows.sum(axis=0, dtype=np.float64)
    return total / len(images)


def batches_per_second(batch_at: BatchAt, *, seconds: float = 0.5) -> float:
    """Measures how many batches are produced per second.

    For examples on the device this measures preprocessed batches in a compiled loop; for streamed
    ones, raw bytes as they are read.

    Args:
      batch_at: result of `batches` or `together`.
      seconds: duration of the measurement in seconds, after a warm-up.
    """
    if isinstance(batch_at, Stream):
        parts = batch_at.parts(rng.root(0)[None], 0, 2**30)
        jax.block_until_ready(next(parts)[0])
        num, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            part, steps = next(parts)
            jax.block_until_ready(part)
            num += steps
        took = time.perf_counter() - began
        parts.close()
        return num / took

    @jax.jit
    def take(batch_at: jax.tree_util.Partial, num: jax.Array) -> jax.Array:
        def one(step: jax.Array, total: jax.Array) -> jax.Array:
            leaves = jax.tree.leaves(batch_at(rng.root(0), step))
            return sum((leaf.sum(dtype=jnp.float32) for leaf in leaves), total)

        return jax.lax.fori_loop(0, num, one, jnp.zeros(()))

    jax.block_until_ready(take(batch_at, jnp.int32(1)))
    num, took = 1, 0.0
    while took < seconds:
        num *= 4
        began = time.perf_counter()
        jax.block_until_ready(take(batch_at, jnp.int32(num)))
        took = time.perf_counter() - began
    return num / took
