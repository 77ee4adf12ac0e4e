import functools
import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from commands import fashion_archives
from PIL import Image

from genmod import data, rng
from genmod.data import DataError, tfds_prepare
from genmod.data import tfds as stored

GREY = tfds.features.Image(shape=(8, 8, 1))
ANY_SHAPE = tfds.features.Image(shape=(None, None, 1))
DIGIT = tfds.features.ClassLabel(num_classes=10)
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 64).astype(np.int32)


class Stored(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes given examples in the given order: a data set of TFDS, made without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def __init__(self, name, features, splits, **kwargs):
        self.name, self.features, self.splits = name, features, splits
        super().__init__(**kwargs)

    def _info(self):
        features = tfds.features.FeaturesDict(self.features)
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(part) for split, part in self.splits.items()}

    def _generate_examples(self, examples):
        return enumerate(examples)


def png(image):
    # TFDS encodes arrays with TensorFlow, but stores a PNG file as it is.
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    file.seek(0)
    return file


def prepare(folder, name, features, splits, num_shards=None, **kwargs):
    tfds.disable_progress_bar()
    builder = Stored(name, features, splits, data_dir=folder, **kwargs)
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(num_shards=num_shards),
    )
    return builder


def prepare_digits(folder, name="tiny_digits", **kwargs):
    examples = [
        {"image": png(image), "label": label}
        for image, label in zip(IMAGES, LABELS.tolist(), strict=True)
    ]
    splits = {"train": examples[:48], "test": examples[48:]}
    return prepare(folder, name, {"image": GREY, "label": DIGIT}, splits, **kwargs)


def load(name, split, data_dir=None, manual_dir=None):
    """The images and labels of a data set of TFDS."""
    return data.load(f"tfds:{name}", split, data_dir=data_dir, manual_dir=manual_dir)[:2]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"went to the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def without_tensorflow(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find(name)
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare_digits(folder)
    return str(folder)


@pytest.fixture
def files(tmp_path):
    """The folder of a data set of one's own to damage, under tmp_path."""
    prepare_digits(tmp_path)
    return tmp_path / "tiny_digits" / "1.0.0"


@pytest.mark.parametrize("name", ["tiny_digits", "tiny_digits:1.0.0", "tiny_digits:1.*.*"])
@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", slice(48)),
        ("test", slice(48, 64)),
        ("train[:50%]", slice(24)),
        ("train[10:13]", slice(10, 13)),
        ("train+test", slice(64)),
        ("train[40:]+test[:0]", slice(40, 48)),
    ],
)
def test_reads_exactly_what_was_written(prepared, name, split, expected):
    images, labels = load(name, split, prepared)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(images, IMAGES[expected])
    np.testing.assert_array_equal(labels, LABELS[expected])


def test_a_file_that_was_exchanged_is_another_data_set(files):
    # Its name, length and time may be those of the one before: case 1 of the reported troubles.
    before = stored.examples("tiny_digits", "train", str(files.parents[1])).state
    path = next(files.glob("*train*"))
    shutil.copy2(path, files / "copy")
    os.replace(files / "copy", path)
    assert stored.examples("tiny_digits", "train", str(files.parents[1])).state != before


def test_the_names_of_classes_are_those_of_its_description(tmp_path):
    label = tfds.features.ClassLabel(names=["cat", "dog"])
    examples = [{"image": png(image), "label": "dog"} for image in IMAGES[:3]]
    prepare(tmp_path, "named", {"image": GREY, "label": label}, {"train": examples})
    found = data.load("tfds:named", data_dir=str(tmp_path))
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [1, 1, 1]


def test_factors_are_those_of_each_image_and_the_fewest_are_the_labels(tmp_path):
    sizes = {"label_shape": 3, "label_scale": 6, "label_x_position": 32}
    features = {name: tfds.features.ClassLabel(num_classes=size) for name, size in sizes.items()}
    other = {"value_scale": tfds.features.Tensor(shape=(), dtype=np.float32)}
    draw = np.random.default_rng(0)
    factors = {name: draw.integers(0, size, 64) for name, size in sizes.items()}
    examples = [
        {"image": png(image), "value_scale": np.float32(0.5)}
        | {name: int(values[i]) for name, values in factors.items()}
        for i, image in enumerate(IMAGES)
    ]
    prepare(tmp_path, "forms", {"image": GREY, **features, **other}, {"train": examples})
    found = data.load("tfds:forms", "train[10:]", data_dir=str(tmp_path))
    np.testing.assert_array_equal(found.images, IMAGES[10:])
    np.testing.assert_array_equal(found.labels, factors["label_shape"][10:])
    for _ in range(2):  # the second time from the cache
        known = data.factors_of("tfds:forms", "train[10:]", data_dir=tmp_path)
        expected = np.stack([factors[name] for name in sorted(factors)], axis=1)
        np.testing.assert_array_equal(known, expected[10:])


def test_labelled_digits_have_no_factors(prepared):
    with pytest.raises(ValueError, match=r"data set with factors expected, got .* single"):
        data.factors_of("tfds:tiny_digits", data_dir=prepared)


def test_advice_on_another_decoder_is_not_passed_on(prepared, caplog):
    # Each process said it anew: case 27 of the reported troubles.
    load("tiny_digits", "train", prepared)
    for message in ("OpenCV is not installed. We recommend using it.", "The disk is full."):
        logging.getLogger("absl").warning(message)
    assert caplog.messages == ["The disk is full."]


def test_is_reached_by_the_public_door(prepared):
    found = data.load("tfds:tiny_digits", "test", data_dir=prepared)
    np.testing.assert_array_equal(found.images, IMAGES[48:])
    assert found.fingerprint == data.fingerprint(IMAGES[48:], LABELS[48:])


def test_default_folder_is_that_of_tfds(prepared, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", prepared)
    np.testing.assert_array_equal(load("tiny_digits", "test", None)[0], IMAGES[48:])


def test_config_default_and_named(tmp_path):
    config = tfds.core.BuilderConfig(name="grey", version="2.0.0")

    class WithConfig(Stored, skip_registration=True):
        name = "with_config"
        BUILDER_CONFIGS = [config]  # noqa: RUF012

    features = {"image": GREY, "label": DIGIT}
    splits = {"train": [{"image": png(IMAGES[0]), "label": 3}]}
    WithConfig("with_config", features, splits, data_dir=tmp_path).download_and_prepare(
        file_format="array_record"
    )
    for name in ("with_config", "with_config/grey", "with_config/grey:2.0.0"):
        np.testing.assert_array_equal(load(name, "train", str(tmp_path))[0], IMAGES[:1])
    with pytest.raises(DataError, match=r"found: with_config/grey/2\.0\.0\)"):
        load("with_config/colour", "train", str(tmp_path))


@pytest.mark.reliability(23)
@pytest.mark.end_to_end
def test_needs_neither_tensorflow_nor_network(prepared, tmp_path):
    # A TensorFlow that cannot be imported, so that the test means the same where there is one.
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('TensorFlow was imported')")
    script = f"""
        import socket, sys
        sys.path.insert(0, {str(tmp_path)!r})

        def refuse(*args, **kwargs):
            raise AssertionError("went to the network")

        socket.socket.connect = socket.getaddrinfo = refuse

        import genmod.data.tfds as loader
        from genmod import data, rng
        assert "tensorflow_datasets" not in sys.modules
        loader.importlib.util.find_spec = lambda name: None  # so nothing can be prepared

        images = data.load("tfds:tiny_digits", data_dir={prepared!r}).images
        assert images.shape == (48, 8, 8, 1)
        for name in ("tiny_digit", "mnist", "accentdb", "huggingface:mnist"):
            try:
                data.load(f"tfds:{{name}}", data_dir={prepared!r})
            except (ValueError, data.DataError):
                pass
            else:
                raise AssertionError(name)
        assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


@pytest.mark.parametrize("split", ["train", "test[25%:]", "train+test"])
@pytest.mark.end_to_end
def test_it_is_streamed_by_processes_in_the_same_order(prepared, monkeypatch, split):
    whole = data.load("tfds:tiny_digits", split, data_dir=prepared)
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-7")
    monkeypatch.setenv("GENMOD_WORKERS", "1")
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(Path(prepared) / f"cache-{len(whole.images)}"))
    streamed = data.load("tfds:tiny_digits", split, data_dir=prepared)
    assert isinstance(streamed.images, data.StreamedImages)
    assert streamed.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(streamed.labels, whole.labels)
    every = np.arange(len(whole.images))
    (read,) = streamed.images.read([every[::-1]])
    np.testing.assert_array_equal(read, whole.images[::-1])
    batches = [data.batches(one.images, batch_size=5) for one in (whole, streamed)]
    np.testing.assert_array_equal(*(at(rng.root(0), 30) for at in batches))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("tiny_digitz", "tiny_digits"),
        ("zzzzzz:kaggle", "none"),
        ("", "none"),
    ],
)
def test_unknown_name_gives_the_nearest(prepared, name, nearest):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'.*nearest: {nearest}"):
        load(name, "train", prepared)


@pytest.mark.parametrize(
    ("name", "folder", "found"),
    [
        ("mnist", "mnist", "nothing"),
        ("emnist/letters", "emnist", "nothing"),
        ("tiny_digits:2.0.0", "tiny_digits", "tiny_digits/1.0.0"),
        ("tiny_digits/colour", "tiny_digits", "tiny_digits/1.0.0"),
    ],
)
@pytest.mark.usefixtures("without_tensorflow")
def test_not_prepared_says_where_and_how(prepared, name, folder, found):
    with pytest.raises(DataError) as error:
        load(name, "train", prepared)
    first, *command = str(error.value).splitlines()
    assert f"{name!r} is not prepared in {prepared}/{folder} (found: {found})" in first
    assert "where TensorFlow is installed (pip install tensorflow-cpu importlib_resources)" in first
    assert len(command) == 2
    assert f"tfds.builder({name!r}, data_dir={prepared!r})" in command[1]
    assert 'file_format="array_record"' in command[1]
    compile(textwrap.dedent("\n".join(command)), "command", "exec")


@pytest.mark.usefixtures("without_tensorflow")
def test_missing_folder_is_not_prepared(tmp_path):
    with pytest.raises(DataError, match="not prepared"):
        load("mnist", "train", str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_a_bucket_is_not_asked_and_nothing_is_prepared_there():
    with pytest.raises(DataError, match="not prepared"):
        load("mnist", "train", "gs://tfds-data/datasets")


def test_other_file_format_is_refused(files, tmp_path):
    info = files / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match=r"stored as tfrecord, expected array_record.*\n.*\n.*"):
        load("tiny_digits", "train", str(tmp_path))


@pytest.mark.parametrize("split", ["trian", "", "train[", "train[:101%]", None, 3])
def test_unknown_split_names_those_there_are(prepared, split):
    with pytest.raises(ValueError, match=r"unknown split .*'train' \(48\), 'test' \(16\)"):
        load("tiny_digits", split, prepared)


@pytest.mark.parametrize("split", ["train[:0]", "train[5:5]", "train[5:2]"])
def test_empty_split(prepared, split):
    with pytest.raises(ValueError, match="is empty"):
        load("tiny_digits", split, prepared)


@pytest.mark.parametrize(
    ("features", "example"),
    [
        ({"image": GREY}, {"image": png(IMAGES[0])}),
        ({"picture": GREY, "label": DIGIT}, {"picture": png(IMAGES[0]), "label": 0}),
        (
            {"image": GREY, "label": tfds.features.Text()},
            {"image": png(IMAGES[0]), "label": "nine"},
        ),
        (
            {"image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.float32), "label": DIGIT},
            {"image": np.zeros((8, 8, 1), np.float32), "label": 0},
        ),
        (
            {"image": tfds.features.Tensor(shape=(64,), dtype=np.uint8), "label": DIGIT},
            {"image": np.zeros(64, np.uint8), "label": 0},
        ),
        (
            {"image": {"left": GREY}, "label": DIGIT},
            {"image": {"left": png(IMAGES[0])}, "label": 0},
        ),
        (
            {"image": GREY, "label": tfds.features.Tensor(shape=(2,), dtype=np.int64)},
            {"image": png(IMAGES[0]), "label": np.zeros(2, np.int64)},
        ),
    ],
)
def test_other_features_are_refused(tmp_path, features, example):
    prepare(tmp_path, "other", features, {"train": [example]})
    with pytest.raises(ValueError, match=r"features .*; expected 'image', uint8 \[H, W, C\]") as e:
        load("other", "train", str(tmp_path))
    assert all(name in str(e.value) for name in features)


def test_images_of_unstated_shape(tmp_path):
    features = {"image": ANY_SHAPE, "label": tfds.features.Scalar(np.int64)}
    same, other = ([{"image": png(image), "label": 300} for image in IMAGES[:3]] for _ in range(2))
    other.append({"image": png(IMAGES[0][:5]), "label": 1})
    prepare(tmp_path, "unstated", features, {"train": same, "test": other})
    images, labels = load("unstated", "train", str(tmp_path))
    np.testing.assert_array_equal(images, IMAGES[:3])
    assert labels.tolist() == [300, 300, 300]
    with pytest.raises(ValueError, match=r"one size, got \[8, 8\] .* and \[5, 8\] .*example 3"):
        load("unstated", "test", str(tmp_path))


def test_flipped_bit_is_never_read(files, tmp_path):
    path = files / "tiny_digits-train.array_record-00000-of-00001"
    good = path.read_bytes()
    draw = np.random.default_rng(2)
    complaints = []
    for place in draw.choice(np.flatnonzero(np.frombuffer(good, np.uint8)), 30):
        bad = bytearray(good)
        bad[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(bad)
        try:
            images, labels = load("tiny_digits", "train", str(tmp_path))
        except DataError as error:
            complaints.append(str(error))
        else:  # the bit means nothing
            np.testing.assert_array_equal(images, IMAGES[:48])
            np.testing.assert_array_equal(labels, LABELS[:48])
    assert len(complaints) > 20
    assert all(f"{path}: damaged" in complaint for complaint in complaints)


@pytest.mark.parametrize("size", [None, 0, 1000, 65536, 131071])
def test_truncated_or_missing_file(files, tmp_path, size):
    path = files / "tiny_digits-train.array_record-00000-of-00001"
    good = path.read_bytes()
    assert len(good) == 131072
    path.unlink() if size is None else path.write_bytes(good[:size])
    with pytest.raises(DataError) as error:
        load("tiny_digits", "train", str(tmp_path))
    assert str(path) in str(error.value)
    assert load("tiny_digits", "test", str(tmp_path))[0].shape == (16, 8, 8, 1)


def test_truncated_file_of_unencoded_arrays(tmp_path):
    # No PNG to be found broken: what lies past the end must not become labels of 0.
    features = {
        "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
        "label": tfds.features.Scalar(np.int32),
    }
    examples = [{"image": image, "label": 7} for image in IMAGES]
    builder = prepare(tmp_path, "raw", features, {"train": examples})
    np.testing.assert_array_equal(load("raw", "train", str(tmp_path))[0], IMAGES)
    (path,) = builder.info.splits["train"].filepaths
    path.write_bytes(path.read_bytes()[:65536])
    with pytest.raises(DataError, match="damaged or missing"):
        load("raw", "train", str(tmp_path))


def test_damage_is_blamed_on_its_file(tmp_path):
    prepare_digits(tmp_path, "in_three", num_shards=3)
    folder = tmp_path / "in_three" / "1.0.0"
    np.testing.assert_array_equal(load("in_three", "train", str(tmp_path))[0], IMAGES[:48])
    (folder / "in_three-train.array_record-00001-of-00003").unlink()
    with pytest.raises(
        DataError, match=r"in_three-train.array_record-00001-of-00003: .*example 16 "
    ):
        load("in_three", "train", str(tmp_path))
    assert len(load("in_three", "train[:16]", str(tmp_path))[0]) == 16


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("contents", [None, b"", b"half", b"\xff\xfe", b"{}", b"[1]"])
def test_damaged_description(files, tmp_path, file, contents):
    path = files / file
    good = path.read_bytes()
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(good[: len(good) // 2] if contents == b"half" else contents)
    with pytest.raises(DataError, match="tiny_digits"):
        load("tiny_digits", "train", str(tmp_path))


def test_description_without_splits(files, tmp_path):
    path = files / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": []}))
    with pytest.raises(ValueError, match="there is: none"):
        load("tiny_digits", "train", str(tmp_path))


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Has a script in place of the process that prepares; its folders are in `root`, `stage`."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    start = f"""
        import json, os, pathlib, subprocess, sys, time
        root = pathlib.Path({str(tmp_path)!r})
        stage = root / ".preparing-mnist"
        (root / "started").open("a").write("x")
    """

    def use(script):
        code = textwrap.dedent(start) + textwrap.dedent(script)
        monkeypatch.setattr(
            tfds_prepare, "_command", lambda name, root, manual_dir: [sys.executable, "-c", code]
        )

    return use


DOWNLOADING = """
part = root / "downloads" / "mnist" / "train.gz.tmp.0123"
part.mkdir(parents=True)
files = {"train.gz": "https://nowhere/train.gz", "test.gz": "https://nowhere/test.gz"}
(stage / "report").write_text(json.dumps({"files": files}) + "\\n")
"""


def left_in(folder):
    """What is left, but for the file of the lock."""
    return {path.name for path in folder.iterdir()} - {".preparing-mnist.lock", "started"}


@pytest.mark.end_to_end
@pytest.mark.parametrize("bytes_first", [0, 3])
@pytest.mark.reliability(23)
def test_a_network_that_does_not_answer_is_given_up(
    stub, tmp_path, monkeypatch, capfd, bytes_first
):
    # It downloads for longer than the deadline, as long as bytes come, and starts a process.
    stub(
        DOWNLOADING
        + f"""
for i in range({bytes_first}):
    (part / "train.gz").open("a").write("more")
    time.sleep(0.6)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
(root / "started").write_text(str(child.pid))
time.sleep(120)
"""
    )
    monkeypatch.setenv("GENMOD_DOWNLOAD_DEADLINE", "1")
    manual = tmp_path / "archives"
    manual.mkdir()
    (manual / "test.gz").touch()
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        load("mnist", "train", str(tmp_path), str(manual))
    assert 1 + 0.6 * max(bytes_first - 1, 0) < time.monotonic() - start < 30
    message = str(error.value)
    assert "no network within 1 s (GENMOD_DOWNLOAD_DEADLINE)" in message
    assert f"put these files in {manual} and give it as manual_dir:\n  train.gz  (https:" in message
    assert "test.gz" not in message
    assert f"copy {tmp_path}/mnist" in message
    assert f"preparing data set 'mnist' in {tmp_path}, from" in capfd.readouterr().err
    assert left_in(tmp_path) == {"archives"}
    assert not running(int((tmp_path / "started").read_text()))


def running(pid):
    for _ in range(100):
        try:
            # One that has ended and is not yet collected is not running.
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] == "Z":
                return False
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return False
        time.sleep(0.05)
    return True


@pytest.mark.end_to_end
def test_what_takes_long_and_downloads_nothing_is_waited_for(stub, tmp_path, monkeypatch):
    stub("time.sleep(2); sys.exit(7)")
    monkeypatch.setenv("GENMOD_DOWNLOAD_DEADLINE", "0.5")
    with pytest.raises(DataError, match="ended with exit code 7"):
        load("mnist", "train", str(tmp_path))


def test_a_failure_is_told_and_nothing_is_left(stub, tmp_path):
    # What others have begun, and what an earlier attempt has left, is told apart.
    other = tmp_path / "downloads" / "mnist" / "other.gz.tmp.4567"
    other.mkdir(parents=True)
    (tmp_path / ".preparing-mnist").mkdir()
    (tmp_path / ".preparing-mnist" / "report").write_text('{"refused": "long ago"}\n')
    stub(
        DOWNLOADING
        + """
(stage / "mnist" / "incomplete.3.0.1").mkdir(parents=True)
(stage / "report").open("a").write(json.dumps({"error": "DownloadError: HTTP code: 404."}) + "\\n")
sys.exit(1)
"""
    )
    with pytest.raises(
        DataError, match=r"DownloadError: HTTP code: 404\.; put these files"
    ) as error:
        load("mnist", "train", str(tmp_path))
    assert "  test.gz  (https://nowhere/test.gz)\n  train.gz" in str(error.value)
    assert left_in(tmp_path) == {"downloads"}
    assert list(tmp_path.rglob("*.tmp.*")) == [other]


def test_other_features_are_refused_before_preparing(stub, tmp_path):
    stub("""(stage / "report").write_text(json.dumps({"refused": "no image"})); sys.exit(1)""")
    with pytest.raises(ValueError, match="no image"):
        load("mnist", "train", str(tmp_path))
    assert left_in(tmp_path) == set()


@pytest.mark.parametrize("value", ["soon", "0", "-1", "inf", "nan"])
def test_a_deadline_that_is_none_is_refused(stub, tmp_path, monkeypatch, value):
    stub("sys.exit(1)")
    monkeypatch.setenv("GENMOD_DOWNLOAD_DEADLINE", value)
    with pytest.raises(ValueError, match="GENMOD_DOWNLOAD_DEADLINE must be"):
        load("mnist", "train", str(tmp_path))


def test_manual_dir_must_be_a_folder(stub, tmp_path):
    stub("sys.exit(1)")
    with pytest.raises(ValueError, match=r"manual_dir '.*nowhere' must be a folder"):
        load("mnist", "train", str(tmp_path), str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["tiny_digits", "huggingface:mnist", "mnits", "mnist:3"])
def test_only_what_tfds_has_code_for_is_prepared(stub, tmp_path, name):
    stub("sys.exit(1)")
    with pytest.raises((ValueError, DataError), match=r"unknown data set|not prepared"):
        load(name, "train", str(tmp_path))
    assert left_in(tmp_path) == set()
    assert not (tmp_path / "started").exists()


@pytest.mark.end_to_end
def test_two_processes_prepare_once(prepared, tmp_path, stub):
    # Both find nothing; the one that waits reads what the other has prepared.
    made = tmp_path / "made" / "mnist" / "1.0.0"
    shutil.copytree(Path(prepared) / "tiny_digits" / "1.0.0", made)
    for path in made.iterdir():
        path.write_bytes(path.read_bytes().replace(b'"tiny_digits"', b'"mnist"'))
        path.rename(path.with_name(path.name.replace("tiny_digits", "mnist")))
    stub("""
        import shutil
        time.sleep(3)
        shutil.copytree(root / "made" / "mnist", stage / "mnist")
    """)
    script = f"""
        import sys
        from genmod import data, rng
        from genmod.data import tfds, tfds_prepare
        tfds.importlib.util.find_spec = lambda name: object()
        tfds_prepare._command = lambda *_: {tfds_prepare._command("mnist", tmp_path, None)!r}
        print(data.load("tfds:mnist", data_dir={str(tmp_path)!r}).labels.tolist())
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [json.loads(out) for out, _ in said] == [LABELS[:48].tolist()] * 2, said
    assert sorted("waiting for another process" in err for _, err in said) == [False, True]
    assert (tmp_path / "started").read_text() == "x"
    assert left_in(tmp_path) == {"made", "mnist"}


def test_a_folder_in_the_way_is_named(stub, tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0.1" / "mine").touch()
    stub("""
        made = stage / "mnist" / "3.0.1"
        made.mkdir(parents=True)
        (made / "dataset_info.json").touch()
    """)
    with pytest.raises(DataError, match=r"mnist/3\.0\.1: in the way"):
        load("mnist", "train", str(tmp_path))
    assert left_in(tmp_path) == {"mnist"}


needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)
MNIST_ARCHIVES = str(resources.files("genmod.data") / "mnist_archives")


def as_set(dataset):
    pairs = zip(dataset.images, dataset.labels.tolist(), strict=True)
    return sorted((image.tobytes(), label) for image, label in pairs)


@pytest.mark.slow
@needs_tensorflow
def test_mnist_as_tfds_prepares_it_is_that_of_the_package(tmp_path):
    for split in ("train", "test"):
        found = data.load("tfds:mnist", split, data_dir=tmp_path, manual_dir=MNIST_ARCHIVES)
        assert as_set(found) == as_set(data.load("mnist", split))
    assert left_in(tmp_path) == {"mnist"}
    assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)


@pytest.mark.slow
@needs_tensorflow
def test_fashion_mnist_is_not_taken_for_mnist(tmp_path):
    archives = fashion_archives("originally")
    # Their archives have the same names.
    data.load("tfds:mnist", "test", data_dir=tmp_path, manual_dir=MNIST_ARCHIVES)
    found = data.load("tfds:fashion_mnist", "test", data_dir=tmp_path, manual_dir=archives)
    assert found.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(found.labels).tolist() == [1000] * 10
    pixels = gzip.decompress((archives / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((archives / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    images = np.frombuffer(pixels, np.uint8).reshape(10_000, 28, 28, 1)
    assert as_set(found) == as_set(data.Dataset(images, np.frombuffer(labels, np.uint8), ""))


@pytest.mark.slow
@needs_tensorflow
def test_a_server_that_accepts_and_is_silent_is_given_up(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("GENMOD_DOWNLOAD_DEADLINE", "3")
        with pytest.raises(DataError, match=r"no network within 3 s.*\n  t10k-images.*\(http"):
            data.load("tfds:fashion_mnist", data_dir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".preparing-fashion_mnist.lock"}


@pytest.mark.slow
@needs_tensorflow
def test_the_wrong_archives_are_refused(tmp_path):
    refuses_archives("fashion_mnist", tmp_path, MNIST_ARCHIVES)


@pytest.mark.slow
@needs_tensorflow
def test_archives_that_are_packed_again_are_refused_and_read_as_idx(tmp_path):
    archives = tmp_path / "archives"
    archives.mkdir()
    for file in Path(MNIST_ARCHIVES).glob("*.gz"):
        content = gzip.decompress(file.read_bytes())
        (archives / file.name).write_bytes(gzip.compress(content, mtime=0))
    refuses_archives("mnist", tmp_path / "prepared", archives)
    assert data.load(f"idx:{archives}", "test")[2] == data.load("mnist", "test")[2]


@pytest.mark.slow
@needs_tensorflow
def test_debians_fashion_mnist_is_refused(tmp_path):
    refuses_archives("fashion_mnist", tmp_path, fashion_archives("by Debian"))


def refuses_archives(name, folder, archives):
    with pytest.raises(DataError) as error:
        data.load(f"tfds:{name}", data_dir=folder, manual_dir=archives)
    (file,) = re.findall(r": (\S+): not the archive of http\S+: it has ", str(error.value))
    found, expected = re.findall(r"\b[0-9a-f]{64}\b", str(error.value))
    assert Path(file).parent == Path(archives)
    assert hashlib.sha256(Path(file).read_bytes()).hexdigest() == found != expected
    assert str(error.value).endswith(
        f"{expected}; one that was only packed again can be read with idx:{archives}"
    )
    assert {path.name for path in folder.iterdir()} == {f".preparing-{name}.lock"}


@pytest.fixture
def emnist(tmp_path, monkeypatch):
    """The archive of EMNIST with few images, which the process that prepares takes for its own.

    Its IDX files lie in `gzip`, too. A set has a config; it is all that the process is told anew.
    """
    draw = np.random.default_rng(3)
    (tmp_path / "gzip").mkdir()
    for config, part in itertools.product(("byclass", "letters", "digits"), SIZES):
        arrays = {
            "images-idx3": draw.integers(0, 256, (SIZES[part], 28, 28), np.uint8),
            "labels-idx1": draw.integers(1, 10, SIZES[part], np.uint8),
        }
        for kind, array in arrays.items():
            sizes = np.array(array.shape, ">i4").tobytes()
            content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            file = tmp_path / "gzip" / f"emnist-{config}-{part}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(content))
    (tmp_path / "archives").mkdir()
    shutil.make_archive(str(tmp_path / "archives" / "gzip"), "zip", tmp_path, "gzip")
    script = f"""
        import runpy
        import tensorflow_datasets as tfds
        emnist = tfds.builder_cls("emnist")
        info = tfds.core.download.checksums.compute_url_info
        emnist.url_infos = {{emnist.URL: info({str(tmp_path / "archives" / "gzip.zip")!r})}}
        for config in emnist.BUILDER_CONFIGS:
            config.train_examples, config.test_examples = {SIZES["train"]}, {SIZES["test"]}
        runpy.run_module("genmod.data.tfds_prepare", run_name="__main__")
    """
    command, code = tfds_prepare._command, textwrap.dedent(script)
    monkeypatch.setattr(
        tfds_prepare, "_command", lambda *given: [sys.executable, "-c", code, *command(*given)[3:]]
    )
    options = {"data_dir": tmp_path / "prepared", "manual_dir": tmp_path / "archives"}
    return functools.partial(data.load, **options)


SIZES = {"train": 30, "test": 10}


def assert_is_the_idx_set(found, folder, config, split):
    """TFDS has EMNIST's images as they are stored, on their side; from IDX they are upright."""
    upright = data.load(f"idx:{folder}/gzip/emnist-{config}", split)
    assert found.images.shape == (SIZES[split], 28, 28, 1)
    stored = data.Dataset(upright.images.swapaxes(1, 2), upright.labels, "")
    assert as_set(found) == as_set(stored) != as_set(upright)


@pytest.mark.slow
@needs_tensorflow
def test_configs_are_prepared_one_beside_the_other(emnist, tmp_path, request):
    place = tmp_path / "prepared" / "emnist"
    for split in SIZES:
        assert_is_the_idx_set(emnist("tfds:emnist/letters", split), tmp_path, "letters", split)
    assert {path.name for path in place.iterdir()} == {".config", "letters"}
    assert (place / "letters" / "3.1.0" / "dataset_info.json").is_file()
    letters = {path: path.read_bytes() for path in (place / "letters").rglob("*.*-of-*")}
    assert len(letters) == 2

    found = emnist("tfds:emnist/digits:3.1.0", "train")
    assert_is_the_idx_set(found, tmp_path, "digits", "train")
    # Without a config it is the first of TFDS's own, whichever are there.
    assert_is_the_idx_set(emnist("tfds:emnist", "test"), tmp_path, "byclass", "test")
    assert {path.name for path in place.iterdir()} == {".config", "letters", "digits", "byclass"}
    assert {path: path.read_bytes() for path in letters} == letters
    assert left_in(place.parent) == {"emnist", ".preparing-emnist.lock"}

    # Who has no TensorFlow reads all of them.
    request.getfixturevalue("without_tensorflow")
    for config in ("letters", "digits", "byclass"):
        found = emnist(f"tfds:emnist/{config}", "test")
        assert_is_the_idx_set(found, tmp_path, config, "test")
    with pytest.raises(DataError, match=r"found: emnist/byclass/3\.1\.0, emnist/digits/3\.1\.0, "):
        emnist("tfds:emnist/bymerge")


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("emnist/leters", "unknown config 'leters' of data set 'emnist'; nearest: letters; there"),
        ("mnist/digits", "unknown config 'digits' of data set 'mnist'; nearest: none; there is: n"),
        ("emnist/letters:9.*.*", r"unknown version '9.*.*' of .* 'emnist/letters'; there is: 3\.1"),
    ],
)
def test_an_unknown_config_or_version_is_refused(tmp_path, name, said):
    with pytest.raises(ValueError, match=said):
        data.load(f"tfds:{name}", data_dir=tmp_path)
    dataset = tfds_prepare.without_config(name)
    assert {path.name for path in tmp_path.iterdir()} == {f".preparing-{dataset}.lock"}


@pytest.mark.slow
@needs_tensorflow
def test_an_archive_without_a_config_is_named(emnist, tmp_path):
    with pytest.raises(DataError, match=r"emnist/bymerge' cannot .*emnist-bymerge-t.*-ubyte\.gz"):
        emnist("tfds:emnist/bymerge")
    assert {path.name for path in (tmp_path / "prepared").iterdir()} == {".preparing-emnist.lock"}
