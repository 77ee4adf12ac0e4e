"""A convolutional GAN on MNIST.

Its nets are those of DCGAN (Radford et al. 2016), scaled to 28 x 28. Generator 100 - 7 x 7 x 128 -
14 x 14 x 64 - 28 x 28 x 1 tanh with batch normalisation, its mirror without as the discriminator,
the non-saturating loss, an average of the generator.

    genmod train dcgan_mnist

All ten classes, without near duplicates; the reverse KL of the classes of 10,000 samples is .036
(seed 0). At 139 ms a step of 128 images on two quiet cores (experiments/benchmarks/convolutions.py)
its 6,000 steps are a quarter of an hour.
"""

from dataclasses import dataclass
from typing import Literal

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
    batch_size: checks.Count = 100
    """Real images in a batch."""
    latent_dim: checks.Count = 100
    """Latent dimensions."""
    width: checks.Count = 64
    """Channels at 14 x 14; twice as many at 7 x 7."""
    generator_norm: Literal["none", "group", "batch"] = "batch"
    """Normalisation in the generator."""
    discriminator_norm: Literal["none", "group", "batch"] = "none"
    """Normalisation in the discriminator."""
    joint_batch: bool = False
    """Judge real and generated images as one batch; matters with batch normalisation."""
    r1: checks.Weight = 0.0
    """Weight of R1 at real images."""
    augment: str = "none"
    """Augmentation before the discriminator: a policy of `data.diffaugment`, or none."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate."""
    b1: checks.Weight = 0.5
    """Adam's momentum."""
    ema_half_life: checks.Positive = 20_000.0
    """Half-life of the generator's EMA, in generated images."""

    def __post_init__(self):
        super().__post_init__()
        augmentation(self.augment)


def augmentation(policy: str):
    """Returns the augmentation of images in [-1, 1] on black; None for "none"."""
    return None if policy == "none" else data.diffaugment(policy, fill=-1)


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    shape = images.images.shape[1:]
    norms = {"none": None, "group": "group", "batch": "batch"}
    model = gan.make(
        nets.dcgan_generator(
            shape, width=config.width, norm=norms[config.generator_norm], output=jnp.tanh
        ),
        nets.dcgan_discriminator(width=config.width, norm=norms[config.discriminator_norm]),
        latent_dim=config.latent_dim,
        image_range=(-1, 1),
    )
    learner = train.adversarial(
        model,
        gan.nonsaturating,
        optax.adam(config.learning_rate, b1=config.b1),
        penalty=gan.weighted((config.r1, gan.r1)),
        joint_batch=config.joint_batch,
        ema_half_life=config.ema_half_life,
        augment=augmentation(config.augment),
    )

    return Experiment(
        learner=learner,
        batch_at=data.batches(
            images.images, batch_size=config.batch_size, prepare=data.signed_unit_interval
        ),
        dataset=images,
        epochs=config.epochs,
        evaluate=observe.scores(learner, images),
        observe=observe.samples(learner, images),
        latents=Latents(config.latent_dim, learner.decoder),
        test=test,
    )
