"""The judge that comes with genmod: what it is worth, its file, its refusals."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import data, evaluate, rng
from genmod._host import environment
from genmod.data import DataError
from genmod.evaluate import digits
from genmod.runs import observe


@pytest.fixture(scope="module")
def judge():
    return digits.classifier()


@pytest.mark.end_to_end
def test_it_reads_mnist_as_well_as_its_file_says(judge):
    assert judge.accuracy >= 0.993
    assert digits.accuracy(judge) == judge.accuracy


def test_nothing_is_trained_and_the_file_is_small(judge, monkeypatch, capsys):
    def train(net):
        raise AssertionError("trained")

    monkeypatch.setattr(digits, "_train", train)
    digits.classifier.cache_clear()
    again = digits.classifier()
    assert capsys.readouterr() == ("", "")
    assert again.fingerprint == judge.fingerprint == digits.fingerprint()
    assert digits.packaged().stat().st_size < 2e6


def test_its_file_says_what_made_it():
    with np.load(digits.packaged()) as arrays:
        about = json.loads(str(arrays["about"]))
        assert {arrays[name].dtype for name in arrays if name != "about"} == {np.dtype("float16")}
    assert about["recipe"]["seed"] == 0
    assert {"jax", "jaxlib", "python"} <= about["versions"].keys()
    assert about["device"]["platform"] == "cpu"


@pytest.mark.end_to_end
def test_logits_do_not_depend_on_what_is_asked_with_them(judge):
    x = np.asarray(jax.random.uniform(rng.root(1), (1500, 28, 28, 1)))
    logits = judge.logits(x)
    assert logits.shape == (1500, 10)
    np.testing.assert_allclose(logits[1400:], judge.logits(x[1400:]), rtol=1e-5, atol=1e-5)
    assert (judge.labels(x).dtype, judge.labels(x).shape) == (np.int32, (1500,))


def test_every_score_says_who_judged(judge):
    images = data.load("mnist", "test").images[:200]
    seen = observe.digits(images / np.float32(255), images)
    title = seen.figures["samples"].get_suptitle()
    assert f"judge {judge.fingerprint.removeprefix('sha256:')[:8]}" in title
    assert evaluate.label_modes(np.arange(10), 10).judge == ""


def quick(monkeypatch):
    """Untrained weights instead of trained ones, and images that are judged at once."""
    monkeypatch.setattr(
        digits, "_train", lambda net: net.init(rng.root(0), jnp.zeros((1, 28, 28, 1)))
    )
    monkeypatch.setattr(digits, "accuracy", lambda judge: 0.1)


@pytest.mark.end_to_end
def test_it_can_be_made_again(monkeypatch, tmp_path, capsys):
    quick(monkeypatch)
    path = tmp_path / "judge.npz"
    assert digits.main([str(path)]) == 1
    out = capsys.readouterr().out
    made = digits.classifier(path)
    assert made.fingerprint in out
    assert "not the packaged judge" in out
    monkeypatch.setattr(digits, "packaged", lambda: path)
    assert digits.main([str(tmp_path / "again.npz")]) == 0
    assert "every bit is the packaged judge's" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "exchanged", "gone"])
def test_a_damaged_file_is_named_and_not_used(tmp_path, damage):
    path = tmp_path / "judge.npz"
    shutil.copy(digits.packaged(), path)
    contents = bytearray(path.read_bytes())
    if damage == "cut":
        contents = contents[: len(contents) // 2]
    elif damage == "flipped":
        contents[len(contents) // 2] ^= 1
    elif damage == "text":
        contents = b"no weights"
    path.write_bytes(contents)
    if damage == "exchanged":
        with np.load(digits.packaged()) as arrays:
            others = {n: a * 2 if a.dtype == np.float16 else a for n, a in arrays.items()}
        np.savez(path, **others)
    elif damage == "gone":
        path.unlink()
    what = "missing" if damage == "gone" else "damaged"
    with pytest.raises(DataError, match=rf"judge\.npz: {what}"):
        digits.classifier(path)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 28, 28), np.float32), r"\[N, 28, 28, 1\], got \[3, 28, 28\]"),
        (np.zeros((0, 28, 28, 1), np.float32), r"got \[0, 28, 28, 1\]"),
        (np.zeros((3, 28, 28, 1), np.uint8), r"floating, in \[0, 1\], got uint8"),
    ],
)
def test_what_is_no_digit_is_refused(judge, images, message):
    with pytest.raises(ValueError, match=message):
        judge.labels(images)


def test_one_file_is_to_be_named():
    with pytest.raises(ValueError, match=r"one file to write the judge to, got \[\]"):
        digits.main([])


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_it_is_made_again_bit_for_bit(tmp_path):
    with np.load(digits.packaged()) as arrays:
        about = json.loads(str(arrays["about"]))
    if (about["versions"], about["device"]["machine"]) != (
        environment.versions(),
        environment.device()["machine"],
    ):
        pytest.skip(f"the judge was made with {about['versions']}")
    assert digits.main([str(tmp_path / "judge.npz")]) == 0
