"""InfoGAN's codes: their distribution, their layout and the bound of their information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from genmod import gan, nets, rng
from genmod.types import Seen

CODES = gan.Codes(categorical=(3, 2), continuous=2)
DIM = CODES.size + 4


@pytest.fixture(scope="module")
def z():
    prior = CODES.latent(DIM)
    return np.asarray(jax.jit(prior)(rng.per_example(rng.root(0), 6000)))


def test_codes_are_drawn_from_their_distributions(z):
    parts = CODES.split(jnp.asarray(z))
    for place, number in enumerate(CODES.categorical):
        counts = np.bincount(parts.categorical[:, place], minlength=number)
        assert stats.chisquare(counts).pvalue > 1e-3
    joint = np.bincount(parts.categorical @ np.array([2, 1]), minlength=6)
    assert stats.chisquare(joint).pvalue > 1e-3  # independent of each other
    for column in np.asarray(parts.continuous).T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for column in np.asarray(parts.noise).T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    correlations = np.corrcoef(np.concatenate([parts.noise, parts.continuous], 1).T)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(len(z))


def test_the_density_is_that_of_noise_numbers_and_classes(z):
    found = CODES.latent(DIM).log_prob(jnp.asarray(z[:20]))
    expected = stats.norm.logpdf(z[:20, :4]).sum(1) - np.log(3 * 2) - 2 * np.log(2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    outside = np.repeat(z[:1], 3, 0)
    outside[0, -1], outside[1, 4], outside[2, 4:7] = 1.5, 0.5, [1, 1, 0]
    assert np.all(CODES.latent(DIM).log_prob(jnp.asarray(outside)) == -np.inf)


def test_latents_can_have_other_codes(z):
    own = jnp.asarray(z[:5])
    np.testing.assert_array_equal(CODES.replaced(own), own)
    indices = np.array([[2, 1]] * 5)
    numbers = np.full((5, 2), 0.25, np.float32)
    parts = CODES.split(CODES.replaced(own, categorical=indices, continuous=numbers))
    np.testing.assert_array_equal(parts.categorical, indices)
    np.testing.assert_array_equal(parts.continuous, numbers)
    np.testing.assert_array_equal(parts.noise, own[:, :4])
    again = CODES.latent(DIM).log_prob(CODES.replaced(own, categorical=indices))
    assert np.all(np.isfinite(again))


@pytest.mark.costly
@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2**31 - 1),
)
def test_the_posterior_is_a_product_over_codes(categorical, continuous, noise, seed):
    if not categorical and not continuous:
        return
    codes = gan.Codes(categorical=tuple(categorical), continuous=continuous)
    random = np.random.default_rng(seed)
    outputs = random.normal(size=(4, codes.num_outputs)).astype(np.float32)
    indices = np.stack([random.integers(0, n, 4) for n in categorical] or [np.zeros(0)], -1)
    numbers = random.uniform(-1, 1, size=(4, continuous)).astype(np.float32)
    one_hot = [np.eye(n)[indices[:, i]] for i, n in enumerate(categorical)]
    z = np.concatenate([random.normal(size=(4, noise)), *one_hot, numbers], 1).astype(np.float32)
    expected, first = np.zeros(4), 0
    for i, n in enumerate(categorical):
        log_q = special.log_softmax(outputs[:, first : first + n].astype(np.float64), axis=1)
        expected += log_q[np.arange(4), indices[:, i]]
        first += n
    expected += stats.norm.logpdf(numbers, outputs[:, first:]).sum(1)
    found = codes.log_posterior(jnp.asarray(outputs), jnp.asarray(z))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # An output that says each code for certain reads as the codes.
    told = codes.read(jnp.asarray(z[:, noise:]))
    np.testing.assert_array_equal(told.continuous, numbers)
    if categorical:
        np.testing.assert_array_equal(told.categorical, indices)


def test_the_term_is_of_both_players_and_of_generated_images_alone(z):
    outputs = np.random.default_rng(1).normal(size=(2, 6, CODES.num_outputs)).astype(np.float32)
    real, fake = ({"codes": jnp.asarray(each)} for each in outputs)
    seen = Seen(jnp.zeros(6), jnp.zeros(6), real, fake, jnp.asarray(z[:6]), None, None, None)
    term = gan.information(CODES, weight=0.5)
    expected = -CODES.log_posterior(fake["codes"], seen.latents)
    for player in (term.discriminator, term.generator):
        np.testing.assert_array_equal(player(None, seen), expected)
    assert (term.discriminator_weight, term.generator_weight) == (0.5, 0.5)


def test_latents_without_codes_have_no_information(z):
    outputs = jnp.zeros((4, CODES.num_outputs))
    latents = np.array(z[:4])
    latents[1] = 0.3  # as of N(0, I)
    found = CODES.log_posterior(outputs, jnp.asarray(latents))
    assert np.isnan(found).tolist() == [False, True, False, False]


def test_they_are_the_latents_of_a_model():
    judge = nets.heads(nets.mlp((), 4, output=jnp.tanh), codes=nets.mlp((), CODES.num_outputs))
    model = gan.make(nets.mlp((), (3, 2)), judge, latent_dim=DIM, latent=CODES.latent)
    params = model.init(rng.root(0), jnp.zeros((2, 3, 2)))
    made = model.generate(params, model.latent(rng.per_example(rng.root(1), 5)))
    assert CODES.read(model.outputs(params, made)["codes"]).categorical.shape == (5, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gan.Codes, "codes must have at least one categorical or continuous code, got none"),
        (lambda: gan.Codes(categorical=(0,)), "categorical must be a positive whole number, got 0"),
        (lambda: gan.Codes(continuous=-1), "continuous must be a positive whole number, got -1"),
        (lambda: gan.Codes(categorical=10), "categorical must be a tuple, .* got 10"),
        (
            lambda: CODES.replaced(jnp.zeros((1, DIM)), categorical=jnp.array([[3, 0]])),
            r"categorical must be in \[0, number of classes\) of \(3, 2\), got values from 0 to 3",
        ),
        (
            lambda: CODES.replaced(jnp.zeros((1, DIM)), categorical=jnp.zeros((1, 2))),
            "categorical must be whole numbers, got float32",
        ),
        (lambda: CODES.latent(6), "latent_dim must be at least 7, the size of the codes, got 6"),
        (
            lambda: CODES.split(jnp.zeros((2, 6))),
            r"z must have the shape \[B, L\] with L at least 7, got \[2, 6\]",
        ),
        (
            lambda: CODES.read(jnp.zeros((2, 8))),
            r"the output of the codes must have the shape \[B, 7\], got \[2, 8\]",
        ),
        (
            lambda: CODES.replaced(jnp.zeros((2, DIM)), categorical=jnp.zeros((2, 1), jnp.int32)),
            r"categorical must have the shape \[2, 2\], got \[2, 1\]",
        ),
        (lambda: gan.information(CODES, weight=-1), "weight must be a number of at least 0, got"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
