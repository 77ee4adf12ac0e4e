"""Adversarial autoencoder (Makhzani et al. 2016, arXiv:1511.05644): a critic instead of the KL."""

from shared import Config, L, adam, experiment, leaky, slow, small_vae, softplus

from genmod import gan, nets, rng, train, vae

__all__ = ["Config", "build"]

model, critic = small_vae(), nets.mlp((8,), 1, activation=leaky)
prior = gan.normal_latent(L)


def coded(keys, params, x):
    z = model.sample(rng.stream(keys, "z"), *model.encode(params["vae"], x))
    return z, critic(params["critic"], z)[:, 0]


def autoencoder_loss(keys, params, x):
    z, code = coded(keys, params, x)
    reconstruction = -model.likelihood.log_prob(model.decode(params["vae"], z), x)
    return reconstruction + softplus(-code), {"reconstruction": reconstruction}


def critic_loss(keys, params, x):
    real = critic(params["critic"], prior(rng.stream(keys, "prior")))[:, 0]
    return softplus(-real) + softplus(coded(keys, params, x)[1]), {}


def build(config: Config):
    def init(key, x):
        codes = model.encode(model.init(key, x), x)[0]
        return {
            "vae": model.init(key, x),
            "critic": critic.initial(rng.stream(key, "critic"), codes),
        }

    players = {
        "vae": train.Player(autoencoder_loss, adam),
        "critic": train.Player(critic_loss, slow),
    }
    draw = vae.generate(model)
    learner = train.game(init, players, sample=lambda keys, params: draw(keys, params["vae"]))
    return experiment(config, learner)
