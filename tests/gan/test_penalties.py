"""Penalties against closed forms, their gradients by the critic's parameters included."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from genmod import gan, rng
from genmod.gan import penalties

PENALTIES = {
    "r1": penalties.r1,
    "r2": penalties.r2,
    "gradient_penalty": penalties.gradient_penalty,
    "one_sided_gradient_penalty": penalties.one_sided_gradient_penalty,
    "maximal_gradient_penalty": penalties.maximal_gradient_penalty,
    "dragan": penalties.dragan,
}
ONE_SIDED, MAXIMAL = "one_sided_gradient_penalty", "maximal_gradient_penalty"
HELD_TO_ONE = ("gradient_penalty", ONE_SIDED, "dragan")
SHAPE = (2, 3, 1)
NUM, DIM = 4, 6


def keys(num=NUM, seed=0):
    return rng.per_example(rng.root(seed), num)


def images(num=NUM, seed=1):
    """Real and generated images."""
    return np.random.default_rng(seed).normal(size=(2, num, *SHAPE)).astype(np.float32)


def flat(x):
    return x.reshape(len(x), -1)


def dot(a, b):
    return jnp.matmul(a, b, precision="highest")


def linear(params, x):
    weights, bias = params
    return dot(flat(x), weights) + bias


def quadratic(matrix, x):
    return jnp.einsum("bi,ij,bj->b", flat(x), matrix, flat(x), precision="highest")


def network(params, x):
    hidden = jnp.tanh(dot(flat(x), params["in"]) + params["bias"][None])
    return dot(hidden, params["out"])


def mean_of_each(critic, params, real, fake):
    """The mean of each of the penalties, in the order of their names above."""
    own = functools.partial(critic, params)
    return jnp.stack([p(keys(len(real)), own, real, fake).mean() for p in PENALTIES.values()])


@functools.partial(jax.jit, static_argnums=0)
def values_and_gradients(critic, params, real, fake):
    """Of each penalty: its values [B], and the gradient of their mean by the parameters."""

    def mean(params, penalty):
        values = penalty(keys(len(real)), functools.partial(critic, params), real, fake)
        return values.mean(), values

    found = {n: jax.grad(mean, has_aux=True)(params, p) for n, p in PENALTIES.items()}
    return {name: (values, gradients) for name, (gradients, values) in found.items()}


def test_a_linear_critic_has_one_gradient_everywhere():
    # Multiples of 1/4, so that |w|^2 is exact: 0.25 + 4 + 1 + 0 + 2.25 + 0.0625.
    weights = np.array([0.5, -2, 1, 0, 1.5, 0.25], np.float32)
    norm = np.sqrt(7.5625)
    found = values_and_gradients(linear, (weights, np.float32(3)), *images())
    for name, (values, (by_weights, by_bias)) in found.items():
        assert values.shape == (NUM,)
        assert by_bias == 0
        if name in HELD_TO_ONE:
            np.testing.assert_allclose(values, (norm - 1) ** 2, rtol=1e-6)
            np.testing.assert_allclose(by_weights, 2 * (norm - 1) * weights / norm, rtol=1e-6)
        else:
            np.testing.assert_array_equal(values, np.float32(7.5625))
            np.testing.assert_array_equal(by_weights, 2 * weights)


def test_a_quadratic_critic_has_its_closed_form():
    # D(x) = x' A x has the gradient S x with S = A + A', and d|S x|^2 / dA = 2 (g x' + x g').
    matrix = np.random.default_rng(2).normal(size=(DIM, DIM)).astype(np.float32)
    real, fake = images()
    found = values_and_gradients(quadratic, matrix, real, fake)
    for name, at in (("r1", real), ("r2", fake)):
        values, by_matrix = found[name]
        x = flat(at).astype(np.float64)
        gradient = x @ (matrix + matrix.T).astype(np.float64)
        np.testing.assert_allclose(values, (gradient**2).sum(axis=1), rtol=1e-5)
        outer = np.einsum("bi,bj->bij", gradient, x)
        expected = 2 * (outer + outer.transpose(0, 2, 1)).mean(axis=0)
        np.testing.assert_allclose(by_matrix, expected, rtol=1e-5, atol=1e-4)


def test_gradients_by_a_networks_parameters_are_the_finite_differences():
    generator = np.random.default_rng(3)
    params = {
        "in": generator.normal(size=(DIM, 3)),
        "bias": generator.normal(size=3),
        "out": generator.normal(size=3),
    }
    with jax.enable_x64(True):
        real, fake = (jnp.asarray(a, jnp.float64) for a in images())
        point, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))

        def means(point):
            return mean_of_each(network, unravel(point), real, fake)

        step = 1e-5 * jnp.eye(len(point))
        differences = jax.jit(
            lambda p: (jax.vmap(means)(p + step) - jax.vmap(means)(p - step)) / 2e-5
        )
        found = jax.jit(jax.jacobian(means))(point)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(found.T, differences(point[None]), rtol=1e-6, atol=1e-8)


def test_float32_images_give_float32_penalties_where_float64_is_the_default():
    weights = np.ones(DIM, np.float32)
    with jax.enable_x64(True):
        for values, gradients in values_and_gradients(
            linear, (weights, np.float32(0)), *images()
        ).values():
            assert {a.dtype for a in (values, *gradients)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e-30])
def test_a_flat_critic_has_a_gradient_of_zero_not_nan(scale):
    # The norm has no derivative at 0, and the square root under it an infinite one. Far above 0 the
    # square of such a gradient is 0 already.
    weights = np.full(DIM, scale, np.float32)
    found = values_and_gradients(linear, (weights, np.float32(0)), *images())
    for name, (values, (by_weights, _)) in found.items():
        held = name in HELD_TO_ONE and name != ONE_SIDED
        np.testing.assert_array_equal(values, np.full(NUM, held, np.float32))
        assert np.all(np.isfinite(by_weights))
        np.testing.assert_allclose(by_weights, 0, atol=1e-19)


@functools.partial(jax.jit, static_argnums=0)
def points(name, keys, real, fake):
    """Where a penalty that is held to 1 looks, [B, D]; the images must be at least 1 everywhere.

    The critic x_j^2 / 2 has a gradient of norm x_j, so its penalty is (x_j - 1)^2: one critic for
    each pixel j shows the whole point.
    """

    def pixel(j):
        return PENALTIES[name](keys, lambda x: 0.5 * flat(x)[:, j] ** 2, real, fake)

    return 1 + jnp.sqrt(jax.vmap(pixel)(jnp.arange(DIM)).T)


MANY = 2000


def test_gradient_penalty_looks_at_one_uniform_point_between_real_and_fake():
    real, fake = (3 + np.abs(a) for a in images(MANY))
    fake = fake + 4
    at = points("gradient_penalty", keys(MANY), real, fake)
    shares = (flat(fake) - at) / (flat(fake) - flat(real))
    # All pixels of an example share one number, and the examples' numbers are uniform.
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), atol=1e-5)
    assert np.all((shares > -1e-5) & (shares < 1 + 1e-5))
    assert stats.kstest(np.asarray(shares[:, 0]), "uniform").pvalue > 1e-3


def test_dragan_looks_half_a_deviation_above_real():
    real = 3 + np.abs(images(MANY)[0])
    at = points("dragan", keys(MANY), real, real)
    noise = (at - flat(real)) / (0.5 * real.std())
    assert np.all((noise > -1e-4) & (noise < 1 + 1e-4))
    assert stats.kstest(np.asarray(noise).ravel(), "uniform").pvalue > 1e-3
    # Each pixel has its own number.
    between = np.corrcoef(np.asarray(noise).T)[~np.eye(DIM, dtype=bool)]
    assert np.all(np.abs(between) < 5 / np.sqrt(MANY))


@pytest.mark.parametrize("name", HELD_TO_ONE)
def test_an_example_draws_from_its_own_key_alone(name):
    real, fake = (3 + np.abs(a) for a in images(MANY))
    before = points(name, keys(MANY), real, fake + 4)
    mixed = jnp.concatenate([keys(MANY)[:5], keys(MANY, seed=1)[5:]])
    after = points(name, mixed, real, fake + 4)
    np.testing.assert_array_equal(before[:5], after[:5])
    assert np.all(np.abs(before[5:] - after[5:]).max(axis=1) > 0)


@pytest.mark.parametrize(("name", "unused"), [("r1", "fake"), ("r2", "real"), ("dragan", "fake")])
def test_a_penalty_looks_at_its_own_images_alone(name, unused):
    real, fake = images()
    nothing = np.full_like(real, np.nan)
    weights = np.random.default_rng(4).normal(size=(DIM, DIM)).astype(np.float32)
    seen = values_and_gradients(quadratic, weights, real, fake)[name]
    replaced = (real, nothing) if unused == "fake" else (nothing, fake)
    blind = values_and_gradients(quadratic, weights, *replaced)[name]
    jax.tree.map(np.testing.assert_array_equal, seen, blind)


def test_a_critic_of_packs_is_penalised_by_each_examples_part_or_by_the_packs_norm():
    # The logit of a pack is linear in its two images, with weights of their own.
    first, second = np.random.default_rng(5).normal(size=(2, DIM)).astype(np.float32)

    def packs(params, x):
        return linear((jnp.concatenate(params), 0.0), x.reshape(NUM // 2, -1))

    found = values_and_gradients(packs, (first, second), *images())
    squared = np.tile([first @ first, second @ second], NUM // 2)
    norm = np.sqrt(first @ first + second @ second)
    for name, (values, gradients) in found.items():
        expected = np.full(NUM, (norm - 1) ** 2) if name in HELD_TO_ONE else squared
        if name == MAXIMAL:
            expected = np.full(NUM, norm**2)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
        for weights, gradient in zip((first, second), gradients, strict=True):
            # Half of the examples stand in each place; the norm is the same for all.
            slope = 2 * (norm - 1) * weights / norm if name in HELD_TO_ONE else weights
            slope = 2 * weights if name == MAXIMAL else slope
            np.testing.assert_allclose(gradient, slope, rtol=1e-5)


def half_square(x):
    return 0.5 * jnp.sum(flat(x) ** 2, axis=1)


def test_penalties_are_added_and_weighted():
    real, fake = images()
    at_real, at_fake = ((flat(a) ** 2).sum(axis=1) for a in (real, fake))
    penalty = 2 * (0.5 * penalties.r1 + penalties.r2 * 3)
    assert [(name, weight) for name, weight, _ in penalty.terms] == [("r1", 1.0), ("r2", 6.0)]
    np.testing.assert_allclose(
        penalty(keys(), half_square, real, fake), at_real + 6 * at_fake, rtol=1e-6
    )
    nothing = 0 * penalties.r1
    np.testing.assert_array_equal(nothing(keys(), half_square, real, fake), np.zeros(NUM))


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int32, jnp.float32, jnp.array])
def test_a_weight_may_be_any_kind_of_number(number):
    real, fake = images()
    expected = 2 * (flat(real) ** 2).sum(axis=1)
    for penalty in (number(2) * penalties.r1, penalties.r1 * number(2)):
        value = penalty(keys(), half_square, real, fake)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert value.dtype == jnp.float32


def test_a_weight_may_be_traced():
    real, fake = images()
    at_real, at_fake = ((flat(a) ** 2).sum(axis=1) for a in (real, fake))

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def total(first, second):
        penalty = first * penalties.r1 + penalties.r2 * second
        return penalty(keys(), half_square, real, fake).sum()

    value, slopes = total(0.5, 2.0)
    np.testing.assert_allclose(value, (0.5 * at_real + 2 * at_fake).sum(), rtol=1e-5)
    np.testing.assert_allclose(slopes, [at_real.sum(), at_fake.sum()], rtol=1e-5)


@pytest.mark.parametrize(
    "combine",
    [
        lambda r1: r1 + 1,
        lambda r1: 1 + r1,
        lambda r1: r1 + half_square,
        lambda r1: r1 * "2",
        lambda r1: r1 * None,
        lambda r1: r1 * penalties.r2,
        lambda r1: r1 * np.ones(2),
        lambda r1: np.ones(2) * r1,
        lambda r1: jax.jit(lambda w: (w * r1).terms[0][1])(jnp.ones(2)),
    ],
)
def test_other_operands_are_refused(combine):
    with pytest.raises(TypeError):
        combine(penalties.r1)


@pytest.mark.parametrize(
    "weight", [-1, -0.5, np.nan, np.inf, np.float32(-2), jnp.float32(-2)], ids=repr
)
def test_a_weight_below_zero_is_refused(weight):
    for combine in (lambda: weight * penalties.r1, lambda: penalties.r1 * weight):
        with pytest.raises(ValueError, match=r"a penalty's weight must be .* at least 0, got"):
            combine()


def test_terms_of_one_name_are_refused():
    # They would draw the same numbers, and one would hide the other in a report.
    with pytest.raises(ValueError, match=r"must differ in name, got \['r1', 'r2', 'r1'\]"):
        _ = penalties.r1 + penalties.r2 + penalties.r1


def test_a_function_of_ones_own_is_a_penalty():
    def drift(keys, critic, real, fake):
        noise = jax.vmap(jax.random.uniform)(keys)
        return critic(real) ** 2 + fake.sum(axis=(1, 2, 3)) + noise

    penalty = penalties.Penalty.of(drift)
    assert penalty.terms == (("drift", 1.0, drift),)
    assert penalties.Penalty.of(drift, "other").terms == (("other", 1.0, drift),)
    assert penalties.Penalty.of(functools.partial(drift)).terms[0][0] == "penalty"

    real, fake = images()
    half = (0.5 * penalty)(keys(), half_square, real, fake)
    rest = 2 * half - half_square(real) ** 2 - flat(fake).sum(axis=1)
    assert np.all((rest > -1e-4) & (rest < 1 + 1e-4))
    # Beside another that draws, it draws what it draws alone, and no key serves both.
    both = (penalty + penalties.gradient_penalty)(keys(), half_square, real, fake)
    alone = penalties.gradient_penalty(keys(), half_square, real, fake)
    np.testing.assert_allclose(both, 2 * half + alone, rtol=1e-5)
    names = [name for name, *_ in (penalty + penalties.r1).terms]
    assert names == ["drift", "r1"]


def test_terms_draw_independently():
    def draw(keys, critic, real, fake):
        return jax.vmap(jax.random.uniform)(keys)

    x = np.zeros((MANY, 1), np.float32)
    one, two = (
        penalties.Penalty.of(draw, name)(keys(MANY), half_square, x, x) for name in ("one", "two")
    )
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(MANY)


@pytest.mark.parametrize("name", PENALTIES)
def test_images_that_do_not_fit_are_refused(name):
    real, fake = images()
    penalty = PENALTIES[name]
    with pytest.raises(ValueError, match=r"one shape, got \(4, 2, 3, 1\) and \(3, 2, 3, 1\)"):
        penalty(keys(), half_square, real, fake[:3])
    with pytest.raises(ValueError, match=r"one shape, got \(4, 2, 3, 1\) and \(4, 6\)"):
        penalty(keys(), half_square, real, flat(fake))
    with pytest.raises(ValueError, match="real must be floating, got uint8"):
        penalty(keys(), half_square, real.astype(np.uint8), fake)
    with pytest.raises(ValueError, match="fake must be floating, got int32"):
        penalty(keys(), half_square, real, fake.astype(np.int32))


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("num", [1, 3])
def test_keys_that_are_not_one_per_example_are_refused(name, num):
    # One key for all would otherwise be broadcast: the same noise for every example.
    with pytest.raises(ValueError, match=rf"one per example, \[4\], got \[{num}\]"):
        PENALTIES[name](keys(num), half_square, *images())


def test_weight_clipping_clamps_what_is_outside_and_nothing_else():
    inside = np.array([0.0, -0.0, 0.01, -0.01, 0.004, 1e-30], np.float32)
    outside = np.array([[0.02, -3.0], [np.inf, -np.inf]], np.float32)
    clipped = penalties.weight_clipping(0.01)({"a": inside, "b": [outside]})
    assert np.asarray(clipped["a"]).tobytes() == inside.tobytes()
    limit = np.float32(0.01)
    np.testing.assert_array_equal(clipped["b"][0], [[limit, -limit], [limit, -limit]])
    assert {leaf.dtype for leaf in jax.tree.leaves(clipped)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("limit", [0, -0.01, np.nan, np.inf])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ValueError, match="limit must be a positive number, got"):
        penalties.weight_clipping(limit)


def test_what_weighs_nothing_is_left_out_of_a_weighted_sum():
    found = penalties.weighted((0.5, penalties.r1), (0.0, penalties.dragan), (2, penalties.r2))
    assert [(name, weight) for name, weight, _ in found.terms] == [("r1", 0.5), ("r2", 2.0)]
    assert penalties.weighted((0.0, penalties.r1)).terms == ()
    with pytest.raises(ValueError, match="weight must be a number of at least 0, got -1"):
        penalties.weighted((-1, penalties.r1))


def test_a_penalty_has_the_text_of_its_function():
    for name, penalty in PENALTIES.items():
        assert "grad D(x)" in penalty.__doc__
        assert re.search(r"arXiv:\d{4}\.\d{5}", penalty.__doc__)
        assert penalty.terms[0][0] == name

    def flat(keys, critic, real, fake):
        """Zero everywhere."""

    assert gan.Penalty.of(flat).__doc__ == "Zero everywhere."


def test_a_lambda_needs_a_name():
    with pytest.raises(ValueError, match="a lambda has no name to be reported by"):
        gan.Penalty.of(lambda keys, critic, real, fake: real)
    assert gan.Penalty.of(lambda *_: 0, "zero").terms[0][0] == "zero"
