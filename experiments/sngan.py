"""SNGAN: residual networks, spectral normalisation, and a projection discriminator of classes.

The nets of Miyato et al. (2018) at the size of the data, narrower than in the paper, by the hinge
loss. If the data have classes, the generator gets the class of each image by conditional batch
normalisation, and the discriminator by a projection (Miyato & Koyama 2018).

    genmod train sngan
    genmod train sngan --dataset idx:FASHION_MNIST
    genmod train sngan --no-conditional
    genmod evaluate runs/sngan/seed-0 --metrics distances

On MNIST, 40 minutes on two cores: 99.6 % of the samples are of the class that was asked for, and
their Fréchet distance is 2.0 (floor .85).
"""

from dataclasses import dataclass

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
    """Real images in a batch, cut into one part for each of the discriminator's updates."""
    conditional: bool = True
    """Give the class of each image to both networks."""
    latent_dim: checks.Count = 64
    """Latent dimensions."""
    width: checks.Count = 32
    """Channels of the generator's blocks."""
    discriminator_width: checks.Count = 32
    """Channels of the discriminator's blocks."""
    discriminator_steps: checks.Count = 1
    """Updates of the discriminator in a step."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate of the generator."""
    discriminator_learning_rate: checks.Positive = 4e-4
    """Adam's learning rate of the discriminator."""
    b1: checks.Weight = 0.0
    """Adam's momentum."""
    ema_half_life: checks.Positive = 10_000.0
    """Half-life of the generator's EMA, in generated images."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    num = data.num_classes(images, test)
    classes = num if config.conditional and num > 1 else None
    model = gan.make(
        nets.sngan_generator(images.images.shape[1:], width=config.width, classes=classes),
        nets.sngan_discriminator(width=config.discriminator_width, classes=classes),
        latent_dim=config.latent_dim,
        image_range=(-1, 1),
        condition=data.image_and_label if classes else None,
    )
    rates = config.learning_rate, config.discriminator_learning_rate
    learner = train.adversarial(
        model,
        gan.hinge,
        train.Optimizers(*(optax.adam(rate, b1=config.b1, b2=0.9) for rate in rates)),
        discriminator_steps=config.discriminator_steps,
        constrain=nets.power_iteration,
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
