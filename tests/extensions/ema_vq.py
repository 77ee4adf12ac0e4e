"""VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937), its codebook an average of its codes.

A code that is hardly used is replaced by a code of the batch (dead-code restart).
"""

import jax
import jax.numpy as jnp
from shared import SHAPE, Config, adam, experiment

from genmod import nets, rng, train

__all__ = ["Config", "build"]

K, D, PARTS = 8, 2, 4  # codes, their width, codes of an image
encoder = nets.mlp((8,), (PARTS, D))
decoder = nets.mlp((8,), SHAPE, output=jax.nn.sigmoid)


def objective(keys, p, x):
    h, book = encoder(p["encoder"], x), p["total"] / p["count"][:, None]
    nearest = jnp.square(h[:, :, None] - book[None, None]).sum(-1).argmin(-1)
    code = book[nearest]
    image = decoder(p["decoder"], h + jax.lax.stop_gradient(code - h))
    loss = jnp.square(image - x).sum((1, 2, 3)) + 0.25 * jnp.square(h - code).sum((1, 2))
    return loss, {}, {"hot": jax.nn.one_hot(nearest, K), "h": h}


def remember(key, p, notes, decay=0.9):
    hot, h = notes["hot"].reshape(-1, K), notes["h"].reshape(-1, D)
    count, total = decay * p["count"] + 0.1 * hot.sum(0), decay * p["total"] + 0.1 * hot.T @ h
    dead = count < count.mean() / 50
    total = jnp.where(dead[:, None], jax.random.choice(key, h, (K,)) * count.mean(), total)
    return {"total": total, "count": jnp.where(dead, count.mean(), count)}


def build(config: Config):
    def init(key, x):
        k, codes = lambda name: rng.stream(key, name), jnp.zeros((1, PARTS, D))
        own = {"encoder": encoder.initial(k("e"), x), "decoder": decoder.initial(k("d"), codes)}
        return {**own, "total": jax.random.normal(k("book"), (K, D)), "count": jnp.ones(K)}

    def draw(keys, p):
        index = jax.vmap(lambda key: jax.random.randint(key, (PARTS,), 0, K))(keys)
        return decoder(p["decoder"], (p["total"] / p["count"][:, None])[index])

    players = {("encoder", "decoder"): train.Player(objective, adam)}
    return experiment(config, train.game(init, players, remember=remember, sample=draw))
