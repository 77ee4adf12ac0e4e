"""Troubles that users had with their files, each with what is right.

Numbers in brackets: those of the list of reported troubles, and of the careful reading of the code.
"""

import os
import sys

import numpy as np
import pytest
from PIL import Image

from genmod import data
from genmod._host import examples
from genmod.cli import pictures
from genmod.cli.commands import save
from genmod.data import notes, splits
from genmod.data.folders import folder
from genmod.errors import DataError


@pytest.fixture(autouse=True)
def said(monkeypatch, tmp_path_factory, capsys):
    """What has been said about data since it was asked last; nothing is remembered from others."""
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    notes.say.cache_clear()
    return lambda: capsys.readouterr().err


def picture(path, value=200, mode="L", size=(4, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)
    return path


def classes(root, names, num=3):
    for number, name in enumerate(names):
        for k in range(num):
            picture(root / name / f"{k}.png", 10 * number + k)
    return root


def load(root, split="train", **options):
    return data.load(f"folder:{root}", split, **options)


@pytest.mark.reliability(40)
def test_twins_are_not_each_other(tmp_path):
    """[1] The second folder was answered with the first one's images."""
    for name, value in (("a", 0), ("b", 255)):
        for k in range(3):
            path = picture(tmp_path / name / f"{k}.bmp", value)
            os.utime(path, (315532800, 315532800))
    assert load(tmp_path / "a").images.max() == 0
    assert load(tmp_path / "b").images.min() == 255


@pytest.mark.reliability(40)
def test_a_picture_that_was_exchanged_for_one_of_its_size_and_time_is_seen(tmp_path):
    """[1]"""
    path = picture(tmp_path / "a" / "0.bmp", 0)
    os.utime(path, (315532800, 315532800))
    assert load(tmp_path / "a").images.max() == 0
    picture(path, 255)
    os.utime(path, (315532800, 315532800))
    assert load(tmp_path / "a").images.min() == 255


def test_npy_files_that_are_streamed_are_not_each_other(tmp_path, monkeypatch):
    """[1]"""
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-6")
    fingerprints = set()
    for value in (3, 4):
        path = tmp_path / "x.npy"
        np.save(path, np.full((40, 8, 8), value, np.uint8))
        os.utime(path, (315532800, 315532800))
        fingerprints.add(data.load(f"npy:{path}").fingerprint)
    assert len(fingerprints) == 2


def transparent(mode):
    """Black strokes on transparency; the colour beneath is black, too."""
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((1, 2), (0, 0, 0, 255))
    if mode == "P":
        image = Image.frombytes("P", (4, 4), bytes(16 * [0]))
        image.putpalette([0, 0, 0, 0, 0, 0])
        image.putpixel((1, 2), 1)
        return image, {"transparency": 0}
    return image.convert(mode), {}


@pytest.mark.parametrize(
    ("mode", "colour"), [("L", 7), ("RGB", (7, 8, 9)), ("RGB", (0, 0, 0)), ("L", 0)]
)
def test_a_colour_that_stands_for_transparency_is_laid_on_the_ground(tmp_path, mode, colour):
    """[4] The kind without a channel of its own."""
    image = Image.new(mode, (4, 4), colour)
    drawn = 100 if mode == "L" else (100, 0, 50)
    image.putpixel((1, 2), drawn)
    image.save(tmp_path / "0.png", transparency=colour)
    found = load(tmp_path).images[0]
    assert found.shape[2] == len(mode)
    np.testing.assert_array_equal(found[2, 1], np.ravel(drawn))
    assert np.sum(found == 255) == 15 * len(mode)


def test_half_transparent_and_opaque_places(tmp_path, said):
    """[4] Only what is transparent changes."""
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 255))
    (tmp_path / "opaque").mkdir()
    image.save(tmp_path / "opaque" / "0.png")
    np.testing.assert_array_equal(load(tmp_path / "opaque").images[0, 0, 0], [10, 20, 30])
    assert "transparent" not in said()
    image.putpixel((0, 0), (10, 20, 30, 51))  # a fifth
    (tmp_path / "half").mkdir()
    image.save(tmp_path / "half" / "0.png")
    found = load(tmp_path / "half").images[0].astype(int)
    assert abs(found[0, 0] - [206, 208, 210]).max() <= 1
    np.testing.assert_array_equal(found[0, 1], [10, 20, 30])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_places_are_laid_on_a_ground(tmp_path, said, mode):
    """[4] They were black, as was all that was drawn on them."""
    image, options = transparent(mode)
    image.save(tmp_path / "0.png", **options)
    white = load(tmp_path)
    assert white.images.shape[3] == (1 if mode == "LA" else 3)
    assert white.images[0, 2, 1].max() == 0
    assert np.sum(white.images == 255) == 15 * white.images.shape[3]
    assert "1 of 1 pictures have transparent places, which are laid on white" in said()
    black = load(tmp_path, background="black")
    assert black.images.max() == 0
    assert black.fingerprint != white.fingerprint
    notes.say.cache_clear()
    load(tmp_path)
    assert "laid on white" in said(), "said again at the next start, from what was kept"


def test_a_ground_is_for_folders_alone(tmp_path):
    with pytest.raises(ValueError, match="background 'black' is not for data set 'mnist'"):
        data.load("mnist", background="black")
    picture(tmp_path / "0.png")
    with pytest.raises(ValueError, match="unknown background 'grey'"):
        load(tmp_path, background="grey")


@pytest.mark.parametrize("per_class", [20, 7])
def test_a_tenth_of_each_class_is_held_out(tmp_path, said, per_class):
    """[6] Of labels in turn, all that was held out was class 9."""
    labels = np.arange(10 * per_class) % 10
    path = tmp_path / "x.npz"
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    np.savez(path, images=images, labels=labels)
    train, test = data.train_and_test(f"npz:{path}")
    assert len(test.images) == len(labels) // 10
    counts = np.bincount(test.labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    together = np.concatenate([train.images, test.images]).reshape(len(labels), -1)
    assert len(np.unique(together, axis=0)) == len(labels)
    assert "no part to test on" in said()
    assert splits.HELD_OUT in train.held_out
    assert "sha256:" in train.held_out
    assert data.train_and_test(f"npz:{path}")[1].fingerprint == test.fingerprint


def test_what_is_held_out_is_spread_over_the_data():
    """[6]"""
    held = splits.held_out(np.zeros(1000, np.int32))
    assert len(held) == 100
    # Uniform places: their mean has a standard error of 1000 / sqrt(12 * 100) = 29.
    assert abs(held.mean() - 499.5) < 4 * 29
    assert len(np.unique(held % 10)) == 10


def test_classes_of_ten_examples_give_one_at_least():
    """[6]"""
    labels = np.repeat([0, 1, 2], [10, 985, 5])
    counts = np.bincount(labels[splits.held_out(labels)], minlength=3)
    assert counts.sum() == 100
    assert counts[0] >= 1


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("train", "test"), {"train", "test"}),
        (("training", "testing"), {"train", "test"}),
        (("Train", "VALID", "Test"), {"train", "val", "test"}),
        (("train",), {"train"}),
        (("bus", "train"), None),
        (("control", "test"), None),
    ],
)
def test_folders_are_parts_where_all_of_them_have_names_of_parts(tmp_path, said, names, parts):
    """[7, 8] A class called train was all that was read; testing pictures were trained on."""
    classes(tmp_path, [f"{name}/{c}" for name in names for c in "ab"])
    found = folder(str(tmp_path), size=None)
    if parts is None:
        assert found.classes == tuple(sorted(names))
        assert set(found.parts) == {"train"}
        assert "taken for classes" in said()
    else:
        assert found.classes == ("a", "b")
        assert set(found.parts) == parts
        assert ("taken for parts" in said()) == bool(set(names) - parts)


def test_a_folder_without_pictures_is_neither_class_nor_part(tmp_path):
    classes(tmp_path, ["train/a", "test/a"])
    (tmp_path / "labels").mkdir()
    assert set(folder(str(tmp_path), size=None).parts) == {"train", "test"}


def test_two_names_of_one_part_are_refused(tmp_path):
    classes(tmp_path, ["train/a", "val/a", "valid/a"])
    with pytest.raises(ValueError, match="val and valid are both the part 'val'"):
        folder(str(tmp_path), size=None)


def test_pictures_beside_parts_and_classes_are_told(tmp_path, said):
    classes(tmp_path / "one", ["train/a", "test/a"])
    picture(tmp_path / "one" / "cover.png")
    assert len(folder(str(tmp_path / "one"), size=None).pictures) == 6
    assert "1 pictures beside the parts are left out: cover.png" in said()
    classes(tmp_path / "two", ["a", "b"])
    picture(tmp_path / "two" / "cover.png")
    assert folder(str(tmp_path / "two"), size=None).classes == (".", "a", "b")
    assert "1 pictures beside the classes form another class: cover.png" in said()


def test_links_are_followed_and_loops_refused(tmp_path):
    """[9] Two of three classes were links: a third of the pictures was read."""
    classes(tmp_path / "elsewhere", ["b", "c"])
    root = classes(tmp_path / "links", ["a"])
    for name in "bc":
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    found = load(root)
    assert found.classes == ("a", "b", "c")
    assert len(found.images) == 9
    (root / "a" / "again").symlink_to(root)
    with pytest.raises(DataError, match="again: a link back to a folder that it lies in"):
        load(root)


def test_a_link_to_nothing_is_a_picture_that_cannot_be_read(tmp_path, said):
    """[9]"""
    picture(tmp_path / "0.png")
    (tmp_path / "1.png").symlink_to("/nowhere/1.png")
    with pytest.raises(DataError, match=r"1\.png: cannot be read"):
        load(tmp_path)
    assert len(load(tmp_path, skip_corrupt=True).images) == 1
    assert "1 of 2 pictures cannot be read and are left out" in said()


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    """[9] Its pictures would be missing without a word."""
    classes(tmp_path, "ab")
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"b: a folder that cannot be read \(Permission denied\)"):
        folder(str(tmp_path), size=None)


def test_what_is_no_file_is_never_opened(tmp_path, said):
    """[9] Opening a pipe would wait for ever; a class that is a link to nothing was none."""
    classes(tmp_path, "ab")
    os.mkfifo(tmp_path / "0.png")
    (tmp_path / "c").symlink_to("/nowhere/c")
    assert len(folder(str(tmp_path), size=None).pictures) == 6
    assert "2 files, 0.png (not a file), c (a broken link)" in said()


def test_runs_and_what_genmod_has_drawn_are_no_data(tmp_path, said):
    """[10] The second training was on the curves and samples of the first."""
    from matplotlib.figure import Figure

    for k in range(3):
        picture(tmp_path / f"{k}.png")
    before = folder(str(tmp_path), size=None)
    run = tmp_path / "runs" / "pictures" / "seed-0"
    picture(run / "pictures" / "samples.png")
    (run / "record.json").write_text("{}")
    (run / "experiment.py").write_text("")
    for name in ("data.png", "grid.png"):
        save(Figure(figsize=(1, 1)), tmp_path / name)
    assert folder(str(tmp_path), size=None) == before
    remarks = said()
    assert "run folders are left out: runs/pictures/seed-0" in remarks
    assert "pictures that genmod has drawn are left out: data.png, grid.png" in remarks


@pytest.mark.parametrize("num", [1, 5, 9, 10, 19])
def test_few_pictures_are_enough_or_refused_before_training(tmp_path, num):
    """[13]"""
    for k in range(num):
        picture(tmp_path / f"{k}.png", k)
    read = lambda: data.train_and_test(f"folder:{tmp_path}")  # noqa: E731
    if num < 10:
        with pytest.raises(ValueError, match=f"has {num} examples and no split 'test'"):
            read()
    else:
        assert int(pictures.choose(tmp_path).flags["batch-size"]) == 1
        assert len(read()[1].images) == 1


def bytes_of(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (bytes_of(5, 1, 8, 8), r"C = 1 \(grey\) or 3.*is it \[N, C, H, W\] with C = 1.*transpose"),
        (bytes_of(5, 3, 8, 8), r"is it \[N, C, H, W\] with C = 3"),
        (bytes_of(5, 8, 8, 4), "if the last channel is opacity"),
        (bytes_of(5, 8, 8, 7), r"got \[5, 8, 8, 7\]$"),
        (bytes_of(5, 8, 8) / 255, r"float64 .*\(255 \* images\)\.round\(\)\.astype\(np\.uint8\)"),
        (bytes_of(5, 8, 8).astype(np.int64), r"int64 .*images\.astype\(np\.uint8\) converts them"),
        (bytes_of(5, 8, 8) > 127, r"bool .*255 \* images\.astype\(np\.uint8\)"),
        (bytes_of(5, 8, 8) - 300.0, "float64 .*, from -300 to"),
    ],
)
@pytest.mark.parametrize("kind", ["arrays", "npz", "npy", "streamed npy", "call"])
def test_arrays_that_are_no_images_are_refused_at_once(
    tmp_path, monkeypatch, kind, images, message
):
    """[19] Other channels failed after all epochs."""
    if kind == "streamed npy":
        monkeypatch.setenv("GENMOD_DATA_GB", "1e-9")
    np.savez(tmp_path / "x.npz", images=images)
    np.save(tmp_path / "x.npy", images)
    read = {
        "arrays": lambda: data.from_arrays(images),
        "npz": lambda: data.load(f"npz:{tmp_path / 'x.npz'}"),
        "call": lambda: data.load(lambda: data.Dataset(images, np.zeros(5, np.int32), "")),
    }
    with pytest.raises(ValueError, match=message):
        read.get(kind, lambda: data.load(f"npy:{tmp_path / 'x.npy'}"))()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.eye(5, dtype=np.int64), r"are they one-hot\? then labels.argmax"),
        (np.arange(5.0), r"labels\.astype\(np\.int32\) converts them"),
        (np.array(list("abcab")), r"np\.unique\(labels, return_inverse=True\)"),
    ],
)
def test_labels_that_are_no_numbers_are_told_what_makes_them_so(labels, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(bytes_of(5, 4, 4), labels)


@pytest.mark.parametrize("name", ["label", "y", "Targets", "classes", "train_labels", "Y_all"])
def test_labels_under_another_name_are_not_dropped(tmp_path, name):
    """[22] All labels were 0."""
    path = tmp_path / "x.npz"
    np.savez(path, images=bytes_of(6, 4, 4), **{name: np.arange(6)})
    with pytest.raises(ValueError, match=f"no array 'labels', but '{name}' holds 6 values"):
        data.load(f"npz:{path}")


def test_arrays_that_are_not_used_are_named(tmp_path, said):
    """[22]"""
    path = tmp_path / "x.npz"
    np.savez(path, images=bytes_of(6, 4, 4), labels=np.arange(6), centre=np.zeros(3))
    data.load(f"npz:{path}")
    assert "arrays that are not used: centre" in said()


def test_the_validation_part_of_an_npz_file_is_one(tmp_path):
    path = tmp_path / "x.npz"
    x, y = bytes_of(6, 4, 4), np.arange(6)
    np.savez(path, x_train=x, y_train=y, x_val=x[:2], y_val=y[:2])
    assert len(data.load(f"npz:{path}", "val").images) == 2
    assert len(data.train_and_test(f"npz:{path}")[1].images) == 2


def test_labels_of_one_part_alone_are_noted(tmp_path, said):
    """[22]"""
    x, y = bytes_of(6, 4, 4), np.arange(6)
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x)
    assert not data.load(f"npz:{tmp_path / 'x.npz'}", "test").labels.any()
    assert "no array 'y_test': all labels of 'x_test' are 0" in said()
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, test_labels=y)
    with pytest.raises(ValueError, match="no array 'y_test', but 'test_labels' holds 6 values"):
        data.load(f"npz:{tmp_path / 'x.npz'}")


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    """[23] "class 2" was folder 10."""
    found = load(classes(tmp_path, map(str, range(12)), num=2))
    assert found.classes == tuple(map(str, range(12)))
    np.testing.assert_array_equal(np.bincount(found.labels), 12 * [2])
    for label in range(12):
        assert set(found.images[found.labels == label][:, 0, 0, 0]) == {10 * label, 10 * label + 1}


@pytest.mark.costly
def test_the_command_shows_the_names_of_classes(genmod, tmp_path):
    """[23]"""
    for names, shown in (("cat dog", ["0 cat", "1 dog"]), ("0 1", ["0", "1"])):
        root = classes(tmp_path / names, names.split())
        ended = genmod("data", f"folder:{root}", "--out", tmp_path / "data.png")
        assert ended.code == 0, ended
        rows = ended.out[ended.out.index("class") :].splitlines()[1:3]
        assert [row.partition("  ")[0] for row in rows] == shown


def test_parts_of_parts_keep_the_names_of_their_classes(tmp_path):
    """[23]"""
    root = classes(tmp_path, ["cat", "dog"], num=10)
    for dataset in (load(root, "train[:5]"), load(root, "train[:2]+train[4:]")):
        assert dataset.classes == ("cat", "dog")
    assert all(part.classes == ("cat", "dog") for part in data.train_and_test(f"folder:{root}"))


@pytest.mark.parametrize("ending", ["gif", "tif"])
def test_a_picture_of_several_pages_is_said_to_be_its_first(tmp_path, said, ending):
    """[24]"""
    pages = [Image.new("L", (4, 4), value) for value in (10, 20, 30)]
    pages[0].save(tmp_path / f"0.{ending}", save_all=True, append_images=pages[1:])
    assert load(tmp_path).images.max() == 10
    assert "1 of 1 pictures have several pages or frames, of which the first is taken" in said()


def test_what_is_left_out_is_named_and_a_class_is_the_first_folder(tmp_path, said):
    """[24]"""
    for year in ("2020", "2021"):
        for c in ("cat", "dog"):
            picture(tmp_path / c / year / "IMG 1 é.JPG", format="JPEG")
    picture(tmp_path / "cat" / "photo.jfif", format="JPEG")
    picture(tmp_path / "cat" / "noending", format="PNG")
    for junk in ("Thumbs.db", ".DS_Store"):
        (tmp_path / junk).write_bytes(b"junk")
    picture(tmp_path / "__MACOSX" / "IMG.JPG", format="JPEG")
    found = load(tmp_path)
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(np.bincount(found.labels), [3, 2])
    remarks = said()
    assert "left out, as not named like pictures: 1 file, cat/noending" in remarks
    assert "a class is the first folder; deeper ones join it: 2020, 2021" in remarks
    assert "db" not in remarks


def test_masks_of_zero_and_one_are_noted(tmp_path, said):
    """[26] They are nearly black."""
    data.from_arrays((bytes_of(5, 4, 4) > 127).astype(np.uint8))
    assert "masks of 0 and 1 should be multiplied by 255" in said()
    picture(tmp_path / "0.png", 1)
    load(tmp_path)
    assert "multiplied by 255" in said()


def test_a_panorama_is_read_where_it_is_made_small(tmp_path, monkeypatch):
    """[26]"""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    picture(tmp_path / "pano.jpg", 9, size=(100, 40))
    assert load(tmp_path, image_size=8).images.shape == (1, 8, 8, 1)
    with pytest.raises(DataError, match="100 x 40 pixels; expected at most 1,000, or that they be"):
        load(tmp_path)


def test_a_bomb_stays_refused(tmp_path, monkeypatch):
    """[26] What fills the memory while it is made small, and is no JPEG."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(examples, "_MOST_PIXELS", 2000)
    picture(tmp_path / "bomb.png", 9, size=(100, 40))
    with pytest.raises(DataError, match="claims 100 x 40 pixels; expected at most 2,000"):
        load(tmp_path, image_size=8)


def test_a_remark_that_nobody_reads_stops_nothing(monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        notes.say("of no use")
        monkeypatch.setattr(sys, "stderr", None)
        notes.say("of no use either")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


@pytest.mark.parametrize("split", ["train[:-0]", "train[:-0%]"])
def test_a_part_that_ends_before_its_beginning_is_empty(split):
    """[16] `-0` was the end: the whole part."""
    with pytest.raises(ValueError, match="not empty, got those from 0 to 0"):
        splits.resolve(split, {"train": 100})


def test_what_was_found_is_the_same_streamed(tmp_path, monkeypatch):
    """[6, 23] The choice of what is held out, and the names, do not depend on where data are."""
    root = classes(tmp_path, ["a", "b"], num=15)
    here = data.train_and_test(f"folder:{root}")
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-9")
    streamed = data.train_and_test(f"folder:{root}")
    for one, other in zip(here, streamed, strict=True):
        assert isinstance(other.images, data.StreamedImages)
        assert (one.fingerprint, one.classes, one.held_out) == (
            other.fingerprint,
            other.classes,
            other.held_out,
        )
