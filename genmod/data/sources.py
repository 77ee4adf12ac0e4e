"""Data sets by name.

This module knows which data sets there are, where they are stored and how they are divided.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from genmod import checks
from genmod._host import source as source_files
from genmod._host.examples import BACKGROUNDS
from genmod.data import factors, files, folders, mnist, stored
from genmod.data.dataset import Dataset, Part, chosen, of_arrays, select
from genmod.data.notes import say
from genmod.data.splits import DIVISIONS, HELD_OUT, SIZES, hash_of, held_out, places_hash
from genmod.data.stores import device_budget
from genmod.errors import NoSuchSplit

Reader = Callable[[str], Dataset]
"""Function `split -> Dataset`."""
PLACE = MappingProxyType({"genmod": "place"})
"""Metadata of a field that says where data are stored.

Such a field belongs neither to a run's name nor to its identity.
"""
KIND_AND_PLACE = MappingProxyType({"genmod": "kind and place"})
"""Metadata of a field such as `npz:FILE`.

A run's name contains a short piece of it, and the run's identity only the kind. The data
themselves are identified by their fingerprint.
"""


@dataclass(frozen=True)
class Source:
    """Fields of a Config that choose a data set."""

    dataset: str = field(default="mnist", metadata=KIND_AND_PLACE)
    """Name of the data set.
    One of mnist, xy_squares, sprites, tfds:NAME, idx:FOLDER, npz:FILE, npy:FILE, folder:DIR, or
    call:FILE:F, a function F in a Python file that returns a genmod.data.Dataset."""
    data_dir: str = field(default="", metadata=PLACE)
    """Folder to read from instead of the default one.
    For mnist it holds the archives, for tfds the prepared data sets of tensorflow-datasets."""
    manual_dir: str = field(default="", metadata=PLACE)
    """Folder with original archives, to prepare a tfds data set offline."""
    image_size: int = 0
    """Side of the square for resizing and cropping pictures; 0 keeps them."""
    skip_corrupt: bool = False
    """Leave out and count pictures of a folder that cannot be read."""
    background: Literal["white", "black"] = "white"
    """Background for transparent areas of a folder's pictures."""
    splits: Literal["own", "iwae", "vamp", "full"] = "own"
    """Division into training and other images.
    own: the training part of any data set. The published divisions of MNIST, or of a data set of
    the same sizes: iwae trains on the first 59,600 images, vamp on the first 50,000, full on all
    60,000."""

    def load(self, split: str = "train") -> Dataset:
        """Loads a split, as `data.load` does.

        The published divisions "iwae" and "vamp" also have a split "val".

        Raises:
          ValueError: if there is no such split, or if the data set does not have the sizes that the
            published division needs.
        """
        return self._reader()(split)

    def train_and_test(self) -> tuple[Dataset, Dataset]:
        """Loads training and test data, as `data.train_and_test` does."""
        read = self._reader()
        if self._division() is None:
            return _train_and_test(called(self.dataset), read)
        return read("train"), read("test")

    def protocol(self) -> dict[str, Any]:
        """Describes the splits for a record.

        Returns:
          The name of the division and, for each of its splits, its range and the hash of its
          indices.
        """
        division = self._division() or {}
        held = {
            part: {"split": split, "places": places_hash(split, SIZES)}
            for part, split in division.items()
            if split
        }
        return {"splits": self.splits, **held}

    def _division(self) -> dict[str, str] | None:
        return None if self.splits == "own" else DIVISIONS[self.splits]._asdict()

    def _reader(self) -> Reader:
        """Returns a function of splits that reads each part only once."""
        name, colon, where = self.dataset.partition(":")
        self._refuse_unused(name)
        if name not in KINDS or bool(colon) != (":" in KINDS[name].form):
            checks.known("data set", self.dataset, [kind.form for kind in KINDS.values()])
        read = KINDS[name].reader(self, where)
        division = self._division()
        if division is None:
            return read
        for part, size in SIZES.items():
            found = len(read(part).images)
            if found != size:
                raise ValueError(
                    f"splits {self.splits!r} needs {size:,} images in {part!r}, as MNIST has; "
                    f"{self.dataset} has {found:,}"
                )

        def divided(split: str) -> Dataset:
            known = [part for part, there in division.items() if there]
            checks.known(f"split of {self.splits}", split, known)
            return read(division[split])

        return divided

    def _refuse_unused(self, kind: str) -> None:
        """Refuses options that do not apply to this kind."""
        used = KINDS[kind].options if kind in KINDS else ()
        for option in OPTIONS:
            value = getattr(self, option.name)
            if value != option.default and option.name not in used:
                raise ValueError(
                    f"{option.name} {str(value)!r} is not for data set {self.dataset!r}"
                )


OPTIONS = tuple(f for f in fields(Source) if f.name not in ("dataset", "splits"))
"""Fields of a Source that say how it is read."""


def load(
    name: str | Callable[[], Dataset],
    split: str = "train",
    **options: Any,
) -> Dataset:
    """Loads a data set.

    Notes on standard error say what was chosen or left out.

    Args:
      name: name of the data set, or a function that returns one:

        - "mnist", which comes with the package (LeCun, Cortes & Burges 1998; 60,000 and 10,000
          images [28, 28, 1]);
        - "xy_squares" and "sprites", images with known factors (`data.factors_of`), which are
          drawn when they are loaded (18,000 and 2,000 images [64, 64, 3]; 41,472 and 4,608 images
          [64, 64, 1]);
        - "tfds:NAME[/CONFIG][:VERSION]", a data set of tensorflow-datasets, which is prepared on
          disk on first use if TensorFlow is installed;
        - "idx:FOLDER", the files of Fashion-MNIST, KMNIST, EMNIST or MNIST itself, gzipped or not;
          the images in files named `emnist-...`, which are stored rotated, are turned upright;
        - "npz:FILE" and "npy:FILE", arrays (`images`, `labels`, or Keras's `x_train` and others);
        - "folder:DIR", pictures in folders named by their class, or in one folder; if all folders
          in DIR have names of parts (train, testing, val), they are the parts;
        - "call:FILE:F", a function F in a Python file, or the function itself: `() -> Dataset`.
      split: "train" or, if present, "test"; or ranges and sums of them in the syntax of
        tensorflow-datasets: "train[:90%]", "train[1000:2000]", "train+test". Pictures and arrays
        that are not divided are "train".
      **options: fields of a `Source`:

        - data_dir: folder to read from instead of the default one: for "mnist" a folder with the
          four original archives, for "tfds:" the folder of tensorflow-datasets;
        - manual_dir: for "tfds:", a folder with the original archives, to prepare it without a
          network;
        - image_size: for "folder:", the side of the square to which each picture is resized
          (bicubic, its shorter side) and cropped (its middle); by default pictures are not
          resized, and must all have one size;
        - skip_corrupt: for "folder:", leave out pictures that cannot be read, with a note;
        - background: for "folder:", the background for transparent areas, "white" (the default)
          or "black".

    Returns:
      The data set. Images of "folder:", "tfds:" and "npy:" that take more than $GENMOD_DATA_GB, or
      more than half of the device's memory if that is not set, are `StreamedImages`: they stay
      on disk and are read when needed.

    Raises:
      ValueError: if name or split is unknown (the message gives the nearest names), or if images
        or labels have a wrong shape, type or range.
      DataError: if a file is missing or damaged.
    """
    return _source_of(name, options)(split)


def train_and_test(name: str | Callable[[], Dataset], **options: Any) -> tuple[Dataset, Dataset]:
    """Loads the splits "train" and "test" of a data set.

    If there is no "test", "val" is used in its place. If there is neither, a tenth of "train" is
    held out, a tenth of each class. This hold-out set is chosen by a key that is the same in every
    run, and a note reports it.

    Args:
      name: name of the data set, or a function that returns one, as in `load`.
      **options: fields of a `Source`, as in `load`.

    Returns:
      The data set to train on, and the one to test on.
    """
    return _train_and_test(called(name), _source_of(name, options))


class Kind(NamedTuple):
    """A kind of data set.

    Attributes:
      form: form of its names, such as "idx:FOLDER".
      options: the fields of a Source that apply to it.
      reader: `(source, where) -> Reader`; `where` is the text after the colon.
    """

    form: str
    options: tuple[str, ...]
    reader: Callable[[Source, str], Reader]


def _by_parts(name: str, parts: Mapping[str, Part]) -> Reader:
    """Returns a function of splits that reads each part only once."""
    once = {part: functools.cache(read) for part, read in parts.items()}
    return functools.partial(select, name, once)


def _read_mnist(source: Source, where: str) -> Reader:
    parts = {
        part: functools.partial(mnist.load, part, source.data_dir or None)
        for part in mnist.ARCHIVES
    }
    return _by_parts(source.dataset, parts)


def _read_factors(source: Source, where: str) -> Reader:
    return _by_parts(source.dataset, factors.parts(source.dataset))


def _read_tfds(source: Source, where: str) -> Reader:
    from genmod.data import tfds

    folders_given = source.data_dir or None, source.manual_dir or None
    return lambda split: stored.prepared(tfds.examples(where, split, *folders_given))


def _read_arrays(source: Source, where: str) -> Reader:
    of_kind = files.idx_parts if source.dataset.startswith("idx:") else files.numpy_parts
    parts = {part: lambda read=read: of_arrays(*read()) for part, read in of_kind(where).items()}
    return _by_parts(source.dataset, parts)


def _read_npy(source: Source, where: str) -> Reader:
    found = files.mapped(where)
    if found is None or found.num_bytes <= device_budget():
        return _read_arrays(source, where)
    return _by_parts(source.dataset, {"train": functools.partial(stored.mapped_file, found)})


def _read_folder(source: Source, where: str) -> Reader:
    checks.known("background", source.background, BACKGROUNDS)
    if source.image_size:
        checks.positive_integer("image_size", source.image_size)
    folder = folders.folder(where, size=source.image_size or None, background=source.background)
    parts = {
        part: functools.partial(stored.pictures, folder, part, source.skip_corrupt)
        for part in folder.parts
    }
    return _by_parts(source.dataset, parts)


def _read_call(source: Source, where: str) -> Reader:
    return _by_parts(source.dataset, {"train": lambda: _returned(_function(where))})


KINDS = {
    "mnist": Kind("mnist", ("data_dir",), _read_mnist),
    **{name: Kind(name, (), _read_factors) for name in factors.NAMED},
    "tfds": Kind("tfds:NAME", ("data_dir", "manual_dir"), _read_tfds),
    "idx": Kind("idx:FOLDER", (), _read_arrays),
    "npz": Kind("npz:FILE", (), _read_arrays),
    "npy": Kind("npy:FILE", (), _read_npy),
    "folder": Kind("folder:DIR", ("image_size", "skip_corrupt", "background"), _read_folder),
    "call": Kind("call:FILE:F", (), _read_call),
}
"""The kinds of data sets, by the word before the colon."""


def _train_and_test(name: str, read: Reader) -> tuple[Dataset, Dataset]:
    train = read("train")
    for part in ("test", "val"):
        with contextlib.suppress(NoSuchSplit):
            return train, read(part)
    held = held_out(train.labels)
    if not len(held):
        raise ValueError(
            f"{name} has {len(train.images)} examples and no split 'test'; expected at "
            "least 10, so that some can be held out"
        )
    kind = "a tenth of each class" if len(np.unique(train.labels)) > 1 else "a tenth"
    say(f"{name}: no part to test on; {len(held):,} examples are held out, {kind}")
    rest = np.delete(np.arange(len(train.images)), held)
    what = f"{HELD_OUT}: {hash_of([('train', held)])}"
    return chosen(train, rest)._replace(held_out=what), chosen(train, held)


def _source_of(name: str | Callable[[], Dataset], options: Mapping[str, Any]) -> Reader:
    """Returns a function of splits for `load`."""
    for option in options:
        checks.known("option", option, [known.name for known in OPTIONS])
    given = {
        option: str(value) if isinstance(value, Path) else value
        for option, value in options.items()
        if value not in (None, False)
    }
    if callable(name):
        for option, value in given.items():
            raise ValueError(f"{option} {str(value)!r} is not for data set {called(name)!r}")
        return _by_parts(called(name), {"train": lambda: _returned(name)})
    if "image_size" in given:
        checks.positive_integer("image_size", given["image_size"])
    return Source(name, **cast(Any, given))._reader()


def called(name: str | Callable[[], Dataset]) -> str:
    """Returns a data set's name for messages."""
    return getattr(name, "__name__", "a function") if callable(name) else name


def _function(where: str) -> Callable[[], Dataset]:
    file, _, name = where.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"data set 'call:{where}': there is no file {file!r}; expected FILE:F")
    found = getattr(source_files.load(path), name, None)
    if not callable(found):
        raise ValueError(f"data set 'call:{where}': {file} has no function {name!r}")
    return found


def _returned(function: Callable[[], Dataset]) -> Dataset:
    found = function()
    if not isinstance(found, Dataset):
        raise ValueError(
            f"{called(function)}() must return a genmod.data.Dataset, got {type(found).__name__}"
        )
    where = f"{called(function)}()"
    return of_arrays(*files.checked(where, found.images, found.labels), found.classes)
