"""Seconds per epoch of the article's VAE in genmod, Keras and PyTorch.

    python experiments/benchmarks/article_vae.py --peers-python PATH

This takes three minutes on two cores with all peers, and half a minute with genmod alone. All peers
together need 6 GB of memory, because every framework stays in memory while the others work. PATH is
an interpreter that has torch, and tensorflow with keras; by default it is this one. A peer that is
not installed is reported and skipped. Everything runs on the CPU.

Task: a VAE of 784-128 relu - (mean 4, log-variance 4) - 128 relu - 784 sigmoid on MNIST's 60,000
training images in [0, 1]. The loss is the mean binary cross entropy over pixels plus 1e-4 times the
mean over latents of -(1 + logvar - mean^2 - exp(logvar)). The optimizer is RMSprop with learning
rate 1e-3, decay .9 and epsilon 1e-7. Batches of 100 are shuffled, so an epoch has 600 steps. Each
peer is the code that its users write.

Method: each framework has its own process, which is started once and warmed up with one epoch (this
compiles). Then, in each round, every framework trains one more epoch while the others wait, so that
a slow minute of the machine affects all of them. Times are taken inside the process, from the
request until the loss is on the host. The table has the median over rounds and, as ratio to genmod,
the median of the ratios within a round. Differences under 15 % are noise.

Limit: the time of the epoch's matrix products alone, at the best rate of a large float32 product in
JAX, measured in turns of the same run.

Log, progress and checkpoints: the share of a recorded run that is not training, over ten epochs
(with a log point per epoch and a checkpoint every five).

Time to the first step: the time from the start of a fresh process until it has the loss of its
first step. It includes imports, reading MNIST and compiling. genmod starts with an empty
compilation cache (cold) and with the cache that the cold start has filled (warm).

Expected results on two cores (AVX-512): genmod .53 s per epoch on a quiet machine, which is twice
the limit, and .75 s on a busy one; torch.compile 1.5 to 1.8 times genmod's time, DataLoader 2.7 to
3.3, Keras in graph mode 2.8 to 3.2. Run it on a quiet machine: other work slows frameworks
unequally. The losses of Keras and genmod agree; PyTorch's loss is lower, because its RMSprop
differs (peers/torch_vae.py).
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

# genmod's own worker runs this file, too, and its start and its memory are measured. So functions
# import JAX, genmod, rich and tyro themselves, if they need them. This also keeps the main program
# small, because on Linux the peak memory of a child starts from that of its parent.

EXAMPLES = 60_000
BATCH_SIZE = 100
STEPS = EXAMPLES // BATCH_SIZE
LAYERS = ((784, 128), (128, 2 * 4), (4, 128), (128, 784))  # inputs and outputs of each product

Name = Literal[
    "genmod", "torch-compiled", "torch-preloaded", "torch-dataloader", "keras-jit", "keras-graph"
]


@dataclasses.dataclass(frozen=True)
class Framework:
    """Framework, or a variant of it, that trains the model.

    Attributes:
        label: name in the table.
        library: module without which the worker cannot run.
        module: module of the worker.
        variant: variant of the worker.
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
    """Options of the benchmark."""

    peers_python: str = sys.executable
    """Interpreter that has torch, and tensorflow with keras."""
    rounds: int = 6
    """Epochs of each framework after one to warm up; 0 for none."""
    starts: int = 3
    """Fresh processes for each time to the first step; 0 for none."""
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
    """Runs the worker of the job's variant, one measurement per turn.

    genmod trains an epoch, matrix measures the machine's rate of matrix products, and recorded the
    share of a recorded run that is not training.
    """
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
    """Trains genmod, one epoch per turn; answers with the logged loss.

    All epochs are one `train.run` with a log point per epoch.
    """
    import optax

    from genmod import data, nets, rng, train, vae

    if "GENMOD_CACHE_DIR" in os.environ:
        from genmod._host import startup

        startup.configure_compilation_cache()
    dataset = data.load("mnist", split="train")
    batch_at = data.batches(dataset.images, batch_size=job.batch_size)
    model = vae.make(nets.mlp((128,), 8, heads=2), nets.mlp((128,), (28, 28, 1)), latent_dim=4)
    # Keras adds RMSprop's epsilon inside the square root.
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
    """Answers with the best rate of large matrix products.

    The products are in float32, the rate is in FLOP per second.
    """
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    # The machine's caches and cores determine which size is fastest.
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
    """Answers with the share of a recorded run that is not training.

    This is the time for log, progress and checkpoints. The article's experiment is run as by
    `genmod train`, for one epoch and for `job.epochs` more: the difference of the two is free of
    start and end. The time of training is taken from the log.
    """
    from genmod.runs import catalogue, logs, record, runner

    source = REPOSITORY / "experiments" / "article_vae.py"
    module = catalogue.load(source)
    trained: list[float] = []
    built = dataclasses.replace(
        module.build(module.Config(seed=job.seed)),
        evaluate=lambda key, state: trained.append(time.perf_counter()) or {},
        figures=lambda key, state: {},
    )

    def run(epochs: int) -> tuple[float, list[dict[str, Any]]]:
        """Returns the seconds until the last step, and the log."""
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
            runner.run(dataclasses.replace(built, epochs=epochs), folder, seed=job.seed)
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
    """Counts the floating-point operations of an epoch's matrix products.

    They are 60.8e9 for the article's VAE. For each example, a layer of n inputs and m outputs needs
    2nm operations forward, 2nm for the gradient of its weights and 2nm for the gradient of its
    inputs; the first layer needs no gradient of its inputs.
    """
    products = [inputs * outputs for inputs, outputs in layers]
    return examples * 2 * (3 * sum(products) - products[0])


def environment(name: Name | Literal["matrix"]) -> dict[str, str]:
    """Returns the environment variables of a worker.

    They restrict it to the CPU. genmod's worker also gets the path of this checkout, so that genmod
    need not be installed.
    """
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
    """Starts a framework's worker for epochs of `steps` steps."""
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
    """Trains all frameworks in turns, one epoch per round.

    Args:
        config: options of the benchmark.
        names: frameworks to run.
        console: console for the progress.

    Returns:
        Results by name (seconds, losses and idle CPU time of each round, and peak memory), reasons
        of failures by name, and the best rate of matrix products in FLOP per second (None if its
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
    """Times fresh processes until the end of their first training step.

    Starts alternate between frameworks, and each cold start of genmod has its own cache folder.

    Args:
        config: options of the benchmark.
        names: frameworks of the benchmark; of these, genmod and PyTorch's eager loop are timed.

    Returns:
        Seconds by label, and reasons of failures by label.
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
                # JAX's own variable takes precedence, so it must name the same folder.
                folders = {"GENMOD_CACHE_DIR": cache, "JAX_COMPILATION_CACHE_DIR": cache}
                measure("genmod, cold cache", "genmod", folders)
                measure("genmod, warm cache", "genmod", folders)
        if "torch-dataloader" in names:
            measure("torch, eager", "torch-dataloader")
    return seconds, failures


def outer_layer_share(config: Config) -> float | None:
    """Returns the share of a recorded run that is not training.

    It is None if it could not be measured.
    """
    job = Job("recorded", "", epochs=10, seed=config.seed)
    with contextlib.suppress(WorkerError):
        variables = environment("genmod")
        worker = Worker(sys.executable, "article_vae", job, variables, config.timeout)
        with worker:
            return worker.epoch()["share"]
    return None


# The report.


def describe_machine(config: Config) -> str:
    """Describes machine, versions and date in one line."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    # Containers often get fewer cores than the machine has; not every system reports how many.
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
        # A process that works between its turns slows the others down or hides its own work.
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
    # Workers run in another folder, so a relative path becomes absolute here. Symbolic links must
    # stay, because Python recognises a virtual environment by the path of its interpreter.
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
    # A peer's failure is only a line in the table; genmod's failure is one of this program.
    broken = [*failures, *start_failures]
    return 1 if any(name.startswith("genmod") for name in broken) else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Config, description=__doc__)))
