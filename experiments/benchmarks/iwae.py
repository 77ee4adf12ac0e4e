"""Training steps of an importance weighted autoencoder, beside PyTorch's.

    python experiments/benchmarks/iwae.py --peers-python PATH

This takes five minutes on two cores. PATH is an interpreter that has torch; by default it is this
one, and without torch its rows are left out. Everything runs on the CPU.

Task: the one-layer net of Burda et al. (2016) on MNIST, 784-200-200-50 tanh, with k = 50 draws and
batches of 20, binarised anew at every draw; Adam. A step is everything: the batch, the noise, both
passes and the update.

- genmod: the learner of experiments/iwae.py by its standard gradient and by DReG; the steps of a
  turn are one compiled program.
- torch: what one writes, with all draws of a batch in one pass, the data in memory and the cross
  entropy from logits; eager, and with `torch.compile` of loss and optimizer.

Method: each row of the table has its own process, warmed up with one turn. Then, in each round,
every process trains the same number of steps while the others wait, so that a slow minute of the
machine affects all of them. The table has the median over rounds and, as ratio to genmod, the
median of the ratios of the seconds within a round. Differences under 15 % are noise. The losses are
those of the last turn's steps; all rows have the same up to the noise of their draws.

Limit: the rate of the decoder's matrix products alone, forward and backward, in JAX, measured in
turns of the same run.
"""

import dataclasses
import math
import statistics
import sys
import time
from typing import Any

import comparison
import numpy as np
from workers import REPOSITORY, Job, Turns, milliseconds, read_images, run

# The workers run this file, too, and PyTorch's worker has neither JAX nor rich.

LATENTS = 50
ENCODER = ((784, 200), (200, 200), (200, 2 * LATENTS))  # inputs and outputs of each product
DECODER = ((LATENTS, 200), (200, 200), (200, 784))
LABELS = {
    "genmod": "genmod",
    "dreg": "genmod, DReG",
    "torch": "torch, eager",
    "compiled": "torch.compile",
}


@dataclasses.dataclass(frozen=True)
class Config(comparison.Options):
    """Options of the benchmark."""

    rounds: int = 7
    """Turns of each worker, after one to warm up."""
    steps: int = 100
    """Steps per turn."""
    batch_size: int = 20
    """Images in a batch."""
    draws: int = 50
    """Draws k of the posterior for each image."""


# The workers. A job's variant is "NAME DRAWS".


def train(turns: Turns, job: Job) -> None:
    """Trains the steps of a turn; answers with the mean loss."""
    variant, draws = job.variant.split()
    if variant == "matrix":
        return measure_limit(turns, job.batch_size * int(draws))
    if variant in ("torch", "compiled"):
        return train_torch(turns, job, int(draws), compiled=variant == "compiled")
    return train_genmod(
        turns, job, int(draws), estimator="dreg" if variant == "dreg" else "standard"
    )


def train_genmod(turns: Turns, job: Job, draws: int, estimator: Any) -> None:
    """Trains genmod's learner; a turn is one compiled program."""
    import jax
    import optax

    from genmod import data, nets, rng, train, vae

    images = read_images(job.archives).reshape(-1, 28, 28, 1)
    batch_at = data.batches(images, batch_size=job.batch_size, prepare=data.binarized)
    encoder = nets.mlp((200, 200), 2 * LATENTS, heads=2, activation=jax.nn.tanh)
    decoder = nets.mlp((200, 200), (28, 28, 1), activation=jax.nn.tanh)
    model = vae.make(encoder, decoder, latent_dim=LATENTS)
    objective = vae.iwae(model, num_samples=draws, estimator=estimator)
    learner = train.learner(model.init, objective, optax.adam(1e-3))
    points = train.run(learner, rng.root(job.seed), batch_at, num_steps=10**9, log_every=job.steps)
    while True:
        turns.begin()
        point = next(points)
        turns.end(loss=float(point.metrics["loss"]))


def train_torch(turns: Turns, job: Job, draws: int, *, compiled: bool) -> None:
    """Trains the same in PyTorch."""
    import torch  # pyrefly: ignore[missing-import]
    import torch.nn.functional as F  # pyrefly: ignore[missing-import]
    from torch import nn  # pyrefly: ignore[missing-import]

    torch.manual_seed(job.seed)

    def network(layers: Any) -> Any:
        modules = []
        for inputs, outputs in layers:
            linear = nn.Linear(inputs, outputs)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.Tanh()]
        return nn.Sequential(*modules[:-1])

    encode, decode = network(ENCODER), network(DECODER)
    optimizer = torch.optim.Adam(
        [*encode.parameters(), *decode.parameters()], lr=1e-3, foreach=True
    )
    images = torch.from_numpy(read_images(job.archives).astype(np.float32) / 255)

    def loss_of(grey: Any) -> Any:
        x = torch.bernoulli(grey)
        mean, logvar = encode(x).chunk(2, dim=1)
        noise = torch.randn(draws, *mean.shape)
        z = mean + torch.exp(0.5 * logvar) * noise
        target = x.expand(draws, *x.shape)
        cross = F.binary_cross_entropy_with_logits(decode(z), target, reduction="none")
        log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(2)
        log_weights = log_ratio - cross.sum(2)
        return (math.log(draws) - torch.logsumexp(log_weights, 0)).mean()

    def step(grey: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(grey)
        loss.backward()
        optimizer.step()
        return loss

    if compiled:
        loss_of, update = torch.compile(loss_of), torch.compile(optimizer.step)

        def step(grey: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_of(grey)
            loss.backward()
            update()
            return loss

    order, at = torch.randperm(len(images)), 0
    while True:
        turns.begin()
        total = 0.0
        for _ in range(job.steps):
            if at + job.batch_size > len(images):
                order, at = torch.randperm(len(images)), 0
            total += step(images[order[at : at + job.batch_size]]).item()
            at += job.batch_size
        turns.end(loss=total / job.steps)


def measure_limit(turns: Turns, rows: int) -> None:
    """Answers with the rate of the decoder's products of a step, forward and backward."""
    import jax
    import jax.numpy as jnp

    layers = [
        (jnp.ones((rows, inputs)), jnp.ones((inputs, outputs)), jnp.ones((rows, outputs)))
        for inputs, outputs in DECODER
    ]

    @jax.jit
    def products(layers: Any) -> Any:
        return [(x @ w, x.T @ out, out @ w.T) for x, w, out in layers]

    flop = 6 * rows * sum(inputs * outputs for inputs, outputs in DECODER)
    jax.block_until_ready(products(layers))  # compiles
    while True:
        turns.begin()
        best, end = 0.0, time.perf_counter() + 2
        while time.perf_counter() < end:
            began = time.perf_counter()
            for _ in range(10):
                found = products(layers)
            jax.block_until_ready(found)
            best = max(best, 10 * flop / (time.perf_counter() - began))
        turns.end(flop_per_second=best)


# The measurement.


def main(config: Config, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    archives = str(REPOSITORY / "genmod" / "data" / "mnist_archives")
    labels = comparison.chosen(config.only, LABELS)

    def job(name: str) -> Job:
        sizes = {"batch_size": config.batch_size, "steps": config.steps}
        return Job(f"{name} {config.draws}", archives, **sizes)

    answers = comparison.measured(
        "iwae",
        {**labels, "matrix": "the limit"},
        job,
        config,
        console,
        peers={"torch": "torch", "compiled": "torch"},
    )
    limit = statistics.median(found["flop_per_second"] for found in answers.pop("matrix"))
    flop = 6 * config.batch_size * config.draws * sum(a * b for a, b in DECODER)
    table = comparison.open_table(
        f"IWAE, k = {config.draws}, batches of {config.batch_size}, {config.rounds} rounds",
        "step",
        *("ms", "min-max", "times genmod", "share of limit", "loss"),
    )
    for name, found in answers.items():
        each = milliseconds(found, config.steps)
        table.add_row(
            LABELS[name],
            *comparison.median_and_extent(each, digits=1),
            comparison.times_of(answers, name),
            f"{1e3 * flop / limit / statistics.median(each):.0%}",
            f"{found[-1]['loss']:.2f}",
        )
    console.print(table)
    console.print(
        f"limit: {flop / 1e9:.2f} GFLOP a step at {limit / 1e9:.0f} GFLOP/s", highlight=False
    )
    comparison.print_versions(console, config)


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
