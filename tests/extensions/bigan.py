"""BiGAN (Donahue et al. 2017, arXiv:1605.09782): pairs of image and code are judged."""

import jax
import jax.numpy as jnp
from shared import SHAPE, Config, L, experiment, leaky, slow, softplus

from genmod import gan, nets, rng, train

__all__ = ["Config", "build"]

networks = {
    "encoder": nets.mlp((8,), L),
    "generator": nets.mlp((8,), SHAPE, output=jax.nn.sigmoid),
    "discriminator": nets.conditional(nets.mlp((8,), 1, activation=leaky)),
}
latent = gan.normal_latent(L)


def init(key, x):
    z = jnp.zeros((len(x), L))
    inputs = {"encoder": (x,), "generator": (z,), "discriminator": (x, z)}
    return {n: networks[n].initial(rng.stream(key, n), *own) for n, own in inputs.items()}


def logits(keys, p, x):
    z = latent(keys)
    code, image = networks["encoder"](p["encoder"], x), networks["generator"](p["generator"], z)
    return [
        networks["discriminator"](p["discriminator"], *pair)[:, 0]
        for pair in ((x, code), (image, z))
    ]


def objective(loss):
    return lambda keys, p, x: (loss(*logits(keys, p, x)), {})


def build(config: Config):
    players = {
        "discriminator": train.Player(objective(lambda r, f: softplus(-r) + softplus(f)), slow),
        ("encoder", "generator"): train.Player(
            objective(lambda r, f: softplus(r) + softplus(-f)), slow
        ),
    }
    draw = lambda keys, p: networks["generator"](p["generator"], latent(keys))  # noqa: E731
    return experiment(config, train.game(init, players, sample=draw))
