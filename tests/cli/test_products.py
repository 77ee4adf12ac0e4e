"""What `sample`, `encode` and `reconstruct` make of a trained run."""

from pathlib import Path

import numpy as np
import pytest
from commands import refused
from conditional_experiment import NAMES, blobs
from PIL import Image

from genmod import data, rng
from genmod.cli import products
from genmod.runs import loading


def opened(path):
    with np.load(path) as arrays:
        return dict(arrays)


def key_of(seed=0):
    return rng.stream(rng.root(seed), "sample")


def folder_of(path, images, labels, names=NAMES):
    """A folder of pictures, classes within."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = path / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{number:03d}.png")
    return path


# Samples.


@pytest.mark.parametrize("condition", ["label", "attributes", "none"])
@pytest.mark.end_to_end
def test_an_npz_file_holds_samples_that_do_not_depend_on_their_number(
    genmod, trained, tmp_path, condition
):
    run = trained(condition)
    for num in (3, 530):
        ended = genmod("sample", run, "--num", num, "--seed", 4, "--out", tmp_path / f"{num}.npz")
        assert (ended.code, ended.out) == (0, f"{tmp_path / f'{num}.npz'}\n")
    few, many = opened(tmp_path / "3.npz"), opened(tmp_path / "530.npz")
    own = {"label": ["labels"], "attributes": ["condition.bright", "condition.low"], "none": []}
    assert list(many) == ["images", *own[condition]]
    assert (many["images"].shape, many["images"].dtype) == ((530, 6, 6, 1), np.uint8)
    for name, values in few.items():
        np.testing.assert_array_equal(values, many[name][:3])

    # The second chunk by hand: of its own key, with conditions that occur in the data.
    built, state = loading.load_run(run)
    own_key = rng.at_step(key_of(4), 1)
    images = np.asarray(built.learner.sample(own_key, state, 500))[:30]
    np.testing.assert_array_equal(many["images"][500:], np.round(255 * images).astype(np.uint8))
    if condition == "label":
        np.testing.assert_array_equal(
            many["labels"][500:],
            built.learner.conditions.draw(own_key, 500)[:30],
        )


@pytest.mark.end_to_end
def test_the_same_command_writes_the_same_bytes_and_other_seeds_others(genmod, trained, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        flags = ("--num", 5, "--seed", seed, "--out", tmp_path / f"{name}.npz")
        assert genmod("sample", trained(), *flags).code == 0
    a, b, c = ((tmp_path / f"{name}.npz").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.costly
def test_labels_are_asked_for_by_number_or_name_in_turn(genmod, trained, tmp_path):
    out = tmp_path / "x.npz"
    flags = ("--label", "west,1", "--label", "0", "--num", 5)
    assert genmod("sample", trained(), *flags, "--out", out).code == 0
    found = opened(out)
    np.testing.assert_array_equal(found["labels"], [3, 1, 0, 3, 1])
    built, state = loading.load_run(trained())
    asked = np.resize(np.array([3, 1, 0], np.int32), 500)
    images = built.learner.sample(rng.at_step(key_of(), 0), state, 500, asked)[:5]
    np.testing.assert_array_equal(found["images"], np.round(255 * images).astype(np.uint8))


@pytest.mark.end_to_end
def test_a_folder_holds_numbered_pictures_by_class_and_is_a_data_set(genmod, trained, tmp_path):
    for out in ("x.npz", "folder/"):
        flags = ("--num", 40, "--out", f"{tmp_path}/{out}")
        assert genmod("sample", trained(), *flags).code == 0
    found = opened(tmp_path / "x.npz")
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "folder"}
    assert {path.name for path in (tmp_path / "folder").iterdir()} <= set(NAMES)
    for number, (image, label) in enumerate(zip(found["images"], found["labels"], strict=True)):
        with Image.open(tmp_path / "folder" / NAMES[label] / f"{number:02d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0])
    again = data.load(f"folder:{tmp_path / 'folder'}")
    assert len(again.images) == 40, "no picture counts as drawn by genmod itself"
    assert genmod("sample", trained("none"), "--num", 2, "--out", f"{tmp_path}/plain/").code == 0
    assert sorted(p.name for p in (tmp_path / "plain").iterdir()) == ["0.png", "1.png"]


def test_files_are_complete_or_not_there(genmod, trained, tmp_path, monkeypatch):
    out = tmp_path / "x.npz"
    out.write_bytes(b"before")
    draw, calls = products._with_bar, []

    def failing(drawn, num, *size):
        for chunk in draw(drawn, num, *size):
            if calls:
                raise OSError(28, "No space left on device")
            calls.append(1)
            yield chunk

    monkeypatch.setattr(products, "_with_bar", failing)
    for target in (out, f"{tmp_path}/folder/"):
        calls.clear()
        ended = genmod("sample", trained(), "--num", 501, "--out", target)
        refused(ended, 1, "cannot be written: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    assert out.read_bytes() == b"before"


def drawn(trained, num=20, asked=None, **changes):
    """The figure of `genmod sample`: its picture, and the text above."""
    built, state = loading.load_run(trained)
    figure = products._grid(built, state, key_of(), num, asked)
    title = figure.get_suptitle()
    return np.asarray(figure.axes[0].images[0].get_array()), title.replace("\n", " "), built, state


def tiled(images, columns):
    rows = -(-len(images) // columns)
    blank = np.ones((rows * columns - len(images), *images.shape[1:]))
    whole = np.concatenate([images, blank])[..., 0].reshape(rows, columns, *images.shape[1:3])
    return whole.swapaxes(1, 2).reshape(rows * images.shape[1], -1)


def test_a_grid_of_a_conditional_run_has_a_class_in_each_column(trained):
    picture, title, built, state = drawn(trained(), 22)
    labels = np.resize(np.arange(4, dtype=np.int32), 22)
    images = np.asarray(built.learner.sample(key_of(), state, 22, labels))
    np.testing.assert_allclose(picture, tiled(images, 4), atol=1e-6)
    assert title == "samples, a class in each column, in turn: north, east, south, west"


def test_a_grid_of_one_class_is_of_this_class(trained):
    picture, title, built, state = drawn(trained(), 5, np.array([2], np.int32))
    images = np.asarray(built.learner.sample(key_of(), state, 5, np.full(5, 2, np.int32)))
    np.testing.assert_allclose(picture, tiled(images, 3), atol=1e-6)
    assert title == "samples of class south"


@pytest.mark.costly
def test_a_grid_of_a_run_without_classes_is_as_it_was(trained):
    picture, title, built, state = drawn(trained("none"), 5)
    images = np.asarray(built.learner.sample(key_of(), state, 5))
    np.testing.assert_allclose(picture, tiled(images, 3), atol=1e-6)
    assert title == ""


@pytest.mark.parametrize(
    ("condition", "arguments", "said"),
    [
        ("label", ["--label", "4"], "one of north (0), east (1), south (2), west (3), got '4'"),
        ("label", ["--label", "north,up"], "west (3), got 'up'"),
        ("label", ["--label", "1,"], "west (3), got ''"),
        ("none", ["--label", "1"], "as this run has no condition, got '1'"),
        ("attributes", ["--label", "1"], "the condition of this run is no label"),
        ("label", ["--out", "x.txt"], "out must end in .png, .pdf, .svg, .npz or, for a folder"),
        ("label", ["--out", "no/where/"], "no' does not exist"),
        ("label", ["--out", "no/where.npz"], "no' does not exist"),
        ("label", ["--out", "experiments"], "'experiments' is not empty; expected a new or empty"),
        ("label", ["--out", "experiments/small.py/"], "is a file; expected a new or empty folder"),
        ("none", ["--ex-post", "0"], "ex_post must be a positive whole number, got 0"),
        ("none", ["--ex-post", "65"], "num_components = 65, got [64, 2]"),
        ("attributes", ["--ex-post", "2"], "the condition of this run is not the label"),
        ("none", ["--temperature", "0"], "temperature must be a positive number, got 0.0"),
        ("none", ["--ex-post", "2", "--temperature", "1"], "only one of ex_post and temperature"),
    ],
)
@pytest.mark.end_to_end
def test_samples_that_cannot_be_are_refused(genmod, trained, condition, arguments, said):
    before = sorted(Path.cwd().rglob("*"))
    refused(genmod("sample", trained(condition), *arguments), 2, said)
    assert sorted(Path.cwd().rglob("*")) == before


# Codes.


@pytest.mark.parametrize("condition", ["label", "none"])
@pytest.mark.end_to_end
def test_codes_are_the_means_of_the_posterior(genmod, trained, tmp_path, condition):
    images = blobs()
    many = np.resize(np.arange(64), 520)  # more than one chunk
    np.savez(tmp_path / "d.npz", images=images.images[many], labels=images.labels[many])
    out = tmp_path / "codes.npz"
    ended = genmod("encode", trained(condition), f"npz:{tmp_path / 'd.npz'}", "--out", out)
    assert (ended.code, ended.out) == (0, f"{out}: 520 images: codes, labels\n")
    found = opened(out)
    assert list(found) == ["codes", "labels"]
    np.testing.assert_array_equal(found["labels"], images.labels[many])
    built, state = loading.load_run(trained(condition))
    x = images.images.astype(np.float32) / 255
    given = [images.labels] if condition == "label" else []
    wanted = np.asarray(built.latents.encode(state, x, *given))
    np.testing.assert_allclose(found["codes"], wanted[many], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["codes"][:8], found["codes"][512:], "in every chunk")


@pytest.mark.end_to_end
def test_codes_of_pictures_keep_their_names_and_classes_their_meaning(genmod, trained, tmp_path):
    """Folders number classes by their names; the run numbers them otherwise."""
    images = blobs()
    some = np.flatnonzero(images.labels != 1)[:20]
    place = folder_of(tmp_path / "pictures", images.images[some], images.labels[some])
    (place / "west" / "000.png").write_bytes(b"no picture")
    out = tmp_path / "codes.npz"
    flags = ("--skip-corrupt", "--out", out)
    assert genmod("encode", trained(), f"folder:{place}", *flags).code == 0
    found = opened(out)
    assert list(found) == ["codes", "labels", "names"]
    assert len(found["names"]) == 20
    built, state = loading.load_run(trained())
    by_name = ("north", "south", "west")
    for name, label, code in zip(found["names"], found["labels"], found["codes"], strict=True):
        kind, file = name.split("/")
        assert by_name[label] == kind
        image = images.images[some][int(Path(file).stem)] / np.float32(255)
        own = np.array([NAMES.index(kind)], np.int32)
        np.testing.assert_allclose(
            code, built.latents.encode(state, image[None], own)[0], rtol=1e-5, atol=1e-6
        )


def test_a_part_of_a_folder_has_the_names_of_its_pictures(genmod, trained, tmp_path):
    images = blobs()
    place = folder_of(tmp_path / "pictures", images.images, images.labels)
    out = tmp_path / "codes.npz"
    flags = ("--split", "train[10:13]+train[2:4]", "--out", out)
    assert genmod("encode", trained("none"), f"folder:{place}", *flags).code == 0
    listed = [str(p.relative_to(place)) for p in sorted(place.rglob("*.png"))]
    assert opened(out)["names"].tolist() == [*listed[10:13], *listed[2:4]]


# Reconstructions.


def shown(monkeypatch):
    """Keeps what is compared in the figure of `genmod reconstruct`."""
    from genmod import report

    kept, draw = [], report.comparison

    def comparison(originals, others, **options):
        kept.append((np.asarray(originals), np.asarray(others)))
        return draw(originals, others, **options)

    monkeypatch.setattr(report, "comparison", comparison)
    return kept


@pytest.mark.parametrize("condition", ["label", "none"])
@pytest.mark.end_to_end
def test_images_are_shown_above_their_decoded_codes(
    genmod, trained, tmp_path, monkeypatch, condition
):
    images, kept = blobs(), shown(monkeypatch)
    place = folder_of(tmp_path / "pictures", images.images, images.labels)
    files = [place / NAMES[images.labels[n]] / f"{n:03d}.png" for n in range(6)]
    out = tmp_path / "out.png"
    label = ["--label", ",".join(NAMES[n] for n in images.labels[:6])]
    label = label if condition == "label" else []
    assert genmod("reconstruct", trained(condition), *files, *label, "--out", out).code == 0
    np.savez(tmp_path / "d.npz", images=images.images, labels=images.labels)
    source = f"npz:{tmp_path / 'd.npz'}"
    assert genmod("reconstruct", trained(condition), source, "--num", 6, "--out", out).code == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"

    built, state = loading.load_run(trained(condition))
    given = [images.labels[:6]] if condition == "label" else []
    z = built.latents.encode(state, images.images[:6].astype(np.float32) / 255, *given)
    wanted = built.latents.decoder(rng.root(9), state)(z, *given)
    for originals, others in kept:
        np.testing.assert_array_equal(originals, images.images[:6])
        np.testing.assert_allclose(others, wanted, rtol=1e-5, atol=1e-6)
    assert len(kept) == 2


def test_one_label_is_that_of_all_pictures_and_sizes_are_changed_on_demand(
    genmod, trained, tmp_path, monkeypatch
):
    kept = shown(monkeypatch)
    for number, side in enumerate((12, 18)):
        Image.fromarray(np.full((side, side), 90 * number, np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    files = [tmp_path / "0.png", tmp_path / "1.png", "--out", tmp_path / "out.png"]
    refused(
        genmod("reconstruct", trained(), *files, "--label", 2),
        2,
        "0.png: its images must have the shape of the run's, [6, 6, 1], got [12, 12, 1]",
        "--image-size 6 resizes",
    )
    assert genmod("reconstruct", trained(), *files, "--label", 2, "--image-size", 6).code == 0
    ((originals, _),) = kept
    assert originals.shape == (2, 6, 6, 1)


@pytest.mark.parametrize(
    ("condition", "arguments", "said"),
    [
        ("label", ["a.png"], "label must be given, as this run is conditional; one of north"),
        ("label", ["a.png", "a.png", "--label", "0,1,2"], "once, or for each of 2 files, got 3"),
        ("none", ["a.png", "--label", 1], "this run has no condition"),
        ("attributes", ["a.png", "--label", 1], "the condition of this run is no label"),
        ("attributes", ["npz:d.npz"], "is not the label of its data"),
        ("label", ["npz:d.npz", "--label", 1], "npz:d.npz has labels of its own"),
        ("label", ["npz:d.npz"], "labels must be among those of the run, 0, 1, 2, 3, got 9"),
        ("label", ["npz:d.npz", "a.png"], "expected one data set or picture files"),
        ("label", ["nothing.png"], "'nothing.png' is neither a picture file nor a data set, mnist"),
        ("label", ["experiments"], "folder:experiments is a data set"),
        ("label", [], "expected a data set or picture files"),
        ("label", ["c.png"], "must have the shape of the run's, [6, 6, 1], got [6, 6, 3]"),
        ("label", ["mnist"], "must have the shape of the run's, [6, 6, 1], got [28, 28, 1]"),
        ("label", ["folder:f"], "classes must be among those of the run, north, east, south, west"),
        ("none", ["a.png", "--num", 3], "num is for data sets, and not for picture files, got 3"),
        ("none", ["a.png", "--split", "test"], "split is for data sets"),
        ("none", ["a.png", "--out", "a.npz"], "out must end in .png, .pdf, .svg, got 'a.npz'"),
    ],
)
@pytest.mark.end_to_end
def test_images_that_do_not_fit_are_refused(genmod, trained, condition, arguments, said):
    Image.fromarray(np.zeros((6, 6), np.uint8)).save("a.png")
    Image.fromarray(np.zeros((6, 6, 3), np.uint8)).save("c.png")
    images = np.full((3, 6, 6, 1), 7, np.uint8)
    np.savez("d.npz", images=images, labels=np.array([0, 1, 9]))
    if not Path("f").exists():
        folder_of(Path("f"), images, [0, 1, 2], ("north", "up", "down"))
    refused(genmod("reconstruct", trained(condition), *arguments), 2, said)
    if arguments and ":" in arguments[0] and len(arguments) == 1:
        refused(genmod("encode", trained(condition), *arguments), 2, said)


def test_the_grid_of_observations_is_that_of_the_classes(trained):
    """The pictures of training: pixel for pixel, a class in each column."""
    folder = trained() / "pictures"
    built, state = loading.load_run(trained())
    with Image.open(sorted((folder / "samples").iterdir())[-1]) as picture:
        seen = np.asarray(picture) / 255
    key = rng.stream(rng.root(0), "observe")
    labels = np.tile(np.arange(4, dtype=np.int32), 16)
    images = np.asarray(built.learner.sample(key, state, 64, labels))
    np.testing.assert_allclose(seen, tiled(images, 8), atol=0.5 / 255 + 1e-6)
    assert {path.stem for path in folder.glob("*.png")} == {
        *("curves", "data", "interpolations", "latents", "manifold", "reconstructions", "samples")
    }
