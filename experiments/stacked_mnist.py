"""Stacked-MNIST: a thousand modes (PacGAN, table 2).

Three digits are the colours of one image. A small convolutional GAN without normalisation, by the
relativistic loss with R1 and R2 (the ablation of R3GAN, Huang et al. 2024: 1,000 modes, KL .0781);
or another game:

    genmod train stacked_mnist
    genmod train stacked_mnist --loss nonsaturating --r1 0 --r2 0

On a CPU this is the beginning of the curve: 692, 930 and 898 modes after 1,280, 2,560 and 3,840
steps, reverse KL 1.34, .78 and .93 (seed 0). The second game had 75, 565 and 737 modes, reverse KL
5.3, 2.1 and 1.4, by the classifier of its day. Some ten minutes each on a core of its own. All
1,000 modes are reached by

    genmod train stacked_mnist --epochs 50 --decay-epochs 50

in seven of its epochs, half an hour of one core; the reverse KL is .137 after nine.
`genmod reproduce stacked-mnist` has five games side by side.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax

from genmod import checks, data, gan, nets, report, rng, train
from genmod.experiment import Experiment, Latents, Settings
from genmod.runs import observe


@dataclass(frozen=True)
class Config(Settings):
    """Model, game and length of training."""

    epochs: checks.Count = 3
    """Length of training; an epoch is 128,000 stacks."""
    batch_size: checks.Count = 100
    """Real stacks in a batch."""
    loss: Literal[tuple(gan.LOSSES)] = "relativistic"  # pyrefly: ignore
    """Loss of both players."""
    r1: checks.Weight = 0.5
    """Weight of R1 at real stacks: half of the papers' gamma, times the packing."""
    r2: checks.Weight = 0.5
    """Weight of R2 at generated stacks."""
    packing: checks.Count = 1
    """Stacks that the discriminator judges together."""
    fixed: bool = True
    """Train on 128,000 fixed stacks, not on new ones at every step."""
    net: Literal["dcgan", "r3gan"] = "dcgan"
    """Networks: DCGAN's without normalisation, or R3GAN's residual ones."""
    latent_dim: checks.Count = 128
    """Latent dimensions."""
    width: checks.Count = 32
    """Channels at 14 x 14; doubled at 7 x 7, in R3GAN halved at 28 x 28."""
    learning_rate: checks.Positive = 2e-4
    """Adam's learning rate at first."""
    decay_epochs: checks.Index = 0
    """Epochs until learning rate and penalties have fallen, to a quarter and a tenth.

    If it is 0 they stay as they are."""
    b1: checks.Weight = 0.0
    """Adam's momentum."""
    ema_half_life: checks.Positive = 20_000.0
    """Half-life of the generator's EMA, in generated stacks."""


def networks(config: Config):
    """Returns the generator and the discriminator of a configuration."""
    shape, width = (28, 28, 3), config.width
    if config.net == "dcgan":
        generator = nets.dcgan_generator(shape, width=width, output=jnp.tanh)
        return generator, nets.dcgan_discriminator(width=width)
    widths = (2 * width, width, width // 2)
    generator = nets.r3gan_generator(shape, widths=widths, cells=1, output=jnp.tanh)
    return generator, nets.r3gan_discriminator(widths=widths, cells=1)


def build(config: Config) -> Experiment:
    digits = data.all_digits()
    # The set is the same for every seed of the training.
    triples = data.triples(rng.stream(rng.root(0), "stacks"), 128_000, 70_000)
    others = data.triples(rng.stream(rng.root(0), "test stacks"), 10_000, 70_000)
    stacks, test = (data.stacked_dataset(digits, three) for three in (triples, others))
    some = stacks.images[:1000]
    frequencies = data.stacked_frequencies(digits.labels)
    generator, discriminator = networks(config)
    model = gan.make(
        generator,
        gan.packed(discriminator, config.packing),
        latent_dim=config.latent_dim,
        image_range=(-1, 1),
    )
    penalty = gan.weighted((config.r1, gan.r1), (config.r2, gan.r2))
    steps = config.steps(config.decay_epochs, len(stacks.images))
    falls = config.decay_epochs > 0
    rate = optax.cosine_decay_schedule(config.learning_rate, steps, alpha=0.25 if falls else 1.0)
    learner = train.adversarial(
        model,
        gan.LOSSES[config.loss],
        optax.adam(rate, b1=config.b1, b2=0.99),
        penalty=lambda hyper: hyper["decay"] * penalty,
        hyper={"decay": optax.cosine_decay_schedule(1.0, steps, alpha=0.1 if falls else 1.0)},
        ema_half_life=config.ema_half_life,
    )

    def look(key, state):
        samples = [learner.sample(rng.at_step(key, i), state, 2000) for i in range(13)]
        return observe.stacked_digits(np.concatenate(samples), some, frequencies)

    return Experiment(
        learner=learner,
        batch_at=data.stacked_batches(
            digits.images,
            batch_size=config.batch_size,
            triples=triples if config.fixed else None,
            prepare=data.signed_unit_interval,
        ),
        dataset=stacks,
        epochs=config.epochs,
        figures=lambda key, state: report.generator_figures(some, learner.sample(key, state, 100)),
        observe=look,
        observe_every=640,
        latents=Latents(config.latent_dim, learner.decoder),
        test=test,
    )
