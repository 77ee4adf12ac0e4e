"""Importance weights and bounds on a linear Gaussian VAE, whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from genmod import rng, vae
from genmod.types import Net

NOISE = 0.6
WEIGHTS = np.array([[1.0, 0.5], [-0.7, 0.3], [0.2, 1.1]])  # x = WEIGHTS z + NOISE noise
X = np.array([[0.5, -1.0, 2.0], [0.0, 0.3, -0.4]], np.float32)
COVARIANCE = np.linalg.inv(np.eye(2) + WEIGHTS.T @ WEIGHTS / NOISE**2)  # that of p(z|x)
# An encoder near the truth, yet another: its means are shrunk, its variances are too large.
MEANS = 0.9 * WEIGHTS @ COVARIANCE / NOISE**2
LOGVARS = np.log(1.5 * np.diag(COVARIANCE))
LINEAR = Net(
    lambda key, x: (),
    lambda params, x: jnp.concatenate(
        [x @ MEANS.astype(x.dtype), jnp.tile(LOGVARS.astype(x.dtype), (len(x), 1))], axis=1
    ),
)
DECODER = Net(lambda key, z: jnp.asarray(WEIGHTS, jnp.float32), lambda w, z: z @ w.T)


def gaussian():
    def log_prob(mean, x):
        return vae.log_normal(x, mean, 2 * np.log(NOISE))

    return vae.Likelihood(log_prob, mean=lambda mean: mean)


def make(encoder=LINEAR, **options):
    model = vae.make(encoder, DECODER, latent_dim=2, likelihood=gaussian(), **options)
    return model, model.init(rng.root(0), X)


def evidence(x):
    covariance = WEIGHTS @ WEIGHTS.T + NOISE**2 * np.eye(3)
    return stats.multivariate_normal(np.zeros(3), covariance).logpdf(x.astype(np.float64))


def draws(function, params, num=20_000):
    """The function's values at many draws, float64 [num, 2]."""
    many = np.tile(X, (num, 1))
    values = jax.jit(function)(rng.per_example(rng.root(1), len(many)), params, many)
    return np.asarray(values, np.float64).reshape(num, len(X))


def test_weights_average_to_the_likelihood_and_their_logarithms_to_the_elbo():
    model, params = make()
    log_w = draws(vae.log_weight(model), params)
    num = len(log_w)
    estimate = special.logsumexp(log_w, axis=0) - np.log(num)
    weights = np.exp(log_w - estimate)  # of mean 1
    error = weights.std(0, ddof=1) / np.sqrt(num)
    assert np.all(error < 0.05)
    assert np.all(np.abs(estimate - evidence(X)) < 4 * error)

    # log p(x) - ELBO = KL(q(z|x) || p(z|x)), the latter a Gaussian too.
    mean, logvar = (np.asarray(m, np.float64) for m in model.encode(params, X))
    precision = np.linalg.inv(COVARIANCE)
    away = mean - X @ WEIGHTS @ COVARIANCE / NOISE**2
    gap = 0.5 * (
        np.exp(logvar) @ np.diag(precision)
        + np.einsum("bi,ij,bj->b", away, precision, away)
        - 2
        - logvar.sum(1)
        + np.linalg.slogdet(COVARIANCE)[1]
    )
    elbo = evidence(X) - gap
    error = log_w.std(0, ddof=1) / np.sqrt(num)
    assert np.all(np.abs(log_w.mean(0) - elbo) < 4 * error)
    loss = draws(lambda *args: vae.elbo(model)(*args)[0], params)
    assert np.all(np.abs(-loss.mean(0) - elbo) < 4 * loss.std(0, ddof=1) / np.sqrt(num))


def test_weights_at_the_true_posterior_are_the_likelihood():
    # With orthogonal columns the true posterior is a diagonal Gaussian: no draw differs.
    weights = np.array([[1.0, 0.5], [1.0, -0.5], [0.0, 0.0]])
    variances = 1 / (1 + np.sum(weights**2, 0) / NOISE**2)
    exact = Net(
        lambda key, x: (),
        lambda params, x: jnp.concatenate(
            [
                x @ (weights * variances / NOISE**2).astype(np.float32),
                jnp.tile(np.log(variances).astype(x.dtype), (len(x), 1)),
            ],
            axis=1,
        ),
    )
    model, params = make(exact)
    params = params._replace(decoder=jnp.asarray(weights, jnp.float32))
    covariance = weights @ weights.T + NOISE**2 * np.eye(3)
    expected = stats.multivariate_normal(np.zeros(3), covariance).logpdf(X.astype(np.float64))
    log_w = draws(vae.log_weight(model), params, 100)
    np.testing.assert_allclose(log_w, np.tile(expected, (100, 1)), rtol=1e-5)


def test_without_a_closed_form_the_divergence_is_that_of_the_draw():
    model, params = make()
    no_form = make(prior=lambda dim: vae.standard_normal(dim)._replace(kl_divergence=None))[0]
    many = jnp.tile(X, (4000, 1))
    keys = rng.per_example(rng.root(1), len(many))
    loss, aux = vae.elbo(no_form)(keys, params, many)
    again = rng.per_example(rng.root(1), len(many))
    np.testing.assert_allclose(-loss, vae.log_weight(model)(again, params, many), rtol=1e-5)
    _, article = vae.article_loss(no_form)(rng.per_example(rng.root(1), len(many)), params, many)
    np.testing.assert_array_equal(article["kl"], aux["kl"])
    kl = np.asarray(aux["kl"], np.float64).reshape(-1, 2)
    error = kl.std(0, ddof=1) / np.sqrt(len(kl))
    assert np.all(np.abs(kl.mean(0) - vae.kl_divergence(*model.encode(params, X))) < 4 * error)


@pytest.mark.parametrize("num", [1, 3])
def test_weights_need_one_key_per_image(num):
    model, params = make()
    with pytest.raises(ValueError, match=rf"one per example, \[2\], got \[{num}\]"):
        vae.log_weight(model)(rng.per_example(rng.root(1), num), params, X)


def keys():
    return rng.per_example(rng.root(1), 2)


def test_the_elbo_of_several_draws_is_their_mean():
    model, params = make()
    alone = [vae.elbo(model)(rng.at_step(keys(), k), params, X)[0] for k in range(3)]
    together, _ = vae.elbo(model, num_samples=3)(keys(), params, X)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), rtol=1e-5)
    estimated, aux = vae.elbo(model, closed_form=False)(keys(), params, X)
    np.testing.assert_allclose(estimated, -vae.log_weight(model)(keys(), params, X), rtol=1e-5)
    assert not np.allclose(aux["kl"], vae.elbo(model)(keys(), params, X)[1]["kl"])


def test_capacity_and_free_nats_are_the_elbo_at_their_ends():
    model, params = make()
    loss, aux = vae.elbo(model)(keys(), params, X)
    np.testing.assert_allclose(
        vae.capacity(model, weight=1, nats=0)(keys(), params, X)[0], loss, rtol=1e-5
    )
    found, _ = vae.capacity(model, weight=3, nats=100)(keys(), params, X)
    np.testing.assert_allclose(found, aux["reconstruction"] + 3 * (100 - aux["kl"]), rtol=1e-5)
    for groups in (None, 1, 2):
        own = vae.free_bits(model, nats=0, num_groups=groups)(keys(), params, X)
        np.testing.assert_allclose(own[0], loss, rtol=1e-5)


def test_free_nats_are_those_of_each_group():
    model, params = make()
    reconstruction = vae.elbo(model)(keys(), params, X)[1]["reconstruction"]
    each = np.asarray(vae.kl_normal(*model.encode(params, X), 0.0, 0.0))
    nats = float(np.median(each))
    for groups, parts in ((2, each), (1, each.sum(1, keepdims=True))):
        objective = vae.free_bits(model, nats=nats, num_groups=groups)
        expected = reconstruction + np.maximum(parts, nats).sum(1)
        np.testing.assert_allclose(objective(keys(), params, X)[0], expected, rtol=1e-5)
    whole = vae.free_bits(model, nats=nats, whole_batch=True)
    assert whole.whole_batch
    expected = reconstruction + np.maximum(each.mean(0), nats).sum()
    np.testing.assert_allclose(whole(keys(), params, X)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: vae.capacity(model, weight=-1, nats=2), "weight must be"),
        (lambda model: vae.capacity(model, weight=1, nats=-2), "nats must be"),
        (lambda model: vae.free_bits(model, nats=-1), "nats must be"),
        (lambda model: vae.free_bits(model, nats=1, num_groups=3), "must divide the 2 latents"),
        (
            lambda model: vae.free_bits(
                model._replace(prior=model.prior._replace(is_standard_normal=False)), nats=1
            ),
            "free_bits needs the divergence of each latent",
        ),
        (lambda model: vae.elbo(model, num_samples=0), "num_samples must be a positive"),
    ],
)
def test_what_is_no_objective_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(make()[0])


def test_the_optimum_of_a_linear_vae_is_that_of_probabilistic_pca():
    """Its bound is the maximal likelihood there, and has no slope (Lucas et al. 2019)."""
    random = np.random.default_rng(3)
    x = random.normal(size=(400, 3)) @ random.normal(size=(3, 5)) + random.normal(size=(400, 5))
    x -= x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    noise = values[:3].mean()
    weights = vectors[:, 3:] * np.sqrt(values[3:] - noise)
    covariance = weights @ weights.T + noise * np.eye(5)
    likelihood = stats.multivariate_normal(np.zeros(5), covariance).logpdf(x).mean()

    def log_prob(output, x):
        mean, log_noise = output
        return vae.log_normal(x, mean, jnp.broadcast_to(log_noise, mean.shape))

    optimum = {
        "encoder": (weights / values[3:], np.log(noise / values[3:])),
        "decoder": (weights.T, np.array(np.log(noise))),
    }
    optimum = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), optimum)

    def encoded(params, x):
        means, logvars = params
        return jnp.concatenate([x @ means, jnp.tile(logvars[None], (len(x), 1))], axis=1)

    model = vae.make(
        Net(lambda key, x: optimum["encoder"], encoded),
        Net(lambda key, z: optimum["decoder"], lambda p, z: (z @ p[0], p[1])),
        latent_dim=2,
        likelihood=vae.Likelihood(log_prob, mean=lambda output: output[0]),
    )
    x = jnp.asarray(x, jnp.float32)
    params = model.init(rng.root(0), x)

    @jax.jit
    def gradient(key):
        keys = rng.per_example(key, len(x))
        return jax.grad(lambda p: vae.elbo(model)(keys, p, x)[0].mean())(params)

    bound, _ = vae.elbo(model, closed_form=False)(rng.per_example(rng.root(1), len(x)), params, x)
    np.testing.assert_allclose(-bound.mean(), likelihood, rtol=1e-5)
    slopes = [jax.tree.leaves(gradient(rng.root(seed))) for seed in range(60)]
    for leaf in zip(*slopes, strict=True):
        error = np.std(leaf, axis=0, ddof=1) / np.sqrt(len(leaf))
        assert np.all(np.abs(np.mean(leaf, axis=0)) < 4.5 * error + 1e-6)
