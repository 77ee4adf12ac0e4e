"""Errors and floors by subsets of rows, against known standard errors."""

import numpy as np
import pytest

from genmod import rng
from genmod.evaluate import distances, frechet, resampling


def difference(real, fake):
    return fake.mean() - real.mean()


def test_the_error_of_a_difference_of_means_is_the_known_one():
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=400), 3 * draw.normal(size=100)
    found = resampling.interval(rng.root(0), difference, real, fake, num=200)
    expected = np.sqrt(real.var(ddof=1) / 400 + fake.var(ddof=1) / 100)
    assert abs(found.error / expected - 1) < 4 / np.sqrt(400)
    assert found.value == difference(real, fake)
    assert found.upper - found.value == pytest.approx(1.959964 * found.error)
    assert found.value - found.lower == pytest.approx(1.959964 * found.error)
    narrow = resampling.interval(rng.root(0), difference, real, fake, num=200, level=0.5)
    assert narrow.upper - narrow.value == pytest.approx(0.67449 * found.error, rel=1e-4)


@pytest.mark.parametrize("function", [frechet.frechet_distance, distances.kernel_distance])
def test_the_error_of_a_distance_is_that_of_new_rows(function):
    draw = np.random.default_rng(0)

    def sets():
        return draw.normal(size=(120, 2)), 1.5 * draw.normal(size=(80, 2)) + 1

    truth = np.std([function(*sets()) for _ in range(150)])
    errors = [
        resampling.interval(rng.root(seed), function, *sets(), num=30).error for seed in range(8)
    ]
    spread = np.std(errors) / np.sqrt(8) + truth / np.sqrt(300)
    assert abs(np.mean(errors) - truth) < 4 * spread


def test_without_a_difference_the_error_is_too_large_by_root_3():
    # In second order: a kernel distance between samples of one distribution.
    draw = np.random.default_rng(0)

    def sets():
        return draw.normal(size=(60, 2)), draw.normal(size=(60, 2))

    truth = np.std([distances.kernel_distance(*sets()) for _ in range(300)])
    errors = [
        resampling.interval(rng.root(seed), distances.kernel_distance, *sets(), num=30).error
        for seed in range(12)
    ]
    assert 1.2 < np.mean(errors) / truth < 2.4


def test_several_distances_have_the_error_of_each():
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=90), 3 * draw.normal(size=100)

    def both(real, fake):
        return {"difference": difference(real, fake), "spread": fake.std()}

    found = resampling.intervals(rng.root(0), both, real, fake, num=9)
    alone = resampling.interval(rng.root(0), difference, real, fake, num=9)
    assert found["difference"] == pytest.approx(alone, rel=1e-12)
    assert found["spread"].value == fake.std()


def test_the_floor_is_the_mean_distance_of_perfect_samples():
    draw = np.random.default_rng(0)
    real = draw.normal(size=(5000, 3))
    found = resampling.floor(
        rng.root(0), frechet.frechet_distance, real, num_real=100, num_fake=60, num=40
    )
    truth = [
        frechet.frechet_distance(draw.normal(size=(100, 3)), draw.normal(size=(60, 3)))
        for _ in range(200)
    ]
    error = found.std / np.sqrt(40) + np.std(truth) / np.sqrt(200)
    assert abs(found.mean - np.mean(truth)) < 4 * error
    assert found.std == pytest.approx(np.std(truth), rel=0.5)


def test_the_rows_of_a_split_are_disjoint_and_as_many_as_asked_for():
    seen = []

    def function(real, fake):
        seen.append((real, fake))
        return 0.0

    rows = np.arange(10)
    resampling.floor(rng.root(0), function, rows, num_real=6, num_fake=4, num=3)
    assert len(seen) == 3
    for real, fake in seen:
        assert len(real) == 6
        assert sorted([*real, *fake]) == list(range(10))
    assert any(list(seen[0][0]) != list(real) for real, _ in seen[1:])

    seen.clear()
    resampling.interval(rng.root(0), function, rows, rows[:5] + 100, num=3)
    (whole, _), *halves = seen
    assert len(whole) == 10
    for real, fake in halves:
        assert len(set(real)) == 5 and set(real) <= set(rows)  # noqa: PT018
        assert len(set(fake)) == 2


FEW = np.zeros((3, 2))
MANY = np.zeros((8, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: resampling.interval(rng.root(0), difference, FEW, MANY),
            r"real must have at least 4 rows, got \[3, 2\]",
        ),
        (
            lambda: resampling.interval(rng.root(0), difference, MANY, 1.0),
            r"fake must have at least 4 rows, got \[\]",
        ),
        (
            lambda: resampling.interval(rng.root(0), difference, MANY, MANY, num=1),
            "num must be at least 2, got 1",
        ),
        (
            lambda: resampling.interval(rng.root(0), difference, MANY, MANY, level=95),
            r"level must be a number in \(0, 1\), got 95",
        ),
        (
            lambda: resampling.floor(rng.root(0), difference, MANY, num_real=6, num_fake=3),
            r"real must have at least num_real \+ num_fake = 9 rows, got \[8, 2\]",
        ),
        (
            lambda: resampling.floor(rng.root(0), difference, MANY, num_real=0, num_fake=3),
            "num_real must be a positive whole number, got 0",
        ),
        (
            lambda: resampling.floor(rng.root(0), difference, MANY, num_real=2, num_fake=2, num=1),
            "num must be at least 2, got 1",
        ),
        (
            lambda: resampling.interval(rng.root(0), lambda a, b: np.nan, MANY, MANY),
            r"function must return finite numbers, got \[nan\]",
        ),
        (
            lambda: resampling.floor(rng.root(0), lambda a, b: a[0], MANY, num_real=2, num_fake=2),
            "function must return finite numbers, got",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
