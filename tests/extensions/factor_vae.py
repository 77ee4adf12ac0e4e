"""FactorVAE (Kim & Mnih 2018, arXiv:1802.05983): a critic that estimates the total correlation."""

import jax
from shared import Config, L, adam, experiment, leaky, slow, small_vae, softplus

from genmod import nets, rng, train, vae

__all__ = ["Config", "build"]

model, critic = small_vae(), nets.mlp((8,), 1, activation=leaky)
bound = vae.elbo(model)


def judged(keys, params, x, mix=lambda z: z):
    z = model.sample(rng.stream(keys, "z"), *model.encode(params["vae"], x))
    return critic(params["critic"], mix(z))[:, 0]


def vae_loss(keys, params, x):
    loss, aux = bound(keys, params["vae"], x)
    total_correlation = judged(keys, params, x)
    return loss + 10 * total_correlation, {**aux, "total_correlation": total_correlation}


def critic_loss(keys, params, x):
    orders = jax.random.split(rng.of_batch(keys), L)
    mixed = judged(
        keys, params, x, lambda z: jax.vmap(jax.random.permutation, (0, 1), 1)(orders, z)
    )
    return 0.5 * (softplus(-judged(keys, params, x)) + softplus(mixed)), {}


def build(config: Config):
    def init(key, x):
        z = model.encode(model.init(key, x), x)[0]
        return {"vae": model.init(key, x), "critic": critic.initial(rng.stream(key, "critic"), z)}

    players = {
        "vae": train.Player(vae_loss, adam),
        "critic": train.Player(critic_loss, slow, whole_batch=True),
    }
    draw = vae.generate(model)
    learner = train.game(init, players, sample=lambda keys, params: draw(keys, params["vae"]))
    return experiment(config, learner)
