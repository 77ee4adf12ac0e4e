"""SNGAN's networks against loops in float64, the paper's sizes, and one step of training."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import gan, rng, train
from genmod.nets.sngan import sngan_discriminator, sngan_generator
from genmod.nets.spectral import SpectralParams, power_iteration

CLASSES = 3
Z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([2, 0, 0, 1], np.int32)


def convolved(layer, x):
    """A convolution with zeros around the images, one window at a time."""
    kernel, (batch, height, breadth, _) = layer["kernel"], x.shape
    window, rim = len(kernel), len(kernel) // 2
    x = np.pad(x, ((0, 0), (rim, rim), (rim, rim), (0, 0)))
    y = np.zeros((batch, height, breadth, kernel.shape[3]))
    for row, column in np.ndindex(height, breadth):
        patch = x[:, row : row + window, column : column + window]
        y[:, row, column] = np.tensordot(patch, kernel, 3)
    return y + layer["bias"]


def doubled(x):
    return x.repeat(2, 1).repeat(2, 2)


def halved(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def active(x):
    return np.maximum(x, 0)


def normalised(layer, x, labels):
    """Batch normalisation, with the scale and bias of each example's class if there are any."""
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
    if layer["scale"].ndim == 1:
        return layer["scale"] * x + layer["bias"]
    return layer["scale"][labels][:, None, None] * x + layer["bias"][labels][:, None, None]


def up(block, x, labels):
    h = doubled(active(normalised(block["norm_0"], x, labels)))
    h = active(normalised(block["norm_1"], convolved(block["conv_0"], h), labels))
    return convolved(block["conv_1"], h) + convolved(block["shortcut"], doubled(x))


def down(block, x, first):
    h = active(convolved(block["conv_0"], x if first else active(x)))
    h = convolved(block["conv_1"], h)
    if "shortcut" not in block:
        return x + h
    return halved(h) + halved(convolved(block["shortcut"], x))


def made(net, *inputs):
    """Random parameters, so that biases and scales count."""
    random = np.random.default_rng(1)
    form = jax.eval_shape(net.init, rng.root(0), *inputs)
    return jax.tree.map(lambda leaf: random.normal(size=leaf.shape, scale=0.5).astype("f4"), form)


def float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_the_generator_is_its_table(classes):
    given = () if classes is None else (LABELS,)
    net = sngan_generator((8, 8, 2), width=3, classes=classes)
    assert net.needs_condition == (classes is not None)
    params = made(net, Z, *given)
    assert set(params) == {"first", "block_0", "norm", "output"}
    assert params["block_0"]["norm_1"]["scale"].shape == ((3,) if classes is None else (3, 3))
    p = float64(params)
    x = (Z.astype(np.float64) @ p["first"]["kernel"] + p["first"]["bias"]).reshape(4, 4, 4, 3)
    x = active(normalised(p["norm"], up(p["block_0"], x, LABELS), None))
    expected = np.tanh(convolved(p["output"], x))
    np.testing.assert_allclose(jax.jit(net.apply)(params, Z, *given), expected, atol=2e-4)


def test_the_discriminator_is_its_table():
    images = np.random.default_rng(2).normal(size=(2, 12, 20, 2)).astype(np.float32)
    net = sngan_discriminator(width=3, spectral=False)
    assert not net.takes_condition
    params = made(net, images)
    p = float64(params)
    blocks = [p["features"][f"block_{i}"] for i in range(4)]
    assert ["shortcut" in block for block in blocks] == [True, True, False, False]
    assert len(p["features"]) == 4
    x = images.astype(np.float64)
    for index, block in enumerate(blocks):
        x = down(block, x, index == 0)
    assert x.shape == (2, 3, 5, 3)
    h = active(x).sum((1, 2))
    expected = (h @ p["top"]["output"]["kernel"])[:, 0] + p["top"]["output"]["bias"]
    found = jax.jit(net.apply)(params, images)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(h).max())


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def conv(window, before, after):
    return window**2 * before * after + after


def test_published_sizes_have_their_numbers_of_parameters():
    """The networks for CIFAR-10: table 4 of the paper, layer by layer."""
    z, x = np.zeros((1, 128)), np.zeros((1, 32, 32, 3))
    block = 2 * conv(3, 256, 256) + conv(1, 256, 256) + 2 * (256 + 256)
    expected = 128 * 4 * 4 * 256 + 4 * 4 * 256 + 3 * block + 2 * 256 + conv(3, 256, 3)
    form = jax.eval_shape(sngan_generator((32, 32, 3)).init, rng.root(0), z)
    assert count(form) == expected == 4_276_739
    first = conv(3, 3, 128) + conv(3, 128, 128) + conv(1, 3, 128)
    second = 2 * conv(3, 128, 128) + conv(1, 128, 128)
    plain = 2 * conv(3, 128, 128)
    form = jax.eval_shape(sngan_discriminator().init, rng.root(0), x)
    assert isinstance(form, SpectralParams)
    assert count(form.net) == first + second + 2 * plain + 129 == 1_053_825


@pytest.mark.slow
def test_ten_classes_add_their_rows():
    z, x, label = np.zeros((1, 128)), np.zeros((1, 32, 32, 3)), np.zeros(1, int)
    form = jax.eval_shape(sngan_discriminator(classes=10).init, rng.root(0), x, label)
    assert count(form.net) == 1_053_825 + 10 * 128
    assert len(form.vectors) == 2 * 4 + 2 + 2  # two kernels a block, two shortcuts, the top's two
    # In the generator's three blocks, ten scales and biases of two layers in place of one.
    form = jax.eval_shape(sngan_generator((32, 32, 3), classes=10).init, rng.root(0), z, label)
    assert count(form) == 4_276_739 + 3 * 2 * 9 * (256 + 256)


@pytest.mark.parametrize(
    ("size", "channels", "first", "up", "halvings"),
    [
        (28, 1, 7, 2, 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                (8, 3, 4, 1, 1),
                (28, 3, 7, 2, 2),
                (32, 1, 4, 3, 2),
                (48, 1, 6, 3, 3),
                (64, 3, 4, 4, 3),
            ]
        ),
    ],
)
def test_images_of_many_sizes_are_made_and_judged(size, channels, first, up, halvings):
    shape = (size, size, channels)
    generator, judge = sngan_generator(shape, width=2), sngan_discriminator(width=2)
    params = jax.eval_shape(generator.init, rng.root(0), Z)
    assert params["first"]["bias"].shape == (first * first * 2,)
    assert sum(name.startswith("block") for name in params) == up
    images = jax.eval_shape(generator.apply, params, Z)
    assert images.shape == (4, *shape)
    params = jax.eval_shape(judge.init, rng.root(0), np.zeros(images.shape))
    assert len(params.net["features"]) == halvings + 2
    assert jax.eval_shape(judge.apply, params, images).shape == (4,)


@pytest.mark.slow
def test_activations_begin_with_a_sane_scale():
    generator, judge = sngan_generator((28, 28, 1), width=32, output=None), sngan_discriminator
    z = jax.random.normal(rng.root(0), (8, 16))

    @jax.jit
    def scales(key):
        images = generator.apply(generator.init(rng.stream(key, "g"), z), z)
        logits = []
        for spectral in (True, False):
            net = judge(width=32, spectral=spectral)
            logits.append(net.apply(net.init(rng.stream(key, "d"), jnp.tanh(images)), images))
        return jnp.std(images), *map(jnp.abs, logits)

    deviation, bounded, free = scales(rng.root(1))
    assert 0.3 < deviation < 3
    assert bounded.max() < 50  # a sum over 49 pixels
    assert free.max() < 200


IMAGES = np.random.default_rng(3).uniform(-1, 1, (4, 8, 8, 1)).astype(np.float32)
MODEL = gan.make(
    sngan_generator((8, 8, 1), width=2, classes=CLASSES),
    sngan_discriminator(width=2, classes=CLASSES),
    latent_dim=3,
    image_range=(-1, 1),
    condition=lambda batch: batch,
)
learner = functools.partial(
    train.adversarial,
    MODEL,
    gan.nonsaturating,
    optax.sgd(0.01),
    constrain=power_iteration,
    conditions=LABELS,
)


@pytest.mark.slow
def test_a_step_of_both_with_labels_moves_all_parameters():
    made_by = learner()
    form = jax.eval_shape(made_by.init, rng.root(0), (IMAGES, LABELS))
    params = made(MODEL, (IMAGES, LABELS))
    params = jax.jit(functools.partial(power_iteration, num=5))(params)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)
    after, metrics = jax.jit(made_by.step)(
        rng.root(1), zeros._replace(params=params), (IMAGES, LABELS)
    )
    assert all(np.isfinite(value) for value in metrics.values())
    same = jax.tree.map(np.array_equal, params, after.params)
    flat = jax.tree_util.tree_leaves_with_path(same)
    still = [jax.tree_util.keystr(path, simple=True, separator=".") for path, same in flat if same]
    # Before batch normalisation a bias changes nothing, nor do the last block's, whose sum is next
    # normalised. A vector of one row or column is 1.
    unseen = [f"generator.block_0.{name}.bias" for name in ("conv_0", "conv_1", "shortcut")]
    assert not [name for name in still if name not in unseen and "vectors" not in name]
    assert "discriminator.vectors.top.embedding.0" not in still


def test_microbatches_are_refused():
    parts = learner(microbatches=2)
    state = jax.eval_shape(parts.init, rng.root(0), (IMAGES, LABELS))
    with pytest.raises(ValueError, match=r"block_0/norm_0.* microbatches must be 1"):
        jax.eval_shape(parts.step, rng.root(1), state, (IMAGES, LABELS))


@pytest.mark.slow
def test_a_chosen_class_is_sampled():
    made_by = learner()
    state = jax.jit(made_by.init)(rng.root(0), (IMAGES, LABELS))
    draw = jax.jit(functools.partial(made_by.sample, num=2))
    images = draw(rng.root(2), state, condition=LABELS[:2])
    assert images.shape == (2, 8, 8, 1)
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.slow
def test_standing_statistics_part_the_examples_of_a_conditional_generator():
    net = sngan_generator((8, 8, 1), width=2, classes=CLASSES)
    params = made(net, Z, LABELS)
    apply = jax.jit(net.apply)
    whole = apply(params, Z, LABELS)
    fixed = jax.jit(net.standing)(params, Z[None], LABELS[None])
    np.testing.assert_allclose(apply(fixed, Z, LABELS), whole, atol=1e-4)
    order = np.array([1, 1, 1, 3])
    np.testing.assert_allclose(apply(fixed, Z[order], LABELS[order]), whole[order], atol=1e-4)
    assert not np.allclose(apply(params, Z[order], LABELS[order]), whole[order], atol=1e-2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sngan_generator((32, 32)), r"shape must be \(H, W, C\), got \(32, 32\)"),
        (
            lambda: sngan_generator((30, 30, 1)),
            r"4 to 7 times one power of 2, such as 28, .* got \(30, 30, 1\), .* halves to 15 x 15",
        ),
        (lambda: sngan_generator((6, 6, 1)), r"got \(6, 6, 1\), which halves to 6 x 6"),
        (lambda: sngan_generator((64, 32, 1)), r"got \(64, 32, 1\), which halves to 8 x 4"),
        (lambda: sngan_generator((36, 28, 1)), r"got \(36, 28, 1\), which halves to 9 x 7"),
        (lambda: sngan_generator((32, 32, 0)), "shape must be a positive whole number, got 0"),
        (lambda: sngan_generator((32, 32, 3), width=0), "width must be a positive whole number"),
        (lambda: sngan_generator((32, 32, 3), classes=0), "classes must be a positive whole numb"),
        (
            lambda: sngan_generator((8, 8, 1), width=2).init(rng.root(0), Z[0]),
            r"latents must be \[B, L\], got shape \(3,\)",
        ),
        (
            lambda: sngan_generator((8, 8, 1), width=2, classes=2).init(rng.root(0), Z, LABELS),
            r"labels must be in \[0, 2\), one of 2 classes, got values from 0 to 2",
        ),
        (lambda: sngan_discriminator(width=0), "width must be a positive whole number, got 0"),
        (lambda: sngan_discriminator(classes=0), "classes must be a positive whole number, got 0"),
        (
            lambda: sngan_discriminator(width=2).init(rng.root(0), Z),
            r"images must be \[B, H, W, C\], got shape \(4, 3\)",
        ),
        (
            lambda: sngan_discriminator(width=2).init(rng.root(0), np.zeros((1, 30, 32, 1))),
            r"divisible by 4 to be halved 2 times, to at most 8 x 8, got shape \(1, 30, 32, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
