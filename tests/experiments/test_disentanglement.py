"""The experiment on disentanglement: each objective is built, and its codes are scored."""

from pathlib import Path

import jax
import numpy as np
import pytest

from genmod import rng, train
from genmod.runs import catalogue

MODULE = catalogue.load(Path(__file__).parents[2] / "experiments" / "disentanglement.py")
SMALL = {"hidden": (4,), "batch_size": 8, "latent_dim": 3}
TERMS = {
    "vae": set(),
    "beta": set(),
    "tc": {"mutual_information", "total_correlation", "dimension_wise_kl"},
    "factor": {"total_correlation", "critic_loss"},
    "dip": {"off_diagonal", "diagonal"},
}


def built(model, **options):
    weight = 1.0 if model == "vae" else 3.0
    return MODULE.build(MODULE.Config(model=model, weight=weight, **SMALL, **options))


@pytest.mark.costly
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(name, marks=() if name in ("tc", "factor") else pytest.mark.end_to_end)
        for name in TERMS
    ],
)
def test_each_objective_is_trained_and_its_codes_are_seen(model):
    found = built(model)
    assert found.num_steps == 150 * 10_000 / 8
    key = rng.root(0)
    carry = train.abstract_carry(found.learner, key, found.batch_at)
    batch = jax.eval_shape(found.batch_at, key, 0)
    assert batch.shape == (8, 32, 32, 1)
    _, metrics = jax.eval_shape(found.learner.step, key, carry.state, batch)
    assert TERMS[model] | {"reconstruction", "kl"} <= set(metrics)
    mean, logvar = jax.eval_shape(found.latents.posterior, carry.state, batch)
    assert mean.shape == logvar.shape == (8, 3)
    samples = jax.eval_shape(lambda state: found.learner.sample(key, state, 5), carry.state)
    assert samples.shape == (5, 32, 32, 1)


@pytest.mark.end_to_end
def test_the_weight_is_that_of_the_objective():
    key, x = rng.root(0), np.random.default_rng(0).uniform(size=(8, 32, 32, 1))
    losses = {}
    for model in ("vae", "beta"):
        learner = built(model).learner
        state = jax.jit(learner.init)(key, x)
        _, losses[model] = jax.jit(learner.step)(rng.root(1), state, x)
    extra = losses["beta"]["loss"] - losses["vae"]["loss"]
    np.testing.assert_allclose(extra, 2 * losses["vae"]["kl"], atol=2e-3)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("factor", {}),
        pytest.param(
            "vae",
            {"dataset": "xy_squares", "spacing": 2, "more_scores": True},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_codes_are_scored(model, options):
    found = built(model, **options)
    key = rng.root(0)
    state = jax.jit(found.learner.init)(key, found.batch_at(key, 0))
    numbers = found.evaluate(rng.root(1), state)
    shares = {"mig", "factor_vae_score"}
    if options:
        shares |= {"dci_disentanglement", "dci_completeness", "dci_informativeness", "sap"}
    assert set(numbers) == shares | {"active_units", "total_correlation"}
    assert all(0 <= numbers[name] <= 1 for name in shares)
    assert numbers["factor_vae_score"] > 0.1, "better than by chance"


@pytest.mark.end_to_end
def test_every_image_of_the_space_is_trained_on():
    found = MODULE.build(MODULE.Config(hidden=(4,), batch_size=46_080 // 9))
    read = jax.jit(lambda at, step: at(rng.root(0), step).reshape(46_080 // 9, -1).sum(1))
    sums = np.concatenate([read(found.batch_at, step) for step in range(9)])
    assert len(sums) == 46_080
    again = np.concatenate([read(found.batch_at, step) for step in range(9, 18)])
    np.testing.assert_array_equal(np.sort(again), np.sort(sums), "an epoch has each image once")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 4.0}, "weight must be 1 of a plain VAE, got 4.0"),
        ({"weight": -1.0, "model": "tc"}, "weight must be a number of at least 0, got -1.0"),
        ({"spacing": 4}, "spacing must be at most 8, and is of xy_squares alone, got 4 with spr"),
        ({"pooling": 3}, "pooling must be a divisor of 64 below it, got 3"),
        ({"pooling": 64}, "pooling must be a divisor of 64 below it, got 64"),
        ({"spacing": 9, "dataset": "xy_squares"}, "spacing must be at most 8.* got 9"),
    ],
)
def test_flags_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MODULE.Config(**options)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown dataset 'sprite'; did you mean 'sprites'"):
        MODULE.build(MODULE.Config(dataset="sprite"))
    with pytest.raises(ValueError, match="unknown model 'tcc'; did you mean 'tc'"):
        MODULE.build(MODULE.Config(model="tcc", **SMALL))


@pytest.mark.parametrize("model", ["beta", "tc"])
def test_a_weight_that_makes_a_plain_vae_is_refused(model):
    with pytest.raises(ValueError, match=f"weight must not be 1 of {model}"):
        MODULE.Config(model=model)
