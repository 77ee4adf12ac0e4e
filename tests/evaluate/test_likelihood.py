"""Importance-sampled likelihoods: against closed forms, quadrature and plain sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmod import data, evaluate, nets, rng, vae
from genmod.data.stores import StreamedImages
from genmod.evaluate import likelihood, linear_gaussian, programs
from genmod.evaluate.likelihood import importance
from genmod.types import Parts

X = np.linspace(-1, 1, 7, dtype=np.float32)


def noisy(keys, params, x):
    """A log weight that is a function of the key and the example alone."""
    return params * jax.vmap(jax.random.normal)(keys) - x


def expected(num_samples, scale=2.0, key=None, x=X):
    """The estimates of `noisy` from all weights at once, in float64."""
    key = rng.root(0) if key is None else key
    log_w = np.empty((num_samples, len(x)))
    of_examples = programs.keys_of(key, "log_weight", 0, len(x))
    for s in range(num_samples):
        log_w[s] = noisy(rng.at_step(of_examples, s), scale, x)
    w = np.exp(log_w)
    error = w.std(axis=0, ddof=1) / np.sqrt(num_samples) / w.mean(axis=0)
    return np.log(w.mean(axis=0)), error, w.sum(axis=0) ** 2 / (w**2).sum(axis=0)


# Every example and every sample is used: published defects of pythae (num_samples below the size of
# a chunk, its remainder) and of vdvae (the last examples).


@pytest.mark.parametrize("num_samples", [2, 3, 4, 5, 8, 10])
def test_every_sample_is_used(num_samples):
    found = importance(rng.root(0), 2.0, X, noisy, num_samples=num_samples, chunk_size=4)
    for values, truth in zip(found, expected(num_samples), strict=True):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, truth, rtol=1e-5, atol=1e-6)


def test_a_hierarchy_of_latents_has_the_likelihood_of_its_closed_form():
    # z2 ~ N(0, 1), z1 ~ N(z2, 1), x ~ N(z1, 1): x ~ N(0, 3). Both latents come from the prior.
    def log_weight(keys, params, x):
        z2 = jax.vmap(jax.random.normal)(rng.stream(keys, "z2"))
        z1 = z2 + jax.vmap(jax.random.normal)(rng.stream(keys, "z1"))
        return jax.scipy.stats.norm.logpdf(x, params * z1)

    found = importance(rng.root(0), 1.0, X, log_weight, num_samples=2000)
    exact = jax.scipy.stats.norm.logpdf(X, 0, np.sqrt(3))
    assert np.all(np.abs(found.log_likelihood - exact) < 4 * found.error)
    assert np.all(found.error < 0.05)


def test_a_flow_without_latents_is_exact():
    # x = sinh(u), u ~ N(0, 1): log p(x) = log N(asinh(x)) - log(1 + x^2) / 2, whatever the draw.
    def log_weight(keys, params, x):
        return jax.scipy.stats.norm.logpdf(jnp.arcsinh(x)) - 0.5 * jnp.log1p(x**2)

    found = importance(rng.root(0), None, X, log_weight, num_samples=3)
    density = np.exp(-(np.arcsinh(X) ** 2) / 2) / np.sqrt(2 * np.pi * (1 + X**2))
    np.testing.assert_allclose(found.log_likelihood, np.log(density), rtol=1e-5)
    np.testing.assert_allclose(found.error, 0, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(1, 10), (3, 4), (7, 1), (100, 100)])
def test_the_result_does_not_depend_on_the_sizes(batch_size, chunk_size):
    sizes = {"batch_size": batch_size, "chunk_size": chunk_size}
    found = importance(rng.root(0), 2.0, X, noisy, num_samples=10, **sizes)
    whole = importance(rng.root(0), 2.0, X, noisy, num_samples=10, batch_size=7, chunk_size=10)
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-7)


@given(st.integers(1, 10_000), st.integers(1, 300))
def test_calls_hold_every_sample_once_and_bounded_many(num_samples, chunk_size):
    calls = likelihood._in_calls(num_samples, chunk_size)
    (shape,) = {call.shape for call in calls}
    assert shape[0] <= 10
    assert shape[1] <= chunk_size
    numbers = np.concatenate(calls).ravel()
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    assert 0 <= len(numbers) - num_samples < shape[0] * len(calls)


def test_more_samples_need_no_other_program():
    importance(rng.root(0), 2.0, X, noisy, num_samples=100, chunk_size=5)
    before = programs.run._cache_size()
    importance(rng.root(0), 2.0, X, noisy, num_samples=1000, chunk_size=5)
    assert programs.run._cache_size() == before


def test_a_single_sample_has_no_error():
    found = importance(rng.root(0), 2.0, X, noisy, num_samples=1)
    assert np.isfinite(found.log_likelihood).all()
    assert np.isnan(found.error).all()
    np.testing.assert_array_equal(found.effective_samples, 1)


def test_equal_weights_have_no_error():
    """Also if they are far out of the range of exp, and with a checked number of 5,000."""
    found = importance(
        rng.root(0), (), X, lambda keys, params, x: x - 1e4, num_samples=5000, chunk_size=1000
    )
    np.testing.assert_allclose(found.log_likelihood, (X - np.float32(1e4)).astype(np.float64))
    assert (found.error < 1e-8).all()
    np.testing.assert_allclose(found.effective_samples, 5000)


def test_weights_may_be_zero():
    def weight(keys, params, x):
        heads = jax.vmap(jax.random.bernoulli)(keys)
        return jnp.where(heads & (x > -1), 0.0, -jnp.inf)

    found = importance(rng.root(0), (), X, weight, num_samples=400, chunk_size=1)
    assert found.log_likelihood[0] == -np.inf
    assert np.isnan(found.error[0])
    np.testing.assert_allclose(np.exp(found.log_likelihood[1:]), 0.5, atol=0.1)
    # The share p of 400 heads has the error sqrt(p (1 - p) / 399), its logarithm 1 / p of that.
    p = np.exp(found.log_likelihood[1:])
    np.testing.assert_allclose(found.error[1:], np.sqrt((1 - p) / p / 399))
    np.testing.assert_allclose(found.effective_samples[1:], 400 * p)


@pytest.mark.parametrize(("value", "name"), [(jnp.nan, "nan"), (jnp.inf, "inf")])
def test_other_weights_are_refused_with_the_number_of_the_example(value, name):
    def weight(keys, params, x):
        return jnp.where(x == X[4], value, x)

    with pytest.raises(ValueError, match=f"numbers or -inf, got {name} for example 4"):
        importance(rng.root(0), (), X, weight, num_samples=3, batch_size=3)


def test_the_average_has_both_parts_of_its_error():
    found = likelihood.Likelihood(np.array([1.0, 1.0, 1.0, 5.0]), np.full(4, 0.2), np.ones(4))
    assert found.average == (2.0, 1.0, pytest.approx(0.1))


# What the batch may be.


def test_noise_of_the_preprocessing_is_drawn_once_per_example():
    def binarised(keys, raw):
        return jax.vmap(jax.random.bernoulli)(keys, raw).astype(jnp.float32)

    def evaluated(**sizes):
        grey = np.full(40, 0.5, np.float32)
        prepared = {"prepare": binarised, "num_samples": 6, **sizes}
        return importance(rng.root(0), (), grey, lambda keys, params, x: x, **prepared)

    found = evaluated()
    assert set(found.log_likelihood) == {0.0, 1.0}
    assert not found.error.any()
    again = evaluated(batch_size=8, chunk_size=4)
    np.testing.assert_array_equal(found.log_likelihood, again.log_likelihood)


class Store:
    """Pictures of one pixel that count how often they are read."""

    shape = (1, 1, 1)

    def __init__(self, broken=None):
        self.reads, self.broken = [], broken

    def read(self, wanted, *, here=False):
        for indices in wanted:
            if self.broken in indices:
                raise data.DataError("the disk is gone")
            self.reads.extend(indices.tolist())
            yield indices.astype(np.uint8)[:, None, None, None]


def of_pixels(keys, params, batch):
    return noisy(keys, params, batch["image"][:, 0, 0, 0] / 255 + batch["label"])


def examples(**options):
    images = StreamedImages(Store(**options), np.arange(7))
    return {"image": images, "label": np.arange(7, dtype=np.float32)}


def test_images_may_be_streamed_and_batches_trees():
    streamed = examples()
    found = importance(rng.root(0), 2.0, streamed, of_pixels, num_samples=5, batch_size=3)
    truth = expected(5, x=np.arange(7, dtype=np.float32) * (1 + 1 / 255))
    np.testing.assert_allclose(found.log_likelihood, truth[0], rtol=1e-5, atol=1e-6)
    assert streamed["image"].store.reads == list(range(7))  # not once for each chunk


def test_a_conditional_model_has_a_likelihood():
    net = functools.partial(nets.mlp, (4,))
    model = vae.make(
        nets.conditional(net(2), 3),
        nets.conditional(net((2, 2, 1)), 3),
        latent_dim=1,
        condition=lambda batch: (batch["image"], batch["label"]),
    )
    batch = {"image": np.zeros((3, 2, 2, 1), np.float32), "label": np.arange(3)}
    params = jax.jit(model.init)(rng.root(0), batch)
    found = importance(rng.root(1), params, batch, vae.log_weight(model), num_samples=5)
    assert len(set(found.log_likelihood)) == 3


# Bad input.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_samples": 0}, "num_samples must be a positive whole number, got 0"),
        ({"batch_size": 0}, "batch_size must be a positive whole number, got 0"),
        ({"chunk_size": -1}, "chunk_size must be a positive whole number, got -1"),
        ({"examples": X[:0]}, "examples must hold at least one example"),
        (
            {"examples": Parts(a=X, b=X)},
            "examples must be an array .*, got types.Parts of",
        ),
        ({"log_weight": lambda keys, params, x: x[:2]}, r"of shape \(7,\), got .*\[2\]"),
        ({"log_weight": lambda keys, params, x: x.mean()}, r"of shape \(7,\), got .*\[\]"),
        ({"log_weight": lambda keys, params, x: (x, {})}, r"of shape \(7,\), got a tuple of 2"),
        ({"log_weight": lambda keys, params, x: x > 0}, r"floating .*, got an array bool \[7\]"),
        ({"prepare": 3}, "prepare must be a function"),
        ({"prepare": lambda keys, x: Parts(a=x)}, "what prepare returns must be an array"),
    ],
)
def test_bad_input_is_refused(changed, message):
    arguments = {"examples": X, "log_weight": noisy, "num_samples": 2} | changed
    with pytest.raises(ValueError, match=message):
        importance(rng.root(0), 1.0, **arguments)


def test_a_function_of_the_whole_batch_is_refused():
    def weight(keys, params, x):
        return x - x.mean()

    weight.whole_batch = True
    with pytest.raises(ValueError, match=r"log_weight must .* from that example alone"):
        importance(rng.root(0), (), X, weight, num_samples=2)


# Checkpoints.


def test_an_interrupted_evaluation_goes_on(tmp_path):
    path = tmp_path / "likelihood.npz"
    arguments = {"num_samples": 5, "checkpoint": path}
    with pytest.raises(data.DataError):
        importance(rng.root(0), 2.0, examples(broken=5), of_pixels, batch_size=2, **arguments)
    for batch_size in (3, 2):  # to the end, and once more when all is done
        rest = examples()
        found = importance(rng.root(0), 2.0, rest, of_pixels, batch_size=batch_size, **arguments)
        assert rest["image"].store.reads == ([4, 5, 6] if batch_size == 3 else [])
        whole = importance(rng.root(0), 2.0, examples(), of_pixels, num_samples=5)
        np.testing.assert_allclose(found, whole, rtol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["likelihood.npz"]


def test_a_checkpoint_of_other_arguments_is_refused(tmp_path):
    path = tmp_path / "likelihood.npz"

    def evaluated(seed=0, params=2.0, x=X, num_samples=3, path=path):
        importance(rng.root(seed), params, x, noisy, num_samples=num_samples, checkpoint=path)

    evaluated()
    for other, name in [
        ({"seed": 1}, "key"),
        ({"params": 2.5}, "params"),
        ({"x": X[:3]}, "examples"),
        ({"x": X + 1}, "examples"),
        ({"num_samples": 4, "seed": 1}, "key and num_samples"),
    ]:
        with pytest.raises(ValueError, match=f"likelihood.npz, which is of other {name};"):
            evaluated(**other)
    for content in (b"", b"a text", path.read_bytes()[:100]):
        bad = tmp_path / "bad.npz"
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a file of evaluate.importance .*bad.npz"):
            evaluated(path=bad)
    with pytest.raises(OSError, match="cannot be written"):
        evaluated(path=tmp_path / "missing" / "likelihood.npz")


# Against the truth.


def proposal(params, x):
    """A Gaussian beside the posterior and wider than it."""
    mean, logvar = linear_gaussian.marginals(params, x)
    return mean + 0.3, logvar + 0.4


@functools.partial(jax.jit, static_argnames=("num", "latent_dim", "dtype"))
def of_the_truth(num, latent_dim, dtype=jnp.float32):
    """A model, examples, their true log-likelihood, and the ELBO of `proposal`."""
    params = linear_gaussian.init(rng.root(0), 4, latent_dim, sigma=0.5, dtype=dtype)
    x, _ = linear_gaussian.sample(rng.per_example(rng.root(1), num), params)
    bound = linear_gaussian.elbo(params, x, *proposal(params, x))
    return params, x, linear_gaussian.log_likelihood(params, x), bound


WEIGHT = functools.partial(linear_gaussian.log_weight, proposal=proposal)


@pytest.mark.costly
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_bounds_and_estimates_bracket_the_truth(wide):
    """ELBO = IWAE_1 <= IWAE_5 <= IWAE_50 <= log p, each of 500 independent estimates."""
    with jax.enable_x64(wide):
        params, x, *exact = of_the_truth(1, 2, jnp.float64 if wide else jnp.float32)
        truth, bound = (float(value[0]) for value in exact)
        copies = np.repeat(np.asarray(x), 500, axis=0)
        sizes = {"batch_size": 500, "chunk_size": 1}
        found = {
            k: importance(rng.root(2 + k), params, copies, WEIGHT, num_samples=k, **sizes)
            for k in (1, 5, 50)
        }
    one, five, fifty = (found[k].average for k in (1, 5, 50))
    assert abs(one.mean - bound) < 4 * one.error + 1e-5
    assert bound + 4 * five.error < five.mean
    assert five.mean + 4 * five.error < fifty.mean
    assert fifty.mean < truth + 4 * fifty.error
    # The delta method's error of an estimate is that which 500 estimates show. The spread of 500
    # numbers is itself known to 3 %; with 50 samples the method is a few percent off, too.
    spread = found[50].log_likelihood.std(ddof=1)
    assert np.sqrt(np.square(found[50].error).mean()) == pytest.approx(spread, rel=0.15)


def test_effective_samples_of_a_known_proposal():
    """One latent: the second moment of the weights is a Gaussian integral.

    With the posterior N(m, s^2) and the proposal N(m + d, t^2), the mean of (w / p(x))^2 is
    t^2 / (s sqrt(2 t^2 - s^2)) exp(d^2 / (2 t^2 - s^2)).
    """
    params, x, truth, _ = of_the_truth(20, 1)
    found = importance(rng.root(2), params, x, WEIGHT, num_samples=4000, chunk_size=500)
    s2 = np.exp(np.asarray(linear_gaussian.marginals(params, x)[1][0, 0], np.float64))
    t2 = s2 * np.exp(0.4)
    second = t2 / np.sqrt(s2 * (2 * t2 - s2)) * np.exp(0.3**2 / (2 * t2 - s2))
    np.testing.assert_allclose(found.effective_samples, 4000 / second, rtol=0.05)
    np.testing.assert_allclose(found.error, np.sqrt((second - 1) / 4000), rtol=0.1)
    deviations = (found.log_likelihood - np.asarray(truth)) / found.error
    assert np.abs(deviations).max() < 4
    assert np.abs(deviations.mean()) < 4 / np.sqrt(20)


@pytest.fixture(scope="module")
def small():
    """A VAE with one latent whose posterior is far from its prior, and its images."""
    model = vae.make(nets.mlp((8,), 2), nets.mlp((8,), (3, 3, 1)), latent_dim=1)
    x = (np.asarray(jax.random.uniform(rng.root(0), (6, 3, 3, 1))) > 0.5).astype(np.float32)
    params = jax.jit(model.init)(rng.root(1), x)
    encoder = jax.tree.map(lambda leaf: 0.3 * leaf, params.encoder)
    return model, params._replace(encoder=encoder), x


def test_the_likelihood_of_a_vae_is_that_of_quadrature(small):
    model, params, x = small
    z = np.linspace(-8, 8, 2001, dtype=np.float32)[:, None]
    logits = np.asarray(jax.jit(model.decode)(params, z), np.float64).reshape(2001, 1, -1)
    pixels = x.reshape(1, 6, -1)
    log_joint = (pixels * logits - np.logaddexp(0, logits)).sum(-1) - z**2 / 2
    truth = np.log(np.exp(log_joint).sum(0) * (z[1] - z[0]) / np.sqrt(2 * np.pi))
    found = importance(
        rng.root(2), params, x, vae.log_weight(model), num_samples=2000, chunk_size=500
    )
    assert np.abs((found.log_likelihood - truth) / found.error).max() < 4
    assert found.error.max() < 0.05


def test_the_parts_of_the_elbo_come_from_its_objective(small):
    """Reconstruction and KL, and the mean log weight is minus their sum."""
    model, params, x = small
    many = np.repeat(x, 250, axis=0)  # three batches of one size
    parts = evaluate.over_examples(rng.root(3), params, many, objective=vae.elbo(model))
    kl = np.asarray(jax.jit(lambda x: vae.kl_divergence(*model.encode(params, x)))(x))
    np.testing.assert_allclose(parts["kl"].reshape(6, 250), kl[:, None] + np.zeros(250), rtol=1e-4)
    np.testing.assert_allclose(parts["loss"], parts["reconstruction"] + parts["kl"], rtol=1e-5)
    drawn = importance(rng.root(4), params, many, vae.log_weight(model), num_samples=1)
    difference = evaluate.estimate(drawn.log_likelihood + parts["loss"])
    assert abs(difference.mean) < 4 * difference.error


def test_the_encoder_runs_once_for_a_chunk_of_samples(small):
    """Only the decoder's products have the axis of the samples."""
    model, params, x = small
    traced = jax.make_jaxpr(functools.partial(likelihood._log_weights, vae.log_weight(model), None))
    samples = np.arange(100, dtype=np.uint32).reshape(2, 50)
    lines = str(traced(rng.root(0), params, x, 0, samples)).splitlines()
    found = [line.split(" = ")[0].split(":")[-1] for line in lines if "dot_general" in line]
    assert [shape for shape in found if "50" not in shape] == ["f32[6,8]", "f32[6,2]"]
    assert len(found) == 5  # two layers of the decoder, and the sum over pixels
