"""Directions and projections, against eigenvectors and least squares in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import gan, nets, rng
from genmod.gan.directions import directions, project
from genmod.types import Net

PARAMS = gan.GanParams((), ())
RANDOM = np.random.default_rng(0)
WEIGHT, BIAS = RANDOM.normal(size=(2, 6)), RANDOM.normal(size=6)
IMAGES = RANDOM.normal(size=(3, 1, 2, 3))


def keys(num, seed=0):
    return rng.per_example(rng.root(seed), num)


def made(generate, latent_dim, **options):
    """A GAN of a function of z (and c), whose discriminator is not used."""
    net = Net(lambda key, z: (), lambda params, z: generate(z))
    if "condition" in options:
        net = Net(lambda key, z, c: (), lambda params, z, c: generate(z, c))
    judge = Net(lambda key, x: (), lambda params, x: jnp.zeros(len(x)))
    return gan.make(net, judge, latent_dim=latent_dim, **options)


def linear(**options):
    def generate(z):
        x = z @ jnp.asarray(WEIGHT, z.dtype) + jnp.asarray(BIAS, z.dtype)[None]
        return x.reshape(-1, 1, 2, 3)

    return made(generate, 2, **options)


def fit(model, images, c=None, **options):
    options = {"optimizer": optax.sgd(0.05), "num_steps": 200, "num_starts": 2, **options}
    run = jax.jit(lambda keys, x, c: project(model, keys, PARAMS, x, c=c, **options))
    return run(keys(len(images)), jnp.asarray(images, jnp.float32), c)


# Directions


@settings(max_examples=10)
@given(st.integers(0, 99), st.sampled_from([(3, 5), (4, 2)]))
def test_directions_are_the_eigenvectors_of_the_first_layer(seed, shape):
    weight = np.random.default_rng(seed).normal(size=shape)
    values, vectors = np.linalg.eigh(weight @ weight.T)
    found = jax.jit(directions)(weight.astype(np.float32))
    num = min(shape)
    assert found.vectors.shape == (num, shape[0])
    np.testing.assert_allclose(found.eigenvalues, values[::-1][:num], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(num), atol=1e-5)
    for vector, expected in zip(np.asarray(found.vectors), vectors.T[::-1], strict=False):
        assert vector[np.abs(vector).argmax()] > 0
        np.testing.assert_allclose(abs(vector @ expected), 1, rtol=1e-3)
    # The norm of the change that a step makes.
    change = np.square(found.vectors @ weight).sum(1)
    np.testing.assert_allclose(change, found.eigenvalues, rtol=1e-3, atol=1e-6)


def test_directions_of_a_linear_generator_are_those_of_its_images():
    """The largest eigenvectors of the covariance of images are the images of the directions."""
    found = directions(WEIGHT.astype(np.float32))
    values, axes = np.linalg.eigh(WEIGHT.T @ WEIGHT)
    model = linear()
    moved = model.generate(PARAMS, found.vectors) - model.generate(PARAMS, 0 * found.vectors)
    units = np.asarray(moved).reshape(2, 6) / np.sqrt(found.eigenvalues)[:, None]
    np.testing.assert_allclose(np.abs(units @ axes[:, :-3:-1]), np.eye(2), atol=1e-5)
    np.testing.assert_allclose(found.eigenvalues, values[:-3:-1], rtol=1e-5)


def test_small_eigenvalues_keep_their_digits():
    """In a product A^T A of float32 the least of these would be lost."""
    turn = np.array([[0.6, 0.8], [-0.8, 0.6]])
    found = directions((turn.T @ np.diag([1.0, 1e-5])).astype(np.float32))
    np.testing.assert_allclose(found.eigenvalues, [1, 1e-10], rtol=0.02)
    np.testing.assert_allclose(found.vectors, [[0.6, 0.8], [0.8, -0.6]], atol=1e-6)


def test_directions_of_many_weights_at_once():
    weights = RANDOM.normal(size=(2, 2, 3)).astype(np.float32)
    many = jax.jit(jax.vmap(directions))(weights)
    for i, weight in enumerate(weights):
        for one, other in zip(directions(weight), many, strict=True):
            np.testing.assert_allclose(one, other[i], rtol=1e-5, atol=1e-6)
    assert directions(jnp.ones((2, 3), jnp.bfloat16)).vectors.dtype == jnp.float32


@pytest.mark.parametrize(
    "weight", [np.ones(3), np.ones((1, 2, 3)), np.ones((2, 3), int), np.ones((0, 3))]
)
def test_a_weight_that_is_no_matrix_is_refused(weight):
    with pytest.raises(ValueError, match=r"weight must be floating numbers \[L, M\], .* got an a"):
        directions(weight)


def test_a_weight_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"weight must lie in .* 1 of 4 NaN or infinite"):
        directions(np.array([[0.0, 1.0], [np.inf, 0.0]]))


# Projection


def test_a_projection_on_a_linear_generator_is_that_of_least_squares():
    found = fit(linear(), IMAGES)
    rest = IMAGES.reshape(3, 6) - BIAS
    expected, squares = np.linalg.lstsq(WEIGHT.T, rest.T, rcond=None)[:2]
    np.testing.assert_allclose(found.z, expected.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.distance, squares, rtol=1e-4)
    np.testing.assert_allclose(
        found.images.reshape(3, 6), expected.T @ WEIGHT + BIAS, rtol=1e-3, atol=1e-3
    )


def test_the_weight_of_the_prior_makes_it_the_most_probable_latent():
    """That of Gaussian noise of the variance v, with the weight 2 v, is the posterior mean."""
    found = fit(linear(), IMAGES, prior_weight=1.4)
    rest = IMAGES.reshape(3, 6) - BIAS
    mean = np.linalg.solve(WEIGHT @ WEIGHT.T + 0.7 * np.eye(2), WEIGHT @ rest.T).T
    np.testing.assert_allclose(found.z, mean, rtol=1e-3, atol=1e-3)
    squares = np.square(mean @ WEIGHT - rest).sum(1)
    np.testing.assert_allclose(found.distance, squares, rtol=1e-4)


def wave(z):
    """Images with minima of the distance from zero near 1 and -1; that near -1 is lower."""
    return jnp.stack([jnp.square(z[:, 0]) - 1, 0.5 * (z[:, 0] + 1)], axis=1)


def test_the_best_of_several_starts_is_kept():
    model, images = made(wave, 1), np.zeros((20, 2))
    options = {"optimizer": optax.sgd(0.05), "num_steps": 60}
    one, many = (fit(model, images, num_starts=num, **options) for num in (1, 8))
    assert 3 < (one.distance > 0.1).sum() < 17
    np.testing.assert_allclose(many.z, -1, atol=1e-3)
    np.testing.assert_allclose(many.distance, 0, atol=1e-4)


def test_the_best_step_is_kept_of_a_descent_that_flies_off():
    model, images = made(wave, 1), np.zeros((5, 2))
    found = fit(model, images, optimizer=optax.sgd(1e3), num_steps=20, num_starts=4)
    starts = [model.latent(rng.at_step(rng.stream(keys(5), "start"), start)) for start in range(4)]
    squares = np.array([jnp.square(wave(z)).sum(1) for z in starts])
    np.testing.assert_allclose(found.distance, squares.min(0), rtol=1e-5)
    chosen = np.array(starts)[squares.argmin(0), np.arange(5)]
    np.testing.assert_array_equal(found.z, chosen)


def test_the_last_step_counts():
    model = made(lambda z: z, 2)
    found = fit(model, IMAGES[:, 0, :, 0], optimizer=optax.sgd(0.5), num_steps=1, num_starts=1)
    np.testing.assert_allclose(found.z, IMAGES[:, 0, :, 0], rtol=1e-5)


def test_any_distance_and_optimizer():
    """The distance of one feature, with an optimizer that looks at all it is given."""

    def feature(generated, images):
        return jnp.abs((generated - images).sum((1, 2, 3)))

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    many = fit(linear(), IMAGES, distance=feature, optimizer=optimizer)
    few = fit(linear(), IMAGES[:1], distance=feature, optimizer=optimizer)
    assert many.distance.max() < 0.2
    np.testing.assert_allclose(
        many.distance, np.abs((many.images - IMAGES).sum((1, 2, 3))), atol=1e-5
    )
    np.testing.assert_allclose(few.z, many.z[:1], rtol=1e-4, atol=1e-5)


def test_each_image_keeps_its_condition():
    def generate(z, c):
        return z + 10.0 * c[:, None]

    model = made(generate, 1, condition=lambda batch: batch)
    c, images = jnp.arange(4.0), 10.0 * jnp.arange(4.0)[:, None] + 0.5
    found = fit(model, images, c=c, optimizer=optax.sgd(0.5), num_steps=3)
    np.testing.assert_allclose(found.z, 0.5, atol=1e-5)
    with pytest.raises(ValueError, match="c must be given, as the generator needs"):
        fit(model, images)
    with pytest.raises(ValueError, match=r"c must be arrays \[4, ...\]"):
        fit(model, images, c=c[:2])


@pytest.mark.slow  # the contracts show it too
def test_seeds_side_by_side_are_each_alone():
    def run(keys, x):
        options = {"optimizer": optax.sgd(0.05), "num_steps": 3, "num_starts": 2}
        return project(linear(), keys, PARAMS, x, **options)

    x = jnp.asarray(IMAGES, jnp.float32)
    many = jax.jit(jax.vmap(run, (0, None)))(jnp.stack([keys(3), keys(3, 1)]), x)
    for one, other in zip(jax.jit(run)(keys(3), x), many, strict=True):
        np.testing.assert_allclose(one, other[0], rtol=1e-5, atol=1e-5)
    assert not np.array_equal(many.z[0], many.z[1])


def test_latents_of_a_bounded_prior_stay_inside_it():
    model = made(lambda z: z, 1, latent=gan.uniform_latent)
    images = np.array([[3.0], [0.5]])
    found = fit(model, images, prior_weight=1e-3, optimizer=optax.sgd(0.1), num_steps=50)
    assert 0.5 < found.z[0, 0] <= 1
    np.testing.assert_allclose(found.z[1], 0.5, atol=1e-3)
    np.testing.assert_allclose(fit(model, images).z, images, rtol=1e-4)


def test_bfloat16_images_have_distances_of_float32():
    model = made(lambda z: z.astype(jnp.bfloat16), 2)
    images = jnp.ones((2, 2), jnp.bfloat16)
    found = jax.eval_shape(
        functools.partial(
            project, model, keys(2), PARAMS, images, optimizer=optax.adam(0.1), num_steps=2
        )
    )
    assert (found.distance.dtype, found.z.dtype) == (jnp.float32, jnp.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a positive whole number, got 0"),
        ({"num_starts": 1.5}, "num_starts must be a positive whole number, got 1.5"),
        ({"prior_weight": -1.0}, "prior_weight must be a number of at least 0, got -1.0"),
        ({"optimizer": 0.1}, "optimizer must have the functions init and update, .* got 0.1"),
        ({"distance": lambda a, b: 0.0 * a.sum()}, r"one number per image, \[3\], got .* \[\]"),
        ({"distance": lambda a, b: a - b}, r"one number per image, \[3\], got .* \[3, 1, 2, 3\]"),
        ({"c": jnp.zeros(3)}, "c must be None, as the model of this generator"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(linear(), IMAGES, **options)


def test_images_that_the_generator_does_not_make_are_refused():
    options = {"optimizer": optax.adam(0.1), "num_steps": 1}
    with pytest.raises(ValueError, match=r"shape of .* \[3, 1, 2, 3\], got \[3, 2, 3\]"):
        fit(linear(), IMAGES[:, 0], **options)
    with pytest.raises(ValueError, match=r"images must be floating, got uint8 \(scale them"):
        project(linear(), keys(3), PARAMS, np.zeros((3, 1, 2, 3), np.uint8), **options)
    with pytest.raises(ValueError, match=r"keys must be one per example, \[3\], got \[2\]"):
        project(linear(), keys(2), PARAMS, jnp.asarray(IMAGES, jnp.float32), **options)


def test_a_generator_that_mixes_its_batch_and_an_unknown_prior_are_refused():
    model = gan.make(nets.mlp((4,), (3,), norm="batch"), nets.mlp((4,), 1), latent_dim=2)
    form = jax.eval_shape(model.init, rng.root(0), jnp.zeros((4, 3)))
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), form)
    options = {"optimizer": optax.adam(0.1), "num_steps": 1}
    with pytest.raises(ValueError, match=r"those that model.standing returns, .* \(norm_0\)"):
        project(model, keys(4), params, jnp.zeros((4, 3)), **options)
    plain = linear(latent=lambda num: lambda keys: gan.normal_latent(num)(keys))
    with pytest.raises(ValueError, match=r"prior_weight must be 0 unless .* got 0.5 and a func"):
        fit(plain, IMAGES, prior_weight=0.5)
    assert fit(plain, IMAGES, num_steps=1).z.shape == (3, 2)
