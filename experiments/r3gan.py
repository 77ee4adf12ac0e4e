"""R3GAN: networks without normalisation, by the relativistic loss with R1 and R2.

Small nets of Huang et al. (2024) at the size of the data, for any images. As in the paper, weights
of the penalties and learning rate fall on a cosine, to a tenth and a quarter, Adam has no momentum,
and the class of an image, if there is one, is embedded in both networks. Other than there, images
end in a tanh, and the second moments of Adam have one decay.

    genmod train r3gan
    genmod train r3gan --dataset idx:FASHION_MNIST
    genmod train r3gan --dataset tfds:cifar10 --width 32 --cells 2
    genmod evaluate runs/r3gan/seed-0 --metrics classes distances class_distances

`genmod train stacked_mnist --net r3gan` has these nets on a thousand modes.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import optax

from genmod import checks, data, gan, nets, train
from genmod.experiment import Experiment, Latents, Settings
from genmod.runs import observe


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """Model, game and length of training."""

    epochs: checks.Count = 10
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 64
    """Real images in a batch."""
    conditional: bool = True
    """Give the class of each image to both networks."""
    latent_dim: checks.Count = 64
    """Latent dimensions."""
    width: checks.Count = 16
    """Channels at the size of the images, a multiple of 8.

    There are twice and four times as many further in.
    """
    cells: checks.Count = 1
    """Residual cells at each size."""
    r1: checks.Weight = 0.5
    """Weight of R1 at real images at first: half of the paper's gamma."""
    r2: checks.Weight = 0.5
    """Weight of R2 at generated images at first."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate at first."""
    decay_epochs: checks.Count = 10
    """Epochs until learning rate and penalties have fallen."""
    ema_half_life: checks.Positive = 20_000.0
    """Half-life of the generator's EMA, in generated images."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    num = data.num_classes(images, test)
    classes = num if config.conditional and num > 1 else None
    shape = images.images.shape[1:]
    doublings = math.floor(math.log2(min(shape[:2]) / 4))
    size = {
        "widths": [config.width * 2 ** min(2, stage) for stage in range(doublings, -1, -1)],
        "cells": config.cells,
        "classes": classes,
    }
    model = gan.make(
        nets.r3gan_generator(shape, output=jnp.tanh, **size),
        nets.r3gan_discriminator(**size),
        latent_dim=config.latent_dim,
        image_range=(-1, 1),
        condition=data.image_and_label if classes else None,
    )
    steps = config.steps(config.decay_epochs, len(images.images))
    penalty = gan.weighted((config.r1, gan.r1), (config.r2, gan.r2))
    rate = optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.25)
    learner = train.adversarial(
        model,
        gan.relativistic,
        optax.adam(rate, b1=0.0, b2=0.99),
        penalty=lambda hyper: hyper["decay"] * penalty,
        hyper={"decay": optax.cosine_decay_schedule(1.0, steps, alpha=0.1)},
        conditions=images.labels if classes else None,
        ema_half_life=config.ema_half_life,
    )

    examples, prepare = images.images, data.signed_unit_interval
    if classes:
        examples, prepare = images.labelled, {"image": prepare}
    return Experiment(
        learner=learner,
        batch_at=data.batches(examples, batch_size=config.batch_size, prepare=prepare),
        dataset=images,
        epochs=config.epochs,
        evaluate=observe.scores(learner, images),
        observe=observe.samples(learner, images),
        latents=Latents(config.latent_dim, learner.decoder),
        test=test,
    )
