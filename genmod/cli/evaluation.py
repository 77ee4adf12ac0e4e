"""Subcommand that evaluates trained runs by metrics."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from genmod._host import startup
from genmod.cli.options import print_table
from genmod.cli.products import Flag


def evaluate(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="GROUP [GROUP ...]")] = (),
    num: int = 10_000,
    num_draws: int = 500,
    seed: int = 0,
    features: str | None = None,
    best: Flag = False,
) -> int:
    """Evaluates runs by metrics, on test data and samples.

    Results are written into each run folder, with error, floor and protocol, and the report shows
    them. The table has mean and standard error over seeds. Runs that differ otherwise stand side by
    side, with their differences paired by seed.

    likelihood: log p(x) by importance sampling, for a model with an encoder. posterior: active
    units, and the parts of the KL divergence. classes: what a classifier that comes with genmod
    sees in the samples, and how often it sees the class that was asked for. distances: Fréchet,
    kernel and sliced distance, precision, recall, density and coverage between samples and test
    images. memorisation: whether samples are nearer to training images than test images are.

    Args:
      runs: run folders, or folders of runs.
      metrics: groups of metrics, with spaces or commas between; all that apply if none is given.
      num: number of samples, and of training images that the floor takes in their place.
      num_draws: number of importance samples for each test example.
      seed: seed of samples and draws.
      features: features of the distances: pixels, mnist, fashion_mnist, or a file with weights
        of Inception; those of the data's own classifier, or pixels, if not given.
      best: whether to evaluate the best checkpoint, if the run keeps one, and not the newest.
    """
    from genmod.runs import comparison, evaluation, gathered

    options = evaluation.Options(num, num_draws, seed, features)
    groups = [group for word in metrics for group in word.split(",")]
    if not runs:
        raise ValueError("evaluate needs at least one run folder, got none")
    folders = [folder for path in runs for folder in gathered.below(path)]
    startup.configure()
    for folder in folders:
        for note in evaluation.evaluate_run(folder, options, groups, best=best):
            print(f"note: {note}", file=sys.stderr, flush=True)
    found = [gathered.gather(folder) for folder in folders]
    if len(found) == 1:
        rows = [entry.described()[:3] for entry in found[0].results]
        print_table(["", "value", "floor"], rows)
    else:
        columns, table, notes = comparison.metrics_of(found)
        print_table(columns, table)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    for folder in found:
        print(folder.folder.results)
    return 0
