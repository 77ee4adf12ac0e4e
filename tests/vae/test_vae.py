"""The VAE against closed forms, float64 references, quadrature and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from genmod import nets, rng, vae

moderate = st.floats(-5, 5, width=32)
extreme = st.sampled_from([-100.0, -20.0, -1e-4, 0.0, 1e-4, 20.0, 100.0])


def tiny(latent_dim=3, shape=(4, 4, 1)):
    encoder = nets.mlp((6,), 2 * latent_dim, heads=2, activation=jnp.tanh)
    decoder = nets.mlp((6,), shape, activation=jnp.tanh)
    return vae.make(encoder, decoder, latent_dim=latent_dim)


def images(num=5, shape=(4, 4, 1), seed=0):
    return jax.random.uniform(rng.root(seed), (num, *shape))


def reference_kl(mean, logvar):
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    return 0.5 * np.sum(mean**2 + np.exp(logvar) - 1 - logvar, axis=-1)


@given(st.lists(st.tuples(moderate, moderate), min_size=1, max_size=6))
def test_kl_and_its_gradient_are_the_closed_form(moments):
    mean, logvar = np.array(moments, np.float32).T[:, None, :]
    value = vae.kl_divergence(jnp.asarray(mean), jnp.asarray(logvar))
    np.testing.assert_allclose(value, reference_kl(mean, logvar), rtol=1e-5, atol=1e-6)

    def total(mean, logvar):
        return vae.kl_divergence(mean, logvar).sum()

    by_mean, by_logvar = jax.grad(total, (0, 1))(jnp.asarray(mean), jnp.asarray(logvar))
    np.testing.assert_allclose(by_mean, mean, rtol=1e-6, atol=1e-30)
    expected = 0.5 * np.expm1(logvar.astype(np.float64))
    np.testing.assert_allclose(by_logvar, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("logvar", [1e-3, -1e-3, 1e-4])
def test_kl_keeps_its_digits_where_the_posterior_is_almost_the_prior(logvar):
    # exp(logvar) - 1 - logvar loses all digits in float32 here; the true value is logvar^2 / 4.
    value = vae.kl_divergence(jnp.zeros((1, 1)), jnp.full((1, 1), logvar))
    np.testing.assert_allclose(value, reference_kl([[0.0]], [[np.float32(logvar)]]), rtol=2e-3)


def test_kl_is_the_mean_log_ratio_of_draws():
    mean, logvar = jnp.array([[0.7, -1.2]]), jnp.array([[-0.5, 0.8]])
    num = 40_000
    keys = rng.per_example(rng.root(0), num)
    repeat = lambda x: jnp.broadcast_to(x, (num, 2))  # noqa: E731
    z = np.asarray(tiny(2).sample(keys, repeat(mean), repeat(logvar)), np.float64)
    m, v = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    ratio = 0.5 * np.sum(z**2 - (z - m) ** 2 / np.exp(v) - v, axis=1)
    error = ratio.std(ddof=1) / np.sqrt(num)
    assert abs(ratio.mean() - float(vae.kl_divergence(mean, logvar)[0])) < 4 * error
    assert error < 0.02


def test_the_posteriors_draws_have_its_moments():
    mean, logvar = jnp.array([0.5, -2.0]), jnp.array([1.0, -3.0])
    num = 40_000
    shape = (num, 2)
    z = tiny(2).sample(
        rng.per_example(rng.root(1), num),
        jnp.broadcast_to(mean, shape),
        jnp.broadcast_to(logvar, shape),
    )
    sd = np.exp(0.5 * np.asarray(logvar))
    assert np.all(np.abs(z.mean(0) - mean) < 4 * sd / np.sqrt(num))
    assert np.all(np.abs(z.std(0) / sd - 1) < 4 / np.sqrt(2 * num))
    assert abs(np.corrcoef(np.asarray(z).T)[0, 1]) < 4 / np.sqrt(num)


@given(st.one_of(moderate, extreme), st.floats(0, 1, width=32))
def test_bernoulli_and_its_gradient_are_the_closed_form(logit, x):
    logits, pixels = (
        jnp.full((1, 1, 1, 1), logit, jnp.float32),
        jnp.full((1, 1, 1, 1), x, jnp.float32),
    )
    value, slope = jax.value_and_grad(lambda a: vae.bernoulli.log_prob(a, pixels).sum())(logits)
    at, x = float(logits.squeeze()), float(pixels.squeeze())
    expected = x * special.log_expit(at) + (1 - x) * special.log_expit(-at)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope.squeeze(), x - special.expit(at), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("logit", "pixel"), [(100.0, 1.0), (100.0, 0.0), (-100.0, 1.0), (-100.0, 0.0)]
)
def test_a_logit_of_100_is_a_number_and_so_is_its_gradient(logit, pixel):
    # Through probabilities this is NaN: log(sigmoid(100) rounded to 1 ...) * 0.
    logits, x = jnp.full((1, 2, 2, 1), logit), jnp.full((1, 2, 2, 1), pixel)
    value, slope = jax.value_and_grad(lambda a: vae.bernoulli.log_prob(a, x).sum())(logits)
    np.testing.assert_allclose(value, 0.0 if (logit > 0) == bool(pixel) else -400.0, atol=1e-6)
    np.testing.assert_allclose(slope, np.full((1, 2, 2, 1), pixel - (logit > 0)), atol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 0.4, -3.0])
def test_likelihood_has_second_derivatives(logit):
    x = jnp.full((1, 1, 1, 1), 0.3)
    curvature = jax.hessian(lambda a: vae.bernoulli.log_prob(a.reshape(1, 1, 1, 1), x).sum())(
        jnp.array(logit)
    )
    p = special.expit(logit)
    np.testing.assert_allclose(curvature, -p * (1 - p), rtol=1e-5)


@pytest.mark.parametrize("side", [1, 3, 4, 28])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bernoulli_agrees_with_float64_at_every_number_of_pixels(side, dtype):
    shape = (20, side, side, 1)
    logits = 20 * jax.random.normal(rng.root(5), shape)
    # Where a pixel is nearly certain, its term is tiny, and must keep its digits beside others.
    logits = logits.at[:10].set(-jnp.abs(logits[:10]) - 5).astype(dtype)
    x = jnp.round(jax.random.uniform(rng.root(6), shape)).at[:10].set(0.0)
    found = vae.bernoulli.log_prob(logits, x)
    at, pixels = (np.asarray(a, np.float64) for a in (logits, x))
    terms = pixels * special.log_expit(at) + (1 - pixels) * special.log_expit(-at)
    assert found.dtype == jnp.float32
    rounding = 2e-2 if dtype == "bfloat16" else 3e-6
    np.testing.assert_allclose(found, terms.sum((1, 2, 3)), rtol=rounding)


def test_bernoulli_has_a_gradient_in_the_image():
    logits, x = jnp.array([-2.0, 0.5]).reshape(1, 1, 2, 1), jnp.full((1, 1, 2, 1), 0.3)
    slope = jax.grad(lambda a: vae.bernoulli.log_prob(logits, a).sum())(x)
    np.testing.assert_allclose(slope, logits)
    assert jax.jvp(vae.bernoulli.log_prob, (logits, x), (logits, x))[1].shape == (1,)


@pytest.mark.costly
def test_elbo_is_the_evidence_minus_the_divergence_from_the_true_posterior():
    # log p(x) = ELBO + KL(q(z|x) || p(z|x)), both sides by quadrature over a 1-D latent.
    model = tiny(latent_dim=1)
    x = jnp.round(images(3))
    params = model.init(rng.root(3), x)
    z = np.linspace(-9, 9, 4001)
    dz = z[1] - z[0]
    logits = model.decode(params, jnp.asarray(z, jnp.float32)[:, None])
    for i in range(3):
        pixels = jnp.broadcast_to(x[i], logits.shape)
        log_joint = np.asarray(vae.bernoulli.log_prob(logits, pixels), np.float64)
        log_joint += -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
        evidence = special.logsumexp(log_joint) + np.log(dz)
        mean, logvar = (float(m[i, 0]) for m in model.encode(params, x))
        log_q = -0.5 * (z - mean) ** 2 / np.exp(logvar) - 0.5 * (np.log(2 * np.pi) + logvar)
        to_posterior = np.sum(np.exp(log_q) * (log_q - log_joint + evidence)) * dz

        num = 4000
        keys = rng.per_example(rng.root(4), num)
        loss, _ = vae.elbo(model)(keys, params, jnp.broadcast_to(x[i], (num, *x.shape[1:])))
        error = loss.std() / np.sqrt(num)
        assert abs(-loss.mean() + to_posterior - evidence) < 4 * error + 1e-3


def test_elbo_weighs_its_terms_by_beta():
    model, x = tiny(), images()
    params = model.init(rng.root(0), x)
    keys = rng.per_example(rng.root(1), len(x))
    loss, aux = vae.elbo(model, beta=0.25)(keys, params, x)
    np.testing.assert_allclose(loss, aux["reconstruction"] + 0.25 * aux["kl"], rtol=1e-6)
    mean, logvar = model.encode(params, x)
    np.testing.assert_allclose(aux["kl"], reference_kl(mean, logvar), rtol=1e-5)


def test_the_articles_loss_is_the_articles():
    # As the article writes it: means over pixels and over latents, no 1/2, weight 1e-4.
    model, x = tiny(), images()
    params = model.init(rng.root(0), x)
    keys = rng.per_example(rng.root(1), len(x))
    loss, _ = vae.article_loss(model)(keys, params, x)
    mean, logvar = (np.asarray(m, np.float64) for m in model.encode(params, x))
    again = rng.per_example(rng.root(1), len(x))
    z = model.sample(again, *model.encode(params, x))
    p = special.expit(np.asarray(model.decode(params, z), np.float64))
    pixels = np.asarray(x, np.float64)
    cross_entropy = -(pixels * np.log(p) + (1 - pixels) * np.log(1 - p)).mean(axis=(1, 2, 3))
    kl = -(1 + logvar - mean**2 - np.exp(logvar)).mean(axis=1)
    np.testing.assert_allclose(loss, cross_entropy + 1e-4 * kl, rtol=1e-5)


def test_generated_images_are_decoded_draws_from_the_prior():
    model = tiny()
    params = model.init(rng.root(0), images())
    keys = rng.per_example(rng.root(5), 8)
    drawn = vae.generate(model)(keys, params)
    z = jnp.stack([jax.random.normal(key, (3,)) for key in keys])
    np.testing.assert_allclose(drawn, special.expit(model.decode(params, z)), rtol=1e-5)
    assert drawn.shape == (8, 4, 4, 1)


def test_mean_logits_start_the_decoder_at_the_average_image():
    mean = jnp.array([0.0, 1e-3, 0.25, 1.0])
    expected = special.logit([1e-3, 1e-3, 0.25, 1 - 1e-3])
    np.testing.assert_allclose(vae.mean_logits(mean), expected, rtol=1e-4)


@pytest.mark.parametrize("latent_dim", [0, -1, 2.5, True, None])
def test_a_latent_dim_that_is_none_is_refused(latent_dim):
    with pytest.raises(ValueError, match="latent_dim must be a positive whole number, got"):
        vae.make(nets.mlp((), 2), nets.mlp((), (4, 4, 1)), latent_dim=latent_dim)


def test_networks_that_do_not_fit_are_refused_at_init():
    x = images()
    narrow = vae.make(nets.mlp((), 3), nets.mlp((), (4, 4, 1)), latent_dim=3)
    with pytest.raises(ValueError, match=r"latent_dim\] = \[B, 6\], got \[5, 3\]"):
        narrow.init(rng.root(0), x)
    small = vae.make(nets.mlp((), 6), nets.mlp((), (4, 3, 1)), latent_dim=3)
    with pytest.raises(ValueError, match=r"images' shape \(5, 4, 4, 1\), got \(5, 4, 3, 1\)"):
        small.init(rng.root(0), x)


@pytest.mark.parametrize("num", [1, 4])
def test_keys_that_are_not_one_per_example_are_refused(num):
    # One key of shape [1] would otherwise be broadcast: the same noise for every example.
    model, x = tiny(), images()
    params = model.init(rng.root(0), x)
    keys = rng.per_example(rng.root(1), num)
    for draw in (
        lambda: model.sample(keys, *model.encode(params, x)),
        lambda: vae.elbo(model)(keys, params, x),
        lambda: vae.article_loss(model)(keys, params, x),
    ):
        with pytest.raises(ValueError, match=rf"one per example, \[5\], got \[{num}\]"):
            draw()


def test_bad_arrays_are_refused():
    model, x = tiny(), images()
    params = model.init(rng.root(0), x)
    with pytest.raises(ValueError, match=r"z must have the shape \[B, 3\], got \(5, 2\)"):
        model.decode(params, jnp.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"one shape \[B, L\], got \(5, 2\) and \(5, 3\)"):
        vae.kl_divergence(jnp.zeros((5, 2)), jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"images must be floating, in \[0, 1\], got uint8"):
        vae.bernoulli.log_prob(jnp.zeros((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1), jnp.uint8))
    with pytest.raises(ValueError, match="beta must be a number of at least 0, got -1"):
        vae.elbo(model, beta=-1)
    with pytest.raises(ValueError, match="kl_weight must be a number of at least 0, got nan"):
        vae.article_loss(model, kl_weight=float("nan"))
