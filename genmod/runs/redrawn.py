"""Samples of a trained run from latents that another density than the prior draws."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from genmod import checks, rng, vae
from genmod.data.dataset import chosen
from genmod.experiment import Experiment, Latents
from genmod.runs import codes
from genmod.types import Array, Key, Keys

_MOST_CODES = 20_000
"""Largest number of codes to which a mixture is fitted."""


def ex_post(built: Experiment, state: Any, num_components: int) -> Experiment:
    """Returns an experiment that draws latents from a mixture fitted to its codes.

    The mixture of Gaussians is fitted to the codes of training images (Ghosh et al. 2020, section
    4), at most 20,000 of them, evenly spread. It serves an autoencoder, which has no prior, and a
    VAE whose aggregated posterior is not its prior.

    Args:
      built: the experiment, as a single run.
      state: state of its learner, to which the samples then belong.
      num_components: number of Gaussians.

    Raises:
      ValueError: if num_components is not positive or exceeds the number of images, the run has no
        encoder, or the conditions of its training images are not known.
    """
    checks.positive_integer("ex_post", num_components)
    encode, dataset = codes.encoder(built), built.dataset
    num = len(dataset.images)
    if num > _MOST_CODES:
        places = np.linspace(0, num - 1, _MOST_CODES).round().astype(int)
        dataset = chosen(dataset, places)
    condition = codes.conditions_of(built, "the training data", dataset)
    found = codes.encoded(functools.partial(encode, state), dataset, condition)
    key = rng.stream(rng.root(0), "ex_post")
    mixture = vae.fit_gaussian_mixture(key, found, num_components=num_components)
    return _drawing(built, lambda keys: mixture.prior.sample(keys, ()))


def tempered(built: Experiment, temperature: float) -> Experiment:
    """Returns an experiment that draws latents from N(0, temperature^2 I).

    Args:
      built: the experiment, as a single run.
      temperature: standard deviation of the latents, positive; below 1, samples are likelier and
        less varied.

    Raises:
      ValueError: if the temperature is not positive, or the run has no latents with the prior
        N(0, I).
    """
    checks.positive("temperature", temperature)
    latents = built.latents
    if latents is None or not latents.standard_normal_prior:
        what = "no latents" if latents is None else "latents with another prior or none"
        raise ValueError(f"temperature needs a run with the prior N(0, I); this has {what}")

    prior = vae.standard_normal(latents.dim)
    return _drawing(built, lambda keys: temperature * prior.sample(keys, ()))


def _drawing(built: Experiment, draw: Callable[[Keys], Array]) -> Experiment:
    """Returns an experiment whose samples are decoded latents of `draw`, `keys [B] -> [B, L]`."""
    latents, conditions = built.latents, built.learner.conditions
    assert isinstance(latents, Latents)

    def sample(key: Key, state: Any, num: int, condition: Any = None) -> Array:
        if condition is None and conditions is not None:
            condition = conditions.draw(key, num)
        given = () if condition is None else (condition,)
        decode = latents.decoder(rng.stream(key, "decoder"), state)
        return decode(draw(rng.per_example(rng.stream(key, "latents"), num)), *given)

    return dataclasses.replace(built, learner=built.learner._replace(sample=sample))
