"""Unrolled GAN (Metz et al. 2017, arXiv:1611.02163): it sees the discriminator's answer."""

import jax
from shared import SHAPE, Config, L, experiment, leaky, slow

from genmod import devices, gan, nets, rng, train

__all__ = ["Config", "build"]

generator = nets.mlp((8,), SHAPE, output=jax.nn.sigmoid)
model = gan.make(generator, nets.mlp((8,), 1, activation=leaky), latent_dim=L)


def played(loss, keys, p, x):
    fake = model.generate(p, model.latent(keys))
    return loss(model.discriminate(p, x), model.discriminate(p, fake))


def discriminator_loss(keys, p, x):
    return played(gan.nonsaturating.discriminator, keys, p, x), {}


def generator_loss(keys, p, x):
    for step in range(3):
        own = rng.at_step(rng.stream(keys, "unrolled"), step)
        answer = lambda d: discriminator_loss(own, p._replace(discriminator=d), x)[0].mean()  # noqa: B023, E731
        gradient = devices.mean(jax.grad(answer)(p.discriminator))
        moved = jax.tree.map(lambda w, g: w - 0.1 * g, p.discriminator, gradient)
        p = p._replace(discriminator=moved)
    return played(gan.nonsaturating.generator, keys, p, x), {}


def build(config: Config):
    players = {
        "discriminator": train.Player(discriminator_loss, slow),
        "generator": train.Player(generator_loss, slow),
    }
    draw = lambda keys, p: model.generate(p, model.latent(keys))  # noqa: E731
    return experiment(config, train.game(model.init, players, sample=draw))
