"""VAE-GAN (Larsen et al. 2016, arXiv:1512.09300): distances in the discriminator's features."""

import jax.numpy as jnp
from shared import SHAPE, Config, adam, experiment, leaky, slow, small_vae, softplus

from genmod import nets, rng, train, vae

__all__ = ["Config", "build"]

model = small_vae()
features, top = nets.mlp((8,), 8, activation=leaky, output=leaky), nets.mlp((), 1)


def objective(player):
    def loss(keys, p, x):
        params = vae.VaeParams(p["encoder"], p["decoder"], ())
        mean, logvar = model.encode(params, x)
        z = model.sample(rng.stream(keys, "posterior"), mean, logvar)
        drawn = vae.generate(model)(rng.stream(keys, "prior"), params)
        images = x, vae.decode_mean(model)(params, z), drawn
        seen = [features(p["features"], image) for image in images]
        real, again, new = (top(p["top"], h)[:, 0] for h in seen)
        distance = 0.5 * jnp.square(seen[0] - seen[1]).sum(1)
        losses = {
            "encoder": vae.kl_divergence(mean, logvar) + 10 * distance,
            "decoder": 10 * distance + 0.5 * (softplus(-again) + softplus(-new)),
            "discriminator": softplus(-real) + 0.5 * (softplus(again) + softplus(new)),
        }
        return losses[player], {}

    return loss


def build(config: Config):
    def init(key, x):
        own = features.init(rng.stream(key, "features"), jnp.zeros((1, *SHAPE)))
        last = top.init(rng.stream(key, "top"), jnp.zeros((1, 8)))
        return {**model.init(key, x)._asdict(), "features": own, "top": last}

    players = {
        "encoder": train.Player(objective("encoder"), adam),
        "decoder": train.Player(objective("decoder"), adam),
        ("features", "top"): train.Player(objective("discriminator"), slow),
    }

    def draw(keys, p):
        return vae.generate(model)(keys, vae.VaeParams(p["encoder"], p["decoder"], ()))

    return experiment(config, train.game(init, players, sample=draw))
