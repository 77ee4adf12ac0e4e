"""Samples of a run, in files.

Samples are drawn in chunks of 500. Chunk k is drawn with the key `rng.at_step(key, k)`. The last
chunk is drawn whole, too, and then cut. So image i is the same however many images are drawn.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genmod import rng
from genmod._host import disk
from genmod.experiment import Experiment
from genmod.runs import arrays
from genmod.types import Key

CHUNK = 500
"""Number of images that are drawn at a time; another number would draw other images."""
_LISTED = 30
"""Largest number of names that a message lists."""
_SLACK = 1e-3
"""Distance from [0, 1] from which a value counts as outside."""


def labels_asked(built: Experiment, words: Sequence[str]) -> np.ndarray:
    """Returns the labels that words ask for.

    Args:
      built: the experiment, as a single run.
      words: names of classes or labels, or several of them with commas between. If a class is
        called by a number, only names are understood.

    Raises:
      ValueError: if the run has no condition or another than labels, or none of its classes is
        called so.
    """
    labels = built.labels
    if labels is None:
        why = "this run has no condition"
        if built.learner.conditions is not None:
            why = "the condition of this run is no label, one whole number for each image"
        raise ValueError(f"label must not be given, as {why}, got {', '.join(words)!r}")
    names = dict(zip(built.class_names(labels), labels.tolist(), strict=True))
    numbers = {str(label): label for label in labels.tolist()}
    known = names if any(name.isdecimal() for name in names) else numbers | names
    parts = [part for word in words for part in ([word] if word in known else word.split(","))]
    for part in parts:
        if part.strip() not in known:
            shown = [name if name == str(n) else f"{name} ({n})" for name, n in names.items()]
            raise ValueError(f"label must be one of {listed(shown)}, got {part.strip()!r}")
    return np.array([known[part.strip()] for part in parts], labels.dtype)


def listed(names: Sequence[Any]) -> str:
    """Lists names for a message, the first 30 of them."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(map(str, names[:_LISTED])) + more


class Pixels:
    """Converter of samples to bytes, which notes what it has to change.

    Attributes:
      outside: number of values that were outside [0, 1].
      total: number of values.
    """

    def __init__(self):
        self.outside = self.total = 0

    def __call__(self, images: Any) -> np.ndarray:
        """Returns images as uint8 [N, H, W, C].

        Floating values in [0, 1] are rounded to whole numbers in [0, 255]; others are clipped.

        Raises:
          ValueError: if these are no images, or not all values are finite.
        """
        images = np.asarray(images)
        if images.ndim != 4:
            shape = ", ".join(["N", *map(str, images.shape[1:])])
            raise ValueError(f"samples must be images [N, H, W, C], got [{shape}] of this run")
        if images.dtype == np.uint8:
            return images
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise ValueError(
                f"samples must be finite, got {np.sum(~np.isfinite(images)):,} of {images.size:,} "
                "values that are not"
            )
        self.total += images.size
        self.outside += int(np.sum((images < -_SLACK) | (images > 1 + _SLACK)))
        return np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)

    @property
    def remark(self) -> str:
        """Remark on clipped values; empty if there are none."""
        if not self.outside:
            return ""
        return (
            f"{self.outside / self.total:.1%} of the values were outside [0, 1] and are clipped: a "
            "learner's samples should be in this range (image_range of gan.make, as_images of "
            "train.adversarial)"
        )


def samples(
    built: Experiment, state: Any, key: Key, num: int, labels: np.ndarray | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yields samples and their condition, chunk by chunk.

    Args:
      built: the experiment, as a single run.
      state: state of its learner.
      key: key of the draws.
      num: number of images.
      labels: labels, of which image i has number i modulo their number. If None, a conditional run
        draws conditions as frequent as in its data.

    Yields:
      Images [n, H, W, C] with n at most `CHUNK`, and their condition [n, ...]; None for a run
      without condition.
    """
    conditions = built.learner.conditions
    for chunk, first in enumerate(range(0, num, CHUNK)):
        own, condition = rng.at_step(key, chunk), None
        if labels is not None:
            condition = labels[np.arange(first, first + CHUNK) % len(labels)]
        elif conditions is not None:
            condition = conditions.draw(own, CHUNK)
        images = built.sample(own, state, CHUNK, condition)
        rows = slice(min(CHUNK, num - first))
        yield images[rows], jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf[rows]), condition)


def save_arrays(
    path: Path, built: Experiment, drawn: Iterable[tuple[Any, Any]], num: int
) -> Pixels:
    """Writes samples to an NPZ file.

    It holds `images`, uint8 [num, H, W, C], and for a conditional run `labels` [num], or the arrays
    of another condition as `condition`.

    Args:
      path: the file, which is replaced once it is complete.
      built: the experiment.
      drawn: samples and their condition, as from `samples`.
      num: number of images.

    Raises:
      ValueError: if the samples are no images.
      DiskError: if the file cannot be written.
    """
    pixels, conditions = Pixels(), []

    def images() -> Iterator[np.ndarray]:
        for some, condition in drawn:
            conditions.append(condition)
            yield pixels(some)

    def others() -> dict[str, np.ndarray]:
        name = "condition" if built.labels is None else "labels"
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *conditions)
        return {
            name + jax.tree_util.keystr(path, simple=True, separator="."): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path({"": whole})
        }

    arrays.write_npz(path, "images", num, images(), others)
    return pixels


def check_folder(folder: Path) -> None:
    """Refuses a folder for pictures that exists and is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "is not empty" if folder.is_dir() else "is a file"
        raise ValueError(f"out {str(folder)!r} {what}; expected a new or empty folder")


def save_pictures(
    folder: Path, built: Experiment, drawn: Iterable[tuple[Any, Any]], num: int
) -> Pixels:
    """Writes samples to a folder, as PNG files.

    They are numbered from 0. Those of a run whose conditions are labels lie in folders that have
    the names of the classes; or their labels, if a name cannot be that of a folder.

    Args:
      folder: the folder, new or empty. It appears once all pictures are written.
      built: the experiment.
      drawn: samples and their condition, as from `samples`.
      num: number of images.

    Raises:
      ValueError: if the folder holds anything, or the samples are no pictures.
      DiskError: if a picture cannot be written.
    """
    from PIL import Image

    check_folder(folder)
    pixels, names, number = Pixels(), _folder_names(built), 0
    partial = folder.absolute().with_name(f".{folder.absolute().name}.partial-{os.getpid()}")
    digits = len(str(num - 1))
    with disk.writing(folder):
        try:
            for some, condition in drawn:
                images = pixels(some)
                if images.shape[-1] not in (1, 3):
                    raise ValueError(
                        "a PNG file has 1 or 3 channels, and samples of this run are "
                        f"{list(images.shape[1:])}; expected --out FILE.npz"
                    )
                own = [names[n] for n in condition.tolist()] if names else ["."] * len(images)
                for image, name in zip(images, own, strict=True):
                    place = partial / name
                    place.mkdir(parents=True, exist_ok=True)
                    image = image[..., 0] if image.shape[-1] == 1 else image
                    Image.fromarray(image).save(place / f"{number:0{digits}d}.png")
                    number += 1
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return pixels


def _folder_names(built: Experiment) -> dict[int, str]:
    """Returns the name of the folder of each label; none if the run has no labels."""
    labels = built.labels
    if labels is None:
        return {}
    names = built.class_names(labels)
    if any(not name or name[0] == "." or "/" in name or "\0" in name for name in names):
        names = list(map(str, labels.tolist()))
    return dict(zip(labels.tolist(), names, strict=True))
