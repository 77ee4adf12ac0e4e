"""Priors: of a user in a few lines, mixtures, the VampPrior, and flows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from genmod import nets, rng, train, vae
from genmod.nets.masked import masked_mlp
from genmod.types import Net
from genmod.vae.flows import coupling, inverse_autoregressive, planar
from genmod.vae.posteriors import flow_posterior, full_normal
from genmod.vae.priors import MixtureParams, flow_prior, mixture, vampprior

slow = functools.partial(pytest.param, marks=pytest.mark.slow)
SHAPE, DIM = (4, 4, 1), 2
ENCODER, DECODER = nets.mlp((6,), 2 * DIM, heads=2), nets.mlp((6,), SHAPE)
# Each image has one of its rows filled.
X = jnp.zeros((12, *SHAPE)).at[jnp.arange(12), jnp.arange(12) % 4].set(1.0)


def vamp(num):
    """The VampPrior (Tomczak & Welling 2018): the mixture of the posteriors of learned images."""

    def sample(keys, images, posterior):
        index = jax.vmap(lambda key: jax.random.randint(key, (), 0, num))(rng.stream(keys, "which"))
        own = [parameter[index] for parameter in posterior(jax.nn.sigmoid(images))]
        return vae.diagonal_normal(DIM).sample(rng.stream(keys, "noise"), *own)

    def log_prob(images, z, posterior):
        of_each = vae.log_normal(z[:, None], *posterior(jax.nn.sigmoid(images)))
        return jax.nn.logsumexp(of_each, axis=1) - jnp.log(num)

    def init(key, x):
        return jax.random.normal(key, (num, *x.shape[1:]))

    return lambda latent_dim: vae.Prior(init, sample, log_prob)


NET = nets.mlp((6,), DIM, activation=jnp.tanh, kernel_init=jax.nn.initializers.normal(0.5))


def shift_and_scale(params, x):
    return jnp.split(NET.apply(params, x), 2, axis=1)


def to_noise(blocks, z):
    """Latents to noise, with the log-determinant: blocks that change half of them in turn."""
    log_det = 0.0
    for params in blocks:
        kept, moved = jnp.split(z, 2, axis=1)
        shift, log_scale = shift_and_scale(params, kept)
        z = jnp.concatenate([moved * jnp.exp(log_scale) + shift, kept], axis=1)
        log_det += log_scale.sum(1)
    return z, log_det


def from_noise(blocks, noise):
    for params in reversed(blocks):
        moved, kept = jnp.split(noise, 2, axis=1)
        shift, log_scale = shift_and_scale(params, kept)
        noise = jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], axis=1)
    return noise


def coupling_flow(latent_dim):
    """A RealNVP (Dinh et al. 2017) of two blocks as the prior."""

    def init(key, x):
        return [NET.init(k, jnp.zeros((1, latent_dim // 2))) for k in jax.random.split(key, 2)]

    def sample(keys, blocks, posterior):
        return from_noise(blocks, vae.standard_normal(latent_dim).sample(keys, ()))

    def log_prob(blocks, z, posterior):
        noise, log_det = to_noise(blocks, z)
        return vae.log_normal(noise) + log_det

    return vae.Prior(init, sample, log_prob)


def make(prior, **options):
    model = vae.make(ENCODER, DECODER, latent_dim=DIM, prior=prior, **options)
    return model, jax.jit(model.init)(rng.root(0), X)


def keys(num, seed=1):
    return rng.per_example(rng.root(seed), num)


USERS = {"vamp": vamp(4), "flow": coupling_flow, "normal": vae.standard_normal}
COUPLING = coupling(lambda width: nets.mlp((6,), width, activation=jnp.tanh), num_layers=3)
PRIORS = {
    "mixture": mixture(3),
    "vampprior": vampprior(4),
    "coupling": flow_prior(COUPLING),
    "autoregressive": flow_prior(inverse_autoregressive(masked_mlp((6,), 2), num_layers=2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vamp", "flow"])
def test_a_prior_of_a_few_lines_trains(name):
    model, _ = make(USERS[name])
    learner = train.learner(
        model.init, vae.elbo(model), optax.adam(3e-2), sample=vae.generate(model)
    )
    state = first = learner.init(rng.root(0), X)
    step = jax.jit(learner.step)
    losses = []
    for i in range(60):
        state, metrics = step(rng.at_step(rng.root(1), i), state, X)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 1
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params.prior, state.params.prior)
    assert min(jax.tree.leaves(moved)) > 1e-3
    assert learner.sample(rng.root(2), state, 7).shape == (7, *SHAPE)


@pytest.mark.parametrize("name", [*USERS, *PRIORS])
def test_the_density_is_that_of_the_draws(name):
    """The mean of q(z) / p(z) over draws from p is 1, for a normalised q inside of p."""
    model, params = make((USERS | PRIORS)[name])
    num = 20_000

    @jax.jit
    def drawn(keys, params):
        posterior = functools.partial(model.encode, params)
        z = model.prior.sample(keys, params.prior, posterior)
        return z, model.prior.log_prob(params.prior, z, posterior)

    z, log_p = drawn(keys(num), params)
    centre, logvar = z.mean(0), jnp.log(0.3 * z.var(0))
    ratio = np.exp(np.asarray(vae.log_normal(z, centre[None], logvar[None]) - log_p, np.float64))
    error = ratio.std(ddof=1) / np.sqrt(num)
    assert error < 0.1
    assert abs(ratio.mean() - 1) < 4 * error


def test_a_vamp_prior_of_one_image_is_its_posterior():
    model, params = make(vamp(1))
    mean, logvar = model.encode(params, jax.nn.sigmoid(params.prior))
    z = jax.random.normal(rng.root(5), (12, DIM))
    found = model.prior.log_prob(params.prior, z, lambda x: model.encode(params, x))
    scale = np.exp(0.5 * np.asarray(logvar, np.float64))
    np.testing.assert_allclose(found, stats.norm(mean, scale).logpdf(z).sum(1), rtol=1e-4)

    # Where the image is the one that is encoded, the divergence is zero at every draw.
    same = jnp.broadcast_to(jax.nn.sigmoid(params.prior), X.shape)
    _, aux = vae.elbo(model)(keys(12), params, same)
    np.testing.assert_allclose(aux["kl"], 0, atol=1e-5)


def test_the_encoder_is_moved_by_its_vamp_prior():
    model, params = make(vamp(3))
    z = jax.random.normal(rng.root(5), (12, DIM))

    def total(encoder):
        now = params._replace(encoder=encoder)
        return model.prior.log_prob(now.prior, z, lambda x: model.encode(now, x)).sum()

    alone = jax.tree.leaves(jax.grad(total)(params.encoder))
    assert max(float(jnp.abs(leaf).max()) for leaf in alone) > 0.1


def test_the_images_of_a_conditional_vamp_prior_have_conditions():
    """The prior depends on no condition: its images have conditions of their own."""
    encoder = Net(
        lambda key, x, c: ENCODER.init(key, x),
        lambda params, x, c: ENCODER.apply(params, x) + c[:, None],
    )

    def sample(keys, images, posterior):
        mean, logvar = posterior(images, jnp.arange(1.0))
        own = [jnp.broadcast_to(m, (len(keys), DIM)) for m in (mean, logvar)]
        return vae.diagonal_normal(DIM).sample(keys, *own)

    def log_prob(images, z, posterior):
        return vae.log_normal(z, *posterior(images, jnp.arange(1.0)))

    def make(prior):
        return vae.make(encoder, DECODER, latent_dim=DIM, prior=prior, condition=lambda b: b)

    model = make(lambda dim: vae.Prior(lambda key, x: x[:1], sample, log_prob))
    batch = (X, jnp.ones(12))
    loss, _ = vae.elbo(model)(keys(12), model.init(rng.root(0), batch), batch)
    assert loss.shape == (12,)
    with pytest.raises(ValueError, match="c must be given, as the encoder needs a condition"):
        make(vamp(2)).init(rng.root(0), batch)


def test_the_flow_inverts_and_its_determinant_is_that_of_autodiff():
    blocks = coupling_flow(DIM).init(rng.root(0), X)
    z = jax.random.normal(rng.root(1), (5, DIM))
    noise, log_det = to_noise(blocks, z)
    np.testing.assert_allclose(from_noise(blocks, noise), z, atol=1e-5)
    jacobian = jax.vmap(jax.jacobian(lambda one: to_noise(blocks, one[None])[0][0]))(z)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [slow("mixture"), "vampprior", "coupling", slow("autoregressive")])
def test_the_density_integrates_to_one(name):
    model, params = make(PRIORS[name])
    moved = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(rng.root(3), leaf.shape), params.prior
    )
    axis = np.linspace(-5.5, 5.5, 300)  # of which the latents are the hyperbolic sine
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    posterior = functools.partial(model.encode, params)
    density = jax.jit(lambda p, z: model.prior.log_prob(p, z, posterior))(
        moved, np.sinh(grid).astype(np.float32)
    )
    stretched = np.exp(np.float64(density)) * np.cosh(grid).prod(1)
    total = stretched.sum() * (axis[1] - axis[0]) ** 2
    assert abs(total - 1) < 2e-3


# Mixtures


def test_a_mixture_of_one_is_its_part():
    z, mean, logvar = jax.random.normal(rng.root(1), (3, 5, DIM))
    params = MixtureParams(mean[:1], logvar[:1], jnp.array([3.0]))
    found = mixture(1)(DIM).log_prob(params, z)
    np.testing.assert_allclose(found, vae.log_normal(z, mean[:1], logvar[:1]), rtol=1e-6)


def test_draws_of_a_mixture_have_its_moments_and_weights():
    num = 20_000
    params = MixtureParams(
        jnp.array([[-2.0, 0.0], [1.0, 3.0], [50.0, 50.0]]),
        jnp.array([[0.0, -2.0], [1.0, 0.5], [0.0, 0.0]]),
        jnp.log(jnp.array([0.6, 1.4, 0.0])) + 5,
    )
    z = np.float64(mixture(3)(DIM).sample(keys(num), params))
    weights, mean, var = np.array([0.3, 0.7]), params.mean[:2], np.exp(params.logvar[:2])
    expected = weights @ mean
    second = weights @ (var + mean**2)
    for values, exact in ((z, expected), (z**2, second), (z[:, :1] * z[:, 1:], [0.7 * 3])):
        error = values.std(0, ddof=1) / np.sqrt(num)
        assert np.all(np.abs(values.mean(0) - exact) < 4 * error)


def test_a_new_mixture_has_components_apart_with_equal_weights():
    params = mixture(4)(DIM).init(rng.root(0), X)
    assert [leaf.shape for leaf in params] == [(4, DIM), (4, DIM), (4,)]
    assert len(np.unique(params.mean)) == 4 * DIM
    assert not np.any(params.logits)


# The VampPrior


@pytest.mark.parametrize("support", [slow((0.0, 1.0)), (-1.0, 3.0), slow(None)])
def test_pseudo_inputs_begin_as_images_within_the_support(support):
    low, high = support or (0.0, 1.0)
    x = np.asarray(low + (high - low) * X)
    params = vampprior(30, support=support)(DIM).init(rng.root(0), x)
    seen = []
    encode = lambda images: (seen.append(images), (images[:, 0, 0], images[:, 0, 0]))[1]  # noqa: E731
    wide = vampprior(30, support=support)(1)
    wide.log_prob(params, jnp.zeros((2, 1)), encode)
    (images,) = seen
    assert images.shape == (30, *SHAPE)
    assert support is None or (images.min() > low and images.max() < high)
    near = low + (high - low) * (0.05 + 0.9 * X) if support else X
    apart = np.abs(images[:, None] - near[None]).max((2, 3, 4))
    nearest = apart.min(1) / (high - low)
    assert nearest.max() < (0.05 if support else 0.5)
    # Each image has been taken twice before one is taken a third time.
    kinds = np.argmin(apart, axis=1) % 4
    assert np.bincount(kinds[:24]).tolist() == [6] * 4
    assert len(np.unique(images, axis=0)) == 30


def test_the_vampprior_of_one_component_is_a_shifted_gaussian():
    model, params = make(vampprior(1))
    mean, logvar = model.encode(params, jax.nn.sigmoid(params.prior))
    z = jax.random.normal(rng.root(5), (12, DIM))
    found = model.prior.log_prob(params.prior, z, functools.partial(model.encode, params))
    scale = np.exp(0.5 * np.float64(logvar))
    np.testing.assert_allclose(found, stats.norm(mean, scale).logpdf(z).sum(1), rtol=1e-4)


IAF = inverse_autoregressive(masked_mlp((6,), 2), num_layers=1, context=2)


@pytest.mark.parametrize(
    ("posterior", "width"),
    [slow(full_normal, 5), (flow_posterior(IAF), 6)],
)
def test_the_vampprior_is_the_mixture_of_any_posteriors(posterior, width):
    own = vampprior(3, posterior=posterior)
    model = vae.make(nets.mlp((6,), width), DECODER, latent_dim=DIM, prior=own, posterior=posterior)

    @jax.jit
    def facts(params, keys, z):
        encode = functools.partial(model.encode, params)
        *parameters, shared = encode(jax.nn.sigmoid(params.prior))
        if posterior is full_normal:
            parameters, shared = [*parameters, shared], []
        else:
            shared = [shared]
        each = []
        for k in range(3):
            one = [jnp.repeat(a[k : k + 1], len(z), axis=0) for a in parameters]
            each.append(model.posterior.log_prob(z, *one, *shared))
        density = model.prior.log_prob(params.prior, z, encode)
        return density, jnp.stack(each), model.prior.sample(keys, params.prior, encode)

    params = jax.jit(model.init)(rng.root(0), X)
    z = jax.random.normal(rng.root(5), (6, DIM))
    density, each, draws = facts(params, keys(6), z)
    np.testing.assert_allclose(density, jax.nn.logsumexp(each, axis=0) - np.log(3), rtol=1e-5)
    assert draws.shape == (6, DIM)
    assert len(np.unique(draws)) == 12


@pytest.mark.parametrize("name", [slow("mixture"), "vampprior", slow("coupling"), "autoregressive"])
def test_all_of_a_prior_learns_and_the_encoder_by_its_own_prior(name):
    model, params = make(PRIORS[name])
    objective = vae.iwae(model, num_samples=2, estimator="dreg")
    gradients = jax.jit(jax.grad(lambda p: objective(keys(12), p, X)[0].sum()))(params)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients.prior)) > 1e-6
    assert not model.prior.is_standard_normal
    assert model.prior.kl_divergence is None


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_trains_and_is_drawn_from(name):
    model, _ = make(PRIORS[name])
    learner = train.learner(
        model.init, vae.elbo(model), optax.adam(3e-2), sample=vae.generate(model)
    )
    state, step, losses = learner.init(rng.root(0), X), jax.jit(learner.step), []
    for i in range(60):
        state, metrics = step(rng.at_step(rng.root(1), i), state, X)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 1
    assert np.isfinite(learner.sample(rng.root(2), state, 7)).all()


# Bad input


def test_the_vampprior_refuses_what_it_cannot_encode():
    with pytest.raises(ValueError, match="num_components must be a positive whole number, got 0"):
        vampprior(0)
    for support in ((1.0, 0.0), (0.0, np.inf)):
        with pytest.raises(ValueError, match="support must be None or two rising numbers"):
            vampprior(2, support=support)
    model, params = make(vampprior(2))
    with pytest.raises(ValueError, match=r"posterior must be the model's function.*got None"):
        model.prior.log_prob(params.prior, jnp.zeros((1, DIM)))
    with pytest.raises(ValueError, match=r"images must lie in the VampPrior's range \[0, 1\]"):
        model.init(rng.root(0), 255 * X)
    flow = flow_posterior(planar(num_layers=1))
    other = vae.make(nets.mlp((6,), 9), DECODER, latent_dim=DIM, prior=vampprior(2), posterior=flow)
    with pytest.raises(ValueError, match=r"vampprior.*must be the posterior of the VAE.*is 5, got"):
        other.init(rng.root(0), X)


def test_the_vampprior_refuses_an_encoder_that_needs_a_condition():
    encoder = nets.conditional(ENCODER, 3)
    model = vae.make(
        encoder, DECODER, latent_dim=DIM, prior=vampprior(2), condition=lambda batch: batch
    )
    with pytest.raises(ValueError, match="c must be given, as the encoder needs a condition"):
        model.init(rng.root(0), (X, jnp.zeros(12, jnp.int32)))


def test_a_flow_prior_has_no_context():
    for flow, width in ((planar(num_layers=2), 10), (IAF, 2)):
        with pytest.raises(ValueError, match=f"flow without context, got .* context of {width}"):
            make(flow_prior(flow))


def test_a_mixture_has_components():
    with pytest.raises(ValueError, match="num_components must be a positive whole number, got -1"):
        mixture(-1)


def test_a_prior_and_a_posterior_of_other_dimensions_are_refused_when_the_model_is_made():
    with pytest.raises(ValueError, match=r"= 2 dimensions, got a prior of 3 and a posterior of 2"):
        make(lambda latent_dim: mixture(2)(3))
    with pytest.raises(ValueError, match=r"= 2 dimensions, got a prior of 2 and a posterior of 5"):
        make(vae.standard_normal, posterior=lambda latent_dim: full_normal(5))
