"""MNIST, read from the original archives in the package."""

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np

from genmod.data import files
from genmod.data.cache import Facts, cached, fingerprint
from genmod.data.dataset import Dataset
from genmod.errors import DataError

# These are the SHA-256 sums of the original archives; tensorflow-datasets checks the same ones.
ARCHIVES = {
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


def load(split: str, data_dir: str | Path | None) -> Dataset:
    """Loads a part of MNIST.

    Args:
      split: "train" or "test".
      data_dir: a folder with the original archives; if None, those in the package are read.

    Raises:
      DataError: if an archive is missing or damaged.
    """
    packaged = resources.files("genmod.data") / "mnist_archives"
    folder = Path(str(packaged) if data_dir is None else data_dir)
    archives = {folder / file: checksum for file, checksum in ARCHIVES[split].items()}
    contents = {path: _verified(path, checksum) for path, checksum in archives.items()}

    def find() -> Facts:
        images, labels = (files.read_idx(path, archive) for path, archive in contents.items())
        images, labels = files.checked("mnist", images, labels)
        indices, seen = np.arange(len(labels)), fingerprint(images, labels)
        return Facts(images, images.shape[1:], labels, indices, seen)

    return Dataset(*cached("mnist", ["mnist", *ARCHIVES[split].values()], find))


def _verified(path: Path, checksum: str) -> bytes:
    """Reads an archive and checks its SHA-256."""
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
