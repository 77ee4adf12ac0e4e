"""Categorical latents: draws, densities and bounds against sums over all classes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import nets, rng, train, vae
from genmod.vae.relaxed import make_categorical

SHAPE, N, K = (3, 3, 1), 2, 3
ENCODER = nets.mlp((5,), N * K, activation=jnp.tanh, kernel_init=nets.normal(0.7))
DECODER = nets.mlp((5,), SHAPE, activation=jnp.tanh, kernel_init=nets.normal(0.7))
X = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, *SHAPE)), jnp.float32)


def made(**options):
    options = {"num_latents": N, "num_classes": K, "temperature": 0.5} | options
    return make_categorical(ENCODER, DECODER, **options)


PARAMS = jax.jit(made().init.function)(rng.root(0), X)
ALL = np.array([np.concatenate(pair) for pair in itertools.product(np.eye(K), repeat=N)])


def keys(num, seed=1):
    return rng.per_example(rng.root(seed), num)


@functools.cache
def enumerated():
    """Of each image and class of both latents: log q(z|x) and log p(x|z), float64."""
    logits = np.asarray(ENCODER.apply(PARAMS.encoder, X), np.float64).reshape(-1, N, K)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_q = np.einsum("bnk,znk->bz", log_p, ALL.reshape(-1, N, K))
    output = np.asarray(DECODER.apply(PARAMS.decoder, jnp.float32(ALL)), np.float64)
    x = np.asarray(X, np.float64)[:, None]
    log_x = (x * output - np.logaddexp(0, output)).sum((2, 3, 4))
    return log_q, log_x


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 0.5, 5.0])
def test_draws_lie_on_the_simplex_and_their_largest_class_is_a_draw(hard, temperature):
    model = made(hard=hard, temperature=temperature)
    p = np.array([[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]])
    log_p = jnp.tile(jnp.log(jnp.float32(p)).reshape(1, -1), (4000, 1))
    z = np.asarray(jax.jit(model.sample)(keys(4000), log_p, log_p)).reshape(-1, N, K)
    np.testing.assert_allclose(z.sum(-1), 1, rtol=1e-5)
    assert (z >= 0).all()
    error = np.sqrt(p * (1 - p) / 4000)
    assert (np.abs(np.eye(K)[z.argmax(-1)].mean(0) - p) < 4 * error).all()
    if hard or temperature < 0.1:  # nearly one-hot: the mean are the probabilities
        assert (np.abs(z.mean(0) - p) < 4 * error + 0.01).all()
    assert (set(np.unique(z)) == {0, 1}) == hard or temperature < 0.1
    # Both latents have noise of their own.
    assert abs(np.corrcoef(z[:, 0, 0], z[:, 1, 0])[0, 1]) < 4 / np.sqrt(4000)


def test_the_divergence_is_the_sum_over_all_classes():
    log_q, _ = enumerated()
    kl = made().prior.kl_divergence((), *made().encode(PARAMS, X))
    expected = (np.exp(log_q) * (log_q + N * np.log(K))).sum(1)
    np.testing.assert_allclose(kl, expected, rtol=1e-4)
    certain = jnp.array([[0.0, -1e4, -1e4] * N])
    np.testing.assert_allclose(made().prior.kl_divergence((), certain, certain), [N * np.log(K)])


@pytest.mark.parametrize("closed_form", [True, False])
def test_the_bound_of_hard_draws_is_that_of_the_categorical_model(closed_form):
    log_q, log_x = enumerated()
    exact = -(np.exp(log_q) * (log_x - N * np.log(K) - log_q)).sum(1)
    objective = jax.jit(vae.elbo(made(hard=True), closed_form=closed_form))
    many = jnp.tile(X, (2000, 1, 1, 1))
    loss = np.asarray(objective(keys(8000), PARAMS, many)[0]).reshape(2000, 4)
    assert (np.abs(loss.mean(0) - exact) < 4 * loss.std(0) / np.sqrt(2000)).all()
    # The mean importance weight is p(x).
    log_w = jax.jit(vae.log_weight(made(hard=True)))(keys(8000, 2), PARAMS, many)
    w = np.exp(np.asarray(log_w, float)).reshape(2000, 4)
    p_x = np.exp(log_x - N * np.log(K)).sum(1)
    assert (np.abs(w.mean(0) - p_x) < 4 * w.std(0) / np.sqrt(2000)).all()


def test_the_density_of_relaxed_draws_integrates_to_one():
    """Of two classes over an interval, of three over the simplex; and it is that of the draws."""
    t = 0.7
    two = made(num_latents=1, num_classes=2, temperature=t)
    u = np.linspace(0, 1, 20_001)[1:-1]
    p = np.array([0.8, 0.2])
    log_p = jnp.tile(jnp.log(jnp.float32(p))[None], (len(u), 1))
    z = jnp.float32(np.stack([u, 1 - u], 1))
    density = np.exp(np.asarray(two.posterior.log_prob(z, log_p, log_p), float))
    # In closed form: the logit of u is a logistic variable, scaled by 1/t.
    logit = np.log(u / (1 - u))
    s = t * logit - np.log(p[0] / p[1])
    expected = t * np.exp(-s) / (1 + np.exp(-s)) ** 2 / (u * (1 - u))
    np.testing.assert_allclose(density, expected, rtol=2e-3)

    three = made(num_latents=1, temperature=1.5)
    a, b = (g.ravel() for g in np.meshgrid(*[(np.arange(400) + 0.5) / 400] * 2))
    a, b = a[a + b < 1], b[a + b < 1]
    z = jnp.float32(np.stack([a, b, 1 - a - b], 1))
    log_p = jnp.tile(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), (len(z), 1))
    density = np.exp(np.asarray(three.posterior.log_prob(z, log_p, log_p), float))
    assert abs(density.sum() / 400**2 - 1) < 0.01


def test_the_bound_of_relaxed_draws_is_that_of_the_relaxed_model():
    """E[w] is p(x) of the relaxed prior, by quadrature over one latent of two classes."""
    encoder, decoder = nets.mlp((), 2), nets.mlp((), SHAPE)
    model = make_categorical(encoder, decoder, num_latents=1, num_classes=2, temperature=0.8)
    params = jax.jit(model.init.function)(rng.root(4), X)
    u = (np.arange(20_000) + 0.5) / 20_000
    z = jnp.float32(np.stack([u, 1 - u], 1))
    log_prior = np.asarray(model.prior.log_prob((), z), float)
    output = np.asarray(model.decode(params, z), float)
    log_x = (np.asarray(X, float)[:, None] * output - np.logaddexp(0, output)).sum((2, 3, 4))
    p_x = np.exp(log_x + log_prior[None]).mean(1)
    log_w = jax.jit(vae.log_weight(model))(keys(12_000), params, jnp.tile(X, (3000, 1, 1, 1)))
    w = np.exp(np.asarray(log_w, float)).reshape(3000, 4)
    assert (np.abs(w.mean(0) / p_x - 1) < 4 * w.std(0) / p_x / np.sqrt(3000) + 2e-3).all()


def test_the_gradient_of_hard_draws_is_that_of_relaxed_ones():
    weights = jnp.asarray(np.random.default_rng(3).normal(size=N * K), jnp.float32)

    def gradient(hard):
        def total(log_p):
            return (made(hard=hard).sample(keys(4), log_p, log_p) @ weights).sum()

        return jax.jit(jax.grad(total))(made().encode(PARAMS, X)[1])

    np.testing.assert_array_equal(gradient(True), gradient(False))
    assert np.abs(gradient(True)).max() > 0.01


def test_central_points_are_probabilities_or_the_likeliest_classes():
    probabilities, log_p = made().encode(PARAMS, X)
    np.testing.assert_allclose(probabilities, np.exp(log_p), rtol=1e-6)
    modes = made(hard=True).encode(PARAMS, X)[0].reshape(-1, N, K)
    np.testing.assert_array_equal(modes.argmax(-1), log_p.reshape(-1, N, K).argmax(-1))
    assert set(np.unique(modes)) == {0, 1}
    images = vae.reconstruct(made(hard=True))(PARAMS, X)
    expected = vae.decode_mean(made())(PARAMS, modes.reshape(-1, N * K))
    np.testing.assert_allclose(images, expected, rtol=1e-6)


def test_draws_of_the_prior_are_uniform_and_nothing_else_is_possible():
    hard = made(hard=True).prior
    z = np.asarray(jax.jit(hard.sample)(keys(3000), ()))
    assert (np.abs(z.mean(0) - 1 / K) < 4 * np.sqrt(2 / 9 / 3000)).all()
    np.testing.assert_allclose(hard.log_prob((), jnp.asarray(z[:5])), -N * np.log(K), rtol=1e-6)
    relaxed = made().prior.sample(keys(5), ())
    assert (np.asarray(hard.log_prob((), relaxed)) == -np.inf).all()
    assert np.isfinite(made().prior.log_prob((), relaxed)).all()
    # At an edge of the simplex, where a relaxed draw has a probability of zero or underflows.
    assert np.isfinite(made().prior.log_prob((), jnp.float32(ALL))).all()


@pytest.mark.slow
def test_a_temperature_that_falls_and_a_condition():
    model_at = functools.partial(
        make_categorical,
        nets.conditional(nets.mlp((8,), N * K), 2),
        nets.conditional(nets.mlp((8,), SHAPE), 2),
        num_latents=N,
        num_classes=K,
        condition=lambda batch: (batch["image"], batch["label"]),
    )
    model = model_at(temperature=1.0)
    learner = train.learner(
        model.init,
        lambda hyper: vae.elbo(model_at(temperature=hyper["temperature"])),
        optax.adam(3e-2),
        hyper={"temperature": optax.exponential_decay(1.0, 100, 0.5)},
        sample=vae.generate(model_at(temperature=1.0, hard=True)),
        conditions=jnp.arange(2),
    )
    batch = {"image": X, "label": jnp.array([0, 1, 0, 1])}
    fit = lambda steps: jax.jit(  # noqa: E731
        lambda key: train.fit(learner, key, lambda key, step: batch, steps)
    )(rng.root(0))
    evaluated = jax.jit(vae.elbo(model_at(temperature=1.0, hard=True), num_samples=100))
    losses = [evaluated(keys(4), fit(n).params, batch)[0].mean() for n in (1, 150)]
    assert losses[1] < losses[0] - 1
    assert losses[1] > 0
    assert learner.sample(rng.root(1), fit(1), 3, jnp.zeros(3, jnp.int32)).shape == (3, *SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_latents": 0}, "num_latents must be a positive whole number, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"temperature": 0.0}, "temperature must be a positive number, got 0.0"),
        ({"temperature": jnp.inf}, "temperature must be a positive number"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_an_encoder_of_another_width():
    with pytest.raises(ValueError, match=r"num_latents \* num_classes\] = \[B, 9\], got \[4, 6\]"):
        made(num_latents=3).init(rng.root(0), X)
