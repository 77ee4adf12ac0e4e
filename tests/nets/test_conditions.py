import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import devices, nets, rng

CLASSES = 4
OF_CLASSES = pytest.mark.parametrize("of_classes", [nets.conditional, nets.per_class])


def inputs(num=6, key=0):
    labels = np.random.default_rng(key).integers(0, CLASSES, num).astype(np.int32)
    return jax.random.normal(rng.root(key), (num, 3, 1)), labels


@pytest.fixture(scope="module")
def made():
    """Both kinds of networks of classes, with their parameters."""
    x, labels = inputs()
    every = {f: f(nets.mlp((5,), (2, 3)), CLASSES) for f in (nets.conditional, nets.per_class)}
    return {f: (net, jax.jit(net.init)(rng.root(1), x, labels)) for f, net in every.items()}


def test_labels_are_appended_as_one_hot_vectors_of_mean_square_one():
    net = nets.conditional(nets.mlp((), 2), CLASSES)
    x, labels = inputs()
    params = net.init(rng.root(0), x, labels)
    kernel = np.asarray(params["output"]["kernel"], np.float64)
    assert kernel.shape == (3 + CLASSES, 2)
    expected = np.asarray(x).reshape(6, 3) @ kernel[:3] + np.sqrt(CLASSES) * kernel[3 + labels]
    np.testing.assert_allclose(net.apply(params, x, labels), expected, rtol=1e-5, atol=1e-6)


def test_several_labels_of_an_example_are_appended_one_by_one():
    seen = nets.Net(lambda key, x: (), lambda params, x: x)
    net = nets.conditional(seen, CLASSES)
    pair = np.array([[0, 3], [2, 2], [1, 0]], np.uint8)
    y = net.apply((), jnp.zeros((3, 1)), pair)
    np.testing.assert_array_equal(y[:, 1:], 2 * np.eye(CLASSES)[pair].reshape(3, -1))


def test_any_other_condition_is_appended_as_it_is():
    net = nets.conditional(nets.Net(lambda key, x: (), lambda params, x: x))
    x = jnp.ones((3, 2, 1))
    image = jax.random.normal(rng.root(0), (3, 2, 2, 1))
    c = {"image": image, "age": np.array([0.1, 0.2, 0.3]), "glasses": np.array([True, False, True])}
    c["young"] = np.array([False, True, True])
    y = net.apply((), x, c)
    assert y.dtype == jnp.float32
    rows = [c["age"][:, None], c["glasses"][:, None], image.reshape(3, 4)]
    rows.append(c["young"][:, None])
    assert net.apply((), x.astype(jnp.bfloat16), c).dtype == jnp.bfloat16
    np.testing.assert_allclose(y, np.concatenate([np.ones((3, 2)), *rows], 1), rtol=1e-6)


# So few numbers of rows that their programs are few.
ROWS = lambda num: st.lists(st.integers(0, 5), min_size=num, max_size=num)  # noqa: E731


@OF_CLASSES
@settings(max_examples=8)
@given(rows=st.sampled_from((1, 4, 8)).flatmap(ROWS))
def test_labels_travel_with_their_examples(made, of_classes, rows):
    """Any selection, order, cut and repetition of the batch."""
    net, params = made[of_classes]
    x, labels = inputs()
    apply = jax.jit(net.apply)
    whole, some = apply(params, x, labels), apply(params, x[np.array(rows)], labels[rows])
    assert whole.shape == (6, 2, 3)
    np.testing.assert_allclose(some, whole[np.array(rows)], rtol=1e-5, atol=1e-6)


@OF_CLASSES
def test_another_label_is_another_output_of_this_example_alone(made, of_classes):
    net, params = made[of_classes]
    x, labels = inputs()
    other = labels.copy()
    other[2] = (labels[2] + 1) % CLASSES
    same = net.apply(params, x, labels) == net.apply(params, x, other)
    assert same.all((1, 2)).tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("num", [12, 1])
def test_each_class_has_a_network_of_its_own(made, num):
    own, params = made[nets.per_class]
    net = nets.mlp((5,), (2, 3))
    x, labels = inputs(num)
    y = own.apply(params, x, labels)
    for i, label in enumerate(labels):
        alone = net.apply(jax.tree.map(lambda leaf, c=label: leaf[c], params), x[i : i + 1])
        np.testing.assert_allclose(y[i : i + 1], alone, atol=1e-6)
    kernels = params["layer_0"]["kernel"]
    assert len({kernel.tobytes() for kernel in np.asarray(kernels)}) == CLASSES


def test_a_class_learns_from_its_own_examples(made):
    own, params = made[nets.per_class]
    x, _ = inputs()
    gradient = jax.grad(lambda p: own.apply(p, x, np.array([0, 0, 2, 2, 2, 0])).sum())(params)
    moved = [bool(np.any(k)) for k in np.asarray(gradient["output"]["kernel"])]
    assert moved == [True, False, True, False]


@OF_CLASSES
@pytest.mark.end_to_end
def test_networks_of_classes_can_be_mapped_over(made, of_classes):
    net, params = made[of_classes]
    x, labels = inputs()
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    both = jax.vmap(net.apply, (0, None, None))(two, x, labels)
    np.testing.assert_allclose(both[0], net.apply(params, x, labels), rtol=1e-5, atol=1e-6)
    parts = jax.vmap(net.apply, (None, 0, 0))(params, x.reshape(2, 3, 3, 1), labels.reshape(2, 3))
    np.testing.assert_allclose(parts.reshape(both[0].shape), both[0], rtol=1e-5, atol=1e-6)
    keys = rng.per_example(rng.root(1), 2)
    seeds = jax.vmap(net.init, (0, None, None))(keys, x, labels)
    assert jax.tree.leaves(seeds)[0].shape[0] == 2


@OF_CLASSES
@settings(max_examples=20)
@given(labels=st.lists(st.integers(-3, CLASSES + 2), min_size=6, max_size=6))
def test_a_label_out_of_range_is_refused_or_becomes_nan(made, of_classes, labels):
    """In a compiled program its value is not known: it must stop the training, not mislead it."""
    net, params = made[of_classes]
    x, wrong = inputs()[0], [not 0 <= label < CLASSES for label in labels]
    labels = np.array(labels, np.int32)
    y = jax.jit(net.apply)(params, x, labels)
    assert np.isnan(y).all((1, 2)).tolist() == np.isnan(y).any((1, 2)).tolist() == wrong
    if any(wrong):
        message = rf"labels must be in \[0, 4\), .* got values from {min(labels)} to {max(labels)}"
        with pytest.raises(ValueError, match=message):
            net.apply(params, x, labels)
        with pytest.raises(ValueError, match=message):
            net.init(rng.root(0), x, labels)


@OF_CLASSES
@settings(max_examples=40)
@given(
    shape=st.lists(st.integers(0, 7), max_size=3),
    dtype=st.sampled_from([np.int32, np.uint8, np.float32, np.bool_]),
)
def test_what_are_no_labels_is_refused(of_classes, shape, dtype):
    net = of_classes(nets.mlp((), 1), CLASSES)
    c = np.zeros(shape, dtype)
    fits = shape[:1] == [6] and (of_classes is nets.conditional or len(shape) == 1)
    if fits and dtype in (np.int32, np.uint8):
        net.init(rng.root(0), jnp.ones((6, 2)), c)
        return
    message = r"labels must be whole numbers, one for each of 6 examples, got an array"
    with pytest.raises(ValueError, match=message):
        net.init(rng.root(0), jnp.ones((6, 2)), c)


def test_labels_of_a_wide_type_do_not_wrap_into_the_range():
    net = nets.conditional(nets.mlp((), 1), 300)
    params = net.init(rng.root(0), jnp.ones((1, 2)), np.array([0]))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 300\)"):
        net.apply(params, jnp.ones((1, 2)), np.array([2**32 + 3]))
    few = np.array([7], np.uint8)  # a one-hot vector counted in uint8 would be 1 at 7 and at 263
    seen = nets.conditional(nets.Net(lambda key, x: (), lambda params, x: x), 300)
    assert np.flatnonzero(seen.apply((), jnp.zeros((1, 1)), few)).tolist() == [8]


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (np.zeros(3, np.int32), r"got an array int32 \[3\]; for labels give .* number of classes"),
        (
            np.zeros((2, 5), np.float32),
            r"\[3, \.\.\.\], one entry .* got an array float32 \[2, 5\]",
        ),
        ({"a": 1.0}, r"floating numbers or booleans \[3, \.\.\.\], .* got 1.0"),
        ({}, "must hold at least one array, got a dict of nothing"),
        (None, "must hold at least one array, got None"),
    ],
)
def test_what_is_no_condition_is_refused(c, message):
    net = nets.conditional(nets.mlp((), 1))
    with pytest.raises(ValueError, match=message):
        net.init(rng.root(0), jnp.ones((3, 2)), c)


@OF_CLASSES
def test_networks_that_cannot_be_of_classes_are_refused(of_classes):
    with pytest.raises(ValueError, match="classes must be a positive whole number, got 0"):
        of_classes(nets.mlp((), 2), 0)
    with pytest.raises(ValueError, match="net must be a network of x alone"):
        of_classes(nets.conditional(nets.mlp((), 2), 3), 4)


def test_a_network_of_each_class_must_not_mix_the_classes():
    net = nets.mlp((5,), 2, norm="batch")
    with pytest.raises(ValueError, match="must not normalise over its batch, got batch normalis"):
        nets.per_class(net, CLASSES)
    hidden = nets.per_class(nets.Net(net.init, net.apply), CLASSES)
    with pytest.raises(ValueError, match="must not normalise over its batch, got norm_0: "):
        hidden.init(rng.root(0), *inputs())


def test_a_conditional_network_with_batch_norm_can_stand():
    net = nets.conditional(nets.mlp((5,), 2, norm="batch")._replace(standing_size=8), CLASSES)
    assert net.standing_size == 8
    x = jax.random.normal(rng.root(0), (3, 8, 6))
    labels = np.random.default_rng(0).integers(0, CLASSES, (3, 8))
    params = net.init(rng.root(1), x[0], labels[0])
    fixed = net.standing(params, x, labels)
    whole = net.apply(fixed, x[0], labels[0])
    np.testing.assert_allclose(net.apply(fixed, x[0, 2:4], labels[0, 2:4]), whole[2:4], atol=1e-6)
    one = net.standing(params, x[:1], labels[:1])
    expected = net.apply(params, x[0], labels[0])
    np.testing.assert_allclose(net.apply(one, x[0], labels[0]), expected, rtol=1e-4, atol=1e-5)


# Modules of flax


class Shifted(linen.Module):
    norm: bool = False

    @linen.compact
    def __call__(self, x, c):
        x = linen.Dense(2)(x)
        x = nets.BatchNorm()(x) if self.norm else x
        return x + linen.Embed(CLASSES, 2)(c)


class ShiftedNnx(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.embed = nnx.Linear(3, 2, rngs=rngs), nnx.Embed(CLASSES, 2, rngs=rngs)

    def __call__(self, x, c):
        return self.dense(x) + self.embed(c)


def one(x, c=None):
    return x if c is None else x + c


def test_modules_of_two_arguments_take_a_condition():
    x, labels = inputs()
    x = x[:, :, 0]
    for net in (nets.from_linen(Shifted()), nets.from_nnx(ShiftedNnx)):
        assert net.needs_condition
        params = net.init(rng.root(0), x, labels)
        assert net(params, x, labels).shape == (6, 2)
        some = net.apply(params, x[3:], labels[3:])
        np.testing.assert_allclose(some, net.apply(params, x, labels)[3:], rtol=1e-6)
    net = nets.from_linen(Shifted(norm=True), standing=True)
    params = net.init(rng.root(0), x, labels)
    fixed = net.standing(params, x[None], labels[None])
    expected = net.apply(params, x, labels)
    np.testing.assert_allclose(net.apply(fixed, x, labels), expected, rtol=1e-4, atol=1e-5)


def test_an_option_of_a_module_is_no_condition():
    class Option(linen.Module):
        def __call__(self, x, train=False):
            return x + train

    class Maybe(linen.Module):
        def __call__(self, x, c=None):
            return one(x, c)

    option, maybe = nets.from_linen(Option()), nets.from_linen(Maybe())
    assert not option.takes_condition
    assert not nets.from_linen(linen.Sequential([])).takes_condition
    assert (maybe.takes_condition, maybe.needs_condition) == (True, False)
    x = jnp.ones((2, 3))
    assert option({}, x, x).tolist() == x.tolist()
    assert maybe({}, x, x).tolist() == (2 * x).tolist()
    assert maybe({}, x).tolist() == x.tolist()


def test_a_module_that_draws_random_numbers_is_refused():
    """On init flax takes the key of the parameters, and so it used to fail much later."""

    class Drops(linen.Module):
        active: bool

        @linen.compact
        def __call__(self, x):
            return linen.Dropout(0.5, deterministic=not self.active)(linen.Dense(2)(x))

    nets.from_linen(Drops(active=False)).init(rng.root(0), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r'Drops draws random numbers .*"dropout".*outside'):
        nets.from_linen(Drops(active=True)).init(rng.root(0), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="Dropout keeps the variables"):
        nets.from_nnx(lambda rngs: nnx.Dropout(0.5, rngs=rngs))


@pytest.mark.parametrize("standing", [True, False])
def test_standing_must_be_said_of_modules_with_batch_norm_and_of_no_others(standing):
    module = linen.Dense(2) if standing else Shifted(norm=True)
    x, labels = jnp.ones((6, 3)), inputs()[1]
    given = (x,) if standing else (x, labels)
    word = "no nets" if standing else "nets"
    with pytest.raises(ValueError, match=f"contains {word}.BatchNorm, so standing must be"):
        nets.from_linen(module, standing=standing).init(rng.root(0), *given)


# Wrapping


def test_a_wrapped_network_keeps_what_it_is():
    inner = nets.mlp((5,), 2, norm="batch")._replace(standing_size=12)
    net = nets.wrapped(inner, before=lambda x: 2 * x, after=jnp.tanh)
    x = jax.random.normal(rng.root(0), (3, 8, 4))
    params = net.init(rng.root(1), x[0])
    np.testing.assert_array_equal(
        net.apply(params, x[0]), jnp.tanh(inner.apply(inner.init(rng.root(1), 2 * x[0]), 2 * x[0]))
    )
    fixed, expected = net.standing(params, x), inner.standing(params, 2 * x)
    for a, b in zip(*map(jax.tree.leaves, (fixed, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert net.standing_size == 12
    assert not net.takes_condition
    assert nets.wrapped(nets.mlp((), 2), after=jnp.tanh).standing is None


def test_a_wrapped_network_takes_the_condition_of_its_own():
    inner = nets.conditional(nets.mlp((5,), 2, norm="batch"), CLASSES)
    x, labels = inputs()
    for net in (
        nets.wrapped(inner, before=lambda x: 2 * x),
        nets.wrapped(nets.wrapped(inner), before=lambda x: 2 * x),
        nets.wrapped(inner._replace(apply=jax.jit(inner.apply)), before=lambda x: 2 * x),
    ):
        assert net.needs_condition
        params = net.initial(rng.root(0), x, labels)
        expected = inner.apply(params, 2 * x, labels)
        np.testing.assert_allclose(net(params, x, labels), expected, rtol=1e-5)
        fixed = net.standing(params, x[None], labels[None])
        np.testing.assert_allclose(net(fixed, x, labels), expected, rtol=1e-4, atol=1e-5)
    maybe = nets.wrapped(nets.Net(lambda key, x, c=None: (), lambda params, x, c=None: one(x, c)))
    assert (maybe.takes_condition, maybe.needs_condition) == (True, False)


def test_fourier_features_keep_the_condition():
    net = nets.fourier_features(nets.conditional(nets.mlp((), 1), CLASSES), (1.0,))
    x, labels = inputs()
    params = net.init(rng.root(0), x[:, :2, 0], labels)
    assert params["output"]["kernel"].shape == (2 * 3 + CLASSES, 1)


def test_statistics_of_a_batch_are_seen():
    net = nets.mlp((5, 5), 2, norm="batch")
    x = jnp.ones((4, 3))
    params = net.init(rng.root(0), x)
    fixed = net.standing(params, x[None])
    with devices.batch_statistics() as outer:
        with devices.batch_statistics() as layers:
            jax.eval_shape(lambda p: net.apply(p, x), params)
        with devices.batch_statistics() as none:
            jax.eval_shape(lambda p: net.apply(p, x), fixed)
    assert (layers, none, outer) == (["norm_0", "norm_1"], [], ["norm_0", "norm_1"])
    with devices.batch_statistics() as layers:
        nets.from_linen(nets.BatchNorm(), standing=True).init(rng.root(0), x)
    assert set(layers) == {"BatchNorm"}
