"""Parts of the KL divergence and active units: against closed forms."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from genmod import evaluate, vae
from genmod.evaluate import posteriors
from genmod.evaluate.posteriors import (
    active_units,
    aggregate_posterior,
    minibatch_stratified_sampling,
    minibatch_weighted_sampling,
    unit_kl,
)

random = np.random.default_rng


def drawn(mean, logvar):
    return mean + np.exp(logvar / 2) * random(0).standard_normal(mean.shape)


def equal(num, num_units=3):
    """Posteriors that are all one Gaussian, which is not the prior."""
    mean, logvar = np.full((num, num_units), 0.5), np.full((num, num_units), -0.7)
    return mean, logvar, drawn(mean, logvar)


def separated(num):
    """Posteriors that do not overlap, in either of two units."""
    mean = 100.0 * np.stack([np.arange(num), np.arange(num)[::-1]], axis=1)
    logvar = np.zeros_like(mean)
    return mean, logvar, drawn(mean, logvar)


# The exact aggregate posterior.


def test_equal_posteriors_carry_no_information():
    mean, logvar, z = equal(400)
    parts = aggregate_posterior(mean, logvar, z)
    assert parts.mutual_information == pytest.approx((0.0, 0.0), abs=1e-12)
    assert parts.total_correlation == pytest.approx((0.0, 0.0), abs=1e-12)
    # All of the divergence is that of the units, and known.
    known = unit_kl(mean, logvar)
    assert abs(parts.dimension_wise_kl.mean - known.sum()) < 4 * parts.dimension_wise_kl.error
    assert parts.kl == pytest.approx(parts.dimension_wise_kl)


def test_posteriors_apart_tell_the_example():
    parts = aggregate_posterior(*separated(50))
    assert parts.mutual_information == pytest.approx((math.log(50), 0.0), abs=1e-12)
    # Each unit alone tells the example as well, so both share log N: TC = 2 log N - log N.
    assert parts.total_correlation == pytest.approx((math.log(50), 0.0), abs=1e-12)


def test_independent_units_have_no_total_correlation():
    """Examples are all pairs of 12 posteriors of one unit and 9 of another."""
    first, second = (random(n).normal(size=(n, 2)) for n in (12, 9))
    pairs = np.array([*itertools.product(first, second)])
    mean, logvar = pairs[..., 0], pairs[..., 1]
    parts = aggregate_posterior(mean, logvar, drawn(mean, logvar))
    assert parts.total_correlation == pytest.approx((0.0, 0.0), abs=1e-12)
    assert parts.mutual_information.mean > 0.1


def test_a_gaussian_aggregate_is_in_closed_form():
    """The means are an even grid of N(0, S), so q(z) is almost N(0, S + v I)."""
    quantiles = stats.norm.ppf((np.arange(40) + 0.5) / 40)
    grid = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2)
    mean = grid @ np.array([[1.0, 0.0], [0.8, 0.5]]).T
    variance = 0.3
    logvar = np.full_like(mean, math.log(variance))
    parts = aggregate_posterior(mean, logvar, drawn(mean, logvar))
    whole = np.cov(mean.T, ddof=0) + variance * np.eye(2)
    diagonal = np.diagonal(whole)
    log_det = np.linalg.slogdet(whole)[1]
    truths = {
        "mutual_information": (log_det - 2 * math.log(variance)) / 2,
        "total_correlation": (np.log(diagonal).sum() - log_det) / 2,
        "dimension_wise_kl": (diagonal - 1 - np.log(diagonal)).sum() / 2,
        "kl": unit_kl(mean, logvar).sum(),
    }
    for name, truth in truths.items():
        found = getattr(parts, name)
        # The ends of the grid are cut off, which costs .01 nats here.
        assert abs(found.mean - truth) < 4 * found.error + 0.01, name
    np.testing.assert_allclose(parts.unit_marginal_kl.sum(), parts.dimension_wise_kl.mean)


def test_parts_are_those_of_a_plain_sum_and_add_up():
    """Also over several blocks of rows, and for narrow posteriors beside wide ones."""
    mean = random(1).normal(size=(300, 3))
    logvar = random(2).uniform(-25, 2, size=(300, 3))
    z = drawn(mean, logvar)
    each = stats.norm.logpdf(z[:, None], mean[None], np.exp(logvar / 2)[None])
    joint = np.logaddexp.reduce(each.sum(-1), axis=1) - math.log(300)
    units = np.logaddexp.reduce(each, axis=1) - math.log(300)
    parts = aggregate_posterior(mean, logvar, z)
    own = each[np.arange(300), np.arange(300)].sum(-1)
    expected = evaluate.estimate(own - joint)
    assert parts.mutual_information == pytest.approx(expected, rel=1e-10)
    expected = evaluate.estimate(joint - units.sum(-1))
    assert parts.total_correlation == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(parts.unit_marginal_kl, (units - stats.norm.logpdf(z)).mean(0))
    three = (parts.mutual_information, parts.total_correlation, parts.dimension_wise_kl)
    assert sum(part.mean for part in three) == pytest.approx(parts.kl.mean, rel=1e-10)
    assert abs(parts.kl.mean - unit_kl(mean, logvar).sum()) < 4 * parts.kl.error


# Estimators from one batch: their constants, and their biases as documented.


def test_weighted_sampling_has_its_constant():
    """A published defect: log(N M) is left out."""
    parts = minibatch_weighted_sampling(*separated(20), 1000)
    assert parts.mutual_information.mean == pytest.approx(math.log(20 * 1000))
    assert parts.total_correlation.mean == pytest.approx(math.log(20 * 1000))
    parts = minibatch_weighted_sampling(*equal(20), 1000)
    assert parts.mutual_information.mean == pytest.approx(math.log(1000))


def test_stratified_sampling_is_right_at_both_ends():
    parts = minibatch_stratified_sampling(*separated(20), 1000)
    assert parts.mutual_information.mean == pytest.approx(math.log(1000))
    parts = minibatch_stratified_sampling(*equal(20), 1000)
    assert parts.mutual_information.mean == pytest.approx(0, abs=1e-12)
    assert parts.total_correlation.mean == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_density_of_stratified_sampling_is_unbiased(size):
    """Over all ordered batches from 4 examples that hold the one whose draw it is."""
    mean = random(1).normal(size=4)
    weights = posteriors._stratified(size, 4)
    for row, own in itertools.product(range(size), range(4)):
        others = itertools.permutations(set(range(4)) - {own}, size - 1)
        batches = [[*rest[:row], own, *rest[row:]] for rest in others]
        z = mean[own] + 0.7
        found = [weights[row] @ stats.norm.pdf(z, mean[batch]) for batch in batches]
        assert np.mean(found) == pytest.approx(stats.norm.pdf(z, mean).mean(), rel=1e-12)


# Units.


def test_active_units():
    mean = np.array([[1.0, 0.101, 0.099], [-1.0, -0.101, -0.099]])
    found = active_units(mean)
    np.testing.assert_allclose(found.variance, [1, 0.010201, 0.009801])
    assert found.active.tolist() == [True, True, False]
    assert found.num_active == 2
    assert active_units(mean, threshold=0.0).num_active == 3


def test_the_kl_of_units_adds_up_to_that_of_the_elbo():
    mean, logvar = random(1).normal(size=(2, 9, 3)).astype(np.float32)
    found = unit_kl(mean, logvar)
    assert found.dtype == np.float64
    assert found.sum() == pytest.approx(float(vae.kl_divergence(mean, logvar).mean()), rel=1e-6)


# Bad input.

GOOD = np.zeros((4, 2))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (active_units, (np.zeros(3),), r"mean must have the shape \[N, L\], got \[3\]"),
        (active_units, (np.zeros((0, 3)),), r"mean must have the shape \[N, L\], got \[0, 3\]"),
        (active_units, (GOOD[:1],), r"mean must be of at least 2 examples, .* got \[1, 2\]"),
        (active_units, (np.array([[0, 1], [0, np.nan]]),), "mean must be finite, got nan for exam"),
        (unit_kl, (GOOD, np.zeros((4, 3))), r"logvar must have the shape \[4, 2\], got \[4, 3\]"),
        (unit_kl, (GOOD, GOOD - np.inf), "logvar must be finite, got -inf for example 0, unit 0"),
        (aggregate_posterior, (GOOD, GOOD, GOOD[0]), r"z must have the shape \[N, L\], got \[2\]"),
        (minibatch_weighted_sampling, (GOOD, GOOD, GOOD, 3), "at least the batch's 4, got 3"),
        (minibatch_weighted_sampling, (GOOD, GOOD, GOOD, 4.5), "num_examples must be a positive"),
        (minibatch_stratified_sampling, (*[GOOD[:1]] * 3, 5), "at least 2 examples"),
    ],
)
def test_bad_input_is_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_a_threshold_below_zero_is_refused():
    with pytest.raises(ValueError, match="threshold must be a number of at least 0, got -1"):
        active_units(GOOD, threshold=-1)
