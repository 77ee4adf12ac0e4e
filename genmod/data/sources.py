"""Where data sets come from."""

import gzip
import hashlib
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genmod import checks
from genmod.data.errors import DataError


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


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
) -> Dataset:
    """Loads a data set.

    Args:
      name: "mnist", which comes with the package (LeCun, Cortes & Burges 1998; 60,000 and 10,000
        images [28, 28, 1]); or "tfds:NAME", one of tensorflow-datasets, which is prepared on
        disk on first use where TensorFlow is installed (`genmod[tfds]`).
      split: "train" or "test"; for "tfds:", any split that tensorflow-datasets understands.
      data_dir: a folder to read from instead: for "mnist" one with the four original archives, for
        "tfds:" the folder of tensorflow-datasets.
      manual_dir: for "tfds:" alone, a folder with the original archives, to prepare from without a
        network.

    Raises:
      ValueError: if name or split is unknown; the nearest names are given.
      DataError: if a file is missing or damaged.
    """
    if name.startswith("tfds:"):
        from genmod.data import tfds

        where = None if data_dir is None else str(data_dir)
        archives = None if manual_dir is None else str(manual_dir)
        images, labels = tfds.load(name.removeprefix("tfds:"), split, where, archives)
    else:
        checks.known("data set", name, ["mnist", "tfds:NAME"])
        images, labels = _load_mnist(split, data_dir)
    return Dataset(images, labels, fingerprint(images, labels))


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


def _load_mnist(split: str, data_dir: str | Path | None) -> tuple[np.ndarray, np.ndarray]:
    checks.known("split of mnist", split, _MNIST)
    packaged = resources.files("genmod.data") / "mnist_archives"
    folder = Path(str(packaged) if data_dir is None else data_dir)
    images, labels = (
        _read_idx(_verified(folder / file, checksum)) for file, checksum in _MNIST[split].items()
    )
    return images[..., None], labels.astype(np.int32)


def _verified(path: Path, checksum: str) -> bytes:
    """The unpacked contents of a gzip archive whose checksum is right."""
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
    return gzip.decompress(archive)


def _read_idx(contents: bytes) -> np.ndarray:
    """Reads unsigned bytes in the IDX format: 0, 0, 8 (the type), rank, sizes, values."""
    rank = contents[3]
    shape = np.frombuffer(contents, ">i4", count=rank, offset=4)
    return np.frombuffer(contents, np.uint8, offset=4 + 4 * rank).reshape(shape)
