import jax
import numpy as np
import pytest

from genmod import data, evaluate, rng
from genmod.evaluate import judges
from genmod.runs import observe


@pytest.fixture
def judge(monkeypatch):
    """A judge that reads the digit off the first pixel: 0.0 is a zero, 0.9 a nine."""

    def logits(images):
        first = images[:, 0, 0, 0]
        digit = np.rint(first / (25 if first.dtype == np.uint8 else 0.1)).astype(int)
        return np.eye(10)[np.clip(digit, 0, 9)]

    found = judges.Judge("mnist", tuple("0123456789"), logits, logits, 1.0, "sha256:0")
    monkeypatch.setattr(judges, "classifier", lambda name="mnist": found)


def noisy(num, channels=1, classes=10):
    x = np.random.default_rng(0).uniform(size=(num, 28, 28, channels)).astype(np.float32)
    x[:, 0, 0, :] = np.arange(num)[:, None] % classes / 10
    return x


def real(num, channels=1):
    return np.random.default_rng(1).integers(0, 256, (num, 28, 28, channels)).astype(np.uint8)


def digits(num):
    """Data set whose labels the judge reads."""
    images = real(num)
    images[:, 0, 0, 0] = np.arange(num) % 10 * 25
    return data.from_arrays(images, np.arange(num) % 10)


def test_good_points_are_no_reason_to_warn():
    ring = data.ring()
    points, _ = data.sample_mixture(rng.root(0), ring, 2500)
    seen = observe.points(points, ring)
    scores = evaluate.mixture_modes(np.asarray(points), ring.centers, ring.std)
    assert seen.numbers == {
        "modes": 8.0,
        "high_quality": scores.high_quality,
        "reverse_kl": scores.reverse_kl,
    }
    assert list(seen.figures) == ["samples"]
    assert list(seen.warnings) == []


def test_good_points_on_few_modes_are_a_collapse():
    ring = data.ring()
    few = data.Mixture(ring.centers[:3], ring.std)
    points, _ = data.sample_mixture(rng.root(0), few, 2500)
    assert list(observe.points(points, ring).warnings) == [
        "mode collapse: good samples, but 3 of 8 modes are reached"
    ]


def test_points_that_are_not_good_yet_are_no_collapse():
    points = jax.random.normal(rng.root(0), (2500, 2))
    assert list(observe.points(points, data.ring()).warnings) == []


def test_digits_of_all_classes_are_no_reason_to_warn(judge):
    seen = observe.images(noisy(200), digits(200))
    assert seen.numbers["modes"] == 10
    assert seen.numbers["near_duplicates"] == 0
    assert list(seen.warnings) == []


def test_missing_classes_and_copies_are_a_collapse(judge):
    samples = noisy(200, classes=4)
    samples[100:] = samples[:100]
    seen = observe.images(samples, digits(200))
    assert seen.numbers["modes"] == 4
    assert seen.numbers["near_duplicates"] == 1
    assert list(seen.warnings) == [
        "mode collapse: 100% of the samples have a near duplicate",
        "mode collapse: 4 of 10 modes are reached",
    ]


def test_classes_that_the_data_lack_are_not_missed(judge):
    images = real(200)
    labels = np.where(np.arange(200) % 2, 5, 0)
    images[:, 0, 0, 0] = labels * 25
    samples = noisy(200)
    samples[:, 0, 0, 0] = labels / 10
    seen = observe.images(samples, data.from_arrays(images, labels))
    assert seen.numbers["modes"] == 2
    assert list(seen.warnings) == []


def test_many_samples_are_drawn_in_chunks_and_few_if_nothing_reads_them(judge):
    drawn = []

    class Drawing:
        conditions = None

        def sample(self, key, state, num, condition=None):
            drawn.append(num)
            return noisy(num)

    numbers = observe.scores(Drawing(), digits(200), num=1200)(rng.root(0), None)
    assert (drawn, numbers["modes"]) == ([500, 500, 200], 10)
    drawn.clear()
    observe.scores(Drawing(), data.from_arrays(real(200)), num=5000)(rng.root(0), None)
    assert sum(drawn) == 1000


def test_images_that_are_no_digits_are_compared_with_each_other(judge):
    samples = noisy(200)[:, :20]
    reference = data.from_arrays(real(200)[:, :20])
    seen = observe.images(samples, reference)
    assert (seen.numbers, list(seen.warnings)) == ({"near_duplicates": 0}, [])
    samples[100:] = samples[:100]
    seen = observe.images(samples, reference)
    assert list(seen.warnings) == ["mode collapse: 100% of the samples have a near duplicate"]
    assert seen.figures.keys() == {"samples"}


def test_stacks_are_judged_channel_by_channel(judge):
    samples = noisy(300, channels=3)
    samples[:, 0, 0, 0] = 0.2
    frequencies = data.stacked_frequencies(np.arange(10))
    seen = observe.stacked_digits(samples, real(300, 3), frequencies)
    # Channels 1 and 2 carry the same digit here: 211, 222, ..., ten of the thousand modes.
    assert seen.numbers["modes"] == 10
    assert list(seen.warnings) == ["mode collapse: 10 of 1000 modes are reached"]
