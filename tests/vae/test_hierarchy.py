"""Chains of latent layers, and what all hierarchies share, on a linear Gaussian model.

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

from genmod import evaluate, nets, rng, vae
from genmod.types import Net
from genmod.vae.chain import ChainPrior, chain
from genmod.vae.ex_post import tempered
from genmod.vae.hierarchy import layer_terms, layered_elbo

W = np.array([[1.0, 0.5], [-0.5, 1.0], [0.0, 0.0]])
A, S, NOISE = np.array([0.8, -1.2]), np.array([0.6, 0.9]), 0.7
X = np.array([[0.5, -1.0, 0.3], [0.0, 0.3, -0.4]], np.float32)
# p(z_1) = N(0, V), p(z_1 | x) = N(G x, C), p(z_2 | z_1) = N(R z_1, U), all diagonal.
V = A**2 + S**2
C = 1 / (1 / V + (W**2).sum(0) / NOISE**2)
G = C[:, None] * W.T / NOISE**2
U = 1 / (1 + A**2 / S**2)
R = U * A / S**2
EVIDENCE = stats.multivariate_normal(
    np.zeros(3), W @ np.diag(V) @ W.T + NOISE**2 * np.eye(3)
).logpdf(X)


def linear(weights, deviations):
    """A net that returns moments: means x @ weights, and log-variances that it learns too."""
    initial = {"weights": weights, "logvar": 2 * np.log(deviations)}

    def apply(params, x):
        logvar = jnp.broadcast_to(params["logvar"][None], (len(x), len(deviations)))
        return jnp.concatenate([x @ params["weights"], logvar], axis=1)

    initial = {name: np.asarray(value, np.float32) for name, value in initial.items()}
    return Net(lambda key, x: jax.tree.map(jnp.asarray, initial), apply)


def gaussian():
    def log_prob(mean, x):
        return vae.log_normal(x, mean, 2 * np.log(NOISE))

    return vae.Likelihood(log_prob, mean=lambda mean: mean)


MEAN_OF_X = Net(lambda key, z: jnp.asarray(W, jnp.float32), lambda w, z: z @ w.T)
TRUE = (linear(G.T, np.sqrt(C)), linear(np.diag(R), np.sqrt(U)))
NEAR = (linear(0.8 * G.T, 1.2 * np.sqrt(C)), linear(1.1 * np.diag(R), 1.3 * np.sqrt(U)))
DECODERS = (MEAN_OF_X, linear(np.diag(A), S))


def make(encoders=NEAR, **options):
    model = chain(encoders, DECODERS, latent_dims=(2, 2), likelihood=gaussian(), **options)
    return model, model.init(rng.root(0), X)


MODEL, PARAMS = make()


def keys(num=2, seed=1):
    return rng.per_example(rng.root(seed), num)


def draws(function, params=PARAMS, num=20_000, x=X):
    """The function's values at many draws, float64 [num, 2, ...]."""
    many = np.tile(x, (num, 1))
    values = jax.jit(function)(keys(len(many)), params, many)
    return np.asarray(values, np.float64).reshape(num, len(x), *values.shape[1:])


def test_weights_average_to_the_likelihood():
    found = evaluate.importance(
        rng.root(0), PARAMS, X, vae.log_weight(MODEL), num_samples=4000, progress=False
    )
    assert np.all(found.error < 0.05)
    assert np.all(np.abs(found.log_likelihood - EVIDENCE) < 4 * found.error)


def gradients(objective, params, x=X):
    return jax.jit(jax.grad(lambda p: objective(keys(len(x)), p, x)[0].sum()))(params)


def close(found, expected):
    check = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5)
    jax.tree.map(check, found, expected)


def test_at_the_true_posterior_each_weight_is_the_likelihood():
    model, params = make(TRUE)
    log_w = draws(vae.log_weight(model), params, 50)
    np.testing.assert_allclose(log_w, np.tile(EVIDENCE, (50, 1)), rtol=1e-5)
    usual = gradients(vae.iwae(model, num_samples=3), params)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(usual.encoder)) > 0.05
    for name in ("stl", "dreg"):
        found = gradients(vae.iwae(model, num_samples=3, estimator=name), params)
        close(found.encoder, jax.tree.map(jnp.zeros_like, found.encoder))
        close(found[1:], usual[1:])


@functools.cache
def encoder_gradients(name, num_samples, num=10_000):
    """The encoders' gradient at many draws of the first image, float64 [num, ...]."""
    objective = vae.iwae(MODEL, num_samples=num_samples, estimator=name)

    def one(key):
        def loss(encoder):
            return objective(key[None], PARAMS._replace(encoder=encoder), X[:1])[0][0]

        leaves = jax.tree.leaves(jax.grad(loss)(PARAMS.encoder))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    return np.asarray(jax.jit(jax.vmap(one))(keys(num, 2)), np.float64)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_samples"), [("dreg", 2), ("stl", 1)])
def test_other_estimators_have_the_gradient_in_expectation(name, num_samples):
    usual, other = (encoder_gradients(which, num_samples) for which in ("standard", name))
    error = np.sqrt((usual.var(0, ddof=1) + other.var(0, ddof=1)) / len(usual))
    assert np.all(np.abs(usual.mean(0) - other.mean(0)) < 4 * error + 1e-6)
    assert np.any(np.abs(usual.mean(0)) > 8 * error)
    assert other.var(0).sum() < usual.var(0).sum()


IMAGES = np.random.default_rng(0).uniform(size=(5, 2, 2, 1)).astype(np.float32)


def test_one_layer_is_the_plain_vae():
    networks = nets.mlp((4,), 6, heads=2), nets.mlp((4,), (2, 2, 1))
    one = chain(networks[:1], networks[1:], latent_dims=(3,))
    plain = vae.make(*networks, latent_dim=3)
    # A chain draws from one stream for each layer.
    own = lambda keys, *q: plain.posterior.sample(rng.stream(keys, "layer_1"), *q)  # noqa: E731
    plain = plain._replace(sample=own)
    params = jax.jit(one.init)(rng.root(0), IMAGES)
    same = vae.VaeParams(params.encoder[0], params.decoder, ())
    np.testing.assert_array_equal(one.encode(params, IMAGES)[0], plain.encode(same, IMAGES)[0])
    pairs = [
        (layered_elbo(one, beta=3.0), vae.elbo(plain, beta=3.0)),
        (layered_elbo(one, nats=0.5), vae.free_bits(plain, nats=0.5, num_groups=1)),
        *[tuple(vae.iwae(m, num_samples=3, estimator="dreg") for m in (one, plain))],
    ]

    @jax.jit
    def both(params, same):
        ours, theirs = (
            [
                jax.value_and_grad(lambda p, f=f: f(keys(5), p, IMAGES)[0].sum())(p)
                for f in objectives
            ]
            for objectives, p in zip(zip(*pairs, strict=True), (params, same), strict=True)
        )
        return ours, theirs

    for (loss, found), (truth, expected) in zip(*both(params, same), strict=True):
        np.testing.assert_allclose(loss, truth, rtol=1e-6)
        close((found.encoder[0], found.decoder), (expected.encoder, expected.decoder))


def test_terms_add_up_to_the_elbo():
    kl = draws(lambda *inputs: layer_terms(MODEL)(*inputs)[1], PARAMS)
    loss, log_w = draws(lambda *i: layered_elbo(MODEL)(*i)[0]), draws(vae.log_weight(MODEL))
    # The same draws: the losses differ by the top layer's closed form alone.
    difference = loss + log_w
    assert np.all(difference.std(0) > 0.1)
    error = difference.std(0, ddof=1) / np.sqrt(len(difference))
    assert np.all(np.abs(difference.mean(0)) < 4 * error)
    # KL_2 = E KL(N(r z_1, u) || N(0, I)) over z_1 ~ N(g x, c), in closed form.
    g, c = 0.8 * X @ G.T, 1.44 * C
    r, u = 1.1 * R, 1.69 * U
    expected = 0.5 * (u + r**2 * (g**2 + c) - 1 - np.log(u)).sum(1)
    error = kl[:, :, 1].std(0, ddof=1) / np.sqrt(len(kl))
    assert np.all(np.abs(kl[:, :, 1].mean(0) - expected) < 4 * error)
    # KL_1 = E [log q(z_1 | x) - log N(z_1; a z_2, s^2)].
    away = (g * (1 - A * r)) ** 2 + (1 - A * r) ** 2 * c + A**2 * u
    expected = 0.5 * (away / S**2 - 1 + np.log(S**2 / c)).sum(1)
    error = kl[:, :, 0].std(0, ddof=1) / np.sqrt(len(kl))
    assert np.all(np.abs(kl[:, :, 0].mean(0) - expected) < 4 * error)


def test_the_objective_weighs_and_frees_layers():
    terms, own = layer_terms(MODEL), keys()
    reconstruction, kl = terms(own, PARAMS, X)
    nats = float(np.sort(np.ravel(kl))[-2:].mean())  # the largest alone is not free
    loss, aux = layered_elbo(MODEL, beta=2.0, nats=nats)(keys(), PARAMS, X)
    free = np.maximum(kl, nats)
    np.testing.assert_allclose(loss, reconstruction + 2 * free.sum(1), rtol=1e-6)
    np.testing.assert_array_equal(aux["kl_layer"], kl)
    np.testing.assert_allclose(aux["kl"], kl.sum(1), rtol=1e-6)
    np.testing.assert_array_equal(aux["reconstruction"], reconstruction)
    whole = layered_elbo(MODEL, nats=nats, whole_batch=True)
    assert whole.whole_batch
    loss, _ = whole(keys(), PARAMS, X)
    mean = np.maximum(np.asarray(kl).mean(0), nats).sum()
    np.testing.assert_allclose(loss, reconstruction + mean, rtol=1e-6)


def test_draws_of_the_prior_follow_its_density():
    params = PARAMS.prior
    for model, t in ((MODEL, 1.0), (tempered(MODEL, temperature=0.5), 0.5)):
        z = np.asarray(model.prior.sample(keys(40_000), params), np.float64)
        # z_1 ~ N(0, t^2 a^2 + t^2 s^2), z_2 ~ N(0, t^2), and z_1 and z_2 covary by t^2 a.
        variances = t**2 * np.concatenate([V, [1, 1]])
        error = variances * np.sqrt(2 / len(z))
        assert np.all(np.abs(z.var(0) - variances) < 4 * error)
        assert np.all(np.abs(z.mean(0)) < 4 * np.sqrt(variances / len(z)))
        covariance = np.cov(z.T)
        expected = np.block(
            [[np.diag(t**2 * V), np.diag(t**2 * A)], [np.diag(t**2 * A), t**2 * np.eye(2)]]
        )
        assert np.all(np.abs(covariance - expected) < 0.06 * t**2)
        truth = stats.multivariate_normal(np.zeros(4), expected).logpdf(z[:5])
        np.testing.assert_allclose(
            model.prior.log_prob(params, jnp.asarray(z[:5], jnp.float32)), truth, rtol=1e-4
        )
    assert tempered(MODEL, temperature=0.5)._replace(prior=MODEL.prior) == MODEL


def test_three_layers_are_in_their_order():
    # q: z_1 = x / 2 + e / 10, z_2 = 3 z_1 + 2 e / 10, z_3 = z_2 / 4 + 3 e / 10;
    # p: z_3 = e, z_2 = 2 z_3 + e / 2, z_1 = -z_2 + e / 3.
    q = [linear([[w]], [s / 10]) for w, s in ((0.5, 1), (3.0, 2), (0.25, 3))]
    p = [net(4, 4, 1), linear([[-1.0]], [1 / 3]), linear([[2.0]], [1 / 2])]
    model = chain(q, p, latent_dims=(1, 1, 1))
    x = np.full((1, 1), 0.8, np.float32)
    params = vae.VaeParams(
        tuple(one.init(rng.root(0), x) for one in q),
        (),
        ChainPrior(tuple(one.init(rng.root(0), x) for one in p[1:]), ()),
    )
    central = np.array([0.4, 1.2, 0.3])
    parameters = model.encode(params, x)
    np.testing.assert_allclose(parameters[0], central[None], rtol=1e-6)
    z = np.array([[0.5, 1.0, 0.7]], np.float32)
    steps = np.array([[1, 0, 0], [-3, 1, 0], [0, -0.25, 1]]) / np.array([[0.1], [0.2], [0.3]])
    truth = stats.multivariate_normal(central, np.linalg.inv(steps.T @ steps)).logpdf(z)
    np.testing.assert_allclose(model.posterior.log_prob(z, *parameters)[0], truth, rtol=1e-5)
    steps = np.array([[3, 3, 0], [0, 2, -4], [0, 0, 1.0]])
    covariance = np.linalg.inv(steps.T @ steps)
    truth = stats.multivariate_normal(np.zeros(3), covariance).logpdf(z)
    np.testing.assert_allclose(model.prior.log_prob(params.prior, z)[0], truth, rtol=1e-5)
    drawn = np.asarray(model.prior.sample(keys(20_000), params.prior), np.float64)
    deviations = np.sqrt(np.diag(covariance))
    errors = drawn @ steps.T  # independent, of variance 1
    assert np.all(np.abs(drawn.std(0) / deviations - 1) < 0.03)
    assert np.all(np.abs(np.cov(errors.T) - np.eye(3)) < 0.05)


def test_layers_have_draws_of_their_own():
    z = np.asarray(MODEL.sample(keys(), *MODEL.encode(PARAMS, X)))
    mean, logvar = map(np.asarray, MODEL.encode(PARAMS, X)[1:3])
    noise_1 = (z[:, :2] - mean) / np.exp(0.5 * logvar)
    noise_2 = (z[:, 2:] - z[:, :2] * 1.1 * R) / (1.3 * np.sqrt(U))
    assert np.all(np.abs(noise_1 - noise_2) > 1e-3)
    assert len({*np.asarray(noise_1).ravel().tolist()}) == 4
    p = np.asarray(MODEL.prior.sample(keys(), PARAMS.prior))
    assert np.all(np.abs((p[:, :2] - p[:, 2:] * A) / S - p[:, 2:]) > 1e-3)


def test_a_reconstruction_is_at_the_central_point():
    mean = 0.8 * X @ G.T
    central = MODEL.encode(PARAMS, X)[0]
    np.testing.assert_allclose(central, np.concatenate([mean, mean * 1.1 * R], 1), rtol=1e-5)
    np.testing.assert_allclose(vae.reconstruct(MODEL)(PARAMS, X), mean @ W.T, rtol=1e-5, atol=1e-6)


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


def test_a_condition_goes_to_the_first_encoder_and_decoder():
    model = chain(
        [given(net(6)), net(4)],
        [given(net(2, 2, 1)), net(6)],
        latent_dims=(3, 2),
        condition=lambda batch: batch,
    )
    batch = IMAGES, jnp.array([0, 1, 2, 0, 1])
    params = model.init(rng.root(0), batch)
    loss = jax.jit(lambda labels: layered_elbo(model)(keys(5), params, (IMAGES, labels))[0])
    found, other = (loss(labels) for labels in (batch[1], 2 - batch[1]))
    assert np.array_equal(found != other, [True, False, True, True, False])
    draw = functools.partial(jax.eval_shape, vae.generate(model), keys(5), params)
    assert draw(batch[1]).shape == (5, 2, 2, 1)
    with pytest.raises(ValueError, match="decoder needs a condition, got None"):
        draw()


def test_labels_out_of_range_are_refused_with_the_first_batch():
    encoder = nets.conditional(nets.mlp((), 4), 3)
    model = chain([encoder], [net(2, 2, 1)], latent_dims=(2,), condition=lambda batch: batch)
    model.init.check((IMAGES, jnp.array([0, 1, 2, 0, 1])))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), .* got values from 0 to 7"):
        model.init.check((IMAGES, jnp.array([0, 1, 2, 7, 1])))


def test_the_top_may_have_another_prior():
    def shifted(dim):
        plain = vae.standard_normal(dim)
        return plain._replace(
            init=lambda key, x: jnp.ones(dim),
            sample=lambda keys, p, posterior=None: p[None] + plain.sample(keys, ()),
            log_prob=lambda p, z, posterior=None: plain.log_prob((), z - p[None]),
            kl_divergence=None,
            is_standard_normal=False,
        )

    model, params = make(prior=shifted)
    # With p(z_2) = N(1, I) the likelihood has the mean W a.
    found = evaluate.importance(
        rng.root(0), params, X, vae.log_weight(model), num_samples=4000, progress=False
    )
    covariance = W @ np.diag(V) @ W.T + NOISE**2 * np.eye(3)
    truth = stats.multivariate_normal(W @ A, covariance).logpdf(X)
    assert np.all(np.abs(found.log_likelihood - truth) < 4 * found.error)
    loss, log_w = (
        layered_elbo(model)(keys(), params, X)[0],
        vae.log_weight(model)(keys(), params, X),
    )
    np.testing.assert_allclose(loss, -log_w, rtol=1e-5)
    with pytest.raises(ValueError, match=r"temperature must be 1, .* not N\(0, I\), got 0.7"):
        tempered(model, temperature=0.7)


def vamp(dim):
    def log_prob(p, z, posterior):
        return vae.log_normal(z, *posterior(jnp.zeros((1, 3))))

    return vae.standard_normal(dim)._replace(log_prob=log_prob, kl_divergence=None)


TINY = {"latent_dims": (2, 2)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: chain([net(4)], [net(4)], **TINY),
            "encoders must be one network for each .* got 1 networks for 2 latent_dims",
        ),
        (
            lambda: chain(net(4), net(4), latent_dims=()),
            "encoders must be one network for each of the latent_dims, at least one",
        ),
        (lambda: chain([1], [net(4)], latent_dims=(2,)), r"encoders\[0\] must be a Net, got 1"),
        (
            lambda: chain([net(4)], [net(4)], latent_dims=(0,)),
            "latent_dims must be a positive whole number, got 0",
        ),
        (
            lambda: chain([net(4)] * 2, [net(4), given(net(4))], **TINY),
            r"decoders\[1\] must be a network of one input",
        ),
        (
            lambda: chain([given(net(4))], [net(4)], latent_dims=(2,)),
            "condition must be a function",
        ),
        (lambda: layered_elbo(MODEL, beta=-1.0), "beta must be a number of at least 0, got -1.0"),
        (lambda: layered_elbo(MODEL, nats=-1.0), "nats must be a number of at least 0, got -1.0"),
        (
            lambda: layered_elbo(vae.make(net(4), net(4), latent_dim=2)),
            "model must have layers of latents, .* got one whose sample is a function",
        ),
        (lambda: tempered(MODEL, temperature=0.0), "temperature must be a positive number"),
        (lambda: vae.free_bits(MODEL, nats=1.0), "free_bits needs the divergence of each latent"),
        (
            lambda: MODEL.init(rng.root(0), np.float32(1)),
            "the batch must be images",
        ),
        (
            lambda: chain([net(4), net(3)], [net(4), net(4)], **TINY).init(rng.root(0), IMAGES),
            r"encoders\[1\] must return \[B, 4\], .* got an array float32 \[5, 3\]",
        ),
        (
            lambda: chain([net(4), net(4)], [net(2, 2, 1), net(5)], **TINY).init(
                rng.root(0), IMAGES
            ),
            r"decoders\[1\] must return \[B, 4\], .* got an array float32 \[5, 5\]",
        ),
        (
            lambda: make(prior=lambda dim: vae.standard_normal(dim)._replace(is_on_sphere=True)),
            "prior of the top layer must be one of the whole space",
        ),
        (lambda: make(prior=vamp), "prior of a hierarchy's top layer must be one without"),
        (
            lambda: MODEL.decode(PARAMS, jnp.zeros((2, 3))),
            r"z must have the shape \[B, 4\], got \(2, 3\)",
        ),
        (lambda: MODEL.prior.sample(rng.root(0), PARAMS.prior), "keys must be one per example"),
        (
            lambda: layer_terms(MODEL)(keys(1), PARAMS, X),
            r"keys must be one per example, \[2\], got \[1\]",
        ),
        (
            lambda: chain([net(4)], [net(2, 2, 1)], latent_dims=(2,)).init.check(2 * IMAGES),
            "images must lie in the likelihood's range",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
