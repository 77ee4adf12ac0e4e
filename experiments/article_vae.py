"""The article's VAE on MNIST, with its constants.

It is the VAE of *Beginners Intro to Generative Modeling*. 784-128 relu - (mean 4, log-variance 4) -
128 relu - 784, pixels in [0, 1], the article's loss (mean cross entropy over pixels + 1e-4 * mean
KL term over latents), RMSprop as Keras means it, batches of 100, 50 epochs. Then 100 draws from
N(0, I), decoded.

    genmod train article_vae

33 s on two cores. The training loss of epochs 10, 20, 30, 40 and 50: .1703 .1624 .1589 .1566 .1549
(seeds 1 and 2 end at .1549 and .1550; Keras's run of the article's code at .1551).
"""

from dataclasses import dataclass

import optax

from genmod import checks, data, nets, train, vae
from genmod.experiment import Experiment, Latents, Settings


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """The article's constants."""

    epochs: checks.Count = 50
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 100
    """Images in a batch."""
    latent_dim: checks.Count = 4
    """Latent dimensions."""
    hidden: checks.Count = 128
    """Units of the hidden layers."""
    learning_rate: checks.Positive = 1e-3
    """RMSprop's learning rate."""
    kl_weight: checks.Weight = 1e-4
    """Weight of the article's KL term."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    model = vae.make(
        nets.mlp((config.hidden,), 2 * config.latent_dim, heads=2),
        nets.mlp((config.hidden,), images.images.shape[1:]),
        latent_dim=config.latent_dim,
    )
    # Keras adds epsilon to the mean square before taking its root, and so does optax.
    optimizer = optax.rmsprop(config.learning_rate, decay=0.9, eps=1e-7, eps_in_sqrt=True)
    learner = train.learner(
        model.init,
        vae.article_loss(model, kl_weight=config.kl_weight),
        optimizer,
        sample=vae.generate(model),
    )

    return Experiment(
        learner=learner,
        batch_at=data.batches(images.images, batch_size=config.batch_size),
        dataset=images,
        epochs=config.epochs,
        latents=Latents.of(model),
        test=test,
    )
