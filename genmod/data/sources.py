"""Data sets by name: which there are, where they lie, how they are divided."""

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
from genmod.data import files, folders, mnist, stored
from genmod.data.dataset import Dataset, Part, chosen, of_arrays, select
from genmod.data.notes import say
from genmod.data.splits import DIVISIONS, HELD_OUT, SIZES, hash_of, held_out, places_hash
from genmod.data.stores import device_budget
from genmod.errors import NoSuchSplit

Reader = Callable[[str], Dataset]
"""`split -> Dataset`."""
PLACE = MappingProxyType({"genmod": "place"})
"""Metadata of a field that says where data lie: no part of a run's name, nor of what it is."""
KIND_AND_PLACE = MappingProxyType({"genmod": "kind and place"})
"""Metadata of a field such as `npz:FILE`: of it a run's name has a short piece, and what the run is
the kind alone. The data themselves are known by their fingerprint."""


@dataclass(frozen=True)
class Source:
    """Which data set, and where it lies: the fields of an experiment's Config that say so."""

    dataset: str = field(default="mnist", metadata=KIND_AND_PLACE)
    """Name of the data set: mnist, tfds:NAME, idx:FOLDER, npz:FILE, npy:FILE, folder:DIR, or
    call:FILE:F, a function F in a Python file that returns a genmod.data.Dataset."""
    data_dir: str = field(default="", metadata=PLACE)
    """Folder to read from instead of the usual one: the archives of mnist, the prepared data sets
    of tensorflow-datasets."""
    manual_dir: str = field(default="", metadata=PLACE)
    """Folder with the original archives of a data set of tensorflow-datasets, to prepare it without
    a network."""
    image_size: int = 0
    """Side of the square to which pictures of a folder are resized and cropped; 0: as they are."""
    skip_corrupt: bool = False
    """Leave out pictures of a folder that cannot be read, and count them."""
    background: Literal["white", "black"] = "white"
    """Ground on which transparent places of a folder's pictures are laid."""
    splits: Literal["own", "iwae", "vamp", "full"] = "own"
    """What of MNIST, or of what is divided like it, is trained on: iwae the first 59,600 images,
    vamp the first 50,000, full all 60,000. own: the training part of any data set."""

    def load(self, split: str = "train") -> Dataset:
        """Loads a split, as `data.load` does; of published splits also "val".

        Raises:
          ValueError: if the data set has not the sizes of the published splits, or no such split.
        """
        return self._reader()(split)

    def train_and_test(self) -> tuple[Dataset, Dataset]:
        """Loads what to train on and what to test on, as `data.train_and_test` does."""
        read = self._reader()
        if self._division() is None:
            return _train_and_test(called(self.dataset), read)
        return read("train"), read("test")

    def protocol(self) -> dict[str, Any]:
        """The splits by their name, and what they hold, with the hashes of its places."""
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
        """Returns what gives the splits; it reads each part of the data but once."""
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
        """Refuses options that mean nothing to a data set of this kind."""
        used = KINDS[kind].options if kind in KINDS else ()
        for option in OPTIONS:
            value = getattr(self, option.name)
            if value != option.default and option.name not in used:
                raise ValueError(
                    f"{option.name} {str(value)!r} is not for data set {self.dataset!r}"
                )


OPTIONS = tuple(f for f in fields(Source) if f.name not in ("dataset", "splits"))
"""The fields of a Source that say how it is read."""


def load(
    name: str | Callable[[], Dataset],
    split: str = "train",
    **options: Any,
) -> Dataset:
    """Loads a data set.

    What was chosen or left out on the way is said in notes, on standard error.

    Args:
      name: what to load:

        - "mnist", which comes with the package (LeCun, Cortes & Burges 1998; 60,000 and 10,000
          images [28, 28, 1]);
        - "tfds:NAME[/CONFIG][:VERSION]", of tensorflow-datasets, which is prepared on disk on
          first use where TensorFlow is installed (`genmod[tfds]`);
        - "idx:FOLDER", the files of Fashion-MNIST, KMNIST, EMNIST or MNIST itself, gzipped or not;
          the images in files named `emnist-...`, which lie on their side, are read upright;
        - "npz:FILE" and "npy:FILE", arrays (`images`, `labels`, or Keras's `x_train` and others);
        - "folder:DIR", pictures in folders named by their class, or in one folder; where all
          folders have names of parts (train, testing, val), those are in them;
        - "call:FILE:F", a function F in a Python file, or the function itself: `() -> Dataset`.
      split: "train" or "test", as far as there are, or parts of them in the language of
        tensorflow-datasets: "train[:90%]", "train[1000:2000]", "train+test". Pictures and arrays
        that are not divided are "train".
      **options: fields of a `Source`, by their names:

        - data_dir: a folder to read from instead: for "mnist" one with the four original archives,
          for "tfds:" the folder of tensorflow-datasets;
        - manual_dir: for "tfds:", a folder with the original archives, to prepare it without a
          network;
        - image_size: for "folder:", the side of the square to which each picture is resized
          (bicubic, its shorter side) and cropped (its middle); by default they are taken as they
          are, of one size;
        - skip_corrupt: for "folder:", leave out pictures that cannot be read, with a note;
        - background: for "folder:", the ground on which transparent places are laid, "white" or
          "black"; white by default.

    Returns:
      The data set. Images of "folder:", "tfds:" and "npy:" that take more than $GENMOD_DATA_GB, or
      more than half of the device's memory if that is not set, are `StreamedImages`: they stay
      where they are.

    Raises:
      ValueError: if name or split is unknown (the nearest names are given), or images or labels are
        not what they should be.
      DataError: if a file is missing or damaged.
    """
    return _source_of(name, options)(split)


def train_and_test(name: str | Callable[[], Dataset], **options: Any) -> tuple[Dataset, Dataset]:
    """What to train on, and what to test on: the splits "train" and "test" of a data set.

    Where there is no "test", "val" is taken. Where there is neither, a tenth is held out of
    "train", of each class its tenth: by a key that is the same in every run, and said in a note.

    Args:
      name: as for `load`.
      **options: as for `load`.
    """
    return _train_and_test(called(name), _source_of(name, options))


class Kind(NamedTuple):
    """A kind of data set.

    Attributes:
      form: how it is named, such as "idx:FOLDER".
      options: the fields of a Source that mean something to it.
      reader: `(source, where) -> Reader`, where being what stands behind the colon.
    """

    form: str
    options: tuple[str, ...]
    reader: Callable[[Source, str], Reader]


def _by_parts(name: str, parts: Mapping[str, Part]) -> Reader:
    """Returns what gives the splits of a data set that has parts, of which it reads each once."""
    once = {part: functools.cache(read) for part, read in parts.items()}
    return functools.partial(select, name, once)


def _read_mnist(source: Source, where: str) -> Reader:
    parts = {
        part: functools.partial(mnist.load, part, source.data_dir or None)
        for part in mnist.ARCHIVES
    }
    return _by_parts(source.dataset, parts)


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
    kind = "of each class its tenth" if len(np.unique(train.labels)) > 1 else "a tenth"
    say(f"{name}: no part to test on; {len(held):,} examples are held out, {kind}")
    rest = np.delete(np.arange(len(train.images)), held)
    what = f"{HELD_OUT}: {hash_of([('train', held)])}"
    return chosen(train, rest)._replace(held_out=what), chosen(train, held)


def _source_of(name: str | Callable[[], Dataset], options: Mapping[str, Any]) -> Reader:
    """Returns what gives the splits of a data set, from what `load` is given."""
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
    """Returns the name of a data set for messages; of a function, its own."""
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
