"""Densities of codes after training: EM, the aggregated posterior, a second stage, temperature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from genmod import nets, rng, train, vae
from genmod.vae.ex_post import aggregated_posterior, fit_gaussian_mixture

SHAPE, L = (4, 4, 1), 3
MODEL = vae.make(
    nets.mlp((6,), 2 * L, heads=2, kernel_init=nets.normal(0.5)),
    nets.mlp((6,), SHAPE),
    latent_dim=L,
)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(5, *SHAPE)), jnp.float32)
PARAMS = jax.jit(MODEL.init.function)(rng.root(0), X)

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0, 1.0], [4.0, -4.0, 0.0], [-5.0, 3.0, 0.0]])
FACTORS = np.array(
    [
        [[1.0, 0, 0], [0.8, 0.5, 0], [0, 0.2, 0.3]],
        [[0.4, 0, 0], [0, 2.0, 0], [-0.3, 0.5, 1.0]],
        [[1.5, 0, 0], [-1.0, 0.7, 0], [0, 0, 0.2]],
    ]
)


def known(num, seed, scale=1.0):
    """Draws of a known mixture, with their log densities."""
    random = np.random.default_rng(seed)
    own = random.choice(3, num, p=WEIGHTS)
    noise = random.normal(size=(num, 3))
    z = MEANS[own] + np.einsum("nij,nj->ni", FACTORS[own], noise)
    parts = [
        np.log(w) + stats.multivariate_normal(m, f @ f.T).logpdf(z)
        for w, m, f in zip(WEIGHTS, MEANS, FACTORS, strict=True)
    ]
    return scale * z, np.logaddexp.reduce(parts) - 3 * np.log(scale)


@functools.cache
def fitted(scale=1.0):
    return fit_gaussian_mixture(
        rng.root(0), np.float32(known(3000, 1, scale)[0]), num_components=3, num_steps=60
    )


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e8])
def test_em_recovers_a_known_mixture(scale):
    """By its log density of new draws: no density has more on average than the true one."""
    z, log_density = known(2000, 2, scale)
    difference = np.asarray(fitted(scale).prior.log_prob((), jnp.float32(z))) - log_density
    error = difference.std() / np.sqrt(len(z))
    # A fit of 29 numbers to N draws is 29 / 2 N nats short of the truth, on average.
    assert abs(difference.mean() + 29 / 6000) < 4 * error + 29 / 6000
    assert difference.std() < 0.3
    order = np.argsort(-np.exp(np.asarray(fitted(scale).log_weights)))
    np.testing.assert_allclose(np.exp(fitted(scale).log_weights)[order], WEIGHTS, atol=0.04)
    np.testing.assert_allclose(fitted(scale).means[order] / scale, MEANS, atol=0.25)


def test_the_likelihood_never_falls():
    """More components than there are, of codes that lie in a plane: the floor is in use."""
    z, _ = known(400, 3)
    codes = np.float32(np.concatenate([z, z[:, :1] + z[:, 1:2], np.full((400, 1), 5.0)], axis=1))
    mixture = fit_gaussian_mixture(rng.root(1), codes, num_components=8, num_steps=40, floor=1e-3)
    trace = np.asarray(mixture.log_likelihood, float)
    assert (np.diff(trace) > -1e-4).all()
    assert trace[-1] > trace[0] + 0.1
    # The trace is that of the fitted density, and the last step is better still.
    last = np.asarray(mixture.prior.log_prob((), jnp.asarray(codes)), float).mean()
    assert trace[-1] - 1e-3 < last < trace[-1] + 0.1
    covariances = np.einsum("kij,klj->kil", mixture.factors, mixture.factors)
    spread = codes.std(0)
    spread[-1] = 1  # a latent that is the same in all codes keeps its scale
    within = covariances / np.outer(spread, spread)
    assert np.linalg.eigvalsh(within).min() > 0.9e-3


def test_one_component_is_the_gaussian_of_the_codes():
    z = np.float32(known(300, 4)[0])
    mixture = fit_gaussian_mixture(rng.root(0), z, num_components=1, num_steps=1, floor=1e-6)
    np.testing.assert_allclose(mixture.means[0], z.mean(0), rtol=1e-4, atol=1e-5)
    covariance = mixture.factors[0] @ mixture.factors[0].T
    np.testing.assert_allclose(covariance, np.cov(z.T, ddof=0), rtol=1e-3, atol=1e-3)
    assert (np.triu(mixture.factors[0], 1) == 0).all()
    expected = stats.multivariate_normal(z.mean(0), np.cov(z.T, ddof=0)).logpdf(z)
    np.testing.assert_allclose(mixture.prior.log_prob((), jnp.asarray(z)), expected, rtol=1e-3)
    np.testing.assert_allclose(mixture.log_likelihood, [expected.mean()], rtol=1e-4)


def test_draws_are_of_the_density():
    z = fitted().prior.sample(rng.per_example(rng.root(5), 3000), ())
    _, log_density = known(3000, 6)
    drawn = np.asarray(fitted().prior.log_prob((), z))
    error = np.hypot(drawn.std(), log_density.std()) / np.sqrt(3000)
    assert abs(drawn.mean() - log_density.mean()) < 4 * error + 0.01
    own = known(3000, 6)[0]
    for axis in range(3):
        assert stats.ks_2samp(np.asarray(z)[:, axis], own[:, axis]).pvalue > 1e-4


def test_codes_that_are_all_alike_or_few():
    alike = fit_gaussian_mixture(rng.root(0), np.ones((6, 2)), num_components=3, num_steps=3)
    assert all(np.isfinite(leaf[:1]).all() for leaf in alike)
    z = alike.prior.sample(rng.per_example(rng.root(1), 50), ())
    np.testing.assert_allclose(z, 1, atol=0.1)
    few = fit_gaussian_mixture(rng.root(0), np.eye(2), num_components=2, num_steps=3)
    np.testing.assert_allclose(np.sort(few.means, axis=0), [[0, 0], [1, 1]], atol=1e-3)


def test_images_are_drawn_from_a_mixture_in_place_of_the_prior():
    mixture = fitted()
    model = MODEL._replace(prior=mixture.prior)

    def keys():
        return rng.per_example(rng.root(1), 4)

    images = jax.jit(vae.generate(model))(keys(), PARAMS)
    z = mixture.prior.sample(keys(), ())
    np.testing.assert_allclose(images, vae.decode_mean(MODEL)(PARAMS, z), rtol=1e-5)
    # The importance weight is that of the new density, too.
    log_w = [jax.jit(vae.log_weight(m))(keys(), PARAMS, X[:4]) for m in (model, MODEL)]
    z = MODEL.sample(keys(), *MODEL.encode(PARAMS, X[:4]))
    expected = mixture.prior.log_prob((), z) - vae.log_normal(z)
    np.testing.assert_allclose(log_w[0] - log_w[1], expected, rtol=1e-4, atol=1e-4)


def test_the_aggregated_posterior_is_the_mixture_of_all_posteriors():
    prior = aggregated_posterior(MODEL, X)
    encode = functools.partial(MODEL.encode, PARAMS)
    mean, logvar = (np.asarray(a, float) for a in encode(X))
    z = np.asarray(jax.jit(prior.sample, static_argnums=2)(
        rng.per_example(rng.root(3), 4000), (), encode
    ))  # fmt: skip
    expected = np.logaddexp.reduce(
        [stats.norm(m, np.exp(v / 2)).logpdf(z).sum(1) for m, v in zip(mean, logvar, strict=True)]
    ) - np.log(5)
    np.testing.assert_allclose(prior.log_prob((), jnp.asarray(z), encode), expected, rtol=1e-4)
    variance = np.exp(logvar).mean(0) + mean.var(0)
    error = np.sqrt(variance / 4000)
    assert (np.abs(z.mean(0) - mean.mean(0)) < 4 * error).all()
    np.testing.assert_allclose(z.var(0), variance, rtol=0.15)
    draw = jax.jit(vae.generate(MODEL._replace(prior=prior)))
    images = draw(rng.per_example(rng.root(3), 6), PARAMS)
    assert images.shape == (6, *SHAPE)


def test_the_aggregated_posterior_of_a_conditional_model():
    """Each image goes to the encoder with its own label."""
    model = vae.make(
        nets.conditional(nets.mlp((), 2 * L), 3),
        nets.conditional(nets.mlp((), SHAPE), 3),
        latent_dim=L,
        condition=lambda batch: (batch["image"], batch["label"]),
    )
    batch = {"image": X, "label": jnp.array([0, 1, 2, 2, 1])}
    params = jax.jit(model.init.function)(rng.root(0), batch)
    encode = functools.partial(model.encode, params)
    mean, logvar = encode(batch["image"], batch["label"])
    z = jnp.zeros((1, L))
    density = aggregated_posterior(model, batch).log_prob((), z, encode)
    of_each = vae.log_normal(z, mean, logvar)
    np.testing.assert_allclose(density, [jax.nn.logsumexp(of_each) - np.log(5)], rtol=1e-5)
    draw = vae.generate(model._replace(prior=aggregated_posterior(model, batch)))
    images = jax.jit(draw)(rng.per_example(rng.root(1), 3), params, jnp.array([0, 1, 2]))
    assert images.shape == (3, *SHAPE)


@pytest.mark.slow
def test_a_second_stage_is_another_vae_of_the_codes():
    """Dai & Wipf (2019): of codes that are no draws from N(0, I); nothing else is needed."""
    covariance = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.25]])
    codes = np.random.default_rng(0).multivariate_normal([2.0, -1.0, 0.0], covariance, 300)
    codes = jnp.asarray(codes, jnp.float32)
    second = vae.make(
        nets.mlp((16,), 2 * L, heads=2, activation=jnp.tanh),
        nets.mlp((16,), 2 * L, heads=2, activation=jnp.tanh),
        latent_dim=L,
        likelihood=vae.gaussian(),
    )
    learner = train.learner(second.init, vae.elbo(second), optax.adam(1e-2))
    state = jax.jit(lambda key: train.fit(learner, key, lambda key, step: codes, 300))(rng.root(0))

    def sample(keys, params, posterior=None):
        """Draws codes: the first stage's prior is the second stage's p(u) p(z | u)."""
        del params, posterior
        u = second.prior.sample(rng.stream(keys, "second"), ())
        output = second.decode(state.params, u)
        return second.likelihood.sample(rng.stream(keys, "code"), output)

    z = np.asarray(sample(rng.per_example(rng.root(1), 1000), ()))
    np.testing.assert_allclose(z.mean(0), [2, -1, 0], atol=0.2)
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.25)
    two_stages = MODEL._replace(prior=MODEL.prior._replace(sample=sample, is_standard_normal=False))
    images = vae.generate(two_stages)(rng.per_example(rng.root(1), 4), PARAMS)
    np.testing.assert_allclose(images, vae.decode_mean(MODEL)(PARAMS, z[:4]), rtol=1e-4)


# Temperature

SEES_LATENTS = vae.make(
    nets.mlp((), 2 * L),
    nets.mlp((), (1, 1, L)),
    latent_dim=L,
    likelihood=vae.gaussian(std=1.0),
)


def test_temperature_is_the_deviation_of_the_draws():
    """By a decoder that is the identity, on the very same draws."""
    params = jax.jit(SEES_LATENTS.init.function)(rng.root(0), jnp.zeros((1, 1, 1, L)))
    output = {"kernel": jnp.eye(L), "bias": jnp.zeros(L)}
    params = params._replace(decoder={"output": output})

    def images(model):
        draw = jax.jit(vae.generate(model))
        return np.asarray(draw(rng.per_example(rng.root(1), 4000), params)).reshape(-1, L)

    plain = images(SEES_LATENTS)
    for temperature in (0.5, 1.0, 2.0):
        drawn = images(vae.tempered(SEES_LATENTS, temperature=temperature))
        np.testing.assert_allclose(drawn, temperature * plain, rtol=1e-6)
    cool = vae.tempered(SEES_LATENTS, temperature=0.5).prior
    expected = stats.norm.logpdf(plain[:9], scale=0.5).sum(1)
    np.testing.assert_allclose(cool.log_prob((), plain[:9]), expected, rtol=1e-5)


def test_temperature_of_another_prior_is_refused():
    other = MODEL._replace(prior=fitted().prior)
    with pytest.raises(ValueError, match=r"tempered needs the prior N\(0, I\)"):
        vae.tempered(other, temperature=0.7)
    for wrong in (0.0, -1.0, "hot"):
        with pytest.raises(ValueError, match="temperature must be a"):
            vae.tempered(MODEL, temperature=wrong)


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (np.zeros((4, 2, 1)), {}, r"codes must be \[N, L\].*got \[4, 2, 1\]"),
        (np.zeros((4, 2)), {"num_components": 5}, r"at least num_components = 5, got \[4, 2\]"),
        (np.full((4, 2), np.nan), {"num_components": 1}, "codes must lie in .*8 of 8 NaN"),
        (np.zeros((4, 2)), {"num_components": 0}, "num_components must be a positive"),
        (np.zeros((4, 2)), {"num_steps": 0, "num_components": 1}, "num_steps must be a positive"),
        (np.zeros((4, 2)), {"floor": 0.0, "num_components": 1}, r"floor must be .* got 0\.0"),
    ],
)
def test_codes_and_options_out_of_range(codes, options, message):
    with pytest.raises(ValueError, match=message):
        fit_gaussian_mixture(rng.root(0), codes, **options)


def test_latents_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"z must be \[B, 3\], got \[4, 2\]"):
        fitted().prior.log_prob((), jnp.zeros((4, 2)))
