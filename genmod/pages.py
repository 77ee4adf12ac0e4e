"""Gathers what the report page says of runs, from their folders.

What stands in a folder is always shown. Where the run can also be built again and its checkpoint
restored, its latent space can be walked in; where it cannot, a note says why.
"""

import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from genmod import evaluate, record, report, rng, runner
from genmod.experiment import Experiment
from genmod.report import page, programs

MOST_BYTES = 6_000_000
"""A page is made of less and less until it is smaller."""
_LEVELS = ((24, True), (8, True), (3, True), (3, False))
"""How many pictures over time, and whether explorers, a page is made of."""
_CODES = 3000
"""So many codes are on the map."""
_DRAWN_HERE = ("curves", "game", "latents")
_TIMINGS = ("examples_per_s",)
_NO_METRICS = {"step", "epoch", "seeds"}


@dataclass(frozen=True)
class Gathered:
    """What a run folder holds.

    Attributes:
      path: the run folder, as it was named.
      folder: the places in it.
      recorded: its record.
      rows: its log.
      evaluation: the numbers of its end.
    """

    path: Path
    folder: record.Folder
    recorded: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluation: dict[str, Any]

    @property
    def seeds(self) -> range:
        """The seeds of its runs."""
        first = self.recorded["config"].get("seed", 0)
        return range(first, first + self.recorded.get("seeds", 1))


def gather(path: str | Path) -> Gathered:
    """Reads a run folder.

    Raises:
      ValueError: if it is not that of a run, or damaged.
    """
    folder = record.Folder(Path(path))
    return Gathered(
        Path(path),
        folder,
        record.read(folder),
        record.read_metrics(folder),
        record.read_evaluation(folder),
    )


def below(path: str | Path) -> list[Path]:
    """A run folder itself, or all runs below a folder.

    Raises:
      ValueError: if there is none.
    """
    path = Path(path)
    if record.Folder(path).record.is_file():
        return [path]
    found = sorted(one.parent for one in path.glob("**/record.json"))
    if not found:
        raise ValueError(f"{str(path)!r} is not a run folder, and there is none below it")
    return found


def build(paths: Sequence[str | Path], *, most_bytes: int = MOST_BYTES) -> str:
    """The report page of runs, as HTML.

    Args:
      paths: run folders, or folders of runs; the first is what the others are compared with.
      most_bytes: how large the page may be. Pictures over time are thinned out, then explorers are
        left out, until it is smaller.

    Raises:
      ValueError: if a folder holds no run, or the page cannot be as small as that.
      MissingError: if Jinja2 is not installed.
    """
    runs = _gathered([run for path in paths for run in below(path)])
    explorers = [_explorer(run) for run in runs]
    comparison = _comparison(runs) if len(runs) > 1 else None
    size = 0
    for frames, with_explorers in _LEVELS:
        sheets = _sheets(runs, explorers, frames, with_explorers)
        html = page.page(sheets, comparison)
        size = len(html.encode())
        if size <= most_bytes:
            return html
    raise ValueError(
        f"the page of {len(runs)} runs would have {size:,} bytes; "
        f"expected at most {most_bytes:,}: report fewer runs"
    )


def _gathered(paths: Sequence[Path]) -> list[Gathered]:
    """All that can be read; what cannot is said, unless there is nothing else."""
    found, failed = [], []
    for path in paths:
        try:
            found.append(gather(path))
        except ValueError as error:
            failed.append(error)
    if not found and failed:
        raise failed[0]
    runner.say([f"a run is left out: {error}" for error in failed])
    return found


def _sheets(
    runs: Sequence[Gathered],
    found: Sequence[tuple[page.Explorer | None, list[str]]],
    frames: int,
    explorers: bool,
) -> list[page.Sheet]:
    sheets = []
    for run, (explorer, notes) in zip(runs, found, strict=True):
        if explorer is not None and not explorers:
            explorer, notes = None, ["The page would be too large with an explorer."]
        sheets.append(_sheet(run, explorer, notes, frames))
    return sheets


def _sheet(
    run: Gathered, explorer: page.Explorer | None, notes: Sequence[str], frames: int
) -> page.Sheet:
    recorded = run.recorded
    parts = (recorded.get(part, {}) for part in ("versions", "device", "settings"))
    versions = {name: value for part in parts for name, value in part.items()}
    curves = report.game if report.is_game(run.rows) else report.curves
    last = run.rows[-1] if run.rows else {}
    return page.Sheet(
        name=str(run.path),
        facts=_facts(run),
        curves=curves(run.rows) if run.rows else None,
        explorer=explorer,
        frames=_frames(run.folder, frames),
        stills=_stills(run),
        evaluation={
            **{f"{n} (last log point)": v for n, v in record.readable(record.losses(last)).items()},
            **record.readable(run.evaluation),
        },
        config=recorded["config"],
        versions={n: value for n, value in versions.items() if value not in ("", None)},
        repeat=_repeat(run),
        notes=[*notes, *([] if run.rows else ["This run has not logged anything yet."])],
    )


def _facts(run: Gathered) -> dict[str, str]:
    recorded, config, seeds = run.recorded, run.recorded["config"], run.seeds
    last = run.rows[-1] if run.rows else {"epoch": 0}
    device = recorded.get("device", {})
    speed = last.get("examples_per_s")
    return {
        "experiment": recorded["experiment"],
        "seeds" if len(seeds) > 1 else "seed": (
            f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        ),
        "epochs": f"{last.get('epoch', 0):g} of {config.get('epochs', '?')}",
        **record.readable(record.losses(last)),
        "begun": recorded["created"][:16].replace("T", " "),
        "device": f"{device.get('kind', '?')}, {device.get('cores', '?')} cores",
        **({} if speed is None else {"speed": f"{speed:,.0f} examples/s"}),
        "data": recorded["data"].removeprefix("sha256:")[:12],
    }


def _repeat(run: Gathered) -> list[tuple[str, str]]:
    versions = run.recorded.get("versions", {})
    path = shlex.quote(str(run.path))
    needed = [n for n in ("jax", "flax", "optax", "orbax-checkpoint", "numpy") if n in versions]
    pinned = " ".join(f"{name}=={versions[name]}" for name in needed)
    return [
        (
            f"pip install {pinned}",
            f"the versions of this run, under Python {versions.get('python', '?')}",
        ),
        (run.recorded["command"], "the run; in an unfinished folder it continues"),
        (f"genmod verify {path}", "the first log point again, compared bit for bit"),
        (f"genmod sample {path} --num 100", "new samples"),
    ]


def _frames(folder: record.Folder, most: int) -> list[page.Frames]:
    """Pictures that were drawn over training, thinned out."""
    found = []
    for place in sorted(path for path in folder.pictures.glob("*") if path.is_dir()):
        files = sorted(place.glob("step-*.png"))
        if not files:
            continue
        chosen = sorted({round(i) for i in np.linspace(0, len(files) - 1, min(most, len(files)))})
        sources = [_source(files[i]) for i in chosen]
        captions = [f"step {int(files[i].stem.removeprefix('step-')):,}" for i in chosen]
        pixelated = all(small for _, small in sources)
        found.append(page.Frames(place.name, captions, [text for text, _ in sources], pixelated))
    return found


def _stills(run: Gathered) -> dict[str, tuple[str, bool]]:
    """Pictures of the end; of several seeds, those of the first."""
    places = [run.folder.pictures, run.folder.pictures / f"seed-{run.seeds[0]}"]
    return {
        path.stem: _source(path)
        for place in places
        for path in sorted(place.glob("*.png"))
        if path.stem not in _DRAWN_HERE
    }


def _source(path: Path) -> tuple[str, bool]:
    with Image.open(path) as image:
        return page.source_of(image)


def _explorer(run: Gathered) -> tuple[page.Explorer | None, list[str]]:
    """The latent space of a run, of several seeds that of the first; and why there is none."""
    try:
        built, state = runner.trained(run.path)
    # Its experiment file may raise anything: the data are gone, or genmod is another one.
    except Exception as error:
        said = str(error).partition("\n")[0]
        return None, [f"There is no explorer: the run cannot be opened ({said})."]
    if built.latents is None:
        return None, []
    return _walked(built, rng.stream(rng.root(run.seeds[0]), "figures"), state)


def _walked(built: Experiment, key: jax.Array, state: Any) -> tuple[page.Explorer, list[str]]:
    latents = built.latents
    assert latents is not None
    program, notes = None, []
    try:
        program = programs.program(latents.decoder(key, state), latents.dim)
    except programs.UnsupportedError as error:
        notes = [f"There are no sliders: {error}."]
    codes, labels = np.zeros((0, latents.dim)), np.zeros(0, int)
    if latents.encode is not None and built.test is not None:
        shown = np.asarray(built.test.images[:_CODES], np.float32) / 255
        encode = jax.jit(functools.partial(latents.encode, state))
        codes = np.asarray(encode(shown), np.float64)
        finite = np.isfinite(codes).all(axis=1)
        codes, labels = codes[finite], built.test.labels[:_CODES][finite]
    centre = np.zeros(latents.dim) if latents.normal or not len(codes) else codes.mean(0)
    start = codes[0] if len(codes) else np.asarray(jax.random.normal(key, (latents.dim,)))
    far = np.abs(codes - centre).max(0) if len(codes) else np.zeros(latents.dim)
    spread = codes.std(0) if len(codes) else np.zeros(latents.dim)
    plane = None
    if latents.dim >= 2:
        axes = (
            report.latent_axes(codes)
            if len(codes)
            else report.LatentAxes(np.zeros(latents.dim), np.eye(2, latents.dim), ("z1", "z2"))
        )
        plane = axes._asdict()
        codes = (codes - axes.centre) @ axes.directions.T
    explorer = page.Explorer(
        program=program,
        order=np.argsort(-spread, kind="stable").tolist(),
        reach=np.maximum(far, 3.0 if latents.normal else 1e-3).tolist(),
        centre=centre.tolist(),
        start=start.tolist(),
        normal=latents.normal,
        plane=plane,
        points=codes if plane else np.zeros((0, 2)),
        labels=labels if plane else np.zeros(0, int),
    )
    return explorer, notes


@dataclass(frozen=True)
class _Arm:
    """Runs that differ by their seed alone.

    Attributes:
      recorded: the record of the first.
      rows: each seed's log.
      ends: each seed's numbers at the end.
    """

    recorded: dict[str, Any]
    rows: dict[int, list[dict[str, Any]]]
    ends: dict[int, dict[str, float]]


def _comparison(runs: Sequence[Gathered]) -> page.Comparison:
    arms = _arms(runs)
    names = _names([arm.recorded for arm in arms])
    logs = {name: _joined(arm.rows) for name, arm in zip(names, arms, strict=True)}
    logged = [name for rows in logs.values() for name in {n for row in rows for n in row}]
    shared = {name for name in logged if logged.count(name) > 1 or len(arms) == 1}
    logs = {
        name: [{n: v for n, v in row.items() if n in shared} for row in rows]
        for name, rows in logs.items()
    }
    logs = {n: rows for n, rows in logs.items() if {m for row in rows for m in row} - _NO_METRICS}
    first, *others = arms
    columns = ["", *names, *(f"{name} less {names[0]}" for name in names[1:])]
    table = []
    for number in dict.fromkeys(n for arm in arms for end in arm.ends.values() for n in end):
        values = [{s: end[number] for s, end in arm.ends.items() if number in end} for arm in arms]
        cells = [_estimated(list(one.values())) for one in values]
        for one in values[1:]:
            both = sorted(values[0].keys() & one.keys())
            cells.append(_estimated([one[s] - values[0][s] for s in both], signed=True))
        table.append([number, *cells])
    seeds = sorted(set(first.ends).intersection(*(arm.ends for arm in others)))
    note = f"Means over seeds +- their standard error ({_counted(len(first.ends))} of {names[0]})."
    if others:
        note += (
            f" Differences are paired: each is taken within a seed ({_counted(len(seeds))} that "
            "all have), then averaged."
            + (" One seed has no standard error." if len(seeds) < 2 else "")
        )
    samples = {str(run.path): found for run in runs if (found := _last_samples(run))}
    return page.Comparison(report.compared(logs) if logs else None, columns, table, samples, note)


def _counted(num: int) -> str:
    return f"{num} seed{'s' * (num != 1)}"


def _estimated(values: Sequence[float], signed: bool = False) -> str:
    """A mean with its standard error, where there are several values."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:{'+' if signed else ''}.4f}"
    mean, error = evaluate.estimate(np.asarray(values))
    text = record.readable({"value": mean, "value_se": error})["value"]
    return f"+{text}" if signed and mean > 0 else text


def _arms(runs: Sequence[Gathered]) -> list[_Arm]:
    found: dict[str, _Arm] = {}
    for run in runs:
        config = {n: v for n, v in run.recorded["config"].items() if n != "seed"}
        key = json.dumps([run.recorded["experiment"], config, run.recorded["data"]], sort_keys=True)
        if key in found and found[key].rows.keys() & set(run.seeds):
            key = str(run.path)  # the same run twice: each for itself
        arm = found.setdefault(key, _Arm(run.recorded, {}, {}))
        for place, seed in enumerate(run.seeds):
            arm.rows[seed] = [_of_seed(row, place) for row in run.rows]
            last = record.losses(arm.rows[seed][-1]) if run.rows else {}
            arm.ends[seed] = {**last, **_of_seed(run.evaluation, place)}
    return list(found.values())


def _of_seed(values: Mapping[str, Any], place: int) -> dict[str, Any]:
    """What one of several runs has of a log point or of an evaluation."""
    own = {name: runs[place] for name, runs in values.get("seeds", {}).items()}
    shared = {n: v for n, v in values.items() if n not in (*_TIMINGS, "seeds")}
    if not own:
        return shared
    return {n: v for n, v in shared.items() if n not in own and n.removesuffix("_se") == n} | own


def _joined(rows: Mapping[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The log points that all seeds have, as means with their standard errors."""
    if len(rows) == 1:
        return next(iter(rows.values()))
    by_step = [{row["step"]: row for row in own} for own in rows.values()]
    steps = sorted(set(by_step[0]).intersection(*by_step[1:])) if by_step else []
    found = []
    for step in steps:
        points = [own[step] for own in by_step]
        names = [n for n in points[0] if all(n in p for p in points) and n not in ("step", "epoch")]
        means = runner.summary({name: np.array([p[name] for p in points]) for name in names})
        found.append({"step": step, "epoch": points[0]["epoch"], **means})
    return found


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call arms: by what they differ in."""
    flat = [{"experiment": r["experiment"], **r["config"], "data": r["data"][:18]} for r in records]
    keys = [key for key in dict.fromkeys(k for one in flat for k in one) if key != "seed"]
    differing = [key for key in keys if len({str(one.get(key)) for one in flat}) > 1]
    several_experiments = "experiment" in differing
    names = []
    for index, one in enumerate(flat):
        own = [one["experiment"]] if several_experiments else []
        if not several_experiments:
            own += [f"{key} {one[key]}" for key in differing if key in one]
        name = ", ".join(own) or one["experiment"]
        names.append(name if name not in names else f"{name} ({index + 1})")
    return names


def _last_samples(run: Gathered) -> tuple[str, bool] | None:
    files = sorted((run.folder.pictures / "samples").glob("step-*.png"))
    files += [run.folder.pictures / "samples.png"] * (not files)
    return _source(files[-1]) if files[-1].is_file() else None
