"""The article's plain autoencoder: a code of two numbers.

It is the autoencoder of *Beginners Intro to Generative Modeling*. 784-128 relu - 2 - 128 relu -
784, binary cross entropy, RMSprop, batches of 100. Nothing is drawn and nothing pulls the codes
towards a prior: digits form clusters of any size, anywhere, with gaps that decode to nothing. Lay
`latents.png` beside that of `genmod train mnist_vae --latent-dim 2`.

    genmod train autoencoder

16 s on two cores. The training cross entropy of epoch 20: 145.1 nats an image.
"""

from dataclasses import dataclass
from functools import partial

import jax
import optax

from genmod import checks, data, nets, rng, train, vae
from genmod.experiment import Experiment, Latents, Settings


@dataclass(frozen=True)
class Config(Settings, data.Source):
    """The article's constants, with a code of two numbers."""

    epochs: checks.Count = 20
    """Length of training, in passes over the data."""
    batch_size: checks.Count = 100
    """Images in a batch."""
    code_dim: checks.Count = 2
    """Numbers in a code."""
    hidden: checks.Count = 128
    """Units of the hidden layers."""
    learning_rate: checks.Positive = 1e-3
    """RMSprop's learning rate."""


def build(config: Config) -> Experiment:
    images, test = config.train_and_test()
    encoder = nets.mlp((config.hidden,), config.code_dim)
    decoder = nets.mlp((config.hidden,), images.images.shape[1:])

    def init(key, x):
        encoder_params = encoder.init(rng.stream(key, "encoder"), x)
        code = encoder.apply(encoder_params, x)
        return {
            "encoder": encoder_params,
            "decoder": decoder.init(rng.stream(key, "decoder"), code),
        }

    def cross_entropy(keys, params, x):
        """Per image, in nats."""
        del keys  # nothing is drawn
        code = encoder.apply(params["encoder"], x)
        return -vae.bernoulli.log_prob(decoder.apply(params["decoder"], code), x), {}

    optimizer = optax.rmsprop(config.learning_rate, decay=0.9, eps=1e-7, eps_in_sqrt=True)

    def images_of(params, z):
        return jax.nn.sigmoid(decoder.apply(params["decoder"], z))

    return Experiment(
        learner=train.learner(init, cross_entropy, optimizer),
        batch_at=data.batches(images.images, batch_size=config.batch_size),
        dataset=images,
        epochs=config.epochs,
        latents=Latents(
            config.code_dim,
            decoder=lambda key, state: partial(images_of, state.params),
            encode=lambda state, x: encoder.apply(state.params["encoder"], x),
            standard_normal_prior=False,
        ),
        test=test,
    )
