"""Projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637)."""

import jax
import jax.numpy as jnp
from shared import CLASSES, SHAPE, Config, L, blobs, experiment, image_and_label, leaky, slow

from genmod import gan, nets, rng, train

__all__ = ["Config", "build"]

features, top = nets.mlp((8,), 8, activation=leaky, output=leaky), nets.mlp((), 1)


def init(key, x, c):
    own = features.init(rng.stream(key, "features"), x)
    last = top.init(rng.stream(key, "top"), jnp.zeros((1, 8)))
    return {"features": own, "top": last, "classes": jnp.zeros((CLASSES, 8))}


def apply(params, x, c):
    h = features(params["features"], x)
    return top(params["top"], h)[:, 0] + (params["classes"][c] * h).sum(1)


def build(config: Config):
    generator = nets.conditional(nets.mlp((8,), SHAPE, output=jax.nn.sigmoid), CLASSES)
    model = gan.make(generator, nets.Net(init, apply), latent_dim=L, condition=image_and_label)
    learner = train.adversarial(
        model, gan.hinge, slow, penalty=0.1 * gan.r1, conditions=blobs().labels
    )
    return experiment(config, learner, labels=True)
