"""A tiny conditional VAE for the tests, on 64 images of 6 x 6 pixels in four classes.

genmod train tests/support/conditional_experiment.py
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import optax

from genmod import checks, data, nets, train, vae
from genmod.experiment import Experiment, Latents, Likelihood, Settings

NAMES = ("north", "east", "south", "west")


@dataclass(frozen=True)
class Config(Settings):
    """Small enough to train in a test."""

    epochs: checks.Count = 2
    """How long to train."""
    batch_size: checks.Count = 16
    """Images in a batch."""
    condition: Literal["label", "attributes", "none"] = "label"
    """What the networks get beside the images."""
    latent_dim: checks.Count = 2
    """Latent dimensions."""


def blobs():
    """Images with a bright quarter, whose place is the class."""
    label = (np.arange(64) % 4).astype(np.int32)
    grey = np.random.default_rng(0).integers(0, 60, (64, 6, 6, 1))
    for image, place in zip(grey, label, strict=True):
        image[3 * (place // 2) :, 3 * (place % 2) :][:3, :3] += 180
    return data.from_arrays(grey.astype(np.uint8), label)._replace(classes=NAMES)


def build(config: Config) -> Experiment:
    images = blobs()
    bright = np.linspace(0, 1, 64, dtype=np.float32)
    c, condition, classes = None, None, 4 if config.condition == "label" else None
    if config.condition == "label":
        c = images.labels
    elif config.condition == "attributes":
        c = {"bright": bright, "low": images.labels > 1}
    networks = [nets.mlp((8,), 2 * config.latent_dim), nets.mlp((8,), (6, 6, 1))]
    examples, prepare = images.images, data.unit_interval
    if c is not None:
        networks = [nets.conditional(net, classes) for net in networks]
        examples, prepare = {"image": examples, "c": c}, {"image": prepare}
        condition = lambda batch: (batch["image"], batch["c"])  # noqa: E731
    model = vae.make(*networks, latent_dim=config.latent_dim, condition=condition)
    return Experiment(
        learner=train.learner(
            model.init, vae.elbo(model), optax.adam(1e-2), sample=vae.generate(model), conditions=c
        ),
        batch_at=data.batches(examples, batch_size=config.batch_size, prepare=prepare),
        dataset=images,
        epochs=config.epochs,
        latents=Latents.of(model),
        test=images,
        likelihood=Likelihood(vae.log_weight(model), examples, prepare),
    )
