"""Several seeds and several devices from the command line."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, refused
from PIL import Image

from genmod import data
from genmod._host import startup
from genmod.runs import logs
from genmod.runs.folder import Folder
from genmod.train import checkpoint

pytestmark = pytest.mark.end_to_end


def rows(folder):
    return logs.read_metrics(Folder(folder))


def test_seeds_are_one_program_whose_every_run_is_the_run_alone(genmod, tmp_path):
    many = genmod("train", SMALL, "--run-dir", tmp_path / "many", "--seed", 3, "--seeds", 2)
    assert many.code == 0, many
    assert " +- " in many.out
    found = rows(tmp_path / "many")
    evaluation = json.loads((tmp_path / "many" / "evaluation.json").read_text())
    for index in range(2):
        folder = tmp_path / f"alone-{index}"
        assert genmod("train", SMALL, "--run-dir", folder, "--seed", 3 + index).code == 0
        for row, alone in zip(found, rows(folder), strict=True):
            for name in ("loss", "kl", "reconstruction"):
                assert row["seeds"][name][index] == alone[name]
        alone = json.loads((folder / "evaluation.json").read_text())
        assert evaluation["seeds"]["negative_elbo"][index] == alone["negative_elbo"]
    values = np.array(found[-1]["seeds"]["loss"])
    assert found[-1]["loss"] == pytest.approx(values.mean())
    assert found[-1]["loss_se"] == pytest.approx(values.std(ddof=1) / np.sqrt(2))
    pictures = {
        str(p.relative_to(tmp_path / "many" / "pictures"))
        for p in (tmp_path / "many" / "pictures").rglob("*.png")
    }
    assert pictures >= {"seed-3/samples.png", "seed-4/latents.png", "curves.png"}


def test_seeds_go_on_where_they_stopped_and_are_not_other_seeds(genmod, tmp_path):
    run = ["train", SMALL, "--run-dir", tmp_path / "run", "--seeds", 2]
    whole = ["train", SMALL, "--run-dir", tmp_path / "whole", "--seeds", 2, "--epochs", 5]
    assert genmod(*run).code == 0
    assert "continuing at step 12" in genmod(*run, "--epochs", 5).out
    assert genmod(*whole).code == 0
    assert [r["seeds"] for r in rows(tmp_path / "run")] == [
        r["seeds"] for r in rows(tmp_path / "whole")
    ]
    refused(genmod(*run[:-1], 3), 2, "seeds is 2 there and 3 here")
    refused(genmod(*run[:-2]), 2, "seeds is 2 there and 1 here")


def test_samples_of_each_seed(genmod, tmp_path):
    folder, picture = tmp_path / "run", tmp_path / "samples.png"
    genmod("train", SMALL, "--run-dir", folder, "--seeds", 2, "--epochs", 1)
    seen = set()
    for index in range(2):
        assert genmod("sample", folder, "--index", index, "--num", 4, "--out", picture).code == 0
        seen.add(picture.read_bytes())
    assert len(seen) == 2
    refused(
        genmod("sample", folder, "--index", 2, "--out", picture), 2, "one of the 2 runs, from 0"
    )


@pytest.mark.parametrize("name", ["mnist_vae", "article_gan"])
def test_pictures_of_ones_own_are_trained_on(genmod, tmp_path, monkeypatch, name):
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        values = np.random.default_rng(i).integers(0, 256, (9, 8 + i % 3, 3), np.uint8)
        Image.fromarray(values).save(tmp_path / "pictures" / f"{i}.png")
    source = ["--dataset", f"folder:{tmp_path}/pictures", "--image-size", 6]
    small = ["--batch-size", 10, "--latent-dim", 2, "--hidden", 4, "--epochs", 2]
    experiment = Path(__file__).parents[2] / "experiments" / f"{name}.py"
    run = tmp_path / "run"
    ended = genmod("train", experiment, "--run-dir", run, *source, *small)
    assert ended.code == 0, ended
    assert "failed" not in ended.err
    assert (run / "pictures" / "samples.png").exists()
    assert genmod("sample", run, "--num", 4, "--out", tmp_path / "out.png").code == 0
    if name == "mnist_vae":
        _is_the_same_streamed(genmod, monkeypatch, tmp_path, experiment, [*source, *small])
    # Another picture is another data set: the run does not go on with it.
    (tmp_path / "pictures" / "0.png").unlink()
    refused(genmod("train", experiment, "--run-dir", run, *source, *small), 2, "data is 'sha256:")


def _is_the_same_streamed(genmod, monkeypatch, tmp_path, experiment, arguments):
    """Asserts it of the run in tmp_path, and that one that was streamed goes on in memory."""
    folders = tmp_path / "run", tmp_path / "streamed"
    monkeypatch.setenv("GENMOD_CACHE_DIR", str(tmp_path / "nothing-kept"))
    few = ["--data-gb", "1e-6", "--workers", 1]
    ended = genmod("train", experiment, "--run-dir", folders[1], *arguments, *few)
    assert "examples, 0.0 MB, streamed by 1 process (on the device at most 0.0 MB" in ended.out
    longer = [*arguments, "--epochs", 3]
    for folder in folders:
        assert genmod("train", experiment, "--run-dir", folder, *longer).code == 0
    there, here = (
        [{k: v for k, v in row.items() if k != "examples_per_s"} for row in rows(folder)]
        for folder in folders
    )
    assert there == here
    assert genmod("verify", folders[1], "--all").code == 0


BREAKING = """
class Breaking:
    shape = (6, 6, 1)

    def __init__(self, pixels):
        self.pixels, self.left = pixels, int(os.environ["PARTS_LEFT"])

    def read(self, wanted, *, here=False):
        for places in wanted:
            self.left -= 1
            if self.left < 0:
                gone = data.stores.MappedStore(Path("gone.npy"), 0, 64, self.shape)
                yield from gone.read([places])
            yield self.pixels[places]


@dataclass(frozen=True)
class Config"""


def test_data_that_fail_in_training_lose_no_log_point(genmod, tmp_path, monkeypatch, altered):
    experiment = altered(
        ("@dataclass(frozen=True)\nclass Config", BREAKING),
        ("import jax\n", "import os\nfrom pathlib import Path\n\nimport jax\n"),
        (
            "data.batches(pixels, batch_size",
            "data.batches(data.StreamedImages(Breaking(pixels), np.arange(64)), batch_size",
        ),
    )
    monkeypatch.setenv("GENMOD_DATA_GB", "1e-6")
    monkeypatch.setattr(data.streams, "_PART_BYTES", 2 * 16 * 36)  # two steps
    run = ["train", experiment, "--run-dir", tmp_path / "run"]
    monkeypatch.setenv("PARTS_LEFT", "4")  # that of the beginning, and six steps
    refused(genmod(*run), 3, "gone.npy: cannot be read any more")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [4]
    monkeypatch.setenv("PARTS_LEFT", "100")
    assert "continuing at step 4" in genmod(*run).out
    assert genmod(*run[:-1], tmp_path / "whole").code == 0
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("run", "whole")]
    assert losses[0] == losses[1]


@pytest.mark.reliability(18)
@pytest.mark.parametrize("how", ["sharded", pytest.param("pmap", marks=pytest.mark.slow)])
def test_devices_change_no_number(genmod, tmp_path, how):
    assert genmod("train", SMALL, "--run-dir", tmp_path / "one").code == 0
    several = ["--devices", 4, "--how", how]
    assert genmod("train", SMALL, "--run-dir", tmp_path / "four", *several).code == 0
    for one, four in zip(rows(tmp_path / "one"), rows(tmp_path / "four"), strict=True):
        for name in ("loss", "kl", "reconstruction"):
            np.testing.assert_allclose(four[name], one[name], rtol=1e-5)
    # A checkpoint of four devices restores on one, and the other way round.
    more = ["--epochs", 5]
    assert genmod("train", SMALL, "--run-dir", tmp_path / "four", *more).code == 0
    assert genmod("train", SMALL, "--run-dir", tmp_path / "one", *several, *more).code == 0
    for one, four in zip(rows(tmp_path / "one"), rows(tmp_path / "four"), strict=True):
        np.testing.assert_allclose(four["loss"], one["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", 0], "seeds must be a positive whole number, got 0"),
        (["--seed", 2**32 - 2, "--seeds", 4], "seed must be a whole number in [0, 2**32)"),
        (["--devices", 0], "devices must be a positive whole number, got 0"),
        (["--devices", 1000], "devices must be at most 4 here, got 1000"),
        (["--devices", 3], "a batch of 16 examples cannot be cut into equal shares for 3 devices"),
        (["--how", "shraded"], "invalid choice"),
    ],
)
def test_impossible_seeds_and_devices_are_refused(genmod, tmp_path, flags, said):
    refused(genmod("train", SMALL, "--run-dir", tmp_path / "run", *flags), 2, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("plugin", "given", "flags"),
    [
        (None, "--xla_dump_to=a", "--xla_dump_to=a"),
        (
            "jax_cuda13_plugin",
            "--xla_dump_to=a",
            "--xla_dump_to=a --xla_gpu_exclude_nondeterministic_ops=true "
            "--xla_gpu_autotune_level=0",
        ),
        (
            "jax_cuda12_plugin",
            "--xla_gpu_autotune_level=4",
            "--xla_gpu_autotune_level=4 --xla_gpu_exclude_nondeterministic_ops=true",
        ),
    ],
)
def test_a_gpu_is_asked_to_repeat_its_bits(monkeypatch, plugin, given, flags):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    monkeypatch.setenv("XLA_FLAGS", given)
    startup.configure_gpu()
    assert os.environ["XLA_FLAGS"] == flags
