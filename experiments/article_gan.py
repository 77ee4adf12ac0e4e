"""The article's GAN on MNIST, with multi-layer perceptrons.

It is the GAN of *Beginners Intro to Generative Modeling*. The article's two losses: the
discriminator minimises its classification error, the generator the error of passing its images as
real. Taken literally that is the saturating minimax game of Goodfellow et al. (2014), whose
generator learns little once the discriminator is sure; `--loss nonsaturating` is its twin that
does. The article's equilibrium, a probability of 0.5 on both sides, is the dotted line of
pictures/game.png.

    genmod train article_gan
    genmod train article_gan --loss nonsaturating

Both games reach all ten classes without near duplicates; the reverse KL of the classes of 1,000
samples is .02 with the literal loss and .06 with its twin (seed 0), after five minutes on one core.
With `--generator-norm none` both reach 3 of 10 classes in the first epoch, and a warning says so.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from genmod import checks, data, gan, nets, train
from genmod.experiment import Experiment, Latents, Settings
from genmod.runs import observe


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """Model, game and length of training."""

    epochs: checks.Count = 20
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 100
    """Real images in a batch."""
    loss: Literal["minimax", "nonsaturating"] = "minimax"
    """The article's game, or its twin whose generator does not saturate."""
    latent_dim: checks.Count = 100
    """Latent dimensions."""
    hidden: tuple[checks.Count, ...] = (256, 512)
    """Units of the generator's hidden layers; the discriminator mirrors them."""
    generator_norm: Literal["none", "batch"] = "batch"
    """Normalisation in the generator."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate."""
    b1: checks.Weight = 0.5
    """Adam's momentum."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    shape = images.images.shape[1:]
    model = gan.make(
        nets.mlp(
            config.hidden,
            shape,
            norm={"none": None, "batch": "batch"}[config.generator_norm],
            output=jnp.tanh,
        ),
        nets.mlp(config.hidden[::-1], 1, activation=lambda x: jax.nn.leaky_relu(x, 0.2)),
        latent_dim=config.latent_dim,
        image_range=(-1, 1),
    )
    learner = train.adversarial(
        model,
        gan.LOSSES[config.loss],
        optax.adam(config.learning_rate, b1=config.b1),
    )

    return Experiment(
        learner=learner,
        batch_at=data.batches(
            images.images, batch_size=config.batch_size, prepare=data.signed_unit_interval
        ),
        dataset=images,
        epochs=config.epochs,
        observe=observe.samples(learner, images),
        latents=Latents(config.latent_dim, learner.decoder),
        test=test,
    )
