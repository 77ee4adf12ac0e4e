"""Lazy R1 (Karras et al. 2020, arXiv:1912.04958): its gradient is taken at every fourth step."""

import jax
import jax.numpy as jnp
from shared import SHAPE, Config, L, experiment, leaky, slow

from genmod import gan, nets, train

__all__ = ["Config", "build"]


def lazy(hyper):
    def r1(keys, critic, real, fake):
        due = hyper["step"] % 4 == 0
        none = lambda: jnp.zeros(len(real))  # noqa: E731
        return jax.lax.cond(due, lambda: 4 * 0.5 * gan.r1(keys, critic, real, fake), none)

    return r1


def build(config: Config):
    generator = nets.mlp((8,), SHAPE, output=jax.nn.sigmoid)
    model = gan.make(generator, nets.mlp((8,), 1, activation=leaky), latent_dim=L)
    learner = train.adversarial(
        model, gan.nonsaturating, slow, penalty=lazy, hyper={"step": lambda step: step}
    )
    return experiment(config, learner)
