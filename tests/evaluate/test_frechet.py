"""Fréchet distance: golden values, closed forms, identities, and bad input."""

import json
import tracemalloc
from pathlib import Path

import feature_cases
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from genmod import rng
from genmod.evaluate import _rows, frechet

GOLDEN = json.loads((Path(__file__).parents[1] / "kept" / "distances.json").read_text())["cases"]


def cases():
    found = []
    for name in feature_cases.CASES:
        slow = [pytest.mark.slow] if name in ("800 x 2048", "10000 x 2048") else []
        found.append(pytest.param(name, marks=slow))
    return found


@pytest.mark.parametrize("name", cases())
def test_the_values_are_those_of_torch_fidelity(name):
    real, fake = feature_cases.CASES[name]()
    found = frechet.frechet_distance(real, fake)
    # A set against itself is 0 but for the rounding of its trace.
    near = {"abs": 1e-9} if name == "same" else {"rel": 1e-6}
    assert found == pytest.approx(GOLDEN[name]["frechet"], **near)


def by_definition(real, fake, ddof=1):
    """The definition with SciPy's root of a matrix, in float64."""
    one, other = (np.cov(x, rowvar=False, ddof=ddof) for x in (real, fake))
    difference = real.mean(axis=0) - fake.mean(axis=0)
    root = scipy.linalg.sqrtm(one @ other).real
    return difference @ difference + np.trace(one + other - 2 * root)


@pytest.mark.parametrize("convention", frechet.FRECHET_CONVENTIONS)
def test_conventions_differ_in_the_denominator(convention):
    real, fake = (x.astype(np.float64) for x in feature_cases.plain(64, 8))
    ddof = 0 if convention == "nvidia" else 1
    found = frechet.frechet_distance(real, fake, convention=convention)
    assert found == pytest.approx(by_definition(real, fake, ddof), rel=1e-9)
    other = frechet.frechet_distance(real, fake, convention=convention, ddof=1 - ddof)
    assert other == pytest.approx(by_definition(real, fake, 1 - ddof), rel=1e-9)
    assert abs(other / found - 1) > 1e-4


def test_the_mean_has_the_features_type_where_the_convention_says_so():
    # The mean of float32 numbers far from 0 is only as precise as their sum.
    rows = np.random.default_rng(0).normal(1000, 1, (5000, 2)).astype(np.float32)
    exact = np.mean(rows, axis=0, dtype=np.float64)
    rounded = np.mean(rows, axis=0).astype(np.float64)
    assert np.abs(exact - rounded).max() > 1e-4
    other = np.zeros((5000, 2), np.float64)
    trace = np.trace(np.cov(rows, rowvar=False))
    mean = frechet.frechet_distance(rows, other) - trace
    assert mean == pytest.approx(rounded @ rounded, rel=1e-12)
    mean = frechet.frechet_distance(rows, other, convention="nvidia", ddof=1) - trace
    assert mean == pytest.approx(exact @ exact, rel=1e-12)


@given(
    num=st.integers(2, 12),
    other=st.integers(2, 12),
    width=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_it_is_symmetric_shifts_and_scales_as_it_must(num, other, width, seed):
    draw = np.random.default_rng(seed)
    real, fake = draw.normal(size=(num, width)), draw.normal(size=(other, width))
    found = frechet.frechet_distance(real, fake)
    assert found > -1e-9
    assert frechet.frechet_distance(fake, real) == pytest.approx(found, rel=1e-6, abs=1e-7)
    assert frechet.frechet_distance(3 * real, 3 * fake) == pytest.approx(
        9 * found, rel=1e-6, abs=1e-6
    )
    shifted = frechet.frechet_distance(real, real + 2)
    assert shifted == pytest.approx(4 * width, abs=1e-6)


def test_in_one_dimension_it_is_the_closed_form():
    draw = np.random.default_rng(0)
    real, fake = draw.normal(1, 2, (500, 1)), draw.normal(4, 3, (300, 1))
    gap, stds = real.mean() - fake.mean(), [x.std(ddof=1) for x in (real, fake)]
    expected = gap**2 + (stds[0] - stds[1]) ** 2
    assert frechet.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-12)


def test_fewer_rows_than_columns_give_the_same_by_either_way():
    # With an orthogonal map of 5 into 40 columns, the true value is that of 5 columns.
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(30, 5)), 1.5 * draw.normal(size=(20, 5))
    expected = by_definition(real, fake)
    embed = np.linalg.qr(draw.normal(size=(40, 5)))[0].T
    assert frechet.frechet_distance(real, fake) == pytest.approx(expected, rel=1e-10)
    wide = frechet.frechet_distance(real @ embed, fake @ embed)
    assert wide == pytest.approx(expected, rel=1e-10)
    # One set has more rows than columns, the other fewer.
    many = draw.normal(size=(60, 5))
    mixed = frechet.frechet_distance(many @ embed, fake @ embed)
    assert mixed == pytest.approx(by_definition(many, fake), rel=1e-6)


def test_a_singular_covariance_beside_a_regular_one_gives_a_number():
    # Rounding gives the product eigenvalues below 0, which have no root.
    draw = np.random.default_rng(0)
    real, few = draw.normal(size=(60, 40)), draw.normal(size=(80, 5))
    embed = np.linalg.qr(draw.normal(size=(40, 5)))[0].T
    fake, inside = few @ embed, real @ embed.T
    # The product has the eigenvalues that it has within the space of the fakes.
    root = scipy.linalg.sqrtm(np.cov(inside, rowvar=False) @ np.cov(few, rowvar=False)).real
    traces = [np.trace(np.cov(x, rowvar=False)) for x in (real, few)]
    difference = real.mean(axis=0) - fake.mean(axis=0)
    expected = difference @ difference + sum(traces) - 2 * np.trace(root)
    for one, other in ((real, fake), (fake, real)):
        found = frechet.frechet_distance(one, other)
        assert found == pytest.approx(expected, rel=1e-6)


def test_columns_that_depend_on_each_other_cost_no_digits():
    # 64 columns that are multiples of five: torch-fidelity's value is off by 2e-6.
    draw, columns = np.random.default_rng(0), np.arange(64)
    mix = np.zeros((5, 64))
    mix[columns % 5, columns] = 1 + columns // 5
    real, fake = draw.normal(size=(500, 5)), 1.1 * draw.normal(size=(500, 5))
    reduced = np.linalg.qr(mix.T)[1].T
    expected = frechet.frechet_distance(real @ reduced, fake @ reduced)
    assert frechet.frechet_distance(real @ mix, fake @ mix) == pytest.approx(expected, rel=1e-9)


def test_a_set_against_itself_is_returned_as_it_is():
    real, _ = feature_cases.plain(300, 8)
    assert abs(frechet.frechet_distance(real, real)) < 1e-10
    few, _ = feature_cases.plain(20, 64)
    assert abs(frechet.frechet_distance(few, few)) < 1e-8


@pytest.mark.parametrize("ddof", [0, 1])
def test_statistics_of_chunks_are_those_of_all_rows(ddof):
    rows = np.random.default_rng(0).normal(50, 1, (1000, 6)).astype(np.float32)
    num, mean, covariance = frechet.feature_statistics(
        (rows[i : i + 7] for i in range(0, 1000, 7)), ddof=ddof
    )
    assert num == 1000
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-13)
    expected = np.cov(rows.astype(np.float64), rowvar=False, ddof=ddof)
    np.testing.assert_allclose(covariance, expected, rtol=1e-10, atol=1e-12)
    whole = frechet.feature_statistics(jnp.asarray(rows), ddof=ddof)
    np.testing.assert_allclose(whole.covariance, covariance, rtol=1e-10, atol=1e-12)


def test_statistics_give_the_distance_of_their_rows():
    real, fake = (x.astype(np.float64) for x in feature_cases.plain(200, 16))
    both = [frechet.feature_statistics([x[:30], x[30:]]) for x in (real, fake)]
    expected = frechet.frechet_distance(real, fake)
    assert frechet.frechet_from_statistics(*both) == pytest.approx(expected, rel=1e-10)
    # Rank 19 of 64: the covariance has no Cholesky factor.
    few = [x.astype(np.float64) for x in feature_cases.plain(20, 64)]
    both = [frechet.feature_statistics(x) for x in few]
    expected = frechet.frechet_distance(*few)
    assert frechet.frechet_from_statistics(*both) == pytest.approx(expected, rel=1e-6)


def test_memory_is_that_of_a_block_and_the_covariances(monkeypatch):
    monkeypatch.setattr(_rows, "_TILE", 64)
    rows = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    tracemalloc.start()
    frechet.frechet_distance(rows, rows[::-1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.nbytes / 4


def test_infinity_is_the_intercept_of_exact_numbers(monkeypatch):
    # Distances that lie on a line are extrapolated exactly, with no error.
    monkeypatch.setattr(frechet, "_frechet", lambda a, b: 2.5 + 30 / b)
    monkeypatch.setattr(frechet, "_moments", lambda x, rule: len(x))
    rows = np.random.default_rng(0).normal(size=(400, 2))
    found = frechet.frechet_infinity(rng.root(0), rows, rows)
    assert (found.value, found.slope) == (pytest.approx(2.5), pytest.approx(30))
    assert found.error < 1e-12
    np.testing.assert_array_equal(found.sizes, np.linspace(40, 400, 15).astype(int))


def test_infinity_removes_the_bias_of_few_images():
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(20_000, 8)), draw.normal(size=(1000, 8))
    plain = frechet.frechet_distance(real, fake)
    found = frechet.frechet_infinity(rng.root(0), real, fake)
    assert found.distances[-1] == pytest.approx(plain)
    # The truth is 0, up to the real set's own part of the bias.
    assert abs(found.value) < plain / 3
    assert 0 < found.error < plain
    again = frechet.frechet_infinity(rng.root(0), real, fake)
    assert again.value == found.value
    assert frechet.frechet_infinity(rng.root(1), real, fake).value != found.value


TWO = np.eye(3)[:2]
OF_TWO = frechet.feature_statistics(TWO)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: frechet.frechet_distance(TWO[0], TWO),
            r"real must have the shape \[N, D\], .*\[3\]",
        ),
        (lambda: frechet.frechet_distance(TWO, TWO[:, :0]), r"fake must have .* got \[2, 0\]"),
        (lambda: frechet.frechet_distance(TWO, TWO[:1]), r"fake must have at least 2 rows"),
        (
            lambda: frechet.frechet_distance(TWO, TWO[:, :2]),
            r"same width D, got real \[2, 3\] and fake \[2, 2\]",
        ),
        (
            lambda: frechet.frechet_distance(TWO, np.array([[0, 1, 2], [3, np.nan, 5]])),
            r"fake must be finite, got NaN or infinity, first in row 1",
        ),
        (
            lambda: frechet.frechet_distance(TWO * 1j, TWO),
            "real must be real numbers, got .*complex",
        ),
        (
            lambda: frechet.frechet_distance(TWO, TWO, convention="nvidea"),
            "unknown convention 'nvidea'; did you mean 'nvidia'",
        ),
        (lambda: frechet.frechet_distance(TWO, TWO, ddof=2), "ddof must be 0 or 1, got 2"),
        (lambda: frechet.feature_statistics([TWO, TWO[:, :2]]), "chunk 1 must have the width 3"),
        (lambda: frechet.feature_statistics([TWO[:1]]), "chunks must have at least 2 rows in all"),
        (lambda: frechet.feature_statistics([]), "chunks must have at least 2 rows in all, got 0"),
        (lambda: frechet.feature_statistics([TWO, TWO + np.inf]), "chunk 1 must be finite"),
        (
            lambda: frechet.frechet_from_statistics(
                frechet.feature_statistics(TWO), frechet.feature_statistics(TWO[:, :2])
            ),
            r"fake must have a mean \[3\]",
        ),
        (
            lambda: frechet.frechet_from_statistics(OF_TWO, tuple(OF_TWO)),
            "fake must be FeatureStatistics, got a tuple of 3",
        ),
        (
            lambda: frechet.frechet_from_statistics(
                OF_TWO._replace(mean=np.full(3, np.nan)), OF_TWO
            ),
            "real must be finite",
        ),
        (
            lambda: frechet.frechet_from_statistics(OF_TWO._replace(covariance=-np.eye(3)), OF_TWO),
            "real must have a symmetric covariance .* smallest variance of -1",
        ),
        (
            lambda: frechet.frechet_from_statistics(
                OF_TWO, OF_TWO._replace(covariance=np.triu(np.ones((3, 3))))
            ),
            "fake must have a symmetric covariance .* differences .* of up to 1",
        ),
        (
            lambda: frechet.frechet_infinity(rng.root(0), TWO, TWO),
            "fake must have at least 20 rows",
        ),
        (
            lambda: frechet.frechet_infinity(rng.root(0), TWO, np.eye(30), num_sizes=2),
            "num_sizes must be at least 3",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
