"""Samples of a run from latents that another density than the prior draws."""

import jax.numpy as jnp
import numpy as np
import pytest

from genmod import data, rng, train
from genmod.experiment import Experiment, Latents
from genmod.runs import redrawn

DRAWN = 4000


def clusters():
    """Images of two pixels, dark ones and then twice as many bright ones, and which these are."""
    draw, bright = np.random.default_rng(0), np.arange(600) >= 200
    pixels = draw.normal(np.where(bright[:, None], [200, 180], [60, 40]), [10, 5], (600, 2))
    return np.rint(pixels).astype(np.uint8).reshape(600, 1, 2, 1), bright.astype(np.int32)


def experiment(latents, conditions=None):
    images, labels = clusters()
    known = None if conditions is None else train.Conditions(conditions)
    learner = train.Learner(lambda *_: None, lambda *_: None, lambda *_: None, conditions=known)
    return Experiment(
        learner, lambda *_: None, data.from_arrays(images, labels), 1, latents=latents
    )


# Codes are pixels and images are codes, whose scale is the state.
PIXELS = Latents(
    2,
    decoder=lambda key, state: lambda z, *c: z.reshape(-1, 1, 2, 1) / state,
    encode=lambda state, x, *c: x.reshape(-1, 2) * state,
    standard_normal_prior=False,
)


def drawn(built, state, num=DRAWN, **options):
    return np.asarray(built.sample(rng.root(3), state, num, **options)).reshape(num, -1)


def test_samples_are_decoded_draws_from_the_density_of_the_codes():
    state = jnp.float32(7.0)
    found = drawn(redrawn.ex_post(experiment(PIXELS), state, 2), state)
    images, labels = clusters()
    real, bright = images.reshape(600, 2) / 255, found[:, 0] > 0.5
    share = labels.mean()
    assert abs(bright.mean() - share) < 4 * np.sqrt(share * (1 - share) / DRAWN)
    for label, some in enumerate((found[~bright], found[bright])):
        own = real[labels == label]
        error = own.std(0) / np.sqrt(len(some))
        assert (np.abs(some.mean(0) - own.mean(0)) < 4 * error).all()
        np.testing.assert_allclose(some.std(0), own.std(0), rtol=4 / np.sqrt(2 * len(some)))


def test_a_mixture_is_fitted_to_codes_from_all_over_a_large_data_set(monkeypatch):
    monkeypatch.setattr(redrawn, "_MOST_CODES", 200)
    found = drawn(redrawn.ex_post(experiment(PIXELS), jnp.float32(1.0), 2), jnp.float32(1.0))
    assert abs((found[:, 0] > 0.5).mean() - 2 / 3) < 0.05


def test_conditions_are_drawn_as_frequent_as_in_the_data_or_given():
    _, labels = clusters()
    shown = PIXELS._replace(
        decoder=lambda key, state: lambda z, c: 0 * z[:, None, :1, None] + c[:, None, None, None]
    )
    built = redrawn.ex_post(experiment(shown, labels), jnp.float32(1.0), 2)
    found = drawn(built, jnp.float32(1.0))
    assert abs(found.mean() - 2 / 3) < 4 * np.sqrt(2 / 9 / DRAWN)
    asked = np.array([1, 0, 0], np.int32)
    np.testing.assert_array_equal(drawn(built, jnp.float32(1.0), 3, condition=asked)[:, 0], asked)


def test_a_temperature_scales_the_latents_of_the_prior():
    normal = PIXELS._replace(standard_normal_prior=True)
    found = drawn(redrawn.tempered(experiment(normal), 0.5), jnp.float32(1.0))
    assert (np.abs(found.mean(0)) < 4 * 0.5 / np.sqrt(DRAWN)).all()
    np.testing.assert_allclose(found.std(0), 0.5, rtol=4 / np.sqrt(2 * DRAWN))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: redrawn.ex_post(experiment(None), None, 2), "this experiment has no latents"),
        (
            lambda: redrawn.ex_post(experiment(PIXELS._replace(encode=None)), None, 2),
            "this experiment has latents without an encoder",
        ),
        (lambda: redrawn.ex_post(experiment(PIXELS), 1.0, 1.5), "ex_post must be a positive whole"),
        (lambda: redrawn.tempered(experiment(None), 1.0), "this has no latents"),
        (lambda: redrawn.tempered(experiment(PIXELS), 1.0), "this has latents with another prior"),
        (lambda: redrawn.tempered(experiment(PIXELS), -1.0), "temperature must be a positive"),
    ],
)
def test_what_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        change()
