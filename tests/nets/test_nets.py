import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import AxisType, PartitionSpec

from genmod import nets, rng

GLOROT = jax.nn.initializers.glorot_uniform()  # compiles faster than normal weights


def test_mlp_is_the_layers_it_says():
    net = nets.mlp((5, 3), (2, 2, 1), activation=jnp.tanh)
    x = jax.random.normal(rng.root(0), (7, 2, 2, 1))
    params = net.init(rng.root(1), x)
    h = np.asarray(x, np.float64).reshape(7, 4)
    for name in ("layer_0", "layer_1"):
        h = np.tanh(h @ np.asarray(params[name]["kernel"], np.float64))
    expected = (h @ np.asarray(params["output"]["kernel"], np.float64)).reshape(7, 2, 2, 1)
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-5, atol=1e-6)
    assert not any(np.any(layer["bias"]) for layer in params.values())


def test_an_output_function_is_the_last_thing():
    x = jax.random.normal(rng.root(0), (7, 4))
    plain, bounded = nets.mlp((5,), (3, 2)), nets.mlp((5,), (3, 2), output=jnp.tanh)
    params = plain.init(rng.root(1), x)
    np.testing.assert_array_equal(
        bounded.apply(params, x), jnp.tanh(plain.apply(params, x).reshape(7, 6)).reshape(7, 3, 2)
    )


def test_heads_are_initialised_as_layers_of_their_own():
    # Glorot's bound is sqrt(6 / (in + out)): one layer of 2 x 50 outputs would get a smaller one.
    net = nets.mlp((), 100, heads=2)
    kernel = np.asarray(net.init(rng.root(0), jnp.zeros((1, 30)))["output"]["kernel"])
    bound = np.sqrt(6 / (30 + 50))
    for head in np.split(kernel, 2, axis=1):
        assert 0.98 * bound < np.abs(head).max() <= bound
    assert not np.allclose(*np.split(kernel, 2, axis=1))


def test_output_bias_is_where_the_output_begins():
    bias = jnp.arange(6.0).reshape(3, 2, 1)
    net = nets.mlp((4,), (3, 2, 1), output_bias=bias)
    x = jnp.zeros((2, 5))
    y = net.apply(net.init(rng.root(0), x), x)
    np.testing.assert_array_equal(y, np.stack([bias, bias]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": (0,), "out": 2}, "hidden must be a positive whole number, got 0"),
        ({"hidden": (), "out": -1}, "out must be a positive whole number, got -1"),
        ({"hidden": (), "out": 3, "heads": 2}, "heads must divide the output's width 3, got 2"),
        (
            {"hidden": (), "out": 3, "output_bias": np.zeros(2)},
            r"output_bias must have the output's shape \(3,\), got \(2,\)",
        ),
        ({"hidden": (4,), "out": 2, "norm": "btach"}, "unknown norm 'btach'; did you mean 'batch'"),
        (
            {"hidden": (6,), "out": 2, "norm": "group", "groups": 4},
            "groups must divide the channels 6, got 4",
        ),
        (
            {"hidden": (6,), "out": 2, "norm": "batch", "groups": 2},
            "groups must be None unless norm is 'group', got 2 for 'batch'",
        ),
    ],
)
def test_mlp_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        nets.mlp(**arguments)


def test_a_module_with_state_of_its_own_is_refused():
    net = nets.from_linen(linen.BatchNorm(use_running_average=False))
    with pytest.raises(ValueError, match=r"BatchNorm keeps the collections \['batch_stats'\]"):
        net.init(rng.root(0), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"BatchNorm keeps the variables \['BatchStat'\]"):
        nets.from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs))


def test_nnx_modules_become_pure_functions():
    def build(rngs):
        return nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), jnp.tanh, nnx.Linear(4, 2, rngs=rngs))

    net = nets.from_nnx(build)
    x = jax.random.normal(rng.root(0), (5, 3))
    params = net.init(rng.root(1), x)
    np.testing.assert_array_equal(net.apply(params, x), build(nnx.Rngs(rng.root(1)))(x))
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert not np.any(jax.jit(net.apply)(zeros, x))
    assert np.any(net.apply(params, x)), "apply must not write into the module it was made from"
    gradient = jax.grad(lambda p: net.apply(p, x).sum())(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


# Normalisation


def statistics(x):
    """Mean and variance over all but the last axis, in float64."""
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return x.mean(0), x.var(0)


def batch_norm(**options):
    return nets.from_linen(nets.BatchNorm(**options), standing=True)


@pytest.mark.parametrize("shape", [(6, 3), (4, 5, 2, 3)])
def test_batch_norm_is_its_closed_form(shape):
    # A mean that is large beside the deviation: the difference of squares would be noise.
    x = 1000 + jax.random.normal(rng.root(0), shape)
    net = batch_norm()
    params = net.init(rng.root(1), x)
    assert set(params) == {"scale", "bias"}
    params = {"scale": jnp.array([1.0, 2.0, -0.5]), "bias": jnp.array([0.0, 1.0, 3.0])}
    mean, variance = statistics(x)
    expected = (np.asarray(x, np.float64) - mean) / np.sqrt(variance + 1e-5)
    expected = expected * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_batch_norm_over_devices_is_that_of_the_whole_batch(how):
    x = jax.random.normal(rng.root(0), (6, 4)) * jnp.arange(1.0, 7.0)[:, None]
    net = nets.mlp((8,), 2, norm="batch")
    params = net.init(rng.root(1), x)

    def loss(params, x):
        return jnp.square(net.apply(params, x)).mean()

    def on_devices(params, x):
        def mean_loss(params):
            return jax.lax.pmean(loss(params, x), "devices")

        value, gradient = jax.value_and_grad(mean_loss)(params)
        return net.apply(params, x), value, jax.lax.pmean(gradient, "devices")

    if how == "pmap":
        mapped = jax.pmap(on_devices, "devices", in_axes=(None, 0), out_axes=(0, None, None))
        y, value, gradient = mapped(params, x.reshape(2, 3, 4))
        y = y.reshape(6, 2)
    else:
        mesh = jax.make_mesh((2,), ("devices",), axis_types=(AxisType.Auto,))
        split, same = PartitionSpec("devices"), PartitionSpec()
        mapped = jax.shard_map(
            on_devices, mesh=mesh, in_specs=(same, split), out_specs=(split, same, same)
        )
        y, value, gradient = jax.jit(mapped)(params, x)
    np.testing.assert_allclose(y, net.apply(params, x), rtol=1e-4, atol=1e-5)
    expected, expected_gradient = jax.value_and_grad(loss)(params, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (gradient, expected_gradient)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def normalised_nets():
    return {
        "mlp": (nets.mlp((8, 6), 2, norm="batch"), (4,)),
        "generator": (
            nets.dcgan_generator((8, 8, 1), width=4, norm="batch", kernel_init=GLOROT),
            (4,),
        ),
        "features": (nets.fourier_features(nets.mlp((8,), 2, norm="batch"), (0.5, 1)), (2,)),
        "module": (batch_norm(), (3,)),
    }


@pytest.mark.parametrize("name", normalised_nets())
def test_standing_moments_make_each_example_independent(name):
    net, shape = normalised_nets()[name]
    x = 1 + 2 * jax.random.normal(rng.root(0), (3, 8, *shape))
    params = jax.jit(net.init)(rng.root(1), x[0])
    apply, standing = jax.jit(net.apply), jax.jit(net.standing)

    one = standing(params, x[:1])
    np.testing.assert_allclose(apply(one, x[0]), apply(params, x[0]), rtol=1e-5, atol=1e-5)

    fixed = standing(params, x)
    whole = apply(fixed, x[0])
    assert not np.allclose(whole, apply(params, x[0]), atol=1e-4)
    for rows in (slice(0, 1), slice(2, 7), np.array([5, 5, 0])):
        np.testing.assert_allclose(apply(fixed, x[0, rows]), whole[rows], rtol=1e-4, atol=1e-5)
    again = standing(fixed, x)
    for a, b in zip(*map(jax.tree.leaves, (fixed, again)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_standing_moments_are_pooled_over_the_batches():
    x = jax.random.normal(rng.root(0), (3, 8, 5, 4)) * jnp.arange(1.0, 4.0).reshape(3, 1, 1, 1)
    x = x + jnp.arange(3.0).reshape(3, 1, 1, 1)
    net = batch_norm()
    params = net.standing(net.init(rng.root(1), x[0]), x)
    mean, variance = statistics(x)
    np.testing.assert_allclose(params["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(params["variance"], variance, rtol=1e-5)
    assert set(params) == {"scale", "bias", "mean", "variance"}


def test_only_batch_normalisation_has_standing_moments():
    for net in (
        nets.mlp((4,), 2),
        nets.mlp((4,), 2, norm="group"),
        nets.mlp((), 2, norm="batch"),
        nets.fourier_features(nets.mlp((4,), 2), (1.0,)),
        nets.dcgan_discriminator(norm="group"),
    ):
        assert net.standing is None


def test_group_norm_is_its_closed_form_and_knows_one_example():
    net = nets.mlp((8,), (8,), norm="group", groups=2, activation=lambda x: x)
    x = jax.random.normal(rng.root(0), (5, 8))
    params = net.init(rng.root(1), x)
    assert set(params) == {"layer_0", "norm_0", "output"}
    params["norm_0"] = {"scale": jnp.arange(8.0), "bias": jnp.ones(8)}
    h = (np.asarray(x, np.float64) @ np.asarray(params["layer_0"]["kernel"])).reshape(5, 2, 4)
    h = (h - h.mean(2, keepdims=True)) / np.sqrt(h.var(2, keepdims=True) + 1e-5)
    expected = (h.reshape(5, 8) * np.arange(8) + 1) @ np.asarray(params["output"]["kernel"])
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.apply(params, x[1:2]), expected[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups"), [(3, 1), (8, 1), (16, 2), (64, 8), (200, 25), (256, 32), (1000, 25)]
)
def test_default_groups(channels, groups):
    assert nets.normalization.default_groups(channels) == groups


# Maxout and Fourier features


@pytest.mark.parametrize("norm", [None, "batch"])
def test_maxout_is_the_largest_of_its_pieces(norm):
    net = nets.mlp((3,), 2, activation=nets.maxout(4), norm=norm)
    x = jax.random.normal(rng.root(0), (6, 5))
    params = net.init(rng.root(1), x)
    assert params["layer_0"]["kernel"].shape == (5, 12)
    h = np.asarray(x, np.float64) @ np.asarray(params["layer_0"]["kernel"])
    if norm:
        h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
    expected = h.reshape(6, 4, 3).max(1) @ params["output"]["kernel"]
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_maxout_pieces_are_initialised_as_layers_of_their_own():
    net = nets.mlp((50,), 1, activation=nets.maxout(5))
    kernel = np.asarray(net.init(rng.root(0), jnp.zeros((1, 30)))["layer_0"]["kernel"])
    bound = np.sqrt(6 / (30 + 50))
    for piece in np.split(kernel, 5, axis=1):
        assert 0.98 * bound < np.abs(piece).max() <= bound


def test_maxout_refuses():
    with pytest.raises(ValueError, match="pieces must be a positive whole number, got 0"):
        nets.maxout(0)


def test_fourier_features_are_waves_beside_the_points():
    net = nets.fourier_features(nets.mlp((), 3), (0.25, 2))
    x = jax.random.normal(rng.root(0), (6, 2))
    params = net.init(rng.root(1), x)
    p = np.asarray(x, np.float64)
    waves = [wave(2 * np.pi * f * p) for f in (0.25, 2) for wave in (np.sin, np.cos)]
    expected = np.concatenate([p, *waves], 1) @ params["output"]["kernel"]
    np.testing.assert_allclose(net.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_fourier_features_refuse():
    inner = nets.mlp((), 3)
    with pytest.raises(ValueError, match="frequencies must hold at least one number, got none"):
        nets.fourier_features(inner, ())
    with pytest.raises(ValueError, match=r"frequencies must be a positive number, got -1"):
        nets.fourier_features(inner, (1, -1))
    with pytest.raises(ValueError, match=r"points must be \[B, D\], got shape \(3,\)"):
        nets.fourier_features(inner, (1,)).init(rng.root(0), jnp.zeros(3))
