"""Milliseconds per step of an SNGAN, beside PyTorch.

    python experiments/benchmarks/sngan.py --peers-python PATH

PATH is an interpreter that has torch; by default it is this one, and without torch its row is left
out. Everything runs on the CPU, in two minutes on two cores.

A step is one update of the discriminator and one of the generator on 32 x 32 images of three
channels, each with Adam and the hinge loss, at batch size 64. The residual networks are those of
Miyato et al. (2018) for CIFAR-10 with 64 channels in place of 256 and 128: the generator has batch
normalisation, the discriminator spectral normalisation with one power iteration an update. genmod
runs its learner in one `lax.scan`, as training does; PyTorch is eager, its convolutions and
resamplings are separate layers, as in its public implementations.

Method: as in convolutions.py.
"""

import sys
from typing import Any

from comparison import Steps, compare_steps, play
from workers import Job, Turns, run

# The workers run this file, too, and PyTorch's worker has neither JAX nor rich.

BATCH_SIZE = 64
LATENTS = 128
WIDTH = 64
LABELS = {"genmod": "genmod", "torch": "torch, eager"}


# The workers.


def train(turns: Turns, job: Job) -> None:
    """Trains a few steps per turn; answers with the generator's loss."""
    {"torch": train_torch, "genmod": train_genmod}[job.variant](turns, job)


def train_genmod(turns: Turns, job: Job) -> None:
    """Trains with genmod's learner."""
    import optax

    from genmod import gan, nets, train

    shape = (32, 32, 3)
    model = gan.make(
        nets.sngan_generator(shape, width=WIDTH),
        nets.sngan_discriminator(width=WIDTH),
        latent_dim=LATENTS,
        image_range=(-1, 1),
    )
    learner = train.adversarial(
        model, gan.hinge, optax.adam(2e-4, b1=0.0, b2=0.9), constrain=nets.power_iteration
    )
    play(turns, job, learner, (BATCH_SIZE, *shape))


def train_torch(turns: Turns, job: Job) -> None:
    """Trains in PyTorch, written as in its tutorials."""
    import torch  # pyrefly: ignore[missing-import]
    import torch.nn.functional as F  # pyrefly: ignore[missing-import]
    from torch import nn  # pyrefly: ignore[missing-import]
    from torch.nn.utils.parametrizations import spectral_norm  # pyrefly: ignore[missing-import]

    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)])
            self.convs = nn.ModuleList([nn.Conv2d(WIDTH, WIDTH, 3, 1, 1) for _ in range(2)])
            self.shortcut = nn.Conv2d(WIDTH, WIDTH, 1)

        def forward(self, x):
            h = F.interpolate(F.relu(self.norms[0](x)), scale_factor=2)
            h = self.convs[1](F.relu(self.norms[1](self.convs[0](h))))
            return h + self.shortcut(F.interpolate(x, scale_factor=2))

    class Down(nn.Module):
        def __init__(self, inputs, halve, active):
            super().__init__()
            self.halve, self.active = halve, active
            self.first = spectral_norm(nn.Conv2d(inputs, WIDTH, 3, 1, 1))
            self.second = spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1))
            self.shortcut = spectral_norm(nn.Conv2d(inputs, WIDTH, 1)) if halve else nn.Identity()

        def forward(self, x):
            h = self.second(F.relu(self.first(F.relu(x) if self.active else x)))
            if not self.halve:
                return x + h
            return F.avg_pool2d(h, 2) + self.shortcut(F.avg_pool2d(x, 2))

    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            halves = (True, True, False, False)
            self.blocks = nn.Sequential(
                *[Down(3 if i == 0 else WIDTH, half, i > 0) for i, half in enumerate(halves)]
            )
            self.last = spectral_norm(nn.Linear(WIDTH, 1))

        def forward(self, x):
            return self.last(F.relu(self.blocks(x)).sum((2, 3)))

    torch.manual_seed(job.seed)
    generator = nn.Sequential(
        nn.Linear(LATENTS, 4 * 4 * WIDTH),
        nn.Unflatten(1, (WIDTH, 4, 4)),
        *[Up() for _ in range(3)],
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, 3, 3, 1, 1),
        nn.Tanh(),
    )
    discriminator = Discriminator()
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.0, 0.9))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.0, 0.9))
    real = 2 * torch.rand(BATCH_SIZE, 3, 32, 32) - 1
    loss = torch.zeros(())
    while True:
        turns.begin()
        for _ in range(job.steps):
            with torch.no_grad():
                fake = generator(torch.randn(BATCH_SIZE, LATENTS))
            loss = F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(fake)).mean()
            d_optimizer.zero_grad()
            loss.backward()
            d_optimizer.step()
            loss = -discriminator(generator(torch.randn(BATCH_SIZE, LATENTS))).mean()
            g_optimizer.zero_grad()
            loss.backward()
            g_optimizer.step()
        turns.end(loss=loss.item())


# The measurement.


def main(config: Steps, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    title = f"A step of an SNGAN of {WIDTH} channels at batch size {BATCH_SIZE}"
    compare_steps("sngan", title, LABELS, config, console, of="framework")


if __name__ == "__main__":
    sys.exit(run(main, Steps, __doc__))
