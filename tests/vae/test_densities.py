"""Likelihoods of pixels: they integrate or sum to one, and have the moments that they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from genmod import nets, rng, vae

BYTES = np.arange(256) / 255
DENSITIES = {
    "continuous_bernoulli": (vae.continuous_bernoulli(), [-30.0, -0.31, -1e-4, 0.0, 0.29, 3.0]),
    "gaussian": (vae.gaussian(std=0.2), [-0.3, 0.5]),
    "laplace": (vae.laplace(scale=0.2), [-0.3, 0.5]),
}
DISCRETE = {
    "logistic": (vae.discretised_logistic(), [[0.4, -2.0], [-0.5, 0.3], [0.999, -6.0], [2, -3]]),
    "mixture": (
        vae.discretised_logistic(num_mixtures=2),
        [[0.1, 0.9, -3.0, -1.0, 0.5, -0.5], [0.5, 0.5, -5.0, -5.0, 3.0, -9.0]],
    ),
    "categorical": (vae.categorical(), np.random.default_rng(0).normal(size=(2, 256)) * 3),
}


def pixel(numbers):
    """The output of a decoder for one pixel of one channel."""
    return jnp.asarray(numbers, jnp.float32).reshape(1, 1, 1, -1)


def log_densities(likelihood, output, values):
    """Log densities of the values of a single pixel, float64 [N]."""
    x = jnp.asarray(values, jnp.float32).reshape(-1, 1, 1, 1)
    many = jnp.broadcast_to(pixel(output), (len(x), *pixel(output).shape[1:]))
    return np.asarray(likelihood.log_prob(many, x), np.float64)


def cases(table):
    return [
        pytest.param(likelihood, output, id=f"{name}-{i}")
        for name, (likelihood, outputs) in table.items()
        for i, output in enumerate(outputs)
    ]


def drawn(likelihood, output, num=20_000):
    many = jnp.broadcast_to(pixel(output), (num, *pixel(output).shape[1:]))
    draw = jax.jit(likelihood.sample)
    return np.asarray(draw(rng.per_example(rng.root(0), num), many), np.float64).ravel()


@pytest.mark.parametrize(("likelihood", "output"), cases(DENSITIES))
def test_a_density_integrates_to_one_and_has_its_mean(likelihood, output):
    low, high = likelihood.support or (-4, 5)
    values = np.linspace(low, high, 20_001)
    density = np.exp(log_densities(likelihood, output, values))
    assert np.trapezoid(density, values) == pytest.approx(1, abs=2e-4)
    mean = float(likelihood.mean(pixel(output)).squeeze())
    assert np.trapezoid(density * values, values) == pytest.approx(mean, abs=2e-4)
    samples = drawn(likelihood, output)
    if likelihood.support:
        assert samples.min() >= 0
        assert samples.max() <= 1
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    assert abs(samples.mean() - mean) < 4 * error
    variance = np.trapezoid(density * (values - mean) ** 2, values)
    assert samples.var() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize(("likelihood", "output"), cases(DISCRETE))
def test_probabilities_sum_to_one_and_have_their_mean(likelihood, output):
    p = np.exp(log_densities(likelihood, output, BYTES))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    mean = float(likelihood.mean(pixel(output)).squeeze())
    assert p @ BYTES == pytest.approx(mean, abs=1e-5)
    samples = drawn(likelihood, output)
    counts = np.bincount(np.rint(samples * 255).astype(int), minlength=256)
    np.testing.assert_allclose(samples * 255, np.rint(samples * 255), atol=1e-4)
    often = p * len(samples) > 5
    errors = (counts - p * len(samples))[often] / np.sqrt((p * (1 - p) * len(samples))[often] + 1)
    assert np.abs(errors).max() < 5
    assert counts[~often].sum() < 5 * (p[~often].sum() * len(samples) + 5)


def test_the_logistic_keeps_its_digits_where_its_cdf_is_flat():
    # A difference of two sigmoids in float32 is 0 here, and its logarithm minus infinity.
    output = [0.0, -4.0]
    found = log_densities(vae.discretised_logistic(), output, [100 / 255])
    z, half = 100 / 255 * np.exp(4.0), np.exp(4.0) / 510
    expected = np.log(special.expit(-(z - half)) - special.expit(-(z + half)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    slope = jax.grad(lambda o: vae.discretised_logistic().log_prob(o, pixel([1.0]))[0])(
        pixel([-3.0, -6.0])
    )
    assert np.isfinite(slope).all()


def test_known_densities_are_those_of_scipy():
    values = np.linspace(-1, 2, 7)
    np.testing.assert_allclose(
        log_densities(vae.gaussian(), [0.3, -1.0], values),
        stats.norm(0.3, np.exp(-1)).logpdf(values),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        log_densities(vae.laplace(), [0.3, -1.0], values),
        stats.laplace(0.3, np.exp(-1)).logpdf(values),
        rtol=1e-5,
    )


def test_the_continuous_bernoulli_is_smooth_where_its_series_begins():
    x = pixel([0.3])

    def log_prob(logit):
        return vae.continuous_bernoulli().log_prob(jnp.reshape(logit, (1, 1, 1, 1)), x)[0]

    for logit in (0.0, 1e-6, 0.2999, 0.3001, -0.2999, -0.3001, 20.0):
        at = np.float64(logit)
        value, slope = jax.value_and_grad(log_prob)(jnp.float32(logit))
        c = np.log(at / np.tanh(at / 2)) if at else np.log(2)
        expected = 0.3 * at - np.logaddexp(0, at) + c
        np.testing.assert_allclose(value, expected, atol=2e-6)
        mean = float(vae.continuous_bernoulli().mean(pixel([logit])).squeeze())
        np.testing.assert_allclose(slope, 0.3 - mean, atol=1e-5)


@pytest.mark.costly
def test_a_mixture_of_one_is_its_part_and_channels_are_independent():
    x = jax.random.randint(rng.root(0), (3, 4, 4, 2), 0, 256) / 255
    one = jax.random.normal(rng.root(1), (3, 4, 4, 4)) - 1
    location, log_scale = jnp.split(one, 2, axis=-1)
    both = jnp.concatenate(
        [location, location, log_scale, log_scale, 0 * location, 0 * location], axis=-1
    )
    alone = vae.discretised_logistic().log_prob(one, x)
    np.testing.assert_allclose(
        vae.discretised_logistic(num_mixtures=2).log_prob(both, x), alone, rtol=1e-5
    )
    parts = [
        vae.discretised_logistic().log_prob(one[..., c::2], x[..., c : c + 1]) for c in range(2)
    ]
    np.testing.assert_allclose(parts[0] + parts[1], alone, rtol=1e-5)


def test_one_scale_may_serve_all_pixels():
    x, mean = jnp.zeros((2, 3, 3, 1)), jnp.ones((2, 3, 3, 1))
    pair = vae.gaussian().log_prob((mean, jnp.log(0.5)), x)
    np.testing.assert_allclose(pair, vae.gaussian(std=0.5).log_prob(mean, x), rtol=1e-6)
    keys = rng.per_example(rng.root(0), 2)
    assert vae.gaussian().sample(keys, (mean, jnp.log(0.5))).shape == x.shape


def test_bernoulli_draws_have_its_mean():
    samples = drawn(vae.bernoulli, [0.7])
    assert set(samples) == {0.0, 1.0}
    p = special.expit(0.7)
    assert abs(samples.mean() - p) < 4 * np.sqrt(p * (1 - p) / len(samples))


X = jnp.zeros((2, 4, 4, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vae.gaussian(std=0.0), "std must be"),
        (lambda: vae.laplace(scale=-1.0), "scale must be"),
        (lambda: vae.discretised_logistic(num_mixtures=0), "num_mixtures must be a positive"),
        (lambda: vae.gaussian().log_prob(X, X), r"a location and a log std .* \[2, 4, 4, 3\]"),
        (lambda: vae.gaussian(std=1.0).log_prob(X[:1], X), "must have the images' shape"),
        (lambda: vae.categorical().log_prob(X, X), "must have 256 logits for each channel"),
        (
            lambda: vae.discretised_logistic(num_mixtures=2).log_prob(X, X),
            "6 numbers for each channel",
        ),
        (lambda: vae.continuous_bernoulli().log_prob(X, X.astype(int)), "must be floating"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_a_scale_that_all_pixels_share_is_best_where_it_is_the_mean_error(name):
    decoder = nets.with_scale(nets.mlp((4,), (3, 3, 1)), initial=0.5)
    model = vae.make(nets.mlp((4,), 4), decoder, latent_dim=2, likelihood=getattr(vae, name)())
    x = jax.random.normal(rng.root(0), (8, 3, 3, 1))
    params = model.init(rng.root(1), x)
    z = jax.random.normal(rng.root(2), (8, 2))

    def loss(log_scale):
        own = params._replace(decoder=params.decoder._replace(log_scale=log_scale))
        return -model.likelihood.log_prob(model.decode(own, z), x).sum()

    assert model.decode(params, z)[1].shape == (8, 1, 1, 1)
    errors = np.abs(np.asarray(x - model.likelihood.mean(model.decode(params, z))))
    best = np.sqrt(np.mean(errors**2)) if name == "gaussian" else np.mean(errors)
    slopes = [float(jax.grad(loss)(jnp.log(factor * best))) for factor in (0.9, 1.0, 1.1)]
    assert slopes[0] < -1
    assert abs(slopes[1]) < 1e-3
    assert slopes[2] > 1
