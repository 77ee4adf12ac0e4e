"""`genmod data`: what is in a data set."""

import numpy as np
import pytest
from commands import refused
from PIL import Image

from genmod import data


def test_a_summary_is_what_numpy_says_of_it():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5000, 3, 2, 3), np.uint8)
    images[..., 1] //= 3
    dataset = data.from_arrays(images, rng.integers(3, 6, 5000))
    found = data.summary(dataset)
    assert (found.num, found.shape, found.num_bytes) == (5000, (3, 2, 3), images.size)
    assert found.counts == {n: int((dataset.labels == n).sum()) for n in (3, 4, 5)}
    values = images.astype(np.float64) / 255
    np.testing.assert_allclose(found.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.std((0, 1, 2)), rtol=1e-12)


@pytest.mark.end_to_end
def test_the_command_shows_a_data_set(genmod, tmp_path):
    picture = tmp_path / "data.png"
    ended = genmod("data", "mnist", "--split", "test", "--num", 25, "--out", picture)
    assert (ended.code, ended.err) == (0, "")
    for part in (
        "10,000, uint8 [28, 28, 1], 7.8 MB",
        "0.1325 (grey values in [0, 1])",
        data.load("mnist", "test").fingerprint,
        "7.8 MB, on the device",
        "images/s, shuffled",
        "1,135",  # ones
    ):
        assert part in ended.out
    assert ended.out.splitlines()[-1] == str(picture)
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 28 * 5


@pytest.mark.end_to_end
def test_a_folder_of_ones_own_pictures(genmod, tmp_path):
    (tmp_path / "p" / "cats").mkdir(parents=True)
    for i in range(3):
        values = np.full((8 + i, 9, 3), 100 + i, np.uint8)
        Image.fromarray(values).save(tmp_path / "p" / "cats" / f"{i}.png")
    (tmp_path / "p" / "cats" / "bad.png").write_bytes(b"nothing")
    name, out = f"folder:{tmp_path}/p", ("--out", tmp_path / "data.png")
    refused(genmod("data", name, *out), 3, "cats/bad.png: cannot be read", "skip_corrupt")
    ended = genmod("data", name, "--image-size", 8, "--skip-corrupt", *out)
    assert ended.code == 0
    assert "1 of 4 pictures cannot be read" in ended.err
    assert "3, uint8 [8, 8, 3]" in ended.out


@pytest.mark.end_to_end
def test_a_data_set_that_is_streamed_is_shown_too(genmod, tmp_path, monkeypatch):
    monkeypatch.setenv("GENMOD_DATA_GB", "0.001")
    ended = genmod("data", "mnist", "--split", "test", "--out", tmp_path / "data.png")
    assert ended.code == 0, ended
    assert "7.8 MB, streamed (on the device at most 1.0 MB: GENMOD_DATA_GB)" in ended.out
    assert data.load("mnist", "test").fingerprint in ended.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mnits"], "unknown data set 'mnits'; did you mean 'mnist'"),
        (["mnist", "--split", "validation"], "unknown split of mnist 'validation'"),
        (["mnist", "--num", 0], "num must be a positive whole number, got 0"),
        (["mnist", "--out", "data.txt"], "out must end in .png, .pdf, .svg, got 'data.txt'"),
        (["mnist", "--out", "none/data.png"], "does not exist"),
    ],
)
def test_what_cannot_be_shown_is_refused(genmod, arguments, said):
    refused(genmod("data", *arguments), 2, said)
