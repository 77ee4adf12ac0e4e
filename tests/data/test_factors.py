"""Images with known factors: their definitions, and that no two are the same."""

import hashlib
import json
import math
from pathlib import Path

import factored
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import spatial, stats

from genmod import data, rng
from genmod.data import factors as module

KEPT = json.loads((Path(__file__).parents[1] / "kept" / "disentanglement.json").read_text())


def images(space, factors):
    return np.asarray(space.image_of(np.asarray(factors)))


@pytest.mark.parametrize("arguments", KEPT["xy_squares"])
def test_squares_are_those_of_disent(arguments):
    spacing, grid_size = (None if word == "None" else int(word) for word in arguments.split())
    space, kept = (
        data.xy_squares(spacing=spacing, grid_size=grid_size),
        KEPT["xy_squares"][arguments],
    )
    assert list(space.sizes) == kept["sizes"]
    states = np.unravel_index(factored.spread(space.num_states), space.sizes)
    found = images(space, np.stack(states, axis=1))
    assert (found.dtype, found.shape) == (np.uint8, (50, 64, 64, 3))
    assert hashlib.sha256(found.tobytes()).hexdigest() == kept["sha256"]


def test_squares_are_as_published():
    space = data.xy_squares()
    assert space.names == ("x_R", "y_R", "x_G", "y_G", "x_B", "y_B")
    assert space.num_states == 8**6
    [image] = images(space, [[0, 7, 3, 1, 2, 2]])
    expected = np.zeros((64, 64, 3), np.uint8)
    expected[56:64, 0:8, 0] = expected[8:16, 24:32, 1] = expected[16:24, 16:24, 2] = 255
    np.testing.assert_array_equal(image, expected)
    # All other places of a square are as far away as each other: what defeats a pixel loss.
    places = images(space, [[x, 0, 0, 0, 0, 0] for x in range(8)]).astype(float).reshape(8, -1)
    distances = np.abs(places[:, None] - places[None]).sum(-1)
    np.testing.assert_array_equal(distances, 255 * 128 * (1 - np.eye(8)))


@settings(max_examples=10)
@given(st.integers(1, 28), st.integers(2, 12), st.integers(0, 2**16))
def test_squares_lie_whole_on_a_centred_grid(spacing, grid_size, seed):
    most = 56 // spacing + 1
    grid_size = min(grid_size, most)
    space = data.xy_squares(spacing=spacing, grid_size=grid_size)
    assert data.xy_squares(spacing=spacing).sizes == (most,) * 6
    factors = np.random.default_rng(seed).integers(0, grid_size, (2, 6))
    found = images(space, np.concatenate([factors, [[0] * 6, [grid_size - 1] * 6]]))
    np.testing.assert_array_equal(found.sum((1, 2)), 64 * 255)
    rows = [np.flatnonzero(image[..., 0].any(1)) for image in found]
    before, after = rows[2][0], 63 - rows[3][-1]
    assert 0 <= after - before <= 1
    np.testing.assert_array_equal(rows[0], before + spacing * factors[0, 1] + np.arange(8))


def test_a_sprite_is_what_its_formula_says():
    space = data.sprites()
    assert dict(zip(space.names, space.sizes, strict=True)) == {
        "shape": 3,
        "scale": 5,
        "orientation": 12,
        "x": 16,
        "y": 16,
    }
    assert space.title == "sprites (not dSprites)"
    draw = np.random.default_rng(0)
    factors = draw.integers(0, space.sizes, (60, 5))
    found = images(space, factors)
    assert (found.dtype, found.shape) == (np.uint8, (60, 64, 64, 1))
    for image, (shape, scale, orientation, x, y) in zip(found[..., 0], factors, strict=True):
        turn = 2 * math.pi / (4, 3, 2)[shape] * orientation / 12
        size = 4 + scale
        for row, column in draw.integers(0, 64, (100, 2)):
            u, v = column + 0.5 - (17 + 2 * x), row + 0.5 - (17 + 2 * y)
            a = u * math.cos(turn) + v * math.sin(turn)
            b = v * math.cos(turn) - u * math.sin(turn)
            root = math.sqrt(3)
            gauge = (
                max(abs(a), abs(b)),
                max(b, (root * a - b) / 2, (-root * a - b) / 2),
                math.hypot(a / 2, b),
            )[shape]
            assert image[row, column] == round(255 * min(max(size - gauge + 0.5, 0), 1))


def test_a_sprite_has_the_area_of_its_shape():
    space = data.sprites()
    factors = [[shape, scale, 0, 8, 8] for shape in range(3) for scale in range(5)]
    areas = images(space, factors).sum((1, 2, 3)).reshape(3, 5) / 255
    sizes = np.arange(4, 9)
    expected = np.array([[4.0], [3 * math.sqrt(3)], [2 * math.pi]]) * sizes**2
    np.testing.assert_allclose(areas, expected, rtol=0.01)


def test_no_two_sprites_are_the_same():
    # All shapes, scales and orientations in one place,
    space = data.sprites()
    still = np.concatenate([factored.grid(3, 5, 12), np.zeros((180, 2), int)], axis=1)
    found = images(space, still)
    assert len(np.unique(found.reshape(180, -1), axis=0)) == 180
    # and no orientation is another one but for rounding:
    corner = found[:, :34, :34]
    assert spatial.distance.pdist(corner.reshape(180, -1).astype(float), "cityblock").min() > 1000
    # all are whole in every place, so that moved ones differ by the move alone.
    assert found.sum() == corner.sum(dtype=int)
    moves = np.concatenate([still[::7, :3], np.tile([[15, 4], [3, 15]], (13, 1))], axis=1)
    for moved, at, (*_, x, y) in zip(images(space, moves), corner[::7], moves, strict=True):
        np.testing.assert_array_equal(moved[2 * y : 2 * y + 34, 2 * x : 2 * x + 34], at)
        assert moved.sum(dtype=int) == at.sum(dtype=int)


@pytest.mark.slow
def test_all_sprites_are_different():
    every = [data.load("sprites", part).images for part in ("train", "test")]
    assert len({image.tobytes() for image in np.concatenate(every)}) == data.sprites().num_states


@pytest.mark.parametrize("make", [data.xy_squares, data.sprites])
def test_images_are_a_pure_function(make):
    space = make()
    factors = data.sample_factors(rng.root(0), space, 4)
    plain = images(space, factors)
    np.testing.assert_array_equal(jax.jit(space.image_of)(factors), plain)
    np.testing.assert_array_equal(images(space, factors[2:3]), plain[2:3])
    assert images(space, np.zeros((0, len(space.sizes)), int)).shape == (0, *plain.shape[1:])


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("make", [data.sprites, data.xy_squares])
def test_pooled_pixels_are_means_with_halves_upwards(make, size):
    space = make()
    small = data.pooled(space, size)
    assert small[:3] == space[:3]
    factors = data.sample_factors(rng.root(2), space, 9)
    side = 64 // size
    squares = images(space, factors).reshape(9, side, size, side, size, -1)
    found = images(small, factors)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.floor(squares.mean((2, 4)) + 0.5))


def test_sizes_that_do_not_divide_the_image_are_refused():
    with pytest.raises(ValueError, match="size must be a positive whole number, got 0"):
        data.pooled(data.sprites(), 0)
    with pytest.raises(ValueError, match="size must divide the images' 64 x 64 pixels, got 3"):
        data.pooled(data.sprites(), 3).image_of([[0, 0, 0, 0, 0]])


def test_draws_are_uniform_and_depend_on_no_number():
    space = data.sprites()
    drawn = np.asarray(data.sample_factors(rng.root(0), space, 4000))
    assert (drawn.dtype, drawn.shape) == (np.int32, (4000, 5))
    for values, size in zip(drawn.T, space.sizes, strict=True):
        assert stats.chisquare(np.bincount(values, minlength=size)).pvalue > 1e-4
    np.testing.assert_array_equal(data.sample_factors(rng.root(0), space, 3), drawn[:3])
    assert stats.chi2_contingency(np.histogram2d(drawn[:, 3], drawn[:, 4], 16)[0]).pvalue > 1e-4


@pytest.mark.parametrize(("make", "classes"), [(data.xy_squares, 0), (data.sprites, 3)])
def test_a_drawn_data_set_has_its_factors_beside_it(make, classes):
    space = make()
    dataset, factors = data.factor_dataset(rng.root(3), space, 20)
    np.testing.assert_array_equal(factors, data.sample_factors(rng.root(3), space, 20))
    np.testing.assert_array_equal(dataset.images, images(space, factors))
    assert dataset.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.labels, factors[:, 0] if classes else 0)
    assert len(dataset.classes) == classes
    assert dataset.fingerprint == data.fingerprint(dataset.images, dataset.labels)


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("xy_squares", "5788cb20cfaeda245d5ca31d620ba8d96b35040b9d20e0a30dc8b286313e3a40"),
        ("sprites", "150cfdca5cd73acfbd2adcd6f51a05cecee824d43e041be5f0a07c2d22f30253"),
    ],
)
def test_named_data_sets_are_the_same_everywhere_and_have_factors(name, fingerprint):
    space = module.NAMED[name].space
    train, test = (data.factors_of(name, part) for part in ("train", "test"))
    assert (len(train), len(test)) == module.NAMED[name][1:]
    states = np.ravel_multi_index(np.concatenate([train, test]).T, space.sizes)
    assert len(np.unique(states)) == len(states), "no image is in both parts"
    np.testing.assert_array_equal(data.factors_of(name, "test[-50:]"), test[-50:])
    dataset = data.load(name, "test")
    assert dataset.fingerprint == f"sha256:{fingerprint}"
    np.testing.assert_array_equal(dataset.images[-50:], images(space, test[-50:]))
    np.testing.assert_array_equal(dataset.labels, test[:, 0] if space.classes else 0)


def test_sprites_are_divided_without_a_rest():
    assert sum(module.NAMED["sprites"][1:]) == data.sprites().num_states


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.xy_squares(spacing=0), "spacing must be a positive whole number, got 0"),
        (lambda: data.xy_squares(spacing=57), "spacing must be at most 56, got 57"),
        (lambda: data.xy_squares(grid_size=9), "grid_size must be from 2 to 8, .*spacing 8, got 9"),
        (lambda: data.xy_squares(grid_size=1), "grid_size must be from 2 to 8"),
        (lambda: data.xy_squares().image_of([[0] * 5]), r"integers \[B, 6\], got int64 \[1, 5\]"),
        (lambda: data.xy_squares().image_of([0] * 6), r"integers \[B, 6\], got int64 \[6\]"),
        (lambda: data.sprites().image_of(np.zeros((1, 5))), r"\[B, 5\], got float64 \[1, 5\]"),
        (lambda: data.sprites().image_of([[0, 5, 0, 0, 0]]), r"scale must be in \[0, 5\), got 5"),
        (lambda: data.sprites().image_of([[0, 0, 0, -1, 0]]), r"x must be in \[0, 16\), got -1"),
        (lambda: data.sample_factors(rng.root(0), data.sprites(), 0), "num must be a positive"),
        (lambda: data.factors_of("sprite"), "unknown data set with factors 'sprite'; did you mean"),
        (lambda: data.factors_of("sprites", "val"), "unknown split of sprites 'val'"),
        (lambda: data.load("sprites", "val"), "unknown split of sprites 'val'"),
        (lambda: data.load("sprites:x"), "unknown data set 'sprites:x'"),
        (lambda: data.load("sprites", image_size=32), "image_size '32' is not for data set 'spri"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
