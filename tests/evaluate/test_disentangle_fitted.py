"""SAP, DCI and InfoMEC against the numbers of the authors' code, and against closed forms."""

import json
import sys
from pathlib import Path

import factored
import numpy as np
import pytest
import sklearn
from hypothesis import given
from hypothesis import strategies as st

from genmod import rng
from genmod.evaluate import disentangle_fitted
from genmod.evaluate.disentangle_fitted import dci, infomec, sap

KEPT = json.loads((Path(__file__).parents[1] / "kept" / "disentanglement.json").read_text())
SAME = sklearn.__version__ in KEPT["scores"]
OURS = KEPT["scores"]["1.9.1"]
AUTHORS = KEPT["scores"]["1.3.2"]  # the last version here that runs the code of InfoMEC


@pytest.fixture
def seeded(monkeypatch):
    """scikit-learn draws the numbers that it drew for the authors' code."""
    monkeypatch.setattr(disentangle_fitted, "_seed", lambda key, name: KEPT["seed"])


@pytest.mark.parametrize("name", factored.CASES)
def test_sap_is_that_of_the_authors_code(name):
    train, test = factored.halves(*factored.CASES[name]())
    assert sap(*train, test=test) == pytest.approx(OURS[name]["sap"], abs=1e-9 if SAME else 0.01)
    assert sap(*train, ordered=True) == pytest.approx(OURS[name]["sap_ordered"], rel=1e-9)


def test_dci_is_that_of_the_authors_code(seeded):
    train, test = factored.halves(*factored.mixed())
    found, kept = dci(*train, test=test), OURS["mixed"]
    # They add 1e-11 to each importance.
    close = 1e-9 if SAME else 0.01
    np.testing.assert_allclose(found.importance, kept["importance"], atol=close)
    for name in ("disentanglement", "completeness", "informativeness"):
        assert getattr(found, name) == pytest.approx(kept[name], abs=close)


@pytest.mark.parametrize("name", factored.CASES)
def test_infomec_is_that_of_the_authors_code(seeded, name):
    codes, factors = factored.CASES[name]()
    found, kept = infomec(codes, factors, discrete=name == "quantized"), AUTHORS[name]["infomec"]
    np.testing.assert_array_equal(found.active, kept["active"])
    np.testing.assert_allclose(found.information, kept["information"], atol=1e-9)
    assert found.modularity == pytest.approx(kept["modularity"], abs=1e-9)
    assert found.compactness == pytest.approx(kept["compactness"], abs=1e-9)
    # The solver of their version ends at another distance from the optimum.
    assert found.explicitness == pytest.approx(kept["explicitness"], abs=2e-4)


def test_codes_that_are_the_factors_score_one():
    factors = factored.grid(2, 3, times=16)
    assert sap(factors, factors, ordered=True) == pytest.approx(1)
    found = dci(factors, factors)
    assert found[:3] == pytest.approx((1, 1, 1), abs=1e-6)
    np.testing.assert_allclose(found.importance, np.eye(2), atol=1e-9)
    found = infomec(factors, factors, discrete=True)
    assert found[:2] == pytest.approx((1, 1), abs=1e-9)
    np.testing.assert_allclose(found.information, np.eye(2), atol=1e-9)
    assert found.explicitness == pytest.approx(1, abs=2e-3)
    # Of continuous codes the neighbours tell a little too much.
    found = infomec(factors, factors)
    assert found[:3] == pytest.approx((1, 1, 1), abs=2e-2)


def test_a_rotation_mixes_codes_and_loses_nothing():
    factors = factored.grid(4, 4, times=8)
    turned = factors @ [[1, 1], [1, -1]]
    found = infomec(turned, factors, discrete=True)
    assert found[:2] == pytest.approx((0, 0), abs=1e-9)
    before, after = (infomec(codes, factors).explicitness for codes in (factors, turned))
    assert after == pytest.approx(before, abs=2e-2)
    # The two largest correlations are 1/sqrt(2) each.
    assert sap(turned, factors, ordered=True) == pytest.approx(0, abs=1e-12)
    factors = factored.grid(2, 2, times=16)
    found = dci(factors @ [[1, 1], [1, -1]], factors)
    assert found.informativeness == 1
    assert found.disentanglement < 0.1 > found.completeness


def test_classes_that_one_code_separates_leave_the_chance_of_another():
    factors = factored.grid(2, 2, times=50)
    test = factored.grid(2, 2)
    assert sap(factors, factors, test=(test, test)) == 0.5


@pytest.mark.parametrize(
    ("importance", "rows", "columns"),
    [
        (np.diag([5.0, 1, 3]), 1, 1),
        # Each factor in two codes; each code with two factors.
        (np.concatenate([np.eye(3), np.eye(3)]), 1, 1 - np.log(2) / np.log(6)),
        (np.concatenate([np.eye(3), np.eye(3)], axis=1), 1 - np.log(2) / np.log(6), 1),
        (np.array([[1.0, 0], [0, 1], [0, 0]]), 1, 1),
        (np.ones((3, 2)), 0, 0),
        (np.zeros((3, 2)), 0, 0),
        # Rows count by their importance: 3/4 of it is in one column, 1/4 spread over two.
        (np.array([[3.0, 0], [0.5, 0.5]]), 3 / 4, None),
    ],
)
def test_importance_is_focused_as_its_entropy_says(importance, rows, columns):
    assert disentangle_fitted._focus(importance) == pytest.approx(rows, abs=1e-12)
    if columns is not None:
        assert disentangle_fitted._focus(importance.T) == pytest.approx(columns, abs=1e-12)


def test_information_is_preferred_as_its_largest_share_says():
    preference = disentangle_fitted._preference
    assert preference(np.array([[2.0, 0, 0], [1, 1, 2]])) == pytest.approx((0.75 - 1 / 3) * 1.5)
    # Rows without information are left out, and without any there is no preference.
    assert preference(np.array([[0.0, 1], [0, 0]])) == 1
    assert preference(np.zeros((2, 2))) == 0
    assert preference(np.zeros((0, 2))) == 0
    assert np.isnan(preference(np.ones((2, 1))))


def test_codes_without_information_say_nothing():
    factors = factored.grid(2, 3, times=8)
    for discrete in (True, False):
        found = infomec(np.zeros((48, 2)), factors, discrete=discrete)
        assert found[:3] == pytest.approx((0, 0, 0), abs=1e-6)
        assert not found.active.any()
    only = np.stack([factors[:, 0], np.zeros(48)], axis=1)
    found = infomec(only, factors, discrete=True)
    assert found.modularity == pytest.approx(1)
    assert np.isnan(found.compactness)
    assert sap(np.zeros((48, 2)), factors, ordered=True) == 0


@given(st.integers(0, 2**16))
def test_squared_correlations_are_those_of_numpy(seed):
    draw = np.random.default_rng(seed)
    codes, factors = draw.normal(size=(12, 3)) + 5, draw.integers(0, 9, (12, 2))
    factors[:2] = [[0], [1]]
    both = np.corrcoef(codes.T, factors.T)[:3, 3:]
    found = disentangle_fitted._squared_correlation(codes, factors)
    np.testing.assert_allclose(found, both**2, atol=1e-12)


def test_half_of_the_examples_are_held_out_by_the_key():
    draw = np.random.default_rng(0)
    factors = draw.integers(0, 2, (101, 2))
    codes = np.concatenate([factors, np.arange(101)[:, None]], axis=1)

    def halves(key=None):
        known, unseen = disentangle_fitted._divided(codes, factors, None, key)
        return known[0][:, 2], unseen[0][:, 2]

    known, unseen = halves()
    assert (len(known), len(unseen)) == (51, 50)
    np.testing.assert_array_equal(np.sort(np.concatenate([known, unseen])), np.arange(101))
    np.testing.assert_array_equal(halves(rng.root(0))[0], known)
    assert not np.array_equal(halves(rng.root(1))[0], known)


def test_scores_are_the_same_again():
    codes, factors = factored.mixed()
    codes, factors = codes[:80], factors[:80, :2]
    first, second = (infomec(codes, factors) for _ in range(2))
    np.testing.assert_array_equal(first.information, second.information)
    assert sap(codes, factors) == sap(codes, factors)


GRID = factored.grid(2, 3, times=4)
RARE = np.concatenate([GRID, [[5, 0]]])


@pytest.mark.parametrize("score", [sap, dci, infomec])
def test_what_is_no_codes_and_no_factors_is_refused(score):
    for codes, factors, message in (
        (GRID[:, :1], GRID, r"codes must .* L >= 2, got int64 \[24, 1\]"),
        (GRID[1:], GRID, "must be of the same examples, got 23 and 24"),
        (GRID * np.nan, GRID, "codes must be finite, got 48 of 48"),
        (GRID, GRID + 0.5, "factors must be whole numbers"),
        (GRID, GRID * [0, 1], "at least two values, got only 0 for factor 0"),
        (GRID, GRID + 100 * np.arange(24)[:, None], "factors must be classes that examples share"),
    ):
        with pytest.raises(ValueError, match=message):
            score(codes, factors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dci(GRID, GRID[:, :1]), r"factors must .* F >= 2, got int64 \[24, 1\]"),
        (lambda: infomec(GRID, GRID[:, :1]), r"factors must .* F >= 2"),
        (lambda: infomec(RARE, RARE), "two examples of each value, got one of value 5 for fac"),
        (
            lambda: infomec(GRID + np.arange(24)[:, None] / 100, GRID, discrete=True),
            "codes must be classes .* another value for each of 24 examples for code 0",
        ),
        (lambda: sap(GRID[:3], GRID[[0, 1, 4]]), "at least 4 examples, half of them to test on"),
        (lambda: sap(GRID, GRID, test=GRID), r"test must be \(codes, factors\), got an array"),
        (lambda: sap(GRID, GRID, test=(GRID, GRID[1:])), "test codes and test factors must be of"),
        (lambda: dci(GRID, GRID, test=(GRID * np.nan, GRID)), "test codes must be finite"),
        (
            lambda: dci(GRID, GRID, test=(GRID[:, :1], GRID)),
            r"test codes must have the shape \[N, 2\], as codes have, got \[24, 1\]",
        ),
        (lambda: dci(GRID, GRID, test=(GRID, GRID[:, :1])), "test factors must have the shape"),
        (
            lambda: sap(GRID, np.eye(24, 2, dtype=int)),
            "training factors must each have at least two values",
        ),
        (lambda: sap(GRID, GRID, test=(GRID, GRID), key=rng.root(0)), "key must be None"),
        (lambda: sap(GRID, GRID, ordered=True, key=rng.root(0)), "key must be None"),
        (lambda: sap(GRID, GRID, ordered=True, test=(GRID, GRID)), "test must be None"),
    ],
)
def test_what_cannot_be_scored_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("score", [sap, dci, infomec])
def test_without_scikit_learn_a_score_says_how_to_get_it(score, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs scikit-learn: pip install 'scikit-learn"):
        score(GRID, GRID)
    assert sap(GRID, GRID, ordered=True) == pytest.approx(1)
