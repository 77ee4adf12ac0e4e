"""Mixtures: the modes of the literature, and draws that are what they are said to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genmod import data, rng

sample = jax.jit(data.sample_mixture, static_argnums=2)


def draws(mixture, num, seed=0):
    points, modes = sample(rng.root(seed), mixture, num)
    return np.asarray(points), np.asarray(modes)


def test_the_ring_of_the_literature():
    mixture = data.ring()
    assert mixture.std == 0.01
    assert mixture.centers.dtype == np.float32
    assert mixture.centers.shape == (8, 2)
    np.testing.assert_allclose(np.linalg.norm(mixture.centers, axis=1), 1, rtol=1e-6)
    steps = np.linalg.norm(mixture.centers - np.roll(mixture.centers, 1, axis=0), axis=1)
    np.testing.assert_allclose(steps, 2 * np.sin(np.pi / 8), rtol=1e-6)
    np.testing.assert_allclose(mixture.centers[:3:2], [[1, 0], [0, 1]], atol=1e-7)


def test_the_grid_of_the_literature():
    mixture = data.grid()
    assert mixture.std == 0.05
    assert mixture.centers.dtype == np.float32
    expected = [[x, y] for y in (-4, -2, 0, 2, 4) for x in (-4, -2, 0, 2, 4)]
    np.testing.assert_array_equal(mixture.centers, expected)


def test_rings_and_grids_of_other_sizes():
    assert data.ring(1, radius=3).centers.tolist() == [[3, 0]]
    assert data.grid(1).centers.tolist() == [[0, 0]]
    assert data.grid(2, spacing=3).centers.tolist() == [
        [-1.5, -1.5],
        [1.5, -1.5],
        [-1.5, 1.5],
        [1.5, 1.5],
    ]


@pytest.mark.parametrize("mixture", [data.ring(), data.grid()], ids=["ring", "grid"])
def test_draws_are_gaussians_about_modes_that_are_equally_likely(mixture):
    num = 20_000
    points, modes = draws(mixture, num)
    assert (points.dtype, points.shape) == (np.float32, (num, 2))
    assert (modes.dtype, modes.shape) == (np.int32, (num,))
    counts = np.bincount(modes, minlength=len(mixture.centers))
    assert stats.chisquare(counts).pvalue > 1e-4
    noise = (points - mixture.centers[modes]) / mixture.std
    for coordinate in noise.T:
        assert stats.kstest(coordinate, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4.5 / np.sqrt(num)
    # Noise that knew its mode would still pass as a whole.
    means = [noise[modes == mode].mean(axis=0) for mode in range(len(counts))]
    assert np.abs(means * np.sqrt(counts)[:, None]).max() < 4.5


def test_a_draw_does_not_depend_on_how_many_there_are():
    few, many = draws(data.grid(), 3), draws(data.grid(), 40)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])


def test_draws_repeat_with_the_key_and_differ_without():
    np.testing.assert_array_equal(draws(data.grid(), 40)[0], draws(data.grid(), 40)[0])
    assert not np.isin(draws(data.grid(), 40, seed=1)[0], draws(data.grid(), 40)[0]).any()


def test_a_mixture_may_be_traced_and_have_any_dimension():
    mixture = data.Mixture(jnp.arange(12.0).reshape(4, 3) * 10, jnp.float32(0))
    points, modes = sample(rng.root(0), mixture, 30)
    assert set(np.asarray(modes)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(points, mixture.centers[modes])


def test_a_data_set_of_points_goes_through_batches():
    dataset = data.mixture_dataset(rng.root(0), data.grid(), 40)
    points, modes = draws(data.grid(), 40)
    np.testing.assert_array_equal(dataset.images, points)
    np.testing.assert_array_equal(dataset.labels, modes)
    assert dataset.fingerprint == data.fingerprint(dataset.images, dataset.labels)
    again = data.mixture_dataset(rng.root(0), data.grid(), 40)
    assert again.fingerprint == dataset.fingerprint
    assert data.mixture_dataset(rng.root(1), data.grid(), 40).fingerprint != dataset.fingerprint

    batch = data.batches(dataset.images, batch_size=40, prepare=data.unchanged)(rng.root(0), 0)
    assert batch.dtype == jnp.float32
    np.testing.assert_array_equal(np.sort(batch, axis=0), np.sort(dataset.images, axis=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.ring(0), "num_modes must be a positive whole number, got 0"),
        (lambda: data.ring(radius=0), "radius must be a positive number, got 0"),
        (lambda: data.ring(std=-1), "std must be a positive number, got -1"),
        (lambda: data.grid(2.5), "side must be a positive whole number, got 2.5"),
        (lambda: data.grid(spacing=np.inf), "spacing must be a positive number, got inf"),
        (lambda: data.grid(std=np.nan), "std must be a positive number, got nan"),
        (lambda: draws(data.ring(), 0), "num must be a positive whole number, got 0"),
        (
            lambda: draws(data.Mixture(np.zeros(3), 1.0), 5),
            r"mixture must have centers \[K, D\] and a single std, got the shapes \[3\] and \[\]",
        ),
        (
            lambda: draws(data.Mixture(np.zeros((3, 2)), np.ones(3)), 5),
            r"got the shapes \[3, 2\] and \[3\]",
        ),
        (lambda: draws(data.Mixture(np.zeros((0, 2)), 1.0), 5), r"got the shapes \[0, 2\]"),
    ],
)
def test_what_is_no_mixture_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
