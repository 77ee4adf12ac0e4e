"""A tiny experiment for the tests: a VAE on 64 images of 6 x 6 pixels.

It is trained in a second.

    genmod train tests/support/small_experiment.py
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genmod import checks, data, evaluate, nets, report, train, vae
from genmod.experiment import Experiment


@dataclass(frozen=True)
class Config:
    """Small enough to train in a test."""

    seed: int = 0
    """Seed of everything random."""
    epochs: int = 3
    """How long to train."""
    batch_size: int = 16
    """Images in a batch."""
    latent_dim: int = 2
    """Latent dimensions."""
    learning_rate: float = 1e-2
    """Adam's learning rate."""
    nan_at_step: int = 0
    """Step, counted from 1, whose loss is made NaN; none if 0."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "latent_dim"):
            checks.positive_integer(name, getattr(self, name))
        checks.positive("learning_rate", self.learning_rate)


def build(config: Config) -> Experiment:
    """Puts the parts together."""
    pixels = (np.arange(64 * 6 * 6) * 37 % 256).astype(np.uint8).reshape(64, 6, 6, 1)
    labels = (np.arange(64) % 4).astype(np.int32)
    images = data.Dataset(pixels, labels, data.fingerprint(pixels, labels))
    encoder = nets.mlp((8,), 2 * config.latent_dim, heads=2)
    decoder = nets.mlp((8,), (6, 6, 1))
    model = vae.make(encoder, decoder, latent_dim=config.latent_dim)
    elbo = vae.elbo(model)

    def objective(hyper):
        def weighted(keys, params, x):
            loss, aux = elbo(keys, params, x)
            return hyper["weight"] * loss, aux

        return weighted

    learner = train.learner(
        model.init,
        objective,
        optax.adam(config.learning_rate),
        sample=vae.generate(model),
        hyper={"weight": lambda step: jnp.where(step + 1 == config.nan_at_step, jnp.nan, 1.0)},
    )

    def evaluation(key, state):
        values = evaluate.over_examples(
            key, state.params, pixels, objective=elbo, prepare=data.unit_interval
        )
        return {"negative_elbo": evaluate.estimate(values["loss"]).mean}

    @jax.jit
    def means(params):
        return model.encode(params, data.unit_interval(None, jnp.asarray(pixels)))[0]

    def figures(key, state):
        draws = jax.jit(learner.sample, static_argnums=2)(key, state, 9)
        return {
            "samples": report.image_grid(draws),
            "latents": report.latent_plane(means(state.params), labels),
        }

    return Experiment(
        learner=learner,
        batch_at=data.batches(pixels, batch_size=config.batch_size),
        dataset=images,
        batch_size=config.batch_size,
        epochs=config.epochs,
        evaluate=evaluation,
        figures=figures,
    )
