"""The experiments with discrete latents, on small images: VQ-VAE and M2."""

from pathlib import Path

import jax
import numpy as np
import pytest
from light import CLASSES, LABELS, brightest, rows_of_light

from genmod import rng, train
from genmod.runs import catalogue

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A file of 240 training and 40 test images."""
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    test = LABELS[:40]
    np.savez(
        path,
        x_train=rows_of_light(LABELS),
        y_train=LABELS,
        x_test=rows_of_light(test),
        y_test=test,
    )
    return f"npz:{path}"


def trained(built, num_steps):
    fit = jax.jit(lambda key: train.fit(built.learner, key, built.batch_at, num_steps))
    return fit(rng.root(0))


@pytest.mark.slow
@pytest.mark.parametrize("codebook", ["average", "gradient"])
def test_a_vqvae_reconstructs_and_samples(archive, codebook):
    file = catalogue.load(EXPERIMENTS / "vqvae.py")
    config = file.Config(
        dataset=archive,
        batch_size=40,
        num_codes=8,
        code_dim=2,
        width=4,
        prior_width=8,
        prior_cells=1,
        codebook=codebook,
        restart=0.02 if codebook == "average" else 0.0,
        decay_epochs=100,
    )
    built = file.build(config)
    assert built.batch_size == 40
    state = trained(built, 150)
    numbers = built.evaluate(rng.root(1), state)
    parts = numbers["test_reconstruction"] + numbers["test_kl"]
    np.testing.assert_allclose(numbers["test_negative_elbo_independent"], parts, rtol=1e-4)
    assert numbers["test_negative_elbo"] < 64 * np.log(2)  # of images that are noise
    seen = built.observe(rng.root(2), state)
    assert 1 < seen.numbers["perplexity"] <= 8
    assert 1 < seen.numbers["codes_used"] <= 8
    assert seen.images["samples"].shape == (64, 8, 8, 1)
    if codebook == "average":
        names = {"data", "reconstructions"}
        names |= {"samples", "samples_frequencies", "samples_uniform"}
        assert set(built.figures(rng.root(3), state)) == names


@pytest.mark.slow
def test_m2_learns_classes_from_a_label_each(archive):
    file = catalogue.load(EXPERIMENTS / "semi_supervised.py")
    config = file.Config(
        dataset=archive,
        batch_size=40,
        images_per_class=1,
        latent_dim=2,
        hidden=(16,),
        epochs=40,
        learning_rate=1e-2,
    )
    built = file.build(config)
    assert built.batch_size == 40
    assert built.num_steps == 240
    state = trained(built, built.num_steps)
    assert built.evaluate(rng.root(1), state)["test_error"] < 0.1
    grid = np.asarray(built.grid(rng.root(2), state, 64))
    assert grid.shape == (8, 8, 8, 8, 1)
    shown = brightest(grid.reshape(-1, 8, 8, 1)) == np.tile(np.arange(CLASSES), 16)
    assert shown.mean() > 0.75  # by chance: 0.25
    assert {"data", "samples", "reconstructions", "latents"} <= set(
        built.final_figures(rng.root(3), state)
    )
