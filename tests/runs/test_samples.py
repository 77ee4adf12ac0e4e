"""Samples as bytes, in NPZ files and in folders."""

import numpy as np
import pytest
from PIL import Image

from genmod import data, report, train
from genmod.experiment import Experiment
from genmod.runs import arrays, samples


def run_of(classes=(), labels=None):
    """As much of an experiment as is asked for its classes."""
    known = None if labels is None else train.Conditions(np.asarray(labels, np.int32))
    images = np.zeros((len(labels or [0]), 2, 2, 1), np.uint8)
    dataset = data.from_arrays(images, labels)._replace(classes=classes)
    learner = train.Learner(lambda *_: None, lambda *_: None, lambda *_: None, conditions=known)
    return Experiment(learner, lambda *_: None, dataset, 1)


def test_values_are_rounded_and_what_is_outside_is_clipped_and_counted():
    pixels = samples.Pixels()
    values = np.array([0.0, 1.0, 0.5, 0.1, -2.0, 1.5, 1.0001, -1e-5]).reshape(2, 2, 2, 1)
    np.testing.assert_array_equal(pixels(values).ravel(), [0, 255, 128, 26, 0, 255, 255, 0])
    assert pixels.remark.startswith("25.0% of the values were outside [0, 1] and are clipped")
    exact = samples.Pixels()
    every = np.arange(256).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(exact(every / np.float32(255)), every)
    np.testing.assert_array_equal(exact(every.astype(np.uint8)), every)
    assert exact.remark == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((3, 2)), r"samples must be images \[N, H, W, C\], got \[N, 2\] of this run"),
        (np.full((1, 2, 2, 1), np.nan), "samples must be finite, got 4 of 4 values that are not"),
    ],
)
def test_what_are_no_images_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        samples.Pixels()(values)


def test_an_array_is_written_in_rows_as_numpy_writes_it(tmp_path):
    draw = np.random.default_rng(0)
    whole = draw.integers(0, 256, (7, 3, 2, 1), np.uint8)
    others = {"codes": draw.normal(size=(7, 2)).astype(np.float32), "names": np.array(["a", "bc"])}
    rows = (whole[first : first + 3] for first in range(0, 7, 3))
    arrays.write_npz(tmp_path / "x.npz", "images", 7, rows, lambda: others)
    with np.load(tmp_path / "x.npz") as found:
        assert list(found) == ["images", "codes", "names"]
        for name, values in {"images": whole, **others}.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def write(folder, built, images, labels=None):
    halves = [slice(0, 3), slice(3, None)]
    drawn = [(images[half], None if labels is None else labels[half]) for half in halves]
    return samples.save_pictures(folder, built, drawn, len(images))


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (("cat", "a dog"), ["a dog", "cat"]),
        ((), ["0", "1"]),
        (("T-shirt/top", "bag"), ["0", "1"]),
        (("..", "bag"), ["0", "1"]),
        (("", "bag"), ["0", "1"]),
    ],
)
def test_folders_have_the_names_of_classes_that_can_be_names(tmp_path, classes, folders):
    labels = np.array([1, 0, 1, 1, 0])
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((5, 2, 2, 3), np.uint8)
    write(tmp_path / "out", run_of(classes, labels.tolist()), images, labels)
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    names = classes if set(folders) == set(classes) else ("0", "1")
    assert found == sorted(f"{names[label]}/{n}.png" for n, label in enumerate(labels))
    with Image.open(tmp_path / "out" / names[1] / "3.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), images[3])


def test_an_empty_folder_is_filled_and_a_filled_one_is_kept(tmp_path):
    images = np.zeros((4, 2, 2, 1), np.uint8)
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", run_of(), images)
    assert len(list((tmp_path / "out").iterdir())) == 4
    with pytest.raises(ValueError, match="is not empty; expected a new or empty folder"):
        write(tmp_path / "out", run_of(), images)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_images_of_two_channels_are_no_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"1 or 3 channels, and samples of this run are \[2, 2, 2"):
        write(tmp_path / "out", run_of(), np.zeros((4, 2, 2, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("classes", "words", "labels"),
    [
        ((), ["2"], [2]),
        ((), ["2", "0,2"], [2, 0, 2]),
        (("a", "b", "c"), ["c", "0"], [2, 0]),
        (("a", "b, c", "d"), ["b, c", "d, a"], [1, 2, 0]),
        (("1", "2", "0"), ["1,2", "0"], [0, 1, 2]),  # names that are numbers
    ],
)
def test_labels_are_asked_for_by_words(classes, words, labels):
    built = run_of(classes, [0, 1, 2])
    np.testing.assert_array_equal(samples.labels_asked(built, words), labels)


def test_many_classes_are_not_all_listed():
    built = run_of((), list(range(40)))
    with pytest.raises(ValueError, match=r"one of 0, 1, .*, 29 and 10 more, got '40'"):
        samples.labels_asked(built, ["40"])


def test_a_name_that_could_be_a_label_too_is_a_name():
    built = run_of(("1", "3"), [0, 1])
    np.testing.assert_array_equal(samples.labels_asked(built, ["3"]), [1])
    with pytest.raises(ValueError, match=r"one of 1 \(0\), 3 \(1\), got '0'"):
        samples.labels_asked(built, ["0"])
    assert report.class_names([0, 1], built.dataset.classes) == ["1", "3"]


def test_values_far_outside_are_said_to_be_clipped(tmp_path):
    built, images = run_of(), np.full((4, 2, 2, 1), -1.0)
    pixels = samples.save_arrays(tmp_path / "x.npz", built, [(images, None)], 4)
    assert "100.0% of the values were outside [0, 1]" in pixels.remark
    with np.load(tmp_path / "x.npz") as found:
        assert found["images"].max() == 0
