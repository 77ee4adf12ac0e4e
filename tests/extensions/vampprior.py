"""VampPrior (Tomczak & Welling 2018, arXiv:1705.07120): posteriors of pseudo-inputs."""

import jax
import jax.numpy as jnp
from shared import SHAPE, Config, L, adam, experiment, small_vae

from genmod import rng, train, vae

__all__ = ["Config", "build"]

K = 5


def vamp(latent_dim):
    def sample(keys, p, posterior):
        mean, logvar = posterior(jax.nn.sigmoid(p))
        which = jax.vmap(lambda key: jax.random.randint(key, (), 0, K))(rng.stream(keys, "which"))
        return vae.diagonal_normal(L).sample(keys, mean[which], logvar[which])

    def log_prob(p, z, posterior):
        each = vae.log_normal(z[:, None], *posterior(jax.nn.sigmoid(p)))
        return jax.nn.logsumexp(each, axis=1) - jnp.log(K)

    return vae.Prior(lambda key, x: jax.random.normal(key, (K, *SHAPE)), sample, log_prob)


def build(config: Config):
    model = small_vae(prior=vamp)
    draw = vae.generate(model)
    return experiment(config, train.learner(model.init, vae.elbo(model), adam, sample=draw))
