"""Speed of streaming JPEG files, and memory of a streaming run.

    python experiments/benchmarks/streaming.py --peers-python PATH
    python experiments/benchmarks/streaming.py --memory

The first command takes three minutes on two cores and prints images per second, the second takes
one minute. The files are made first (0.4 GB, in memory if there is /dev/shm, because the disk is
not to be measured). PATH is an interpreter that has torch; by default it is this one, and without
torch its row is left out.

Rows of the table:

- decoding alone: genmod's processes decode and return nothing, which is the most that they can do,
- genmod: shuffled batches of bytes on the device,
- torch DataLoader: as many workers; each image is read with Pillow and made a tensor, and batches
  are collated and shuffled.

Method: each row has its own process, warmed up with one turn; then they take turns of an epoch.
Each turn begins the data anew, but the processes that decode are already running. Ratios are
medians of the ratios within a round.

With --memory, a small VAE is trained on an NPY file that is ten times as large as the limit for
data on the device, and the resident memory is printed along the way.
"""

import contextlib
import dataclasses
import functools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from workers import (
    Job,
    Turns,
    Worker,
    has_module,
    package_versions,
    run,
    take_turns,
    this_checkout,
)

# The workers run this file, too, and PyTorch's worker has neither JAX nor rich.

LABELS = {"decode": "decoding alone", "genmod": "genmod", "torch": "torch DataLoader"}
_LIMIT = 50_000_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the benchmark."""

    peers_python: str = sys.executable
    """Interpreter that has torch."""
    rounds: int = 5
    """Turns of each worker, after one to warm up."""
    images: int = 100_000
    """Number of files; a turn uses as many as fill whole batches."""
    size: int = 64
    """Pixels per side of an image."""
    batch_size: int = 128
    """Images in a batch."""
    processes: int = 2
    """Number of processes that decode."""
    memory: bool = False
    """Whether to measure the memory of a run instead."""
    timeout: float = 600.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        numbers = (self.rounds, self.size, self.batch_size, self.processes)
        if min(numbers) < 1 or self.images < self.batch_size:
            raise ValueError(f"all numbers must be positive, images at least a batch, got {self}")


# The workers.


def train(turns: Turns, job: Job) -> None:
    """Runs one epoch per turn; answers with its number of images."""
    {"decode": decode_alone, "genmod": by_genmod, "torch": by_torch}[job.variant](turns, job)


def decode_alone(turns: Turns, job: Job) -> None:
    """Decodes every file in genmod's processes and returns nothing."""
    from genmod._host import decoding
    from genmod.data import folders

    pictures = folders.folder(job.archives, size=None).pictures
    pool = decoding._pool(decoding.processes())
    while True:
        turns.begin()
        order = np.random.default_rng(0).permutation(len(pictures))[: job.steps * job.batch_size]
        pieces = [order[k : k + 256].tolist() for k in range(0, len(order), 256)]
        num = sum(pool.map(read_all, map(pictures.some, pieces)))
        turns.end(images=num)


def read_all(pictures: Any) -> int:
    """Decodes pictures, forgets them and returns their number."""
    for place in range(len(pictures)):
        pictures.read(place)
    return len(pictures)


def by_genmod(turns: Turns, job: Job) -> None:
    """Streams genmod's batches to the device."""
    import jax

    from genmod import data, rng
    from genmod.types import Stream

    dataset = data.load(f"folder:{job.archives}")
    stream = data.batches(dataset.images, batch_size=job.batch_size, stream=True)
    assert isinstance(stream, Stream)
    epoch = 0
    while True:
        turns.begin()
        num = 0
        for part, steps in stream.parts(rng.root(0)[None], epoch * job.steps, job.steps):
            jax.block_until_ready(part)
            num += steps * job.batch_size
        epoch += 1
        turns.end(images=num)


def by_torch(turns: Turns, job: Job) -> None:
    """Reads the batches of a DataLoader, written as PyTorch's users do."""
    import torch  # pyrefly: ignore
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset  # pyrefly: ignore

    files = sorted(Path(job.archives).rglob("*.jpg"))

    class Pictures(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            with Image.open(files[index]) as picture:
                return torch.from_numpy(np.array(picture.convert("RGB")))

    loader = DataLoader(
        Pictures(),
        batch_size=job.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=int(os.environ["GENMOD_WORKERS"]),
        persistent_workers=True,
    )
    while True:
        turns.begin()
        turns.end(images=sum(len(batch) for batch in loader))


# The main program.


@contextlib.contextmanager
def made(config: Config) -> Iterator[str]:
    """Makes a folder of smooth random JPEG files of ten classes."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        write = functools.partial(write_some, folder, config.size)
        bounds = np.linspace(0, config.images, 101).astype(int).tolist()
        with ProcessPoolExecutor() as pool:
            list(pool.map(write, bounds, bounds[1:]))
        yield folder


def write_some(folder: str, size: int, first: int, last: int) -> None:
    """Writes the files with numbers from `first` to `last` - 1."""
    from PIL import Image

    for number in range(first, last):
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        place = Path(folder) / f"{number % 10}"
        place.mkdir(exist_ok=True)
        picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
        picture.save(place / f"{number:07d}.jpg", quality=90)


def main(config: Config, console: Any) -> None:
    """Lets the workers take turns and prints the table."""
    from rich.table import Table

    if config.memory:
        memory(config, console)
        return
    steps = config.images // config.batch_size
    variables = {"GENMOD_WORKERS": str(config.processes), "GENMOD_DATA_GB": "0.001"}

    def start(variant: str) -> Worker:
        python = config.peers_python if variant == "torch" else sys.executable
        job = Job(variant, folder, batch_size=config.batch_size, steps=steps)
        variables["GENMOD_CACHE_DIR"] = f"{folder}/.cache"
        return Worker(python, "streaming", job, this_checkout() | variables, config.timeout)

    with made(config) as folder:
        chosen = [name for name in LABELS if name != "torch"]
        if has_module(config.peers_python, "torch"):
            chosen.append("torch")
        answers = take_turns({v: functools.partial(start, v) for v in chosen}, config.rounds)
    rates = {v: [a["images"] / a["seconds"] for a in found] for v, found in answers.items()}
    table = Table(
        f"{config.images:,} JPEGs of {config.size} x {config.size}",
        "images a second",
        "min-max",
        "of decoding alone",
    )
    for variant, found in rates.items():
        share = statistics.median(a / b for a, b in zip(found, rates["decode"], strict=True))
        extent = f"{min(found):,.0f}-{max(found):,.0f}"
        table.add_row(LABELS[variant], f"{statistics.median(found):,.0f}", extent, f"{share:.2f}")
    console.print(table)
    versions = package_versions(config.peers_python, ("torch", "pillow"))
    console.print(f"{config.processes} processes; torch's interpreter has {versions}")


def memory(config: Config, console: Any) -> None:
    """Prints the memory of a run that streams its data.

    The file of images is ten times as large as the limit for data on the device.
    """
    import optax
    from rich.table import Table

    from genmod import data, nets, rng, vae
    from genmod import train as training

    shape = (config.size, config.size, 3)
    num = 10 * _LIMIT // int(np.prod(shape))
    os.environ["GENMOD_DATA_GB"] = str(_LIMIT / 1e9)
    table = Table("step", "resident MB", "of these files", "images seen, MB")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GENMOD_CACHE_DIR"] = folder
        images = np.lib.format.open_memmap(f"{folder}/images.npy", "w+", np.uint8, (num, *shape))
        for first in range(0, num, 1000):
            some = np.random.default_rng(first).integers(0, 256, (1000, *shape), np.uint8)
            images[first : first + 1000] = some[: num - first]
        del images
        dataset = data.load(f"npy:{folder}/images.npy")
        model = vae.make(nets.mlp((64,), 8, heads=2), nets.mlp((64,), shape), latent_dim=4)
        learner = training.learner(model.init, vae.elbo(model), optax.adam(1e-3))
        batch_at = data.batches(dataset.images, batch_size=config.batch_size)
        console.print(f"{data.placement(batch_at)}")
        steps = 3 * num // config.batch_size
        points = training.run(
            learner, rng.root(0), batch_at, num_steps=steps, log_every=steps // 12
        )
        for point in points:
            resident, files = _resident()
            seen = point.step * config.batch_size * np.prod(shape) / 1e6
            table.add_row(f"{point.step}", f"{resident:.0f}", f"{files:.0f}", f"{seen:,.0f}")
    console.print(table)


def _resident() -> tuple[float, float]:
    """Returns the resident memory of this process, in MB.

    The second number is the part of it that is pages of files.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.partition(":")[0]: line.split()[1] for line in lines if "kB" in line}
    return int(found["VmRSS"]) / 1e3, int(found["RssFile"]) / 1e3


if __name__ == "__main__":
    sys.exit(run(main, Config, __doc__))
