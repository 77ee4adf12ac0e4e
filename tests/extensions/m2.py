"""M2 (Kingma et al. 2014, arXiv:1406.5298): few labels beside many images, classes marginalised."""

import jax
import jax.numpy as jnp
from shared import CLASSES, SHAPE, Config, L, adam, blobs, experiment, image_and_label

from genmod import data, nets, rng, train, vae

__all__ = ["Config", "build"]

classifier = nets.mlp((8,), CLASSES)
model = vae.make(
    nets.conditional(nets.mlp((8,), 2 * L), CLASSES),
    nets.conditional(nets.mlp((8,), SHAPE), CLASSES),
    latent_dim=L,
    condition=image_and_label,
)
bound = vae.elbo(model)


def objective(keys, p, batch):
    few, x = batch["labelled"], batch["unlabelled"]
    supervised = bound(keys["labelled"], p["vae"], few)[0]
    told = jax.nn.log_softmax(classifier(p["classifier"], few["image"]))
    error = -told[jnp.arange(len(told)), few["label"]]

    def of_class(label):  # every class has noise of its own
        own = rng.at_step(keys["unlabelled"], label)
        return bound(own, p["vae"], {"image": x, "label": jnp.full(len(x), label)})[0]

    log_q = jax.nn.log_softmax(classifier(p["classifier"], x))
    losses = jnp.stack([of_class(label) for label in range(CLASSES)], axis=1)
    marginal = (jnp.exp(log_q) * (losses + log_q)).sum(1)
    return {"labelled": supervised + error, "unlabelled": marginal}, {"classification": error}


def build(config: Config):
    def init(key, batch):
        own = classifier.initial(rng.stream(key, "classifier"), batch["unlabelled"])
        return {"vae": model.init(key, batch["labelled"]), "classifier": own}

    few = {"image": blobs().images[:16], "label": blobs().labels[:16]}
    batch_at = data.together(
        labelled=data.batches(few, batch_size=4, prepare={"image": data.unit_interval}),
        unlabelled=data.batches(blobs().images, batch_size=config.batch_size),
    )
    draw = vae.generate(model)
    learner = train.learner(
        init,
        objective,
        adam,
        sample=lambda keys, p, c: draw(keys, p["vae"], c),
        conditions=jnp.arange(CLASSES),
    )
    return experiment(config, learner, batch_at=batch_at)
