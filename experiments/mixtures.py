"""GANs on a mixture of Gaussians in the plane.

Every mode can be counted (PacGAN, table 1).

    genmod train mixtures
    genmod train mixtures --mixture ring
    genmod train mixtures --loss nonsaturating --r1 0 --r2 0 --packing 4

A minute each on two cores. The relativistic loss with R1 and R2 reaches 25 of 25 modes with 95.2 %
of high quality and a reverse KL of .004 on the grid (seed 0); experiments/tables/mixtures.py has
ten seeds of four games.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import optax

from genmod import checks, data, gan, nets, report, rng, train
from genmod.experiment import Experiment, Settings
from genmod.runs import observe


@dataclass(frozen=True)
class Config(Settings):
    """Model, game and length of training."""

    epochs: checks.Count = 31
    """Length of training; an epoch is 100,000 points."""
    batch_size: checks.Count = 256
    """Real points in a batch, for all updates of a step."""
    mixture: Literal["ring", "grid"] = "grid"
    """Eight modes on a circle, or 25 on a square."""
    loss: Literal[tuple(gan.LOSSES)] = "relativistic"  # pyrefly: ignore
    """Loss of both players."""
    r1: checks.Weight = 0.05
    """Weight of R1 at real points: half of the papers' gamma."""
    r2: checks.Weight = 0.05
    """Weight of R2 at generated points."""
    sigma: checks.Weight = 0.0
    """Noise of finite differences in place of R1's and R2's gradients; 0 for none."""
    gradient_penalty: checks.Weight = 0.0
    """Weight of WGAN-GP's penalty."""
    dragan: checks.Weight = 0.0
    """Weight of DRAGAN's penalty."""
    clip: checks.Weight = 0.0
    """Bound of the discriminator's weights after each update; 0 has none."""
    packing: checks.Count = 1
    """Points that the discriminator judges together."""
    discriminator_steps: checks.Count = 1
    """Updates of the discriminator in a step."""
    latent_dim: checks.Count = 2
    """Latent dimensions."""
    hidden: tuple[checks.Count, ...] = (128, 128, 128)
    """Units of both players' hidden layers."""
    learning_rate: checks.Positive = 1e-3
    """Adam's learning rate at the start of the cosine."""
    decay_epochs: checks.Count = 31
    """Epochs until the learning rate is zero, to restart at half."""
    b1: checks.Weight = 0.0
    """Adam's momentum."""
    ema_half_life: checks.Positive = 1e5
    """Half-life of the generator's EMA, in generated points."""


def build(config: Config) -> Experiment:
    mixture = data.MIXTURES[config.mixture]
    points = data.mixture_dataset(rng.stream(rng.root(0), config.mixture), mixture)
    test = data.mixture_dataset(rng.stream(rng.root(0), "test points"), mixture, 10_000)
    spread = np.sqrt(np.mean(np.square(mixture.centers)))  # the players see unit variance
    model = gan.make(
        nets.mlp(config.hidden, 2),
        gan.packed(nets.mlp(config.hidden, 1), config.packing),
        latent_dim=config.latent_dim,
    )
    decay_steps = config.steps(config.decay_epochs, len(points.images))
    r1, r2 = gan.r1, gan.r2
    if config.sigma:
        r1, r2 = gan.approximate_r1(config.sigma), gan.approximate_r2(config.sigma)
    learner = train.adversarial(
        model,
        gan.LOSSES[config.loss],
        optax.adam(train.cosine(config.learning_rate, steps=decay_steps), b1=config.b1, b2=0.99),
        penalty=gan.weighted(
            (config.r1, r1),
            (config.r2, r2),
            (config.gradient_penalty, gan.gradient_penalty),
            (config.dragan, gan.dragan),
        ),
        discriminator_steps=config.discriminator_steps,
        ema_half_life=config.ema_half_life,
        constrain=gan.weight_clipping(config.clip) if config.clip else None,
        as_images=lambda points: spread * points,
    )

    def look(key, state):
        return observe.points(learner.sample(key, state, 2500), mixture)

    return Experiment(
        learner=learner,
        batch_at=data.batches(
            points.images / spread, batch_size=config.batch_size, prepare=data.unchanged
        ),
        dataset=points,
        epochs=config.epochs,
        observe=look,
        show=lambda samples: report.plane(samples, mixture.centers),
        observe_every=config.steps(5, len(points.images)),
        test=test,
    )
