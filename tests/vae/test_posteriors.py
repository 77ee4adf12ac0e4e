"""Posteriors: those of a user in a few lines, full covariance, and flows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genmod import nets, rng, vae
from genmod.nets.masked import masked_mlp
from genmod.types import Net
from genmod.vae.flows import composed, coupling, inverse_autoregressive, planar
from genmod.vae.posteriors import flow_posterior, full_normal

X = jax.random.uniform(rng.root(0), (3, 4, 4, 1))
DECODER = nets.mlp((6,), (4, 4, 1))


def users_normal(dim):
    """A Gaussian with any covariance: mean and its Cholesky factor."""
    rows, columns = np.tril_indices(dim)

    def split(output):
        factor = jnp.zeros((len(output), dim, dim)).at[:, rows, columns].set(output[:, dim:])
        diagonal = jnp.arange(dim)
        return output[:, :dim], factor.at[:, diagonal, diagonal].set(
            jnp.exp(factor[:, diagonal, diagonal])
        )

    def sample(keys, mean, factor):
        noise = jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)
        return mean + jnp.einsum("bij,bj->bi", factor, noise)

    def log_prob(z, mean, factor):
        solve = jax.vmap(partial(jax.scipy.linalg.solve_triangular, lower=True))
        log_det = jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(1)
        return vae.log_normal(solve(factor, z - mean)) - log_det

    return vae.Posterior(split, sample, log_prob)


@pytest.mark.slow
def test_a_full_covariance_is_a_few_lines():
    model = vae.make(nets.mlp((6,), 5), DECODER, latent_dim=2, posterior=users_normal)
    params = model.init(rng.root(0), X)
    mean, factor = model.encode(params, X)
    assert mean.shape == (3, 2)
    assert factor.shape == (3, 2, 2)
    # The closed form is of a diagonal Gaussian and would be wrong here.
    assert model.prior.kl_divergence is None
    num = 4000
    keys = rng.per_example(rng.root(1), num)
    _, aux = vae.elbo(model)(keys, params, jnp.broadcast_to(X[:1], (num, *X.shape[1:])))
    m, cholesky = np.asarray(mean[0], np.float64), np.asarray(factor[0], np.float64)
    covariance = cholesky @ cholesky.T
    exact = 0.5 * (np.trace(covariance) + m @ m - 2 - np.linalg.slogdet(covariance)[1])
    kl = np.asarray(aux["kl"], np.float64)
    assert abs(kl.mean() - exact) < 4 * kl.std(ddof=1) / np.sqrt(num)
    np.testing.assert_allclose(
        model.posterior.log_prob(mean + 0.1, mean, factor)[0],
        stats.multivariate_normal(m, covariance).logpdf(m + 0.1),
        rtol=1e-4,
    )


def test_another_split_of_the_same_density_keeps_the_closed_form():
    def clipped(dim):
        mine = vae.diagonal_normal(dim)

        def split(output):
            mean, logvar = mine.split(output)
            return mean, jnp.clip(logvar, -0.1, 0.1)

        return mine._replace(split=split)

    model = vae.make(nets.mlp((6,), 4, heads=2), DECODER, latent_dim=2, posterior=clipped)
    params = model.init(rng.root(0), X)
    mean, logvar = model.encode(params, X)
    assert np.abs(logvar).max() <= np.float32(0.1)
    _, aux = vae.elbo(model)(rng.per_example(rng.root(1), 3), params, X)
    np.testing.assert_array_equal(aux["kl"], vae.kl_divergence(mean, logvar))


# Any covariance


def test_the_density_of_any_covariance_is_scipys_and_its_draws_have_it():
    dim, num = 4, 20_000
    posterior = full_normal(dim)
    output = 0.7 * jax.random.normal(rng.root(2), (1, dim * (dim + 3) // 2))
    parameters = [jnp.broadcast_to(p, (num, *p.shape[1:])) for p in posterior.split(output)]
    z = jax.jit(posterior.sample)(rng.per_example(rng.root(3), num), *parameters)
    mean, factor = (np.float64(p[0]) for p in parameters)
    exact = stats.multivariate_normal(mean, factor @ factor.T)
    found = jax.jit(posterior.log_prob)(z, *parameters)
    np.testing.assert_allclose(found, exact.logpdf(z), rtol=1e-4, atol=1e-5)
    white = np.linalg.solve(factor, (np.float64(z) - mean).T)
    np.testing.assert_allclose(white @ white.T / num, np.eye(dim), atol=4 * np.sqrt(2 / num))
    np.testing.assert_allclose(white.mean(1), 0, atol=4 / np.sqrt(num))


def test_a_diagonal_covariance_is_the_diagonal_posterior():
    output = jax.random.normal(rng.root(2), (3, 9)).at[:, 6:].set(0)
    keys, again = rng.per_example(rng.root(3), 3), rng.per_example(rng.root(3), 3)
    full, diagonal = full_normal(3), vae.diagonal_normal(3)
    own, other = full.split(output), diagonal.split(output[:, :6])
    z = full.sample(keys, *own)
    np.testing.assert_allclose(z, diagonal.sample(again, *other), rtol=1e-6)
    np.testing.assert_allclose(full.log_prob(z, *own), diagonal.log_prob(z, *other), rtol=1e-5)
    assert np.array_equal(np.tri(3) != 0, np.asarray(full.split(output + 1)[1][0]) != 0)


def gaussian_model(weights, std, posterior, encode):
    """A VAE with x ~ N(weights z, std^2 I), whose encoder is a function of x, and log p(x)."""
    likelihood = vae.Likelihood(lambda mean, x: vae.log_normal(x, mean, 2 * np.log(std)), None)
    encoder = Net(lambda key, x: (), lambda params, x: encode(x))
    decoder = Net(lambda key, z: (), lambda params, z: z @ jnp.asarray(weights.T, z.dtype))
    model = vae.make(encoder, decoder, latent_dim=2, likelihood=likelihood, posterior=posterior)
    evidence = stats.multivariate_normal(
        np.zeros(len(weights)), weights @ weights.T + std**2 * np.eye(len(weights))
    )
    return model, evidence.logpdf


DATA = np.float32([[0.5, -1.0, 2.0], [0.0, 0.3, -0.4]])


def test_the_bound_is_the_evidence_at_a_true_posterior_with_correlations():
    weights, std = np.array([[1.0, 0.8], [-0.5, 1.0], [0.9, 0.3]]), 0.7
    covariance = np.linalg.inv(np.eye(2) + weights.T @ weights / std**2)
    factor = np.linalg.cholesky(covariance)
    assert abs(covariance[0, 1]) > 0.05

    def encode(x):
        rest = [*(2 * np.log(np.diag(factor))), factor[1, 0]]
        mean = x @ jnp.asarray(weights @ covariance / std**2, x.dtype)
        return jnp.concatenate([mean, jnp.broadcast_to(jnp.array(rest), (len(x), 3))], axis=1)

    model, evidence = gaussian_model(weights, std, full_normal, encode)
    params = model.init(rng.root(0), DATA)
    for seed in range(3):
        found = jax.jit(vae.log_weight(model))(rng.per_example(rng.root(seed), 2), params, DATA)
        np.testing.assert_allclose(found, evidence(DATA), rtol=1e-5)


# Flows


def net(width):
    return nets.mlp((6,), width, activation=jnp.tanh)


FLOWS = {
    "planar": planar(num_layers=2),
    "autoregressive": inverse_autoregressive(masked_mlp((6,), 2), num_layers=2, context=3),
    "coupling": coupling(net, num_layers=2, context=3),
}


@pytest.mark.parametrize(
    "name", ["planar", "autoregressive", pytest.param("coupling", marks=pytest.mark.slow)]
)
def test_the_density_of_a_flow_integrates_to_one_and_is_that_of_its_draws(name):
    flow = FLOWS[name](2)
    posterior = flow_posterior(FLOWS[name])(2)
    noise = lambda leaf: leaf + 0.3 * jax.random.normal(rng.root(4), leaf.shape)  # noqa: E731
    shared = jax.tree.map(noise, posterior.init(rng.root(3)))
    output = 0.7 * jax.random.normal(rng.root(5), (1, 4 + flow.context))
    axis = np.linspace(-7, 7, 250, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)

    @jax.jit
    def facts(keys, again, z):
        many = jnp.broadcast_to(output, (len(z), output.shape[1]))
        density = posterior.log_prob(z, *posterior.split(many, shared))
        parameters = posterior.split(many[: len(keys)], shared)
        draws = posterior.sample(keys, *parameters)
        _, mean, logvar, h, _ = parameters
        start = vae.diagonal_normal(2).sample(again, mean, logvar)
        _, log_det = flow.forward(shared, start, h)
        expected = vae.log_normal(start, mean, logvar) - log_det
        return density, posterior.log_prob(draws, *parameters), expected, parameters[0], draws

    density, found, expected, centre, draws = facts(
        *(rng.per_example(rng.root(6), 50) for _ in range(2)), grid
    )
    total = np.exp(np.float64(density)).sum() * (axis[1] - axis[0]) ** 2
    assert abs(total - 1) < 2e-3
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    # The first parameter, which is decoded, lies among the draws.
    assert np.all((draws.min(0) < centre[0]) & (centre[0] < draws.max(0)))


def test_a_flow_has_shared_parameters_beside_the_encoders():
    width = 4 + FLOWS["autoregressive"](2).context
    model = vae.make(
        nets.mlp((6,), width),
        DECODER,
        latent_dim=2,
        posterior=flow_posterior(FLOWS["autoregressive"]),
    )
    params = jax.jit(model.init)(rng.root(0), X)
    plain = jax.eval_shape(vae.make(nets.mlp((6,), 4), DECODER, latent_dim=2).init, rng.root(0), X)
    assert jax.tree.structure(params.encoder.network) == jax.tree.structure(plain.encoder)
    for objective in (vae.elbo(model), vae.iwae(model, num_samples=2, estimator="dreg")):
        loss = lambda p, objective=objective: objective(  # noqa: E731
            rng.per_example(rng.root(1), 3), p, X
        )[0].sum()
        gradients = jax.jit(jax.grad(loss))(params)
        for leaf in jax.tree.leaves(gradients):
            assert np.isfinite(leaf).all()
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients.encoder.posterior)) > 0
    assert jax.eval_shape(vae.reconstruct(model), params, X).shape == X.shape


def test_sticking_to_the_landing_has_no_noise_at_a_true_posterior_by_a_flow():
    """The flow is the identity, whatever its parameters move, and the base the true posterior."""
    weights, std = np.array([[1.0, 0.5], [-0.5, 1.0], [0.0, 0.0]]), 0.7  # orthogonal columns
    precision = 1 + (weights**2).sum(0) / std**2
    both = composed(planar(num_layers=1), coupling(net, num_layers=2))

    def encode(x):
        mean = x @ jnp.asarray(weights / std**2 / precision, x.dtype)
        logvar = jnp.broadcast_to(jnp.asarray(-np.log(precision), x.dtype), mean.shape)
        h = jnp.broadcast_to(jnp.array([0, 0, 0.3, -0.5, 0.2]), (len(x), 5))
        return jnp.concatenate([mean, logvar, h], axis=1)

    model, evidence = gaussian_model(weights, std, flow_posterior(both), encode)
    # Networks of zeros, which move nothing.
    form = jax.eval_shape(model.init, rng.root(0), DATA)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), form)
    keys = rng.per_example(rng.root(1), 2)

    def gradients(estimator):
        objective = vae.iwae(model, num_samples=2, estimator=estimator)
        found = jax.jit(jax.value_and_grad(lambda p: objective(keys, p, DATA)[0].sum()))(params)
        return found[0], max(float(jnp.abs(g).max()) for g in jax.tree.leaves(found[1].encoder))

    loss, noise = gradients("stl")
    assert abs(loss + evidence(DATA).sum()) < 1e-4
    assert noise < 1e-5
    assert gradients("standard")[1] > 0.05


def test_outputs_of_another_width_are_refused():
    expected = {
        full_normal: r"latent_dim \* \(latent_dim \+ 3\) / 2\] = \[B, 9\], got \[3, 6\]",
        flow_posterior(planar(num_layers=1)): r"the flow's context\] = \[B, 13\], got \[3, 6\]",
        vae.diagonal_normal: r"2 \* latent_dim\] = \[B, 6\], got \[3, 7\]",
    }
    for posterior, message in expected.items():
        width = 7 if posterior is vae.diagonal_normal else 6
        model = vae.make(nets.mlp((6,), width), DECODER, latent_dim=3, posterior=posterior)
        with pytest.raises(ValueError, match=message):
            model.init(rng.root(0), X)


OBJECTIVES = {
    "elbo": vae.elbo,
    "iwae": partial(vae.iwae, num_samples=2),
    "stl": partial(vae.iwae, num_samples=2, estimator="stl"),
    "piwae": partial(vae.piwae, num_groups=2, num_samples=2),
}


@pytest.mark.costly
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in ("iwae", "piwae"))) for n in OBJECTIVES],
)
def test_a_density_found_with_the_draw_changes_no_loss_and_no_gradient(name):
    posterior = flow_posterior(FLOWS["autoregressive"])
    model = vae.make(nets.mlp((6,), 7), DECODER, latent_dim=2, posterior=posterior)
    params = model.init(rng.root(0), X)

    def found(posterior, keys):
        objective = OBJECTIVES[name](model._replace(posterior=posterior))
        return jax.value_and_grad(lambda p: objective(keys, p, X)[0].sum())(params)

    slow = model.posterior._replace(draw=None)
    both = jax.jit(lambda one, two: (found(model.posterior, one), found(slow, two)))
    one, other = both(*(rng.per_example(rng.root(1), 3) for _ in range(2)))
    for leaf, same in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(leaf, same, rtol=1e-4, atol=1e-5)
