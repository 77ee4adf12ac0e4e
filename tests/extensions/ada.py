"""Adaptive augmentation (ADA, Karras et al. 2020, arXiv:2006.06676): its probability is memory."""

import jax
import jax.numpy as jnp
from shared import SHAPE, Config, L, experiment, leaky, slow

from genmod import data, gan, nets, rng, train

__all__ = ["Config", "build"]

augmentation = data.translate(1 / 3)


def sometimes(now):
    def augment(keys, images):
        draw = lambda key: jax.random.bernoulli(key, now["p"])  # noqa: E731
        chosen = jax.vmap(draw)(rng.stream(keys, "chosen"))[:, None, None, None]
        return jnp.where(chosen, augmentation(keys, images), images)

    return augment


def remember(key, params, notes):
    sign = jnp.sign(notes["real_logits"]).mean()
    return {"p": jnp.clip(params["p"] + 0.1 * jnp.sign(sign - 0.6), 0, 1)}


def build(config: Config):
    generator = nets.mlp((8,), SHAPE, output=jax.nn.sigmoid)
    model = gan.make(generator, nets.mlp((8,), 1, activation=leaky), latent_dim=L)
    learner = train.adversarial(
        model, gan.nonsaturating, slow, augment=sometimes, memory={"p": 0.2}, remember=remember
    )
    return experiment(config, learner)
