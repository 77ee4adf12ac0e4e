"""Conditional VAE (Sohn et al. 2015): labels go to both networks."""

from shared import CLASSES, SHAPE, Config, L, adam, blobs, experiment, image_and_label

from genmod import nets, train, vae

__all__ = ["Config", "build"]

model = vae.make(
    nets.conditional(nets.mlp((16,), 2 * L), CLASSES),
    nets.conditional(nets.mlp((16,), SHAPE), CLASSES),
    latent_dim=L,
    condition=image_and_label,
)


def build(config: Config):
    learner = train.learner(
        model.init, vae.elbo(model), adam, sample=vae.generate(model), conditions=blobs().labels
    )
    return experiment(config, learner, labels=True)
