"""Samples of trained GANs, against closed forms: Gaussian data, and a generator of Gaussians."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genmod import gan, nets, rng
from genmod.gan.model import LatentPrior, truncated_latent
from genmod.gan.sampling import Acceptance, acceptance, langevin, rejection_sampling, truncated
from genmod.types import Net

L = 2
MIX, SHIFT = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([0.3, -0.2])
MEAN, COVARIANCE = np.array([0.6, 0.1]), np.array([[0.5, 0.1], [0.1, 0.4]])


def log_normal(x, mean, covariance):
    """The density in JAX, with a constant of NumPy."""
    rest = x - jnp.asarray(mean, x.dtype)[None]
    inverse = jnp.asarray(np.linalg.inv(covariance), x.dtype)
    constant = np.linalg.slogdet(2 * np.pi * covariance)[1]
    return -0.5 * jnp.einsum("bi,ij,bj->b", rest, inverse, rest) - 0.5 * constant


def linear(**options):
    """G(z) = z MIX + SHIFT, and the best discriminator of it and of N(MEAN, COVARIANCE)."""

    def generate(params, z):
        return z @ jnp.asarray(MIX, z.dtype) + jnp.asarray(SHIFT, z.dtype)[None]

    def judge(params, x):
        return log_normal(x, MEAN, COVARIANCE) - log_normal(x, SHIFT, MIX.T @ MIX)

    none = lambda key, x: ()  # noqa: E731
    return gan.make(Net(none, generate), Net(none, judge), latent_dim=L, **options)


PARAMS = gan.GanParams((), ())
# The latents that the generator takes to the data.
LATENT_MEAN = (MEAN - SHIFT) @ np.linalg.inv(MIX)
LATENT_PRECISION = MIX @ np.linalg.inv(COVARIANCE) @ MIX.T


def keys(num, seed=0):
    return rng.per_example(rng.root(seed), num)


def check_gaussian(z, mean, covariance):
    """Asserts that draws [N, L] have the moments of a Gaussian, in standard errors."""
    z = np.asarray(z, np.float64)
    error = np.sqrt(np.diagonal(covariance) / len(z))
    assert np.all(np.abs(z.mean(0) - mean) < 4 * error)
    variances = np.diagonal(covariance)
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(z))
    assert np.all(np.abs(np.cov(z.T) - covariance) < 4 * error)


def initial(model, x):
    """Parameters of the form of the initial ones, all 1, whose draw is not compiled."""
    form = jax.eval_shape(model.init, rng.root(0), x)
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), form)


# Latents


@pytest.mark.parametrize("limit", [0.04, 0.7, 3.0])
def test_truncated_latents_have_the_truncated_normal_distribution(limit):
    z = np.asarray(truncated_latent(3, limit=limit)(keys(4000)), np.float64)
    assert np.abs(z).max() <= limit
    assert stats.kstest(z.ravel(), stats.truncnorm(-limit, limit).cdf).pvalue > 1e-3
    moved = np.corrcoef(z.T)[np.triu_indices(3, 1)]
    assert np.all(np.abs(moved) < 4 / math.sqrt(len(z)))


@pytest.mark.parametrize(
    ("latent", "reference"),
    [
        (gan.normal_latent(2), stats.norm()),
        (gan.uniform_latent(2), stats.uniform(-1, 2)),
        (truncated_latent(2, limit=0.6), stats.truncnorm(-0.6, 0.6)),
    ],
    ids=["normal", "uniform", "truncated"],
)
def test_the_density_of_latents_is_known(latent, reference):
    z = np.array([[0.5, -0.2], [0.1, 0.55], [0.3, -2.0]], np.float32)
    np.testing.assert_allclose(latent.log_prob(z), reference.logpdf(z).sum(1), rtol=1e-5)
    assert latent.log_prob(jnp.asarray(z, jnp.bfloat16)).dtype == jnp.float32


def test_a_limit_beyond_all_normal_draws_does_not_become_a_draw(monkeypatch):
    """A uniform draw of 0 would be the limit itself: once in eight million numbers."""
    seen = []
    draw = jax.random.truncated_normal
    monkeypatch.setattr(
        jax.random, "truncated_normal", lambda key, *a: seen.append(a) or draw(key, *a)
    )
    z = truncated_latent(2, limit=1e9)(keys(3))
    assert np.abs(z).max() < 6
    assert seen[0][:2] == (-5.4, 5.4)
    np.testing.assert_allclose(
        truncated_latent(2, limit=1e9).log_prob(z), gan.normal_latent(2).log_prob(z)
    )


def test_a_truncated_gan_differs_in_its_latents_and_their_statistics():
    generator = nets.mlp((8,), (4,), norm="batch")
    model = gan.make(generator, nets.mlp((8,), 1), latent_dim=3)
    params = initial(model, jnp.zeros((6, 4)))
    small = truncated(model, limit=0.5)
    draw = truncated_latent(3, limit=0.5)
    np.testing.assert_array_equal(small.latent(keys(5)), draw(keys(5)))
    batches = draw(rng.per_example(rng.root(1), 16 * 64)).reshape(16, 64, 3)
    expected = generator.standing(params.generator, batches)
    found = small.standing(rng.root(1), params).generator
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert small.generate is model.generate
    assert small.init is model.init


@pytest.mark.parametrize("limit", [0, -1.0, math.inf, math.nan, "1"])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be a positive number, got"):
        truncated(linear(), limit=limit)
    with pytest.raises(ValueError, match="limit must be a positive number, got"):
        truncated_latent(2, limit=limit)


def test_only_normal_latents_are_truncated():
    for latent in (gan.uniform_latent, lambda num: gan.normal_latent(num).__call__):
        with pytest.raises(ValueError, match="latent must be normal_latent to be truncated, got a"):
            truncated(linear(latent=latent), limit=1.0)
    with pytest.raises(ValueError, match="must be normal_latent"):
        truncated(truncated(linear(), limit=1.0), limit=2.0)
    with pytest.raises(ValueError, match="latent_dim must be a positive whole number, got 0"):
        truncated_latent(0, limit=1.0)


# Rejection sampling


def highest():
    """The highest logit of `linear`, where its gradient is zero."""
    own, other = np.linalg.inv(COVARIANCE), np.linalg.inv(MIX.T @ MIX)
    x = np.linalg.solve(own - other, own @ MEAN - other @ SHIFT)
    assert np.all(np.linalg.eigvalsh(own - other) > 0)
    return linear().discriminate(PARAMS, jnp.asarray(x, jnp.float32)[None])[0]


def reject(model, keys, rule, c=None, num_proposals=100):
    @jax.jit
    def run(keys, rule, c):
        return rejection_sampling(model, keys, PARAMS, rule, num_proposals=num_proposals, c=c)

    return run(keys, rule, c)


def walk(model, keys, c=None, **options):
    return jax.jit(lambda keys, c: langevin(model, keys, PARAMS, c=c, **options))(keys, c)


@functools.cache
def accepted():
    rule = Acceptance(highest(), jnp.float32(0))
    return rule, reject(linear(), keys(6000), rule)


def test_accepted_images_are_draws_from_the_data():
    rule, drawn = accepted()
    assert drawn.accepted.all()
    check_gaussian(drawn.images, MEAN, COVARIANCE)
    np.testing.assert_allclose(drawn.images, linear().generate(PARAMS, drawn.z), rtol=1e-6)
    np.testing.assert_allclose(drawn.logits, linear().discriminate(PARAMS, drawn.images), 1e-5)
    # The number of proposals is geometric, of the mean exp(M).
    mean = math.exp(rule.highest)
    error = math.sqrt(mean * (mean - 1) / 6000)
    assert abs(np.mean(drawn.proposals) - mean) < 4 * error


def test_a_shift_draws_from_the_density_that_it_makes():
    """In one dimension, against sums over a grid of p_generator times the acceptance."""
    logit = lambda x: jnp.log(2.0) - 0.5 * jnp.square((x - 0.4) / 0.5) + 0.5 * x**2  # noqa: E731
    none = lambda key, x: ()  # noqa: E731
    model = gan.make(
        Net(none, lambda params, z: z), Net(none, lambda params, x: logit(x)), latent_dim=1
    )
    draws = model.latent(keys(2000, 3))
    rule = acceptance(model.discriminate(PARAMS, draws), percentile=70.0)
    drawn = reject(model, keys(5000), rule, num_proposals=200)
    assert drawn.accepted.all()
    x = np.linspace(-6, 6, 4001)
    d = np.minimum(np.log(2.0) - 0.5 * ((x - 0.4) / 0.5) ** 2 + 0.5 * x**2 - float(rule.highest), 0)
    odds = np.exp(d) / (1 - np.exp(d - 1e-8)) * math.exp(-float(rule.shift))
    kept = stats.norm.pdf(x) * odds / (1 + odds)
    share = kept.sum() * (x[1] - x[0])
    mean = np.average(x, weights=kept)
    variance = np.average((x - mean) ** 2, weights=kept)
    fourth = np.average((x - mean) ** 4, weights=kept)
    found = np.asarray(drawn.images, np.float64)[:, 0]
    assert abs(found.mean() - mean) < 4 * math.sqrt(variance / 5000)
    assert abs(found.var() - variance) < 4 * math.sqrt((fourth - variance**2) / 5000)
    error = math.sqrt((1 - share) / share**2 / 5000)
    assert abs(np.mean(drawn.proposals) - 1 / share) < 4 * error


def test_the_acceptance_is_equation_8():
    logits = np.random.default_rng(0).normal(size=1001).astype(np.float32)
    d = logits.astype(np.float64) - logits.max()
    odds = d - np.log(-np.expm1(d - 1e-8))
    plain = acceptance(logits, percentile=None)
    np.testing.assert_allclose(plain.probability(logits), np.exp(d), rtol=1e-5)
    for percentile in (30, 80.0):
        rule = acceptance(logits, percentile=percentile)
        assert rule.highest == logits.max()
        np.testing.assert_allclose(rule.shift, np.percentile(odds, percentile), rtol=1e-4)
        expected = 1 / (1 + np.exp(np.percentile(odds, percentile) - odds))
        np.testing.assert_allclose(rule.probability(logits), expected, rtol=1e-4, atol=1e-7)
        half = rule.probability(jnp.asarray(np.percentile(logits, percentile))[None])
        np.testing.assert_allclose(half, 0.5, rtol=1e-3)
    # A logit above all that were seen is accepted as the highest of those is.
    assert plain.probability(jnp.array([1e4]))[0] == plain.probability(logits[logits.argmax()])
    half = jax.eval_shape(acceptance, jnp.zeros(3, jnp.bfloat16))
    assert half.shift.dtype == jnp.float32
    default = acceptance(logits)
    np.testing.assert_allclose(default.shift, np.percentile(odds, 80), rtol=1e-4)


def test_a_key_without_an_accepted_proposal_says_so():
    rule, many = accepted()
    many = jax.tree.map(lambda leaf: leaf[:300], many)
    sample = jax.jit(lambda rule: reject(linear(), keys(300), rule, num_proposals=2))
    few = sample(rule)
    # What is accepted is so whatever the number of proposals is.
    np.testing.assert_array_equal(few.accepted, many.proposals <= 2)
    assert 0 < few.accepted.sum() < 300
    np.testing.assert_allclose(few.z[few.accepted], many.z[few.accepted], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(few.proposals, np.minimum(many.proposals, 2))
    # All others hold their second proposal.
    none = sample(rule._replace(shift=jnp.float32(100)))
    assert not none.accepted.any()
    np.testing.assert_array_equal(none.proposals, 2)
    np.testing.assert_array_equal(none.z[~few.accepted], few.z[~few.accepted])
    assert len(np.unique(none.z[:, 0])) == 300


def by_class(**options):
    """Images 10 c + z of the classes c, of which the discriminator wants z near 0.3 c."""
    none = lambda key, x, c: ()  # noqa: E731

    def judge(params, x, c):
        z = x[:, 0] - 10.0 * c
        return -2.0 * jnp.square(z - 0.3 * c)

    generator = Net(none, lambda params, z, c: z + 10.0 * c[:, None])
    return gan.make(generator, Net(none, judge), latent_dim=1, condition=lambda b: b, **options)


def test_each_image_keeps_its_condition():
    model, c = by_class(), jnp.arange(2000.0) % 2
    rule = acceptance(jnp.array([-1.0, 0.0]), percentile=None)
    drawn = reject(model, keys(2000), rule, c)
    chains = walk(model, keys(2000), c, num_steps=30, step_size=0.2, metropolis=True)
    for found in (drawn, chains):
        # N(0, 1) times exp(-2 (z - 0.3 c)^2) is a Gaussian of the precision 5.
        for label in (0, 1):
            z = np.asarray(found.images[c == label, 0], np.float64) - 10 * label
            assert abs(z.mean() - 0.3 * label * 4 / 5) < 4 * math.sqrt(0.2 / 1000)
            assert abs(z.var() - 0.2) < 4 * 0.2 * math.sqrt(2 / 1000)
    for function in (
        lambda c: rejection_sampling(model, keys(4), PARAMS, rule, c=c),
        lambda c: langevin(model, keys(4), PARAMS, num_steps=1, step_size=1.0, c=c),
    ):
        with pytest.raises(ValueError, match="c must be given, as the generator needs"):
            function(None)
        with pytest.raises(ValueError, match=r"c must be arrays \[4, ...\]"):
            function(c[:3])


# Langevin dynamics


def test_langevin_steps_have_their_own_stationary_distribution():
    """Steps of z' = z - e/2 P (z - m) + sqrt(e) n have the covariance (P (1 - e P / 4))^-1."""
    drawn = walk(linear(), keys(6000), num_steps=40, step_size=0.4)
    precision = LATENT_PRECISION @ (np.eye(L) - 0.1 * LATENT_PRECISION)
    check_gaussian(drawn.z, LATENT_MEAN, np.linalg.inv(precision))
    np.testing.assert_array_equal(drawn.acceptance, 1)
    np.testing.assert_allclose(drawn.images, linear().generate(PARAMS, drawn.z), rtol=1e-6)


def test_metropolis_steps_draw_from_the_data():
    drawn = walk(linear(), keys(6000), num_steps=40, step_size=0.4, metropolis=True)
    check_gaussian(drawn.images, MEAN, COVARIANCE)
    assert 0.5 < drawn.acceptance.mean() < 1
    assert len(np.unique(drawn.acceptance)) > 5  # the share of 40 steps
    # The error of the steps alone would have been seen.
    exact, biased = (
        np.linalg.inv(p)
        for p in (LATENT_PRECISION, LATENT_PRECISION @ (np.eye(L) - 0.1 * LATENT_PRECISION))
    )
    assert np.all(np.diagonal(biased) > 1.1 * np.diagonal(exact))


def test_chains_start_at_the_prior_and_leave_it_by_steps():
    drawn = walk(linear(), keys(5), num_steps=1, step_size=1e-10)
    start = gan.normal_latent(L)(rng.stream(keys(5), "latent"))
    np.testing.assert_allclose(drawn.z, start, atol=1e-4)
    assert np.all(np.asarray(drawn.z) != np.asarray(start))


def test_chains_stay_where_uniform_latents_are():
    drawn = walk(linear(latent=gan.uniform_latent), keys(500), num_steps=30, step_size=0.3)
    assert np.abs(drawn.z).max() <= 1
    assert 0 < drawn.acceptance.mean() < 1


def test_metropolis_steps_leave_uniform_latents_uniform():
    model = linear(latent=gan.uniform_latent)._replace(
        outputs=lambda params, x, c=None: {"logit": jnp.zeros(len(x))}
    )
    drawn = walk(model, keys(2000), num_steps=20, step_size=0.5, metropolis=True)
    assert 0 < drawn.acceptance.mean() < 1
    assert stats.kstest(np.ravel(drawn.z), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_a_density_that_is_not_finite_is_not_entered():
    """A discriminator whose logits overflow beyond the line z = 0.1."""
    none = lambda key, x: ()  # noqa: E731
    judge = lambda params, x: jnp.where(x[:, 0] > 0.1, jnp.inf, 0.0)  # noqa: E731
    model = gan.make(Net(none, lambda params, z: z), Net(none, judge), latent_dim=1)
    inside = model.latent(rng.stream(keys(100), "latent"))[:, 0] <= 0.1
    drawn = walk(model, keys(100), num_steps=20, step_size=0.5)
    assert drawn.z[inside].max() <= 0.1
    assert np.isfinite(drawn.z).all()


# All of them


def draws(model, keys, params):
    rule = Acceptance(jnp.float32(1.0), jnp.float32(0.5))
    return (
        rejection_sampling(model, keys, params, rule, num_proposals=5),
        langevin(model, keys, params, num_steps=3, step_size=0.1, metropolis=True),
    )


@pytest.mark.slow  # the contracts show it too
def test_an_image_depends_on_its_key_alone_and_seeds_run_side_by_side():
    run = functools.partial(draws, linear(), params=PARAMS)
    few = jax.jit(run)(keys(6)[:2])
    many = jax.jit(jax.vmap(run))(jnp.stack([keys(6), keys(6, 1)]))
    for one, other in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(one, other[0, :2], rtol=1e-5, atol=1e-5)
        assert other.dtype != jnp.float32 or other.ndim < 3 or np.all(other[0] != other[1])


def test_what_depends_on_other_images_is_refused():
    norm = nets.mlp((4,), (3,), norm="batch")
    critic = nets.mlp((4,), 1)
    model = gan.make(norm, critic, latent_dim=L)
    params = initial(model, jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"those that model.standing returns, got .* \(norm_0\)"):
        draws(model, keys(4), params)
    jax.eval_shape(functools.partial(draws, model), keys(4), model.standing(rng.root(2), params))
    for judge, words in (
        (nets.mlp((4,), 1, norm="batch"), r"statistics of its batch \(norm_0\)"),
        (gan.packed(critic, 2), r"judges packs: logits \[2\] of 4 images"),
    ):
        model = gan.make(nets.mlp((4,), (3,)), judge, latent_dim=L)
        params = initial(model, jnp.zeros((4, 3)))
        with pytest.raises(ValueError, match=f"must judge each image alone, .* {words}"):
            draws(model, keys(4), params)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f(rng.root(0)), r"keys must be one per example, \[B\], got \[\]"),
        (lambda f: f(jnp.zeros((3, 2))), "keys must be one per example, typed keys"),
    ],
)
def test_keys_that_are_not_one_per_image_are_refused(call, message):
    rule = Acceptance(jnp.float32(0), jnp.float32(0))
    for function in (
        lambda k: rejection_sampling(linear(), k, PARAMS, rule),
        lambda k: langevin(linear(), k, PARAMS, num_steps=1, step_size=1.0),
    ):
        with pytest.raises(ValueError, match=message):
            call(function)


def test_numbers_out_of_range_are_refused():
    rule = Acceptance(jnp.float32(0), jnp.float32(0))
    for num in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="num_proposals must be a positive whole number, got"):
            rejection_sampling(linear(), keys(2), PARAMS, rule, num_proposals=num)
        with pytest.raises(ValueError, match="num_steps must be a positive whole number, got"):
            langevin(linear(), keys(2), PARAMS, num_steps=num, step_size=1.0)
    for size in (0.0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="step_size must be a positive number, got"):
            langevin(linear(), keys(2), PARAMS, num_steps=1, step_size=size)
    for percentile in (-1, 101, math.nan, "80"):
        with pytest.raises(ValueError, match=r"percentile must be .* \[0, 100\] or None, got"):
            acceptance(jnp.zeros(3), percentile=percentile)
    for logits in (jnp.zeros(0), jnp.zeros((3, 1)), jnp.zeros(3, int), jnp.float32(0)):
        with pytest.raises(ValueError, match=r"logits must be floating numbers \[N\], .* got an"):
            acceptance(logits)
    with pytest.raises(ValueError, match=r"logits must lie in .* 1 of 2 NaN or infinite"):
        acceptance(jnp.array([0.0, jnp.nan]))


def test_latents_of_unknown_density_are_refused():
    plain = lambda num: lambda keys: gan.normal_latent(num)(keys)  # noqa: E731
    model = linear(latent=plain)
    with pytest.raises(ValueError, match=r"latent must be a LatentPrior, .* got a function"):
        langevin(model, keys(2), PARAMS, num_steps=1, step_size=1.0)
    normal = gan.normal_latent(L)
    own = linear(latent=lambda num: LatentPrior(normal.draw, normal.log_prob))
    assert walk(own, keys(2), num_steps=1, step_size=1.0).z.shape == (2, L)
