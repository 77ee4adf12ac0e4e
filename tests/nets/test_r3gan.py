"""R3GAN's networks against loops in float64, and their initialisation."""

import functools

import jax
import numpy as np
import optax
import pytest

from genmod import gan, nets, rng, train
from genmod.nets.r3gan import r3gan_discriminator, r3gan_generator

CLASSES = 3
Z = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(4, 8, 8, 2)).astype(np.float32)
LABELS = np.array([2, 0, 0, 1], np.int32)
OPTIONS = {"widths": (4, 6), "cells": 2, "group_width": 2}
GENERATOR = functools.partial(r3gan_generator, (8, 8, 2), **OPTIONS)
DISCRIMINATOR = functools.partial(r3gan_discriminator, **OPTIONS)


def randomised(net, *inputs):
    """Parameters all of which matter, in float64 too."""
    form = jax.eval_shape(net.init, rng.root(0), *inputs)
    random = np.random.default_rng(2)
    draw = lambda leaf: 0.5 * random.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, form)
    return params, jax.tree.map(lambda leaf: leaf.astype(np.float64), params)


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def grouped(x, kernel):
    """A convolution of 3 x 3 in groups of two channels, one window at a time."""
    batch, height, breadth, width = x.shape
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((batch, height, breadth, width))
    for row, column in np.ndindex(height, breadth):
        patch = x[:, row : row + 3, column : column + 3]
        for first in range(0, width, 2):
            part = kernel[..., first : first + 2]
            y[:, row, column, first : first + 2] = np.tensordot(
                patch[..., first : first + 2], part, 3
            )
    return y


def cell(p, x):
    h = leaky(x @ p["wide"]["kernel"] + p["bias_0"])
    h = leaky(grouped(h, p["kernel"]) + p["bias_1"])
    return x + h @ p["narrow"]["kernel"]


def resampled(function, x):
    return np.asarray(function(x.astype(np.float32), kind="smooth"), np.float64)


def generated(p, z, labels=None):
    if labels is not None:
        z = np.concatenate([z, p["embedding"]["embedding"][labels]], 1)
    x = p["basis"]["basis"] * (z @ p["latent"]["kernel"])[:, None, None]
    for stage in (0, 1):
        if stage:
            x = resampled(nets.enlarged, x @ p["stage_1_channels"]["kernel"])
        for index in (0, 1):
            x = cell(p[f"stage_{stage}_cell_{index}"], x)
    return x @ p["output"]["kernel"]


def judged(p, x, labels=None):
    x = x @ p["input"]["kernel"]
    for stage in (1, 0):
        for index in (0, 1):
            x = cell(p[f"stage_{stage}_cell_{index}"], x)
        if stage:
            x = resampled(nets.reduced, x) @ p["stage_1_channels"]["kernel"]
    h = (x * p["pixels"]["weights"]).sum((1, 2)) @ p["output"]["kernel"]
    return h[:, 0] if labels is None else (h * p["embedding"]["embedding"][labels]).sum(1)


@pytest.mark.costly
@pytest.mark.parametrize("labels", [None, LABELS], ids=["plain", "conditional"])
def test_networks_are_their_loops(labels):
    classes = None if labels is None else CLASSES
    given = () if labels is None else (labels,)
    for net, reference, x in (
        (GENERATOR(classes=classes), generated, Z),
        (DISCRIMINATOR(classes=classes), judged, X),
    ):
        params, wide = randomised(net, x, *given)
        found = jax.jit(net.apply)(params, x, *given)
        expected = reference(wide, x.astype(np.float64), *given)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)


def test_cells_begin_as_the_identity_and_variances_are_kept():
    net = r3gan_generator((8, 8, 2), widths=(128, 128), cells=1, group_width=64)
    z = np.random.default_rng(3).normal(size=(64, 32)).astype(np.float32)
    params = jax.jit(net.init)(rng.root(0), z)
    assert not np.any(params["stage_1_cell_0"]["narrow"]["kernel"])
    one = params["stage_0_cell_0"]
    gain = np.sqrt(2 / 1.04) * 2 ** (-1 / 4)  # two cells of three layers
    np.testing.assert_allclose(np.std(one["wide"]["kernel"]), gain / np.sqrt(128), rtol=0.02)
    np.testing.assert_allclose(np.std(one["kernel"]), gain / np.sqrt(9 * 64), rtol=0.02)
    # A product of two normal numbers a value, summed over the channels with weights 1 / 128.
    x = np.asarray(jax.jit(net.apply)(params, z))[:, 2:-2, 2:-2]
    assert 0.3 < np.std(x) < 1.2
    judge = r3gan_discriminator(widths=(128, 128), cells=1, group_width=64)
    weights = jax.jit(judge.init)(rng.root(0), X)["pixels"]["weights"]
    np.testing.assert_allclose(np.std(weights), 1 / 4, rtol=0.05)  # of 4 x 4 pixels


@pytest.mark.costly
def test_they_play_the_relativistic_game():
    small = {"widths": (2, 2), "cells": 1, "group_width": 4}
    model = gan.make(GENERATOR(**small), DISCRIMINATOR(**small), latent_dim=3)
    penalty = 0.5 * gan.r1 + 0.5 * gan.r2
    learner = train.adversarial(model, gan.relativistic, optax.adam(1e-3), penalty=penalty)
    state = jax.jit(learner.init)(rng.root(0), X)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, X)
    assert all(np.isfinite(value) for value in metrics.values())
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, after.params)
    assert moved.discriminator["stage_1_cell_0"]["narrow"]["kernel"]
    assert moved.generator["basis"]["basis"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: r3gan_generator((28, 28, 1), widths=(4, 4)),
            r"widths must hold 3 numbers for images of 28 x 28 pixels, .* got \(4, 4\)",
        ),
        (lambda: r3gan_generator((9, 9, 1), widths=(4,)), "shape must have a height and a width"),
        (
            lambda: r3gan_discriminator(widths=(4, 5), group_width=4),
            "group_width must divide the 10 channels inside of a cell, got 4",
        ),
        (lambda: r3gan_discriminator(widths=()), "widths must hold at least one number, got none"),
        (lambda: DISCRIMINATOR(classes=0), "classes must be a positive whole number, got 0"),
        (
            lambda: DISCRIMINATOR().init(rng.root(0), X[:, :7]),
            r"divisible by 2 to be halved 1 times, got shape \(4, 7, 8, 2\)",
        ),
        (lambda: GENERATOR().init(rng.root(0), X), r"latents must be \[B, L\], got shape"),
        (
            lambda: GENERATOR(classes=2).init(rng.root(0), Z, LABELS),
            r"labels must be in \[0, 2\)",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
