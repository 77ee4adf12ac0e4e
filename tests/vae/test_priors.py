"""Priors of a user: each a few lines, trained, and a density whose draws are its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from genmod import nets, rng, train, vae
from genmod.types import Net

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
    return model, model.init(rng.root(0), X)


def keys(num, seed=1):
    return rng.per_example(rng.root(seed), num)


PRIORS = {"vamp": vamp(4), "flow": coupling_flow, "normal": vae.standard_normal}


@pytest.mark.parametrize("name", ["vamp", "flow"])
def test_a_prior_of_a_few_lines_trains(name):
    model, _ = make(PRIORS[name])
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


@pytest.mark.parametrize("name", PRIORS)
def test_the_density_is_that_of_the_draws(name):
    """The mean of q(z) / p(z) over draws from p is 1, for a normalised q inside of p."""
    model, params = make(PRIORS[name])
    num = 20_000

    def posterior(x):
        return model.encode(params, x)

    z = model.prior.sample(keys(num), params.prior, posterior)
    log_p = model.prior.log_prob(params.prior, z, posterior)
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
