"""The command, as a person at the terminal meets it."""

import functools
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import SMALL, refused
from PIL import Image

from genmod import report, rng, train
from genmod.cli import commands
from genmod.runs import catalogue, configs, logs, record
from genmod.runs.folder import Folder
from genmod.train import checkpoint

SHIPPED = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def trained(place, process):
    """How `genmod train small` ended, in a process of its own."""
    return process("train", "train", "small").ended()


@pytest.fixture(scope="module")
def finished(place, trained):
    """The run folder that `genmod train small` made; not to be changed."""
    assert trained.code == 0, trained
    return Folder(place / "runs" / "small" / "seed-0")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to be changed."""
    return Folder(shutil.copytree(finished.path, tmp_path / "run"))


def without_rate(rows):
    return [{k: v for k, v in row.items() if k != "examples_per_s"} for row in rows]


@functools.cache
def small():
    """The small experiment, built once: a program compiled for it is found again."""
    module = catalogue.load(SMALL)
    return module.build(module.Config())


def saved(folder):
    """The newest checkpoint of a run."""
    module = catalogue.load(folder.experiment)
    built = module.build(module.Config())
    target = train.abstract_carry(built.learner, rng.root(0), built.batch_at)
    return checkpoint.restore(folder.checkpoints, target)


def undisturbed(num_steps, log_every=4):
    """The end of a run of the small experiment that nothing has stopped."""
    built = small()
    options = {"num_steps": num_steps, "log_every": log_every}
    *_, last = train.run(built.learner, rng.root(0), built.batch_at, **options)
    return last.carry


def assert_same_bits(some, others):
    assert jax.tree.structure(some) == jax.tree.structure(others)
    leaves = [jax.tree.leaves(tree) for tree in (some, others)]
    assert len(leaves[0]) > 10
    for a, b in zip(*leaves, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def all_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def assert_picture(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 100
    assert pixels.std() > 1, f"{path} shows nothing"


# Training.


def test_a_run_says_where_it_is_and_ends_well(trained):
    assert trained.code == 0
    assert trained.err == ""
    assert trained.first_line == "runs/small/seed-0: a new run of 12 steps (3 epochs)"
    assert re.search(
        r"\nepoch 1  step 4  loss \d+\.\d+  [\d,]+ examples/s  \d+ s left\n", trained.out
    )


def test_a_run_folder_holds_the_run_and_nothing_else(finished):
    assert {path.name for path in finished.path.iterdir()} == {
        "record.json",
        "experiment.py",
        "metrics.jsonl",
        "evaluation.json",
        "checkpoints",
        "pictures",
        "tensorboard",
        "lock",
    }
    found = record.read(finished)
    assert found["experiment"] == "small"
    assert found["config"] == configs.as_json(catalogue.load(SMALL).Config())
    assert found["command"] == "genmod train small"
    assert finished.experiment.read_bytes() == SMALL.read_bytes()
    assert [path.name for path in finished.checkpoints.iterdir()] == ["000000012"]
    assert len(list(finished.tensorboard.iterdir())) == 1
    (name, value), *others = logs.read_evaluation(finished).items()
    assert name == "negative_elbo"
    assert math.isfinite(value)
    assert not others


def test_a_log_point_has_the_fields_that_were_promised(finished):
    rows = logs.read_metrics(finished)
    assert [row["step"] for row in rows] == [4, 8, 12]
    assert [row["epoch"] for row in rows] == [1.0, 2.0, 3.0]
    for row in rows:
        assert set(row) == {"step", "epoch", "loss", "reconstruction", "kl", "examples_per_s"}
        assert row["loss"] == pytest.approx(row["reconstruction"] + row["kl"], rel=1e-5)
        assert row["examples_per_s"] > 0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_pictures_are_pictures_and_are_named_at_the_end(trained, finished, place):
    named = [line.strip() for line in trained.out.split("pictures:\n")[1].splitlines()]
    assert [place / name for name in named] == [
        finished.pictures / f"{name}.png" for name in ("samples", "latents", "curves")
    ]
    assert {path.name for path in finished.pictures.iterdir()} == {Path(n).name for n in named}
    for path in finished.pictures.iterdir():
        assert_picture(path)


def test_the_same_command_again_says_that_the_run_is_trained(genmod, run):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    ended = genmod("train", "small", "--run-dir", run.path)
    assert (ended.code, ended.err) == (0, "")
    assert (
        ended.first_line
        == f"{run.path}: already trained, to step 12 (epoch 3) of 12 steps (3 epochs)"
    )
    after = {path: path.read_bytes() for path in before}
    assert [path.name for path in before if before[path] != after[path]] == []


@pytest.mark.reliability(15)
@pytest.mark.end_to_end
def test_more_epochs_continue_as_if_there_had_been_no_end(genmod, run, tmp_path):
    ended = genmod("train", "small", "--run-dir", run.path, "--epochs", 5)
    assert (ended.code, ended.err) == (0, "")
    expected = f"{run.path}: continuing at step 12 (epoch 3) of 20 steps (5 epochs)"
    assert ended.first_line == expected
    assert record.read(run)["config"]["epochs"] == 5

    whole = Folder(tmp_path / "whole")
    assert genmod("train", "small", "--run-dir", whole.path, "--epochs", 5).code == 0
    assert without_rate(logs.read_metrics(run)) == without_rate(logs.read_metrics(whole))
    assert logs.read_evaluation(run) == logs.read_evaluation(whole)
    assert_same_bits(saved(run), saved(whole))
    for name in ("samples", "latents", "curves"):
        pictures = [folder.pictures / f"{name}.png" for folder in (run, whole)]
        assert pictures[0].read_bytes() == pictures[1].read_bytes(), name


def test_what_has_changed_since_the_run_began_is_noted(genmod, run):
    run.experiment.write_text(run.experiment.read_text() + "# as it was when the run began\n")
    ended = genmod("train", "small", "--run-dir", run.path)
    assert ended.code == 0
    assert "small.py has changed since the run began" in ended.out + ended.err
    assert ended.first_line.startswith(f"{run.path}: already trained"), "first, where the run is"


@pytest.mark.end_to_end
def test_another_seed_is_another_run(genmod, finished, place):
    assert genmod("train", "small", "--seed", 1, "--epochs", 1).code == 0
    other = Folder(place / "runs" / "small" / "seed-1")
    assert logs.read_metrics(other)[0]["loss"] != logs.read_metrics(finished)[0]["loss"]


@pytest.mark.end_to_end
def test_how_often_to_log_and_to_save_changes_no_result(genmod, finished, tmp_path):
    folder = Folder(tmp_path / "run")
    options = ("--log-every", 5, "--checkpoint-every", 5, "--keep", 3, "--no-progress")
    ended = genmod("train", "small", "--run-dir", folder.path, *options)
    assert (ended.code, ended.err) == (0, "")
    assert "loss" not in ended.out, "progress was not wanted"
    assert [row["step"] for row in logs.read_metrics(folder)] == [5, 10, 12]
    assert checkpoint.steps(folder.checkpoints) == [5, 10, 12]
    assert_same_bits(saved(folder), saved(finished))


# Looking at runs.


@pytest.mark.end_to_end
def test_samples_are_the_same_for_a_seed_and_others_for_another(process, genmod, finished, place):
    def command(seed, out):
        return ("sample", finished.path, "--num", 5, "--seed", seed, "--out", out)

    first = process("sample", *command(3, "first.png")).ended()
    assert (first.code, first.out, first.err) == (0, "first.png\n", "")
    for seed, out in ((3, "second.png"), (4, "other.png")):
        ended = genmod(*command(seed, out))
        assert (ended.code, ended.out, ended.err) == (0, f"{out}\n", "")
        assert_picture(place / out)
    first, second, other = ((place / f"{n}.png").read_bytes() for n in ("first", "second", "other"))
    assert first == second
    assert first != other


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--num", 0), "num must be a positive whole number, got 0"),
        (("--num", "many"), "--num"),
        (("--seed", -1), "seed must be a whole number in [0, 2**32), got -1"),
        (("--out", "nowhere/grid.png"), "nowhere' does not exist"),
        (("--out", "grid.xyz"), "xyz"),
        (("--nmu", 3), "--num"),
    ],
)
def test_samples_that_cannot_be_are_refused(genmod, finished, place, arguments, said):
    before = set(place.rglob("*"))
    refused(genmod("sample", finished.path, *arguments), 2, said)
    assert {path for path in place.rglob("*") if "__pycache__" not in path.parts} <= before


@pytest.mark.end_to_end
def test_an_experiment_shows_its_samples_in_its_own_way(genmod, altered, tmp_path):
    path = altered(
        (
            "        figures=figures,\n",
            "        figures=figures,\n        show=lambda x: report.curves("
            '[{"step": i, "mean": float(v)} for i, v in enumerate(x.mean((1, 2, 3)))]),\n',
        )
    )
    folder, out = tmp_path / "run", tmp_path / "out.png"
    assert genmod("train", path, "--run-dir", folder, "--epochs", 1).code == 0
    ended = genmod("sample", folder, "--out", out)
    assert (ended.code, ended.out) == (0, f"{out}\n")
    grid = report.curves([{"step": 0, "mean": 0.0}])
    with Image.open(out) as picture:
        assert picture.size == tuple(int(side) for side in grid.get_size_inches() * grid.dpi)


def test_sampling_from_what_is_no_run_is_refused(genmod, tmp_path):
    refused(genmod("sample", tmp_path), 2, f"{str(tmp_path)!r} is not a run folder")


def test_sampling_from_a_run_that_has_not_begun_says_so(genmod, run, tmp_path):
    shutil.rmtree(run.checkpoints)
    ended = genmod("sample", run.path, "--out", tmp_path / "grid.png")
    refused(ended, 5, f"{run.checkpoints}: expected a checkpoint, found the steps []")


def test_a_model_that_cannot_sample_says_so(genmod, run, altered, tmp_path):
    source = altered(("        sample=vae.generate(model),\n", ""))
    shutil.copy(source, run.experiment)
    ended = genmod("sample", run.path, "--out", tmp_path / "grid.png")
    refused(ended, 2, "this learner cannot sample")
    assert not (tmp_path / "grid.png").exists()


def test_runs_are_listed_with_how_far_they_are(genmod, finished, run, tmp_path):
    began = Folder(tmp_path / "just begun")
    began.path.mkdir()
    shutil.copy(run.record, began.record)
    ended = genmod("runs", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    header, first, second = (re.split(r"\s{2,}", line.strip()) for line in ended.out.splitlines())
    assert header == ["run", "begun", "epoch", "loss", "evaluation"]
    created = record.read(run)["created"][:16].replace("T", " ")
    assert first == [str(began.path), created, "0 of 3", "-"]
    loss = logs.read_metrics(run)[-1]["loss"]
    value = logs.read_evaluation(run)["negative_elbo"]
    assert second == [str(run.path), created, "3 of 3", f"{loss:.4f}", f"negative_elbo {value:.4f}"]

    assert str(finished.path.relative_to(Path.cwd())) in genmod("runs").out
    (tmp_path / "empty").mkdir()
    assert "no runs below" in genmod("runs", tmp_path / "empty").out


def test_help_names_the_commands_and_does_not_wait_for_jax(process, environment):
    ended = process("help", "--help").ended()
    assert (ended.code, ended.err) == (0, "")
    for name in ("train", *commands.COMMANDS, "completion"):
        assert f"• {name}" in ended.out
    assert len(ended.out.splitlines()) < 40, "a line or two for each"
    assert "\x1b" not in ended.out, "no colours where there is no terminal"
    script = """
import sys
from genmod.cli import main as cli
try:
    cli.main(["--help"])
finally:
    slow = {"jax", "matplotlib", "tensorflow", "tensorflow_datasets"} & set(sys.modules)
    assert not slow, slow
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)


def test_a_reader_that_goes_away_is_no_error_worth_a_traceback(environment):
    reading, writing = os.pipe()
    os.close(reading)
    command = [Path(sys.executable).with_name("genmod"), "--help"]
    ended = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, env=environment, timeout=60
    )
    os.close(writing)
    assert ended.stderr == b""


def test_help_of_an_experiment_lists_its_flags(genmod):
    ended = genmod("train", "small", "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "A tiny experiment for the tests" in ended.out
    for flag in ("--seed", "--epochs", "--latent-dim", "--learning-rate", "--run-dir", "--keep"):
        assert flag in ended.out
    assert "Adam's learning rate." in ended.out
    assert "(default: 0.01)" in ended.out


def test_help_of_a_command_says_what_it_takes(genmod):
    for command, word in (
        ("train", "EXPERIMENT"),
        ("sample", "--label"),
        ("encode", "DATA"),
        ("reconstruct", "PICTURE"),
        ("runs", "FOLDER"),
        ("replay", "--step"),
        ("verify", "--all"),
        ("report", "RUN [RUN ...]"),
        ("export", "--num"),
        ("data", "--split"),
        ("completion", "SHELL"),
    ):
        ended = genmod(command, "--help")
        assert ended.code == 0
        assert word in ended.out


COMPLETE = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
_tyro_genmod
echo "${COMPREPLY[@]}"
"""


@pytest.mark.end_to_end
def test_bash_completes_commands_experiments_and_their_flags(genmod, tmp_path):
    script = tmp_path / "genmod.bash"
    printed = genmod("completion", "bash")
    assert printed.code == 0, printed
    assert "complete -o default -F _tyro_genmod genmod" in printed.out, "else names of files"
    script.write_text(printed.out)

    def completed(*words):
        bash = ["bash", "-c", COMPLETE, "bash", script, "genmod", *words]
        return subprocess.run(bash, capture_output=True, text=True, check=True).stdout.split()

    assert {"train", "report", "export"} <= set(completed(""))
    assert set(completed("rep")) == {"replay", "report", "reproduce"}
    assert completed("train", "sm") == ["small"]
    assert completed("train", "small", "--lat") == ["--latent-dim"]
    assert completed("train", "small", "--run-d") == ["--run-dir"], "no word of its description"
    assert completed("report", "--max") == ["--max-mb"]


def test_other_shells_have_a_completion_too(genmod):
    assert genmod("completion", "zsh").out.startswith("#compdef genmod")
    refused(genmod("completion", "fish"), 2, "bash")


# Refusals: nothing is trained, and nothing is left behind.


@pytest.mark.reliability(19)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("smll",), "unknown experiment 'smll'; did you mean 'small'?"),
        (("nowhere.py",), "experiment 'nowhere.py': there is no such file"),
        (("small", "--learning-rte", 3), "--learning-rate"),
        (("small", "--epochs", "many"), "many"),
        (("small", "extra"), "extra"),
        (("small", "--latent-dim", 0), "latent_dim must be a positive whole number, got 0"),
        (("small", "--latent-dim", -2), "latent_dim must be a positive whole number, got -2"),
        (("small", "--batch-size", 0), "batch_size must be a positive whole number, got 0"),
        (
            ("small", "--batch-size", 65),
            "batch_size must be at most the number of examples 64, got 65",
        ),
        (("small", "--epochs", 0), "epochs must be a positive whole number, got 0"),
        (("small", "--learning-rate", 0), "learning_rate must be a positive number, got 0"),
        (("small", "--learning-rate", "nan"), "learning_rate must be a positive number, got nan"),
        (("small", "--seed", -1), "seed must be a whole number in [0, 2**32), got -1"),
        (("small", "--keep", 0), "keep must be a positive whole number, got 0"),
        (("small", "--log-every", 0), "log_every must be a positive whole number, got 0"),
        (("small", "--log-every", -3), "log_every must be a positive whole number, got -3"),
        (("small", "--checkpoint-every", 0), "checkpoint_every must be a positive whole number"),
        (
            (SHIPPED / "article_vae.py", "--dataset", "mnits"),
            "unknown data set 'mnits'; did you mean 'mnist'",
        ),
    ],
    ids=lambda value: " ".join(str(v) for v in value[-2:]) if isinstance(value, tuple) else "",
)
def test_a_start_that_cannot_be_is_refused_and_leaves_nothing(genmod, tmp_path, arguments, said):
    before = time.monotonic()
    ended = genmod("train", *arguments, "--run-dir", tmp_path / "a" / "run")
    refused(ended, 2, said)
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - before < 10


@pytest.mark.reliability(21)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "nets.mlp((8,), (6, 6, 1))",
            "nets.mlp((8,), (6, 5, 1))",
            "the decoder's logits must have the images' shape (16, 6, 6, 1), got (16, 6, 5, 1)",
        ),
        (
            "2 * config.latent_dim, heads=2",
            "config.latent_dim, heads=2",
            "the encoder must return [B, 2 * latent_dim] = [B, 4]",
        ),
        (
            "data.batches(pixels,",
            "data.batches(pixels / 255,",
            "images must be uint8 [B, H, W, C], got float32 [16, 6, 6, 1]",
        ),
        (
            "data.batches(pixels,",
            "data.batches(pixels[..., 0],",
            "images must be uint8 [B, H, W, C], got uint8 [16, 6, 6]",
        ),
        ("def build(", "def construct(", "expected a function build(config)"),
    ],
    ids=["decoder", "encoder", "floating images", "images without channels", "no build"],
)
def test_parts_that_do_not_fit_are_refused_and_leave_nothing(
    genmod, altered, tmp_path, old, new, said
):
    ended = genmod("train", altered((old, new)), "--run-dir", tmp_path / "run")
    refused(ended, 2, said)
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_configuration_is_refused_field_by_field(genmod, run):
    before = run.record.read_bytes()
    changes = ("--latent-dim", 3, "--learning-rate", 0.5, "--epochs", 9)
    ended = genmod("train", "small", "--run-dir", run.path, *changes)
    refused(
        ended, 2, "latent_dim is 2 there and 3 here", "learning_rate is 0.01 there and 0.5 here"
    )
    assert "epochs is" not in ended.err
    assert run.record.read_bytes() == before


def test_a_folder_of_something_else_is_refused_and_left_alone(genmod, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(genmod("train", "small", "--run-dir", tmp_path), 2, str(tmp_path), "not a genmod run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("below", ["file", "file/run", "file/deep/run"])
def test_a_folder_that_cannot_be_written_is_refused(genmod, tmp_path, below):
    (tmp_path / "file").write_text("a file")
    refused(genmod("train", "small", "--run-dir", tmp_path / below), 2, "run_dir", str(tmp_path))
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.parametrize("damage", [b"", b'{"config": ', b"[]", b"{}"])
def test_a_damaged_record_is_named(genmod, run, damage):
    run.record.write_bytes(damage)
    for arguments in (("train", "small", "--run-dir", run.path), ("sample", run.path)):
        refused(genmod(*arguments), 2, "record.json is damaged")


def test_commands_that_are_none_are_refused(genmod):
    refused(genmod("trian", "small"), 2, "trian")
    refused(genmod("train"), 2, "a Python file, or the name of one in ./experiments")
    refused(genmod(), 2, "train", "sample", "runs", "replay", "verify")


def test_a_bug_in_an_experiment_is_shown_with_its_traceback(genmod, altered, tmp_path):
    source = altered(("    elbo = vae.elbo(model)\n", "    raise ValueError('a bug')\n"))
    ended = genmod("train", source, "--run-dir", tmp_path / "run")
    assert ended.code == 1
    assert "altered.py" in ended.err
    assert "ValueError: a bug" in ended.err
    assert not (tmp_path / "run").exists()


def test_debug_shows_where_a_refusal_comes_from(genmod, tmp_path):
    ended = genmod("train", "small", "--run-dir", tmp_path / "a", "--batch-size", 65, "--debug")
    assert ended.code == 2
    assert "Traceback" in ended.err
    assert "batch_size must be at most the number of examples 64, got 65" in ended.err


# What goes wrong later.


def damaged_data(altered, tmp_path):
    """An experiment whose archives are cut off."""
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b half an archive")
    load = f"images = data.load('mnist', data_dir={str(archives)!r})"
    old = "images = data.Dataset(pixels, labels, data.fingerprint(pixels, labels))"
    return altered((old, load))


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.end_to_end
def test_processes_end_with_the_code_of_what_went_wrong(process, altered, run, tmp_path):
    state = run.checkpoints / "000000012" / "state"
    damage(state / "manifest.ocdbt")
    at = ("--run-dir", tmp_path / "new")
    started = {
        2: process("usage", "train", "small", *at, "--latent-dim", 0),
        3: process("data", "train", damaged_data(altered, tmp_path), *at),
        5: process("damaged", "train", "small", "--run-dir", run.path),
    }
    ended = {code: one.ended() for code, one in started.items()}
    refused(ended[2], 2, "latent_dim must be a positive whole number, got 0")
    refused(ended[3], 3, "train-images-idx3-ubyte.gz: damaged")
    refused(ended[5], 5, f"{state.parent}: damaged: state")
    assert not (tmp_path / "new").exists()


@pytest.mark.reliability(22)
def test_damaged_data_are_named_with_their_checksum(genmod, altered, tmp_path):
    ended = genmod("train", damaged_data(altered, tmp_path), "--run-dir", tmp_path / "run")
    archive = tmp_path / "archives" / "train-images-idx3-ubyte.gz"
    checksum = "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    refused(ended, 3, f"{archive}: damaged: its SHA-256 is", f"expected {checksum}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["_METADATA", "ocdbt.process_0/d/*"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_overwritten(genmod, run, file):
    folder = run.checkpoints / "000000012"
    (path,) = (folder / "state").glob(file)
    damage(path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    refused(genmod("train", "small", "--run-dir", run.path), 5, f"{folder}: damaged: state")
    out = run.path.parent / "grid.png"
    refused(genmod("sample", run.path, "--out", out), 5, f"{folder}: damaged: state")
    assert not out.exists()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.reliability(20)
@pytest.mark.end_to_end
def test_a_loss_that_turns_nan_stops_at_its_step_and_keeps_the_one_before(genmod, tmp_path):
    folder = Folder(tmp_path / "run")
    command = ("train", "small", "--run-dir", folder.path, "--nan-at-step", 10)
    healthy = undisturbed(9).state
    for first_line in ("a new run of 12 steps", "continuing at step 9 (epoch 2.25) of 12 steps"):
        # The same command again comes to the same end.
        ended = genmod(*command)
        assert first_line in ended.first_line
        refused(ended, 4, "non-finite in step 10", "loss nan", "the state after step 9 is kept")
        assert "first loss; the state" in ended.message
        assert f"genmod replay {folder.path} --step 10" in ended.message
        assert checkpoint.steps(folder.checkpoints) == [9]
        assert [row["step"] for row in logs.read_metrics(folder)] == [4, 8]
        carry = saved(folder)
        assert (carry.step, carry.count) == (9, 1)
        assert_same_bits(carry.state, healthy)
    assert not folder.evaluation.exists()
    assert not folder.pictures.exists()


@pytest.mark.reliability(20)
@pytest.mark.end_to_end
@pytest.mark.parametrize("epochs", [2, 3])
def test_an_update_that_ruins_the_state_is_never_saved(genmod, altered, tmp_path, epochs):
    # The loss of that step is still finite: it was computed before the update. It is the last step
    # of two epochs; in three, it is one where a checkpoint is due.
    rate = "lambda count: jnp.where(count == 7, jnp.nan, config.learning_rate)"
    source = altered(("optax.adam(config.learning_rate)", f"optax.adam({rate})"))
    folder = Folder(tmp_path / "run")
    options = ("--epochs", epochs, "--checkpoint-every", 4)
    ended = genmod("train", source, "--run-dir", folder.path, *options)
    refused(ended, 4, "non-finite in step 8", "the state after step 7 is kept")
    assert checkpoint.steps(folder.checkpoints) == [4, 7]
    assert [row["step"] for row in logs.read_metrics(folder)] == [4]
    carry = saved(folder)
    assert carry.step == 7
    assert all_finite(carry)


EVERY = 4000  # steps between log points: a stop falls between two of them


@pytest.fixture(scope="module")
def stopped(process, place):
    """Runs without end, stopped by a signal after their first log point: folder, ended, seconds."""
    started = {
        number: process(
            f"stop{number}",
            *("train", "small", "--run-dir", f"stop {number}"),
            *("--epochs", 1_000_000, "--log-every", EVERY),
        )
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    found = {}
    for number, one in started.items():
        one.wait_for(f"  step {EVERY:,}  loss ")
        one.send(number)
        began = time.monotonic()
        folder = Folder(place / f"stop {number}")
        found[number] = (folder, one.ended(), time.monotonic() - began)
    return found


@pytest.mark.reliability(4)
@pytest.mark.end_to_end
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on_from_there(stopped, genmod, place, number, code):
    folder, ended, seconds = stopped[number]
    refused(ended, code, "stopping: saving after this step")
    assert seconds < 15
    *_, last_line = ended.out.splitlines()
    step, command = re.fullmatch(r"saved at step ([\d,]+); to continue: (.*)", last_line).groups()
    step = int(step.replace(",", ""))
    assert step >= EVERY
    assert checkpoint.steps(folder.checkpoints)[-1] == step
    logged = [row["step"] for row in logs.read_metrics(folder)]
    assert logged == list(range(EVERY, step + 1, EVERY))

    # The command that was printed, but with an end.
    begin, *arguments = shlex.split(command)
    assert begin == "genmod"
    arguments[arguments.index("--epochs") + 1] = str(step // 4 + 2)
    num_steps = 4 * (step // 4 + 2)
    ended = genmod(*arguments)
    assert (ended.code, ended.err) == (0, "")
    assert ended.first_line.startswith(f"stop {number}: continuing at step {step:,} (epoch ")
    assert [row["step"] for row in logs.read_metrics(folder)][-1] == num_steps
    assert_same_bits(saved(folder), undisturbed(num_steps, EVERY))


@pytest.mark.reliability(5)
@pytest.mark.end_to_end
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_stops_at_once(genmod, altered, tmp_path, number, code):
    kill = f"import os; os.kill(os.getpid(), {int(number)})"
    source = altered(
        (
            "        values = evaluate.over",
            f"        {kill}; {kill}\n        values = evaluate.over",
        )
    )
    folder = Folder(tmp_path / "run")
    ended = genmod("train", source, "--run-dir", folder.path)
    refused(ended, code)
    assert not folder.evaluation.exists()
    assert_same_bits(saved(folder), undisturbed(12))
