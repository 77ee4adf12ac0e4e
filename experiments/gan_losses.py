"""The losses of GANs on one footing, after Lucic et al. (2018).

One pair of networks, InfoGAN's, one optimizer and one length of training; only the loss and what it
needs differ: the Wasserstein loss has clipped weights, or a gradient penalty.

    genmod train gan_losses
    genmod train gan_losses --loss wasserstein_gp
    genmod evaluate runs/gan_losses/seed-0 --metrics distances

Not each has its best settings, which the paper seeks by a hundred trials: `genmod reproduce
lucic-ranking` says what differs.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import optax

from genmod import checks, data, gan, nets, train
from genmod.experiment import Experiment, Latents, Settings
from genmod.runs import observe

LOSSES = {
    "minimax": (gan.minimax, None),
    "nonsaturating": (gan.nonsaturating, None),
    "least_squares": (gan.least_squares, None),
    "wasserstein": (gan.wasserstein, None),
    "wasserstein_gp": (gan.wasserstein, 10 * gan.gradient_penalty),
    "dragan": (gan.nonsaturating, 10 * gan.dragan),
    "relativistic": (gan.relativistic, 0.5 * gan.r1 + 0.5 * gan.r2),
}
"""Loss and penalty, by the name of the game."""


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """Loss, networks and length of training."""

    epochs: checks.Count = 20
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 64
    """Real images in a batch."""
    loss: Literal[tuple(LOSSES)] = "nonsaturating"  # pyrefly: ignore
    """Loss of both players, with the penalty that belongs to it."""
    latent_dim: checks.Count = 64
    """Latent dimensions, uniform in [-1, 1)."""
    width: checks.Count = 64
    """Channels at 14 x 14; twice as many at 7 x 7."""
    hidden: checks.Count = 1024
    """Units of the dense layer of each network."""
    clip: checks.Positive = 0.01
    """Largest weight of the discriminator by the Wasserstein loss without a penalty."""
    discriminator_steps: checks.Count = 1
    """Updates of the discriminator in a step, each on a part of the batch."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate."""
    b1: checks.Weight = 0.5
    """Adam's momentum."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    size = {"width": config.width, "hidden": (config.hidden,)}
    model = gan.make(
        nets.dcgan_generator(images.images.shape[1:], norm="batch", output=jax.nn.sigmoid, **size),
        nets.dcgan_discriminator(**size),
        latent_dim=config.latent_dim,
        latent=gan.uniform_latent,
        image_range=(0, 1),
    )
    loss, penalty = LOSSES[config.loss]
    clipped = config.loss == "wasserstein"
    learner = train.adversarial(
        model,
        loss,
        optax.adam(config.learning_rate, b1=config.b1),
        penalty=penalty,
        discriminator_steps=config.discriminator_steps,
        constrain=gan.weight_clipping(config.clip) if clipped else None,
    )

    return Experiment(
        learner=learner,
        batch_at=data.batches(
            images.images, batch_size=config.batch_size, prepare=data.unit_interval
        ),
        dataset=images,
        epochs=config.epochs,
        evaluate=observe.scores(learner, images),
        observe=observe.samples(learner, images),
        latents=Latents(config.latent_dim, learner.decoder, standard_normal_prior=False),
        test=test,
    )
