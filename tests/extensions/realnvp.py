"""A prior of coupling layers (RealNVP, Dinh et al. 2017, arXiv:1605.08803)."""

import jax.numpy as jnp
from shared import SHAPE, Config, adam, experiment

from genmod import nets, rng, train, vae

__all__ = ["Config", "build"]

BLOCKS, HALF = 4, 2
net, normal = nets.mlp((8,), 2 * HALF), vae.standard_normal(2 * HALF)


def flow(latent_dim):
    def init(key, x):
        return [net.init(rng.at_step(key, i), jnp.zeros((1, HALF))) for i in range(BLOCKS)]

    def sample(keys, p, posterior):
        a, b = jnp.split(normal.sample(keys, ()), 2, axis=1)
        for block in reversed(p):
            shift, scale = jnp.split(net(block, b), 2, axis=1)
            a, b = b, (a - shift) * jnp.exp(-jnp.tanh(scale))
        return jnp.concatenate([a, b], axis=1)

    def log_prob(p, z, posterior):
        (a, b), total = jnp.split(z, 2, axis=1), 0.0
        for block in p:
            shift, scale = jnp.split(net(block, a), 2, axis=1)
            a, b, total = b * jnp.exp(jnp.tanh(scale)) + shift, a, total + jnp.tanh(scale).sum(1)
        return vae.log_normal(jnp.concatenate([a, b], axis=1)) + total

    return vae.Prior(init, sample, log_prob)


def build(config: Config):
    encoder, decoder = nets.mlp((8,), 4 * HALF), nets.mlp((8,), SHAPE)
    model = vae.make(encoder, decoder, latent_dim=2 * HALF, prior=flow)
    draw = vae.generate(model)
    learner = train.learner(model.init, vae.elbo(model), adam, sample=draw)
    return experiment(config, learner)
