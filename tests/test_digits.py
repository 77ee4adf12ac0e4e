"""The judge: its file, its refusals; and, among the slow tests, what it is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import data, digits, rng
from genmod.data import DataError


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Untrained weights instead of trained ones, a cache of its own; counts the trainings."""
    trained = []

    def train(net):
        trained.append(net)
        return net.init(rng.root(0), jnp.zeros((1, 28, 28, 1)))

    monkeypatch.setattr(digits, "_train", train)
    digits.classifier.cache_clear()
    yield tmp_path, trained
    digits.classifier.cache_clear()


def test_it_is_trained_once_and_kept(quick, capsys):
    folder, trained = quick
    first = digits.classifier(folder)
    assert "training the classifier" in capsys.readouterr().out
    digits.classifier.cache_clear()
    again = digits.classifier(folder)
    assert capsys.readouterr().out == ""
    assert len(trained) == 1
    assert (first.fingerprint, first.accuracy) == (again.fingerprint, again.accuracy)
    assert first.fingerprint.startswith("sha256:")
    assert 0 < first.accuracy < 0.5
    x = np.asarray(jax.random.uniform(rng.root(1), (1500, 28, 28, 1)))
    np.testing.assert_array_equal(first.logits(x), again.logits(x))
    assert first.logits(x).shape == (1500, 10)
    np.testing.assert_allclose(first.logits(x)[1400:], first.logits(x[1400:]), rtol=1e-5, atol=1e-6)
    assert (first.labels(x).dtype, first.labels(x).shape) == (np.int32, (1500,))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_file_is_named_and_not_used(quick, damage):
    folder, _ = quick
    digits.classifier(folder)
    (path,) = folder.glob("*.npz")
    contents = bytearray(path.read_bytes())
    if damage == "cut":
        contents = contents[: len(contents) // 2]
    elif damage == "flipped":
        contents[len(contents) // 2] ^= 1
    else:
        contents = b"no weights"
    path.write_bytes(contents)
    digits.classifier.cache_clear()
    with pytest.raises(DataError, match=r"classifier-.*\.npz: damaged"):
        digits.classifier(folder)
    assert path.exists(), "nothing is deleted without being told to"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 28, 28), np.float32), r"\[N, 28, 28, 1\], got \[3, 28, 28\]"),
        (np.zeros((0, 28, 28, 1), np.float32), r"got \[0, 28, 28, 1\]"),
        (np.zeros((3, 28, 28, 1), np.uint8), r"floating, in \[0, 1\], got uint8"),
    ],
)
def test_what_is_no_digit_is_refused(quick, images, message):
    folder, _ = quick
    with pytest.raises(ValueError, match=message):
        digits.classifier(folder).labels(images)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_reads_mnist(tmp_path):
    digits.classifier.cache_clear()
    judge = digits.classifier(tmp_path)
    digits.classifier.cache_clear()
    assert judge.accuracy >= 0.993
    test = data.load("mnist", "test")
    right = judge.labels(test.images.astype(np.float32) / 255) == test.labels
    assert right.mean() == judge.accuracy
