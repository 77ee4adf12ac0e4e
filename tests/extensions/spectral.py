"""Spectral normalisation (Miyato et al. 2018, arXiv:1802.05957): singular vectors are memory."""

import jax
import jax.numpy as jnp
from shared import SHAPE, Config, L, experiment, leaky, slow

from genmod import gan, nets, train

__all__ = ["Config", "build"]

judge = nets.mlp((8,), 1, activation=leaky)
model = gan.make(nets.mlp((8,), SHAPE, output=jax.nn.sigmoid), judge, latent_dim=L)


def normalised(params, vectors):
    def divide(w, u):
        return w / jnp.linalg.norm(w @ jax.lax.stop_gradient(u)) if w.ndim == 2 else w

    return jax.tree.map(divide, params, vectors)


def remember(key, p, notes):
    def iterate(w, u):
        v = w.T @ (w @ u) if w.ndim == 2 else u
        return v / jnp.linalg.norm(v)

    return {"u": jax.tree.map(iterate, p["discriminator"], p["u"])}


def objective(loss):
    def played(keys, p, x):
        params = gan.GanParams(p["generator"], normalised(p["discriminator"], p["u"]))
        fake = model.generate(params, model.latent(keys))
        return loss(model.discriminate(params, x), model.discriminate(params, fake)), {}

    return played


def build(config: Config):
    def init(key, x):
        p = model.init(key, x)._asdict()
        u = jax.tree.map(lambda w: jnp.ones(w.shape[-1]) / w.shape[-1] ** 0.5, p["discriminator"])
        return {**p, "u": u}

    players = {
        name: train.Player(objective(getattr(gan.hinge, name)), slow)
        for name in ("discriminator", "generator")
    }

    def draw(keys, p):
        return model.generate(gan.GanParams(p["generator"], None), model.latent(keys))

    return experiment(config, train.game(init, players, remember=remember, sample=draw))
