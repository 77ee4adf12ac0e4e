"""A convolutional VAE for pictures of your own: the nets of DCGAN as encoder and decoder.

Two strided convolutions to the posterior of the latents, their mirror back to logits of the pixels,
the evidence lower bound with grey values or colours as probabilities, Adam on a cosine. Given a
folder, `genmod train` takes this experiment and chooses size, batches and length to suit it:

    genmod train PICTURES
    genmod train pictures
    genmod train pictures --dataset folder:PICTURES --image-size 64

A folder of 2,000 pictures of Fashion-MNIST (28 x 28, grey): 2,700 steps of 64 in 59 s on two cores;
test loss 244.1 +- 5.3 nats (mean over the 200 pictures held out, with its standard error).
"""

from dataclasses import dataclass
from functools import partial

import optax

from genmod import checks, data, evaluate, nets, train, vae
from genmod.experiment import Experiment, Latents


@dataclass(frozen=True)
class Config(data.Source):
    """Model, optimizer and length of training."""

    seed: int = 0
    """Seed of everything random."""
    epochs: int = 5
    """How long to train, and length of the cosine of the learning rate."""
    batch_size: int = 64
    """Images in a batch."""
    latent_dim: int = 32
    """Latent dimensions."""
    width: int = 32
    """Channels after the first convolution; twice as many after the second."""
    beta: float = 1.0
    """Weight of the KL term; 1 makes the loss a bound."""
    learning_rate: float = 1e-3
    """Adam's learning rate at the start of the cosine."""
    decay_epochs: int = 5
    """Length of the cosine: by then the learning rate is zero."""

    def __post_init__(self):
        checks.seed("seed", self.seed)
        for name in ("epochs", "batch_size", "latent_dim", "width", "decay_epochs"):
            checks.positive_integer(name, getattr(self, name))
        checks.positive("learning_rate", self.learning_rate)
        checks.not_negative("beta", self.beta)


def build(config: Config) -> Experiment:
    """Puts the parts together."""
    images, test = config.train_and_test()
    encoder = nets.dcgan_discriminator(width=config.width, out=2 * config.latent_dim)
    decoder = nets.dcgan_generator(images.images.shape[1:], width=config.width, output=None)
    model = vae.make(encoder, decoder, latent_dim=config.latent_dim)
    decay_steps = config.decay_epochs * len(images.images) // config.batch_size
    learner = train.learner(
        model.init,
        vae.elbo(model, beta=config.beta),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, max(1, decay_steps))),
        sample=vae.generate(model),
    )

    def evaluation(key, state):
        values = evaluate.over_examples(
            key, state.params, test.images, objective=vae.elbo(model), prepare=data.unit_interval
        )
        bound = evaluate.estimate(values["loss"])
        return {"test_loss": bound.mean, "test_loss_standard_error": bound.error}

    return Experiment(
        learner=learner,
        batch_at=data.batches(images.images, batch_size=config.batch_size),
        dataset=images,
        batch_size=config.batch_size,
        epochs=config.epochs,
        evaluate=evaluation,
        latents=Latents(
            config.latent_dim,
            decoder=lambda key, state: partial(vae.decode_mean(model), state.params),
            encode=lambda state, x: model.encode(state.params, x)[0],
        ),
        test=test,
    )
