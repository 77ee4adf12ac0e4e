"""Measures by nearest neighbours: golden counts, plain loops, published defects, bad input."""

import json
import math
import tracemalloc
from pathlib import Path

import feature_cases
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from genmod.evaluate import _rows, neighbours

GOLDEN = json.loads((Path(__file__).parents[1] / "kept" / "distances.json").read_text())["cases"]


def cases():
    found = []
    for name in feature_cases.CASES:
        slow = [pytest.mark.slow] if name in {*feature_cases.SLOW, "800 x 2048"} else []
        found.append(pytest.param(name, marks=slow))
    return found


@pytest.mark.parametrize("name", cases())
def test_the_numbers_are_those_of_prdc_and_torch_fidelity(name):
    real, fake = feature_cases.CASES[name]()
    if name == "constant":
        # The radii of the fakes are 0.
        with pytest.raises(ValueError, match="fake must have different rows"):
            neighbours.precision_recall_density_coverage(real, fake)
        return
    for k, golden in GOLDEN[name]["prdc"].items():
        found = neighbours.precision_recall_density_coverage(real, fake, k=int(k), progress=False)
        assert found._asdict() == golden
    found = neighbours.precision_recall_density_coverage(
        real, fake, k=3, inclusive=True, progress=False
    )
    golden = GOLDEN[name]["inclusive"]
    # torch-fidelity takes the mean in float32; the shares are those of whole numbers.
    assert round(found.precision * len(fake)) == round(golden["precision"] * len(fake))
    assert round(found.recall * len(real)) == round(golden["recall"] * len(real))


def test_precision_is_of_the_fakes_and_recall_of_the_real_images():
    # Published defect: torch-fidelity before 0.4.0 returned one as the other.
    line = np.arange(100.0)[:, None]
    one_mode = 10 + 0.1 * np.arange(12.0)[:, None]
    found = neighbours.precision_recall_density_coverage(line, one_mode, k=3)
    assert found.precision == 1
    assert found.recall < 0.1
    swapped = neighbours.precision_recall_density_coverage(one_mode, line, k=3)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def by_loops(real, fake, k, inclusive):
    """The definition by loops over pairs."""

    def distance(a, b):
        return np.float32(np.sqrt(np.float32(np.sum((a - b) ** 2))))

    def radius(rows, i):
        return sorted(distance(rows[i], row) for j, row in enumerate(rows) if j != i)[k - 1]

    def near(a, b, r):
        return distance(a, b) <= r if inclusive else distance(a, b) < r

    of_real = [radius(real, i) for i in range(len(real))]
    of_fake = [radius(fake, j) for j in range(len(fake))]
    inside = np.array([[near(a, b, r) for b in fake] for a, r in zip(real, of_real, strict=True)])
    reached = [any(near(a, b, r) for b, r in zip(fake, of_fake, strict=True)) for a in real]
    return (
        np.mean(inside.any(axis=0)),
        np.mean(reached),
        np.mean(inside.sum(axis=0)) / k,
        np.mean(inside.any(axis=1)),
    )


@given(
    sizes=st.tuples(st.integers(4, 14), st.integers(4, 14)),
    k=st.integers(1, 3),
    inclusive=st.booleans(),
    whole=st.booleans(),
    tile=st.integers(1, 15),
    seed=st.integers(0, 999),
)
def test_the_numbers_are_those_of_plain_loops(sizes, k, inclusive, whole, tile, seed):
    draw = np.random.default_rng(seed)
    real, fake = (
        draw.integers(0, 3, (n, 2)).astype(float) if whole else draw.normal(size=(n, 2))
        for n in sizes
    )
    if any((x == x[0]).all() for x in (real, fake)):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "_TILE", tile)
        found = neighbours.precision_recall_density_coverage(real, fake, k=k, inclusive=inclusive)
    assert tuple(found) == pytest.approx(by_loops(real, fake, k, inclusive), abs=1e-12)


def test_equal_rows_have_the_distance_0_wherever_they_are():
    draw = np.random.default_rng(0)
    rows = (1e6 + draw.normal(size=(300, 7))).astype(np.float32)
    for tile in _rows.distances(rows, rows[::-1]):
        assert (tile.distances[np.arange(300), 299 - np.arange(300)] == 0).all()
    zeros = np.array([[0.0, 1.0], [-0.0, 1.0]])
    (tile,) = _rows.distances(zeros, zeros[::-1])
    assert (tile.distances == 0).all()
    # float32 and float64 rows that are equal.
    (tile,) = _rows.distances(rows, rows.astype(np.float64))
    assert (np.diag(tile.distances) == 0).all()


def test_distances_are_as_exact_as_float32_far_from_0():
    draw = np.random.default_rng(0)
    x, y = 1e4 + draw.normal(size=(50, 9)), 1e4 + draw.normal(size=(40, 9))
    (tile,) = _rows.distances(x, y)
    exact = np.linalg.norm(x[:, None] - y[None], axis=-1)
    np.testing.assert_allclose(tile.distances, exact, rtol=2e-7)


def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    monkeypatch.setattr(_rows, "_TILE", 128)
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(2, 1500, 8)).astype(np.float32)
    tracemalloc.start()
    neighbours.precision_recall_density_coverage(real, fake, k=3, progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5e6  # All distances would take 9 MB.


def test_authenticity_is_that_of_plain_loops():
    draw = np.random.default_rng(0)
    train, samples = draw.normal(size=(60, 3)), draw.normal(size=(80, 3))
    authentic = []
    for sample in samples:
        away = np.linalg.norm(train - sample, axis=1)
        nearest = away.argmin()
        others = np.linalg.norm(np.delete(train, nearest, 0) - train[nearest], axis=1)
        authentic.append(others.min() < away[nearest])
    found = neighbours.authenticity(train, samples)
    assert found.mean == pytest.approx(np.mean(authentic))
    assert found.error == pytest.approx(np.std(authentic, ddof=1) / math.sqrt(80))


def test_copies_are_not_authentic_and_distant_samples_are():
    draw = np.random.default_rng(0)
    train = draw.normal(size=(200, 4))
    assert neighbours.authenticity(train, train[:50]).mean == 0
    noisy = train[:50] + 1e-6 * draw.normal(size=(50, 4))
    assert neighbours.authenticity(train, noisy).mean == 0
    assert neighbours.authenticity(train, train[:50] + 100).mean == 1
    # Also the copy of a training image that stands there twice.
    twice = np.concatenate([train, train])
    assert neighbours.authenticity(twice, train[:50]).mean == 0
    fresh = neighbours.authenticity(train, draw.normal(size=(2000, 4)))
    assert abs(fresh.mean - 0.5) < 0.1


def test_copying_is_the_mann_whitney_test_of_distances():
    draw = np.random.default_rng(0)
    train, held_out, samples = (draw.normal(size=(n, 3)) for n in (90, 50, 70))
    away = [
        np.linalg.norm(x[:, None] - train[None], axis=-1).min(axis=1) for x in (samples, held_out)
    ]
    expected = scipy.stats.mannwhitneyu(*away, method="asymptotic", use_continuity=False)
    found = neighbours.copying(train, held_out, samples)
    assert found.share == pytest.approx(1 - expected.statistic / (50 * 70))
    assert 2 * scipy.stats.norm.sf(abs(found.z)) == pytest.approx(expected.pvalue, rel=1e-6)


def test_copies_are_far_below_0_and_poor_samples_far_above():
    draw = np.random.default_rng(0)
    train, held_out = draw.normal(size=(300, 3)), draw.normal(size=(200, 3))
    copied = neighbours.copying(train, held_out, train[:200])
    assert copied.share == 1
    assert copied.z < -15
    poor = neighbours.copying(train, held_out, held_out + 50)
    assert poor.share == 0
    assert poor.z > 15
    fresh = [
        neighbours.copying(*(draw.normal(size=(n, 2)) for n in (300, 40, 60))) for _ in range(100)
    ]
    z = np.array([found.z for found in fresh])
    assert abs(z.mean()) < 4 * z.std() / 10
    # All share no training set; with one each, z varies as a standard normal number.
    assert abs(z.std() - 1) < 4 / math.sqrt(200)
    assert np.mean([found.share for found in fresh]) == pytest.approx(0.5, abs=0.05)


def test_cells_show_what_cancels_over_all_of_them():
    # Copies on the left, poor samples on the right, as many of either.
    draw = np.random.default_rng(0)
    centers = np.array([[-50.0, 0.0], [50.0, 0.0], [0.0, 500.0]])
    train, held_out = (
        np.concatenate([center + draw.normal(size=(n, 2)) for center in centers])
        for n in (200, 100)
    )
    samples = np.concatenate([train[:100], held_out[100:200] + np.array([0, 20])])
    cells = neighbours.copying(train, held_out, samples, centers=centers)
    by_hand = [
        neighbours.copying(
            train[200 * i :][:200], held_out[100 * i :][:100], samples[100 * i :][:100]
        )
        for i in range(2)
    ]
    # The third cell, without samples, is left out.
    assert cells.z == pytest.approx(np.mean([found.z for found in by_hand]))
    assert by_hand[0].z < -10
    assert by_hand[1].z > 10
    assert abs(cells.z) < 1e-9


LINE = np.arange(8.0)[:, None]
SAME = np.ones((8, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: neighbours.precision_recall_density_coverage(LINE, LINE[:5], k=5),
            r"fake must have at least 6 rows, got \[5, 1\]",
        ),
        (
            lambda: neighbours.precision_recall_density_coverage(LINE, LINE, k=0),
            "k must be a positive whole number, got 0",
        ),
        (
            lambda: neighbours.precision_recall_density_coverage(SAME, LINE),
            "real must have different rows, got 8 that are all the same",
        ),
        (
            lambda: neighbours.precision_recall_density_coverage(LINE, SAME),
            "fake must have different rows",
        ),
        (
            lambda: neighbours.precision_recall_density_coverage(LINE, LINE + np.ones((1, 2))),
            "same width D",
        ),
        (
            lambda: neighbours.precision_recall_density_coverage(LINE + np.inf, LINE),
            "real must be finite, .* first in row 0",
        ),
        (lambda: neighbours.authenticity(LINE[:1], LINE), "train must have at least 2 rows"),
        (lambda: neighbours.authenticity(SAME, LINE), "train must have different rows"),
        (lambda: neighbours.authenticity(LINE, LINE[:0]), "samples must have at least 1 row"),
        (lambda: neighbours.copying(LINE, LINE[:0], LINE), "held_out must have at least 1 row"),
        (lambda: neighbours.copying(SAME, LINE, LINE), "train must have different rows"),
        (
            lambda: neighbours.copying(LINE, LINE, LINE, centers=np.array([[0.0], [99.0]])),
            "centers must have images of train in each of the 2 cells, got none in cell 1",
        ),
        (
            lambda: neighbours.copying(LINE, LINE, LINE, centers=np.zeros((2, 2))),
            "train and held_out and samples and centers must have the same width D",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
