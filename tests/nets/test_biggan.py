"""Self-attention and BigGAN's networks against loops in float64, and a spectral generator."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from genmod import gan, nets, rng, train
from genmod.nets.biggan import biggan_discriminator, biggan_generator

CLASSES = 3
LABELS = np.array([2, 0, 0, 1], np.int32)
Z = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype(np.float32)


def randomised(net, *inputs):
    """Parameters all of which matter, in float64 too."""
    form = jax.eval_shape(net.init, rng.root(0), *inputs)
    random = np.random.default_rng(2)
    draw = lambda leaf: 0.4 * random.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, form)
    return params, jax.tree.map(lambda leaf: leaf.astype(np.float64), params)


def attended(p, x):
    """Self-attention, pixel by pixel."""
    query, key, value = (x @ p[name]["kernel"] for name in ("query", "key", "value"))
    blocks = [(i, j) for i in range(0, x.shape[1], 2) for j in range(0, x.shape[2], 2)]
    keys, values = (
        np.stack([of[:, i : i + 2, j : j + 2].max((1, 2)) for i, j in blocks], 1)
        for of in (key, value)
    )
    y = np.zeros_like(x)
    for b, i, j in np.ndindex(x.shape[:3]):
        weights = special.softmax(keys[b] @ query[b, i, j])
        y[b, i, j] = (weights @ values[b]) @ p["output"]["kernel"]
    return x + p["gamma"] * y


def test_self_attention_is_its_loop():
    net = nets.from_linen(nets.SelfAttention())
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 16)).astype(np.float32)
    params, wide = randomised(net, x)
    expected = attended(wide, x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(net.apply)(params, x), expected, rtol=1e-4, atol=1e-5)
    # It begins as the identity.
    np.testing.assert_array_equal(jax.jit(net.apply)(jax.jit(net.init)(rng.root(0), x), x), x)


def convolved(layer, x):
    kernel, rim = layer["kernel"], len(layer["kernel"]) // 2
    padded = np.pad(x, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    y = np.zeros((*x.shape[:3], kernel.shape[3]))
    for row, column in np.ndindex(x.shape[1:3]):
        patch = padded[:, row : row + len(kernel), column : column + len(kernel)]
        y[:, row, column] = np.tensordot(patch, kernel, 3)
    return y + layer["bias"]


def normalised(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


def up(p, x, given):
    def norm(name, x):
        scale, bias = (given @ p[name][part] for part in ("scale", "bias"))
        return np.maximum((1 + scale)[:, None, None] * normalised(x) + bias[:, None, None], 0)

    double = lambda x: x.repeat(2, 1).repeat(2, 2)  # noqa: E731
    h = convolved(p["conv_0"], double(norm("norm_0", x)))
    return convolved(p["conv_1"], norm("norm_1", h)) + convolved(p["shortcut"], double(x))


@pytest.mark.parametrize("labels", [None, LABELS], ids=["plain", "conditional"])
def test_the_generator_gives_each_block_its_latents_and_the_class(labels):
    classes = None if labels is None else CLASSES
    net = biggan_generator(
        (8, 8, 2), widths=(3, 8), classes=classes, embedding_dim=5, attention=8, spectral=False
    )
    given = () if labels is None else (labels,)
    params, p = randomised(net, Z, *given)
    first, part = np.split(Z.astype(np.float64), 2, axis=1)
    x = first @ p["first"]["kernel"] + p["first"]["bias"]
    if labels is not None:
        part = np.concatenate([part, p["classes"]["table"][labels]], 1)
    x = attended(p["attention"], up(p["block_0"], x.reshape(4, 4, 4, 3), part))
    x = np.maximum(p["norm"]["scale"] * normalised(x) + p["norm"]["bias"], 0)
    expected = np.tanh(convolved(p["output"], x))
    found = jax.jit(net.apply)(params, Z, *given)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_the_discriminator_is_its_blocks():
    net = biggan_discriminator(widths=(8, 8), halvings=1, attention=4, spectral=False)
    params, p = randomised(net, X)
    own = p["features"]

    def halve(x):
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4

    x = X.astype(np.float64)
    h = np.maximum(convolved(own["block_0"]["conv_0"], x), 0)
    shortcut = convolved(own["block_0"]["shortcut"], halve(x))
    x = attended(own["attention"], halve(convolved(own["block_0"]["conv_1"], h)) + shortcut)
    h = np.maximum(convolved(own["block_1"]["conv_0"], np.maximum(x, 0)), 0)
    x = x + convolved(own["block_1"]["conv_1"], h)
    h = np.maximum(x, 0).sum((1, 2))
    expected = (h @ p["top"]["output"]["kernel"])[:, 0] + p["top"]["output"]["bias"]
    found = jax.jit(net.apply)(params, X)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.costly
def test_both_networks_may_be_spectral():
    model = gan.make(
        biggan_generator((8, 8, 2), widths=(4, 8), classes=CLASSES, embedding_dim=3),
        biggan_discriminator(widths=(8, 8), halvings=1, classes=CLASSES, attention=4),
        latent_dim=6,
        condition=lambda batch: batch,
    )
    players = ("generator", "discriminator")
    learner = train.adversarial(
        model,
        gan.hinge,
        optax.adam(1e-2, b1=0.0),
        constrain=dict.fromkeys(players, nets.power_iteration),
        ema_half_life=100.0,
        conditions=LABELS,
    )
    first = state = jax.jit(learner.init)(rng.root(0), (X, LABELS))
    step = jax.jit(learner.step)
    for number in range(2):
        state, metrics = step(rng.at_step(rng.root(1), number), state, (X, LABELS))
    assert all(np.isfinite(value) for value in metrics.values())
    for name in players:
        params = getattr(state.params, name)
        before = getattr(first.params, name).vectors
        # A right vector of one number is 1 or -1 for ever.
        for kernel, (u, _) in params.vectors.items():
            assert np.any(u != before[kernel][0]), (name, kernel)
    # The generator's embedding of classes is not normalised, the discriminator's is.
    tables = [
        [
            name
            for name in getattr(state.params, player).vectors
            if "embed" in name or "table" in name
        ]
        for player in players
    ]
    assert tables == [[], ["top.embedding"]]
    images = jax.jit(learner.sample, static_argnums=2)(rng.root(2), state, 5)
    assert images.shape == (5, 8, 8, 2)
    assert np.all(np.isfinite(images))


def test_initial_kernels_are_orthogonal():
    net = biggan_generator((8, 8, 2), widths=(4, 8), spectral=False)
    params = jax.jit(net.init)(rng.root(0), Z)
    kernel = np.asarray(params["block_0"]["conv_1"]["kernel"]).reshape(-1, 8)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(8), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: biggan_generator((28, 28, 1), widths=(8, 8)),
            r"widths must hold 3 numbers for images of 28 x 28 pixels, .* got \(8, 8\)",
        ),
        (
            lambda: biggan_generator((8, 8, 1), widths=(8, 8), attention=4),
            "attention must be the height of the images after a block, one of 8, got 4",
        ),
        (
            lambda: biggan_generator((8, 8, 1), widths=(8, 8)).init(rng.root(0), Z[:, :5]),
            r"latents must be \[B, L\] with L divisible by 2, .* got shape \(4, 5\)",
        ),
        (lambda: biggan_generator((8, 8, 1), widths=(8, 0)), "widths must be a positive whole"),
        (
            lambda: biggan_discriminator(widths=(8, 8), halvings=3),
            "halvings must be from 1 to 2, the number of blocks, got 3",
        ),
        (
            lambda: biggan_discriminator(widths=(8, 16), halvings=1),
            "widths must be equal from the last halving on",
        ),
        (
            lambda: biggan_discriminator(widths=(8,), halvings=1).init(rng.root(0), X[:, :7]),
            "divisible by 2 to be halved 1 times",
        ),
        (
            lambda: nets.from_linen(nets.SelfAttention()).init(rng.root(0), X),
            r"a number of channels divisible by 8, got shape \(4, 8, 8, 2\)",
        ),
        (
            lambda: train.adversarial(
                gan.make(nets.mlp((), 2), nets.mlp((), 1), latent_dim=2),
                gan.hinge,
                optax.sgd(1.0),
                constrain={"critic": jnp.abs},
            ),
            "unknown player of constrain 'critic'",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
