import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax

from genmod import nets, rng
from genmod.nets import winograd

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def native(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def pair(shape, kernel_shape, dtype):
    x = jax.random.normal(rng.root(0), shape, dtype)
    return x, 0.1 * jax.random.normal(rng.root(1), kernel_shape, dtype)


def planned(x, kernel, strides, padding):
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    y = jax.eval_shape(lambda x, kernel: native(x, kernel, strides, padding), x, kernel)
    return winograd.plan(
        *(x.shape, kernel.shape, x.dtype),
        **{"strides": strides, "before": [low for low, _ in padding], "out": y.shape[1:3]},
    )


@st.composite
def convolutions(draw):
    """A size, a kernel of two or three blocks of the strides per axis, strides, and padding."""
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    window = tuple(draw(st.integers(s + 1, 3 * s)) for s in strides)
    size = draw(st.tuples(st.integers(1, 22), st.integers(1, 22)))
    padding = draw(st.tuples(*2 * [st.tuples(st.integers(0, 4), st.integers(0, 4))]))
    assume(all(n + sum(p) >= k for n, p, k in zip(size, padding, window, strict=True)))
    return size, window, strides, padding


@settings(deadline=None, max_examples=10)
@given(convolutions(), st.integers(1, 3), st.integers(1, 3))
def test_any_shape_is_that_of_lax(convolution, inputs, outputs):
    size, window, strides, padding = convolution
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_ENOUGH", {2: 0, 3: 0})
        patch.setattr(winograd.Plan, "products", lambda plan, inputs, outputs: 0)
        x, kernel = pair((2, *size, inputs), (*window, inputs, outputs), jnp.float64)
        plan = planned(x, kernel, strides, padding)
        y = jax.jit(lambda x, kernel: winograd.conv(x, kernel, plan))(x, kernel)
        np.testing.assert_allclose(y, native(x, kernel, strides, padding), rtol=0, atol=1e-12)


# Images whose axes hold one tile, two of them, and more, with layers that are large enough.
LAYERS = [
    ((32, 4, 9, 32), (3, 3), 1),
    ((16, 13, 8, 32), (3, 3), 1),
    ((2, 14, 14, 64), (5, 5), 2),
]


@pytest.mark.parametrize(("shape", "window", "stride"), LAYERS)
def test_layers_and_their_derivatives_are_those_of_lax(shape, window, stride):
    """A convolution, then one that is transposed, to the second derivatives."""
    strides, channels = (stride, stride), shape[3]

    def penalised(conv, transpose):
        def loss(x, kernels):
            y = jnp.tanh(conv(x, kernels[0]))
            return jnp.sum(jnp.sin(transpose(y, kernels[1])) ** 2) / x.size

        def with_penalty(x, kernels):
            return loss(x, kernels) + 10 * jnp.sum(jax.grad(loss)(x, kernels) ** 2)

        return jax.jit(jax.value_and_grad(with_penalty, argnums=(0, 1)))(x, kernels)

    with jax.enable_x64(True):
        x, kernel = pair(shape, (*window, channels, channels), jnp.float64)
        kernels = [kernel, jnp.flip(kernel, 0)]
        assert planned(x, kernel, strides, "SAME") is not None
        ours = penalised(
            lambda x, kernel: nets.conv(x, kernel, stride=stride),
            lambda x, kernel: nets.conv_transpose(x, kernel, stride=stride),
        )
        theirs = penalised(
            lambda x, kernel: native(x, kernel, strides, "SAME"),
            lambda x, kernel: lax.conv_transpose(
                x, kernel, strides, "SAME", dimension_numbers=DIMENSIONS
            ),
        )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())


@pytest.mark.parametrize(("shape", "window", "stride"), LAYERS)
def test_rounding_errors_are_as_small_as_promised(shape, window, stride):
    strides = (stride, stride)
    x, kernel = pair(shape, (*window, shape[3], shape[3]), jnp.float32)
    y = winograd.conv(x, kernel, planned(x, kernel, strides, "SAME"))
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel)]
        expected = np.asarray(native(*wide, strides, "SAME"))
    assert np.sqrt(np.mean((y - expected) ** 2)) < 2e-6 * expected.std()


@pytest.mark.parametrize("outputs", [1, 2, 3, 4])
@pytest.mark.parametrize("taps", [2, 3])
def test_a_tile_is_a_convolution(outputs, taps):
    """Integers come back as the exact sums of products, from as few products as are possible."""
    into, kernel, back = winograd._matrices(outputs, taps)
    assert into.shape[0] == outputs + taps - 1
    x, weights = np.arange(outputs + taps - 1) ** 2 - 3.0, np.arange(taps) + 2.0
    y = back @ ((kernel @ weights) * (into @ x))
    np.testing.assert_allclose(y, np.correlate(x, weights), rtol=0, atol=1e-12)


def test_a_plan_takes_fewer_products():
    x, kernel = jnp.zeros((64, 32, 32, 64)), jnp.zeros((3, 3, 64, 64))
    plan = planned(x, kernel, (1, 1), "SAME")
    assert plan is not None
    # 36 products for 16 outputs, and sums of 36 inputs and for 16 outputs.
    tiles = 8 * 8
    assert plan.products(64, 64) == tiles * (36 * 64 * 64 + 36 * 36 * 64 + 36 * 16 * 64)


@pytest.mark.parametrize(
    ("shape", "kernel", "dtype"),
    [
        ((64, 32, 32, 64), (1, 1, 64, 64), "float32"),
        ((64, 32, 32, 64), (5, 5, 64, 64), "float32"),
        ((64, 32, 32, 64), (1, 3, 64, 64), "float32"),
        ((64, 32, 32, 64), (3, 3, 64, 64), "bfloat16"),
        ((1, 8, 8, 32), (3, 3, 32, 32), "float32"),
        ((64, 32, 32, 3), (3, 3, 3, 64), "float32"),
        ((64, 16, 16, 64), (2, 2, 64, 64), "float32"),
    ],
    ids=[
        "no taps",
        "too many",
        "one axis",
        "half precision",
        "small",
        "channels",
        "small for two taps",
    ],
)
def test_where_it_does_not_help_there_is_no_plan(shape, kernel, dtype):
    made = winograd.plan(
        shape, kernel, jnp.dtype(dtype), strides=(1, 1), before=(0, 0), out=shape[1:3]
    )
    assert made is None


def test_seeds_side_by_side_have_their_own_kernels():
    x, kernel = pair((16, 8, 8, 32), (3, 3, 32, 32), jnp.float32)
    assert planned(x, kernel, (1, 1), "SAME") is not None
    kernels = jnp.stack([kernel, -2 * kernel])
    y = jax.vmap(nets.conv, in_axes=(None, 0))(x, kernels)
    np.testing.assert_allclose(y[1], -2 * y[0], rtol=0, atol=1e-5)
    _, tangent = jax.jvp(lambda k: nets.conv(x, k), (kernel,), (kernel,))
    np.testing.assert_allclose(tangent, y[0], rtol=0, atol=3e-5)
