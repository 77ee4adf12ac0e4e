"""Residual networks against XLA's convolutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import nets, rng
from genmod.nets.residual import residual_decoder, residual_encoder, residual_stage

X = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
SILU = jax.nn.silu


def convolved(layer, x, stride=1, transposed=False):
    function = jax.lax.conv_transpose if transposed else jax.lax.conv_general_dilated
    y = function(
        x, layer["kernel"], (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["bias"].reshape(1, 1, 1, -1)


def cell(params, x):
    """The cell's formula."""
    h = x
    for name in ("narrow", "middle", "wide"):
        h = convolved(params[name], SILU(h))
    return x + h


def close(net, formula, params, x):
    """Asserts that a network is its formula, and returns the shape of the output."""
    found, expected = jax.jit(lambda *inputs: (net.apply(*inputs), formula(*inputs)))(params, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return found.shape


def made(net, x):
    """Random parameters: also of what starts at zero."""
    form = jax.eval_shape(net.init, rng.root(0), x)
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape, scale=0.5).astype("f4"), form)


@pytest.mark.parametrize(
    ("resize", "stride", "transposed", "size"),
    [
        ("none", 1, False, (4, 6)),
        pytest.param("half", 2, False, (2, 3), marks=pytest.mark.slow),
        pytest.param("double", 2, True, (8, 12), marks=pytest.mark.slow),
    ],
)
def test_a_stage_is_a_convolution_then_cells(resize, stride, transposed, size):
    net = residual_stage(4, cells=2, resize=resize, out=5)
    params = made(net, X)
    assert params["first"]["kernel"].shape[:2] == ((1, 1) if resize == "none" else (4, 4))
    assert params["cell_1"]["middle"]["kernel"].shape == (3, 3, 2, 2)

    def formula(params, x):
        h = convolved(params["first"], x, stride, transposed)
        h = cell(params["cell_1"], cell(params["cell_0"], h))
        return convolved(params["output"], SILU(h))

    assert close(net, formula, params, X) == (2, *size, 5)


def test_each_cell_begins_as_the_identity():
    net = residual_stage(4)
    params = jax.jit(net.init)(rng.root(0), X)
    assert "output" not in params
    close(net, lambda params, x: convolved(params["first"], x), params, X)


def test_the_last_convolution_has_an_initializer_of_its_own():
    net = residual_stage(4, out=500, output_init=nets.normal(0.01))
    params = jax.jit(net.init)(rng.root(0), X)
    assert 0.008 < np.std(params["output"]["kernel"]) < 0.012
    assert 0.6 < np.std(params["first"]["kernel"]) * np.sqrt(3 / 2) < 1.4  # He's


def test_an_encoder_halves_then_flattens():
    net = residual_encoder(6, widths=(2, 4))
    params = made(net, X)

    def formula(params, x):
        h = cell(params["cell_0_0"], convolved(params["half_0"], x, 2))
        h = cell(params["cell_1_0"], convolved(params["half_1"], h, 2))
        assert h.shape == (2, 1, 2, 4)
        return SILU(h).reshape(2, -1) @ params["output"]["kernel"] + params["output"]["bias"][None]

    close(net, formula, params, X)


@pytest.mark.slow
def test_an_encoders_heads_are_initialised_as_layers_of_their_own():
    of = functools.partial(residual_encoder, widths=(2,), kernel_init=nets.glorot_uniform)
    kernel = jax.jit(of(400, heads=2).init)(rng.root(0), X)["output"]["kernel"]
    bound = np.sqrt(6 / (12 + 200))
    assert 0.98 * bound < np.abs(kernel).max() <= bound


def test_a_decoder_doubles_up_to_images():
    z = np.random.default_rng(2).normal(size=(2, 3)).astype(np.float32)
    net = residual_decoder((4, 8, 3), widths=(4, 2))
    params = made(net, z)

    def formula(params, z):
        h = z @ params["first"]["kernel"] + params["first"]["bias"][None]
        h = cell(params["cell_0_0"], h.reshape(2, 1, 2, 4))
        h = cell(params["cell_1_0"], convolved(params["double_0"], SILU(h), 2, True))
        return convolved(params["double_1"], SILU(h), 2, True) + params["bias"][None]

    close(net, formula, params, z)


@pytest.mark.slow
def test_a_decoder_also_takes_images_of_its_first_size():
    net = residual_decoder((8, 12, 1), widths=(4,))
    params = made(net, X)

    def formula(params, x):
        h = cell(params["cell_0_0"], convolved(params["first"], x))
        return convolved(params["double_0"], SILU(h), 2, True) + params["bias"][None]

    close(net, formula, params, X)


def test_output_bias_is_where_the_output_begins():
    bias = np.arange(32.0).reshape(4, 8, 1)
    net = residual_decoder((4, 8, 1), widths=(2,), output_bias=bias)
    params = jax.jit(net.init)(rng.root(0), jnp.zeros((2, 3)))
    np.testing.assert_array_equal(params["bias"], bias)
    assert params["bias"].dtype == jnp.float32
    zero = jnp.zeros((2, 3))  # whose features are all zero, as are all biases but this one
    np.testing.assert_array_equal(jax.jit(net.apply)(params, zero), np.stack([bias, bias]))


@pytest.mark.parametrize(
    "norm", ["layer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("batch", "group"))]
)
def test_cells_may_be_normalised(norm):
    net = residual_stage(4, norm=norm)
    params = made(net, X)
    assert set(params["cell_0"]["norm"]) == {"scale", "bias"}
    assert (net.standing is not None) == (norm == "batch")

    @jax.jit
    def added(factor):
        """What the cell adds to its input, which the factor multiplies."""
        first = {"kernel": factor * params["first"]["kernel"], "bias": jnp.zeros(4)}
        return net.apply(params | {"first": first}, X) - convolved(first, X)

    assert np.abs(added(100.0)).max() > 0.3
    np.testing.assert_allclose(added(100.0), added(1000.0), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: residual_stage(3), "width must be even, as a cell halves it inside, got 3"),
        (lambda: residual_stage(0), "width must be a positive whole number, got 0"),
        (lambda: residual_stage(4, cells=0), "cells must be a positive whole number, got 0"),
        (lambda: residual_stage(4, resize="halve"), "unknown resize 'halve'; did you mean 'half'"),
        (lambda: residual_stage(4, out=0), "out must be a positive whole number, got 0"),
        (lambda: residual_stage(4, norm="leyer"), "unknown norm 'leyer'; did you mean 'layer'"),
        (lambda: residual_stage(4, norm="group", groups=3), "groups must divide the channels 4"),
        (
            lambda: residual_stage(4).init(rng.root(0), X[0]),
            r"images must be \[B, H, W, C\], got shape \(4, 6, 3\)",
        ),
        (lambda: residual_encoder(3, heads=2), "heads must divide the output's width 3, got 2"),
        (lambda: residual_encoder(3, widths=()), "widths must hold at least one number"),
        (
            lambda: residual_decoder((6, 8, 1), widths=(4, 4)),
            r"shape must be \(H, W, C\), with H and W multiples of 4 for 2 widths, got \(6, 8, 1\)",
        ),
        (lambda: residual_decoder((8, 8), widths=(4,)), r"shape must be \(H, W, C\)"),
        (
            lambda: residual_decoder((8, 8, 1), output_bias=np.zeros(8)),
            r"output_bias must have the images' shape \(8, 8, 1\), got \(8,\)",
        ),
        (
            lambda: residual_decoder((8, 8, 1), widths=(4,)).init(rng.root(0), X),
            r"input must be latents \[B, L\] or images \[B, 4, 4, I\], got shape \(2, 4, 6, 3\)",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
