"""Subcommands that evaluate trained runs by metrics, and reproduce published tables."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from genmod._host import startup
from genmod._host.words import counted
from genmod.cli.options import DIFFERS, print_table
from genmod.cli.products import Flag


def evaluate(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    metrics: Annotated[tuple[str, ...], tyro.conf.arg(metavar="GROUP [GROUP ...]")] = (),
    num: int = 10_000,
    num_draws: int = 500,
    seed: int = 0,
    features: str | None = None,
    num_test: int | None = None,
    ex_post: int | None = None,
    best: Flag = False,
) -> int:
    """Evaluates runs by metrics, on test data and samples.

    Results are written into each run folder, with error, floor and protocol, and the report shows
    them. The table has mean and standard error over seeds. Runs that differ otherwise stand side by
    side, with their differences paired by seed.

    likelihood: log p(x) by importance sampling, for a model with an encoder. posterior: active
    units, and the parts of the KL divergence. classes: what a classifier that comes with genmod
    sees in the samples, and how often it sees the class that was asked for; of Stacked-MNIST, how
    many of its 1,000 modes. distances: Fréchet, kernel and sliced distance, precision, recall,
    density and coverage between samples and test images. class_distances: the Fréchet distance of
    the samples of each class that was asked for, and their mean. memorisation: whether samples are
    nearer to training images than test images are.

    Args:
      runs: run folders, or folders of runs.
      metrics: groups of metrics, with spaces or commas between; all that apply if none is given.
      num: number of samples, and of training images that the floor takes in their place.
      num_draws: number of importance samples for each test example.
      seed: seed of samples and draws.
      features: features of the distances: pixels, mnist, fashion_mnist, or a file with weights
        of Inception; those of the data's own classifier, or pixels, if not given.
      num_test: number of test examples, the first ones; all if not given.
      ex_post: number of Gaussians of a mixture that is fitted to the codes of the training images
        and draws the latents of the samples in place of the prior.
      best: whether to evaluate the best checkpoint, if the run keeps one, and not the newest.
    """
    from genmod.runs import comparison, evaluation, gathered

    options = evaluation.Options(num, num_draws, seed, features, num_test, ex_post)
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


def reproduce(
    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")] = "",
    budget: str = "short",
    out: Path | None = None,
) -> int:
    """Trains and evaluates a published table, and prints both side by side.

    Without a table, lists those that there are. The runs, their evaluation and a page with all of
    it are kept in a folder; the same command continues what was stopped. The exit code is 1 if an
    ordering of cells that the budget asserts does not hold in every seed. If data are missing, it
    ends before any training.

    Args:
      table: name of the table, such as iwae-table1.
      budget: length of the reproduction: smoke, short or full.
      out: folder of the runs; runs/reproduce/TABLE/BUDGET if not given.
    """
    from genmod import checks
    from genmod._host import disk
    from genmod.runs import pages
    from genmod.runs import reproduce as reproducing

    if not table:
        print_table(["table", ""], reproducing.listed(), right=False)
        return 0
    loaded = reproducing.load(table)
    checks.known("budget", budget, list(loaded.budgets))
    chosen = loaded.budgets[budget]
    out = out or Path("runs") / "reproduce" / table / budget
    num, seeds = counted(len(chosen.cells), "cell"), counted(chosen.seeds, "seed")
    print(f"{loaded.title}: {num}, {seeds}, {chosen.time}", flush=True)
    with disk.writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for name in reproducing.datasets(loaded, chosen, out):  # one that is missing ends it now
        if code := _genmod(reproducing.showing(name, out)):
            return code
    values = []
    for cell in reproducing.cells_of(loaded, chosen):
        folder = reproducing.folder_of(out, cell)
        value = reproducing.value_of(loaded, chosen, cell, folder)
        if value is None:
            code = _genmod(reproducing.training(loaded, chosen, cell, folder))
            code = code or _genmod(reproducing.evaluation(loaded, chosen, folder))
            if code:
                return code
            value = reproducing.value_of(loaded, chosen, cell, folder)
        if value is None:
            raise ValueError(
                f"{folder} holds no {loaded.metric[1]} of its end after its evaluation"
            )
        values.append(value)
    shown = reproducing.published(table, loaded, budget, values, out)
    folders = [reproducing.folder_of(out, value.cell) for value in values]
    html = pages.build(folders, published=shown)
    page = out / "table.html"
    with disk.writing(page):
        page.write_text(html, encoding="utf-8")
    print_table(shown.columns, shown.rows)
    for note in shown.notes:
        print(note)
    print(page)
    return 0 if all(one.holds for one in reproducing.orderings(chosen, values)) else DIFFERS


def _genmod(arguments: Sequence[str]) -> int:
    """Runs the command in a process of its own and returns its exit code.

    Devices are left to it. The process has saved its run when this returns, or raises.
    """
    print(shlex.join(["genmod", *arguments]), flush=True)
    process = subprocess.Popen([sys.executable, "-m", "genmod", *arguments])
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
