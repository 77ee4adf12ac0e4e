"""The judges that come with genmod: what they are worth, their files, their refusals."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import fashion_archives

from genmod import data, evaluate, rng
from genmod.data import DataError
from genmod.evaluate import judges
from genmod.runs import observe

NAMES = judges.names()
LEAST = {"mnist": 0.994, "fashion_mnist": 0.93}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small chunks: programs of the tests are not optimised."""
    monkeypatch.setattr(judges, "_CHUNK", 50)


def about(name):
    with np.load(judges.packaged(name)) as arrays:
        return json.loads(str(arrays["about"]))


def dataset(name):
    if name == "mnist":
        return "mnist"
    return f"idx:{fashion_archives('originally')}"


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "mnist")) for n in NAMES]
)
def test_a_judge_reads_its_data_as_well_as_its_file_says(name):
    test, judge = data.load(dataset(name), "test"), judges.classifier(name)
    # Another kind of processor may see a few images at a boundary otherwise.
    assert abs(judges.accuracy(judge, test) - judge.accuracy) <= 0.0005


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_file_is_small_and_says_what_made_it(name):
    said = about(name)
    with np.load(judges.packaged(name)) as arrays:
        assert {arrays[n].dtype for n in arrays if n != "about"} == {np.dtype("float16")}
    assert judges.packaged(name).stat().st_size < 1e6
    assert said["accuracy"] >= LEAST[name]
    recipe = judges.RECIPES[name]
    assert said["recipe"] == json.loads(json.dumps(recipe._asdict()))
    assert {"jax", "jaxlib", "python"} <= said["versions"].keys()
    assert said["device"]["platform"] == "cpu"
    assert said["device"]["cpu"]
    judge = judges.classifier(name)
    assert judge.fingerprint == judges.fingerprint(name) == said["fingerprint"]
    assert (judge.name, judge.classes) == (name, recipe.classes)


def test_nothing_is_trained_and_nothing_is_said(monkeypatch, capsys):
    def trained(*arguments):
        raise AssertionError("trained")

    monkeypatch.setattr(judges, "_training", trained)
    judges.classifier.cache_clear()
    assert judges.classifier("mnist").fingerprint == judges.fingerprint("mnist")
    assert capsys.readouterr() == ("", "")


def test_a_judge_reads_digits(digits):
    judge, right = judges.classifier("mnist"), data.load("mnist").labels[:100]
    found = judge.labels(digits[:100])
    assert (found.dtype, found.shape) == (np.int32, (100,))
    assert (found == right).mean() >= 0.97


def test_bytes_are_judged_as_the_numbers_that_they_stand_for(digits):
    judge, floating = judges.classifier("mnist"), digits[:20].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(judge.logits(digits[:20]), judge.logits(floating))
    assert judge.features(digits[:20]).dtype == judge.logits(jnp.asarray(floating)).dtype


@pytest.mark.end_to_end
def test_logits_do_not_depend_on_what_is_asked_with_them():
    judge, x = (
        judges.classifier("mnist"),
        np.asarray(jax.random.uniform(rng.root(1), (700, 28, 28, 1))),
    )
    logits = judge.logits(x)
    assert logits.shape == (700, 10)
    np.testing.assert_allclose(logits[600:], judge.logits(x[600:]), rtol=1e-5, atol=1e-5)


def test_logits_are_a_layer_above_the_features(digits):
    judge = judges.classifier("mnist")
    with np.load(judges.packaged("mnist")) as arrays:
        kernel, bias = (arrays[f"output.{part}"].astype(np.float64) for part in ("kernel", "bias"))
    features = judge.features(digits[:50])
    assert features.shape == (50, 128)
    assert features.min() == 0  # of a ReLU
    np.testing.assert_allclose(judge.logits(digits[:50]), features @ kernel + bias, atol=1e-4)


def test_the_network_that_is_trained_is_the_one_that_is_shipped():
    recipe = judges.RECIPES["mnist"]._replace(width=4, widths=(8, 8), num_features=16)
    net, x = judges._net(recipe), jax.random.uniform(rng.root(0), (3, 28, 28, 1))
    params = jax.jit(net.init)(rng.root(1), x)
    params["layer_1"]["scale"] = jnp.linspace(0.5, 2, 8)
    exact = judges._plain(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params))
    plain = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), exact)
    apply = jax.jit(net.apply)
    shipped = jax.jit(lambda params, x: judges._logits(params, judges._features(params, x)))(
        plain, x
    )
    np.testing.assert_allclose(apply(params, x), shipped, rtol=1e-5, atol=1e-5)
    # A standardised kernel does not depend on the size of the weights, nor on their mean.
    moved = {
        **params,
        "layer_1": {**params["layer_1"], "kernel": 3 * params["layer_1"]["kernel"] + 1},
    }
    np.testing.assert_allclose(apply(moved, x), shipped, rtol=1e-4, atol=1e-4)


def test_every_score_says_who_judged():
    test = data.load("mnist", "test")
    few = data.Dataset(test.images[:100], test.labels[:100], "few")
    seen = observe.images(few.images / np.float32(255), few)
    title = seen.figures["samples"].get_suptitle()
    shown = judges.fingerprint("mnist").removeprefix("sha256:")[:8]
    assert f"judge {shown}" in title
    assert evaluate.label_modes(np.arange(10), 10).judge == ""


@pytest.fixture
def quick(monkeypatch):
    """A judge of few weights, a run of two epochs, and data of random images."""
    recipe = judges.RECIPES["mnist"]._replace(width=2, widths=(2,), num_features=4, epochs=2)
    random = np.random.default_rng(0)
    parts = {
        part: data.from_arrays(
            random.integers(0, 256, (200, 28, 28), np.uint8), np.arange(200) % 10
        )
        for part in ("train", "test")
    }
    recipe = recipe._replace(fingerprint=parts["train"].fingerprint)
    monkeypatch.setattr(judges, "RECIPES", {**judges.RECIPES, "mnist": recipe})
    monkeypatch.setattr(data, "load", lambda name, part="train": parts[part])


@pytest.mark.end_to_end
def test_a_judge_can_be_made_again(quick, monkeypatch, tmp_path, capsys):
    path = tmp_path / "judge.npz"
    assert judges.main(["mnist", str(path)]) == 1
    out = capsys.readouterr().out
    made = judges.classifier(path)
    assert made.fingerprint in out
    assert "epoch 2 of 2: cross entropy" in out
    assert "not the packaged judge" in out
    monkeypatch.setattr(judges, "packaged", lambda name: path)
    assert judges.main(["mnist", str(tmp_path / "again.npz")]) == 0
    assert "every bit is the packaged judge's" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "exchanged", "other", "gone"])
def test_a_damaged_file_is_named_and_not_used(tmp_path, damage):
    path = tmp_path / "judge.npz"
    shutil.copy(judges.packaged("mnist"), path)
    contents = bytearray(path.read_bytes())
    if damage == "cut":
        contents = contents[: len(contents) // 2]
    elif damage == "flipped":
        contents[len(contents) // 2] ^= 1
    elif damage == "text":
        contents = b"no weights"
    path.write_bytes(contents)
    if damage == "exchanged":
        with np.load(judges.packaged("mnist")) as arrays:
            others = {n: a * 2 if a.dtype == np.float16 else a for n, a in arrays.items()}
        np.savez(path, **others)
    elif damage == "other":
        np.savez(path, images=np.zeros((3, 28, 28)))
    elif damage == "gone":
        path.unlink()
    what = "missing" if damage == "gone" else "damaged"
    with pytest.raises(DataError, match=rf"judge\.npz: {what}"):
        judges.classifier(path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 28, 28), np.float32), r"\[N, 28, 28, 1\], got an array .* \[3, 28, 28\]"),
        (np.zeros((0, 28, 28, 1), np.float32), r"got an array float32 \[0, 28, 28, 1\]"),
        (np.zeros((3, 28, 28, 3), np.float32), r"got an array float32 \[3, 28, 28, 3\]"),
        (np.zeros((3, 28, 28, 1), np.int32), r"uint8, or floating in \[0, 1\], got int32"),
        (np.full((3, 28, 28, 1), -1.0), r"range \[0, 1\], got values from -1 to -1"),
        (np.full((3, 28, 28, 1), np.nan), r"2352 of 2352 NaN"),
        ([1, 2], r"\[N, 28, 28, 1\], got "),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        judges.classifier("mnist").labels(images)


def test_an_unknown_judge_is_refused():
    with pytest.raises(ValueError, match=r"unknown judge 'minst'; did you mean 'mnist'"):
        judges.classifier("minst")
    with pytest.raises(ValueError, match=r"unknown judge 'minst'; did you mean 'mnist'"):
        judges.fingerprint("minst")


def test_other_data_are_not_trained_on(quick, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--dataset must be given, as fashion_mnist does not come"):
        judges.main(["fashion_mnist", str(tmp_path / "judge.npz")])
    with pytest.raises(ValueError, match=r"training images of fashion_mnist .* got sha256:"):
        judges.main(["fashion_mnist", str(tmp_path / "judge.npz"), "--dataset", "mnist"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_made_again(tmp_path, name):
    said, path = about(name), tmp_path / "judge.npz"
    command = [sys.executable, "-m", "genmod.evaluate.judges", name, str(path)]
    # In a plain shell: the tests' own flags change the bits.
    plain = {n: value for n, value in os.environ.items() if n not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run([*command, "--dataset", dataset(name)], env=plain, check=False)
    assert done.returncode in (0, 1)
    assert judges.classifier(path).accuracy == pytest.approx(said["accuracy"], abs=0.002)
    with np.load(path) as arrays:
        made = json.loads(str(arrays["about"]))
    if (made["versions"], made["device"]) == (said["versions"], said["device"]):
        assert made["fingerprint"] == said["fingerprint"]
        assert done.returncode == 0
