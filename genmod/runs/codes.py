"""Codes and reconstructions of images by a run."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genmod import rng
from genmod._host import examples
from genmod.data import Dataset
from genmod.experiment import Experiment
from genmod.runs.samples import labels_asked, listed

_CHUNK = 500
"""Number of images that are encoded at a time."""


def conditions_of(built: Experiment, name: str, dataset: Dataset) -> tuple[np.ndarray, ...]:
    """Returns the condition of a data set's images, as arguments after them.

    It is empty for a run without condition. Otherwise it is the labels; if both data sets have
    names of classes, they are those of the same names.

    Args:
      built: the experiment, as a single run.
      name: name of the data set, for messages.
      dataset: the data set.

    Raises:
      ValueError: if the images do not have the shape of the run's, or their condition is not known.
    """
    check_shape(built, name, dataset.images.shape[1:])
    if built.learner.conditions is None:
        return ()
    known = built.labels
    if known is None or not built.is_given_labels:
        raise ValueError(
            "the condition of this run is not the label of its data: that of other images is not "
            "known here; in Python, Experiment.latents takes one"
        )
    labels, own, theirs = dataset.labels, built.dataset.classes, dataset.classes
    if own and theirs and own != theirs:
        places = {one: label for label, one in enumerate(own)}
        used = {int(label): theirs[label] for label in np.unique(labels)}
        for one in used.values():
            if one not in places:
                raise ValueError(
                    f"{name}: its classes must be among those of the run, {listed(own)}, "
                    f"got {one!r}"
                )
        labels = np.array([places[used[label]] for label in labels.tolist()], np.int32)
    unknown = np.setdiff1d(labels, known)
    if len(unknown):
        raise ValueError(
            f"{name}: its labels must be among those of the run, {listed(known.tolist())}, "
            f"got {unknown[0]}"
        )
    return (labels.astype(known.dtype),)


def pictures(
    built: Experiment, paths: Sequence[str], image_size: int | None, background: str
) -> np.ndarray:
    """Reads picture files as images of a run, uint8 [N, H, W, C].

    A grey picture gets as many channels as the run's images have.

    Args:
      built: the experiment, as a single run.
      paths: the picture files.
      image_size: side of the square to which pictures are resized and cropped; None keeps them.
      background: colour behind transparent pixels, "white" or "black".

    Raises:
      ValueError: if a picture does not have the shape of the run's images.
      DataError: if one cannot be read.
    """
    own, found = built.dataset.images.shape[1:], []
    for path in paths:
        image, _ = examples.read_picture(path, image_size, background)
        if image.shape[-1] == 1:
            image = np.repeat(image, own[-1], axis=-1)
        check_shape(built, path, image.shape)
        found.append(image)
    return np.stack(found)


def labels_of_pictures(built: Experiment, words: Sequence[str], num: int) -> tuple[np.ndarray, ...]:
    """Returns the condition of picture files, as arguments after them, by the words for it.

    Raises:
      ValueError: if the run has no condition but there are words, or the words do not give one
        label for all files or for each.
    """
    if built.learner.conditions is None and not words:
        return ()
    if not words:
        raise ValueError(
            "label must be given, as this run is conditional"
            + (f"; one of {listed(built.class_names(built.labels))}" * (built.labels is not None))
        )
    labels = labels_asked(built, words)
    if len(labels) not in (1, num):
        raise ValueError(f"label must be given once, or for each of {num} files, got {len(labels)}")
    return (np.resize(labels, num),)


def check_shape(built: Experiment, name: str, shape: Sequence[int]) -> None:
    """Refuses images that do not have the shape of those of the run."""
    own = built.dataset.images.shape[1:]
    if tuple(shape) != tuple(own):
        hint = ""
        is_pictures = name.startswith("folder:") or Path(name).is_file()
        if is_pictures and shape[-1] == own[-1] and own[0] == own[1]:
            hint = f"; --image-size {own[0]} resizes and crops pictures"
        raise ValueError(
            f"{name}: its images must have the shape of the run's, {list(own)}, got "
            f"{list(shape)}{hint}"
        )


def encoder(built: Experiment) -> Callable[..., Any]:
    """Returns the encoder of a run, `(state, x, *c) -> codes`.

    Raises:
      ValueError: if it has none.
    """
    if built.latents is None or built.latents.encode is None:
        what = "no latents" if built.latents is None else "latents without an encoder"
        raise ValueError(f"a run with an encoder is needed; this experiment has {what}")
    return built.latents.encode


def codes(
    built: Experiment, state: Any, dataset: Dataset, condition: tuple[np.ndarray, ...] = ()
) -> Iterator[np.ndarray]:
    """Yields the codes of a data set's images, chunk by chunk.

    Args:
      built: the experiment, as a single run.
      state: state of its learner.
      dataset: the images.
      condition: their condition, as from `conditions_of`.

    Yields:
      Codes [n, L] with n at most `_CHUNK`.
    """
    yield from _encoded(functools.partial(encoder(built), state), dataset, condition)


def encoded(
    encode: Callable[..., Any], dataset: Dataset, condition: tuple[np.ndarray, ...] = ()
) -> Any:
    """Returns what an encoder returns for all images of a data set, as arrays [N, ...].

    Args:
      encode: `(x [B, H, W, C] in [0, 1], *c) -> tree of arrays [B, ...]`.
      dataset: the images.
      condition: their condition, as from `conditions_of`.
    """
    chunks = list(_encoded(encode, dataset, condition))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)


def _encoded(
    encode: Callable[..., Any], dataset: Dataset, condition: tuple[np.ndarray, ...]
) -> Iterator[Any]:
    encode = jax.jit(encode)
    for first in range(0, len(dataset.images), _CHUNK):
        rows = slice(first, first + _CHUNK)
        some = [_as_floats(dataset.images[rows]), *(leaf[rows] for leaf in condition)]
        size = len(some[0])
        # The last chunk is filled up, so that one program encodes all, in the same bits.
        whole = [np.concatenate([leaf, np.repeat(leaf[-1:], _CHUNK - size, 0)]) for leaf in some]
        yield jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], encode(*whole))


def reconstructions(
    built: Experiment, state: Any, images: np.ndarray, condition: tuple[np.ndarray, ...] = ()
) -> np.ndarray:
    """Returns what the model makes of images: their decoded codes, [N, H, W, C] in [0, 1].

    Args:
      built: the experiment, as a single run.
      state: state of its learner.
      images: uint8 [N, H, W, C].
      condition: their condition, as from `conditions_of`.
    """
    encode = encoder(built)
    assert built.latents is not None
    decode = built.latents.decoder(rng.stream(rng.root(0), "reconstruct"), state)

    @jax.jit
    def both(x: Any, *c: Any) -> Any:
        return decode(encode(state, x, *c), *c)

    return np.asarray(both(_as_floats(images), *condition))


def _as_floats(images: Any) -> np.ndarray:
    return np.asarray(images, np.float32) / 255
