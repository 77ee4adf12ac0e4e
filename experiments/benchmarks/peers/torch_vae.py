"""The article's VAE in PyTorch, written in three ways.

PyTorch's users write it in these ways, from the most common to the fastest. `article_vae.py` runs
them:

    dataloader  a DataLoader over a TensorDataset, sigmoid and binary cross entropy, RMSprop
    preloaded   the data in one tensor, indexed by a permutation; cross entropy from logits;
                the optimizer's foreach implementation
    compiled    as preloaded, with forward and backward pass and the optimizer's update compiled

PyTorch adds RMSprop's epsilon outside the square root, Keras and optax inside. PyTorch's users
would not change that, so it stays. Because of it the loss after some epochs is lower (.163 against
.175 after six); it does not measure speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from workers import Job, Turns, read_images


class VAE(nn.Module):
    """The article's VAE.

    Layers: 784-128 relu - (mean 4, log-variance 4) - 128 relu - 784 logits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 128), nn.ReLU())
        self.mean = nn.Linear(128, 4)
        self.logvar = nn.Linear(128, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 784))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns logits, means and log-variances for images x.

        Images and logits are [B, 784], means and log-variances [B, 4].
        """
        hidden = self.encoder(x)
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.decoder(z), mean, logvar


def regulariser(mean: Tensor, logvar: Tensor) -> Tensor:
    """Returns the article's regulariser.

    It is a mean over latents, without the factor 1/2 of the KL divergence.
    """
    return 1e-4 * -(1 + logvar - mean.square() - logvar.exp()).mean()


def train(turns: Turns, job: Job) -> None:
    """Trains an epoch per turn; answers with its mean loss."""
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
    """Trains with the loop of PyTorch's tutorials."""
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
    """Trains with the images in one tensor.

    This saves the loader's work for each example. The loss needs no sigmoid, and the optimizer no
    loop over parameters.
    """
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
    """Trains as the preloaded loop, with every step compiled."""
    model = VAE()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)

    # torch.compile compiles the loss with its backward pass; gathering the batch is part of it.
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
