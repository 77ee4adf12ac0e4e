"""Data sets in files of one's own."""

import gzip
import hashlib
import io
import os
import re
import shutil
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import fashion_archives
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genmod import data
from genmod._host import examples
from genmod.data import DataError
from genmod.data.splits import resolve

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (12, 5, 4), np.uint8)
COLOUR = RANDOM.integers(0, 256, (12, 5, 4, 3), np.uint8)
LABELS = (np.arange(12) % 3).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


# Splits.


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [("train", 0, 60)]),
        ("train[:90%]", [("train", 0, 54)]),
        ("train[90%:]", [("train", 54, 60)]),
        ("train[-10:]", [("train", 50, 60)]),
        ("train[10:-10%]", [("train", 10, 54)]),
        (" train[ 1 : 2 ] + test ", [("train", 1, 2), ("test", 0, 10)]),
    ],
)
def test_a_split_names_ranges(split, expected):
    assert resolve(split, {"train": 60, "test": 10}) == expected


@given(st.integers(1, 10_000), st.integers(1, 99))
def test_percents_divide_without_a_gap(num, percent):
    sizes = {"train": num}
    ends = []
    for split in (f"train[:{percent}%]", f"train[{percent}%:]"):
        if round(num * percent / 100) in (0, num):
            return
        ends += resolve(split, sizes)[0][1:]
    assert ends == [0, ends[1], ends[1], num]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("tran", "unknown split 'tran'; did you mean 'train'"),
        ("train[5:5]", "not empty, got those from 5 to 5"),
        ("train[:61]", "within the 60 examples"),
        ("train[a:]", r"unknown split 'train\[a:\]'; expected a part"),
        ("", "unknown split ''"),
        ("train+", "unknown split 'train+'"),
    ],
)
def test_a_split_that_is_none_is_refused(split, said):
    with pytest.raises(ValueError, match=said.replace("+", r"\+")):
        resolve(split, {"train": 60})


def test_every_source_has_parts_of_parts():
    whole, test = data.load("mnist"), data.load("mnist", "test")
    first, rest = data.load("mnist", "train[:90%]"), data.load("mnist", "train[90%:]+test")
    assert len(first.images) == 54_000
    np.testing.assert_array_equal(np.concatenate([whole.images, test.images])[54_000:], rest.images)
    assert first.fingerprint == data.fingerprint(whole.images[:54_000], whole.labels[:54_000])


# IDX.


def idx(array):
    sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    (tmp_path / "idx").mkdir()
    for part, rows in (("train", slice(8)), ("t10k", slice(8, 12))):
        (tmp_path / "idx" / f"{part}-images-idx3-ubyte").write_bytes(idx(GREY[rows]))
        packed = gzip.compress(idx(LABELS[rows]))
        (tmp_path / "idx" / f"{part}-labels-idx1-ubyte.gz").write_bytes(packed)
    return tmp_path / "idx"


def test_idx_files_are_read_gzipped_or_not(idx_folder):
    train, test = data.train_and_test(f"idx:{idx_folder}")
    np.testing.assert_array_equal(train.images, GREY[:8, ..., None])
    np.testing.assert_array_equal(test.images, GREY[8:, ..., None])
    np.testing.assert_array_equal(test.labels, LABELS[8:])
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)


def test_the_archives_of_mnist_are_mnist():
    archives = Path(data.__file__).parent / "mnist_archives"
    for split in ("train", "test"):
        assert data.load(f"idx:{archives}", split)[2] == data.load("mnist", split)[2]


@pytest.mark.parametrize("packed", ["originally", "by Debian"])
def test_fashion_mnist_is_read(packed):
    train, test = data.train_and_test(f"idx:{fashion_archives(packed)}")
    assert (train.images.shape, test.images.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert np.bincount(train.labels).tolist() == [6_000] * 10
    assert round(float(train.images.mean() / 255), 4) == 0.2860  # Xiao et al. (2017)


def test_one_of_several_idx_sets_is_named(idx_folder):
    for path in list(idx_folder.iterdir()):
        shutil.copy(path, idx_folder / f"emnist-letters-{path.name}")
    with pytest.raises(DataError, match="of several sets in a folder, name one"):
        data.load(f"idx:{idx_folder}")
    assert len(data.load(f"idx:{idx_folder}/emnist-letters").images) == 8


def test_emnist_is_read_upright(tmp_path):
    # Its letters have the labels 1 to 26.
    letters = LABELS + 1
    stored = GREY.swapaxes(1, 2)
    for kind, packed in (("images-idx3", stored), ("labels-idx1", letters)):
        path = tmp_path / f"emnist-letters-test-{kind}-ubyte.gz"
        path.write_bytes(gzip.compress(idx(packed)))
        # Another set in the same folder, as another name has it: as it is stored.
        (tmp_path / f"not-emnist-letters-test-{kind}-ubyte").write_bytes(idx(packed))
    found = data.load(f"idx:{tmp_path}/emnist-letters", "test")
    np.testing.assert_array_equal(found.images, GREY[..., None])
    np.testing.assert_array_equal(found.labels, letters)
    assert found.images.flags.c_contiguous
    assert found.fingerprint == data.fingerprint(GREY[..., None], letters.astype(np.int32))
    other = data.load(f"idx:{tmp_path}/not-emnist", "test")
    np.testing.assert_array_equal(other.images, stored[..., None])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: b[:-3], "damaged"),
        (lambda b: b"", "has 0 bytes"),
        (lambda b: b + b"x", "damaged"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "not an IDX file of bytes"),
        (lambda b: gzip.compress(b)[:-9], "damaged"),
        (lambda b: gzip.compress(b)[:12] + b"\xff\xff" + gzip.compress(b)[14:], "damaged"),
        (lambda b: b"<html>not found</html>", "begins with 3c 68"),
    ],
)
def test_a_damaged_idx_file_is_named(idx_folder, damage, said):
    path = idx_folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{said}"):
        data.load(f"idx:{idx_folder}")


def test_a_missing_idx_file_is_named(idx_folder, tmp_path):
    (idx_folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"one file of images and one of labels, got train-images"):
        data.load(f"idx:{idx_folder}")
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="holds no IDX files"):
            data.load(f"idx:{folder}")


def test_labels_that_do_not_fit_are_refused(idx_folder):
    (idx_folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(LABELS))
    with pytest.raises(ValueError, match=r"labels must be whole numbers \[4\].* got uint8 \[12\]"):
        data.load(f"idx:{idx_folder}", "test")


# NPZ and NPY.


def test_npz_and_npy_are_read(tmp_path):
    np.savez(tmp_path / "plain.npz", images=COLOUR, labels=LABELS)
    found = data.load(f"npz:{tmp_path}/plain.npz")
    np.testing.assert_array_equal(found.images, COLOUR)
    np.testing.assert_array_equal(found.labels, LABELS)
    split = {"x_train": GREY[:8], "y_train": LABELS[:8, None], "x_test": GREY[8:]}
    np.savez_compressed(tmp_path / "keras.npz", **split, y_test=LABELS[8:])
    train, test = data.train_and_test(f"npz:{tmp_path}/keras.npz")
    np.testing.assert_array_equal(train.images[..., 0], GREY[:8])
    np.testing.assert_array_equal(train.labels, LABELS[:8])
    np.testing.assert_array_equal(test.labels, LABELS[8:])
    np.save(tmp_path / "images.npy", GREY)
    found = data.load(f"npy:{tmp_path}/images.npy")
    np.testing.assert_array_equal(found.images[..., 0], GREY)
    assert not found.labels.any()


class Trap:
    """Leaves a mark when it is made again from a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.reliability(24)
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_objects_in_a_file_are_never_made(tmp_path, kind):
    trap = np.array([Trap(tmp_path / "sprung")], object)
    path = tmp_path / f"evil.{kind}"
    if kind == "npz":
        np.savez(path, images=trap)
    else:
        np.save(path, trap, allow_pickle=True)
    with pytest.raises(DataError, match="Python objects, which are never loaded"):
        data.load(f"{kind}:{path}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "contents", [b"", b"no array", b"PK\x03\x04 cut off", b"\x93NUMPY\x01\x00"]
)
def test_a_file_without_arrays_is_refused(tmp_path, contents):
    (tmp_path / "bad.npz").write_bytes(contents)
    with pytest.raises(DataError, match=r"bad\.npz: damaged, or not a file of plain arrays"):
        data.load(f"npz:{tmp_path}/bad.npz")


def test_a_truncated_npz_is_refused(tmp_path):
    file = io.BytesIO()
    np.savez(file, images=COLOUR)
    for length in (30, 300, len(file.getvalue()) - 5):
        (tmp_path / "cut.npz").write_bytes(file.getvalue()[:length])
        with pytest.raises(DataError, match=r"cut\.npz"):
            data.load(f"npz:{tmp_path}/cut.npz")


def test_other_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="missing"):
        data.load(f"npz:{tmp_path}/none.npz")
    np.savez(tmp_path / "other.npz", pictures=GREY)
    with pytest.raises(ValueError, match=r"expected the arrays images .* got pictures"):
        data.load(f"npz:{tmp_path}/other.npz")
    np.savez(tmp_path / "float.npz", images=GREY / 255)
    with pytest.raises(ValueError, match=r"must be uint8 \[N, H, W\].* got float64 \[12, 5, 4\]"):
        data.load(f"npz:{tmp_path}/float.npz")


# Folders of pictures.


@pytest.fixture
def pictures(tmp_path):
    """Twelve colour pictures, in folders named by their class."""
    for i, (image, label) in enumerate(zip(COLOUR, LABELS, strict=True)):
        folder = tmp_path / "pictures" / "cab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return tmp_path / "pictures"


def test_classes_are_the_folders_in_the_order_of_their_names(pictures):
    (pictures / "a" / ".hidden.png").write_bytes(b"")
    (pictures / "a" / "notes.txt").write_text("no picture")
    found = data.load(f"folder:{pictures}")
    order = [i for name in "abc" for i in range(12) if "cab"[LABELS[i]] == name]
    np.testing.assert_array_equal(found.images, COLOUR[order])
    np.testing.assert_array_equal(found.labels, [0] * 4 + [1] * 4 + [2] * 4)


def test_train_and_test_are_folders_too(pictures, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(pictures, whole / "train")
    shutil.copytree(pictures / "b", whole / "test" / "b")
    train, test = data.train_and_test(f"folder:{whole}")
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert test.labels.tolist() == [1] * 4
    with pytest.raises(ValueError, match=r"unknown split of folder:.* 'val'"):
        data.load(f"folder:{whole}", "val")


@pytest.mark.parametrize("data_gb", ["", "1e-9"], ids=["in memory", "streamed"])
def test_images_of_a_folder_keep_the_paths_of_their_pictures(pictures, monkeypatch, data_gb):
    monkeypatch.setenv("GENMOD_DATA_GB", data_gb)
    shutil.copytree(pictures, pictures.parent / "whole" / "train")
    shutil.copytree(pictures, pictures.parent / "whole" / "test")
    (pictures / "b" / "04.png").unlink(missing_ok=True)
    bad = sorted(pictures.rglob("*.png"))[5]
    bad.write_bytes(b"no picture")

    def check(found, root):
        assert len(found.files) == len(found.images) == len(found.labels)
        for path, image, label in zip(found.files, found.images[:], found.labels, strict=True):
            with Image.open(path) as picture:
                np.testing.assert_array_equal(np.asarray(picture), image)
            assert Path(path).is_relative_to(root)
            assert Path(path).parent.name == found.classes[label]

    for split in ("train", "train[3:9]", "train[8:]+train[:2]"):
        found = data.load(f"folder:{pictures}", split, skip_corrupt=True)
        assert str(bad) not in found.files
        check(found, pictures)
    rest, held = data.train_and_test(f"folder:{pictures}", skip_corrupt=True)
    check(rest, pictures)
    check(held, pictures)
    assert not set(rest.files) & set(held.files)
    whole = pictures.parent / "whole"
    check(data.load(f"folder:{whole}", "test"), whole / "test")
    check(data.load(f"folder:{whole}", "train[:3]+test[2:5]"), whole)


def test_other_data_have_no_files(tmp_path):
    np.savez(tmp_path / "x.npz", images=COLOUR, labels=LABELS)
    assert data.load(f"npz:{tmp_path}/x.npz", "train[:3]").files == ()
    assert data.from_arrays(COLOUR).files == ()


def test_without_a_test_part_a_tenth_is_held_out(tmp_path):
    images = np.arange(25, dtype=np.uint8)[:, None, None] + np.zeros((1, 2, 2), np.uint8)
    np.save(tmp_path / "images.npy", images)
    train, test = data.train_and_test(f"npy:{tmp_path}/images.npy")
    assert (len(train.images), len(test.images)) == (23, 2)
    values = [part.images[:, 0, 0, 0].tolist() for part in (train, test)]
    assert sorted(values[0] + values[1]) == list(range(25)), "each once"
    assert values == [sorted(part) for part in values], "in their order"
    np.save(tmp_path / "few.npy", images[:9])
    with pytest.raises(ValueError, match="9 examples and no split 'test'; expected at least 10"):
        data.train_and_test(f"npy:{tmp_path}/few.npy")


def test_grey_pictures_stay_grey_unless_there_is_colour(tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(GREY[0]).save(tmp_path / "p" / "0.png")
    assert data.load(f"folder:{tmp_path}/p").images.shape == (1, 5, 4, 1)
    Image.fromarray(COLOUR[1]).save(tmp_path / "p" / "1.png")
    found = data.load(f"folder:{tmp_path}/p").images
    np.testing.assert_array_equal(found, [np.repeat(GREY[0][..., None], 3, -1), COLOUR[1]])


@pytest.mark.parametrize("coloured", ["train", "test", None])
def test_a_grey_part_has_the_channels_of_the_others(tmp_path, coloured):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for i in range(3):
            image = COLOUR[i] if part == coloured and i == 2 else GREY[i]
            Image.fromarray(image).save(tmp_path / part / f"{i}.png")
    train, test = data.train_and_test(f"folder:{tmp_path}")
    depth = 1 if coloured is None else 3
    assert train.images.shape == test.images.shape == (3, 5, 4, depth)
    for found in (train, test):
        np.testing.assert_array_equal(found.images[0], np.repeat(GREY[0][..., None], depth, -1))


def test_what_is_for_choosing_is_a_part_of_its_own(tmp_path):
    for part, num in (("train", 4), ("validation", 2), ("test", 3)):
        (tmp_path / part).mkdir()
        for i in range(num):
            Image.fromarray(GREY[i]).save(tmp_path / part / f"{i}.png")
    train, test = data.train_and_test(f"folder:{tmp_path}")
    assert (len(train.images), len(test.images)) == (4, 3)
    assert len(data.load(f"folder:{tmp_path}", "val").images) == 2
    shutil.rmtree(tmp_path / "test")
    assert len(data.train_and_test(f"folder:{tmp_path}")[1].images) == 2  # better than none


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    (tmp_path / "p").mkdir()
    picture = Image.fromarray(COLOUR[0])
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "p" / "0.png", exif=exif)
    found = data.load(f"folder:{tmp_path}/p").images
    np.testing.assert_array_equal(found[0], np.rot90(COLOUR[0], -1))


def test_pictures_are_resized_by_their_shorter_side_and_cropped_in_the_middle(tmp_path):
    (tmp_path / "p").mkdir()
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 255  # the middle square
    Image.fromarray(wide).save(tmp_path / "p" / "0.png")
    Image.fromarray(wide.swapaxes(0, 1)).save(tmp_path / "p" / "1.png")
    with pytest.raises(
        ValueError, match=r"one size, got \[16, 32\] .* and \[32, 16\] .*image_size"
    ):
        data.load(f"folder:{tmp_path}/p")
    found = data.load(f"folder:{tmp_path}/p", image_size=8).images
    assert found.shape == (2, 8, 8, 3)
    assert (found[:, 1:-1, 1:-1] == 255).all()
    with pytest.raises(ValueError, match="image_size must be a positive whole number, got -1"):
        data.load(f"folder:{tmp_path}/p", image_size=-1)


@pytest.mark.parametrize("contents", [b"", b"no picture", "truncated"])
def test_a_corrupt_picture_is_named_or_left_out_and_counted(pictures, capsys, contents):
    path = pictures / "a" / "01.png"
    path.write_bytes(path.read_bytes()[:60] if contents == "truncated" else contents)
    with pytest.raises(DataError, match=r"a/01\.png: cannot be read .*skip_corrupt"):
        data.load(f"folder:{pictures}")
    assert len(data.load(f"folder:{pictures}", skip_corrupt=True).images) == 11
    assert re.search(r"1 of 12 pictures cannot be read .*01\.png", capsys.readouterr().err)


def test_a_picture_of_sixteen_bits_is_refused(tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(GREY[0].astype(np.uint16) * 257).save(tmp_path / "p" / "0.png")
    with pytest.raises(DataError, match=r"0\.png: .* expected 8 bits a channel"):
        data.load(f"folder:{tmp_path}/p")


def test_folders_without_pictures_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, said in (
        ("empty", "holds no pictures"),
        ("none", "missing"),
        ("file", "not a folder"),
    ):
        with pytest.raises(DataError, match=f"{name}: {said}"):
            data.load(f"folder:{tmp_path}/{name}")


# What is decoded is kept.


def test_what_was_decoded_is_mapped_until_a_picture_changes(pictures, cache, monkeypatch):
    first = data.load(f"folder:{pictures}")
    monkeypatch.setattr(examples, "read_picture", None)
    again = data.load(f"folder:{pictures}")
    assert isinstance(again.images, np.memmap)
    assert again.fingerprint == first.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(cache.parent))
    Image.fromarray(COLOUR[0][::-1]).save(pictures / "c" / "00.png")
    assert data.load(f"folder:{pictures}").fingerprint != first.fingerprint


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_what_was_kept_is_never_trusted(pictures, cache, damage):
    first = data.load(f"folder:{pictures}")
    (path,) = cache.glob("*/images.npy")
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.unlink()
    if damage != "delete":
        path.write_bytes(contents if damage == "flip" else contents[:-5])
    again = data.load(f"folder:{pictures}")
    assert again.fingerprint == first.fingerprint
    assert [p.name for p in cache.iterdir()] == [path.parent.name], "nothing half-kept"


def test_without_room_to_keep_it_is_decoded_each_time(pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path / "file"))
    np.testing.assert_array_equal(
        data.load(f"folder:{pictures}").images, data.load(f"folder:{pictures}").images
    )


def test_many_may_keep_the_same_at_once(pictures, cache):
    found = []
    load = lambda: found.append(data.load(f"folder:{pictures}").fingerprint)  # noqa: E731
    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list(cache.iterdir())) == 1


# Arrays and functions.


def test_arrays_of_any_library_will_do():
    ours = data.from_arrays(jnp.asarray(GREY), jnp.asarray(LABELS))
    assert ours.images.shape == (12, 5, 4, 1)
    assert ours.fingerprint == data.from_arrays(GREY[..., None], LABELS).fingerprint
    assert not data.from_arrays(COLOUR).labels.any()


@pytest.mark.reliability(21)
@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (GREY.astype(np.float32), None, r"images must be uint8 .* got float32 \[12, 5, 4\]"),
        (GREY[0], None, r"got uint8 \[5, 4\]"),
        (GREY[:0], None, r"got uint8 \[0, 5, 4\]"),
        (GREY, LABELS[:5], r"labels must be whole numbers \[12\].* got uint8 \[5\]"),
        (GREY, LABELS / 2, "got float64"),
        (GREY, LABELS.astype(int) - 1, r"labels must be from 0 to 2\*\*31 - 1, got -1 to 1"),
        (GREY, LABELS.astype(int) + 2**31, "got 2147483648 to"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(images, labels, said):
    with pytest.raises(ValueError, match=said):
        data.from_arrays(images, labels)


def test_a_function_is_a_source(tmp_path):
    def mine():
        return data.from_arrays(GREY, LABELS)

    assert data.load(mine).fingerprint == mine().fingerprint
    assert len(data.load(mine, "train[:50%]").images) == 6
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\nfrom genmod import data\n"
        "def digits():\n    return data.from_arrays(np.zeros((3, 2, 2), np.uint8))\n"
        "def wrong():\n    return 3\n"
    )
    assert data.load(f"call:{file}:digits").images.shape == (3, 2, 2, 1)
    for name, said in (
        (f"call:{file}:wrong", r"wrong\(\) must return a genmod.data.Dataset, got int"),
        (f"call:{file}:none", "has no function 'none'"),
        (f"call:{file}x:digits", "there is no file"),
    ):
        with pytest.raises(ValueError, match=said):
            data.load(name)


def test_a_source_says_all_that_load_is_told(pictures):
    source = data.Source(f"folder:{pictures}", image_size=3)
    assert source.load("train[:2]").images.shape == (2, 3, 3, 3)
    train, test = source.train_and_test()
    assert (len(train.images), len(test.images)) == (11, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mnist", {"image_size": 3}),
        ("mnist", {"skip_corrupt": True}),
        ("mnist", {"manual_dir": "there"}),
        ("npy:x.npy", {"data_dir": "there"}),
        ("folder:x", {"data_dir": "there"}),
        (lambda: None, {"data_dir": "there"}),
    ],
)
def test_an_option_that_means_nothing_is_refused(name, options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} '.*' is not for data set"):
        data.load(name, **options)


# Published divisions of MNIST.


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("iwae", (59_600, 400)), ("vamp", (50_000, 10_000)), ("full", (60_000, 0))],
)
@pytest.mark.end_to_end
def test_published_splits_hold_what_their_papers_say(name, sizes):
    source = data.Source(splits=name)
    whole, test = data.load("mnist"), data.load("mnist", "test")
    first = 0
    for part, size in zip(("train", "val"), sizes, strict=True):
        if not size:
            with pytest.raises(ValueError, match=f"unknown split of {name} '{part}'"):
                source.load(part)
            continue
        found = source.load(part)
        np.testing.assert_array_equal(found.images, whole.images[first : first + size])
        np.testing.assert_array_equal(found.labels, whole.labels[first : first + size])
        places = np.arange(first, first + size, dtype="<i4").tobytes()
        digest = hashlib.sha256(b"train:" + places).hexdigest()
        assert source.protocol()[part]["places"] == f"sha256:{digest}"
        first += size
    train, held = source.train_and_test()
    assert len(train.images) == sizes[0]
    assert held.fingerprint == test.fingerprint


def test_published_splits_are_of_sets_of_that_size(tmp_path):
    np.save(tmp_path / "images.npy", GREY)
    with pytest.raises(ValueError, match=r"needs 60,000 images in 'train', as MNIST has; .* 12"):
        data.Source(f"npy:{tmp_path}/images.npy", splits="vamp").load()


def test_what_is_done_with_the_data_has_a_name():
    images = np.zeros((6, 8, 8, 1), np.uint8)
    flipped = data.augmented(data.compose(data.flip, data.translate()), data.binarized)
    for stream in (True, False):
        for prepare, name in (
            (data.binarized, "binarized"),
            (data.dequantized, "dequantized"),
            (flipped, "augmented(compose, binarized)"),
            (lambda keys, x: x, "test_what_is_done_with_the_data_has_a_name.<locals>.<lambda>"),
        ):
            batch_at = data.batches(images, batch_size=4, prepare=prepare, stream=stream)
            assert data.describe(batch_at) == {
                "examples": 6,
                "batch_size": 4,
                "order": "shuffled epochs",
                "prepare": name,
            }
    assert data.describe(lambda key, step: step) == {}
    assert data.Source().protocol() == {"splits": "own"}
