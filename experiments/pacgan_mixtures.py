"""PacGAN's own protocol on the 2-D mixtures (table 1).

Its networks, its optimizer and its 400 epochs. Generator 2 - 400 - 400 - 400 - 400 - 2 with batch
normalisation and relu, discriminator of three maxout layers (200 units of 5 pieces), weights from
N(0, 0.02^2), 100,000 points, batches of 100, Adam 1e-4 with momentum 0.8, the non-saturating loss
(Lin et al. 2018). Published, over 10 runs: 6.3 +- .5 modes, 98.2 % of high quality and a reverse KL
of .45 +- .09 on the ring; 17.3 +- .8, 94.8 % and .70 +- .07 on the grid.

    genmod train pacgan_mixtures
    genmod train pacgan_mixtures --mixture ring --packing 4

Found on the grid after 400,000 steps, seed 0: 19 modes, 92.4 % and .34; over the last 100,000
steps 19 to 20 modes, 88 to 95 % and .30 to .38. The standard errors above make a single run's
spread 2.5 modes and .22: it lies within. A run takes 100 minutes of one core.
"""

from dataclasses import dataclass
from typing import Literal

import optax

from genmod import checks, data, gan, nets, report, rng, train
from genmod.experiment import Experiment, Settings
from genmod.runs import observe


@dataclass(frozen=True)
class Config(Settings):
    """The paper's constants."""

    epochs: checks.Count = 400
    """Length of training; an epoch is 100,000 points."""
    batch_size: checks.Count = 100
    """Real points in a batch; packs are made of them."""
    mixture: Literal["ring", "grid"] = "grid"
    """Eight modes on a circle, or 25 on a square."""
    packing: checks.Count = 1
    """Points that the discriminator judges together."""
    learning_rate: checks.Positive = 1e-4
    """Adam's learning rate."""
    b1: checks.Weight = 0.8
    """Adam's momentum."""


def build(config: Config) -> Experiment:
    mixture = data.MIXTURES[config.mixture]
    points = data.mixture_dataset(rng.stream(rng.root(0), config.mixture), mixture)
    test = data.mixture_dataset(rng.stream(rng.root(0), "test points"), mixture, 10_000)
    normal = nets.normal(0.02)
    discriminator = nets.mlp((200,) * 3, 1, activation=nets.maxout(5), kernel_init=normal)
    model = gan.make(
        nets.mlp((400,) * 4, 2, norm="batch", kernel_init=normal),
        gan.packed(discriminator, config.packing),
        latent_dim=2,
    )
    learner = train.adversarial(
        model, gan.nonsaturating, optax.adam(config.learning_rate, b1=config.b1)
    )

    def look(key, state):
        return observe.points(learner.sample(key, state, 2500), mixture)

    return Experiment(
        learner=learner,
        batch_at=data.batches(points.images, batch_size=config.batch_size, prepare=data.unchanged),
        dataset=points,
        epochs=config.epochs,
        observe=look,
        show=lambda samples: report.plane(samples, mixture.centers),
        observe_every=config.steps(20, len(points.images)),
        test=test,
    )
