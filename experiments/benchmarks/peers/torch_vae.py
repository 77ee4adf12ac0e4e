"""The article's VAE in PyTorch, written in the three ways its users write it.

Run by `article_vae.py`; the variants, from the commonest to the fastest:

    dataloader  a DataLoader over a TensorDataset, sigmoid and binary cross entropy, RMSprop
    preloaded   the data in one tensor, indexed by a permutation; cross entropy from logits;
                the optimizer's foreach implementation
    compiled    as preloaded, with forward and backward pass and the optimizer's update compiled

PyTorch adds RMSprop's epsilon outside the square root, Keras and optax inside. Its users would
not change that, so it stays; the loss after some epochs is lower for it (.163 against .175 after
six) and is no measure of speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from workers import Job, Turns, read_images


class VAE(nn.Module):
    """784-128 relu - (mean 4, log-variance 4) - 128 relu - 784 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 128), nn.ReLU())
        self.mean = nn.Linear(128, 4)
        self.logvar = nn.Linear(128, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 784))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, 784], mean and log-variance [B, 4] of images x [B, 784]."""
        hidden = self.encoder(x)
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.decoder(z), mean, logvar


def regulariser(mean: Tensor, logvar: Tensor) -> Tensor:
    """The article's: a mean over latents, without the half of the KL divergence."""
    return 1e-4 * -(1 + logvar - mean.square() - logvar.exp()).mean()


def train(turns: Turns, job: Job) -> None:
    """Trains an epoch a turn; answers with the mean loss over the epoch."""
    torch.manual_seed(job.seed)
    pixels = torch.from_numpy(read_images(job.archives).copy()).float() / 255
    images = pixels[: job.steps * job.batch_size]
    match job.variant:
        case "dataloader":
            train_dataloader(turns, images, job.batch_size)
        case "preloaded":
            train_preloaded(turns, images, job.batch_size)
        case "compiled":
            train_compiled(turns, images, job.batch_size)
        case _:
            raise ValueError(f"expected dataloader, preloaded or compiled, got {job.variant!r}")


def train_dataloader(turns: Turns, images: Tensor, batch_size: int) -> None:
    """The loop of the tutorials."""
    loader = DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True)
    model = VAE()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
    while True:
        turns.begin()
        total = 0.0
        for (x,) in loader:
            optimizer.zero_grad()
            logits, mean, logvar = model(x)
            loss = F.binary_cross_entropy(torch.sigmoid(logits), x) + regulariser(mean, logvar)
            loss.backward()
            optimizer.step()
            total += loss.item()
        turns.end(loss=total / len(loader))


def train_preloaded(turns: Turns, images: Tensor, batch_size: int) -> None:
    """The same without the loader's work an example, the sigmoid and a loop over parameters."""
    model = VAE()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)
    while True:
        turns.begin()
        losses = []
        for index in torch.randperm(len(images)).split(batch_size):
            x = images[index]
            optimizer.zero_grad()
            logits, mean, logvar = model(x)
            loss = F.binary_cross_entropy_with_logits(logits, x) + regulariser(mean, logvar)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        turns.end(loss=torch.stack(losses).mean().item())


def train_compiled(turns: Turns, images: Tensor, batch_size: int) -> None:
    """The preloaded loop with everything in the step compiled."""
    model = VAE()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)

    # Compiling the loss compiles its backward pass too; the gather of the batch is inside it.
    @torch.compile
    def batch_loss(index: Tensor) -> Tensor:
        x = images[index]
        logits, mean, logvar = model(x)
        return F.binary_cross_entropy_with_logits(logits, x) + regulariser(mean, logvar)

    @torch.compile
    def update() -> None:
        optimizer.step()

    while True:
        turns.begin()
        losses = []
        for index in torch.randperm(len(images)).split(batch_size):
            optimizer.zero_grad()
            loss = batch_loss(index)
            loss.backward()
            update()
            losses.append(loss.detach())
        turns.end(loss=torch.stack(losses).mean().item())
