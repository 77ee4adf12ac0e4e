"""Kernel and sliced distances: golden values, closed forms, identities, and bad input."""

import json
from pathlib import Path

import feature_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmod import rng
from genmod.evaluate import _rows, distances

GOLDEN = json.loads((Path(__file__).parents[1] / "kept" / "distances.json").read_text())["cases"]


def cases():
    found = []
    for name in sorted(feature_cases.CASES.keys() - feature_cases.SLOW):
        slow = [pytest.mark.slow] if name == "800 x 2048" else []
        found.append(pytest.param(name, marks=slow))
    return found


@pytest.mark.parametrize("name", cases())
def test_subsets_are_those_of_torch_fidelity(name):
    real, fake = feature_cases.CASES[name]()
    golden = GOLDEN[name]["kernel"]
    found = distances.kernel_distance_of_subsets(
        real, fake, num=golden["num"], size=golden["size"], progress=False
    )
    scale = np.abs(real.astype(np.float64) @ real.T / real.shape[1] + 1).max() ** 3
    near = pytest.approx([golden["mean"], golden["std"]], rel=1e-6, abs=1e-13 * scale)
    assert [found.mean, found.std] == near


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(feature_cases.SLOW))
def test_the_convention_of_torch_fidelity_has_100_subsets_of_1000(name):
    real, fake = feature_cases.CASES[name]()
    golden = GOLDEN[name]["kernel"]
    assert (golden["num"], golden["size"]) == (100, 1000)
    found = distances.kernel_distance(real, fake, convention="torch_fidelity")
    assert found == pytest.approx(golden["mean"], rel=1e-6)


def by_definition(real, fake):
    """The definition by loops over pairs."""

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    def within(rows):
        pairs = [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return np.mean([kernel(a, b) for a, b in pairs])

    return within(real) + within(fake) - 2 * np.mean([kernel(a, b) for a in real for b in fake])


@given(
    num=st.integers(2, 9), other=st.integers(2, 9), width=st.integers(1, 4), tile=st.integers(1, 9)
)
def test_the_kernel_distance_is_its_definition_in_any_tiles(num, other, width, tile):
    draw = np.random.default_rng(num + 10 * other)
    real, fake = draw.normal(size=(num, width)), draw.normal(size=(other, width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "_TILE", tile)
        found = distances.kernel_distance(real, fake)
    assert found == pytest.approx(by_definition(real, fake), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("convention", ["clean_fid", "nvidia"])
def test_unseeded_conventions_are_the_mean_over_their_draws(convention):
    real, fake = feature_cases.plain(80, 4)
    found = distances.kernel_distance(real, fake, convention=convention)
    assert found == distances.kernel_distance(real, fake)
    subsets = distances.kernel_distance_of_subsets(real, fake, num=400, size=20, progress=False)
    assert abs(subsets.mean - found) < 4 * subsets.std / np.sqrt(400)


def test_a_distance_below_0_is_returned_as_it_is():
    draw = np.random.default_rng(0)
    found = [distances.kernel_distance(*draw.normal(size=(2, 40, 3))) for _ in range(200)]
    # Half of the unbiased estimates of 0 are below 0, and their mean is 0.
    assert 40 < np.sum(np.array(found) < 0) < 160
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)
    # Subsets of both sets that hold the same rows cancel below 0.
    same, _ = feature_cases.plain(100, 3)
    assert distances.kernel_distance(same, same) < 0


def test_the_sliced_distance_of_a_shift_is_its_length():
    # A projection moves by u.shift, whose square is |shift|^2 / D on average.
    draw = np.random.default_rng(0)
    real, shift = draw.normal(size=(50, 16)), draw.normal(size=16)
    found = distances.sliced_distance(rng.root(0), real, real + shift, num_projections=1000)
    squares = 3 * shift @ shift
    assert abs(found / squares - 1) < 4 * np.sqrt(2 / 1000)
    assert distances.sliced_distance(rng.root(0), real, real[::-1]) == pytest.approx(0, abs=1e-20)


def test_the_sliced_distance_in_one_dimension_is_that_of_sorted_numbers():
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(40, 1)), draw.normal(2, 3, size=(40, 1))
    expected = 3 * np.mean((np.sort(real[:, 0]) - np.sort(fake[:, 0])) ** 2)
    found = distances.sliced_distance(rng.root(0), real, fake, num_projections=3)
    assert found == pytest.approx(expected, rel=1e-6)
    # No row of the larger set is left out.
    more = np.concatenate([fake, draw.normal(9, 1, size=(20, 1))])
    long, wide = np.repeat(np.sort(real[:, 0]), 3), np.repeat(np.sort(more[:, 0]), 2)
    found = distances.sliced_distance(rng.root(0), real, more, num_projections=3)
    assert found == pytest.approx(3 * np.mean((long - wide) ** 2), rel=1e-6)


@given(num=st.integers(1, 12), other=st.integers(1, 12), seed=st.integers(0, 99))
def test_sets_of_different_sizes_are_as_if_both_were_repeated(num, other, seed):
    draw = np.random.default_rng(seed)
    real, fake = draw.normal(size=(num, 2)), draw.normal(size=(other, 2))
    at = distances._quantiles(num, other)
    assert at[2].sum() == pytest.approx(1)
    long, wide = np.repeat(np.sort(real[:, 0]), other), np.repeat(np.sort(fake[:, 0]), num)
    ours = np.sort(real[:, 0])[at[0]] - np.sort(fake[:, 0])[at[1]]
    assert ours**2 @ at[2] == pytest.approx(np.mean((long - wide) ** 2), rel=1e-12)


def test_more_projections_begin_with_the_same_ones():
    real, fake = (x[:, :8] for x in feature_cases.plain(64, 64))
    key = rng.root(0)
    first, second = (
        distances.sliced_distance(key, real, fake, num_projections=num) for num in (1, 2)
    )
    assert 0 < first < 2 * second
    swapped = distances.sliced_distance(key, fake, real, num_projections=2)
    assert swapped == pytest.approx(second)


TWO = np.eye(3)[:2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: distances.kernel_distance(TWO[:1], TWO), "real must have at least 2 rows"),
        (lambda: distances.kernel_distance(TWO, TWO[:, :2]), "same width D, got real"),
        (lambda: distances.kernel_distance(TWO, TWO * np.nan), "fake must be finite.* row 0"),
        (
            lambda: distances.kernel_distance(TWO, TWO, convention="torch_fidelity"),
            "real must have at least 1000 rows",
        ),
        (lambda: distances.kernel_distance(TWO, TWO, convention="tf"), "unknown convention 'tf'"),
        (
            lambda: distances.kernel_distance_of_subsets(TWO, TWO, size=1),
            "size must be at least 2, got 1",
        ),
        (
            lambda: distances.kernel_distance_of_subsets(TWO, TWO, num=0),
            "num must be a positive whole number, got 0",
        ),
        (
            lambda: distances.sliced_distance(rng.root(0), TWO, TWO[:, :1]),
            "same width D, got real",
        ),
        (
            lambda: distances.sliced_distance(rng.root(0), TWO, TWO, num_projections=0),
            "num_projections must be a positive whole number",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
