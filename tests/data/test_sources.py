import gzip
import shutil
from importlib import resources

import numpy as np
import pytest

from genmod import data

ARCHIVES = resources.files("genmod.data") / "mnist_archives"


@pytest.mark.parametrize(("split", "num"), [("train", 60_000), ("test", 10_000)])
def test_mnist_is_mnist(split, num):
    images, labels, fingerprint = data.load("mnist", split)[:3]
    assert images.shape == (num, 28, 28, 1)
    assert images.dtype == np.uint8
    assert labels.shape == (num,)
    assert labels.dtype == np.int32
    assert fingerprint == data.fingerprint(images, labels)
    assert fingerprint.startswith("sha256:")


def test_mnist_has_the_statistics_that_everybody_quotes():
    images, labels = data.load("mnist")[:2]
    assert round(float(images.mean() / 255), 4) == 0.1307
    assert round(float(images.std() / 255), 4) == 0.3081
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(np.bincount(labels), counts)
    np.testing.assert_array_equal(labels[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])


def test_the_fingerprint_sees_every_change():
    images, labels = np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32)
    other, relabelled = images.copy(), labels.copy()
    other[1, 2, 2, 0], relabelled[1] = 1, 1
    prints = {
        data.fingerprint(*pair)
        for pair in [
            (images, labels),
            (other, labels),
            (images, relabelled),
            (images.reshape(2, 9, 1, 1), labels),
            (images, labels.astype(np.int64)),
        ]
    }
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "unknown data set 'mnits'; did you mean 'mnist'?"),
        ("", "unknown data set ''"),
    ],
)
def test_an_unknown_data_set_is_refused_with_the_nearest_name(name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="unknown split of mnist 'tets'; did you mean 'test'"):
        data.load("mnist", "tets")


@pytest.fixture
def folder(tmp_path):
    for file in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        shutil.copyfile(str(ARCHIVES / file), tmp_path / file)
    return tmp_path


def test_a_folder_with_the_original_archives_will_do(folder):
    assert data.load("mnist", "test", data_dir=folder)[2] == data.load("mnist", "test")[2]


@pytest.mark.reliability(22)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "other"])
def test_a_damaged_archive_is_refused_by_its_checksum(folder, damage):
    path = folder / "t10k-labels-idx1-ubyte.gz"
    contents = path.read_bytes()
    path.write_bytes(
        {
            "flip": contents[:100] + bytes([contents[100] ^ 1]) + contents[101:],
            "truncate": contents[:-10],
            "empty": b"",
            "other": gzip.compress(b"<html>not found</html>"),
        }[damage]
    )
    message = f"{path}: damaged: its SHA-256 is .*, expected f7ae60f92e00ec6debd23a6088c31dbd2371"
    with pytest.raises(data.DataError, match=message):
        data.load("mnist", "test", data_dir=folder)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(data.DataError, match=r"t10k-images-idx3-ubyte\.gz: missing"):
        data.load("mnist", "test", data_dir=tmp_path)
