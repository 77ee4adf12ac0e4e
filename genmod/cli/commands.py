"""Subcommands for existing runs and for data sets."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from genmod._host import startup
from genmod._host.words import counted
from genmod.cli import products
from genmod.cli.evaluation import evaluate, reproduce
from genmod.cli.options import DIFFERS, DataOptions, check_out, print_table, save

_CLASSES = 30
"""Number of classes that a histogram shows."""


def runs(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs"),
) -> int:
    """Lists the runs below a folder, with progress and results.

    Args:
      folder: the folder to search.
    """
    from rich.console import Console
    from rich.table import Table

    from genmod.runs.folder import Folder

    table = Table("run", "begun", "epoch", "loss", "evaluation", box=None, pad_edge=False)
    for path in sorted(folder.glob("**/record.json")):
        run_folder = Folder(path.parent)
        try:
            table.add_row(*_run_row(run_folder))
        except Exception as error:  # an unreadable run must not hide the others
            print(f"note: {run_folder.path} is left out: {error}", file=sys.stderr)
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    else:
        print(f"no runs below {str(folder)!r}")
    return 0


def _run_row(folder: Any) -> list[str]:
    """Returns the table row of one run."""
    from genmod.runs import goals, logs, record

    recorded, rows = record.read(folder), logs.read_metrics(folder)
    last = rows[-1] if rows else {}
    ended = ", ended" * (goals.recorded(recorded, rows).ended is not None)
    evaluation = logs.readable(logs.read_evaluation(folder))
    return [
        str(folder.path),
        recorded["created"][:16].replace("T", " "),
        f"{last.get('epoch', 0):g} of {recorded['config'].get('epochs', '?')}{ended}",
        ", ".join(logs.readable(logs.losses(last)).values()) or "-",
        ", ".join(f"{name} {value}" for name, value in evaluation.items()),
    ]


def data(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
    source: DataOptions,
    num: int = 100,
    out: Path = Path("data.png"),
) -> int:
    """Shows the contents of a data set and its speed.

    Prints its size, mean, standard deviation and fingerprint, the rate of shuffled batches, and the
    number of images in each class. Draws some of its images.

    Args:
      name: data set: mnist, xy_squares, sprites, tfds:NAME, idx:FOLDER, npz:FILE, npy:FILE,
        folder:DIR or call:FILE:F.
      source: part of the data, and how they are read.
      num: number of images to draw, spread over all.
      out: the picture to write; its name ends in .png, .pdf or .svg.
    """
    import numpy as np

    from genmod import checks, report
    from genmod import data as sets

    checks.positive_integer("num", num)
    check_out(out)
    startup.configure()
    dataset = source.load(name)
    summary = sets.summary(dataset)
    places = np.linspace(0, summary.num - 1, min(num, summary.num)).astype(int)
    save(report.image_grid(dataset.images[places]), out)
    batch_size = min(100, summary.num)
    batch_at = sets.batches(dataset.images, batch_size=batch_size)
    speed = batch_size * sets.batches_per_second(batch_at)
    where = sets.placement(batch_at)
    values = [", ".join(f"{x:.4f}" for x in each) for each in (summary.mean, summary.std)]
    megabytes = summary.num_bytes / 1e6
    rows = {
        "data set": f"{name}, {source.split}",
        "images": f"{summary.num:,}, uint8 {list(summary.shape)}, {megabytes:,.1f} MB",
        "mean": f"{values[0]} (grey values in [0, 1])",
        "standard deviation": values[1],
        "fingerprint": dataset.fingerprint,
        "in training": where.partition(", ")[2],
        "batches": f"{speed:,.0f} images/s, shuffled",
    }
    print_table(["", ""], [[key, value] for key, value in rows.items()], right=False)
    most = max(summary.counts.values())
    names = dict(enumerate(dataset.classes))
    names = {label: name for label, name in names.items() if name != str(label)}
    bars = [
        [
            f"{label} {names.get(label, '')}".rstrip(),
            f"{count:,}",
            "#" * max(1, round(40 * count / most)),
        ]
        for label, count in list(summary.counts.items())[:_CLASSES]
    ]
    print_table(["class", "images", ""], bars, right=False)
    if len(summary.counts) > _CLASSES:
        print(f"and {len(summary.counts) - _CLASSES:,} more classes")
    print(out)
    return 0


def replay(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    step: int,
    top: int = 8,
    index: int = 0,
) -> int:
    """Rebuilds one step of a run, example by example.

    Shows each term of the loss, the norm of each gradient, and the examples that stand out: those
    with a value that is not finite, or else those with the largest loss. They are drawn to
    RUN/replay/step-K.png. The step is rebuilt from the nearest checkpoint before it, or from the
    start of the run.

    Args:
      run: the run folder.
      step: the step, counted from 1 as in the log and in the error of a run that diverged.
      top: number of examples to show.
      index: index of the run, from 0, if the folder holds several seeds.
    """
    import numpy as np

    from genmod import checks, report
    from genmod.runs import replay as replaying
    from genmod.runs.folder import Folder

    checks.positive_integer("top", top)
    startup.configure()
    again = replaying.step(run, step, index=index)
    origin = f"the checkpoint of step {again.origin:,}" if again.origin else "the start"
    print(f"{run}: step {step:,} of {again.num_steps:,}, rebuilt from {origin}")
    if again.inspection is None:
        print_table(["metric", "value"], [[n, f"{v:.6g}"] for n, v in again.metrics.items()])
        print("the learner has no inspect: there is nothing to see of each example")
        return 0
    with np.errstate(all="ignore"):
        rows = [
            [name, *(f"{x:.6g}" for x in (v.mean(), v.min(), v.max())), _share(np.isfinite(v))]
            for name, (v, _) in replaying.by_example(again).items()
        ]
    print_table(["term", "mean", "min", "max", "not finite"], rows)
    print_table(
        ["gradient", "norm", "not finite"],
        [
            [path, f"{gradient.norm:.6g}", f"{gradient.num_bad:,} of {gradient.size:,}"]
            for path, gradient in replaying.gradients(again).items()
        ],
    )
    offenders = replaying.offenders(again, top)
    what = "that are not finite" if offenders.term is None else f"of the largest {offenders.term}"
    print(f"examples {what}: {len(offenders.places)} of {offenders.num}")
    print_table(*_example_rows(again, offenders))
    images: Any = again.images
    if offenders.part is not None:
        images = images[offenders.part]
    if images is not None and len(offenders.places):
        picture = Folder(run).replay / f"step-{step}.png"
        picture.parent.mkdir(exist_ok=True)
        report.image_grid(images[offenders.places]).savefig(picture)
        print(picture)
    return 0


def _share(finite: Any) -> str:
    return f"{(~finite).sum():,} of {finite.size:,}"


def _example_rows(again: Any, offenders: Any) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of a table of examples.

    A row has the index in the batch, the index in the data set, and the mean of each term.
    """
    from genmod.runs import replay as replaying

    part = offenders.part
    terms = replaying.by_example(again, part)
    indices = again.indices if part is None else (again.indices or {}).get(part)
    rows = [
        [
            str(place),
            "?" if indices is None else str(indices[place]),
            *(
                f"{values[at == place].mean():.6g}" if (at == place).any() else "-"
                for values, at in terms.values()
            ),
        ]
        for place in offenders.places
    ]
    where = "in the batch" if part is None else f"in the part {part}"
    return [where, "in the data set", *terms], rows


def verify(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    steps: int | None = None,
    everything: Annotated[bool, tyro.conf.arg(name="all"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Repeats the first steps of a run and compares every bit.

    The steps are taken again from the run's record. The logged values, apart from timings, and the
    arrays of the checkpoints are compared. The exit code is 0 if every bit agrees. It is 1 if
    something differs; the first difference is printed.

    Args:
      run: the run folder; nothing in it is changed.
      steps: number of steps; by default up to the first log point.
      everything: whether to repeat the whole run, up to its last log point or checkpoint.
    """
    from genmod.runs import verify as verifying

    if steps is not None and everything:
        raise ValueError(f"--steps {steps} and --all cannot be given together; expected one")
    startup.configure()
    verified = verifying.run(run, steps=steps, everything=everything)
    for change in verified.changes:
        print(f"note: {change}", file=sys.stderr)
    parts = {"log point": verified.log_points, "checkpoint": verified.checkpoints}
    compared = ", ".join(
        f"{counted(len(at), what)} "
        + (f"(step {', '.join(f'{s:,}' for s in at)})" if len(at) <= 3 else f"(to step {at[-1]:,})")
        for what, at in parts.items()
        if at
    )
    if verified.difference is None:
        print(
            f"{run}: every bit agrees over {verified.steps:,} steps: {compared}, "
            f"{verified.num_values:,} values"
        )
        return 0
    print(f"{run}: differs at {verified.difference}")
    print(f"what agrees before: {compared or 'nothing was compared'}")
    return DIFFERS


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    out: Path | None = None,
    max_mb: float = 6.0,
) -> int:
    """Writes an HTML page about one or more runs.

    It shows curves, pictures over time, numbers, and an explorer of the latent space. The page is
    one file that needs no network. For several runs it also shows their curves in one plot, their
    samples side by side, and differences from the first run, paired by seed. Runs that differ only
    in their seed are one line with its standard error.

    Args:
      runs: run folders, or folders of runs.
      out: the page to write; report.html in the run folder by default, or here for several runs.
      max_mb: largest size in MB; pictures over time are thinned out first, then explorers dropped.
    """
    from genmod import checks
    from genmod._host import disk
    from genmod.runs import pages

    checks.positive("max_mb", max_mb)
    if not runs:
        raise ValueError("report needs at least one run folder, got none")
    folders = [run for one in runs for run in pages.below(one)]
    if out is None:
        out = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out: the folder {str(out.absolute().parent)!r} does not exist")
    startup.configure()
    html = pages.build(folders, most_bytes=round(max_mb * 1e6))
    with disk.writing(out):
        out.write_text(html, encoding="utf-8")
    size = len(html.encode()) / 1e6
    print(f"{out} ({size:.1f} MB, {counted(len(folders), 'run')})")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "sample": products.sample,
    "encode": products.encode,
    "reconstruct": products.reconstruct,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "report": report,
    "runs": runs,
    "data": data,
    "replay": replay,
    "verify": verify,
    "export": products.export,
}
"""Subcommands by their names on the command line."""
