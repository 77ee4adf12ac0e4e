"""Modes captured, quality and evenness: by hand, by property, and against perfect samples."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from genmod import data, evaluate

SQUARE = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])


def test_points_are_scored_as_by_hand():
    samples = np.array(
        [
            [0.0, 0.0],
            [0.1, -0.2],
            [0.29, 0.0],
            [4.0, 0.3],  # on the edge, but for rounding
            [4.0, 0.31],  # past it
            [2.0, 2.0],
            [1e30, 0.0],
            [np.nan, 0.0],
        ]
    )
    scores = evaluate.mixture_modes(samples, SQUARE, 0.1 + 1e-9)
    assert (scores.captured, scores.num_modes) == (2, 4)
    assert scores.high_quality == 4 / 8
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert scores.reverse_kl == pytest.approx(math.log(4) - entropy, abs=1e-12)


def test_the_radius_of_a_mode_is_given_in_standard_deviations():
    samples = np.array([[0.0, 0.25]])
    assert evaluate.mixture_modes(samples, SQUARE, 0.1).captured == 1
    assert evaluate.mixture_modes(samples, SQUARE, 0.1, within=2).captured == 0
    assert evaluate.mixture_modes(samples, SQUARE, 0.05, within=6).captured == 1


def test_a_sample_counts_for_its_nearest_mode_only():
    # Modes so wide that every sample is within reach of all four.
    samples = SQUARE[[0, 1, 1, 3]] + 0.5
    counts = evaluate.mode_counts(samples, SQUARE, 10.0)
    np.testing.assert_array_equal(counts, [1, 2, 0, 1])


@pytest.mark.parametrize("lost", [[[50.0, 50.0]], [[np.nan, np.nan]], [[np.inf, 0.0]]])
def test_without_a_good_sample_the_divergence_is_the_largest_there_is(lost):
    scores = evaluate.mixture_modes(lost, SQUARE, 0.1)
    assert scores[:4] == (0, 4, 0.0, math.log(4))
    collapsed = evaluate.mixture_modes(SQUARE[:1], SQUARE, 0.1)
    assert collapsed[:4] == (1, 4, 1.0, pytest.approx(math.log(4)))


def test_even_samples_have_no_divergence_and_it_is_never_below_zero():
    for num in (1, 3, 7, 10):
        even = evaluate.mixture_modes(np.repeat(SQUARE[:3], num, axis=0), SQUARE[:3], 0.1)
        assert even[:3] == (3, 3, 1.0)
        assert 0 <= even.reverse_kl < 1e-12


clouds = st.lists(
    st.tuples(st.integers(0, 3), st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=30
)


def cloud(points):
    return np.array([SQUARE[mode] + [x, y] for mode, x, y in points])


@given(clouds, st.integers(0, 2**16))
def test_scores_depend_on_no_order_scale_or_place(points, seed):
    samples = cloud(points)
    draw = np.random.default_rng(seed)
    # 0.53 * 3: no multiple of a float that hypothesis likes lies on the edge.
    scores = evaluate.mixture_modes(samples, SQUARE, 0.2533)
    moved = evaluate.mixture_modes(
        draw.permutation(samples) * 8 + 64, draw.permutation(SQUARE) * 8 + 64, 0.2533 * 8
    )
    assert moved.captured == scores.captured
    assert moved.high_quality == scores.high_quality
    assert moved.reverse_kl == pytest.approx(scores.reverse_kl, abs=1e-12)
    assert moved.floor == scores.floor
    assert 0 <= scores.high_quality <= 1
    assert 0 <= scores.reverse_kl <= math.log(4) + 1e-12
    assert scores.reverse_kl >= math.log(4) - math.log(max(scores.captured, 1)) - 1e-12


def test_counts_may_be_compiled_and_mapped_over_seeds():
    draw = np.random.default_rng(0)
    samples = SQUARE[draw.integers(0, 4, (3, 40))] + draw.normal(size=(3, 40, 2)) * 0.2
    samples = samples.astype(np.float32)
    samples[0, 0] = np.nan
    centers = SQUARE.astype(np.float32)
    count = jax.jit(jax.vmap(evaluate.mode_counts, (0, None, None)))
    counts = count(samples, centers, jnp.float32(0.1))
    expected = [evaluate.mode_counts(seed, centers, 0.1) for seed in samples]
    np.testing.assert_array_equal(counts, expected)
    assert 0 < np.sum(expected) < 120


def perfect(mixture, num, draw):
    modes = draw.integers(0, len(mixture.centers), num)
    return mixture.centers[modes] + mixture.std * draw.normal(size=(num, mixture.centers.shape[1]))


@pytest.mark.parametrize(("make", "floor"), [(data.ring, 0.0014), (data.grid, 0.0049)])
def test_the_floor_of_a_mixture_is_what_perfect_samples_score(make, floor):
    mixture, draw, num = make(), np.random.default_rng(0), 2500
    runs = [evaluate.mixture_modes(perfect(mixture, num, draw), *mixture) for _ in range(100)]
    expected = runs[0].floor
    assert expected.high_quality == pytest.approx(1 - math.exp(-9 / 2), abs=1e-15)
    assert expected.high_quality == pytest.approx(0.9889, abs=5e-5)
    assert expected.reverse_kl == pytest.approx(floor, abs=5e-5)
    assert expected.captured == pytest.approx(len(mixture.centers), abs=1e-9)
    for name in ("captured", "high_quality", "reverse_kl"):
        values = np.array([getattr(run, name) for run in runs])
        error = values.std(ddof=1) / math.sqrt(len(runs))
        assert abs(values.mean() - getattr(expected, name)) <= 4.5 * error + 1e-9, name


@pytest.mark.end_to_end
def test_the_floor_of_stacked_mnist_is_that_of_the_literature():
    uniform = np.full(1000, 1e-3)
    draw = np.random.default_rng(0)
    flat = evaluate.label_modes(draw.integers(0, 1000, 26_000), 1000)
    assert flat.floor == (pytest.approx(1000), None, pytest.approx(0.0194, abs=1e-4))
    assert flat.reverse_kl == pytest.approx(flat.floor.reverse_kl, abs=4.5 * 0.0009)

    digits = data.load("mnist").labels
    labels = data.stacked_modes(digits[draw.integers(0, len(digits), (26_000, 3))])
    skewed = evaluate.label_modes(labels, 1000, frequencies=data.stacked_frequencies(digits))
    assert skewed.floor.reverse_kl == pytest.approx(0.0236, abs=1e-4)
    assert skewed.reverse_kl == pytest.approx(skewed.floor.reverse_kl, abs=4.5 * 0.001)
    # The class skew alone: three independent digits, three times the divergence of one.
    skew = 3 * stats.entropy(np.bincount(digits) / len(digits), uniform[:10] * 100)
    assert skewed.floor.reverse_kl - flat.floor.reverse_kl == pytest.approx(skew, rel=1e-3)


def test_labels_are_scored_as_by_hand():
    scores = evaluate.label_modes([2, 0, 2, 2], 3)
    assert scores[:3] == (2, 3, None)
    assert scores.reverse_kl == pytest.approx(stats.entropy([1, 3], [1, 1]) + math.log(3 / 2))
    skewed = evaluate.label_modes([2, 0, 2, 2], 3, reference=[0.25, 0.25, 0.5])
    assert skewed.reverse_kl == pytest.approx(0.75 * math.log(0.75 / 0.5))


def test_labels_as_frequent_as_the_reference_have_no_divergence():
    labels = np.repeat(np.arange(4), [1, 2, 3, 4])
    scores = evaluate.label_modes(labels, 4, reference=[0.1, 0.2, 0.3, 0.4])
    assert scores.reverse_kl == pytest.approx(0, abs=1e-12)
    assert evaluate.label_modes(labels, 4).reverse_kl > 0.1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 2**16))
def test_scores_of_labels_depend_on_no_order_and_no_names(labels, seed):
    draw = np.random.default_rng(seed)
    names = draw.permutation(5)
    scores = evaluate.label_modes(labels, 5)
    renamed = evaluate.label_modes(names[draw.permutation(labels)], 5)
    assert renamed[:3] == scores[:3] == (len(set(labels)), 5, None)
    assert renamed.reverse_kl == pytest.approx(scores.reverse_kl, abs=1e-12)
    # Doubling the samples changes nothing but the floor.
    double = evaluate.label_modes(labels * 2, 5)
    assert double.reverse_kl == pytest.approx(scores.reverse_kl, abs=1e-12)
    assert double.floor.reverse_kl < scores.floor.reverse_kl


@pytest.mark.parametrize("num", [1, 2, 5])
@pytest.mark.parametrize("frequencies", [[0.2, 0.3, 0.5], [0.0, 0.4, 0.6], [0.0, 1.0, 0.0]])
def test_the_expected_divergence_is_the_mean_over_all_draws(num, frequencies):
    reference = np.array([0.5, 0.3, 0.2])
    mean = 0.0
    for draws in np.ndindex(*(3,) * num):
        shares = np.bincount(draws, minlength=3) / num
        mean += np.prod(np.take(frequencies, draws)) * stats.entropy(shares, reference)
    assert evaluate.expected_reverse_kl(num, frequencies, reference) == pytest.approx(mean)


@given(st.integers(2, 30), st.integers(500, 3000))
def test_the_expected_divergence_of_many_draws_is_that_of_chi_squared(num_modes, num):
    uniform = np.full(num_modes, 1 / num_modes)
    first = (num_modes - 1) / (2 * num)
    second = (num_modes**2 - 1) / (12 * num**2)
    value = evaluate.expected_reverse_kl(num, uniform)
    assert value == pytest.approx(first + second, rel=0.01)


def test_a_single_mode_leaves_nothing_to_diverge():
    assert evaluate.expected_reverse_kl(10, [1.0]) == 0
    scores = evaluate.mixture_modes(np.zeros((5, 2)), np.zeros((1, 2)), 1.0)
    assert scores[:4] == (1, 1, 1.0, 0.0)


@pytest.mark.parametrize("within", [0.5, 1, 3, 6])
@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 9, 64])
def test_perfect_quality_is_chi_squared_in_any_dimension(dimensions, within):
    centers = np.zeros((1, dimensions))
    floor = evaluate.mixture_modes(centers, centers, 2.0, within=within).floor
    expected = stats.chi2.cdf(within**2, dimensions)
    assert floor.high_quality == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_the_floor_of_captured_modes_is_below_all_of_them_when_samples_are_few():
    # Ten labels over a hundred modes: 100 (1 - .99^10) of them on average.
    floor = evaluate.label_modes(np.zeros(10, int), 100).floor
    assert floor.captured == pytest.approx(100 * (1 - 0.99**10))
    assert floor.captured < 10


def test_scores_print_beside_their_floor():
    floor = evaluate.ModeFloor(25.0, 0.98889, 0.004863)
    scores = evaluate.ModeScores(24, 25, 0.97104, 0.0123456, floor)
    assert str(scores) == (
        "modes 24 of 25 (floor 25), high quality 97.1% (98.9%), reverse KL 0.0123 (0.00486)"
    )
    floor = evaluate.ModeFloor(999.96, None, 0.02366)
    scores = evaluate.ModeScores(693, 1000, None, 0.927, floor)
    assert str(scores) == "modes 693 of 1000 (floor 1000), reverse KL 0.927 (0.0237)"


POINTS = np.zeros((5, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: evaluate.mixture_modes(np.zeros((5, 3)), SQUARE, 0.1),
            r"samples must have the shape \[N, 2\], got \[5, 3\]",
        ),
        (lambda: evaluate.mixture_modes(np.zeros((0, 2)), SQUARE, 0.1), r"got \[0, 2\]"),
        (lambda: evaluate.mixture_modes(np.zeros(5), SQUARE, 0.1), r"got \[5\]"),
        (
            lambda: evaluate.mixture_modes(POINTS, np.zeros(2), 0.1),
            r"centers must have the shape \[K, D\], got \[2\]",
        ),
        (lambda: evaluate.mixture_modes(POINTS, np.zeros((0, 2)), 0.1), r"got \[0, 2\]"),
        (lambda: evaluate.mixture_modes(POINTS, SQUARE * np.nan, 0.1), "centers must be finite"),
        (lambda: evaluate.mixture_modes(POINTS, SQUARE, 0), "std must be a positive number, got 0"),
        (
            lambda: evaluate.mixture_modes(POINTS, SQUARE, 0.1, within=-3),
            "within must be a positive number, got -3",
        ),
        (lambda: evaluate.label_modes([0], 0), "num_modes must be a positive whole number, got 0"),
        (lambda: evaluate.label_modes([], 3), r"shape \[N\], got float64 \[0\]"),
        (lambda: evaluate.label_modes([0.0], 3), "labels must be integers .*got float64"),
        (lambda: evaluate.label_modes([[0]], 3), r"got int64 \[1, 1\]"),
        (lambda: evaluate.label_modes([0, 3], 3), r"labels must be in \[0, 3\), got 0 to 3"),
        (lambda: evaluate.label_modes([-1], 3), r"labels must be in \[0, 3\), got -1 to -1"),
        (
            lambda: evaluate.label_modes([0], 3, reference=[0.5, 0.5]),
            r"reference must have the shape \[3\], got \[2\]",
        ),
        (
            lambda: evaluate.label_modes([0], 3, reference=[1, 2, 1]),
            "reference must be probabilities that sum to 1, got a sum of 4",
        ),
        (
            lambda: evaluate.label_modes([0], 3, reference=[0.5, 0, 0.5]),
            "reference must give every mode a probability above 0, got 0 for mode 1",
        ),
        (
            lambda: evaluate.label_modes([0], 3, frequencies=[1.5, -0.5, 0]),
            "frequencies must be probabilities .*smallest value of -0.5",
        ),
        (
            lambda: evaluate.expected_reverse_kl(5, [np.nan, 1.0]),
            "frequencies must be probabilities",
        ),
        (
            lambda: evaluate.expected_reverse_kl(0, [1.0]),
            "num must be a positive whole number, got 0",
        ),
        (
            lambda: evaluate.expected_reverse_kl(3, [0.5, 0.5], [0.0, 1.0]),
            "reference must give every mode that is drawn a probability above 0",
        ),
        (lambda: evaluate.expected_reverse_kl(3, []), r"frequencies must have the shape"),
    ],
)
def test_what_cannot_be_scored_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
