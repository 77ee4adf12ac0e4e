import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from genmod import nets, rng
from genmod.nets import convolution
from genmod.nets.convolution import conv_averaged, conv_enlarged, conv_grouped

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def lax_conv(x, kernel, *, stride=1, padding="SAME"):
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def lax_transpose(x, kernel, *, stride, padding="SAME"):
    strides = stride if isinstance(stride, tuple) else (stride, stride)
    return lax.conv_transpose(x, kernel, strides, padding, dimension_numbers=DIMENSIONS)


def pair(shape, kernel_shape, dtype=jnp.float32):
    x = jax.random.normal(rng.root(0), shape, dtype)
    return x, jax.random.normal(rng.root(1), kernel_shape, dtype)


def derivatives(function, x, kernel, **options):
    """Both gradients of a loss that weighs every pixel, and the output."""

    def loss(x, kernel):
        y = function(x, kernel, **options)
        weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.sum(jnp.sin(y) * weights), y

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)


def assert_equal(actual, expected, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def in_both_precisions(cases):
    """Every case in double precision, every other one in single as well."""
    single = [(*case, "float32", 1e-4) for case in cases[::2]]
    return single + [(*case, "float64", 1e-10) for case in cases]


CONVOLUTIONS = [
    # size, channels in and out, kernel, options
    ((8, 8), 1, 8, (4, 4), {"stride": 2}),
    ((7, 9), 3, 1, (3, 3), {"stride": 2}),
    ((9, 6), 8, 3, (5, 5), {"stride": 2}),
    ((6, 7), 8, 8, (3, 3), {}),
    ((7, 6), 17, 2, (3, 2), {"padding": ((1, 0), (2, 1))}),  # few channels of the output
    ((5, 6), 8, 1, (3, 3), {}),
    ((6, 6), 16, 4, (4, 4), {"stride": 2}),  # wide enough for a product a block
    ((9, 8), 16, 3, (3, 2), {"stride": (3, 2), "padding": ((-1, 0), (1, 4))}),
]


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "window", "options", "dtype", "tolerance"),
    in_both_precisions(CONVOLUTIONS),
)
def test_conv_is_that_of_lax(size, inputs, outputs, window, options, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, kernel = pair((2, *size, inputs), (*window, inputs, outputs), dtype)
        ours = derivatives(nets.conv, x, kernel, **options)
        assert_equal(ours, derivatives(lax_conv, x, kernel, **options), tolerance)


@pytest.mark.parametrize(
    ("channels", "groups", "options"),
    [((6, 4), 2, {}), ((8, 8), 8, {"stride": 2}), ((3, 6), 3, {"padding": ((0, 1), (2, 0))})],
)
def test_a_grouped_conv_is_that_of_lax(channels, groups, options):
    def reference(x, kernel, *, stride=1, padding="SAME"):
        return lax.conv_general_dilated(
            *(x, kernel, (stride, stride), padding),
            dimension_numbers=DIMENSIONS,
            feature_group_count=groups,
        )

    with jax.enable_x64(True):
        x, kernel = pair((2, 5, 6, channels[0]), (3, 3, channels[0] // groups, channels[1]), float)
        ours = derivatives(nets.conv_grouped, x, kernel, groups=groups, **options)
        assert_equal(ours, derivatives(reference, x, kernel, **options), 1e-10)


def test_groups_that_do_not_divide_are_refused():
    x, kernel = jnp.zeros((2, 5, 5, 6)), jnp.zeros((3, 3, 3, 4))
    with pytest.raises(ValueError, match=r"groups must divide .* got 4 for shapes \(2, 5, 5, 6\)"):
        nets.conv_grouped(x, kernel, groups=4)
    with pytest.raises(ValueError, match="groups must be a positive whole number, got 0"):
        nets.conv_grouped(x, kernel, groups=0)
    with pytest.raises(ValueError, match="got shapes"):
        nets.conv_grouped(x, kernel, groups=1)


def enlarged_then_convolved(x, kernel, *, stride):
    return lax_conv(jnp.repeat(jnp.repeat(x, stride, 1), stride, 2), kernel)


def convolved_then_averaged(x, kernel, *, stride):
    total = lax.reduce_window(
        lax_conv(x, kernel), 0.0, lax.add, (1, stride, stride, 1), (1, stride, stride, 1), "VALID"
    )
    return total / stride**2


@pytest.mark.parametrize(
    ("ours", "apart", "channels", "window", "stride"),
    [
        (conv_enlarged, enlarged_then_convolved, (3, 2), (3, 3), 2),
        (conv_averaged, convolved_then_averaged, (3, 2), (3, 3), 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (conv_enlarged, enlarged_then_convolved, (16, 4), (3, 3), 2),
                (conv_enlarged, enlarged_then_convolved, (2, 3), (2, 5), 3),
                (conv_enlarged, enlarged_then_convolved, (2, 3), (1, 4), 1),
                (conv_averaged, convolved_then_averaged, (16, 4), (3, 3), 2),
                (conv_averaged, convolved_then_averaged, (2, 3), (2, 5), 3),
                (conv_averaged, convolved_then_averaged, (2, 3), (1, 4), 1),
            ]
        ),
    ],
)
def test_a_resampling_and_a_convolution_are_one(ours, apart, channels, window, stride):
    with jax.enable_x64(True):
        x, kernel = pair((2, 6, 12, channels[0]), (*window, *channels), "float64")
        found = derivatives(ours, x, kernel, stride=stride)
        assert_equal(found, derivatives(apart, x, kernel, stride=stride), 1e-10)


@pytest.mark.parametrize("function", [conv_enlarged, conv_averaged])
def test_a_resampling_refuses(function):
    x, kernel = jnp.zeros((1, 6, 9, 2)), jnp.zeros((3, 3, 2, 1))
    with pytest.raises(ValueError, match="stride must be a positive whole number, got 0"):
        function(x, kernel, stride=0)
    with pytest.raises(ValueError, match=r"x must be \[B, H, W, I\] and kernel"):
        function(x, jnp.zeros((3, 3, 1, 1)), stride=3)
    if function is conv_averaged:
        with pytest.raises(ValueError, match=r"stride must divide .* \(6, 9\), got 2"):
            function(x, kernel, stride=2)


TRANSPOSED = [
    ((4, 4), 8, 1, (4, 4), {"stride": 2}),
    ((3, 5), 1, 8, (3, 3), {"stride": 2}),
    ((5, 4), 3, 3, (5, 5), {"stride": 2}),
    ((4, 5), 8, 3, (4, 4), {"stride": 1}),
    ((4, 3), 4, 16, (4, 4), {"stride": 2}),
    ((3, 4), 3, 16, (5, 4), {"stride": (1, 3), "padding": ((1, 5), (0, 2))}),
]


@pytest.mark.parametrize(
    ("size", "inputs", "outputs", "window", "options", "dtype", "tolerance"),
    in_both_precisions(TRANSPOSED),
)
def test_transposed_conv_is_that_of_lax(size, inputs, outputs, window, options, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        x, kernel = pair((2, *size, inputs), (*window, inputs, outputs), dtype)
        ours = derivatives(nets.conv_transpose, x, kernel, **options)
        assert_equal(ours, derivatives(lax_transpose, x, kernel, **options), tolerance)


@pytest.mark.parametrize("window", [(1, 2), (3, 3), (4, 4), (5, 5)])
def test_transposed_conv_multiplies_the_size_by_its_stride(window):
    x, kernel = pair((2, 3, 5, 1), (*window, 1, 2))
    y = jax.eval_shape(lambda x, k: nets.conv_transpose(x, k, stride=2), x, kernel)
    assert y.shape == (2, 6, 10, 2)


@settings(max_examples=6)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    channels=st.sampled_from([1, 3, 16]),
    padding=st.sampled_from(["SAME", "VALID"]),
)
def test_any_shape_is_that_of_lax(size, window, stride, channels, padding):
    x, kernel = pair((2, *size, channels), (*window, channels, 2))
    options = {"stride": stride, "padding": padding}

    def both(conv, transpose):
        def run(x, kernel):
            y = transpose(x, kernel, **options)
            fits = padding == "SAME" or all(np.less_equal(window, size))
            return (y, conv(x, kernel, **options)) if fits else y

        return jax.jit(run)(x, kernel)

    ours = both(nets.conv, nets.conv_transpose)
    assert_equal(ours, both(lax_conv, lax_transpose), 1e-5)


def test_transposed_conv_is_the_adjoint_of_the_flipped_one():
    x, kernel = pair((2, 6, 6, 3), (4, 4, 3, 5))
    y = jax.random.normal(rng.root(2), (2, 3, 3, 5))

    @jax.jit
    def products(x, y, kernel):
        flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        one_way = jnp.vdot(nets.conv(x, kernel, stride=2), y)
        return one_way, jnp.vdot(x, nets.conv_transpose(y, flipped, stride=2))

    np.testing.assert_allclose(*products(x, y, kernel), rtol=1e-4)


def two_layers(conv, transpose):
    def network(x, kernels):
        return transpose(jnp.tanh(conv(x, kernels[0], stride=2)), kernels[1], stride=2)

    return network


def kernels(size=4, dtype=jnp.float32):
    shapes = (size, size, 2, 16), (size, size, 16, 2)
    return tuple(0.3 * kernel for kernel in pair(*shapes, dtype))


@pytest.mark.costly
@pytest.mark.parametrize("size", [3, 4])
def test_second_derivatives_are_those_of_lax(size):
    # What a gradient penalty needs: the gradient of the squared norm of another.
    def of_squared_norm(conv, transpose):
        def loss(x, kernels):
            return jnp.sum(jnp.sin(two_layers(conv, transpose)(x, kernels)))

        def squared_norm(x, kernels):
            return jnp.sum(jnp.square(jax.grad(loss)(x, kernels)))

        return jax.jit(jax.value_and_grad(squared_norm, argnums=(0, 1)))(x, weights)

    with jax.enable_x64(True):
        x = jax.random.normal(rng.root(3), (2, 6, 6, 2), "float64")
        weights = kernels(size, "float64")
        ours = of_squared_norm(nets.conv, nets.conv_transpose)
        assert_equal(ours, of_squared_norm(lax_conv, lax_transpose), 1e-10)


def test_training_inside_a_loop_is_that_of_lax():
    x = jax.random.normal(rng.root(3), (4, 8, 8, 2))

    def trained(network):
        def step(kernels, _):
            loss, gradient = jax.value_and_grad(lambda k: jnp.mean(jnp.square(network(x, k) - x)))(
                kernels
            )
            return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, gradient), loss

        return jax.jit(lambda k: lax.scan(step, k, length=4))(kernels())

    ours = trained(two_layers(nets.conv, nets.conv_transpose))
    assert_equal(ours, trained(two_layers(lax_conv, lax_transpose)), 1e-4)
    assert ours[1][-1] < ours[1][0]


@pytest.mark.parametrize("groups", [1, 3])
def test_layers_of_equal_shapes_are_traced_once(monkeypatch, groups):
    """A deep network is traced in the time of its different layers: minutes for R3GAN otherwise."""
    traced, patches = [], convolution._patches
    monkeypatch.setattr(convolution, "_patches", lambda *args: traced.append(0) or patches(*args))
    x, kernel = pair((2, 5, 7, 3), (3, 3, 3 // groups, 3))

    def deep(x, kernel):
        for _ in range(6):
            x = jnp.sin(conv_grouped(x, kernel, groups=groups))
        return x.sum()

    jax.eval_shape(jax.grad(lambda *args: jax.grad(deep)(*args).sum(), argnums=1), x, kernel)
    assert len(traced) == 1


def test_vmap_over_kernels_and_forward_derivatives():
    x = jax.random.normal(rng.root(3), (4, 8, 8, 2))
    stacked = jax.tree.map(lambda k: jnp.stack([k, 2 * k, -k]), kernels())

    def both(network):
        each = jax.vmap(lambda k: jax.grad(lambda k: jnp.sum(jnp.sin(network(x, k))))(k))(stacked)
        return each, jax.jvp(lambda x: network(x, kernels()), (x,), (jnp.cos(x),))

    ours = jax.jit(lambda: both(two_layers(nets.conv, nets.conv_transpose)))()
    theirs = jax.jit(lambda: both(two_layers(lax_conv, lax_transpose)))()
    assert_equal(ours, theirs, 1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("convolve", [nets.conv, nets.conv_transpose])
def test_other_platforms_get_their_own_convolution(convolve, platform):
    x, kernel = pair((2, 4, 4, 3), (4, 4, 3, 2))
    traced = jax.jit(lambda x, k: convolve(x, k, stride=2)).trace(x, kernel)
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (
            ((2, 4, 4), (3, 3, 1, 1)),
            {},
            r"x must be \[B, H, W, I\] and kernel .* got shapes \(2, 4",
        ),
        (((2, 4, 4, 2), (3, 3, 1, 1)), {}, r"got shapes \(2, 4, 4, 2\) and \(3, 3, 1, 1\)"),
        (((2, 4, 4, 1), (3, 3, 1, 1)), {"stride": 0}, "stride must be a positive whole number"),
        (((2, 4, 4, 1), (3, 3, 1, 1)), {"stride": (1, 2, 3)}, "stride must be one number or two"),
        (((2, 4, 4, 1), (3, 3, 1, 1)), {"padding": "FULL"}, "unknown padding 'FULL'"),
        (((2, 4, 4, 1), (3, 3, 1, 1)), {"padding": ((1, 1),)}, "padding must be .* got"),
        (
            ((2, 4, 4, 1), (3, 3, 1, 1)),
            {"padding": ((-9, 0), (0, 0))},
            "padding must leave room for the kernel",
        ),
    ],
)
@pytest.mark.parametrize("convolve", [nets.conv, nets.conv_transpose])
def test_bad_arguments_are_refused(convolve, shapes, options, message):
    with pytest.raises(ValueError, match=message):
        convolve(*map(jnp.ones, shapes), **{"stride": 1, **options})


def test_mixed_dtypes_are_refused():
    with pytest.raises(
        ValueError, match="kernel must have the images' dtype float32, got bfloat16"
    ):
        nets.conv(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1), jnp.bfloat16))


# DCGAN


def uniform(key, shape, dtype=jnp.float32):
    """Weights that compile faster than normal ones."""
    return jax.random.uniform(key, shape, dtype, -0.1, 0.1)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("norm", [None, "batch", "group"])
def test_dcgan_shapes(channels, norm):
    generator = nets.dcgan_generator((8, 12, channels), width=8, norm=norm)
    discriminator = nets.dcgan_discriminator(width=8, norm=norm)
    z = jax.ShapeDtypeStruct((5, 7), jnp.float32)
    params = jax.eval_shape(generator.init, rng.root(1), z)
    images = jax.eval_shape(generator.apply, params, z)
    assert images.shape == (5, 8, 12, channels)
    others = jax.eval_shape(discriminator.init, rng.root(2), images)
    assert jax.eval_shape(discriminator.apply, others, images).shape == (5,)
    layers = {"layer_0", "layer_1", "output"}
    assert set(params) == layers | ({"norm_0", "norm_1"} if norm else set())
    assert set(others) == layers | ({"norm_1"} if norm else set())
    assert params["layer_1"]["kernel"].shape == (4, 4, 16, 8)
    for net in (generator, discriminator):
        assert (net.standing is not None) == (norm == "batch")


def test_dcgan_is_the_layers_it_says():
    z = jax.random.normal(rng.root(0), (3, 4))
    generator = nets.dcgan_generator((8, 8, 2), width=8, norm="batch", kernel_init=uniform)
    params = jax.jit(generator.init)(rng.root(1), z)

    def normalised(x):
        mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5)

    def transposed(x, layer):
        return np.asarray(lax_transpose(x, params[layer]["kernel"], stride=2))

    h = np.asarray(z @ params["layer_0"]["kernel"]).reshape(3, 2, 2, 16)
    h = np.maximum(normalised(h), 0)
    h = np.maximum(normalised(transposed(h, "layer_1")), 0)
    images = np.tanh(transposed(h, "output"))
    np.testing.assert_allclose(jax.jit(generator.apply)(params, z), images, rtol=1e-4, atol=1e-5)

    discriminator = nets.dcgan_discriminator(width=8, out=10, kernel_init=uniform)
    params = jax.jit(discriminator.init)(rng.root(2), images)
    h = np.asarray(lax_conv(images, params["layer_0"]["kernel"], stride=2))
    h = np.asarray(lax_conv(np.maximum(h, 0.2 * h), params["layer_1"]["kernel"], stride=2))
    logits = np.maximum(h, 0.2 * h).reshape(3, -1) @ params["output"]["kernel"]
    assert logits.shape == (3, 10)
    actual = jax.jit(discriminator.apply)(params, images)
    np.testing.assert_allclose(actual, logits, rtol=1e-4, atol=1e-5)


def test_dcgan_weights_begin_small():
    params = jax.jit(nets.dcgan_discriminator().init)(rng.root(0), jnp.zeros((1, 8, 8, 1)))
    for layer in params.values():
        np.testing.assert_allclose(np.std(layer["kernel"]), 0.02, rtol=0.1)
        assert not np.any(layer["bias"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.dcgan_generator((28, 28)), r"shape must be \(H, W, C\), got \(28, 28\)"),
        (lambda: nets.dcgan_generator((28, 30, 1)), r"divisible by 4, got \(28, 30, 1\)"),
        (lambda: nets.dcgan_generator((28, 28, 0)), "shape must be a positive whole number, got 0"),
        (lambda: nets.dcgan_generator((8, 8, 1), norm="instance"), "unknown norm 'instance'"),
        (lambda: nets.dcgan_generator((8, 8, 1), width=0), "width must be a positive whole"),
        (lambda: nets.dcgan_discriminator(out=0), "out must be a positive whole number, got 0"),
        (
            lambda: nets.dcgan_discriminator(width=8, norm="group", groups=3),
            "groups must divide the channels 16, got 3",
        ),
        (
            lambda: nets.dcgan_discriminator(groups=4),
            "groups must be None unless norm is 'group', got 4 for None",
        ),
        (
            lambda: nets.dcgan_discriminator().init(rng.root(0), jnp.ones((2, 64))),
            r"images must be \[B, H, W, C\], got shape \(2, 64\)",
        ),
        (
            lambda: nets.dcgan_generator((8, 8, 1)).init(rng.root(0), jnp.ones(3)),
            r"latents must be \[B, L\], got shape \(3,\)",
        ),
    ],
)
def test_dcgan_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
