"""Troubles that people had with the report page: each test shows what happens instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_report_programs import followed, kinds

from genmod import rng
from genmod.report import programs

EDGES = np.array(
    [0.0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999997, 1.0, -1.0, 0.3, -7.25, 9.0]
    + [8388609.0, -8388609.0, 1e10, -1e10, 3e38, -3e38, np.nan, np.inf, -np.inf],
    np.float32,
)
"""Halves, signs of zero, numbers without a fraction, the largest, and what is none."""
OTHER = EDGES[None, ::-1].copy()
CASES = jnp.arange(EDGES.size)[None] % 4
LOW, HIGH = jnp.float32(2), jnp.float32(-1)


def of_bools(f):
    return lambda z: f(z > 0, jnp.abs(z) < 2).astype(jnp.float32)


def mixed(z):
    """A product with weights that are not finite: zero times infinity is NaN."""
    weights = jnp.eye(z.shape[1]).at[0, 3].set(jnp.inf).at[2, 4].set(-jnp.inf).at[4, 5].set(jnp.nan)
    return jnp.where(jnp.isfinite(z), z, 1.0) @ weights


def convolved(z):
    kernel = jnp.ones((1, 3, 1, 1)).at[0, 0, 0, 0].set(jnp.inf)
    image = jnp.where(jnp.isfinite(z), z, 1.0).reshape(1, 1, -1, 1)
    return lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


ELEMENTWISE = {
    "add": lambda z: z + OTHER,
    "sub": lambda z: z - OTHER,
    "mul": lambda z: z * OTHER,
    "div": lambda z: z / OTHER,
    "max": lambda z: lax.max(z, jnp.full_like(z, 1)),
    "min": lambda z: lax.min(z, jnp.full_like(z, -1)),
    "max of NaN": lambda z: lax.max(z, jnp.full_like(z, jnp.nan)),
    "rem": lambda z: lax.rem(z, jnp.full_like(z, -2)),
    "rem by all": lambda z: lax.rem(jnp.full_like(z, 7.5), z),
    "modulo": lambda z: z % 2.0,
    "floor division": lambda z: z // 2.0,
    "trunc": jnp.trunc,
    "lt": lambda z: (z < 0).astype(jnp.float32),
    "le": lambda z: (z <= 0).astype(jnp.float32),
    "gt": lambda z: (z > 0).astype(jnp.float32),
    "ge": lambda z: (z >= 0).astype(jnp.float32),
    "eq": lambda z: (z == 0).astype(jnp.float32),
    "ne": lambda z: (z != 0).astype(jnp.float32),
    "eq of itself": lambda z: (z == z).astype(jnp.float32),
    "and": of_bools(jnp.logical_and),
    "or": of_bools(jnp.logical_or),
    "not": of_bools(lambda a, b: ~a & b),
    "eq of bools": of_bools(lambda a, b: a == b),
    "neg": lambda z: -z,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round to even": jnp.round,
    "round away from zero": lax.round,
    "square": jnp.square,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "tanh": jnp.tanh,
    "logistic": jax.nn.sigmoid,
    "erf": lax.erf,
    "erfc": lambda z: lax.erfc(jnp.where(z == 9.0, 8.0, z)),
    "log of erfc": lambda z: jnp.log(lax.erfc(jnp.clip(z, 0.0, 9.0))),
    "sin": lambda z: jnp.sin(jnp.clip(z, -10.0, 10.0)),
    "cos": lambda z: jnp.cos(jnp.clip(z, -10.0, 10.0)),
    "pow": lambda z: jnp.power(z, jnp.float32(2.5)),
    "pow to the last": lambda z: jnp.power(jnp.float32(2), z),
    "one to the power": lambda z: jnp.power(jnp.float32(1), z),
    "minus one to the power": lambda z: jnp.power(jnp.float32(-1), z),
    "pow by whole numbers": lambda z: lax.pow(z, jnp.full(z.shape, 3)),
    "integer_pow": lambda z: z**-3,
    "is_finite": lambda z: jnp.isfinite(z).astype(jnp.float32),
    "clamp": lambda z: lax.clamp(-1.0, z, 2.0),
    "clamp the other way round": lambda z: lax.clamp(LOW, z, HIGH),
    "select of two": lambda z: lax.select_n(z > 0, z, -z),
    "select of four": lambda z: lax.select_n(CASES, z, -z, 2 * z, 3 * z),
    "to bool": lambda z: z.astype(bool).astype(jnp.float32),
    "bool to whole numbers": lambda z: (z > 0).astype(jnp.int32).astype(jnp.float32),
    "choice of whole numbers": lambda z: jnp.where(z > 0, 3, -2).astype(jnp.float32) * z,
    "whole precision": lambda z: lax.reduce_precision(z, 8, 23),
    "stop_gradient": lambda z: lax.stop_gradient(z) * 2,
    "copy": lambda z: jnp.array(z, copy=True) * 2,
    "checkpoint": lambda z: jax.checkpoint(jnp.square)(z),
    "softmax": lambda z: jax.nn.softmax(jnp.clip(z, -3.0, 3.0)),
    "reduce_max": lambda z: z[:, :20].max() + jnp.zeros_like(z),
    "reduce_max of NaN": lambda z: z.max() + jnp.zeros_like(z),
    "reduce_sum": lambda z: z[:, :14].sum() + jnp.zeros_like(z),
    "weights that are not finite": mixed,
    "a kernel that is not finite": convolved,
    "the constant infinity": lambda z: jnp.where(z > 0, -jnp.inf, z),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_each_operation_gives_what_jax_gives_at_the_edges(name):
    """Review 11: conversions and operations that were followed as something near to them."""
    function = ELEMENTWISE[name]
    decode = jax.jit(lambda z: function(z).reshape(1, 1, -1, 1))
    wanted = np.asarray(decode(EDGES[None])).ravel()
    found = followed(programs.program(decode, EDGES.size), EDGES[None])[0]
    np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=1e-37, err_msg=name)
    zeros = wanted == 0
    np.testing.assert_array_equal(np.signbit(found[zeros]), np.signbit(wanted[zeros]))


REFUSED = {
    "half floats": (lambda z: z.astype(jnp.float16).astype(jnp.float32), "on float16"),
    "bfloat16": (lambda z: (z.astype(jnp.bfloat16) * 2).astype(jnp.float32), "on bfloat16"),
    "reduced precision": (lambda z: lax.reduce_precision(z, 5, 10), "5 bits of exponent"),
    "whole numbers": (lambda z: z.astype(jnp.int32).astype(jnp.float32), "to whole numbers"),
    "sums of whole numbers": (lambda z: ((z > 0).astype(jnp.int32) + 1) / z, "'add' on int32"),
    "bits of whole numbers": (lambda z: ~(z > 0).astype(jnp.int32) * z, "'not' on int32"),
    "counts": (lambda z: jnp.argmax(z, 1, keepdims=True) + z, "'argmax' on int32"),
    "bytes": (lambda z: jnp.where(z > 0, 300, 2).astype(jnp.uint8) * z, "of int32 to uint8"),
    "large whole numbers": (
        lambda z: lax.select_n(z > 0, *jnp.array([[[2**24 + 1]], [[7]]])).astype(jnp.float32),
        "above 16,777,216",
    ),
    "a reduction of one's own": (
        lambda z: lax.reduce(z, jnp.float32(1), lambda a, b: a * b + 1, (1,))[:, None] + z,
        "the operation 'reduce' is not known",
    ),
    "a choice for each platform": (
        lambda z: lax.platform_dependent(z, cpu=jnp.sin, cuda=jnp.sin, tpu=jnp.sin, rocm=jnp.sin),
        "the operation '",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_give_other_values_is_refused(name):
    """Review 11: numbers of another type than the browser's are not followed as if they were."""
    function, said = REFUSED[name]
    with pytest.raises(programs.UnsupportedError, match=said):
        programs.program(lambda z: function(z).reshape(1, 1, -1, 1), 1)


def of_derived_exponentials(z):
    weights = 6 * jax.random.normal(rng.root(0), (4, 100))
    return (z @ jnp.exp(weights)).reshape(-1, 10, 10, 1)


def of_batch_norm_with_dead_channels(z):
    """As a network with batch norm is: what is derived of variances ranges far."""
    weights = jax.random.normal(rng.root(0), (4, 100))
    variance = jnp.where(jnp.arange(100) < 8, 0.0, 1.0)
    scale = 1 / jnp.sqrt(variance + 1e-5)
    hidden = (z @ weights) * jnp.where(variance > 0, 1.0, 0.0)[None] * scale[None]
    return jax.nn.sigmoid(hidden).reshape(-1, 10, 10, 1)


def of_a_mask_of_infinities(z):
    weights = jax.random.normal(rng.root(0), (4, 100))
    mask = jnp.where(jnp.arange(100) % 3 == 0, -jnp.inf, 0.0)
    return jax.nn.sigmoid(z @ weights + mask[None]).reshape(-1, 10, 10, 1)


def of_whole_numbers_in_a_table(z):
    table = jnp.arange(300) * 300
    return jnp.sin(z.sum() * table[:100].astype(jnp.float32)).reshape(1, 10, 10, 1) + jnp.where(
        z.sum() > 0, table.reshape(1, 3, 100)[:, 0], table.reshape(1, 3, 100)[:, 1]
    ).astype(jnp.float32).reshape(1, 10, 10, 1)


def of_infinities_between_weights(z):
    weights = jax.random.normal(rng.root(0), (4, 100)).at[2, 5].set(jnp.nan)
    return jax.nn.sigmoid(z @ weights).reshape(-1, 10, 10, 1)


@pytest.mark.parametrize(
    "decode",
    [
        of_derived_exponentials,
        of_batch_norm_with_dead_channels,
        of_a_mask_of_infinities,
        of_whole_numbers_in_a_table,
        of_infinities_between_weights,
    ],
)
def test_constants_that_are_derived_keep_their_bits_where_that_is_seen(decode):
    """Review 2: what is written is what was compared, and it is JSON (`followed` refuses NaN)."""
    z = np.asarray(jax.random.normal(rng.root(1), (3, 4)))
    wanted = np.concatenate([np.asarray(decode(one[None])).reshape(1, -1) for one in z])
    found = followed(programs.program(decode, 4), z)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2.5e-4)


def test_weights_beside_what_is_derived_still_have_16_bits():
    """Review 2: a short constant that ranges far does not make the whole page larger."""
    first = jax.random.normal(rng.root(0), (4, 100))
    second = jax.random.normal(rng.root(1), (100, 100))
    scale = jnp.where(jnp.arange(100) < 8, 316.0, 1.0)
    dead = jnp.where(jnp.arange(100) < 8, 0.0, 1e-2)

    def decode(z):
        hidden = jnp.tanh((z @ first) * dead[None]) * scale[None]
        return jax.nn.sigmoid(hidden @ second + 0.5 * scale[None]).reshape(-1, 10, 10, 1)

    program = programs.program(decode, 4)
    sizes = {kind for one in program["constants"].values() for kind in one if kind != "scale"}
    assert sizes == {"i16", "f32"}
    z = np.asarray(jax.random.normal(rng.root(1), (3, 4)))
    np.testing.assert_allclose(followed(program, z), decode(z).reshape(3, -1), atol=2.5e-4)


def test_weights_are_compared_where_the_page_is_walked():
    """Review 2: codes of an autoencoder lie anywhere, draws from N(0, I) say nothing of them."""
    weights = jax.random.normal(rng.root(0), (4, 5000))

    def decode(z):
        return jax.nn.sigmoid(z @ weights).reshape(-1, 50, 100, 1)

    assert "i16" in kinds(programs.program(decode, 4))
    far = 300 * jax.random.normal(rng.root(1), (5, 4))
    program = programs.program(decode, 4, tried=far)
    assert kinds(program) == {"f32"}
    with pytest.raises(ValueError, match=r"tried must have the shape \[T, 4\], got \[5, 3\]"):
        programs.program(decode, 4, tried=far[:, :3])
