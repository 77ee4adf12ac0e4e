"""Seconds an epoch of the article's VAE: genmod beside Keras and PyTorch, in one run.

    python experiments/benchmarks/article_vae.py --peers-python PATH

Three minutes on two cores with all peers, half a minute with genmod alone; 6 GB of memory
with all of them (every framework stays in memory while the others work). PATH is an interpreter
that has torch, and tensorflow with keras; by default it is this one. A peer that is not there is
reported as such and skipped. Everything runs on the CPU.

The task: 784-128 relu - (mean 4, log-variance 4) - 128 relu - 784 sigmoid on MNIST's 60,000
training images in [0, 1]; mean binary cross entropy over pixels plus 1e-4 times the mean over
latents of -(1 + logvar - mean^2 - exp(logvar)); RMSprop, learning rate 1e-3, decay .9, epsilon
1e-7; shuffled batches of 100, so 600 steps an epoch. Each peer is the code that its users write.

How it is measured: a process for each framework, started once and warmed up with one epoch (which
compiles); then, round after round, each trains one more epoch while the others wait, so a slow
minute of the machine hits all of them. Times are taken inside the process, from the request to
the loss on the host. The table has the median over rounds, and as ratio to genmod the median of
the ratios within a round. Differences under 15 % are noise.

The limit is the time of the epoch's matrix products alone at the best rate that a large float32
product in JAX reaches in turns of the same run.

Log, progress and checkpoints: the share of a recorded run (an epoch a log point, a checkpoint every
five) that is not training, over ten epochs.

Time to the first step: from the start of a fresh process until it has the loss of its first step,
imports, reading MNIST and compiling included; genmod with an empty folder for compiled programs
(cold) and with the one that the cold start has filled (warm).

What to expect on two cores (AVX-512): genmod .53 s an epoch on a quiet machine, twice the limit,
.75 on a busy one; torch.compile 1.5 to 1.8 times genmod's time, DataLoader 2.7 to 3.3, Keras graph
2.8 to 3.2. Run it on a quiet machine: other work slows frameworks unequally. The losses of Keras
and genmod agree; PyTorch's is lower, because its RMSprop differs (peers/torch_vae.py).
"""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workers import (
    REPOSITORY,
    Job,
    Turns,
    Worker,
    WorkerError,
    has_module,
    open_console,
    package_versions,
    this_checkout,
)

if TYPE_CHECKING:
    from rich.console import Console

# This file is also the module of genmod's own worker, whose start is measured and whose memory
# is compared. So the worker's imports (JAX, genmod) and the report's (rich, tyro) are made where
# they are used. It keeps the main program small as well: Linux lets a child's peak memory start
# from that of the process that started it.

EXAMPLES = 60_000
BATCH_SIZE = 100
STEPS = EXAMPLES // BATCH_SIZE
LAYERS = ((784, 128), (128, 2 * 4), (4, 128), (128, 784))  # inputs and outputs of each product

Name = Literal[
    "genmod", "torch-compiled", "torch-preloaded", "torch-dataloader", "keras-jit", "keras-graph"
]


@dataclasses.dataclass(frozen=True)
class Framework:
    """A way to train the model: what the table calls it, and which worker it is.

    `library` is the module without which the worker cannot run.
    """

    label: str
    library: str
    module: str
    variant: str


FRAMEWORKS: dict[Name, Framework] = {
    "genmod": Framework("genmod", "genmod", "article_vae", "genmod"),
    "torch-compiled": Framework("torch.compile", "torch", "peers.torch_vae", "compiled"),
    "torch-preloaded": Framework("torch, preloaded", "torch", "peers.torch_vae", "preloaded"),
    "torch-dataloader": Framework("torch, DataLoader", "torch", "peers.torch_vae", "dataloader"),
    "keras-jit": Framework("Keras, jit_compile", "keras", "peers.keras_vae", "jit"),
    "keras-graph": Framework("Keras, graph mode", "keras", "peers.keras_vae", "graph"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Seconds an epoch of the article's VAE: genmod beside Keras and PyTorch."""

    peers_python: str = sys.executable
    """Interpreter that has torch, and tensorflow with keras."""
    rounds: int = 6
    """Epochs that each framework trains in turn, after one to warm up; 0 leaves them out."""
    starts: int = 3
    """Fresh processes for each time to the first step; 0 leaves these out."""
    only: tuple[Name, ...] = tuple(FRAMEWORKS)
    """Frameworks to run."""
    archives: Path = REPOSITORY / "genmod" / "data" / "mnist_archives"
    """Folder of the MNIST archives that the peers read."""
    seed: int = 0
    """Seed of the weights, the order and the noise."""
    timeout: float = 600.0
    """Seconds to wait for one epoch before a worker counts as dead."""
    json: Path | None = None
    """File for the raw results."""

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.starts < 0:
            raise ValueError(
                f"rounds and starts must not be negative, got {self.rounds} and {self.starts}"
            )


# The workers of this module.


def train(turns: Turns, job: Job) -> None:
    """Trains genmod an epoch a turn, or measures the machine's matrix rate a turn."""
    match job.variant:
        case "genmod":
            train_genmod(turns, job)
        case "matrix":
            measure_matrix_rate(turns)
        case "recorded":
            measure_outer_layer(turns, job)
        case _:
            raise ValueError(f"expected genmod, matrix or recorded, got {job.variant!r}")


def train_genmod(turns: Turns, job: Job) -> None:
    """One `train.run` over all epochs, a log point a turn; answers with the loss logged there."""
    import optax

    from genmod import data, nets, rng, train, vae

    if "GENMOD_CACHE_DIR" in os.environ:
        from genmod._host import startup

        startup.configure_compilation_cache()
    dataset = data.load("mnist", split="train")
    batch_at = data.batches(dataset.images, batch_size=job.batch_size)
    model = vae.make(nets.mlp((128,), 8, heads=2), nets.mlp((128,), (28, 28, 1)), latent_dim=4)
    # As Keras has it: the epsilon inside the square root.
    optimizer = optax.rmsprop(1e-3, decay=0.9, eps=1e-7, eps_in_sqrt=True)
    learner = train.learner(model.init, vae.article_loss(model), optimizer)
    points = train.run(
        learner,
        rng.root(job.seed),
        batch_at,
        num_steps=job.epochs * job.steps,
        log_every=job.steps,
    )
    while True:
        turns.begin()
        turns.end(loss=float(next(points).metrics["loss"]))


def measure_matrix_rate(turns: Turns) -> None:
    """Answers every turn with the best rate of a few large float32 products, in FLOP a second."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    # Which size is fastest depends on the machine's caches and cores.
    matrices = [jnp.ones((size, size), jnp.float32) for size in (1024, 2048)]
    for matrix in matrices:
        product(matrix, matrix).block_until_ready()  # compiles
    while True:
        turns.begin()
        best = 0.0
        for matrix in matrices * 5:
            start = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            best = max(best, 2 * len(matrix) ** 3 / (time.perf_counter() - start))
        turns.end(flop_per_second=best)


def measure_outer_layer(turns: Turns, job: Job) -> None:
    """Answers with the share of a recorded run that is not training: log, progress, checkpoints.

    The article's experiment as `genmod train` runs it, for one epoch and for as many more as the
    job says: the difference of the two is free of start and end. Training is what the log says.
    """
    from genmod.runs import catalogue, logs, record, runner

    source = REPOSITORY / "experiments" / "article_vae.py"
    module = catalogue.load(source)
    trained: list[float] = []
    built = module.build(module.Config(seed=job.seed))._replace(
        evaluate=lambda key, state: trained.append(time.perf_counter()) or {},
        figures=lambda key, state: {},
    )

    def run(epochs: int) -> tuple[float, list[dict[str, Any]]]:
        """Seconds until the last step, and the log."""
        with tempfile.TemporaryDirectory() as path:
            folder, _ = record.open_folder(
                Path(path),
                experiment=source.stem,
                source=source,
                config={},
                fingerprint=built.dataset.fingerprint,
                command="",
            )
            began = time.perf_counter()
            runner.run(built._replace(epochs=epochs), folder, seed=job.seed)
            return trained[-1] - began, logs.read_metrics(folder)

    while True:
        turns.begin()
        run(1)  # compiles
        short, _ = run(1)
        long, rows = run(1 + job.epochs)
        training = sum(EXAMPLES / row["examples_per_s"] for row in rows[1:])
        turns.end(share=1 - training / (long - short))


# The measurements.


def epoch_flop(layers: Sequence[tuple[int, int]] = LAYERS, examples: int = EXAMPLES) -> int:
    """Floating-point operations of the matrix products of one epoch: 60.8e9 for the article.

    An example costs each layer of n inputs and m outputs 2nm operations forward, 2nm for the
    weights' gradient and 2nm for the inputs' gradient; the first layer needs no inputs' gradient.
    """
    products = [inputs * outputs for inputs, outputs in layers]
    return examples * 2 * (3 * sum(products) - products[0])


def environment(name: Name | Literal["matrix"]) -> dict[str, str]:
    """Variables for a worker: the CPU alone; and for genmod this checkout, installed or not."""
    variables = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if name == "genmod":
        variables |= this_checkout()
    return variables


def start(
    config: Config,
    name: Name,
    steps: int,
    epochs: int,
    variables: Mapping[str, str] | None = None,
) -> Worker:
    """Starts the worker of one framework for epochs of `steps` steps."""
    framework = FRAMEWORKS[name]
    job = Job(
        framework.variant,
        str(config.archives.resolve()),
        batch_size=BATCH_SIZE,
        steps=steps,
        epochs=epochs,
        seed=config.seed,
    )
    return Worker(
        sys.executable if name == "genmod" else config.peers_python,
        framework.module,
        job,
        {**environment(name), **(variables or {})},
        config.timeout,
    )


def take_turns(
    config: Config, names: Sequence[Name], console: "Console"
) -> tuple[dict[Name, dict[str, Any]], dict[Name, str], float | None]:
    """Trains all frameworks side by side, one epoch each a round.

    Args:
        config: the options.
        names: the frameworks to run.
        console: where progress is told.

    Returns:
        Results by name (seconds and losses a round, peak memory, idle CPU time a round), reasons
        of those that failed by name, and the best matrix rate in FLOP a second (None if that
        worker failed).
    """
    results: dict[Name, dict[str, Any]] = {}
    failures: dict[Name, str] = {}
    rates: list[float] = []
    with contextlib.ExitStack() as stack:
        workers: dict[Name, Worker] = {}
        for name in names:
            console.print(f"[dim]warm-up: {FRAMEWORKS[name].label}")
            try:
                worker = start(config, name, steps=STEPS, epochs=1 + config.rounds)
                workers[name] = stack.enter_context(worker)
                warm_up = worker.epoch()
            except WorkerError as error:
                failures[name] = str(error)
                continue
            results[name] = {
                "warm_up_seconds": warm_up["seconds"],
                "seconds": [],
                "loss": [],
                "idle_cpu_seconds": [],
            }
        matrix: Worker | None = None
        with contextlib.suppress(WorkerError):
            job, variables = Job("matrix", ""), environment("matrix")
            worker = Worker(sys.executable, "article_vae", job, variables, config.timeout)
            stack.enter_context(worker).epoch()
            matrix = worker
        for index in range(config.rounds):
            console.print(f"[dim]round {index + 1} of {config.rounds}")
            for name in [name for name in names if name in results]:
                try:
                    answer = workers[name].epoch()
                except WorkerError as error:
                    failures[name] = str(error)
                    del results[name]
                    continue
                for key in ("seconds", "loss", "idle_cpu_seconds"):
                    results[name][key].append(answer[key])
            if matrix is not None:
                try:
                    rates.append(matrix.epoch()["flop_per_second"])
                except WorkerError:
                    matrix = None
        for name in list(results):
            try:
                results[name] |= workers[name].stop()
            except WorkerError as error:
                failures[name] = str(error)
                del results[name]
    return results, failures, max(rates, default=None)


def time_first_steps(
    config: Config, names: Sequence[Name]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Times the start of fresh processes, up to the end of their first training step.

    Starts alternate between frameworks, and each cold start of genmod has a folder of its own.

    Args:
        config: the options.
        names: the frameworks to choose from: genmod, and PyTorch's eager loop.

    Returns:
        Seconds by label, and reasons of those that failed by label.
    """
    seconds: dict[str, list[float]] = {}
    failures: dict[str, str] = {}

    def measure(label: str, name: Name, variables: Mapping[str, str] | None = None) -> None:
        if label in failures:
            return
        began = time.perf_counter()
        try:
            with start(config, name, steps=1, epochs=1, variables=variables) as worker:
                worker.epoch()
                took = time.perf_counter() - began
        except WorkerError as error:
            failures[label] = str(error)
            return
        seconds.setdefault(label, []).append(took)

    for _ in range(config.starts):
        if "genmod" in names:
            with tempfile.TemporaryDirectory() as cache:
                # JAX's own variable would take precedence, were it set to another folder.
                folders = {"GENMOD_CACHE_DIR": cache, "JAX_COMPILATION_CACHE_DIR": cache}
                measure("genmod, cold cache", "genmod", folders)
                measure("genmod, warm cache", "genmod", folders)
        if "torch-dataloader" in names:
            measure("torch, eager", "torch-dataloader")
    return seconds, failures


def outer_layer_share(config: Config) -> float | None:
    """Share of a recorded run of genmod that is not training; None if it could not be measured."""
    job = Job("recorded", "", epochs=10, seed=config.seed)
    with contextlib.suppress(WorkerError):
        variables = environment("genmod")
        worker = Worker(sys.executable, "article_vae", job, variables, config.timeout)
        with worker:
            return worker.epoch()["share"]
    return None


# The report.


def describe_machine(config: Config) -> str:
    """Machine, versions and date, in a line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    # The cores that this process may use, where the system tells: containers often get fewer.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    own = package_versions(sys.executable, ("jax", "jaxlib", "optax", "genmod"))
    peers = package_versions(
        config.peers_python, ("torch", "tensorflow", "tensorflow_cpu", "keras")
    )
    libraries = ", ".join(f"{name} {version}" for name, version in (own | peers).items())
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    python = platform.python_version()
    return f"{model}, {cores} cores, {platform.system()}; Python {python}, {libraries}; {today}"


def report(
    console: "Console",
    results: dict[Name, dict[str, Any]],
    skipped: dict[Name, str],
    rate: float | None,
    first_steps: dict[str, list[float]],
    machine: str,
) -> None:
    """Prints the tables."""
    from rich.table import Table

    limit = epoch_flop() / rate if rate else None
    genmod = results["genmod"]["seconds"] if "genmod" in results else None
    if results or skipped:
        rounds = len(next(iter(results.values()))["seconds"]) if results else 0
        table = Table(title=f"The article's VAE: an epoch of {STEPS} steps, {rounds} rounds")
        table.add_column("framework", no_wrap=True)
        for heading in (
            "seconds",
            "min-max",
            "times genmod",
            "share of limit",
            "loss",
            "peak MB",
        ):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, framework in FRAMEWORKS.items():
            if name in skipped:
                table.add_row(framework.label, skipped[name])
                continue
            if name not in results:
                continue
            seconds = results[name]["seconds"]
            median = statistics.median(seconds)
            table.add_row(
                framework.label,
                f"{median:.2f}",
                f"{min(seconds):.2f}-{max(seconds):.2f}",
                f"{statistics.median(a / b for a, b in zip(seconds, genmod, strict=True)):.2f}"
                if genmod
                else "-",
                f"{limit / median:.0%}" if limit else "-",
                f"{results[name]['loss'][-1]:.4f}",
                f"{results[name]['peak_rss_mb']:.0f}",
            )
        console.print(table)
    if limit is not None and rate is not None:
        line = f"limit: {epoch_flop() / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s = {limit:.2f} s"
        if genmod:
            line += f"; genmod takes {statistics.median(genmod) / limit:.1f} times that"
        console.print(line)
    if first_steps:
        table = Table(title="Process start to first step")
        table.add_column("start", no_wrap=True)
        table.add_column("seconds", justify="right")
        table.add_column("min-max", justify="right")
        for label, seconds in first_steps.items():
            table.add_row(
                label,
                f"{statistics.median(seconds):.2f}",
                f"{min(seconds):.2f}-{max(seconds):.2f}",
            )
        console.print(table)
    for name, result in results.items():
        # A process that works between its turns takes time from the others' or hides its own.
        idle = sum(result["idle_cpu_seconds"]) / sum(result["seconds"])
        if idle > 0.05:
            console.print(
                f"[yellow]{FRAMEWORKS[name].label} used {idle:.0%} of its time in CPU time "
                "between its turns: its own and the others' times are not to be trusted"
            )
    console.print(machine, highlight=False, soft_wrap=True)


def main(config: Config) -> int:
    """Runs the benchmark and prints its tables; returns the exit status."""
    console = open_console()
    if not (config.archives / "train-images-idx3-ubyte.gz").is_file():
        raise SystemExit(f"no MNIST archives in {config.archives}")
    # Workers run in another folder, so a relative path is resolved here; its symbolic links are
    # left alone, for they are what makes a virtual environment's interpreter.
    found = shutil.which(config.peers_python) or config.peers_python
    config = dataclasses.replace(config, peers_python=os.path.abspath(found))
    skipped: dict[Name, str] = {}
    for name in config.only:
        library = FRAMEWORKS[name].library
        if name != "genmod" and not has_module(config.peers_python, library):
            skipped[name] = "not installed"
    names = [name for name in FRAMEWORKS if name in config.only and name not in skipped]
    results: dict[Name, dict[str, Any]] = {}
    failures: dict[Name, str] = {}
    rate: float | None = None
    if config.rounds:
        results, failures, rate = take_turns(config, names, console)
    for name, reason in failures.items():
        console.print(f"[red]{FRAMEWORKS[name].label}: {reason}", highlight=False)
    if config.starts and names:
        console.print("[dim]first steps")
    working = [name for name in names if name not in failures]
    first_steps, start_failures = time_first_steps(config, working)
    for label, reason in start_failures.items():
        console.print(f"[red]{label}: {reason}", highlight=False)
    if "genmod" in working:
        share = outer_layer_share(config)
        told = "not measured" if share is None else f"{share:.1%} of a recorded run's time"
        console.print(f"log, progress and checkpoints: {told}", highlight=False)
    machine = describe_machine(config)
    not_run = skipped | dict.fromkeys(failures, "failed")
    report(console, results, not_run, rate, first_steps, machine)
    if config.json is not None:
        raw = {
            "machine": machine,
            "epochs": results,
            "not_run": {**skipped, **failures, **start_failures},
            "first_step_seconds": first_steps,
            "epoch_flop": epoch_flop(),
            "matrix_flop_per_second": rate,
        }
        config.json.write_text(json.dumps(raw, indent=2) + "\n")
    # A peer's trouble is a line in the table; genmod's own is a failure of this program.
    broken = [*failures, *start_failures]
    return 1 if any(name.startswith("genmod") for name in broken) else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Config, description=__doc__)))
