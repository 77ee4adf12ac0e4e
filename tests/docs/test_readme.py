"""Every command and code block of README and of the pages in docs/ runs."""

import itertools
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import few_digits as few_digits_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from genmod import data, rng
from genmod.runs import catalogue

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
# In the order in which the commands run: some read the runs of others.
PAGES = [
    *("runs", "evaluation", "data", "parallel", "extending", "family", "gans"),
    *("performance", "reliability"),
]
TEXT = README + "".join((ROOT / "docs" / f"{page}.md").read_text() for page in PAGES)
# What takes more than one process, or TensorFlow, has tests of its own.
ELSEWHERE = {
    "--coordinator": "_host/test_cluster.py",
    "--cluster": "_host/test_cluster.py",
    "tfds:": "data/test_tfds.py",
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def block(text):
    """The one block of Python that holds a text."""
    (found,) = [code for code in blocks("python") if text in code]
    return found


def shortened(text):
    """Runs the code with fewer steps."""
    code = block(text)
    fewer = {"num_steps=3000": "num_steps=900", "num_steps=600": "num_steps=200"}
    assert any(steps in code for steps in fewer)
    for steps, less in {**fewer, "log_every=600": "log_every=300"}.items():
        code = code.replace(steps, less)
    names = {}
    exec(code, names)
    return names


def test_the_ten_lines_train_a_vae():
    names = shortened("2 * vae.kl_divergence")
    assert names["point"].step == 900
    assert names["point"].metrics["loss"] < 220
    assert names["images"].shape == (100, 28, 28, 1)


def test_so_does_a_gan_with_a_penalty_of_ones_own():
    names = shortened("def small_logits")
    assert names["point"].step == 900
    assert names["point"].metrics["small_logits"] > 0
    assert names["samples"].shape == (2500, 2)


def test_so_do_seeds_a_grid_and_devices():
    names = shortened("train.over_grid")
    assert names["alone"].state.step == 200
    assert names["point"].metrics["loss"].shape == (4,)
    assert names["wide"].mesh.size > 1


# Words that only one block of Python holds: of the tests above and below, and of others, which run
# as they are, for fewer steps.
TRIED = [
    *("2 * vae.kl_divergence", "def small_logits", "train.over_grid", "class Residual"),
    *("A VAE in a file of its own", "def load():", "recorded.train(", "jax.export.deserialize"),
]
OTHERS = [
    ["evaluate.compare("],
    ["evaluate.importance("],
    ["def critic_loss"],
    ["conditions=mnist.labels"],
    ["Patience("],
    ["vae.factor("],
    ["nets.sngan_generator(", "judge = nets.heads("],
]


@pytest.mark.parametrize("words", OTHERS, ids=[words[0] for words in OTHERS])
def test_the_other_blocks_run(words, few_digits):
    names = {}
    for word in words:
        code = re.sub(r"num_steps=\d+", "num_steps=2", block(word)).replace("width=32", "width=2")
        with jax.numpy_rank_promotion("allow"):  # as jax.scipy.stats does
            exec(code, names)
    if "point" in names:
        assert names["point"].step == 2


def test_no_block_is_left_out():
    for code in blocks("python"):
        assert any(word in code for word in [*TRIED, *itertools.chain(*OTHERS)]), code


@pytest.fixture
def few_digits(monkeypatch):
    """MNIST with fewer images."""
    monkeypatch.setattr(data.mnist, "load", few_digits_of.load)


def test_a_net_of_ones_own_is_a_net():
    names = {}
    exec(block("class Residual"), names)
    encoder, x = names["encoder"], jnp.zeros((3, 28, 28, 1))
    assert encoder.apply(encoder.init(rng.root(0), x), x).shape == (3, 8)


def test_an_experiment_of_ones_own_and_a_script_are_trained(
    genmod, tmp_path, monkeypatch, capsys, few_digits
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "mine.py").write_text(block('"""A VAE in a file of its own."""'))
    (tmp_path / "data.py").write_text(block("def load():"))
    ended = genmod("train", "mine.py", "--epochs", 2)
    assert ended.code == 0, ended
    assert "step 20" in ended.out
    names = {}
    exec(block("recorded.train("), names)
    assert capsys.readouterr().out.count("epoch ") == 2
    assert names["built"].sample(rng.root(0), names["state"], 3).shape == (3, 28, 28, 1)
    other = names["mine"].Config(epochs=2, seed=4)
    with pytest.raises(ValueError, match="holds another run: seed is 3 there and 4 here"):
        names["recorded"].train(names["mine"], other, "runs/from-a-script")
    assert genmod("verify", "runs/from-a-script").code == 0


def commands():
    """The command lines of all pages, in their order."""
    lines = (line.split("#")[0] for code in blocks("sh") for line in code.splitlines())
    lines = dict.fromkeys(line.strip() for line in lines)  # README repeats some of the pages
    return [words for line in lines if (words := shlex.split(line))[:1] == ["genmod"]]


def test_what_runs_elsewhere_is_tested_there():
    for flag, file in ELSEWHERE.items():
        assert any(flag in word for words in commands() for word in words)
        assert flag in (ROOT / "tests" / file).read_text()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with all that the commands speak of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    some = data.load("mnist")
    for index in range(150):
        place = tmp_path / "PICTURES" / str(some.labels[index])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(some.images[index, ..., 0]).save(place / f"{index}.png")
    (tmp_path / "FOLDER").mkdir()
    for part, num in (("train", 200), ("t10k", 100)):
        for what, values in (
            ("images-idx3", some.images[:num, ..., 0]),
            ("labels-idx1", some.labels[:num]),
        ):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            content = head + values.astype(np.uint8).tobytes()
            (tmp_path / "FOLDER" / f"{part}-{what}-ubyte").write_bytes(content)
    np.savez(tmp_path / "FILE.npz", images=some.images[:200], labels=some.labels[:200])
    (tmp_path / "FILE.npz").rename(tmp_path / "FILE")
    (tmp_path / "mine.py").write_text(block("def load():"))


@pytest.mark.timeout(900)
def test_every_command_runs(shell, here):
    """On little data, and for few epochs; in their order, as some look at the runs of others.

    In a process with a shell's variables: without the devices that the tests have. Another number
    of devices needs a process of its own. Programs are compiled quickly; tests/_host/test_start.py
    has them as users do, and a process for every command.
    """
    lines = []
    for words in commands():
        if any(flag in word for flag in ELSEWHERE for word in words):
            continue
        if words[1] == "train":
            words += ["--epochs", "70" if "article_vae" in words else "1"]  # step 700 is replayed
            if "--seeds" in words:
                words[words.index("--seeds") + 1] = "2"
            words += ["--width", "4"] if words[2] == "PICTURES" else []
        lines.append(shlex.join(words[1:]))
    assert len(lines) > 15
    quick = {**shell, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    for _, some in itertools.groupby(lines, lambda line: "--devices" in line):
        ended = subprocess.run(
            [sys.executable, few_digits_of.__file__],
            input="\n".join(some),
            env=quick,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended
        assert "failed" not in ended.stderr
    names = {}
    exec(block("jax.export.deserialize"), names)  # of what was exported
    assert names["images"].shape == (100, 28, 28, 1)


def test_every_test_that_is_named_is_there():
    named = re.findall(r"`([\w/]*test_\w+\.py)(?:::(test_\w+))?`", TEXT)
    assert len(named) > 30
    for file, name in named:
        text = (ROOT / "tests" / file).read_text()
        assert f"def {name}" in text if name else text, (file, name)


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "bench", "docs"])
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_two_commands_are_the_makefiles():
    commands = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    assert ["make", "demo"] in commands
    assert ["make", "test"] in commands


def test_every_experiment_that_is_named_is_there():
    named = set(re.findall(r"genmod train ([a-z_]+)(?![\w/.])", TEXT))
    assert named
    assert named <= set(catalogue.names(ROOT / "experiments"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=str)
def test_every_picture_and_link_is_there(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    for link in links:
        assert (page.parent / link).exists(), link


def test_readme_is_read_in_four_minutes():
    assert len(README.splitlines()) <= 200
    assert {f"docs/{page}.md" for page in PAGES} <= set(re.findall(r"\]\(([^)]+)\)", README))


def test_nothing_was_left_to_be_filled_in():
    for path in [
        ROOT / "README.md",
        *ROOT.glob("experiments/**/*.md"),
        *ROOT.glob("experiments/*.py"),
    ]:
        assert not re.search(r"@[A-Z_]+@|TODO|FIXME", path.read_text()), path
