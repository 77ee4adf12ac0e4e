"""Where data sets come from."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from genmod import checks
from genmod._host import source
from genmod._host.decoding import BACKGROUNDS, Prepared
from genmod.data import files
from genmod.data.cache import DARK, Facts, cached, file_state, fingerprint, is_dark, scan
from genmod.data.notes import say
from genmod.data.splits import (
    DIVISIONS,
    HELD_OUT,
    SIZES,
    hash_of,
    held_out,
    places_hash,
    resolve,
)
from genmod.data.stores import DecodedStore, MappedStore, StreamedImages, device_budget, in_turn
from genmod.errors import DataError, NoSuchSplit

PLACE = MappingProxyType({"genmod": "place"})
"""Metadata of a field that says where data lie: no part of a run's name, nor of what it is."""
KIND_AND_PLACE = MappingProxyType({"genmod": "kind and place"})
"""Metadata of a field such as `npz:FILE`: of it a run's name has a short piece, and what the run is
the kind alone. The data themselves are known by their fingerprint."""
_KINDS = ("mnist", "tfds:NAME", "idx:FOLDER", "npz:FILE", "npy:FILE", "folder:DIR", "call:FILE:F")


class Dataset(NamedTuple):
    """Images with their labels.

    Attributes:
      images: uint8 [N, H, W, C], or `StreamedImages`, indexed like them, if they are too many for
        the device; of a mixture, points float32 [N, D].
      labels: int32 [N]; of a mixture, the mode of each point.
      fingerprint: SHA-256 of shapes, types and values, whatever file they came from.
      classes: names of the labels 0, 1, ...; empty where nothing has named them.
      held_out: what was held out of these examples for testing, in words and with the hash of its
        places; empty if nothing, as where the data have a part to test on.
    """

    images: np.ndarray | StreamedImages
    labels: np.ndarray
    fingerprint: str
    classes: tuple[str, ...] = ()
    held_out: str = ""


_Part = Callable[[], Dataset]


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
        return self._read()(split)

    def train_and_test(self) -> tuple[Dataset, Dataset]:
        """Loads what to train on and what to test on, as `data.train_and_test` does."""
        if self._division() is None:
            return train_and_test(self.dataset, **self._options())
        read = self._read()
        return read("train"), read("test")

    def _read(self) -> Callable[[str], Dataset]:
        """What gives the splits, of which it reads each part of the data but once."""
        read = _reader(self.dataset, **self._options())
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

    def _options(self) -> dict[str, Any]:
        return {
            "data_dir": self.data_dir or None,
            "manual_dir": self.manual_dir or None,
            "image_size": self.image_size or None,
            "skip_corrupt": self.skip_corrupt,
            "background": None if self.background == "white" else self.background,
        }


def load(
    name: str | Callable[[], Dataset],
    split: str = "train",
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    background: Literal["white", "black"] | None = None,
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
      data_dir: a folder to read from instead: for "mnist" one with the four original archives, for
        "tfds:" the folder of tensorflow-datasets.
      manual_dir: for "tfds:", a folder with the original archives, to prepare it without a network.
      image_size: for "folder:", the side of the square to which each picture is resized (bicubic,
        its shorter side) and cropped (its middle); None takes them as they are, of one size.
      skip_corrupt: for "folder:", leave out pictures that cannot be read, with a note.
      background: for "folder:", the ground on which transparent places are laid; white if None.

    Returns:
      The data set. Images of "folder:", "tfds:" and "npy:" that take more than $GENMOD_DATA_GB, or
      more than half of the device's memory if that is not set, are `StreamedImages`: they stay
      where they are.

    Raises:
      ValueError: if name or split is unknown (the nearest names are given), or images or labels are
        not what they should be.
      DataError: if a file is missing or damaged.
    """
    read = _reader(
        name,
        data_dir=data_dir,
        manual_dir=manual_dir,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        background=background,
    )
    return read(split)


def train_and_test(name: str | Callable[[], Dataset], **options: Any) -> tuple[Dataset, Dataset]:
    """What to train on, and what to test on: the splits "train" and "test" of a data set.

    Where there is no "test", "val" is taken. Where there is neither, a tenth is held out of
    "train", of each class its tenth: by a key that is the same in every run, and said in a note.

    Args:
      name: as for `load`.
      options: as for `load`.
    """
    read = _reader(name, **options)
    train = read("train")
    for part in ("test", "val"):
        with contextlib.suppress(NoSuchSplit):
            return train, read(part)
    held = held_out(train.labels)
    if not len(held):
        raise ValueError(
            f"{_called(name)} has {len(train.images)} examples and no split 'test'; expected at "
            "least 10, so that some can be held out"
        )
    kind = "of each class its tenth" if len(np.unique(train.labels)) > 1 else "a tenth"
    say(f"{_called(name)}: no part to test on; {len(held):,} examples are held out, {kind}")
    rest = np.delete(np.arange(len(train.images)), held)
    what = f"{HELD_OUT}: {hash_of([('train', held)])}"
    return _chosen(train, rest)._replace(held_out=what), _chosen(train, held)


def from_arrays(images: Any, labels: Any = None) -> Dataset:
    """A data set of NumPy or JAX arrays.

    Args:
      images: uint8 [N, H, W] or [N, H, W, C].
      labels: whole numbers of at least 0, [N]; all 0 if None.

    Raises:
      ValueError: if a shape or type is another, there is no image, or a label is out of range.
    """
    return _dataset(*files.checked("from_arrays", images, labels))


def _dataset(images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...] = ()) -> Dataset:
    return Dataset(images, labels, fingerprint(images, labels), classes)


def _reader(
    name: str | Callable[[], Dataset],
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
    background: Literal["white", "black"] | None = None,
) -> Callable[[str], Dataset]:
    """What gives the splits of a data set, of which it reads each part but once."""
    options = {
        "data_dir": data_dir,
        "manual_dir": manual_dir,
        "image_size": image_size,
        "skip_corrupt": skip_corrupt or None,
        "background": background,
    }
    _refuse_unused(name, options)
    if not callable(name) and name.startswith("tfds:"):
        from genmod.data import tfds

        where = None if data_dir is None else str(data_dir)
        archives = None if manual_dir is None else str(manual_dir)
        known = name.removeprefix("tfds:")
        return lambda split: _prepared(tfds.examples(known, split, where, archives))
    parts = _parts(name, data_dir, image_size, skip_corrupt, background or "white")
    once = {part: functools.cache(read) for part, read in parts.items()}
    return functools.partial(_select, _called(name), once)


def _select(name: str, parts: Mapping[str, _Part], split: str) -> Dataset:
    """A split of a data set, from its parts."""
    for one in split.split("+"):
        try:
            checks.known(f"split of {name}", one.partition("[")[0].strip(), parts)
        except ValueError as error:
            raise NoSuchSplit(str(error)) from None
    if split in parts:
        return parts[split]()
    sizes = {part: len(read().images) for part, read in parts.items() if part in split}
    ranges = resolve(split, sizes)
    (part, first, last), *more = ranges
    if not more:
        return _chosen(parts[part](), slice(first, last))
    pieces = [(parts[part](), slice(first, last)) for part, first, last in ranges]
    labels = np.concatenate([whole.labels[index] for whole, index in pieces])
    views = [w.images.view(index) for w, index in pieces if isinstance(w.images, StreamedImages)]
    if len(views) == len(pieces) and all(view.store == views[0].store for view in views):
        # All in one place: as if it were a part of a whole that is never read.
        places = np.concatenate([view.places for view in views])
        seen = "+".join(whole.fingerprint for whole, _ in pieces)
        together = Dataset(
            StreamedImages(views[0].store, places), labels, seen, pieces[0][0].classes
        )
        return _chosen(together, slice(None))
    images = np.concatenate([whole.images[index] for whole, index in pieces])
    return _dataset(images, labels, pieces[0][0].classes)


def _refuse_unused(name: str | Callable[[], Dataset], options: Mapping[str, Any]) -> None:
    """Refuses options that mean nothing to a data set."""
    used = {
        "mnist": {"data_dir"},
        "tfds": {"data_dir", "manual_dir"},
        "folder": {"image_size", "skip_corrupt", "background"},
    }
    kind = "" if callable(name) else name.partition(":")[0]
    for option, value in options.items():
        if value is not None and option not in used.get(kind, set()):
            raise ValueError(f"{option} {str(value)!r} is not for data set {_called(name)!r}")


def _called(name: str | Callable[[], Dataset]) -> str:
    return getattr(name, "__name__", "a function") if callable(name) else name


def _parts(
    name: str | Callable[[], Dataset],
    data_dir: str | Path | None,
    image_size: int | None,
    skip_corrupt: bool,
    background: str,
) -> Mapping[str, _Part]:
    """The parts of a data set, each to be read when it is wanted."""
    if callable(name):
        return {"train": lambda: _returned(name)}
    kind, _, where = name.partition(":")
    if kind == "npy" and (mapped := files.mapped(where)) and mapped.num_bytes > device_budget():
        return {"train": functools.partial(_mapped, mapped)}
    if kind in ("idx", "npz", "npy"):
        of_kind = files.idx_parts if kind == "idx" else files.numpy_parts
        return {part: lambda read=read: _dataset(*read()) for part, read in of_kind(where).items()}
    if kind == "folder":
        if image_size is not None:
            checks.positive_integer("image_size", image_size)
        checks.known("background", background, BACKGROUNDS)
        folder = files.folder(where, size=image_size, background=background)
        return {
            part: functools.partial(_pictures, folder, part, skip_corrupt) for part in folder.parts
        }
    if kind == "call":
        return {"train": lambda: _returned(_function(where))}
    checks.known("data set", name, _KINDS)
    return {part: functools.partial(_load_mnist, part, data_dir) for part in _MNIST}


def _pictures(folder: files.Folder, part: str, skip_corrupt: bool) -> Dataset:
    """A part of a folder of pictures."""
    places = folder.parts[part]
    size = folder.pictures.size
    find = functools.partial(
        scan,
        folder.pictures.some(places),
        keep=lambda num_bytes: num_bytes <= device_budget(),
        skip_corrupt=skip_corrupt,
        in_colour=lambda: folder.in_colour(part),
        hint="; give the size to which to resize and crop them: image_size",
    )

    def store(known: Facts) -> DecodedStore:
        return DecodedStore(folder.pictures, known.shape)

    root, background = folder.state[0], folder.pictures.background
    identity = ["folder", part, folder.state, size, skip_corrupt, background]
    images, labels, seen = cached(root, identity, find, store)
    if isinstance(images, StreamedImages) and isinstance(images.store, DecodedStore):
        images = StreamedImages(images.store, images.places + places.start)
    return Dataset(images, labels, seen, folder.classes)


def _prepared(examples: Prepared) -> Dataset:
    """What tensorflow-datasets has prepared."""
    find = functools.partial(scan, examples, keep=lambda num_bytes: num_bytes <= device_budget())
    found = cached(
        examples.folder,
        ["tfds", os.path.realpath(examples.folder), examples.split, examples.state],
        find,
        lambda known: DecodedStore(examples, known.shape),
    )
    return Dataset(*found, examples.classes)


def _mapped(mapped: MappedStore) -> Dataset:
    """The images of an NPY file that are too many for the device."""
    images = StreamedImages(mapped, np.arange(mapped.num))

    def find() -> Facts:
        labels = np.zeros(mapped.num, np.int32)
        seen = fingerprint(images, labels)
        remarks = (DARK,) if is_dark(in_turn(images)) else ()
        return Facts(None, mapped.shape, labels, images.places, seen, remarks)

    identity = ["npy", str(mapped.path.resolve()), *file_state(mapped.path.stat())]
    return Dataset(*cached(str(mapped.path), identity, find, lambda known: mapped))


def _chosen(whole: Dataset, index: Any) -> Dataset:
    """Some examples of a data set."""
    labels = whole.labels[index]
    if not isinstance(whole.images, StreamedImages):
        return _dataset(whole.images[index], labels, whole.classes)
    some = whole.images.view(index)

    def find() -> Facts:
        images = some[:] if some.nbytes <= device_budget() else some
        kept = None if isinstance(images, StreamedImages) else images
        return Facts(kept, some.shape[1:], labels, some.places, fingerprint(images, labels))

    identity = ["of", whole.fingerprint, hashlib.sha256(some.places.tobytes()).hexdigest()]
    found = cached("", identity, find, lambda known: some.store)
    return Dataset(*found, whole.classes)


def _function(where: str) -> Callable[[], Dataset]:
    file, _, name = where.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"data set 'call:{where}': there is no file {file!r}; expected FILE:F")
    found = getattr(source.load(path), name, None)
    if not callable(found):
        raise ValueError(f"data set 'call:{where}': {file} has no function {name!r}")
    return found


def _returned(function: Callable[[], Dataset]) -> Dataset:
    found = function()
    if not isinstance(found, Dataset):
        raise ValueError(
            f"{_called(function)}() must return a genmod.data.Dataset, got {type(found).__name__}"
        )
    where = f"{_called(function)}()"
    return _dataset(*files.checked(where, found.images, found.labels), found.classes)


# SHA-256 of the original archives, the same that tensorflow-datasets checks.
_MNIST = {
    "train": {
        "train-images-idx3-ubyte.gz": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
    },
    "test": {
        "t10k-images-idx3-ubyte.gz": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    },
}


def _load_mnist(split: str, data_dir: str | Path | None) -> Dataset:
    packaged = resources.files("genmod.data") / "mnist_archives"
    folder = Path(str(packaged) if data_dir is None else data_dir)
    archives = {folder / file: checksum for file, checksum in _MNIST[split].items()}
    contents = {path: _verified(path, checksum) for path, checksum in archives.items()}

    def find() -> Facts:
        images, labels = (files.read_idx(path, archive) for path, archive in contents.items())
        images, labels = files.checked("mnist", images, labels)
        places, seen = np.arange(len(labels)), fingerprint(images, labels)
        return Facts(images, images.shape[1:], labels, places, seen)

    return Dataset(*cached("mnist", ["mnist", *_MNIST[split].values()], find))


def _verified(path: Path, checksum: str) -> bytes:
    """The contents of an archive whose checksum is right."""
    try:
        archive = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: missing; expected the original archive of MNIST") from None
    found = hashlib.sha256(archive).hexdigest()
    if found != checksum:
        raise DataError(
            f"{path}: damaged: its SHA-256 is {found}, expected {checksum}; "
            "put the original archive there, or reinstall genmod"
        )
    return archive
