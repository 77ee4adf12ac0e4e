"""An experiment that only counts its steps, for tests of what is around the steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genmod import data, report, train
from genmod.experiment import Experiment, Observation


@functools.cache
def counting():
    """A learner whose only number is its step."""

    def step(key, state, batch):
        number = state + 1
        return number, {"a_loss": number.astype(jnp.float32), "b_loss": jnp.zeros(())}

    def init(key, batch):
        return jnp.zeros((), jnp.int32)

    return train.Learner(init, step, lambda key, state, num: jnp.zeros((num, 2, 2, 1)))


def experiment(epochs, *, every=None, **rest):
    pixels = np.zeros((40, 2, 2, 1), np.uint8)
    labels = np.zeros(40, np.int32)
    return Experiment(
        learner=counting(),
        batch_at=data.batches(pixels, batch_size=4),
        dataset=data.Dataset(pixels, labels, data.fingerprint(pixels, labels)),
        batch_size=4,
        epochs=epochs,
        observe_every=every,
        **rest,
    )


def look(key, state):
    seen = int(state)
    draw = float(jax.random.uniform(jax.random.fold_in(key, 0)))
    return Observation(
        numbers={"seen": seen, "draw": draw},
        figures={"samples": report.image_grid(np.full((1, 2, 2, 1), 0.5))},
        warnings=[f"collapsed by {seen}%"] if seen > 12 else [],
    )
