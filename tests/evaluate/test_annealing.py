"""Annealed importance sampling and its reverse against exact likelihoods."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import rng
from genmod.evaluate import linear_gaussian
from genmod.evaluate.annealing import annealed, bidirectional
from genmod.evaluate.tempering import Prior, temperatures

MODEL = (linear_gaussian.log_conditional, linear_gaussian.simulate)


def mean_and_error(values):
    return values.mean(), values.std(ddof=1) / np.sqrt(len(values))


@functools.cache
def bounds(dtype, num_temperatures):
    """Both bounds of simulated examples of one linear Gaussian model, and their exact values."""
    with jax.enable_x64(dtype == "float64"):
        params = linear_gaussian.init(rng.root(0), 6, 2, sigma=0.5, dtype=dtype)
        interval, x, z = bidirectional(
            rng.root(1),
            params,
            60,
            *MODEL,
            latent_dim=2,
            num_chains=4,
            num_temperatures=num_temperatures,
            num_leapfrog=5,
            progress=False,
        )
        assert (x.dtype, z.dtype) == (dtype, dtype)
        truth = np.asarray(linear_gaussian.log_likelihood(params, x), np.float64)
    return interval, truth


@pytest.mark.costly
@pytest.mark.parametrize(("dtype", "num"), [("float32", 10), ("float32", 300), ("float64", 300)])
def test_bounds_enclose_the_truth(dtype, num):
    interval, truth = bounds(dtype, num)
    assert all(field.shape == (60,) for field in interval)
    below, above = truth - interval.lower, interval.upper - truth
    for gap in (below, above):
        mean, error = mean_and_error(gap)
        assert mean > -4 * error
        assert gap.min() > -10  # an estimate is wrong by b nats with a probability below exp(-b)
    assert interval.gap.mean == pytest.approx(below.mean() + above.mean())
    assert (interval.effective_samples <= 4 + 1e-9).all()


@pytest.mark.costly
def test_bounds_close_in_on_the_truth():
    few, truth = bounds("float32", 10)
    assert few.gap.mean > 0.5
    for dtype in ("float32", "float64"):
        many, truth = bounds(dtype, 300)
        assert abs(many.gap.mean) < 0.1
        assert many.lower.mean() == pytest.approx(truth.mean(), abs=0.1)
        assert many.effective_samples.mean() > 3
        assert many.acceptance.mean() == pytest.approx(0.65, abs=0.06)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_unbiased(dtype):
    """exp(lower) has the mean p(x), and exp(-upper) the mean 1 / p(x), at any temperatures."""
    interval, truth = bounds(dtype, 300)
    for ratios in (np.exp(interval.lower - truth), np.exp(truth - interval.upper)):
        mean, error = mean_and_error(ratios)
        assert abs(mean - 1) < 4 * error
        assert error < 0.1
    # The errors that are told for each example have the right size: those of a standard normal.
    scaled = (interval.lower - truth) / interval.error
    assert np.median(np.abs(scaled)) == pytest.approx(0.67, abs=0.4)


@pytest.mark.slow
def test_weights_are_unbiased_with_few_temperatures():
    params = linear_gaussian.init(rng.root(0), 3, 1, sigma=1.0)
    for seed in range(3):
        interval, x, _ = bidirectional(
            rng.root(seed),
            params,
            4000,
            *MODEL,
            latent_dim=1,
            num_chains=2,
            num_temperatures=6,
            batch_size=4000,
            progress=False,
        )
        truth = np.asarray(linear_gaussian.log_likelihood(params, x), np.float64)
        for ratios in (np.exp(interval.lower - truth), np.exp(truth - interval.upper)):
            mean, error = mean_and_error(ratios)
            assert abs(mean - 1) < 4 * error


def test_a_likelihood_that_ignores_the_latent_is_exact():
    """All weights are equal, whatever the chains do; a tree of examples; the ragged last batch."""
    precisions = []

    def log_likelihood(params, z, batch):
        precisions.append(jax.config.jax_default_matmul_precision)
        return params * batch["x"].sum(1) + batch["c"] + 0 * z[:, 0]

    examples = {"x": np.arange(10, dtype=np.float32).reshape(5, 2), "c": np.ones(5, np.float32)}
    found = annealed(
        rng.root(0),
        jnp.float32(-3),
        examples,
        log_likelihood,
        latent_dim=1,
        num_chains=3,
        num_temperatures=7,
        num_leapfrog=2,
        batch_size=2,
        progress=False,
    )
    np.testing.assert_allclose(found.lower, -3 * examples["x"].sum(1) + 1, rtol=1e-6)
    assert np.isnan(found.upper).all()
    np.testing.assert_allclose(found.error, 0, atol=1e-5)
    np.testing.assert_allclose(found.effective_samples, 3, rtol=1e-5)
    _, *computed = precisions  # the first call only looks at shapes
    assert set(computed) == {"highest"}


def test_results_do_not_depend_on_the_batch_size():
    options = {"latent_dim": 1, "num_chains": 2, "num_temperatures": 8, "num_leapfrog": 2}
    x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]

    def log_likelihood(params, z, x):
        return -(jnp.square(x - jnp.tanh(z)) / 0.1).sum(1)

    call = functools.partial(annealed, rng.root(2), (), x, log_likelihood, progress=False)
    some, whole = call(batch_size=2, **options), call(batch_size=8, **options)
    # The chains amplify rounding, but not in so few steps.
    for one, other in zip(some, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)
    assert len(set(whole.lower)) == 5


def test_another_prior_and_a_bernoulli_decoder_against_quadrature():
    """One latent: p(x) is an integral over a line."""
    weights, shift = jnp.array([[2.0, -1.0, 0.5, 3.0]]), jnp.array([0.7])

    def sample(keys, params):
        noise = jax.vmap(lambda key: jax.random.normal(key, (1,)))(keys)
        return params["shift"][None] + 2 * noise

    def log_prob(params, z):
        return jax.scipy.stats.norm.logpdf(z, params["shift"][None], 2).sum(1)

    def log_likelihood(params, z, x):
        logits = z @ params["weights"]
        return -(jax.nn.softplus(logits) - x * logits).sum(1)

    params = {"weights": weights, "shift": shift}
    x = np.array([[1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], np.float32)
    found = annealed(
        rng.root(0),
        params,
        x,
        log_likelihood,
        prior=Prior(sample, log_prob),
        num_chains=8,
        num_temperatures=200,
        num_leapfrog=4,
        schedule="linear",
        progress=False,
    )
    grid = np.linspace(-20, 20, 4001)
    logits = grid[:, None] * np.asarray(weights, np.float64)
    prior = np.exp(-0.5 * ((grid - 0.7) / 2) ** 2) / np.sqrt(8 * np.pi)
    for i in range(3):
        density = np.exp(-(np.logaddexp(0, logits) - x[i] * logits).sum(1)) * prior
        assert found.lower[i] == pytest.approx(np.log(density.sum() * 0.01), abs=0.1)


def test_the_lower_bound_stays_below_where_chains_miss_a_mode():
    """A spike of most of the mass, which no chain finds; the error over chains knows nothing."""
    width = 1e-4

    def log_normal(z, mean, std):
        return jax.scipy.stats.norm.logpdf(z[:, 0], mean, std)

    def log_likelihood(params, z, batch):
        wide, spike = log_normal(z, -1.0, 0.5), log_normal(z, 2.5, width)
        return jnp.logaddexp(wide, spike + 6.0)

    found = annealed(
        rng.root(0),
        (),
        np.zeros((10, 1), np.float32),
        log_likelihood,
        latent_dim=1,
        num_chains=4,
        num_temperatures=50,
        num_leapfrog=3,
        progress=False,
    )
    evidence = [np.exp(-0.5 * m * m / v) / np.sqrt(2 * np.pi * v) for m, v in ((1, 1.25), (2.5, 1))]
    truth, without = np.log(evidence[0] + np.exp(6.0) * evidence[1]), np.log(evidence[0])
    assert (found.lower < truth - 1).all()
    assert np.median(found.lower) == pytest.approx(without, abs=0.3)
    assert np.median(found.error) < 0.3


def test_schedules_rise_from_prior_to_posterior():
    for name in ("sigmoid", "linear", "geometric"):
        for num in (1, 10):
            path = temperatures(num, name)
            assert path.shape == (num + 2,)
            assert (path[0], path[-1]) == (0, 1)
            assert (np.diff(path) > 0).all()
    np.testing.assert_allclose(temperatures(9), 1 - temperatures(9)[::-1])  # the sigmoid's symmetry
    ratios = temperatures(9, "geometric")[2:] / temperatures(9, "geometric")[1:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    own = np.array([0, 0.1, 1])
    np.testing.assert_array_equal(temperatures(1, own), own)


def nan(params, z, x):
    return jnp.where(z[:, 0] > 9, 0.0, jnp.nan)


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("exactly one of latent_dim and prior", {"latent_dim": None}),
        ("exactly one of latent_dim and prior", {"prior": Prior(lambda k, p: k, lambda p, z: z)}),
        ("latent_dim", {"latent_dim": 0}),
        ("num_chains", {"num_chains": 0}),
        ("num_leapfrog", {"num_leapfrog": 1.5}),
        ("num_temperatures", {"num_temperatures": -1}),
        ("batch_size", {"batch_size": 0}),
        ("unknown schedule 'cosine'", {"schedule": "cosine"}),
        ("schedule must rise from 0 to 1 in 5 values", {"schedule": np.linspace(0, 1, 4)}),
        ("schedule must rise", {"schedule": np.array([0, 0.5, 0.5, 0.7, 1])}),
        ("schedule must rise", {"schedule": np.array([0, 0.5, np.nan, 0.7, 1])}),
        ("z must have the shape", {"latent_dim": 3}),
        ("log_likelihood must return one floating number per row", {"log_likelihood": 1}),
        ("at least one example", {"examples": np.zeros((0, 3), np.float32)}),
        ("sample must return", {"latent_dim": None, "prior": 1}),
        ("the example 0", {"log_likelihood": nan}),
    ],
)
def test_bad_input(what, changes):
    params = linear_gaussian.init(rng.root(0), 3, 2)
    arguments = {
        "examples": np.zeros((2, 3), np.float32),
        "log_likelihood": linear_gaussian.log_conditional,
        "latent_dim": 2,
        "num_temperatures": 3,
        "progress": False,
        **changes,
    }
    if arguments["log_likelihood"] == 1:
        arguments["log_likelihood"] = lambda params, z, x: z
    if arguments.get("prior") == 1:
        arguments["prior"] = Prior(lambda keys, params: jnp.zeros(len(keys)), lambda p, z: z)
    with pytest.raises(ValueError, match=what):
        annealed(rng.root(0), params, **arguments)


def test_simulated_examples_are_checked():
    def simulate(keys, params, z):
        assert jax.config.jax_default_matmul_precision == "highest"
        return z[:2]

    with pytest.raises(ValueError, match="what simulate returns"):
        bidirectional(rng.root(0), (), 3, MODEL[0], simulate, latent_dim=2)
    with pytest.raises(ValueError, match="num"):
        bidirectional(rng.root(0), (), 0, *MODEL, latent_dim=2)


@pytest.mark.parametrize("name", ["num_chains", "batch_size"])
def test_nothing_is_simulated_before_the_options_are_checked(name):
    def simulate(keys, params, z):
        raise AssertionError("simulated")

    with pytest.raises(ValueError, match=f"{name} must be a positive whole number, got 0"):
        bidirectional(rng.root(0), (), 3, MODEL[0], simulate, latent_dim=2, **{name: 0})


def test_a_prior_of_another_form_is_named():
    with pytest.raises(ValueError, match=r"prior must be an evaluate.Prior\(sample, log_prob\)"):
        annealed(
            rng.root(0),
            (),
            np.zeros((1, 2), np.float32),
            lambda params, z, x: jnp.zeros(len(z)),
            prior=(1, 2, 3),
        )
