"""The augmentations of ADA against loops, formulas and their distributions; what moves them."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage, stats

from genmod import data, gan, nets, rng, train
from genmod.data import adaptive_augment as ada

NUM = 2000


def keys(num, seed=0):
    return rng.per_example(rng.root(seed), num)


def images(num, *shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num, *shape)).astype(np.float32)


def changed(x, probability, seed=0, **options):
    return np.asarray(jax.jit(data.adaptive(probability, **options))(keys(len(x), seed), x))


@pytest.fixture(scope="module")
def maps():
    """Affine maps at probability 1 and 1/2, of 16 x 8 pixels."""

    def of(key, p):
        return ada._affine(ada._Coins(key, p), ["geometry"], (16, 8, 1))

    draw = jax.jit(jax.vmap(of, (0, None)))
    return {p: np.asarray(draw(keys(NUM), p)) for p in (1.0, 0.5)}


@pytest.mark.costly
def test_without_a_chance_nothing_changes():
    for shape in ((5, 4, 1), (6, 6, 3), (4, 4, 2)):
        x = images(3, *shape)
        np.testing.assert_allclose(changed(x, 0.0), x, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(changed(x, 0.0, groups="blit,geometry"), x)


def shifted(image, down, right):
    moved = np.full_like(image, -1)
    height, width = image.shape[:2]
    for i, j in itertools.product(range(height), range(width)):
        if 0 <= i - down < height and 0 <= j - right < width:
            moved[i, j] = image[i - down, j - right]
    return moved


def test_a_blit_is_a_mirror_a_quarter_turn_and_a_whole_shift():
    x = np.repeat(images(1, 6, 6, 1), 400, axis=0)
    found = changed(x, 1.0, groups="blit")
    truths = {
        (mirror, quarters, down, right): shifted(
            np.rot90(x[0][:, :: 1 - 2 * mirror], -quarters), down, right
        )
        for mirror, quarters in itertools.product(range(2), range(4))
        for down, right in itertools.product((-1, 0, 1), repeat=2)
    }
    drawn = []
    for image in found:
        (name,) = [name for name, truth in truths.items() if np.array_equal(truth, image)]
        drawn.append(name)
    drawn = np.array(drawn)
    for column, number in ((0, 2), (1, 4)):
        assert stats.chisquare(np.bincount(drawn[:, column], minlength=number)).pvalue > 1e-3
    assert set(drawn[:, 2]) == set(drawn[:, 3]) == {-1, 0, 1}


def test_an_image_is_sampled_bilinearly_at_the_points_of_a_map():
    x = images(1, 7, 5, 2)[0]
    inverse = np.array([[0.8, -0.5, 0.7], [0.3, 1.1, -1.2]], np.float32)
    found = ada._sampled(jnp.asarray(x), jnp.asarray(inverse), -1.0)
    middle = np.array([3.0, 2.0])
    points = np.stack(np.meshgrid(np.arange(7), np.arange(5), indexing="ij"), -1) - middle
    where = points @ inverse[:, :2].T + inverse[:, 2] + middle
    for channel in range(2):
        expected = ndimage.map_coordinates(
            x[..., channel], np.moveaxis(where, -1, 0), order=1, mode="grid-constant", cval=-1
        )
        np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)


def test_scales_turns_and_shifts_have_their_distributions(maps):
    linear, shift = maps[1.0][:, :, :2].astype(np.float64), maps[1.0][:, :, 2]
    # The determinant of the inverse is that of its scale alone: 2^(-2 * .2 n).
    logs = np.log2(np.linalg.det(linear)) / 2
    assert stats.kstest(logs, stats.norm(0, 0.2).cdf).pvalue > 1e-3
    # The ratio of the singular values is that of the stretch, 2^(2 * .2 |n|).
    values = np.linalg.svd(linear, compute_uv=False)
    assert (
        stats.kstest(np.log2(values[:, 0] / values[:, 1]) / 0.4, stats.halfnorm.cdf).pvalue > 1e-3
    )
    # The shift of the result is n / 8 of the size on each axis.
    forward = -np.linalg.solve(linear, shift[..., None])[..., 0]
    for axis, size in ((0, 16), (1, 8)):
        moved = stats.norm(0, size / 8).cdf
        assert stats.kstest(forward[:, axis], moved).pvalue > 1e-3
    # Two turns by any angle: so is their product.
    angles = np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1])
    assert stats.kstest(angles, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


def test_each_change_has_a_coin_of_its_own(maps):
    linear, shift = maps[0.5][:, :, :2], maps[0.5][:, :, 2]
    turned = np.abs(linear[:, 0, 1]) > 1e-6
    moved = np.any(shift != 0, axis=1)
    scaled = np.abs(np.linalg.det(linear) - 1) > 1e-4
    # One of the two turns at least: with the joint probability 1/2.
    coins = np.stack([turned, moved, scaled], 1)
    assert np.abs(coins.mean(0) - 0.5).max() < 4 * 0.5 / np.sqrt(NUM)
    for a, b in itertools.combinations(coins.T, 2):
        assert abs((a & b).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / NUM)


def test_a_grey_image_is_brightened_scaled_and_flipped():
    x = np.tile(np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 2, 2, 1), (NUM, 1, 1, 1))
    found = changed(x, 1.0, groups="color").reshape(NUM, 4)
    slope = (found[:, 3] - found[:, 0]) / 2
    offset = found.mean(1) / slope
    np.testing.assert_allclose(
        found, slope[:, None] * (x.reshape(NUM, 4) + offset[:, None]), atol=1e-4
    )
    assert stats.kstest(np.log2(np.abs(slope)), stats.norm(0, 0.5).cdf).pvalue > 1e-3
    assert stats.kstest(offset, stats.norm(0, 0.2).cdf).pvalue > 1e-3
    assert abs((slope < 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(NUM)


def test_hue_and_saturation_leave_grey_alone():
    colours = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    x = np.tile(colours.reshape(1, 1, 5, 3), (NUM, 1, 1, 1))
    found = changed(x, 1.0, groups="color").reshape(NUM, 5, 3).astype(np.float64)
    found = found - found[:, 4:]  # without the offset
    matrix = np.swapaxes(found[:, 1:4], 1, 2)
    np.testing.assert_allclose(np.ptp(found[:, 0], axis=1), 0, atol=2e-5)  # grey stays grey
    contrast = np.abs(found[:, 0, 0])
    grey = np.full(3, 1 / np.sqrt(3))
    # Across the grey axis it is a turn, scaled by contrast and saturation.
    across = np.linalg.svd(matrix - np.outer(grey, grey) @ matrix, compute_uv=False)
    np.testing.assert_allclose(across[:, 0], across[:, 1], rtol=1e-3)
    np.testing.assert_allclose(across[:, 2], 0, atol=1e-4)
    saturation = np.log2(across[:, 0] / contrast)
    assert stats.kstest(saturation, "norm").pvalue > 1e-3


@pytest.mark.costly
def test_the_range_of_the_images_is_scaled():
    x = images(20, 6, 6, 3)
    found = changed((x + 1) * 127.5, 0.8, image_range=(0.0, 255.0))
    np.testing.assert_allclose(found / 127.5 - 1, changed(x, 0.8), atol=2e-4)


@pytest.mark.costly
def test_gradients_pass_through_every_change():
    x = jnp.asarray(images(4, 6, 6, 3))
    augment = data.adaptive(1.0)
    slope = jax.jit(jax.grad(lambda x: jnp.square(augment(keys(4), x)).sum()))(x)
    assert np.all(np.isfinite(slope))
    assert np.all(np.any(slope != 0, axis=(1, 2, 3)))


# The probability in training


@pytest.mark.parametrize(
    ("before", "signs", "after"),
    [
        (0.2, [1, 1, 1, 1], 0.2 + 4 / 40),  # overfits: more
        (0.2, [1, 1, -1, -1], 0.2 - 4 / 40),
        (0.2, [1, 1, 1, 0, 0], 0.2),  # at the target
        (0.05, [-1, -1, -1, -1], 0.0),
        (0.95, [[1, 1, 1], [1, 1, 1]], 1.0),  # of two updates
    ],
)
def test_the_probability_follows_the_sign_of_overfitting(before, signs, after):
    remember = gan.moving_probability(target=0.6, num_images=40, name="p")
    logits = 3 * np.array(signs, np.float32)
    moved = remember(None, {"p": jnp.float32(before)}, {"real_logits": jnp.asarray(logits)})
    np.testing.assert_allclose(moved["p"], after, rtol=1e-6)
    assert moved["p"].dtype == jnp.float32


def test_a_learner_moves_it():
    model = gan.make(nets.mlp((), (4, 4, 1)), nets.mlp((), 1), latent_dim=2)
    learner = train.adversarial(
        model,
        gan.nonsaturating,
        optax.sgd(0.1),
        augment=lambda now: data.adaptive(now["probability"], groups="blit"),
        memory={"probability": 0.5},
        remember=gan.moving_probability(num_images=100),
    )
    x = images(8, 4, 4, 1)
    state = jax.jit(learner.init)(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    assert abs(float(after.memory["probability"]) - 0.5) == pytest.approx(0.08, abs=1e-6)
    assert all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.adaptive(-0.1), r"probability must be a number in \[0, 1\], got -0.1"),
        (lambda: data.adaptive(1.5), r"probability must be a number in \[0, 1\], got 1.5"),
        (lambda: data.adaptive(0.5, groups="blit,colour"), "unknown group .* 'colour'; did you"),
        (lambda: data.adaptive(0.5, image_range=(1, 0)), r"image_range must be .* got \(1, 0\)"),
        (
            lambda: data.adaptive(0.5)(keys(2), jnp.zeros((2, 4, 4, 1), jnp.uint8)),
            "images must be floating, got uint8",
        ),
        (lambda: data.adaptive(0.5)(keys(2), jnp.zeros((2, 4, 4))), r"images must be \[B, H, W"),
        (lambda: gan.moving_probability(target=1.2), r"target must be a number in \(0, 1\], got"),
        (lambda: gan.moving_probability(num_images=0), "num_images must be a positive number, got"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
