"""What the command can do with runs that are there, and with data sets."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from genmod._host import startup

_DIFFERS = 1
_CLASSES = 30
"""How many classes a histogram shows."""
_PICTURES = (".png", ".pdf", ".svg")


def sample(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    num: int = 100,
    seed: int = 0,
    index: int = 0,
    out: Path = Path("samples.png"),
) -> int:
    """Draws images from a trained run and writes them as a grid.

    Args:
      run: the run folder.
      num: how many images.
      seed: seed of the draws.
      index: which of the runs, where the folder holds several seeds; the first is 0.
      out: the picture to write.
    """
    from genmod import checks, report, rng
    from genmod.runs import loading

    checks.positive_integer("num", num)
    checks.seed("seed", seed)
    _check_picture(out)
    startup.configure()
    built, state = loading.load_run(run, index)
    key = rng.stream(rng.root(seed), "sample")
    images = built.sample(key, state, num)
    save((built.show or report.image_grid)(images), out)
    print(out)
    return 0


def save(figure: Any, out: Path) -> None:
    """Writes a figure; in a PNG it says who drew it, so that data beside it are told from it."""
    mark = {"metadata": {"Software": "genmod"}} if out.suffix.lower() == ".png" else {}
    figure.savefig(out, **mark)


def _check_picture(out: Path) -> None:
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out: the folder {str(out.absolute().parent)!r} does not exist")
    if out.suffix.lower() not in _PICTURES:
        raise ValueError(f"out must end in {', '.join(_PICTURES)}, got {out.name!r}")


def runs(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs"),
) -> int:
    """Lists the runs below a folder, with how far they are and where they stand.

    Args:
      folder: where to look.
    """
    from rich.console import Console
    from rich.table import Table

    from genmod.runs.folder import Folder

    table = Table("run", "begun", "epoch", "loss", "evaluation", box=None, pad_edge=False)
    for path in sorted(folder.glob("**/record.json")):
        found = Folder(path.parent)
        try:
            table.add_row(*_run_row(found))
        except Exception as error:  # whatever is wrong with one of them, the others are listed
            print(f"note: {found.path} is left out: {error}", file=sys.stderr)
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 160).print(table)
    else:
        print(f"no runs below {str(folder)!r}")
    return 0


def _run_row(folder: Any) -> list[str]:
    """What the list of runs says of one."""
    from genmod.runs import logs, record

    recorded, rows = record.read(folder), logs.read_metrics(folder)
    last = rows[-1] if rows else {}
    evaluation = logs.readable(logs.read_evaluation(folder))
    return [
        str(folder.path),
        recorded["created"][:16].replace("T", " "),
        f"{last.get('epoch', 0):g} of {recorded['config'].get('epochs', '?')}",
        ", ".join(logs.readable(logs.losses(last)).values()) or "-",
        ", ".join(f"{name} {value}" for name, value in evaluation.items()),
    ]


def data(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")],
    split: str = "train",
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    image_size: int | None = None,
    skip_corrupt: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    background: Literal["white", "black"] | None = None,
    num: int = 100,
    out: Path = Path("data.png"),
) -> int:
    """Shows what is in a data set: counts, classes, mean, fingerprint, pictures, speed.

    Args:
      name: mnist, tfds:NAME, idx:FOLDER, npz:FILE, npy:FILE, folder:DIR or call:FILE:F.
      split: train or test, or parts of them such as train[:90%].
      data_dir: folder to read from instead of the usual one.
      manual_dir: folder with the original archives of a data set of tensorflow-datasets.
      image_size: side of the square to which pictures of a folder are resized and cropped.
      skip_corrupt: leave out pictures of a folder that cannot be read, and count them.
      background: ground on which transparent places of a folder's pictures are laid; white if not
        given.
      num: how many images to draw, spread over the whole split.
      out: the picture to write.
    """
    import numpy as np

    from genmod import checks, report
    from genmod import data as sets

    checks.positive_integer("num", num)
    _check_picture(out)
    startup.configure()
    dataset = sets.load(
        name,
        split,
        data_dir=data_dir,
        manual_dir=manual_dir,
        image_size=image_size or None,
        skip_corrupt=skip_corrupt,
        background=background,
    )
    found = sets.summary(dataset)
    places = np.linspace(0, found.num - 1, min(num, found.num)).astype(int)
    save(report.image_grid(dataset.images[places]), out)
    batch_size = min(100, found.num)
    batch_at = sets.batches(dataset.images, batch_size=batch_size)
    speed = batch_size * sets.batches_per_second(batch_at)
    where = sets.placement(batch_at)
    values = [", ".join(f"{x:.4f}" for x in each) for each in (found.mean, found.std)]
    rows = {
        "data set": f"{name}, {split}",
        "images": f"{found.num:,}, uint8 {list(found.shape)}, {found.num_bytes / 1e6:,.1f} MB",
        "mean": f"{values[0]} (grey values in [0, 1])",
        "standard deviation": values[1],
        "fingerprint": dataset.fingerprint,
        "in training": where.partition(", ")[2],
        "batches": f"{speed:,.0f} images/s, shuffled",
    }
    _print_table(["", ""], [[key, value] for key, value in rows.items()], right=False)
    most = max(found.counts.values())
    names = dict(enumerate(dataset.classes))
    names = {label: name for label, name in names.items() if name != str(label)}
    bars = [
        [
            f"{label} {names.get(label, '')}".rstrip(),
            f"{count:,}",
            "#" * max(1, round(40 * count / most)),
        ]
        for label, count in list(found.counts.items())[:_CLASSES]
    ]
    _print_table(["class", "images", ""], bars, right=False)
    if len(found.counts) > _CLASSES:
        print(f"and {len(found.counts) - _CLASSES:,} more classes")
    print(out)
    return 0


def replay(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    step: int,
    top: int = 8,
    index: int = 0,
) -> int:
    """Rebuilds one step of a run: its loss example by example, its gradients, who was the cause.

    The step is rebuilt from the nearest checkpoint before it, or from the start. The examples that
    are not finite, or else those of the largest loss, are drawn to RUN/replay/step-K.png.

    Args:
      run: the run folder.
      step: which step, counted from 1, as the log and the error of a run that diverged do.
      top: how many examples to show.
      index: which of the runs, where the folder holds several seeds; the first is 0.
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
        _print_table(["metric", "value"], [[n, f"{v:.6g}"] for n, v in again.metrics.items()])
        print("the learner has no inspect: there is nothing to see of each example")
        return 0
    with np.errstate(all="ignore"):
        rows = [
            [name, *(f"{x:.6g}" for x in (v.mean(), v.min(), v.max())), _share(np.isfinite(v))]
            for name, (v, _) in replaying.by_example(again).items()
        ]
    _print_table(["term", "mean", "min", "max", "not finite"], rows)
    _print_table(
        ["gradient", "norm", "not finite"],
        [
            [path, f"{found.norm:.6g}", f"{found.num_bad:,} of {found.size:,}"]
            for path, found in replaying.gradients(again).items()
        ],
    )
    found = replaying.offenders(again, top)
    what = "that are not finite" if found.term is None else f"of the largest {found.term}"
    print(f"examples {what}: {len(found.places)} of {found.num}")
    _print_table(*_example_rows(again, found.places))
    if again.images is not None and len(found.places):
        picture = Folder(run).replay / f"step-{step}.png"
        picture.parent.mkdir(exist_ok=True)
        report.image_grid(again.images[found.places]).savefig(picture)
        print(picture)
    return 0


def _share(finite: Any) -> str:
    return f"{(~finite).sum():,} of {finite.size:,}"


def _example_rows(again: Any, places: Any) -> tuple[list[str], list[list[str]]]:
    """What is known of examples, a row each: their places, and the mean of each term's values."""
    from genmod.runs import replay as replaying

    terms = replaying.by_example(again)
    indices = again.indices
    rows = [
        [
            str(place),
            "?" if indices is None else str(indices[place]),
            *(
                f"{values[at == place].mean():.6g}" if (at == place).any() else "-"
                for values, at in terms.values()
            ),
        ]
        for place in places
    ]
    return ["in the batch", "in the data set", *terms], rows


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, show_header=any(columns))
    for column in table.columns[1:] if right else ():
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def verify(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    steps: int | None = None,
    everything: Annotated[bool, tyro.conf.arg(name="all"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Repeats the first steps of a run from its record, and says whether every bit agrees.

    Compared are the logged values, apart from timings, and the arrays of the checkpoints. The exit
    code is 0 if every bit agrees, and 1 if something differs, which is named.

    Args:
      run: the run folder; nothing in it is changed.
      steps: how many steps; up to the first log point by default.
      everything: repeat the whole run, as far as it has got.
    """
    from genmod.runs import verify as verifying

    if steps is not None and everything:
        raise ValueError(f"--steps {steps} and --all cannot be given together; expected one")
    startup.configure()
    found = verifying.run(run, steps=steps, everything=everything)
    for change in found.changes:
        print(f"note: {change}", file=sys.stderr)
    parts = {"log point": found.log_points, "checkpoint": found.checkpoints}
    compared = ", ".join(
        f"{len(at)} {what}{'s' * (len(at) != 1)} (step {', '.join(f'{s:,}' for s in at[-3:])})"
        if len(at) <= 3
        else f"{len(at)} {what}s (to step {at[-1]:,})"
        for what, at in parts.items()
        if at
    )
    if found.difference is None:
        print(
            f"{run}: every bit agrees over {found.steps:,} steps: {compared}, "
            f"{found.num_values:,} values"
        )
        return 0
    print(f"{run}: differs at {found.difference}")
    print(f"what agrees before: {compared or 'nothing was compared'}")
    return _DIFFERS


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    out: Path | None = None,
    max_mb: float = 6.0,
) -> int:
    """Writes a page about runs: curves, pictures over time, numbers, and a latent space to walk in.

    The page is one HTML file that needs no network. Of several runs it also shows the curves one
    over the other, samples side by side, and differences paired by seed from the first of them;
    runs that differ by their seed alone are one line with its standard error.

    Args:
      runs: run folders, or folders of runs.
      out: the page to write; report.html in the run folder, or here for several runs.
      max_mb: how large it may be: pictures over time are thinned out first, then explorers go.
    """
    from genmod import checks
    from genmod._host import disk
    from genmod.runs import pages

    checks.positive("max_mb", max_mb)
    if not runs:
        raise ValueError("report needs at least one run folder, got none")
    found = [run for one in runs for run in pages.below(one)]
    if out is None:
        out = found[0] / "report.html" if len(found) == 1 else Path("report.html")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out: the folder {str(out.absolute().parent)!r} does not exist")
    startup.configure()
    html = pages.build(found, most_bytes=round(max_mb * 1e6))
    with disk.writing(out):
        out.write_text(html, encoding="utf-8")
    print(f"{out} ({len(html.encode()) / 1e6:.1f} MB, {len(found)} run{'s' * (len(found) > 1)})")
    return 0


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    num: int = 100,
    index: int = 0,
    out: Path | None = None,
) -> int:
    """Writes a run's sampler as StableHLO with its parameters, for programs without genmod.

    The files are loaded again, and their images compared with the run's own, bit for bit: the exit
    code is 0 if every bit agrees, and 1 if not.

    Args:
      run: the run folder.
      num: how many images a call of the sampler draws.
      index: which of the runs, where the folder holds several seeds; the first is 0.
      out: the folder to write; RUN/export by default.
    """
    from genmod.runs import export as exporting

    startup.configure()
    folder, loaded, same = exporting.run(run, out, num=num, index=index)
    images = loaded.about["images"]
    size = sum(value.nbytes for value in loaded.parameters.values())
    for path in sorted(folder.iterdir()):
        print(f"{path} ({path.stat().st_size / 1e6:,.2f} MB)")
    print(
        f"{len(loaded.parameters)} parameters, {size / 1e6:,.2f} MB; images {images['dtype']} "
        f"{images['shape']}, on {', '.join(loaded.about['platforms'])}"
    )
    print(
        "loaded again: " + ("every bit agrees" if same else "the images DIFFER from the run's own")
    )
    return 0 if same else _DIFFERS


COMMANDS: dict[str, Callable[..., int]] = {
    "sample": sample,
    "report": report,
    "runs": runs,
    "data": data,
    "replay": replay,
    "verify": verify,
    "export": export,
}
"""By the name that the command knows them by."""
