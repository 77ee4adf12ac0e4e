"""Where data sets come from."""

import contextlib
import functools
import hashlib
import json
import os
import runpy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genmod import caches, checks
from genmod.data import files
from genmod.data.errors import DataError, NoSuchSplit
from genmod.data.files import Arrays, Part
from genmod.data.splits import resolve

_KINDS = ("mnist", "tfds:NAME", "idx:FOLDER", "npz:FILE", "npy:FILE", "folder:DIR", "call:FILE:F")


class Dataset(NamedTuple):
    """Images with their labels.

    Attributes:
      images: uint8 [N, H, W, C]; of a mixture, points float32 [N, D].
      labels: int32 [N]; of a mixture, the mode of each point.
      fingerprint: SHA-256 of shapes, types and values, whatever file they came from.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str


_Part = Callable[[], Dataset]


@dataclass(frozen=True)
class Source:
    """Which data set, and where it lies: the fields of an experiment's Config that say so."""

    dataset: str = "mnist"
    """Name of the data set: mnist, tfds:NAME, idx:FOLDER, npz:FILE, npy:FILE, folder:DIR, or
    call:FILE:F, a function F in a Python file that returns a genmod.data.Dataset."""
    data_dir: str = ""
    """Folder to read from instead of the usual one: the archives of mnist, the prepared data sets
    of tensorflow-datasets."""
    manual_dir: str = ""
    """Folder with the original archives of a data set of tensorflow-datasets, to prepare it without
    a network."""
    image_size: int = 0
    """Side of the square to which pictures of a folder are resized and cropped; 0: as they are."""
    skip_corrupt: bool = False
    """Leave out pictures of a folder that cannot be read, and count them."""

    def load(self, split: str = "train") -> Dataset:
        """Loads a split, as `data.load` does."""
        return load(self.dataset, split, **self._options())

    def train_and_test(self) -> tuple[Dataset, Dataset]:
        """Loads what to train on and what to test on, as `data.train_and_test` does."""
        return train_and_test(self.dataset, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "data_dir": self.data_dir or None,
            "manual_dir": self.manual_dir or None,
            "image_size": self.image_size or None,
            "skip_corrupt": self.skip_corrupt,
        }


def load(
    name: str | Callable[[], Dataset],
    split: str = "train",
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
) -> Dataset:
    """Loads a data set.

    Args:
      name: what to load:

        - "mnist", which comes with the package (LeCun, Cortes & Burges 1998; 60,000 and 10,000
          images [28, 28, 1]);
        - "tfds:NAME[/CONFIG][:VERSION]", of tensorflow-datasets, which is prepared on disk on
          first use where TensorFlow is installed (`genmod[tfds]`);
        - "idx:FOLDER", the files of Fashion-MNIST, KMNIST, EMNIST or MNIST itself, gzipped or not;
          the images in files named `emnist-...`, which lie on their side, are read upright;
        - "npz:FILE" and "npy:FILE", arrays (`images`, `labels`, or Keras's `x_train` and others);
        - "folder:DIR", pictures in folders named by their class, or in one folder;
        - "call:FILE:F", a function F in a Python file, or the function itself: `() -> Dataset`.
      split: "train" or "test", as far as there are, or parts of them in the language of
        tensorflow-datasets: "train[:90%]", "train[1000:2000]", "train+test". Pictures and arrays
        that are not divided are "train".
      data_dir: a folder to read from instead: for "mnist" one with the four original archives, for
        "tfds:" the folder of tensorflow-datasets.
      manual_dir: for "tfds:", a folder with the original archives, to prepare it without a network.
      image_size: for "folder:", the side of the square to which each picture is resized (bicubic,
        its shorter side) and cropped (its middle); None takes them as they are, of one size.
      skip_corrupt: for "folder:", leave out pictures that cannot be read, with a warning.

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
    )
    return read(split)


def train_and_test(name: str | Callable[[], Dataset], **options: Any) -> tuple[Dataset, Dataset]:
    """What to train on, and what to test on: the splits "train" and "test" of a data set.

    Where there is no "test", every tenth example is held out of "train".

    Args:
      name: as for `load`.
      options: as for `load`.
    """
    read = _reader(name, **options)
    train = read("train")
    with contextlib.suppress(NoSuchSplit):
        return train, read("test")
    held = np.arange(len(train.images)) % 10 == 9
    if not held.any():
        raise ValueError(
            f"{_called(name)} has {len(train.images)} examples and no split 'test'; expected at "
            "least 10, so that some can be held out"
        )
    train, test = ((train.images[chosen], train.labels[chosen]) for chosen in (~held, held))
    return from_arrays(*train), from_arrays(*test)


def from_arrays(images: Any, labels: Any = None) -> Dataset:
    """A data set of NumPy or JAX arrays.

    Args:
      images: uint8 [N, H, W] or [N, H, W, C].
      labels: whole numbers of at least 0, [N]; all 0 if None.

    Raises:
      ValueError: if a shape or type is another, there is no image, or a label is out of range.
    """
    return _dataset(*files.checked("from_arrays", images, labels))


def _dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    return Dataset(images, labels, fingerprint(images, labels))


def _reader(
    name: str | Callable[[], Dataset],
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    image_size: int | None = None,
    skip_corrupt: bool = False,
) -> Callable[[str], Dataset]:
    """What gives the splits of a data set, of which it reads each part but once."""
    options = {"data_dir": data_dir, "manual_dir": manual_dir, "image_size": image_size}
    _refuse_unused(name, options | {"skip_corrupt": skip_corrupt or None})
    if not callable(name) and name.startswith("tfds:"):
        from genmod.data import tfds

        where = None if data_dir is None else str(data_dir)
        archives = None if manual_dir is None else str(manual_dir)
        known = name.removeprefix("tfds:")
        return lambda split: from_arrays(*tfds.load(known, split, where, archives))
    parts = _parts(name, data_dir, image_size, skip_corrupt)
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
    pieces = [
        tuple(array[first:last] for array in parts[part]()[:2])
        for part, first, last in resolve(split, sizes)
    ]
    images, labels = (
        arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        for arrays in zip(*pieces, strict=True)
    )
    return _dataset(images, labels)


def _refuse_unused(name: str | Callable[[], Dataset], options: Mapping[str, Any]) -> None:
    """Refuses options that mean nothing to a data set."""
    used = {
        "mnist": {"data_dir"},
        "tfds": {"data_dir", "manual_dir"},
        "folder": {"image_size", "skip_corrupt"},
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
) -> Mapping[str, _Part]:
    """The parts of a data set, each to be read when it is wanted."""
    if callable(name):
        return {"train": lambda: _returned(name)}
    kind, _, where = name.partition(":")
    if kind in ("idx", "npz", "npy"):
        of_kind = files.idx_parts if kind == "idx" else files.numpy_parts
        return {part: lambda read=read: _dataset(*read()) for part, read in of_kind(where).items()}
    if kind == "folder":
        if image_size is not None:
            checks.positive_integer("image_size", image_size)
        parts, state = files.folder_parts(where, size=image_size, skip_corrupt=skip_corrupt)
        identity = [state, image_size, skip_corrupt]
        return {
            part: functools.partial(_kept, ["folder", part, *identity], read)
            for part, read in parts.items()
        }
    if kind == "call":
        return {"train": lambda: _returned(_function(where))}
    checks.known("data set", name, _KINDS)
    return {part: functools.partial(_load_mnist, part, data_dir) for part in _MNIST}


def _function(where: str) -> Callable[[], Dataset]:
    file, _, name = where.rpartition(":")
    if not Path(file).is_file():
        raise ValueError(f"data set 'call:{where}': there is no file {file!r}; expected FILE:F")
    found = runpy.run_path(file).get(name)
    if not callable(found):
        raise ValueError(f"data set 'call:{where}': {file} has no function {name!r}")
    return found


def _returned(function: Callable[[], Dataset]) -> Dataset:
    found = function()
    if not isinstance(found, Dataset):
        raise ValueError(
            f"{_called(function)}() must return a genmod.data.Dataset, got {type(found).__name__}"
        )
    return _dataset(*files.checked(f"{_called(function)}()", found.images, found.labels))


def _kept(identity: list[Any], read: Part) -> Dataset:
    """What `read` gives, decoded once: kept as a file that is mapped into memory.

    What is kept counts only while it has the fingerprint with which it was written.
    """
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    folder = caches.folder() / "data" / key
    try:
        kept = Dataset(
            np.load(folder / "images.npy", mmap_mode="r"),
            np.load(folder / "labels.npy"),
            (folder / "fingerprint").read_text(),
        )
        if kept.fingerprint == fingerprint(kept.images, kept.labels):
            return kept
        shutil.rmtree(folder)
    except (OSError, ValueError, EOFError):
        shutil.rmtree(folder, ignore_errors=True)
    made = _dataset(*read())
    with contextlib.suppress(OSError):  # a full disk or a folder that is not ours: nothing is lost
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=folder.parent))
        try:
            np.save(partial / "images.npy", made.images)
            np.save(partial / "labels.npy", made.labels)
            (partial / "fingerprint").write_text(made.fingerprint)
            os.rename(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return made._replace(images=np.load(folder / "images.npy", mmap_mode="r"))
    return made


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 over types, shapes and values of both arrays."""
    digest = hashlib.sha256()
    for array in (images, labels):
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"


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

    def read() -> Arrays:
        images, labels = (files.read_idx(path, archive) for path, archive in contents.items())
        return files.checked("mnist", images, labels)

    return _kept(["mnist", *_MNIST[split].values()], read)


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
