"""Disentanglement against entropies, rotations, and the numbers of the authors' code."""

import json
from pathlib import Path

import factored
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genmod import rng
from genmod.evaluate import disentanglement
from genmod.evaluate.disentanglement import (
    FactorGroups,
    factor_groups,
    factor_vae_score,
    group_score,
    mig,
)

KEPT = json.loads((Path(__file__).parents[1] / "kept" / "disentanglement.json").read_text())


@pytest.mark.parametrize("version", KEPT["scores"])
@pytest.mark.parametrize("name", factored.CASES)
def test_the_gap_is_that_of_the_authors_code(name, version):
    codes, factors = factored.CASES[name]()
    kept = KEPT["scores"][version][name]["mig"]
    assert mig(codes, factors) == pytest.approx(kept, rel=1e-9)
    assert mig(codes.astype(np.float32), factors) == pytest.approx(kept, rel=1e-9)


@pytest.mark.parametrize("sizes", [(2, 2), (5, 3), (20, 4, 7)])
def test_codes_that_are_the_factors_have_the_whole_gap(sizes):
    factors = factored.grid(*sizes, times=5)
    assert mig(factors, factors) == pytest.approx(1, abs=1e-12)
    # Codes may come in any order, with any sign and scale, and beside codes that say nothing.
    codes = np.concatenate([-3.7 * factors[:, ::-1] + 1, np.full((len(factors), 2), 0.1)], axis=1)
    assert mig(codes, factors) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("size", "num_bins"), [(21, 20), (32, 20), (32, 32), (9, 4)])
def test_bins_that_hold_several_values_leave_the_entropy_of_the_bins(size, num_bins):
    factors = factored.grid(size, 2, times=3)
    counts, _ = np.histogram(np.arange(size), num_bins)
    of_size = stats.entropy(counts) / np.log(size)
    assert mig(factors, factors, num_bins=num_bins) == pytest.approx((of_size + 1) / 2)


def test_a_noisy_code_has_the_gap_of_its_channel():
    # A binary factor whose code is wrong in one of four: the capacity of that channel.
    states = factored.grid(2, 2, 4, times=4)
    factors, codes = states[:, :2], states[:, :2].copy()
    codes[:, 0] ^= states[:, 2] == 0
    capacity = 1 - stats.entropy([0.25, 0.75], base=2)
    assert mig(codes, factors) == pytest.approx((capacity + 1) / 2)


def test_a_rotation_by_half_a_right_angle_takes_all_and_by_a_right_angle_nothing():
    # No value lies on the edge of a bin, so that its rounding says nothing.
    factors = factored.grid(8, 8)
    scores = [mig(factored.rotated(factors, np.pi / 180 * a), factors) for a in (0, 90, 180)]
    assert scores == pytest.approx([1, 1, 1], abs=1e-12)
    assert mig(factors @ [[1, 1], [1, -1]], factors) == pytest.approx(0, abs=1e-12)
    assert 0 < mig(factored.rotated(factors, np.pi / 8), factors) < 0.7


def test_a_code_twice_has_no_gap():
    factors = factored.grid(4, 5, times=2)
    assert mig(np.concatenate([factors, factors], axis=1), factors) == pytest.approx(0, abs=1e-12)


def test_codes_are_transposed_and_not_reshaped():
    """Defect 13: of .50, a view in place of a transpose left .0008 (disentangling-vae #64, #78)."""
    draw = np.random.default_rng(0)
    factors = draw.integers(0, 4, (20_000, 2))
    # One factor has a code to itself, the other one two of them: half of the gap.
    codes = factors[:, [0, 1, 1]] + 0.05 * draw.normal(size=(20_000, 3))
    assert mig(codes, factors) == pytest.approx(0.5, abs=0.02)
    reshaped = codes.reshape(3, -1).T
    assert mig(reshaped, factors) < 0.002


@given(st.integers(0, 2**16), st.integers(2, 4), st.integers(1, 3), st.integers(2, 25))
def test_the_gap_is_a_share_and_depends_on_no_order(seed, num_codes, num_factors, num_bins):
    draw = np.random.default_rng(seed)
    codes = draw.normal(size=(40, num_codes)) * draw.choice([0, 1e-12, 1, 1e12], num_codes)
    factors = draw.integers(0, 3, (40, num_factors))
    factors[:2] = [[0], [1]]
    score = mig(codes, factors, num_bins=num_bins)
    assert -1e-12 <= score <= 1 + 1e-12
    rows = draw.permutation(40)
    again = codes[rows][:, draw.permutation(num_codes)], draw.permutation(5)[factors[rows]]
    assert mig(*again, num_bins=num_bins) == pytest.approx(score, abs=1e-12)


@given(st.integers(0, 2**16))
def test_information_and_entropy_are_those_of_scipy(seed):
    draw = np.random.default_rng(seed)
    first, second = draw.integers(-2, 3, 30), draw.integers(0, 4, 30)
    table = stats.contingency.crosstab(first, second).count / 30
    alone = np.outer(table.sum(1), table.sum(0))
    found = disentanglement.mutual_information(first, second)
    assert found == pytest.approx(stats.entropy(table.ravel(), alone.ravel()), abs=1e-12)
    assert disentanglement.entropy(first) == pytest.approx(stats.entropy(table.sum(1)))


def kept_groups(name):
    codes, factors = factored.CASES[name]()
    made = []
    for seed, num in enumerate(factored.GROUPS.values()):
        members, fixed = zip(*factored.groups(codes, factors, num, seed), strict=True)
        made.append(FactorGroups(codes[np.array(members)], np.array(fixed)))
    return codes, *made


@pytest.mark.parametrize("name", factored.CASES)
def test_votes_are_those_of_the_authors_code(name):
    codes, train, test = kept_groups(name)
    kept = KEPT["scores"]["1.9.1"][name]["factor_vae"]
    assert group_score(train, test, stds=codes.std(0, ddof=1)) == kept


def test_a_code_that_hardly_varies_takes_no_part():
    codes, train, test = kept_groups("bent")
    stds = codes.std(0, ddof=1)
    assert stds[3] < 0.05 < stds[:3].min()
    without = group_score(train, test, stds=stds)
    assert group_score(train, test, stds=stds, min_std=0) != without
    first, second = (FactorGroups(g.codes[..., :3], g.fixed) for g in (train, test))
    assert group_score(first, second, stds=stds[:3]) == without
    still = [FactorGroups(g.codes * [1, 1, 1, 0], g.fixed) for g in (train, test)]
    assert group_score(*still, stds=stds * [1, 1, 1, 0], min_std=0) == without
    constant = [FactorGroups(np.zeros_like(g.codes), g.fixed) for g in (train, test)]
    assert group_score(*constant, stds=np.zeros(4), min_std=0) == 0


def scored(codes, factors, **changes):
    options = {"num_train": 64, "num_test": 64, "group_size": 32}
    return factor_vae_score(codes, factors, **(options | changes))


def test_codes_that_are_the_factors_win_every_vote_and_rotated_ones_by_chance():
    factors = factored.grid(5, 6, times=2)
    assert scored(factors, factors) == 1
    assert scored(-0.5 * factors[:, ::-1], factors) == 1
    # Both codes vary alike, whichever factor is fixed: one of two is guessed. The noise hides that
    # they would vary differently by rounding.
    factors = factored.grid(6, 6, times=2)
    noise = np.random.default_rng(0).normal(size=factors.shape)
    turned = factored.rotated(factors) + 0.5 * noise
    assert abs(scored(turned, factors, num_test=400) - 0.5) < 4 * np.sqrt(0.25 / 400) + 0.05
    assert scored(factors, factors, key=rng.root(5)) == 1


def test_groups_share_the_value_of_the_factor_that_is_fixed():
    factors = np.concatenate([factored.grid(3, 2, 2, times=4), [[0, 0, 0]] * 16])
    ids = np.concatenate([factors, np.arange(len(factors))[:, None]], axis=1)
    drawn = factor_groups(rng.root(0), ids, factors, num=64, size=32)
    assert drawn.codes.shape == (64, 32, 4)
    members = drawn.codes.astype(int)
    for group, fixed in zip(members, drawn.fixed, strict=True):
        np.testing.assert_array_equal(factors[group[:, 3]], group[:, :3])
        assert len(np.unique(group[:, fixed])) == 1
    assert set(drawn.fixed) == {0, 1, 2}
    # Value 0 of the first factor occurs in 32 of 64 examples, and so often is it drawn.
    first = members[drawn.fixed == 0, 0, 0]
    assert abs(np.mean(first == 0) - 0.5) < 4 * np.sqrt(0.25 / len(first))
    # Within a group all examples are as likely as each other.
    zeros = members[(drawn.fixed == 0) & (members[:, 0, 0] == 0)][..., 3].ravel()
    counts = np.bincount(zeros, minlength=64)[factors[:, 0] == 0]
    assert stats.chisquare(counts).pvalue > 1e-4
    fewer = factor_groups(rng.root(0), ids, factors, num=5, size=32)
    np.testing.assert_array_equal(fewer.codes, drawn.codes[:5])


GRID = factored.grid(3, 4, times=2)
GROUPS = FactorGroups(np.zeros((5, 3, 2)), np.arange(5))


def changed(value, place=(1, 0)):
    codes = GRID.astype(np.float64)
    codes[place] = value
    return codes


@pytest.mark.parametrize("score", [mig, scored])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (GRID[:, 0], GRID, r"codes must be numbers \[N, L\] with N >= 1 and L >= .*int64 \[24\]"),
        (GRID[:, :0], GRID, r"codes must be numbers .* got int64 \[24, 0\]"),
        (GRID[:0], GRID, r"codes must be numbers .* got int64 \[0, 2\]"),
        (GRID.astype(str), GRID, r"codes must be numbers .* got <U"),
        (GRID, GRID[..., None], r"factors must be numbers .* got int64 \[24, 2, 1\]"),
        (GRID, GRID[:-1], "must be of the same examples, got 24 and 23"),
        (changed(np.nan), GRID, "codes must be finite, got 1 of 48 NaN or infinite"),
        (changed(np.inf), GRID, "codes must be finite"),
        (GRID, changed(0.5), r"factors must be whole numbers .*, got 0.5 for factor 0; divide"),
        (GRID, changed(np.nan, (3, 1)), r"factors must be whole numbers .*, got nan for factor 1"),
        (GRID, GRID * 1e300, r"factors must be whole numbers .*, got 1e\+300 for factor 0"),
        (GRID, GRID * [1, 0], "at least two values, got only 0 for factor 1"),
        (
            GRID,
            np.stack([GRID[:, 0], np.arange(24)], axis=1),
            "factors must be classes .* another value for each of 24 examples for factor 1; divide",
        ),
    ],
)
def test_what_is_no_codes_and_no_factors_is_refused(score, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        score(codes, factors)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mig(GRID[:, :1], GRID), r"codes must .* L >= 2, got int64 \[24, 1\]"),
        (lambda: mig(GRID, GRID, num_bins=25), "at least num_bins = 25 examples, got 24"),
        (lambda: mig(GRID, GRID, num_bins=1), "num_bins must be at least 2, got 1"),
        (lambda: mig(GRID, GRID, num_bins=2.5), "num_bins must be a positive whole number"),
        (lambda: scored(GRID, GRID[:, :1]), r"factors must .* F >= 2, got int64 \[24, 1\]"),
        (
            lambda: scored(GRID, GRID, num_train=0),
            "num_train must be a positive whole number",
        ),
        (lambda: scored(GRID, GRID, num_test=2.5), "num_test must be a positive whole number"),
        (lambda: scored(GRID, GRID, group_size=1), "group_size must be at least 2, got 1"),
        (lambda: scored(GRID, changed(9)), "two examples of each value, got one of value 9 for"),
        (lambda: scored(GRID, GRID, min_std=-1), "min_std must be a number of at least 0"),
        (lambda: group_score(GROUPS, GROUPS, stds=[1.0]), r"train.codes .* \[V, B, 1\]"),
        (lambda: group_score(GROUPS, GROUPS, stds=[1, np.nan]), "stds must be finite"),
        (
            lambda: group_score(GROUPS, GROUPS._replace(fixed=np.arange(4)), stds=[1, 1]),
            r"test.fixed must be the index of a factor for each group, \[5\], got an array int64",
        ),
        (
            lambda: group_score(GROUPS, GROUPS._replace(fixed=-np.arange(5)), stds=[1, 1]),
            "test.fixed must be",
        ),
        (
            lambda: group_score(
                GROUPS._replace(codes=np.full((5, 3, 2), np.nan)), GROUPS, stds=[1, 1]
            ),
            "train.codes must be finite",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_whole_numbers_of_any_type_are_factors():
    expected = mig(GRID, GRID)
    for dtype in (np.uint8, np.int32, np.float32):
        assert mig(GRID.astype(dtype), GRID.astype(dtype)) == expected
    flags = factored.grid(2, 2, times=8)
    assert mig(flags.astype(bool), flags.astype(bool)) == pytest.approx(1)
