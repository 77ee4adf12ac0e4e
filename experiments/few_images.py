"""A GAN of few images, with augmentation of what its discriminator sees, or without.

DCGAN's nets at 28 x 28 on a few images of each class. A discriminator learns so few images by heart
in time. DiffAugment (Zhao et al. 2020), here of translation and cutout, shows it every image
changed; ADA (Karras et al. 2020) changes images as often as the discriminator overfits. R1 is taken
at the images that the discriminator sees. It starts from He's initial weights: without
normalisation those of DCGAN are too small to learn fast.

    genmod train few_images
    genmod train few_images --augment diffaugment
    genmod train few_images --augment none
    genmod evaluate runs/few_images/seed-0 --metrics distances

A quarter of an hour of one core: Fréchet distances of 31, 35 and 44, in the order of the commands.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

from genmod import checks, data, gan, nets, rng, train
from genmod.data.dataset import chosen
from genmod.experiment import Experiment, Latents, Observation, Settings
from genmod.runs import observe

LIMIT = 0.8
"""Probability of augmentation above which samples may be augmented themselves."""


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """Data, augmentation, game and length of training."""

    epochs: checks.Count = 2000
    """Length of training, in passes over the few images."""
    batch_size: checks.Count = 50
    """Real images in a batch."""
    images_per_class: checks.Count = 50
    """Images of each class in the training set."""
    fold: checks.Index = 0
    """Number of the training set; folds are disjoint, and the same for every seed."""
    augment: Literal["none", "diffaugment", "adaptive"] = "adaptive"
    """Augmentation of what the discriminator sees."""
    groups: str = "blit,geometry"
    """Groups of adaptive augmentation: blit, geometry, color."""
    target: checks.Positive = 0.6
    """Mean sign of the discriminator at real images that adaptive augmentation holds."""
    adaptation: checks.Positive = 50_000.0
    """Real images in which its probability can move from 0 to 1."""
    latent_dim: checks.Count = 64
    """Latent dimensions."""
    width: checks.Count = 32
    """Channels at 14 x 14; twice as many at 7 x 7."""
    r1: checks.Weight = 0.01
    """Weight of R1 at real images."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate of the generator."""
    discriminator_learning_rate: checks.Positive = 1e-3
    """Adam's learning rate of the discriminator."""
    b1: checks.Weight = 0.5
    """Adam's momentum."""
    ema_half_life: checks.Positive = 5_000.0
    """Half-life of the generator's EMA, in generated images."""


def build(config: Config) -> Experiment:
    whole, test = config.train_and_test()
    places = data.fold(
        rng.stream(rng.root(0), "folds"), whole.labels, config.images_per_class, config.fold
    )
    few = chosen(whole, places)
    model = gan.make(
        nets.dcgan_generator(
            few.images.shape[1:], width=config.width, norm="batch", output=jnp.tanh
        ),
        nets.dcgan_discriminator(width=config.width, kernel_init=nets.he_normal),
        latent_dim=config.latent_dim,
        image_range=(-1, 1),
    )
    augment, adaptive = None, config.augment == "adaptive"
    data.adaptive(0.0, groups=config.groups)  # refuses unknown groups now
    if config.augment == "diffaugment":
        augment = data.diffaugment("translation,cutout", fill=-1)
    elif adaptive:

        def augment(now):
            return data.adaptive(now["probability"], groups=config.groups)

    rates = config.learning_rate, config.discriminator_learning_rate
    moved = gan.moving_probability(target=config.target, num_images=config.adaptation)
    learner = train.adversarial(
        model,
        gan.nonsaturating,
        train.Optimizers(*(optax.adam(rate, b1=config.b1) for rate in rates)),
        penalty=gan.weighted((config.r1, gan.r1)),
        augment=augment,
        memory={"probability": 0.0} if adaptive else None,
        remember=moved if adaptive else None,
        ema_half_life=config.ema_half_life,
    )

    def look(key, state) -> Observation:
        found = observe.samples(learner, few)(key, state)
        if not adaptive:
            return found
        probability = float(state.memory["probability"])
        warnings = [*found.warnings]
        if probability > LIMIT:
            warnings.append(
                f"the probability of augmentation is above {LIMIT}: samples may be augmented too"
            )
        numbers = {**found.numbers, "probability": probability}
        return found._replace(numbers=numbers, warnings=warnings)

    return Experiment(
        learner=learner,
        batch_at=data.batches(
            few.images, batch_size=config.batch_size, prepare=data.signed_unit_interval
        ),
        dataset=few,
        epochs=config.epochs,
        evaluate=observe.scores(learner, few),
        observe=look,
        observe_every=1000,
        latents=Latents(config.latent_dim, learner.decoder),
        test=test,
        reference=whole,
    )
