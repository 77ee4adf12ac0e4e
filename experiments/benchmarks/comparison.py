"""Frame of a benchmark of genmod beside its peers.

The rows take turns, and the table has their ratios. Each row is a process of its own, warmed up
with one turn. Then, in each round, every process has a turn while the others wait, so that a slow
minute of the machine affects all of them.
"""

import dataclasses
import functools
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workers import (
    Job,
    Turns,
    Worker,
    has_module,
    milliseconds,
    package_versions,
    take_turns,
    this_checkout,
)

# The workers import this file, too, and those of the peers have neither JAX nor rich.

Answers = dict[str, list[dict[str, Any]]]
"""Answers of each row's worker."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every comparison with peers."""

    peers_python: str = sys.executable
    """Interpreter that has the peers; the rows of those that it lacks are left out."""
    rounds: int = 5
    """Turns of each worker, after one to warm up."""
    only: tuple[str, ...] = ()
    """Rows to measure, such as genmod and torch; all if none is given."""
    timeout: float = 600.0
    """Seconds to wait for one turn before a worker counts as dead."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{field.name} must be positive, got {value}")


@dataclasses.dataclass(frozen=True)
class Steps(Options):
    """Options of a comparison of steps."""

    steps: int = 5
    """Steps per turn."""


def chosen(only: Sequence[str], labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels of the rows that a flag chooses.

    Raises:
        SystemExit: if it chooses another one.
    """
    if not set(only) <= set(labels):
        raise SystemExit(f"only must be among {', '.join(labels)}, got {', '.join(only)}")
    return {name: label for name, label in labels.items() if name in only or not only}


def measured(
    module: str,
    labels: Mapping[str, str],
    job: Callable[[str], Job],
    config: Options,
    console: Any,
    *,
    peers: Mapping[str, str],
) -> Answers:
    """Lets rows take turns and returns their answers.

    Args:
        module: module of the workers, beside this file.
        labels: text of each row, by its name.
        job: function from the name of a row to its worker's job.
        config: options; `only` has been applied to the labels.
        console: console that is told which peers are not installed.
        peers: package that a row needs in the interpreter of the peers; the other rows are
            genmod's own.
    """
    python = os.path.abspath(config.peers_python)  # workers run in another folder

    def start(name: str) -> Worker:
        variables = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if name not in peers:
            variables |= this_checkout()
        own = python if name in peers else sys.executable
        return Worker(own, module, job(name), variables, config.timeout)

    starts = {}
    for name, label in labels.items():
        if name in peers and not has_module(python, peers[name]):
            console.print(f"{label}: not installed")
        else:
            starts[name] = functools.partial(start, name)
    return take_turns(starts, config.rounds)


def seconds(answers: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the seconds of a worker's turns."""
    return [answer["seconds"] for answer in answers]


def times_of(answers: Answers, name: str, base: str = "genmod") -> str:
    """Returns a row's seconds as a multiple of another's.

    It is the median of the ratios within a round.
    """
    if base not in answers:
        return "-"
    pairs = zip(seconds(answers[name]), seconds(answers[base]), strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.2f}"


def median_and_extent(values: Sequence[float], digits: int = 0) -> tuple[str, str]:
    """Returns the median and the extent of values."""
    extent = f"{min(values):.{digits}f}-{max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f}", extent


def open_table(title: str, of: str, *headings: str) -> Any:
    """Returns a table of names and numbers."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column(of, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def compare_steps(
    module: str,
    title: str,
    labels: Mapping[str, str],
    config: Steps,
    console: Any,
    *,
    of: str,
    base: str = "genmod",
) -> None:
    """Lets the variants of a module take turns, and prints milliseconds a step.

    Args:
        module: module of the workers, beside this file. The variant `torch` runs under the
            interpreter of the peers, all others under this one.
        title: title of the table.
        labels: text of a variant in the table, by name.
        config: flags.
        console: console to print to.
        of: heading of the variants.
        base: variant with whose time the others are compared.
    """
    labels = chosen(config.only, labels)
    answers = measured(
        module,
        labels,
        lambda name: Job(name, "", steps=config.steps),
        config,
        console,
        peers={"torch": "torch"},
    )
    headings = ("ms a step", "min-max", f"times {labels.get(base, base)}", "loss")
    table = open_table(f"{title}, {config.rounds} rounds", of, *headings)
    for name, found in answers.items():
        each = milliseconds(found, config.steps)
        loss = f"{found[-1]['loss']:.4f}"
        times = times_of(answers, name, base)
        table.add_row(labels[name], *median_and_extent(each), times, loss)
    console.print(table)
    print_versions(console, config)


def play(turns: Turns, job: Job, learner: Any, shape: tuple[int, ...]) -> None:
    """Trains a learner of genmod on noise; answers with the generator's loss.

    The steps of a turn are one `lax.scan`, as training has them.
    """
    import jax
    from jax import lax

    from genmod import rng

    key = rng.root(job.seed)
    real = jax.random.uniform(rng.stream(key, "real"), shape, minval=-1.0)
    state = jax.jit(learner.init)(rng.stream(key, "init"), real)

    @jax.jit
    def turn(state):
        def step(state, _):
            state, metrics = learner.step(rng.at_step(key, state.step), state, real)
            return state, metrics["generator_loss"]

        return lax.scan(step, state, length=job.steps)

    while True:
        turns.begin()
        state, losses = turn(state)
        turns.end(loss=float(losses[-1]))


def print_versions(
    console: Any,
    config: Options,
    own: tuple[str, ...] = ("jax", "jaxlib"),
    peers: tuple[str, ...] = ("torch",),
) -> None:
    """Prints versions of packages, of both interpreters."""
    versions = package_versions(sys.executable, own)
    versions |= package_versions(os.path.abspath(config.peers_python), peers)
    console.print(", ".join(f"{name} {version}" for name, version in versions.items()))
