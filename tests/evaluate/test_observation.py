"""Gaussian observations of generated images."""

import jax.numpy as jnp
import numpy as np
import pytest

from genmod import rng
from genmod.evaluate import linear_gaussian, observation
from genmod.evaluate.observation import choose_sigma, gaussian_observation

SMALL = {"latent_dim": 2, "num_chains": 2, "num_temperatures": 40, "progress": False}


def test_the_observation_of_a_linear_generator_is_the_linear_gaussian_model():
    params = linear_gaussian.init(rng.root(0), 6, 2, sigma=0.3)
    x, z = linear_gaussian.sample(rng.per_example(rng.root(1), 4), params)

    def generate(params, z):
        return linear_gaussian.decode(params, z).reshape(-1, 2, 3, 1)

    model = gaussian_observation(generate, 0.3)
    np.testing.assert_allclose(
        model.log_likelihood(params, z, x.reshape(-1, 2, 3, 1)),
        linear_gaussian.log_conditional(params, z, x),
        rtol=1e-5,
    )
    keys = rng.per_example(rng.root(2), 3000)
    many = jnp.broadcast_to(z[:1], (3000, 2))
    noise = np.asarray(model.simulate(keys, params, many) - generate(params, many))
    assert abs(noise.mean()) < 4 * 0.3 / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * noise.size))


@pytest.mark.costly
def test_sigma_is_chosen_by_the_likelihood():
    params = linear_gaussian.init(rng.root(0), 8, 2, sigma=0.5)
    x, _ = linear_gaussian.sample(rng.per_example(rng.root(1), 30), params)
    found = choose_sigma(
        rng.root(2), params, x, linear_gaussian.decode, sigmas=[0.2, 0.5, 1.2], **SMALL
    )
    assert found.sigma == 0.5
    for sigma, lower in zip(found.sigmas, found.lower, strict=True):
        other = params._replace(sigma=jnp.float32(sigma))
        truth = np.asarray(linear_gaussian.log_likelihood(other, x)).mean()
        assert truth - 3 < lower < truth + 0.5


def test_a_sigma_at_the_end_of_the_candidates_is_told(monkeypatch):
    class Bounds:
        lower = np.array([1.0, 2.0, 3.0, 4.0])

    monkeypatch.setattr(observation, "annealed", lambda *arguments, **options: Bounds)
    x = np.zeros((2, 3), np.float32)
    with pytest.warns(UserWarning, match="the best sigma 7 is the smallest or the largest"):
        found = choose_sigma(rng.root(0), (), x, lambda p, z: z, sigmas=[1.0, 7.0])
    assert found.sigma == 7
    np.testing.assert_array_equal(found.lower, [1.5, 3.5])
    np.testing.assert_array_equal(found.error, [0.5, 0.5])


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("sigma", lambda x: gaussian_observation(lambda p, z: z, 0.0)),
        ("sigmas", lambda x: choose_sigma(rng.root(0), (), x, lambda p, z: z, sigmas=[], **SMALL)),
        (
            "sigmas",
            lambda x: choose_sigma(rng.root(0), (), x, lambda p, z: z, sigmas=[1, -1], **SMALL),
        ),
        (
            "examples must be floating",
            lambda x: choose_sigma(
                rng.root(0), (), x.astype(np.uint8), lambda p, z: z, sigmas=[1.0], **SMALL
            ),
        ),
        (
            "examples must be finite, got 12 of 12 NaN or infinite",
            lambda x: choose_sigma(
                rng.root(0), (), x * np.nan, lambda p, z: z, sigmas=[1.0], **SMALL
            ),
        ),
        (
            r"images of the shape \[1, 3\], got \[1, 2\]",
            lambda x: choose_sigma(rng.root(0), (), x, lambda p, z: z, sigmas=[1.0], **SMALL),
        ),
        (
            "keys",
            lambda x: gaussian_observation(lambda p, z: z, 1.0).simulate(
                rng.per_example(rng.root(0), 2), (), x
            ),
        ),
    ],
)
def test_bad_input(what, call):
    with pytest.raises(ValueError, match=what):
        call(np.zeros((4, 3), np.float32))
