"""Milliseconds per step of a game with gradient penalties, exact, lazy and approximate.

    python experiments/benchmarks/penalties.py

Everything is genmod's own and runs on the CPU, in two minutes on two cores.

A step is one update of each player of experiments/stacked_mnist.py, on 28 x 28 images of three
channels at batch size 100: the relativistic loss, with R1 and R2 at every step, at every sixteenth,
or by finite differences, or without a penalty. As in training, all steps of a turn are in one
`lax.scan`.

Method: as in convolutions.py. A turn has a multiple of sixteen steps, of which the lazy penalty is
computed at one in sixteen.
"""

import sys
from typing import Any

from comparison import Steps, compare_steps, play
from workers import Job, Turns, run

BATCH_SIZE = 100
EVERY = 16
LABELS = {
    "none": "no penalty",
    "exact": "R1 and R2",
    "lazy": f"R1 and R2, every {EVERY} steps",
    "approximate": "R1 and R2, finite differences",
}


# The workers.


def train(turns: Turns, job: Job) -> None:
    """Trains a few steps per turn; answers with the generator's loss."""
    import jax.numpy as jnp
    import optax

    from genmod import gan, nets, train

    both = 0.5 * gan.r1 + 0.5 * gan.r2
    penalty = {
        "none": None,
        "exact": both,
        "lazy": gan.lazy(both, every=EVERY),
        "approximate": 0.5 * gan.approximate_r1(0.01) + 0.5 * gan.approximate_r2(0.01),
    }[job.variant]
    shape = (28, 28, 3)
    model = gan.make(
        nets.dcgan_generator(shape, width=32, output=jnp.tanh),
        nets.dcgan_discriminator(width=32),
        latent_dim=128,
        image_range=(-1, 1),
    )
    learner = train.adversarial(
        model,
        gan.relativistic,
        optax.adam(2e-4, b1=0.0, b2=0.99),
        penalty=penalty,
        hyper={"step": lambda step: step} if job.variant == "lazy" else None,
    )
    play(turns, job, learner, (BATCH_SIZE, *shape))


# The measurement.


def main(config: Steps, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    if config.steps % EVERY:
        raise SystemExit(f"--steps must be a multiple of {EVERY}, got {config.steps}")
    title = f"A step of a DCGAN at batch size {BATCH_SIZE}"
    compare_steps("penalties", title, LABELS, config, console, of="penalty", base="none")


if __name__ == "__main__":
    sys.exit(run(main, Steps, __doc__))
