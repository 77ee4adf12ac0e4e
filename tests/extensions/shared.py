"""Data, networks and the frame of the experiments beside this file.

Each of them is an extension as a researcher writes it: what stands between the imports and `build`
is at most twenty lines.
"""

from dataclasses import dataclass

import jax
import numpy as np
import optax

from genmod import checks, data, nets, vae
from genmod.experiment import Experiment, Observation, Settings

CLASSES = 4
SHAPE = (6, 6, 1)
L = 3

adam = optax.adam(2e-3)
slow = optax.adam(1e-3, b1=0.5)
softplus = jax.nn.softplus
leaky = jax.nn.leaky_relu


@dataclass(frozen=True)
class Config(Settings):
    """Flags of all extensions."""

    epochs: checks.Count = 2
    batch_size: checks.Count = 16


def blobs():
    """64 images with a bright quarter, whose place is the class."""
    label = (np.arange(64) % CLASSES).astype(np.int32)
    grey = np.random.default_rng(0).integers(0, 60, (64, *SHAPE))
    for image, place in zip(grey, label, strict=True):
        image[3 * (place // 2) :, 3 * (place % 2) :][:3, :3] += 180
    return data.from_arrays(grey.astype(np.uint8), label)


def batches(config, **options):
    """Images in [0, 1] with their labels."""
    found = blobs()
    examples = {"image": found.images, "label": found.labels}
    prepare = {"image": data.unit_interval}
    return data.batches(examples, batch_size=config.batch_size, prepare=prepare, **options)


def image_and_label(batch):
    return batch["image"], batch["label"]


def small_vae(**options):
    return vae.make(nets.mlp((8,), 2 * L), nets.mlp((8,), SHAPE), latent_dim=L, **options)


def experiment(config, learner, *, labels=False, batch_at=None, **options):
    """The frame: data, length, and a grid of samples at each epoch."""
    images = blobs()
    if batch_at is None:
        plain = data.batches(images.images, batch_size=config.batch_size)
        batch_at = batches(config) if labels else plain
    return Experiment(
        learner,
        batch_at,
        images,
        epochs=config.epochs,
        observe=lambda key, state: Observation(images={"samples": learner.sample(key, state, 8)}),
        **options,
    )
