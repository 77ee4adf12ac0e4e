"""Stacked-MNIST: images with one MNIST digit in each channel.

The three digits of a stack define 1,000 modes, which can be counted (Metz et al. 2017, "Unrolled
generative adversarial networks", section 3.3.1). The protocol of PacGAN (Lin et al. 2018, section
4.2) uses all 70,000 digits and draws 128,000 stacks once. A stack is represented by three indices,
so only the digits (55 MB) and the indices are kept, not the stacks.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.data.batches import batch_at
from genmod.data.cache import fingerprint
from genmod.data.compiled import Compiled
from genmod.data.dataset import Dataset
from genmod.data.protocols import Prepare, Preprocessing, as_function, prepared, unit_interval
from genmod.data.sources import load
from genmod.data.stores import StreamedImages
from genmod.types import Array, Batch, BatchAt, Key, Keys


def all_digits(*, data_dir: str | Path | None = None) -> Dataset:
    """Loads all 70,000 digits of MNIST.

    The 60,000 for training come first, then the 10,000 for testing.

    Args:
      data_dir: a folder with the four original archives; if None, those in the package are read.

    Raises:
      DataError: if a file is missing or damaged.
    """
    splits = [load("mnist", split, data_dir=data_dir) for split in ("train", "test")]
    images = np.concatenate([split.images for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    return Dataset(images, labels, fingerprint(images, labels))


def triples(key: Key, num: int, num_digits: int) -> Array:
    """Draws three digits per stack, independently and with replacement.

    Triple i depends on key i alone and is the same for any num.

    Args:
      key: a single key.
      num: number of stacks M; 128,000 in PacGAN.
      num_digits: number of digits N to draw from.

    Returns:
      Indices in [0, N), int32 [M, 3].

    Raises:
      ValueError: if a number is not positive, or num_digits is not below 2**31.
    """
    num = checks.positive_integer("num", num)
    if checks.positive_integer("num_digits", num_digits) >= 2**31:
        raise ValueError(f"num_digits must be below 2**31, got {num_digits}")

    def draw(key: Key) -> Array:
        return jax.random.randint(key, (3,), 0, num_digits, jnp.int32)

    return jax.vmap(draw)(rng.per_example(key, num))


def stack(images: Any, labels: Any, triples: Any) -> tuple[np.ndarray, np.ndarray]:
    """Makes stacks and computes their modes.

    Args:
      images: uint8 [N, H, W, 1].
      labels: the digit of each image, integers 0 to 9, [N].
      triples: indices in [0, N), [M, 3], of the images that become channels 0, 1 and 2.

    Returns:
      Stacks, uint8 [M, H, W, 3], and their modes, int32 [M] (`stacked_modes`).

    Raises:
      ValueError: if a shape or type is wrong, or a triple or label is out of range.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    _check_images(images)
    triples = _checked_triples(triples, len(images))
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be one per image, [{len(images)}], got {list(labels.shape)}")
    return _stacks(images, triples), stacked_modes(labels[triples])


def stacked_dataset(digits: Dataset, triples: Any) -> Dataset:
    """Returns a data set of stacks, which are made when they are indexed.

    Args:
      digits: images uint8 [N, H, W, 1] with their labels, integers 0 to 9.
      triples: indices in [0, N), [M, 3], of the images that become channels 0, 1 and 2.

    Returns:
      A data set with `StreamedImages`, uint8 [M, H, W, 3]. The labels of a stack are its three
      digits, int32 [M, 3].

    Raises:
      ValueError: if a shape or type is wrong, or a triple is out of range.
    """
    images = np.asarray(digits.images)
    _check_images(images)
    triples = _checked_triples(triples, len(images))
    stacks = StreamedImages(_StackStore(images, triples), np.arange(len(triples)))
    labels = np.asarray(digits.labels)[triples]
    return Dataset(stacks, labels, fingerprint(stacks, labels))


@dataclasses.dataclass(frozen=True)
class _StackStore:
    """Stacks of images, as a `Store`."""

    images: np.ndarray
    triples: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.images.shape[1:3], 3)

    def read(self, wanted: Iterable[np.ndarray], *, here: bool = False) -> Iterator[np.ndarray]:
        del here
        for indices in wanted:
            yield _stacks(self.images, self.triples[indices])


def stacked_modes(digits: Any) -> np.ndarray:
    """Returns each stack's mode, given the digits in its channels.

    Args:
      digits: integers 0 to 9, [M, 3]; labels, or the predictions of a classifier per channel.

    Returns:
      Modes from 0 to 999, int32 [M]: 100 a + 10 b + c for the digits a, b and c.

    Raises:
      ValueError: if digits have another shape or type, or are out of range.
    """
    digits = np.asarray(digits)
    if digits.ndim != 2 or digits.shape[1] != 3 or not np.issubdtype(digits.dtype, np.integer):
        raise ValueError(
            f"digits must be integers of the shape [M, 3], got {digits.dtype} {list(digits.shape)}"
        )
    if digits.size and not 0 <= digits.min() <= digits.max() <= 9:
        raise ValueError(f"digits must be 0 to 9, got {digits.min()} to {digits.max()}")
    return (digits.astype(np.int32) * np.array([[100, 10, 1]], np.int32)).sum(1, dtype=np.int32)


def stacked_frequencies(labels: Any) -> np.ndarray:
    """Returns the frequency of each of the 1,000 modes.

    The modes are not equally frequent, because MNIST has more ones than fives.

    Args:
      labels: the digit of each image, integers 0 to 9, [N].

    Returns:
      Frequencies, float64 [1000], in the order of `stacked_modes`; their sum is 1.

    Raises:
      ValueError: if labels have another shape or type, or are out of range.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of the shape [N], got {labels.dtype} {list(labels.shape)}"
        )
    if not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"labels must be 0 to 9, got {labels.min()} to {labels.max()}")
    shares = np.bincount(labels, minlength=10) / len(labels)
    return np.einsum("a,b,c->abc", shares, shares, shares).ravel()


def stacked_batches(
    images: Any,
    *,
    batch_size: int,
    triples: Any = None,
    prepare: Prepare = unit_interval,
) -> BatchAt:
    """Returns a function of batches of stacks.

        (key, step) -> batch

    The stacks are made when they are needed. As in `batches`, the digits are an argument of a
    compiled program, not a constant in it.

    Args:
      images: the digits, uint8 [N, H, W, 1].
      batch_size: number of stacks B in the batch.
      triples: a fixed set of stacks, [M, 3], as from `triples`, which is used in an endless
        sequence of shuffled epochs as in `batch_at`; if None, every step draws new triples.
      prepare: `(keys [B], stacks uint8 [B, H, W, 3]) -> batch`, with fresh keys at every step.

    Raises:
      ValueError: if a shape or type is wrong, if a triple is out of range, or if batch_size is not
        positive or larger than the set.
    """
    images = jnp.asarray(images)
    _check_images(images)
    prepare = as_function(prepare)
    if triples is None:
        checks.positive_integer("batch_size", batch_size)
        fresh = Compiled(functools.partial(_fresh, batch_size, prepare))
        at = jax.tree_util.Partial(fresh, images)
    else:
        chosen = jnp.asarray(_checked_triples(triples, len(images)))
        fixed = Compiled(functools.partial(_fixed, batch_size, prepare))
        at = jax.tree_util.Partial(fixed, images, chosen)
    jax.eval_shape(at, rng.root(0), 0)
    return at


def _fixed(
    batch_size: int,
    prepare: Preprocessing,
    images: Array,
    fixed: Array,
    key: Key,
    step: int | Array,
) -> Batch:
    def prepare_stacks(keys: Keys, chosen: Array) -> Batch:
        return prepare(keys, _stacks(images, chosen))

    return batch_at(key, step, fixed, batch_size=batch_size, prepare=prepare_stacks)


def _fresh(
    batch_size: int, prepare: Preprocessing, images: Array, key: Key, step: int | Array
) -> Batch:
    drawn = triples(rng.at_step(rng.stream(key, "triples"), step), batch_size, len(images))
    return prepared(prepare, key, step, _stacks(images, drawn))


def _stacks(images: Any, triples: Any) -> Any:
    """Makes stacks of images; arrays of NumPy or JAX.

    images [N, H, W, 1], indices [M, 3] -> stacks [M, H, W, 3]
    """
    # XLA's CPU backend copies a row in one piece, but an image of one channel pixel by pixel.
    channels = images.reshape(len(images), -1)[triples]
    return channels.swapaxes(1, 2).reshape(len(triples), *images.shape[1:3], 3)


def _check_images(images: Any) -> None:
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 1 or not len(images):
        raise ValueError(
            f"images must be uint8 [N, H, W, 1], got {images.dtype} {list(images.shape)}"
        )


def _checked_triples(triples: Any, num: int) -> np.ndarray:
    triples = np.asarray(triples)
    if triples.ndim != 2 or triples.shape[1] != 3 or not np.issubdtype(triples.dtype, np.integer):
        raise ValueError(
            "triples must be integers of the shape [M, 3], got "
            f"{triples.dtype} {list(triples.shape)}"
        )
    # JAX would silently clamp an index that is too large to the last image.
    if triples.size and not 0 <= triples.min() <= triples.max() < num:
        raise ValueError(
            f"triples must be indices of {num} images, got {triples.min()} to {triples.max()}"
        )
    return triples.astype(np.int32)
