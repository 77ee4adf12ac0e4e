import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmod import gan, nets, rng

SHAPE, CLASSES = (4, 4, 1), 3


def split(batch):
    return batch["image"], batch["label"]


def batch(num=6, key=0):
    labels = np.random.default_rng(key).integers(0, CLASSES, num).astype(np.int32)
    return {"image": jax.random.uniform(rng.root(key), (num, *SHAPE)), "label": labels}


def generator(**options):
    return nets.conditional(nets.mlp((8,), SHAPE, **options), CLASSES)


def discriminator(packing=1):
    return gan.packed(nets.conditional(nets.mlp((8,), 1), CLASSES), packing)


def make(first=None, second=None, condition=split):
    return gan.make(
        first or generator(), second or discriminator(), latent_dim=2, condition=condition
    )


@pytest.fixture(scope="module")
def made():
    model = make()
    return model, model.init(rng.root(0), batch())


def test_both_networks_get_the_condition(made):
    model, params = made
    x, labels = model.condition(batch())
    z = model.latent(rng.per_example(rng.root(1), 6))
    np.testing.assert_array_equal(
        model.generate(params, z, labels), generator().apply(params.generator, z, labels)
    )
    np.testing.assert_array_equal(
        model.discriminate(params, x, labels),
        discriminator().apply(params.discriminator, x, labels)[:, 0],
    )
    other = (labels + 1) % CLASSES
    assert (model.generate(params, z, labels) != model.generate(params, z, other)).any()


def test_one_network_may_do_without_the_condition():
    model = make(second=nets.mlp((8,), 1))
    params = model.init(rng.root(0), batch())
    x, labels = split(batch())
    given, alone = model.discriminate(params, x, labels), model.discriminate(params, x)
    np.testing.assert_array_equal(given, alone)
    model = make(first=nets.mlp((8,), SHAPE))
    model.init(rng.root(0), batch())


def test_a_gan_without_condition_has_an_empty_one():
    x = batch()["image"]
    model = make(nets.mlp((8,), SHAPE), nets.mlp((8,), 1), condition=None)
    images, c = model.condition(x)
    assert images is x
    assert c is None


@settings(max_examples=20)
@given(order=st.permutations(range(6)))
def test_labels_travel_with_their_examples(made, order):
    model, params = made
    x, labels = split(batch())
    order = np.array(order)
    whole = model.discriminate(params, x, labels)
    some = model.discriminate(params, x[order], labels[order])
    np.testing.assert_allclose(some, whole[order], rtol=1e-5, atol=1e-6)


def test_a_condition_may_be_any_tree():
    def of_attributes(batch):
        return batch[0], {"age": batch[1], "sketch": batch[0][:, ::2, ::2] > 0.5}

    x, age = batch()["image"], jnp.arange(6.0)
    first, second = nets.conditional(nets.mlp((8,), SHAPE)), nets.conditional(nets.mlp((8,), 1))
    model = make(first, second, of_attributes)
    params = model.init(rng.root(0), (x, age))
    assert params.generator["layer_0"]["kernel"].shape == (2 + 1 + 4, 8)
    model.check((x, age))
    c = model.condition((x, age))[1]
    whole = model.discriminate(params, x, c)
    some = model.discriminate(params, x[2:4], jax.tree.map(lambda leaf: leaf[2:4], c))
    np.testing.assert_allclose(some, whole[2:4], rtol=1e-5, atol=1e-6)


# Packs


@pytest.mark.parametrize("num", [1, 2, 3])
def test_the_conditions_of_a_pack_lie_side_by_side(num):
    seen = nets.Net(lambda key, x, c: c["a"].shape, lambda params, x, c: (x, c))
    net = gan.packed(seen, num)
    assert net.needs_condition
    x, c = jnp.arange(12.0).reshape(6, 2), {"a": np.arange(6), "b": np.arange(24).reshape(6, 4)}
    if num == 1:
        assert net is seen
        return
    assert net.initial(rng.root(0), x, c) == (6 // num, num)
    packs, conditions = net(None, x, c)
    np.testing.assert_array_equal(packs, x.reshape(6 // num, -1))
    np.testing.assert_array_equal(conditions["a"], np.arange(6).reshape(-1, num))
    np.testing.assert_array_equal(conditions["b"], np.arange(24).reshape(-1, num, 4))


def test_packs_keep_what_their_network_is():
    plain = gan.packed(nets.mlp((8,), 1), 2)
    assert not plain.takes_condition
    maybe = gan.packed(nets.Net(lambda key, x, c=None: (), lambda params, x, c=None: c), 2)
    assert (maybe.takes_condition, maybe.needs_condition) == (True, False)
    assert maybe.apply((), jnp.ones((4, 1))) is None
    inner = nets.conditional(nets.mlp((8,), 1, norm="batch")._replace(standing_size=4), CLASSES)
    net = gan.packed(inner, 2)
    assert net.standing_size == 8
    x = jax.random.normal(rng.root(0), (3, 8, 5))
    labels = np.random.default_rng(0).integers(0, CLASSES, (3, 8))
    params = net.init(rng.root(1), x[0], labels[0])
    fixed = net.standing(params, x, labels)
    whole = net.apply(fixed, x[0], labels[0])
    some = net.apply(fixed, x[0, 2:4], labels[0, 2:4])
    np.testing.assert_allclose(some, whole[1:2], rtol=1e-4, atol=1e-5)


def test_a_packed_discriminator_judges_the_labels_of_its_pack():
    model = make(second=discriminator(packing=2))
    x, labels = split(batch())
    params = model.init(rng.root(0), batch())
    assert params.discriminator["layer_0"]["kernel"].shape == (2 * 16 + 2 * CLASSES, 8)
    logits = model.discriminate(params, x, labels)
    other = labels.copy()
    other[3] = (labels[3] + 1) % CLASSES
    changed = model.discriminate(params, x, other)
    assert (np.asarray(logits) == np.asarray(changed)).tolist() == [True, False, True]


# Standing statistics


@pytest.mark.costly
def test_standing_statistics_are_of_the_conditions_that_were_given():
    model = make(first=generator(norm="batch"))
    params = model.init(rng.root(0), batch())
    z = model.latent(rng.per_example(rng.root(1), 4))
    ones = np.ones(4, np.int32)
    of_ones = model.standing(rng.root(2), params, np.ones(1, np.int32))
    of_all = model.standing(rng.root(2), params, np.array([0, 1, 2, 0, 1, 2]))
    alone = model.generate(of_ones, z[:1], ones[:1])
    np.testing.assert_allclose(model.generate(of_ones, z, ones)[:1], alone, rtol=1e-4, atol=1e-5)
    assert np.abs(alone - model.generate(of_all, z[:1], ones[:1])).max() > 0.1
    # The exact statistics of label 1, from many draws of it.
    many = model.latent(rng.per_example(rng.root(3), 4000))
    same = np.ones(4000, np.int32)
    np.testing.assert_allclose(
        model.generate(of_ones, many, same), model.generate(params, many, same), atol=0.2
    )
    again = model.standing(rng.root(2), params, np.array([0, 1, 2, 0, 1, 2]))
    for a, b in zip(*map(jax.tree.leaves, (of_all, again)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"conditions must be given, .* generator needs .* None"):
        model.standing(rng.root(2), params)
    with pytest.raises(ValueError, match=r"conditions must be arrays \[N, \.\.\.\], .* 7"):
        model.standing(rng.root(2), params, 7)


def test_standing_draws_each_condition_as_often_as_the_others():
    seen = []

    def standing(params, z, c):
        seen.append((z.shape, c))
        return params

    inner = generator(norm="batch")
    model = make(first=inner._replace(standing=standing))
    params = gan.GanParams(None, None)
    assert model.standing(rng.root(0), params, {"a": np.arange(5), "b": np.arange(5) + 5}) == params
    (shape, c), counts = seen[-1], np.bincount(seen[-1][1]["a"].ravel(), minlength=5)
    assert shape == (16, 64, 2)
    np.testing.assert_array_equal(c["b"], c["a"] + 5)
    assert np.abs(counts - 1024 / 5).max() < 4 * np.sqrt(1024 * 0.2 * 0.8)


# What is refused


def unconditional():
    return nets.mlp((8,), SHAPE), nets.mlp((8,), 1)


def test_networks_that_do_not_agree_with_the_condition_are_refused():
    with pytest.raises(ValueError, match="neither the generator nor the discriminator takes a"):
        make(*unconditional())
    with pytest.raises(ValueError, match="as the generator needs a condition, got None"):
        make(condition=None)
    with pytest.raises(ValueError, match="as the discriminator needs a condition, got None"):
        make(first=unconditional()[0], condition=None)
    with pytest.raises(ValueError, match=r"condition must be a function .* got 'labels'"):
        make(condition="labels")


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda b: b["image"], r"condition must return \(x, c\), got an array float32"),
        (lambda b: (b, b["label"]), r"x, which condition returns, .* dict of 'image', 'label'"),
        (lambda b: (b["image"], None), r"c, which condition returns, must be arrays .* got None"),
        (lambda b: (b["image"], b["label"][:5]), r"arrays \[6, \.\.\.\], .* array int32 \[5\]"),
        (lambda b: (b["image"], {"a": b["label"], "b": 3}), r"got an array int32 \[6\], 3"),
        (lambda b: (b["image"], ()), r"must be arrays .* got a tuple of 0"),
    ],
)
def test_what_is_no_images_and_condition_is_refused(condition, message):
    model = make(condition=condition)
    for call in (model.condition, model.check, lambda b: model.init(rng.root(0), b)):
        with pytest.raises(ValueError, match=message):
            call(batch())


def test_a_batch_that_is_a_tree_needs_a_condition():
    model = make(*unconditional(), condition=None)
    for call in (model.condition, model.check, lambda b: model.init(rng.root(0), b)):
        with pytest.raises(
            ValueError, match=r"batch must be images .* dict of 'image', 'label'; .*condition="
        ):
            call(batch())
        with pytest.raises(ValueError, match=r"batch must be images \[B, ...\], got a tuple of 2"):
            call((1, 2))


def test_a_condition_that_is_missing_or_not_expected_is_refused(made):
    model, params = made
    x, labels = split(batch())
    z = jnp.zeros((6, 2))
    with pytest.raises(ValueError, match="c must be given, as the generator needs a condition"):
        model.generate(params, z)
    with pytest.raises(ValueError, match="c must be given, as the discriminator needs a condit"):
        model.discriminate(params, x)
    with pytest.raises(ValueError, match=r"c must be arrays \[6, .* array int32 \[4\]"):
        model.generate(params, z, labels[:4])
    with pytest.raises(ValueError, match=r"c must be arrays \[6, \.\.\.\], .* got 7"):
        model.discriminate(params, x, 7)
    plain = make(*unconditional(), condition=None)
    params = plain.init(rng.root(0), x)
    for name, call, data in (
        ("generator", plain.generate, z),
        ("discriminator", plain.discriminate, x),
    ):
        with pytest.raises(ValueError, match=f"c must be None, as the model of this {name}"):
            call(params, data, labels)


def test_labels_of_the_first_batch_are_checked():
    """Labels from 1 on: a compiled step cannot see it, and would train on NaN."""
    made = batch()
    for net in (
        {"first": unconditional()[0]},
        {"second": unconditional()[1]},
        {"second": discriminator(packing=2)},
    ):
        model = make(**net)
        model.check(made)
        with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), .* got .* from 1 to 3"):
            model.check({**made, "label": made["label"] + 1})


# What a user writes


def projection_discriminator(width=5):
    """The projection discriminator of Miyato & Koyama, 2018 (arXiv:1802.05637)."""
    body, head = nets.mlp((8,), width), nets.mlp((), 1)

    def init(key, x, c):
        return {
            "body": body.init(rng.stream(key, "body"), x),
            "head": head.init(rng.stream(key, "head"), jnp.zeros((1, width))),
            "classes": jax.random.normal(rng.stream(key, "classes"), (CLASSES, width)),
        }

    def apply(params, x, c):
        h = body.apply(params["body"], x)
        return head.apply(params["head"], h)[:, 0] + (params["classes"][c] * h).sum(1)

    return nets.Net(init, apply)


@pytest.mark.costly
def test_a_projection_discriminator_is_a_net_that_a_user_writes():
    model = make(second=projection_discriminator())
    x, labels = split(batch())
    params = jax.jit(model.init)(rng.root(0), batch())
    logits = model.discriminate(params, x, labels)

    own = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params.discriminator)
    layer, output = own["body"]["layer_0"], own["body"]["output"]
    h = np.maximum(np.asarray(x, np.float64).reshape(6, -1) @ layer["kernel"], 0)
    h = h @ output["kernel"]
    expected = (h @ own["head"]["output"]["kernel"])[:, 0] + (own["classes"][labels] * h).sum(1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    # The gradient by the vectors of the classes is the sum of each class's features.
    gradient = jax.grad(lambda p: model.discriminate(p, x, labels).sum())(params).discriminator
    of_class = [h[labels == k].sum(0) for k in range(CLASSES)]
    np.testing.assert_allclose(gradient["classes"], of_class, rtol=1e-4, atol=1e-5)

    def generators_loss(params):
        z = model.latent(rng.per_example(rng.root(1), 6))
        fake = model.generate(params, z, labels)
        return gan.nonsaturating.generator(logits, model.discriminate(params, fake, labels)).mean()

    # The game's gradient by finite differences, along itself.
    slope = jax.grad(generators_loss)(params)
    size = sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(slope.generator))
    step = 1e-2 / np.sqrt(size)

    def at(distance):
        moved = jax.tree.map(lambda p, g: p + distance * g, params.generator, slope.generator)
        return float(generators_loss(params._replace(generator=moved)))

    assert (at(step) - at(-step)) / (2 * step) == pytest.approx(size, rel=0.02)


def test_a_penalty_looks_at_the_critic_of_each_condition(made):
    model, params = made
    x, labels = split(batch())
    keys = rng.per_example(rng.root(0), 6)

    def penalties(x, labels):
        return gan.r1(keys[: len(x)], lambda x: model.discriminate(params, x, labels), x, x)

    whole = penalties(x, labels)
    np.testing.assert_allclose(penalties(x[:3], labels[:3]), whole[:3], rtol=1e-4, atol=1e-6)
    assert (np.asarray(whole) != np.asarray(penalties(x, (labels + 1) % CLASSES))).any()
