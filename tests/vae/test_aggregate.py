"""Objectives of the aggregate posterior, against closed forms and references in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import devices, evaluate, rng, train, vae
from genmod.types import Net
from genmod.vae.aggregate import beta_tc, dip, mmd

B, D, L = 6, 4, 3
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(B, D)).astype(np.float32)
ENCODER = Net(
    lambda key, x: 0.5 * jax.random.normal(key, (D, 2 * L)), lambda weights, x: x @ weights
)
DECODER = Net(lambda key, z: jax.random.normal(key, (L, D)), lambda w, z: jnp.tanh(z @ w))
NORMAL = vae.Likelihood(lambda mean, x: vae.log_normal(x, mean), mean=lambda mean: mean)
MODEL = vae.make(ENCODER, DECODER, latent_dim=L, likelihood=NORMAL)
PARAMS = MODEL.init(rng.root(0), X)


def keys(seed=1, num=B):
    return rng.per_example(rng.root(seed), num)


def of_means(means):
    """A model whose posteriors are N(mean, I), of these means."""
    encoder = Net(lambda key, x: (), lambda params, x: jnp.concatenate([means, 0 * means], axis=1))
    model = vae.make(encoder, DECODER, latent_dim=L, likelihood=NORMAL)
    return model, model.init(rng.root(0), X)


def close(found, expected, rtol=2e-4, atol=2e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected
    )


def run(objective, params=PARAMS):
    return jax.jit(objective)(keys(), params, X)


def with_gradient(objective):
    def mean(params):
        loss, aux = objective(keys(), params, X)
        return loss.mean(), (loss, aux)

    (_, (loss, aux)), gradient = jax.jit(jax.value_and_grad(mean, has_aux=True))(PARAMS)
    return loss, aux, gradient


TERMS = ("mutual_information", "total_correlation", "dimension_wise_kl")


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_the_terms_sum_to_the_divergence_and_equal_weights_make_the_elbo(estimator):
    bound = vae.elbo(MODEL, closed_form=False)
    usual, terms, expected = with_gradient(bound)
    equal = beta_tc(MODEL, beta=1, num_examples=50, estimator=estimator)
    loss, aux, gradient = with_gradient(equal)
    close(loss, usual)
    close({name: aux[name] for name in terms}, terms)
    close(sum(aux[name] for name in TERMS), terms["kl"])
    close(gradient, expected)

    other = beta_tc(MODEL, alpha=0.5, beta=6, gamma=2, num_examples=50, estimator=estimator)
    weighted = sum(w * aux[name] for w, name in zip((0.5, 6, 2), TERMS, strict=True))
    close(run(other)[0], aux["reconstruction"] + weighted)


@pytest.mark.parametrize(
    ("estimator", "reference"),
    [
        ("weighted", evaluate.minibatch_weighted_sampling),
        ("stratified", evaluate.minibatch_stratified_sampling),
    ],
)
def test_the_terms_are_those_of_evaluate(estimator, reference):
    mean, logvar = MODEL.encode(PARAMS, X)
    expected = reference(mean, logvar, MODEL.sample(keys(), mean, logvar), 50)
    _, aux = run(beta_tc(MODEL, beta=1, num_examples=50, estimator=estimator))
    for name in TERMS:
        np.testing.assert_allclose(aux[name].mean(), getattr(expected, name).mean, rtol=1e-4)


@pytest.mark.parametrize(
    ("estimator", "equal", "far"),
    [("weighted", np.log(50), np.log(50 * B)), ("stratified", 0, np.log(50))],
)
def test_the_information_of_equal_and_of_distant_posteriors_is_known(estimator, equal, far):
    means = 100 * jnp.arange(B, dtype=jnp.float32)[:, None] * jnp.ones((1, L))
    for spread, information in ((0 * means, equal), (means, far)):
        model, params = of_means(spread)
        objective = beta_tc(model, beta=1, num_examples=50, estimator=estimator)
        _, aux = run(objective, params)
        np.testing.assert_allclose(aux["mutual_information"], information, atol=1e-4)
        np.testing.assert_allclose(aux["total_correlation"], (L - 1) * information, atol=1e-4)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_the_covariance_is_that_of_numpy(kind):
    usual, terms = run(vae.elbo(MODEL))
    mean, logvar = (np.asarray(a, np.float64) for a in MODEL.encode(PARAMS, X))
    covariance = np.cov(mean.T, bias=True)
    if kind == "II":
        covariance += np.diag(np.exp(logvar).mean(0))
    diagonal = np.square(np.diag(covariance) - 1).sum()
    off_diagonal = np.square(covariance[~np.eye(L, dtype=bool)]).sum()
    objective = dip(MODEL, off_diagonal=10, diagonal=3, kind=kind)
    loss, aux = run(objective)
    close(loss, usual + 10 * off_diagonal + 3 * diagonal)
    alike = np.ones(B)
    close(aux, {**terms, "off_diagonal": off_diagonal * alike, "diagonal": diagonal * alike})


def kernel_sum(name, scales, a, b):
    ratio = np.square(a[:, None] - b[None]).sum(-1) / (2 * L)
    parts = [1 / (1 + ratio / s) if name == "imq" else np.exp(-ratio / s) for s in scales]
    return np.sum(parts, axis=0)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_discrepancy_is_that_of_numpy(kernel, deterministic):
    parameters = MODEL.encode(PARAMS, X)
    z = parameters[0] if deterministic else MODEL.sample(rng.stream(keys(), "codes"), *parameters)
    drawn = MODEL.prior.sample(rng.stream(keys(), "prior"), ())
    values = functools.partial(kernel_sum, kernel, (0.5, 2.0))
    codes, others = np.asarray(z, np.float64), np.asarray(drawn, np.float64)
    pairs = [values(a, a)[~np.eye(B, dtype=bool)].mean() for a in (codes, others)]
    expected = sum(pairs) - 2 * values(codes, others).mean()
    objective = mmd(MODEL, weight=7, deterministic=deterministic, kernel=kernel, scales=(0.5, 2.0))
    loss, aux = run(objective)
    reconstruction = -MODEL.likelihood.log_prob(MODEL.decode(PARAMS, z), X)
    close(aux["mmd"], np.full(B, expected))
    close(aux["reconstruction"], reconstruction)
    close(loss, reconstruction + 7 * expected)
    assert ("kl" in aux) != deterministic


def test_without_the_discrepancy_it_is_the_elbo():
    found = mmd(MODEL, weight=0, kl_weight=3)
    usual, terms = vae.elbo(MODEL, beta=3)(rng.stream(keys(), "codes"), PARAMS, X)
    loss, aux = run(found)
    close(loss, usual)
    close(aux["kl"], terms["kl"])


@pytest.mark.parametrize(("shift", "variance"), [(0.0, 1.0), (0.5, 0.3)])
def test_the_discrepancy_of_gaussians_is_on_average_its_closed_form(shift, variance):
    """0 if the codes follow the prior."""

    def encode(params, x):
        ones = jnp.ones((len(x), L))
        return jnp.concatenate([shift * ones, np.log(variance) * ones], axis=1)

    encoder = Net(lambda key, x: (), encode)
    model = vae.make(encoder, DECODER, latent_dim=L, likelihood=NORMAL)
    params = model.init(rng.root(0), X)
    objective = mmd(model, weight=1, kernel="rbf", scales=(1.0,))
    many = jax.vmap(lambda key: objective(rng.per_example(key, B), params, X)[1]["mmd"][0])
    found = np.asarray(jax.jit(many)(rng.per_example(rng.root(2), 4000)), np.float64)

    def kernel(total, distance):  # of two Gaussians with these variances together and means apart
        width = 2 * L
        spread = (1 + 2 * total / width) ** (-L / 2)
        return spread * np.exp(-L * distance**2 / (width + 2 * total))

    expected = kernel(2 * variance, 0) + kernel(2, 0) - 2 * kernel(1 + variance, shift)
    assert abs(found.mean() - expected) < 4 * found.std(ddof=1) / np.sqrt(len(found))
    assert found.std() < 0.5


MAKERS = {
    "beta_tc": functools.partial(beta_tc, beta=6, num_examples=50),
    "dip": functools.partial(dip, off_diagonal=1, diagonal=1),
    "mmd": functools.partial(mmd, weight=10),
}


@pytest.mark.parametrize("name", MAKERS)
def test_they_look_at_their_whole_batch(name):
    objective = MAKERS[name](MODEL)
    assert objective.whole_batch
    with devices.microbatch(), pytest.raises(ValueError, match=f"{name} compares the examples"):
        objective(keys(), PARAMS, X)
    learner = functools.partial(train.learner, MODEL.init, objective, optax.sgd(0.1))
    with pytest.raises(ValueError, match="microbatches must be 1, got 2"):
        learner(microbatches=2)
    with pytest.raises(ValueError, match=r"keys must be one per example, \[6\], got \[1\]"):
        objective(keys(num=1), PARAMS, X)


def test_a_weight_may_follow_a_schedule():
    def objective(hyper):
        return beta_tc(MODEL, beta=hyper["beta"], num_examples=50)

    hyper = {"beta": optax.linear_schedule(0.0, 6.0, 2)}
    options = {"hyper": hyper, "whole_batch": True}
    learner = train.learner(MODEL.init, objective, optax.sgd(0.0), **options)
    state, first = jax.jit(learner.step)(rng.root(1), learner.init(rng.root(0), X), X)
    _, second = jax.jit(learner.step)(rng.root(1), state, X)
    expected = first["loss"] + 3 * first["total_correlation"]
    np.testing.assert_allclose(second["loss"], expected, rtol=1e-5)


def another_posterior():
    plain = vae.diagonal_normal(L)
    return MODEL._replace(posterior=plain._replace(log_prob=lambda z, *p: plain.log_prob(z, *p)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: beta_tc(MODEL, beta=-1, num_examples=5), "beta must be a number of at least 0"),
        (lambda: beta_tc(MODEL, beta=1, alpha=-1, num_examples=5), "alpha must be a number"),
        (lambda: beta_tc(MODEL, beta=1, gamma=-1, num_examples=5), "gamma must be a number"),
        (lambda: beta_tc(MODEL, beta=1, num_examples=0), "num_examples must be a positive"),
        (
            lambda: beta_tc(MODEL, beta=1, num_examples=9, estimator="weighed"),
            "unknown estimator 'weighed'; did you mean 'weighted'",
        ),
        (
            lambda: beta_tc(another_posterior(), beta=1, num_examples=9),
            "beta_tc needs the mean and variance of each latent",
        ),
        (
            lambda: beta_tc(MODEL, beta=1, num_examples=5)(keys(), PARAMS, X),
            "num_examples must be at least the batch's 6, got 5",
        ),
        (
            lambda: beta_tc(MODEL, beta=1, num_examples=5, estimator="stratified")(
                keys(num=1), PARAMS, X[:1]
            ),
            "stratified estimator needs at least 2 examples, got 1",
        ),
        (lambda: dip(MODEL, off_diagonal=-1, diagonal=1), "off_diagonal must be a number"),
        (lambda: dip(MODEL, off_diagonal=1, diagonal=-1), "diagonal must be a number"),
        (lambda: dip(MODEL, off_diagonal=1, diagonal=1, kind="III"), "unknown kind 'III'"),
        (lambda: dip(another_posterior(), off_diagonal=1, diagonal=1), "dip needs the mean"),
        (lambda: mmd(MODEL, weight=-1), "weight must be a number of at least 0"),
        (lambda: mmd(MODEL, weight=1, kl_weight=-1), "kl_weight must be a number of at least 0"),
        (lambda: mmd(MODEL, weight=1, kernel="rbff"), "unknown kernel 'rbff'; did you mean 'rbf'"),
        (lambda: mmd(MODEL, weight=1, scales=()), "scales must hold at least one number"),
        (lambda: mmd(MODEL, weight=1, scales=(1, 0)), "scales must be a positive number, got 0"),
        (
            lambda: mmd(MODEL, weight=1, kl_weight=0.5, deterministic=True),
            "kl_weight must be 0 with deterministic=True.* got 0.5",
        ),
        (lambda: mmd(MODEL, weight=1)(keys(num=1), PARAMS, X[:1]), "pairs of images, got a batch"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_optimal_sigma_is_the_best_and_moves_no_gradient():
    """Beside the loss by any one standard deviation, whose gradient at the best one is the same."""
    loss, aux, gradient = with_gradient(vae.optimal_sigma(MODEL, beta=2.0))
    z = MODEL.sample(keys(), *MODEL.encode(PARAMS, X))
    errors = X - np.asarray(MODEL.decode(PARAMS, z))
    best = np.sqrt(np.mean(errors**2))
    close(aux["sigma"], np.full(B, best, np.float32))

    def by(std):
        def log_prob(mean, x):
            return vae.log_normal(x, mean, 2 * np.log(std).astype(np.float32))

        fixed = MODEL._replace(likelihood=vae.Likelihood(log_prob, mean=lambda mean: mean))
        return with_gradient(vae.elbo(fixed, beta=2.0))

    found, _, slope = by(best)
    close(loss, found)
    close(gradient, slope)
    for other in (0.9 * best, 1.1 * best):
        assert by(other)[0].mean() > loss.mean()


def test_one_example_is_compared_with_none():
    with pytest.raises(ValueError, match="dip compares examples and needs at least 2, got 1"):
        dip(MODEL, off_diagonal=1.0, diagonal=1.0)(rng.per_example(rng.root(0), 1), PARAMS, X[:1])


def test_images_without_an_error_have_the_least_sigma():
    exact = Net(lambda key, z: (), lambda w, z: jnp.zeros((len(z), D)))
    model = vae.make(ENCODER, exact, latent_dim=L, likelihood=NORMAL)
    blank = jnp.zeros((4, D))
    keys = rng.per_example(rng.root(0), 4)
    loss, aux = vae.optimal_sigma(model)(keys, model.init(rng.root(0), blank), blank)
    assert np.all(np.isfinite(loss))
    np.testing.assert_allclose(aux["sigma"], 1e-3)
