"""Decoder rows per second of an importance-sampled likelihood.

`evaluate.importance` is compared with a plain loop over images, in JAX and in PyTorch:

    python experiments/benchmarks/likelihood.py --peers-python PATH

This takes three minutes on two cores, most of them for PyTorch. PATH is an interpreter that has
torch; by default it is this one, and without torch its row is left out. Everything runs on the CPU.

Task: the log-likelihood of images of MNIST by 5,000 samples each, under the VAE of the IWAE paper
with one layer, 784-200-200-50 tanh. Its weights are random, and the same in all rows. A row of the
decoder, that is, one sample of one image, takes 414 kFLOP of matrix products. The full test set
takes 50 million rows.

- The loop in JAX compiles one program for an image: it encodes the image once, and decodes all
  samples at once.
- The loop in PyTorch is that of pythae's `get_nll`: image by image, a hundred copies at a time
  through the encoder and the decoder.

Method: each row of the table has its own process, warmed up with one turn. Then, in each round,
every process evaluates the same images while the others wait, so that a slow minute of the machine
affects all of them. The table has the median over rounds and, as ratio to genmod, the median of the
ratios of the seconds within a round. Differences under 15 % are noise. The log-likelihoods are
means over the images; all rows have the same up to the noise of their draws.

Limit: the rate of the decoder's three matrix products alone, in JAX, one after the other, at the
best of several numbers of rows, measured in turns of the same run.
"""

import dataclasses
import functools
import math
import statistics
import sys
import time
from typing import Any

import comparison
import numpy as np
from workers import REPOSITORY, Job, Turns, read_images, run

# The workers run this file, too, and PyTorch's worker has neither JAX nor rich.

SAMPLES = 5000
LATENTS = 50
ENCODER = ((784, 200), (200, 200), (200, 2 * LATENTS))  # inputs and outputs of each product
DECODER = ((LATENTS, 200), (200, 200), (200, 784))
PASS = 100  # copies of an image that PyTorch's loop evaluates at a time
LABELS = {"genmod": "evaluate.importance", "jax": "JAX, image by image", "torch": "torch, pythae's"}


@dataclasses.dataclass(frozen=True)
class Config(comparison.Options):
    """Options of the benchmark."""

    images: int = 100
    """Images per turn."""


# The workers.


def train(turns: Turns, job: Job) -> None:
    """Evaluates the images once per turn; answers with their mean log-likelihood."""
    if job.variant == "matrix":
        return measure_limit(turns)
    pixels = read_images(job.archives)[: job.steps].astype(np.float32) / 255
    encoder, decoder = weights(job.seed)
    evaluate = {"genmod": evaluate_genmod, "jax": evaluate_jax, "torch": evaluate_torch}
    return evaluate[job.variant](turns, pixels, encoder, decoder)


def weights(seed: int) -> tuple[list[Any], list[Any]]:
    """Returns weights and biases of both networks, uniform as Glorot has it."""
    random = np.random.default_rng(seed)

    def layers(shapes: tuple[tuple[int, int], ...]) -> list[Any]:
        return [
            (
                np.float32(random.uniform(-1, 1, shape) * math.sqrt(6 / sum(shape))),
                np.zeros(shape[1], np.float32),
            )
            for shape in shapes
        ]

    return layers(ENCODER), layers(DECODER)


def evaluate_genmod(turns: Turns, pixels: np.ndarray, encoder: list[Any], decoder: list[Any]):
    """Evaluates with `evaluate.importance`."""
    import jax.numpy as jnp

    from genmod import rng, vae
    from genmod.evaluate.likelihood import importance
    from genmod.types import Net

    def forward(layers, x):
        x = x.reshape(len(x), -1)
        for weight, bias in layers[:-1]:
            x = jnp.tanh(x @ weight + bias[None])
        return x @ layers[-1][0] + layers[-1][1][None]

    def images(layers, z):
        return forward(layers, z).reshape(-1, 28, 28, 1)

    nets = Net(lambda key, x: encoder, forward), Net(lambda key, z: decoder, images)
    model = vae.make(*nets, latent_dim=LATENTS)
    examples = pixels.reshape(-1, 28, 28, 1)
    params, log_weight = model.init(rng.root(0), examples), vae.log_weight(model)
    while True:
        turns.begin()
        found = importance(
            rng.root(0), params, examples, log_weight, num_samples=SAMPLES, progress=False
        )
        turns.end(log_likelihood=found.average.mean)


def evaluate_jax(turns: Turns, pixels: np.ndarray, encoder: list[Any], decoder: list[Any]):
    """Evaluates image by image with one compiled program."""
    import jax
    import jax.numpy as jnp

    def forward(layers, x):
        for weight, bias in layers[:-1]:
            x = jnp.tanh(x @ weight + bias)
        return x @ layers[-1][0] + layers[-1][1]

    @jax.jit
    def log_likelihood(key, encoder, decoder, x):
        mean, logvar = jnp.split(forward(encoder, x), 2)
        noise = jax.random.normal(key, (SAMPLES, LATENTS))
        z = mean + jnp.exp(logvar / 2) * noise
        logits = forward(decoder, z)
        log_p = -(jax.nn.softplus(logits) - logits * x).sum(1) - (z * z).sum(1) / 2
        log_q = -(noise * noise + logvar).sum(1) / 2
        return jax.nn.logsumexp(log_p - log_q) - jnp.log(SAMPLES)

    key = jax.random.key(0)
    while True:
        turns.begin()
        keys = jax.random.split(key, len(pixels))
        total = sum(
            float(log_likelihood(k, encoder, decoder, x)) for k, x in zip(keys, pixels, strict=True)
        )
        turns.end(log_likelihood=total / len(pixels))


def evaluate_torch(turns: Turns, pixels: np.ndarray, encoder: list[Any], decoder: list[Any]):
    """Evaluates image by image and pass by pass, as pythae does."""
    import torch  # pyrefly: ignore[missing-import]
    import torch.nn.functional as F  # pyrefly: ignore[missing-import]
    from torch import nn  # pyrefly: ignore[missing-import]

    def network(layers):
        modules = []
        for weight, bias in layers:
            linear = nn.Linear(*weight.shape)
            linear.weight.data = torch.from_numpy(np.ascontiguousarray(weight.T))
            linear.bias.data = torch.from_numpy(bias)
            modules += [linear, nn.Tanh()]
        return nn.Sequential(*modules[:-1])

    torch.manual_seed(0)
    encode, decode = network(encoder), network(decoder)
    images = torch.from_numpy(pixels)
    while True:
        turns.begin()
        total = 0.0
        with torch.no_grad():
            for image in images:
                log_w = []
                for _ in range(SAMPLES // PASS):
                    x = image.expand(PASS, -1)
                    mean, logvar = encode(x).chunk(2, dim=1)
                    noise = torch.randn_like(mean)
                    z = mean + torch.exp(0.5 * logvar) * noise
                    cross = F.binary_cross_entropy_with_logits(decode(z), x, reduction="none")
                    log_ratio = 0.5 * (noise.square() + logvar - z.square()).sum(1)
                    log_w.append(log_ratio - cross.sum(1))
                total += (torch.logsumexp(torch.cat(log_w), 0) - math.log(SAMPLES)).item()
        turns.end(log_likelihood=total / len(images))


def measure_limit(turns: Turns) -> None:
    """Answers with the best rate of the decoder's matrix products, in rows per second."""
    import jax
    import jax.numpy as jnp

    matrices = [jnp.ones(shape, jnp.float32) for shape in DECODER]
    products = jax.jit(lambda z: functools.reduce(jnp.matmul, matrices, z))
    batches = [jnp.ones((size, LATENTS), jnp.float32) for size in (500, 1000, 2000, 5000)]
    for z in batches:
        products(z).block_until_ready()  # compiles
    while True:
        turns.begin()
        best, end = 0.0, time.perf_counter() + 2
        while time.perf_counter() < end:
            for z in batches:
                began = time.perf_counter()
                for _ in range(10):
                    found = products(z)
                found.block_until_ready()
                best = max(best, 10 * len(z) / (time.perf_counter() - began))
        turns.end(rows_per_second=best)


# The measurement.


def main(config: Config, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    archives = str(REPOSITORY / "genmod" / "data" / "mnist_archives")
    labels = comparison.chosen(config.only, LABELS)
    answers = comparison.measured(
        "likelihood",
        {**labels, "matrix": "the limit"},
        lambda name: Job(name, archives, steps=config.images),
        config,
        console,
        peers={"torch": "torch"},
    )
    limit = statistics.median(found["rows_per_second"] for found in answers.pop("matrix"))
    num_rows = SAMPLES * config.images
    table = comparison.open_table(
        f"Likelihood by {SAMPLES:,} samples of {config.images} images, {config.rounds} rounds",
        "estimator",
        *("thousand rows/s", "min-max", "times genmod", "share of limit", "log-likelihood"),
    )
    for name, found in answers.items():
        rates = [num_rows / each / 1e3 for each in comparison.seconds(found)]
        table.add_row(
            LABELS[name],
            *comparison.median_and_extent(rates),
            comparison.times_of(answers, name),
            f"{1e3 * statistics.median(rates) / limit:.0%}",
            f"{found[-1]['log_likelihood']:.2f}",
        )
    console.print(table)
    flop = 2 * sum(inputs * outputs for inputs, outputs in DECODER)
    console.print(
        f"limit: {limit / 1e3:.0f} thousand rows/s of {flop / 1e3:.0f} kFLOP, "
        f"{flop * limit / 1e9:.0f} GFLOP/s",
        highlight=False,
    )
    comparison.print_versions(console, config)


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
