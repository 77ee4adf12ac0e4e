"""Milliseconds per step of a DCGAN, by implementation of convolutions.

genmod's convolutions are compared with XLA's own and with PyTorch:

    python experiments/benchmarks/convolutions.py --peers-python PATH

This takes two minutes on two cores, most of them for XLA's convolutions. PATH is an interpreter
that has torch; by default it is this one, and without torch its row is left out. Everything runs on
the CPU.

A step is one update of the discriminator and one of the generator on 28 x 28 images, each with Adam
and the non-saturating loss, at batch size 128. Generator: 100 latents - dense 7 x 7 x 128 relu -
transposed convolution to 64 relu - transposed convolution to 1, tanh. Discriminator: convolution to
64 leaky relu - convolution to 128 leaky relu - dense 1. All convolutions are 4 x 4 with stride 2;
there is no normalisation. JAX runs its steps in one `lax.scan`, as training does; PyTorch is eager.

Method: each row has its own process, warmed up with one turn. Then, in each round, every process
runs a few steps while the others wait, so that a slow minute of the machine affects all of them.
The table has the median over rounds and, as ratio to genmod, the median of the ratios within a
round. Differences under 15 % are noise. The loss is that of the generator at the end. Both rows of
JAX have the same loss, except for rounding; PyTorch draws other random numbers.

Expected milliseconds on two quiet cores (AVX-512): genmod 125, PyTorch 160 to 180, XLA's
convolutions 2,500. On a busy machine PyTorch is slower by a factor of two to ten, because its
threads spin while they wait for each other.
"""

import sys
from collections.abc import Callable
from typing import Any

from comparison import Steps, compare_steps
from workers import Job, Turns, run

# The workers run this file, too, and PyTorch's worker has neither JAX nor rich.

BATCH_SIZE = 128
LATENTS = 100
LABELS = {"genmod": "genmod", "lax": "XLA's convolutions", "torch": "torch, eager"}


# The workers.


def train(turns: Turns, job: Job) -> None:
    """Trains a few steps per turn; answers with the generator's loss."""
    if job.variant == "torch":
        train_torch(turns, job)
    else:
        train_jax(turns, job)


def train_jax(turns: Turns, job: Job) -> None:
    """Trains with genmod's convolutions, or those of `jax.lax`."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax import lax

    from genmod import nets

    conv: Callable[..., Any] = nets.conv
    transpose: Callable[..., Any] = nets.conv_transpose
    if job.variant == "lax":

        def conv(x, kernel, *, stride):
            layout = ("NHWC", "HWIO", "NHWC")
            strides = (stride, stride)
            return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)

        def transpose(x, kernel, *, stride):
            return lax.conv_transpose(x, kernel, (stride, stride), "SAME")

    def leaky_relu(x):
        return jax.nn.leaky_relu(x, 0.2)

    def weights(key, *shapes):
        keys = jax.random.split(key, len(shapes))
        return [
            {"kernel": 0.02 * jax.random.normal(k, shape), "bias": jnp.zeros(shape[-1:])}
            for k, shape in zip(keys, shapes, strict=True)
        ]

    def generate(params, key):
        dense, middle, last = params
        z = jax.random.normal(key, (BATCH_SIZE, LATENTS))
        x = jax.nn.relu(z @ dense["kernel"] + dense["bias"]).reshape(BATCH_SIZE, 7, 7, 128)
        x = jax.nn.relu(transpose(x, middle["kernel"], stride=2) + middle["bias"])
        return jnp.tanh(transpose(x, last["kernel"], stride=2) + last["bias"])

    def discriminate(params, x):
        first, middle, dense = params
        x = leaky_relu(conv(x, first["kernel"], stride=2) + first["bias"])
        x = leaky_relu(conv(x, middle["kernel"], stride=2) + middle["bias"])
        return x.reshape(x.shape[0], -1) @ dense["kernel"] + dense["bias"]

    optimizer = optax.adam(2e-4, b1=0.5)

    def update(loss, params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    def step(carry, _):
        (generator, g_state), (discriminator, d_state), key = carry
        key, first, second = jax.random.split(key, 3)

        def d_loss(params):
            fake = generate(generator, first)
            real_loss = jax.nn.softplus(-discriminate(params, real)).mean()
            return real_loss + jax.nn.softplus(discriminate(params, fake)).mean()

        discriminator, d_state, _ = update(d_loss, discriminator, d_state)

        def g_loss(params):
            return jax.nn.softplus(-discriminate(discriminator, generate(params, second))).mean()

        generator, g_state, loss = update(g_loss, generator, g_state)
        return ((generator, g_state), (discriminator, d_state), key), loss

    @jax.jit
    def begin(key):
        keys = jax.random.split(key, 4)
        generator = weights(keys[0], (LATENTS, 7 * 7 * 128), (4, 4, 128, 64), (4, 4, 64, 1))
        discriminator = weights(keys[1], (4, 4, 1, 64), (4, 4, 64, 128), (7 * 7 * 128, 1))
        real = jax.random.uniform(keys[2], (BATCH_SIZE, 28, 28, 1), minval=-1.0)
        players = [(player, optimizer.init(player)) for player in (generator, discriminator)]
        return (*players, keys[3]), real

    carry, real = begin(jax.random.key(job.seed))
    run = jax.jit(lambda carry: lax.scan(step, carry, length=job.steps))
    while True:
        turns.begin()
        carry, losses = run(carry)
        turns.end(loss=float(losses[-1]))


def train_torch(turns: Turns, job: Job) -> None:
    """Trains in PyTorch, written as in its tutorials."""
    import torch  # pyrefly: ignore[missing-import]
    import torch.nn.functional as F  # pyrefly: ignore[missing-import]
    from torch import nn  # pyrefly: ignore[missing-import]

    torch.manual_seed(job.seed)
    generator = nn.Sequential(
        nn.Linear(LATENTS, 7 * 7 * 128),
        nn.ReLU(),
        nn.Unflatten(1, (128, 7, 7)),
        nn.ConvTranspose2d(128, 64, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 1, 4, 2, 1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, 64, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 128, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(7 * 7 * 128, 1),
    )
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        nn.init.normal_(parameter, std=0.02 if parameter.dim() > 1 else 0.0)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    real = 2 * torch.rand(BATCH_SIZE, 1, 28, 28) - 1
    loss = torch.zeros(())
    while True:
        turns.begin()
        for _ in range(job.steps):
            with torch.no_grad():
                fake = generator(torch.randn(BATCH_SIZE, LATENTS))
            loss = F.softplus(-discriminator(real)).mean()
            loss = loss + F.softplus(discriminator(fake)).mean()
            d_optimizer.zero_grad()
            loss.backward()
            d_optimizer.step()
            fake = generator(torch.randn(BATCH_SIZE, LATENTS))
            loss = F.softplus(-discriminator(fake)).mean()
            g_optimizer.zero_grad()
            loss.backward()
            g_optimizer.step()
        turns.end(loss=loss.item())


# The measurement.


def main(config: Steps, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    title = f"A step of a DCGAN at batch size {BATCH_SIZE}"
    compare_steps("convolutions", title, LABELS, config, console, of="convolutions")


if __name__ == "__main__":
    sys.exit(run(main, Steps, __doc__))
