"""What README says can be done can be done."""

import re
import subprocess
from pathlib import Path

import pytest

from genmod import experiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def shortened(code):
    """Runs the code with fewer steps."""
    fewer = {"num_steps=3000": "num_steps=900", "num_steps=600": "num_steps=200"}
    assert any(text in code for text in fewer)
    for text, less in {**fewer, "log_every=600": "log_every=300"}.items():
        code = code.replace(text, less)
    names = {}
    exec(code, names)
    return names


def test_the_ten_lines_train_a_vae():
    vae, _, _ = blocks("python")
    names = shortened(vae)
    assert names["point"].step == 900
    assert names["point"].metrics["loss"] < 220
    assert names["images"].shape == (100, 28, 28, 1)


def test_so_does_a_gan_with_a_penalty_of_ones_own():
    _, gan, _ = blocks("python")
    names = shortened(gan)
    assert names["point"].step == 900
    assert names["point"].metrics["small_logits"] > 0
    assert names["samples"].shape == (2500, 2)


def test_so_do_seeds_a_grid_and_devices():
    _, _, many = blocks("python")
    names = shortened(many)
    assert names["alone"].state.step == 200
    assert names["point"].metrics["loss"].shape == (4,)
    assert names["wide"].mesh.size > 1


def test_every_test_that_is_named_is_there():
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+?)(?:_?\.\.\.)?)?`", README)
    assert len(named) > 30
    for file, name in named:
        text = (ROOT / "tests" / file).read_text()
        assert f"def {name}" in text if name else text, (file, name)


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "bench"])
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_two_commands_are_the_makefiles():
    commands = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    assert ["make", "demo"] in commands
    assert ["make", "test"] in commands


def test_every_experiment_that_is_named_is_there():
    named = set(re.findall(r"genmod train (\w+)(?![\w/])", README))
    assert named
    assert named <= set(experiment.names(ROOT / "experiments"))


def test_every_picture_and_link_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_nothing_was_left_to_be_filled_in():
    for path in [
        ROOT / "README.md",
        *ROOT.glob("experiments/**/*.md"),
        *ROOT.glob("experiments/*.py"),
    ]:
        assert not re.search(r"@[A-Z_]+@|TODO|FIXME", path.read_text()), path
