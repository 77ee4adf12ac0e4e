"""A folder of one's own pictures, and nothing else said."""

import re
from pathlib import Path

import numpy as np
import pytest
from commands import refused
from PIL import Image

from genmod.cli import main as cli
from genmod.cli import pictures
from genmod.errors import DataError
from genmod.runs import record
from genmod.runs.folder import Folder


def folder(path, sizes, *, mode="RGB", classes=1):
    for index, size in enumerate(sizes):
        place = path / f"class-{index % classes}" if classes > 1 else path
        place.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(noise).convert(mode).save(place / f"{index}.png")
    return path


@pytest.mark.parametrize(
    ("sizes", "options", "side", "found"),
    [
        ([(28, 28)] * 4, {"mode": "L"}, None, "4 pictures, 28 x 28, grey"),
        ([(64, 64)] * 4, {"classes": 2}, None, "4 pictures of 2 classes, 64 x 64, in colour"),
        ([(30, 30)] * 4, {}, "32", "4 pictures, 30 x 30, in colour"),
        ([(32, 48)] * 4, {}, "32", "4 pictures, 32 x 48, in colour"),
        ([(90, 70), (64, 80), (200, 100)], {}, "64", "3 pictures, 90 x 70 and other sizes"),
        ([(90, 40), (50, 80), (200, 45)], {}, "32", "3 pictures, 90 x 40 and other sizes"),
    ],
)
def test_the_size_is_chosen_by_the_pictures(tmp_path, sizes, options, side, found):
    choice = pictures.choose(folder(tmp_path, sizes, **options))
    assert choice.flags.get("image-size") == side
    assert choice.found.startswith(found)
    assert choice.flags["dataset"] == f"folder:{tmp_path}"


@pytest.mark.parametrize(
    ("num", "batch_size", "epochs"), [(5, 1, 600), (100, 10, 300), (640, 64, 300)]
)
def test_batches_and_length_are_chosen_by_their_number(tmp_path, num, batch_size, epochs):
    choice = pictures.choose(folder(tmp_path, [(8, 8)] * num))
    assert choice.flags["batch-size"] == str(batch_size)
    assert choice.flags["epochs"] == choice.flags["decay-epochs"] == str(epochs)
    assert epochs * num / batch_size == 3000


def test_what_the_command_says_itself_is_not_chosen(tmp_path):
    choice = pictures.choose(folder(tmp_path, [(9, 9)] * 4))
    given = ["--image_size=16", "--epochs", "3"]
    assert pictures.arguments(choice, given) == [
        *("--dataset", f"folder:{tmp_path}", "--batch-size", "1", "--decay-epochs", "750"),
        *given,
    ]


def test_pictures_that_cannot_be_read_are_no_guide(tmp_path):
    folder(tmp_path, [(50, 50)] * 3)
    (tmp_path / "0.png").write_bytes(b"no picture")
    assert pictures.choose(tmp_path).flags["image-size"] == "32"
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png: not a picture; nor are the others"):
        pictures.choose(tmp_path)


@pytest.mark.end_to_end
def test_a_folder_is_trained_on_and_says_what_was_chosen(genmod, tmp_path, monkeypatch):
    # From within it: what the command writes there is no data (case 10 of the reported troubles).
    monkeypatch.chdir(folder(tmp_path / "mine", [(12, 9), (9, 12)] * 10, classes=2))
    small = ["--image-size", 8, "--width", 2, "--latent-dim", 2, "--epochs", 2]
    run = ["train", ".", "--run-dir", "run", *small]
    ended = genmod(*run)
    assert ended.code == 0, ended
    assert ".: 20 pictures of 2 classes, 12 x 9 and other sizes, in colour" in ended.out
    assert "chosen: genmod train " in ended.out
    recorded = record.read(Folder("run"))
    assert recorded["config"]["dataset"] == "folder:."
    assert recorded["config"]["batch_size"] == 2
    assert "2 examples are held out, a tenth of each class" in ended.err
    assert re.search("a tenth of each class.* sha256:", recorded["protocol"]["held_out"])
    for name in ("samples", "reconstructions", "latents", "manifold"):
        assert Path("run", "pictures", f"{name}.png").exists()
    assert "already trained" in genmod(*run).out, "the same command finds its run again"
    assert genmod("report", "run").code == 0


def test_a_folder_without_pictures_is_refused(genmod, tmp_path):
    refused(genmod("train", tmp_path), 3, "holds no pictures; expected files")


def test_an_experiment_is_not_hidden_by_a_folder_of_its_name(genmod, tmp_path, monkeypatch):
    # Folders of runs are often called after what ran in them.
    monkeypatch.chdir(tmp_path)
    Path("priors").mkdir()
    ended = genmod("train", "priors", "--prior", "unknown")
    assert ended.code == 2
    assert "note: priors is the experiment, and not the folder ./priors" in ended.err
    assert "--prior" in ended.err, "it is the experiment's flag that is refused"
    for name in ("./priors", "priors/"):
        refused(genmod("train", name), 3, "holds no pictures")


def test_its_help_is_that_of_the_experiment(tmp_path, capsys):
    folder(tmp_path, [(8, 8)] * 4)
    with pytest.raises(SystemExit) as ended:
        cli.main(["train", str(tmp_path), "--help"])
    assert ended.value.code == 0
    assert "--latent-dim" in capsys.readouterr().out
