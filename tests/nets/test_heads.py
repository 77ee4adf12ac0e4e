"""Networks on top of features against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import gan, nets, rng
from genmod.nets.heads import class_vectors, heads, linear_judge, projected, projection
from genmod.nets.spectral import spectral

CLASSES = 4
X = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
LABELS = np.array([3, 0, 0, 2, 3], np.int32)
FEATURES = nets.mlp((), 3, output=jnp.tanh)
NET = projection(FEATURES, CLASSES)
apply = jax.jit(NET.apply)


@pytest.fixture(scope="module")
def params():
    form = jax.eval_shape(NET.init, rng.root(0), X, LABELS)
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), form)


def test_logits_are_a_linear_function_of_features_and_one_of_the_class(params):
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    own, top = wide["features"]["output"], wide["top"]
    h = np.tanh(X.reshape(5, 6).astype(np.float64) @ own["kernel"] + own["bias"])
    expected = (h @ top["output"]["kernel"])[:, 0] + top["output"]["bias"]
    expected = expected + [top["embedding"][y] @ phi for y, phi in zip(LABELS, h, strict=True)]
    np.testing.assert_allclose(apply(params, X, LABELS), expected, rtol=1e-5, atol=1e-6)


def test_a_class_learns_from_its_own_examples(params):
    gradient = jax.jit(jax.grad(lambda p: NET.apply(p, X, LABELS).sum()))(params)
    moved = [bool(np.any(row)) for row in np.asarray(gradient["top"]["embedding"])]
    assert moved == [True, False, True, True]


def test_initial_weights_are_drawn_for_their_place():
    net = projection(nets.mlp((), 300), 500)
    params = jax.jit(net.init)(rng.root(0), X, LABELS)
    table = np.asarray(params["top"]["embedding"])
    assert table.shape == (500, 300)
    np.testing.assert_allclose(np.std(table), np.sqrt(2 / 800), rtol=0.02)
    assert params["top"]["output"]["kernel"].shape == (300, 1)
    assert not np.any(params["top"]["output"]["bias"])
    ends = params["features"]["output"]["kernel"][0], params["top"]["output"]["kernel"][:, 0]
    assert abs(np.corrcoef(*ends)[0, 1]) < 4 / np.sqrt(300)  # though their names are the same


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_labels_out_of_range_are_refused_or_become_nan(params, wrong):
    labels = LABELS.copy()
    labels[1] = wrong
    y = apply(params, X, labels)
    assert np.isnan(y).tolist() == [False, True, False, False, False]
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\), one of 4 classes, got val"):
        NET.apply(params, X, labels)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\)"):
        NET.init(rng.root(0), X, labels)


def test_features_with_batch_norm_can_stand():
    net = projection(nets.mlp((3,), 3, norm="batch")._replace(standing_size=5), CLASSES)
    assert net.standing_size == 5
    params = jax.jit(net.init)(rng.root(0), X, LABELS)
    fixed = jax.jit(net.standing)(params, X[None], LABELS[None])
    assert set(fixed["features"]["norm_0"]) == {"scale", "bias", "mean", "variance"}
    found, expected = (jax.jit(net.apply)(p, X, LABELS) for p in (fixed, params))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert NET.standing is None


def test_it_is_a_discriminator_of_a_conditional_gan():
    generator = nets.conditional(nets.mlp((), (3, 2)), CLASSES)
    model = gan.make(generator, spectral(NET), latent_dim=2, condition=lambda batch: batch)
    params = jax.eval_shape(model.init, rng.root(0), (X, LABELS))
    assert jax.eval_shape(model.discriminate, params, X, LABELS).shape == (5,)
    model.check((X, LABELS))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\)"):
        model.check((X, LABELS + 1))


def test_a_judge_of_images_alone_takes_no_condition(params):
    net = linear_judge(FEATURES)
    assert not net.takes_condition
    top = {"output": params["top"]["output"]}
    own = jax.jit(net.apply)({**params, "top": top}, X)
    zero = {**params["top"], "embedding": jnp.zeros((CLASSES, 3))}
    np.testing.assert_allclose(own, apply({**params, "top": zero}, X, LABELS), rtol=1e-5)


def test_heads_are_networks_of_the_same_features(params):
    net = heads(FEATURES, logit=projected(CLASSES), digit=nets.mlp((), 2), v=class_vectors(4, 2))
    own = jax.jit(net.init)(rng.root(0), X, LABELS)
    assert set(own) == {"features", "logit", "digit", "v"}
    own = {**own, "features": params["features"], "logit": params["top"]}
    made = jax.jit(net.apply)(own, X, LABELS)
    np.testing.assert_allclose(made["logit"], apply(params, X, LABELS), rtol=1e-6)
    h = np.asarray(made["features"])
    np.testing.assert_allclose(h, jax.jit(FEATURES.apply)(own["features"], X), rtol=1e-6)
    kernel, bias = (np.asarray(own["digit"]["output"][name]) for name in ("kernel", "bias"))
    np.testing.assert_allclose(made["digit"], h @ kernel + bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(made["v"], own["v"]["embedding"][LABELS])


def test_heads_take_a_condition_if_one_of_them_does():
    assert heads(FEATURES, v=class_vectors(4, 2)).needs_condition
    plain = heads(FEATURES, digit=nets.mlp((), 2))
    assert not plain.takes_condition
    params = jax.eval_shape(plain.init, rng.root(0), X)
    assert jax.eval_shape(plain.apply, params, X)["logit"].shape == (5,)


def test_heads_can_stand_and_be_normalised():
    net = heads(nets.mlp((3,), 3, norm="batch"), digit=nets.mlp((), 2))
    params = jax.jit(net.init)(rng.root(0), X)
    fixed = jax.jit(net.standing)(params, X[None])
    assert set(fixed["features"]["norm_0"]) == {"scale", "bias", "mean", "variance"}
    net = heads(FEATURES, digit=nets.mlp((4,), 2, norm="batch"), v=class_vectors(4, 2))
    params = jax.jit(net.init)(rng.root(0), X, LABELS)
    fixed = jax.jit(net.standing)(params, X[None], LABELS[None])
    found, expected = (jax.jit(net.apply)(p, X, LABELS)["digit"] for p in (fixed, params))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    alone = jax.jit(net.apply)(fixed, X[:1], LABELS[:1])["digit"]
    np.testing.assert_allclose(alone, found[:1], rtol=1e-5)
    normal = spectral(heads(FEATURES, digit=nets.mlp((), 2)))
    made = jax.jit(normal.apply)(jax.jit(normal.init)(rng.root(0), X), X)
    assert {name: value.shape for name, value in made.items()} == {
        "features": (5, 3),
        "digit": (5, 2),
        "logit": (5,),
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: projection(FEATURES, 0), "classes must be a positive whole number, got 0"),
        (lambda: projection(NET, 4), "net must be a network of x alone"),
        (
            lambda: projection(nets.mlp((), (3, 1)), 4).init(rng.root(0), X, LABELS),
            r"features must return vectors \[5, D\] for x of shape \[5, 3, 2\], got \[5, 3, 1\]",
        ),
        (
            lambda: NET.init(rng.root(0), X, LABELS[:4]),
            r"labels must be whole numbers, one for each of 5 examples, got an array int32 \[4\]",
        ),
        (lambda: NET.init(rng.root(0), X, X[:, 0, 0]), "labels must be whole numbers, one for"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
