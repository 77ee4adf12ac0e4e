"""Near duplicates: none among real examples, all among copies, whatever the scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmod import data, evaluate


def by_loops(samples, tolerance):
    rows = samples.reshape(len(samples), -1)
    near = [
        min(np.linalg.norm(a - b) for j, b in enumerate(rows) if j != i) <= tolerance
        for i, a in enumerate(rows)
    ]
    return np.mean(near)


@given(st.integers(2, 12), st.integers(1, 4), st.floats(0, 3), st.integers(0, 2**16))
def test_the_share_is_that_of_plain_loops(num, dimensions, tolerance, seed):
    draw = np.random.default_rng(seed)
    samples = draw.normal(size=(num, dimensions))
    samples[draw.integers(0, num)] = samples[0]
    expected = by_loops(samples, tolerance)
    assert evaluate.near_duplicates(samples, tolerance=tolerance) == expected
    shuffled = draw.permutation(samples)
    assert evaluate.near_duplicates(shuffled, tolerance=tolerance) == expected


def test_more_samples_than_one_block_are_all_compared():
    # Copies far apart in order, and a neighbour across the edge of a block.
    samples = np.arange(1100.0)[:, None] * np.ones((1, 3))
    assert evaluate.near_duplicates(samples, tolerance=1.0) == 0
    samples[1099] = samples[0]
    samples[512] = samples[511]
    assert evaluate.near_duplicates(samples, tolerance=0) == 4 / 1100


@pytest.mark.parametrize("place", [0.0, 1e3, 1e6])
def test_exact_copies_are_found_at_no_tolerance_wherever_they_are(place):
    samples = place + np.random.default_rng(0).random((300, 5))
    assert evaluate.near_duplicates(samples, tolerance=0) == 0
    copies = np.concatenate([samples, samples[:100]])
    assert evaluate.near_duplicates(copies, tolerance=0) == 200 / 400


def test_the_tolerance_is_a_quarter_of_the_first_percentile():
    # Nearest distances 1, 2, ..., 101 twice each: pairs far from one another.
    gaps = np.arange(1.0, 102.0)
    left = 1e4 * gaps
    points = np.stack([left, left + gaps], axis=1).reshape(-1, 1)
    expected = np.percentile(np.repeat(gaps, 2), 1) / 4
    assert evaluate.duplicate_tolerance(points) == pytest.approx(expected)


def test_as_many_real_examples_are_taken_as_there_are_samples():
    draw = np.random.default_rng(0)
    samples, reference = draw.random((50, 2)), draw.random((400, 2))
    tolerance = evaluate.duplicate_tolerance(reference[:50])
    expected = evaluate.near_duplicates(samples, tolerance=tolerance)
    assert evaluate.near_duplicates(samples, reference=reference) == expected
    # All 400 would lie closer together.
    assert tolerance > 1.5 * evaluate.duplicate_tolerance(reference)


@pytest.mark.parametrize("num", [200, 1000])
def test_real_digits_have_none_and_copies_are_all_found(digits, num):
    real = data.load("mnist", "test").images[:num] / np.float32(255)
    reference = digits / np.float32(255)
    assert evaluate.near_duplicates(real, reference=reference) == 0

    draw = np.random.default_rng(0)
    copies = real[draw.integers(0, 10, num)]
    noise = draw.normal(size=copies.shape)
    assert evaluate.near_duplicates(copies + 0.01 * noise, reference=reference) == 1
    assert evaluate.near_duplicates(copies + 0.05 * noise, reference=reference) == 0
    half = np.where(np.arange(num)[:, None, None, None] < num // 2, real, copies)
    # The copies, and the ten that they were made of.
    assert evaluate.near_duplicates(half, reference=reference) == (num // 2 + 10) / num


@pytest.mark.parametrize("make", [data.ring, data.grid])
def test_modes_are_no_duplicates_but_a_point_is(make):
    draw, num, mixture = np.random.default_rng(0), 2500, make()

    def drawn(modes, scale=1.0):
        noise = scale * mixture.std * draw.normal(size=(num, 2))
        return mixture.centers[draw.integers(0, modes, num)] + noise

    every = len(mixture.centers)
    tolerance = evaluate.duplicate_tolerance(drawn(every))
    assert evaluate.near_duplicates(drawn(every), tolerance=tolerance) < 0.003
    # One mode of all: missing modes, which `mixture_modes` counts, not copies.
    assert evaluate.near_duplicates(drawn(1), tolerance=tolerance) < 0.04
    assert evaluate.near_duplicates(drawn(1, scale=0.01), tolerance=tolerance) > 0.95
    for modes in (1, every):
        assert evaluate.near_duplicates(drawn(modes, scale=0), tolerance=tolerance) == 1


def test_units_do_not_matter_where_the_reference_has_the_same():
    draw = np.random.default_rng(0)
    samples, reference = draw.integers(0, 256, (2, 60, 2, 1, 1), np.uint8)
    share = evaluate.near_duplicates(samples, reference=reference)
    assert evaluate.near_duplicates(samples / 256, reference=reference / 256) == share


FEW = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: evaluate.near_duplicates(FEW), "give either reference or tolerance, got neither"),
        (
            lambda: evaluate.near_duplicates(FEW, reference=FEW, tolerance=1.0),
            "give either reference or tolerance, got both",
        ),
        (
            lambda: evaluate.near_duplicates(FEW, tolerance=-1.0),
            "tolerance must be a number of at least 0, got -1.0",
        ),
        (
            lambda: evaluate.near_duplicates(FEW, tolerance=np.nan),
            "tolerance must be a number of at least 0, got nan",
        ),
        (
            lambda: evaluate.near_duplicates(FEW[:1], tolerance=1.0),
            r"samples must have the shape \[N, ...\] with N >= 2, got \[1, 2\]",
        ),
        (lambda: evaluate.near_duplicates(FEW[:, 0], tolerance=1.0), r"got \[3\]"),
        (lambda: evaluate.near_duplicates(FEW[:, :0], tolerance=1.0), r"got \[3, 0\]"),
        (lambda: evaluate.near_duplicates(FEW * np.nan, tolerance=1.0), "samples must be finite"),
        (lambda: evaluate.near_duplicates(FEW, reference=FEW + np.inf), "reference must be finite"),
        (
            lambda: evaluate.near_duplicates(FEW, reference=FEW[:2]),
            r"reference must hold at least 3 examples of the shape \[2\], .*got 2 of \[2\]",
        ),
        (
            lambda: evaluate.near_duplicates(FEW, reference=np.zeros((3, 2, 1))),
            r"reference must hold .*shape \[2\], .*got 3 of \[2, 1\]",
        ),
        (lambda: evaluate.duplicate_tolerance(FEW[:1]), r"reference must have .*got \[1, 2\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
