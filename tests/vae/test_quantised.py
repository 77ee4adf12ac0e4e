"""VQ-VAE: gradients, codebooks against their formulas, and the prior of the codes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import nets, rng, train, vae
from genmod.types import Net
from genmod.vae.quantised import code_frequencies, nearest, perplexity, quantised

K, D, GRID, SHAPE = 5, 2, (2, 3), (4, 4, 1)
ENCODER = nets.mlp((6,), (*GRID, D), activation=jnp.tanh)
DECODER = nets.mlp((6,), SHAPE, activation=jnp.tanh)
X = jnp.asarray(np.random.default_rng(0).uniform(size=(8, *SHAPE)), jnp.float32)
KEYS = rng.per_example(rng.root(1), len(X))


def made(**options):
    return quantised(ENCODER, DECODER, **({"num_codes": K} | options))


def first(num_codes=K):
    return jax.jit(made(num_codes=num_codes).init.function)(rng.root(0), X)


@functools.cache
def start():
    """Parameters with vectors that differ from their codes."""
    params = first()
    return params._replace(codebook=params.codebook + 0.3)


vectors_of = jax.jit(lambda params: ENCODER.apply(params.encoder, X))
codes_of = jax.jit(lambda params: made().encode(params, X))


@settings(max_examples=20)
@given(st.integers(0, 100), st.sampled_from([0.0, 1e3]))
def test_the_nearest_entry_is_found_wherever_they_lie(seed, centre):
    random = np.random.default_rng(seed)
    vectors, book = random.normal(size=(2, 3, 4)), random.normal(size=(6, 4))
    shifted = np.float32(vectors + centre), np.float32(book + centre)
    squares = np.square(shifted[0][:, :, None].astype(float) - shifted[1]).sum(-1)
    found = nearest(*map(jnp.asarray, shifted))
    chosen = np.take_along_axis(squares, np.asarray(found)[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, squares.min(-1), rtol=1e-3, atol=1e-5)
    assert found.dtype == jnp.int32


def test_the_least_of_several_nearest_entries_is_taken():
    book = jnp.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest(jnp.zeros((1, 2)), book).tolist() == [0]
    assert nearest(jnp.array([[2.0, 1.0]]), book).tolist() == [0]


def test_the_gradient_of_the_decoder_goes_to_the_encoder_unchanged():
    """At the entries, not at the vectors: the chain rule by hand, for one term at a time."""
    model, params = made(commitment=0.0, by_gradient=True), start()
    codes = codes_of(params)

    def of_decoder(entries):
        return -vae.bernoulli.log_prob(DECODER.apply(params.decoder, entries), X).sum()

    at_entries = jax.jit(jax.grad(of_decoder))(params.codebook[codes])
    _, pull = jax.vjp(lambda encoder: ENCODER.apply(encoder, X), params.encoder)
    gradient = jax.jit(jax.grad(lambda p: model.objective(KEYS, p, X)[0].sum()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        gradient.encoder,
        pull(at_entries)[0],
    )
    # The reconstruction moves no entry: the codebook's own term alone does.
    vectors = vectors_of(params)
    expected = np.zeros((K, D))
    np.add.at(expected, np.asarray(codes), 2 * np.asarray(params.codebook[codes] - vectors))
    np.testing.assert_allclose(gradient.codebook, expected, rtol=1e-4, atol=1e-5)
    assert not np.any(gradient.frequencies)


def test_commitment_pulls_vectors_to_entries_alone():
    params = start()
    loss = {w: jax.jit(made(commitment=w).objective)(KEYS, params, X) for w in (0.0, 2.0)}
    vectors = vectors_of(params)
    entries = params.codebook[codes_of(params)]
    distance = np.square(np.asarray(vectors - entries)).sum((1, 2, 3))
    np.testing.assert_allclose(loss[2.0][0] - loss[0.0][0], 2 * distance, rtol=1e-4)
    np.testing.assert_allclose(loss[0.0][1]["distance"], distance, rtol=1e-5)

    def at(weight):
        model = made(commitment=weight)
        return jax.jit(jax.grad(lambda p: model.objective(KEYS, p, X)[0].sum()))(params)

    _, pull = jax.vjp(lambda encoder: ENCODER.apply(encoder, X), params.encoder)
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(a - b, c, rtol=1e-4, atol=1e-4),
        at(2.0).encoder,
        at(0.0).encoder,
        pull(4 * (vectors - entries))[0],
    )
    assert not np.any(at(2.0).codebook)


def test_the_decoder_sees_the_entries_to_the_bit():
    model, params = made(), start()
    logits = jax.jit(model.decode)(params, codes_of(params))
    expected = -vae.bernoulli.log_prob(logits, X)
    _, aux, _ = jax.jit(model.objective)(KEYS, params, X)
    np.testing.assert_array_equal(aux["reconstruction"], expected)


def test_moving_averages_are_those_of_appendix_a1():
    """Counts and totals in NumPy over several batches, each as the paper writes them."""
    model, params = made(decay=0.8), start()
    counts = np.full(K, 6 / K)
    totals = counts[:, None] * np.asarray(params.codebook, float)
    frequencies = np.full((*GRID, K), 1 / K)
    random = np.random.default_rng(2)
    remember = jax.jit(model.remember)
    for step in range(4):
        vectors = np.float32(random.normal(size=(8, *GRID, D)))
        codes = random.integers(0, K - 1, (8, *GRID))  # the last entry is never used
        notes = {"codes": jnp.asarray(codes), "vectors": jnp.asarray(vectors)}
        params = params._replace(**remember(rng.at_step(rng.root(0), step), params, notes))
        hot = np.eye(K)[codes]
        counts = 0.8 * counts + 0.2 * hot.sum((0, 1, 2)) / 8
        totals = 0.8 * totals + 0.2 * np.einsum("bhwk,bhwd->kd", hot, vectors) / 8
        frequencies = 0.8 * frequencies + 0.2 * hot.mean(0)
        np.testing.assert_allclose(params.codebook, totals / counts[:, None], rtol=1e-4)
        np.testing.assert_allclose(params.counts, counts, rtol=1e-5)
        np.testing.assert_allclose(params.frequencies, frequencies, rtol=1e-5)


def test_an_entry_that_is_never_used_stays():
    model, params = made(decay=0.0), start()
    notes = {"codes": jnp.zeros((8, *GRID), jnp.int32), "vectors": jnp.ones((8, *GRID, D))}
    remember = jax.jit(model.remember)
    for _ in range(3):
        before = params.codebook
        params = params._replace(**remember(rng.root(0), params, notes))
        np.testing.assert_array_equal(params.codebook[1:], before[1:])
        np.testing.assert_allclose(params.codebook[0], 1, rtol=1e-6)


def test_a_dead_entry_becomes_a_vector_of_the_batch():
    model = made(decay=0.5, restart=0.5)
    params = start()._replace(counts=jnp.array([1.0, 1.0, 0.1, 1.0, 1.0]))
    vectors = jnp.asarray(np.random.default_rng(3).normal(size=(8, *GRID, D)), jnp.float32)
    codes = jnp.asarray(np.tile([[0, 1, 3], [4, 0, 1]], (8, 1, 1)), jnp.int32)
    after = jax.jit(model.remember)(rng.root(0), params, {"codes": codes, "vectors": vectors})
    moved = jax.jit(made(decay=0.5).remember)(
        rng.root(0), params, {"codes": codes, "vectors": vectors}
    )
    new = np.asarray(after["codebook"])
    assert (np.abs(np.asarray(vectors).reshape(-1, D) - new[2]).max(1) == 0).any()
    kept = [0, 1, 3, 4]
    np.testing.assert_array_equal(new[kept], moved["codebook"][jnp.array(kept)])
    assert after["counts"][2] == moved["counts"].mean()
    assert not np.array_equal(new[2], moved["codebook"][2])


@pytest.mark.costly
@pytest.mark.parametrize("by_gradient", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_codebooks_find_the_patterns_of_the_data(by_gradient):
    """Images of four patterns: as many codes are used, and the bound nears log 4 nats."""
    index = jnp.arange(64) % 4
    x = jnp.zeros((64, *SHAPE)).at[jnp.arange(64), index].set(1.0)
    model = quantised(
        nets.mlp((16,), (1, D), activation=jnp.tanh),
        nets.mlp((16,), SHAPE, activation=jnp.tanh),
        num_codes=6,
        by_gradient=by_gradient,
        decay=0.9,
        restart=0.0 if by_gradient else 0.05,
    )
    player = train.Player(model.objective, optax.adam(2e-2))
    learner = train.game(
        model.init, {model.fields: player}, remember=model.remember, sample=model.sample
    )
    state = jax.jit(lambda key: train.fit(learner, key, lambda key, step: x, 300))(rng.root(0))
    codes = model.encode(state.params, x)
    assert [len(set(np.asarray(codes)[index == k].ravel().tolist())) for k in range(4)] == [1] * 4
    assert len(np.unique(codes)) == 4
    frequencies = code_frequencies(codes, num_codes=6)
    np.testing.assert_allclose(perplexity(frequencies), 4, rtol=1e-5)
    np.testing.assert_allclose(perplexity(state.params.frequencies), 4, rtol=0.2)
    _, aux, _ = model.objective(rng.per_example(rng.root(1), 64), state.params, x)
    bound = np.asarray(aux["reconstruction"] + aux["kl"])
    # No model has less than log 4 nats on average, as the four patterns are equally frequent.
    assert np.log(4) <= bound.mean() < np.log(4) + 0.5
    drawn = np.asarray(learner.sample(rng.root(2), state, 200))
    assert set(drawn.sum((2, 3)).argmax(1).tolist()) == {0, 1, 2, 3}
    assert (drawn.sum((2, 3)).max(1) > 3.5).mean() > 0.9


def test_draws_of_the_prior_are_as_frequent_as_it_says():
    model, params = made(), start()
    share = jnp.asarray(np.random.default_rng(5).dirichlet(np.ones(K), GRID), jnp.float32)
    params = params._replace(frequencies=2 * share)  # whatever they add up to
    p = np.exp(np.asarray(model.log_prior(params), float))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(p, 0.999 * share + 0.001 / K, rtol=1e-5)
    # A decoder that shows the entries, which are the codes themselves.
    shown = vae.Likelihood(lambda entries, x: jnp.zeros(len(x)), lambda entries: entries)
    plain = Net(lambda key, x: (), lambda params, entries: entries)
    shows = quantised(ENCODER, plain, num_codes=K, likelihood=shown)
    book = params._replace(codebook=jnp.tile(jnp.arange(K)[:, None], (1, D)))
    codes = shows.sample(rng.per_example(rng.root(9), 4000), book)[..., 0]
    error = np.sqrt(p * (1 - p) / 4000)
    assert (np.abs(code_frequencies(codes, num_codes=K) - p) < 4.5 * error).all()
    codes = codes_of(params)
    kl = -np.log(np.take_along_axis(p[None], np.asarray(codes)[..., None], -1)).sum((1, 2, 3))
    np.testing.assert_allclose(jax.jit(model.objective)(KEYS, params, X)[1]["kl"], kl, rtol=1e-5)


def test_frequencies_and_perplexity():
    codes = jnp.array([[0, 2], [0, 1], [0, 2], [1, 2]])
    frequencies = code_frequencies(codes, num_codes=4)
    expected = [[0.75, 0.25, 0, 0], [0, 0.25, 0.75, 0]]
    np.testing.assert_array_equal(frequencies, expected)
    p = np.array([0.375, 0.25, 0.375])
    np.testing.assert_allclose(perplexity(frequencies), np.exp(-(p * np.log(p)).sum()), rtol=1e-6)
    np.testing.assert_allclose(perplexity(jnp.full((3, 7), 1 / 7)), 7, rtol=1e-6)
    assert perplexity(jnp.eye(3)[:1]) == 1
    assert code_frequencies(jnp.zeros((3,), jnp.int32), num_codes=2).tolist() == [1, 0]


def test_the_first_codebook_are_different_vectors_of_the_images():
    params = first(48)
    vectors = np.asarray(vectors_of(params)).reshape(-1, D)
    found = sorted(map(tuple, np.asarray(params.codebook)))
    np.testing.assert_allclose(found, sorted(map(tuple, vectors)), atol=1e-5)
    assert first(50).codebook.shape == (50, D)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes must be a positive whole number, got 0"),
        ({"commitment": -1.0}, "commitment must be a number of at least 0, got -1.0"),
        ({"decay": 1.0}, r"decay must be a number in \[0, 1\), got 1.0"),
        ({"restart": -0.1}, r"restart must be a number in \[0, 1\), got -0.1"),
        ({"by_gradient": True, "restart": 0.1}, "restart must be 0 with by_gradient=True"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_other_shapes_are_refused():
    model, params = made(), start()
    with pytest.raises(ValueError, match=r"whole numbers \['B', 2, 3\], got an array"):
        model.decode(params, jnp.zeros((8, 6), jnp.int32))
    with pytest.raises(ValueError, match="codes must be whole numbers"):
        model.decode(params, jnp.zeros((8, *GRID)))
    with pytest.raises(ValueError, match=r"one D, got \[3, 2\] and \[5, 4\]"):
        nearest(jnp.zeros((3, 2)), jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"must return vectors \[B, ..., D\] of 8 images"):
        quantised(nets.wrapped(ENCODER, after=lambda y: y[:1]), DECODER, num_codes=2).init(
            rng.root(0), X
        )
    with pytest.raises(ValueError, match=r"images must lie .* \[0, 1\]"):
        model.init.check(X + 1)
    with pytest.raises(ValueError, match="codes must lie"):
        code_frequencies(jnp.array([[5]]), num_codes=5)


def test_codes_out_of_range_and_batch_normalisation_are_refused():
    model = quantised(ENCODER, DECODER, num_codes=3)
    params = model.init(rng.root(0), X)
    codes = jnp.zeros((1, *GRID), jnp.int32)
    with pytest.raises(ValueError, match="codes must lie in the codebook's range"):
        model.decode(params, codes + 3)
    normalised = nets.mlp((6,), SHAPE, norm="batch")
    with pytest.raises(ValueError, match="must not use the statistics of their batch"):
        quantised(ENCODER, normalised, num_codes=3).init(rng.root(0), X)
