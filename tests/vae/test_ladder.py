"""Ladders of latent layers, on a linear Gaussian model whose likelihood is known.

Its columns are orthogonal, so that all posteriors are diagonal:

    z_2 ~ N(0, I),    z_1 ~ N(a z_2, s^2 I),    x ~ N(W z_1, n^2 I)
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genmod import evaluate, rng, vae
from genmod.types import Net
from genmod.vae.ex_post import tempered
from genmod.vae.hierarchy import layer_terms, layered_elbo
from genmod.vae.ladder import Rung, ladder

W = np.array([[1.0, 0.5], [-0.5, 1.0], [0.0, 0.0]])
A, S, NOISE = np.array([0.8, -1.2]), np.array([0.6, 0.9]), 0.7
X = np.array([[0.5, -1.0, 0.3], [0.0, 0.3, -0.4]], np.float32)
V, PRECISION = A**2 + S**2, (W**2).sum(0) / NOISE**2
EVIDENCE = stats.multivariate_normal(
    np.zeros(3), W @ np.diag(V) @ W.T + NOISE**2 * np.eye(3)
).logpdf(X)
# p(z_2 | x) = N(G x, C) and p(z_1 | z_2, x) = N(H x + R z_2, U), all diagonal: what W z_1 tells of
# z_1 is an observation of it with the variance 1 / PRECISION.
SEEN = W.T / NOISE**2 / PRECISION[:, None]
C = 1 / (1 + A**2 / (S**2 + 1 / PRECISION))
G = (C * A / (S**2 + 1 / PRECISION))[:, None] * SEEN
U = 1 / (1 / S**2 + PRECISION)
H, R = (U * PRECISION)[:, None] * SEEN, U * A / S**2


def linear(weights, logvar):
    """A net that returns moments: means x @ weights, and log-variances that it learns too."""
    initial = {"weights": weights, "logvar": logvar}

    def apply(params, x):
        logvars = jnp.broadcast_to(params["logvar"][None], (len(x), len(logvar)))
        return jnp.concatenate([x @ params["weights"], logvars], axis=1)

    initial = {name: np.asarray(value, np.float32) for name, value in initial.items()}
    return Net(lambda key, x: jax.tree.map(jnp.asarray, initial), apply)


def gaussian():
    def log_prob(mean, x):
        return vae.log_normal(x, mean, 2 * np.log(NOISE))

    return vae.Likelihood(log_prob, mean=lambda mean: mean)


SAME = Net(lambda key, x: (), lambda params, x: x)
# The lowest decoder gets z_1 beside z_2.
OUTPUT = Net(lambda key, z: jnp.asarray(W, jnp.float32), lambda w, z: z[:, :2] @ w.T)


def make(shrunk=1.0, spread=0.0):
    lower = Rung(
        (2,),
        encoder=SAME,
        posterior=linear(shrunk * np.concatenate([H.T, np.diag(R - A)]), np.log(U / S**2) + spread),
        prior=linear(np.diag(A), np.log(S**2)),
        decoder=OUTPUT,
    )
    upper = Rung((2,), SAME, linear(shrunk * G.T, np.log(C) + spread), SAME)
    model = ladder([lower, upper], likelihood=gaussian())
    return model, model.init(rng.root(0), X)


def keys(num=2, seed=1):
    return rng.per_example(rng.root(seed), num)


def draws(function, params, num=20_000):
    """The function's values at many draws, float64 [num, 2, ...]."""
    many = np.tile(X, (num, 1))
    values = jax.jit(function)(keys(len(many)), params, many)
    return np.asarray(values, np.float64).reshape(num, len(X), *values.shape[1:])


def test_at_the_true_posterior_each_weight_is_the_likelihood():
    model, params = make()
    log_w = draws(vae.log_weight(model), params, 50)
    np.testing.assert_allclose(log_w, np.tile(EVIDENCE, (50, 1)), rtol=1e-5)


MODEL, PARAMS = make(shrunk=0.8, spread=0.4)


def test_weights_average_to_the_likelihood():
    found = evaluate.importance(
        rng.root(0), PARAMS, X, vae.log_weight(MODEL), num_samples=4000, progress=False
    )
    assert np.all(found.error < 0.05)
    assert np.all(np.abs(found.log_likelihood - EVIDENCE) < 4 * found.error)


def test_each_layers_divergence_is_its_closed_form():
    kl = draws(lambda *inputs: layer_terms(MODEL)(*inputs)[1], PARAMS)
    mean, variance = 0.8 * X @ G.T, C * np.exp(0.4)
    top = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1)
    np.testing.assert_allclose(kl[:, :, 1], np.tile(top, (len(kl), 1)), rtol=1e-5)
    # Given z_2, the means differ by d = 0.8 (H x + (R - a) z_2).
    d = 0.8 * (X @ H.T + (R - A) * mean)
    ratio = U * np.exp(0.4) / S**2
    squares = d**2 + (0.8 * (R - A)) ** 2 * variance
    lower = 0.5 * (squares / S**2 + ratio - 1 - np.log(ratio)).sum(1)
    error = kl[:, :, 0].std(0, ddof=1) / np.sqrt(len(kl))
    assert np.all(error > 0)
    assert np.all(np.abs(kl[:, :, 0].mean(0) - lower) < 4 * error)
    # By way of log densities at the same draws: those of elbo.
    difference = draws(lambda *i: layered_elbo(MODEL)(*i)[0] - vae.elbo(MODEL)(*i)[0], PARAMS)
    error = difference.std(0, ddof=1) / np.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(0)) < 4 * error)


def test_without_a_difference_from_the_prior_nothing_is_told_of_x():
    model, _ = make(shrunk=0.0)
    params = PARAMS._replace(
        encoder=jax.tree.map(jnp.zeros_like, PARAMS.encoder),
    )
    own = keys()
    _, kl = layer_terms(model)(own, params, X)
    np.testing.assert_array_equal(kl, np.zeros((2, 2)))
    z = model.sample(keys(), *model.encode(params, X))
    np.testing.assert_array_equal(z, model.prior.sample(keys(), params.prior))
    noise = (z[:, :2] - z[:, 2:] * A.astype(np.float32)[None]) / S.astype(np.float32)[None]
    assert np.all(np.abs(noise - z[:, 2:]) > 1e-3)


@functools.cache
def gradients(name, num=10_000):
    """The gradient by q's and the prior's parameters at many draws, float64 [num, ...]."""
    objective = vae.iwae(MODEL, num_samples=2, estimator=name)

    def one(key):
        found = jax.grad(lambda p: objective(key[None], p, X[:1])[0][0])(PARAMS)
        leaves = jax.tree.leaves((found.encoder, found.prior))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    return np.asarray(jax.jit(jax.vmap(one))(keys(num, 2)), np.float64)


def test_doubly_reparametrised_gradients_agree_also_in_what_q_and_p_share():
    usual, other = gradients("standard"), gradients("dreg")
    error = np.sqrt((usual.var(0, ddof=1) + other.var(0, ddof=1)) / len(usual))
    assert np.all(np.abs(usual.mean(0) - other.mean(0)) < 4 * error + 1e-6)
    assert np.mean(np.abs(usual.mean(0)) > 8 * error) > 0.3
    assert np.abs(usual - other).max() > 0.1


def test_a_tempered_prior_has_smaller_deviations_at_each_layer():
    cool = tempered(MODEL, temperature=0.5)
    z = np.asarray(cool.prior.sample(keys(), PARAMS.prior), np.float64)
    usual = np.asarray(MODEL.prior.sample(keys(), PARAMS.prior), np.float64)
    np.testing.assert_allclose(z, 0.5 * usual, rtol=1e-5)  # as the means are linear
    covariance = 0.25 * np.block([[np.diag(V), np.diag(A)], [np.diag(A), np.eye(2)]])
    truth = stats.multivariate_normal(np.zeros(4), covariance).logpdf(z)
    found = cool.prior.log_prob(PARAMS.prior, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found, truth, rtol=1e-5)


def test_three_layers_are_in_their_order():
    # p: z_3 = e, z_2 = 2 z_3 + e / 2, z_1 = z_3 - z_2 + e / 3; a state holds all latents above.
    rungs = [
        Rung(
            (1,),
            SAME,
            linear(np.zeros((3, 1)), np.zeros(1)),
            SAME,
            linear([[-1.0], [1]], [-2 * np.log(3)]),
        ),
        Rung(
            (1,),
            SAME,
            linear([[0.0], [5.0]], [np.log(4.0)]),
            SAME,
            linear([[2.0]], [-2 * np.log(2)]),
        ),
        Rung((1,), SAME, linear([[0.5]], [np.log(9.0)]), SAME),
    ]
    likelihood = vae.Likelihood(lambda mean, x: -jnp.square(mean[:, :1] - x).sum(1), None)
    model = ladder(rungs, likelihood=likelihood)
    x = np.full((1, 1), 0.8, np.float32)
    params = model.init(rng.root(0), x)
    steps = np.array([[3, 3, -3], [0, 2, -4], [0, 0, 1.0]])
    z = np.array([[0.5, 1.0, 0.7]], np.float32)
    truth = stats.multivariate_normal(np.zeros(3), np.linalg.inv(steps.T @ steps)).logpdf(z)
    np.testing.assert_allclose(model.prior.log_prob(params.prior, z)[0], truth, rtol=1e-5)
    drawn = np.asarray(model.prior.sample(keys(20_000), params.prior), np.float64)
    assert np.all(np.abs(np.cov((drawn @ steps.T).T) - np.eye(3)) < 0.05)
    # q: z_3 = x / 2 + 3 e, z_2 = 7 z_3 + e, z_1 as in p: the features are x, the states above it.
    parameters = model.encode(params, x)
    np.testing.assert_allclose(parameters[0], [[0.4 - 2.8, 2.8, 0.4]], rtol=1e-5)
    steps = np.array([[3, 3, -3], [0, 1, -7], [0, 0, 1 / 3]])
    truth = stats.multivariate_normal(
        np.array([0.4 - 2.8, 2.8, 0.4]), np.linalg.inv(steps.T @ steps)
    ).logpdf(z)
    np.testing.assert_allclose(model.posterior.log_prob(z, *parameters)[0], truth, rtol=1e-5)
    reconstruction, kl = layer_terms(model)(keys(1), params, x)
    top = 0.5 * (0.4**2 + 9 - 1 - np.log(9))
    z = model.sample(keys(1), *parameters)
    middle = 0.5 * (4 * 25 * z[0, 2] ** 2 + 4 - 1 - np.log(4))
    np.testing.assert_allclose(kl, [[0, middle, top]], rtol=1e-5)
    np.testing.assert_allclose(reconstruction, (z[:, 0] - 0.8) ** 2, rtol=1e-5)


IMAGES = np.random.default_rng(0).uniform(size=(3, 4, 4, 1)).astype(np.float32)


def net(*shape):
    """A network without parameters: sines of the sum of its input."""

    def apply(params, x):
        total = x.reshape(len(x), -1).sum(1)[:, None]
        return jnp.sin(jnp.arange(1.0, 1.0 + math.prod(shape))[None] * total).reshape(-1, *shape)

    return Net(lambda key, x: (), apply)


def given(net):
    """The network with a condition, which is added to its input."""

    def apply(params, x, c):
        return net.apply(params, x + c.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1)))

    return Net(lambda key, x, c: (), apply)


def mixed(**changes):
    """A ladder of images and vectors, of which networks can be changed."""
    lower = {
        "latent": (2, 2, 1),
        "encoder": net(2, 2, 3),
        "posterior": net(2, 2, 2),
        "prior": net(2, 2, 2),
        "decoder": net(4, 4, 1),
    }
    upper = {"latent": (3,), "encoder": net(5), "posterior": net(6), "decoder": net(2, 2, 4)}
    options = {name: changes.pop(name) for name in ("condition",) if name in changes}
    lower |= {name: value for name, value in changes.items() if not name.startswith("top_")}
    upper |= {name[4:]: value for name, value in changes.items() if name.startswith("top_")}
    return ladder([Rung(**lower), Rung(**upper)], **options)


def test_layers_may_be_images_and_vectors():
    model = mixed()
    assert model.latent_dim == 7

    @jax.jit
    def computed():
        params = model.init(rng.root(0), IMAGES)
        draw = vae.generate(model)(keys(2), params)
        return model.encode(params, IMAGES)[0], vae.reconstruct(model)(params, IMAGES), draw

    z, image, drawn = computed()
    assert z.shape == (3, 7)
    assert np.all(np.std(z, axis=0) > 0)
    assert image.shape == IMAGES.shape
    assert drawn.shape == (2, 4, 4, 1)


def test_a_condition_goes_to_the_lowest_encoder_and_decoder():
    model = mixed(
        encoder=given(net(2, 2, 3)), decoder=given(net(4, 4, 1)), condition=lambda batch: batch
    )
    labels = jnp.array([0, 1, 2])
    params = model.init(rng.root(0), (IMAGES, labels))
    loss = jax.jit(lambda labels: layered_elbo(model)(keys(3), params, (IMAGES, labels))[0])
    assert np.array_equal(loss(labels) != loss(2 - labels), [True, False, True])
    draw = jax.eval_shape(vae.generate(model), keys(3), params, labels)
    assert draw.shape == IMAGES.shape


SOME = net(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ladder([]), "rungs must hold at least one layer, got none"),
        (lambda: ladder([SOME]), r"rungs\[0\] must be a Rung, got a Net"),
        (lambda: mixed(latent=3), r"latent of rungs\[0\] must be a shape \(..., C\), got 3"),
        (lambda: mixed(top_latent=(0,)), r"latent of rungs\[1\] must be a positive whole number"),
        (lambda: mixed(prior=None), r"prior of rungs\[0\] must be a Net, got None"),
        (lambda: mixed(top_prior=SOME), r"prior of rungs\[1\] must be None, as the top"),
        (lambda: mixed(posterior=None), r"posterior of rungs\[0\] must be a Net, got None"),
        (
            lambda: mixed(top_encoder=given(SOME)),
            r"encoder of rungs\[1\] must be a network of one input, .* got one that needs it",
        ),
        (
            lambda: mixed(encoder=given(SOME)),
            "condition must be a function .* as the encoder needs a condition",
        ),
        (
            lambda: mixed(posterior=net(2, 2, 3)).init(rng.root(0), IMAGES),
            r"posterior of rungs\[0\] must return \[B, 2, 2, 2\], .* got .*\[3, 2, 2, 3\]",
        ),
        (
            lambda: mixed(prior=net(2)).init(rng.root(0), IMAGES),
            r"prior of rungs\[0\] must return \[B, 2, 2, 2\], .* got .*\[3, 2\]",
        ),
        (
            lambda: mixed(encoder=net(12)).init(rng.root(0), IMAGES),
            r"rungs\[0\] must have features, .* got \[3, 12\] beside a state \[3, 2, 2, 4\]",
        ),
        (
            lambda: mixed(decoder=net(4, 5, 1)).init(rng.root(0), IMAGES),
            "the decoder's logits must have the images' shape",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
