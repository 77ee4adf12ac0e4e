"""Gathers what the report page says of runs, from their folders.

What stands in a folder is always shown. Where the run can also be built again and its checkpoint
restored, its latent space can be walked in; where it cannot, a note says why. A run that cannot be
read is named, and the others are shown.
"""

import contextlib
import functools
import json
import math
import os
import shlex
import string
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from genmod import evaluate, report, rng
from genmod.experiment import Experiment
from genmod.report import canvas, page, programs
from genmod.runs import loading, logs, record
from genmod.runs.folder import Folder

MOST_BYTES = 6_000_000
"""A page is made of less and less until it is smaller."""
_LEVELS = ((24, True), (8, True), (3, True), (3, False))
"""How many pictures over time, and whether explorers, a page is made of."""
_CODES = 3000
"""So many codes are on the map."""
_TRIED = 16
"""At so many codes are a decoder's pixels compared with those of the browser's weights."""
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
    folder: Folder
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
    folder = Folder(Path(path))
    recorded = record.read(folder)
    seeds, first = recorded.get("seeds", 1), recorded["config"].get("seed", 0)
    if not isinstance(first, int):
        raise ValueError(f"{folder.record} is damaged: seed is {first!r}, expected a whole number")
    if seeds < 1:
        raise ValueError(f"{folder.record} is damaged: seeds is {seeds}, expected at least 1")
    file = folder.metrics
    try:
        rows = [_numbers(row, seeds, file) for row in logs.read_metrics(folder)]
        file = folder.evaluation
        evaluation = _numbers(logs.read_evaluation(folder), seeds, file)
    # Half a file, a step without an end, JSON that is nested deeper than any that we write.
    except (json.JSONDecodeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {_in_words(error)}") from None
    return Gathered(Path(path), folder, recorded, rows, evaluation)


def _numbers(values: Any, seeds: int, file: Path) -> dict[str, Any]:
    """A log point or an evaluation, if it holds what the page needs: numbers, as many as seeds."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{file} is damaged: expected numbers by name, got {values!r}")
    found = {n: _number(v, f"{file}: {n}") for n, v in values.items() if n != "seeds"}
    own = values.get("seeds")
    if own is None:
        return found
    whole = isinstance(own, Mapping) and all(
        isinstance(of_runs, list) and len(of_runs) == seeds for of_runs in own.values()
    )
    if not whole:
        raise ValueError(f"{file} is damaged: expected {seeds} numbers of each name in seeds")
    each = {n: [_number(v, f"{file}: {n}") for v in runs] for n, runs in own.items()}
    return {**found, "seeds": each}


def _number(value: Any, place: str) -> float:
    """A number as a log may hold it."""
    if isinstance(value, int | float):
        with contextlib.suppress(OverflowError):  # whole numbers that no float holds
            float(value)
            return value
    raise ValueError(f"{place} is damaged: expected a number, got {value!r}")


def below(path: str | Path) -> list[Path]:
    """A run folder itself, or all runs below a folder.

    Raises:
      ValueError: if there is none.
    """
    path = Path(path)
    if Folder(path).record.is_file():
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
    """
    runs, left_out = _gathered([run for path in paths for run in below(path)])
    shown = _Shown(runs)
    size = 0
    for frames, with_explorers in _LEVELS:
        sheets, failed = _sheets(shown, frames, with_explorers)
        if not sheets:
            raise ValueError(failed[0])
        html = page.page(sheets, shown.comparison, [*left_out, *failed, *shown.notes])
        size = len(html.encode())
        if size <= most_bytes:
            _say([*left_out, *failed, *shown.notes])
            _say(f"{one.name}: {note}" for one in sheets for note in one.notes)
            return html
    raise ValueError(
        f"the page of {len(runs)} runs would have {size:,} bytes; "
        f"expected at most {most_bytes:,}: report fewer runs"
    )


def _say(notes: Iterable[str]) -> None:
    """Tells the person at the terminal what the page says, too."""
    for note in notes:
        print(f"note: {canvas.spelt(note)}", file=sys.stderr, flush=True)


def _in_words(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it ended with {error}" if error.args else "it ended"
    return str(error).partition("\n")[0] or type(error).__name__


def _gathered(paths: Sequence[Path]) -> tuple[list[Gathered], list[str]]:
    """All runs that can be read, and what to say of the others.

    Raises:
      ValueError: if there is nothing else.
    """
    found, failed = [], []
    for path in paths:
        try:
            found.append(gather(path))
        # A damaged file may hold what nobody thought of; that is no trouble of the other runs.
        except Exception as error:
            failed.append(f"{path} is left out: {_in_words(error)}")
            if len(paths) == 1:
                raise
    if not found:
        raise ValueError(f"none of {len(paths)} runs can be read; the first: {failed[0]}")
    return found, failed


class _Pictures:
    """Reads pictures as a page holds them, each of them once."""

    def __init__(self):
        self._found: dict[Path, tuple[str, bool] | None] = {}

    def source(self, path: Path) -> tuple[str, bool] | None:
        """A picture, and whether it is a small grid of pixels; None if it cannot be read."""
        if path not in self._found:
            try:
                with Image.open(path) as image:
                    self._found[path] = page.source_of(image)
            except Exception:  # Pillow raises what it likes
                self._found[path] = None
        return self._found[path]

    def unreadable(self, folder: Path) -> list[Path]:
        """Those below a folder that could not be read."""
        return [p for p, one in self._found.items() if one is None and p.is_relative_to(folder)]


class _Shown:
    """What a page shows of runs whatever its size: all that takes time, done once."""

    def __init__(self, runs: Sequence[Gathered]):
        self.runs = runs
        self.pictures = _Pictures()
        self.notes: list[str] = []
        self.curves = [self._drawn(run) for run in runs]
        self.explorers = [_explorer(run) for run in runs]
        self.comparison = None
        if len(runs) > 1:
            try:
                self.comparison = _comparison(runs, self.pictures)
            # Each for itself is still right.
            except Exception as error:
                self.notes.append(f"The runs cannot be shown side by side ({_in_words(error)}).")

    def _drawn(self, run: Gathered) -> tuple[str | None, list[str]]:
        """The log of a run, drawn; and why it is not."""
        if not run.rows:
            return None, ["This run has not logged anything yet."]
        try:
            draw = report.game if report.is_game(run.rows) else report.curves
            return page.svg(draw(run.rows)), []
        except Exception as error:
            return None, [f"There are no curves ({_in_words(error)})."]


def _sheets(shown: _Shown, frames: int, explorers: bool) -> tuple[list[page.Sheet], list[str]]:
    """What a page says of each run; and of which it cannot, and why."""
    sheets, failed = [], []
    for place, run in enumerate(shown.runs):
        try:
            sheets.append(_sheet(shown, place, frames, explorers))
        except Exception as error:
            failed.append(f"{run.path} is left out: {_in_words(error)}")
    return sheets, failed


def _sheet(shown: _Shown, place: int, frames: int, with_explorer: bool) -> page.Sheet:
    run = shown.runs[place]
    recorded = run.recorded
    explorer, notes = shown.explorers[place]
    if explorer is not None and not with_explorer:
        explorer, notes = None, ["The page would be too large with an explorer."]
    curves, why_none = shown.curves[place]
    parts = (recorded.get(part, {}) for part in ("versions", "device", "settings"))
    versions = {name: value for part in parts for name, value in part.items()}
    last = run.rows[-1] if run.rows else {}
    over_time = _frames(run.folder, frames, shown.pictures)
    drawn_here = {"curves", "game"} if curves else set()
    drawn_here |= {"latents"} if explorer is not None and explorer.plane is not None else set()
    stills = _stills(run, shown.pictures, drawn_here)
    unreadable = shown.pictures.unreadable(run.folder.path)
    return page.Sheet(
        name=str(run.path),
        facts=_facts(run),
        curves=curves,
        explorer=explorer,
        frames=over_time,
        stills=stills,
        evaluation={
            **{f"{n} (last log point)": v for n, v in logs.readable(logs.losses(last)).items()},
            **logs.readable(run.evaluation),
        },
        config=recorded["config"],
        versions={n: value for n, value in versions.items() if value not in ("", None)},
        repeat=_repeat(run),
        notes=[
            *notes,
            *why_none,
            *_of_an_earlier_end(run),
            *(f"{p.relative_to(run.folder.path)} is no picture that opens." for p in unreadable),
        ],
    )


def _of_an_earlier_end(run: Gathered) -> list[str]:
    """What to say where a run that had ended goes on and has not reached its new end."""
    end = max((start.get("num_steps", 0) for start in run.recorded.get("starts", [])), default=0)
    step = run.rows[-1]["step"] if run.rows else 0
    if not run.evaluation or step >= end:
        return []
    return [
        f"This run goes on to step {end:,} and is at {step:,}: the numbers and pictures of its end "
        "are those of an earlier end."
    ]


def _facts(run: Gathered) -> dict[str, str]:
    recorded, config, seeds = run.recorded, run.recorded["config"], run.seeds
    last = run.rows[-1] if run.rows else {}
    device = recorded.get("device", {})
    speed = last.get("examples_per_s")
    return {
        "experiment": recorded["experiment"],
        "seeds" if len(seeds) > 1 else "seed": (
            f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        ),
        "epochs": f"{last.get('epoch', 0):g} of {config.get('epochs', '?')}",
        **logs.readable(logs.losses(last)),
        "begun": recorded["created"][:16].replace("T", " "),
        "device": f"{device.get('kind', '?')}, {device.get('cores', '?')} cores",
        **(
            {}
            if speed is None or not math.isfinite(speed)
            else {"speed": f"{speed:,.0f} examples/s"}
        ),
        "data": _short(recorded["data"]),
        **({"pictures and latent space": f"of seed {seeds[0]}"} if len(seeds) > 1 else {}),
    }


def _repeat(run: Gathered) -> list[tuple[str, str]]:
    versions = run.recorded.get("versions", {})
    path = _quoted(str(run.path))
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


def _quoted(path: str) -> str:
    """A path for a shell; one with bytes that are no text as bash reads it."""
    if canvas.spelt(path) == path:
        return shlex.quote(path)
    plain = set(string.ascii_letters + string.digits + "/._- ")
    return (
        "$'"
        + "".join(
            chr(byte) if chr(byte) in plain else f"\\x{byte:02x}" for byte in os.fsencode(path)
        )
        + "'"
    )


def _frames(folder: Folder, most: int, pictures: _Pictures) -> list[page.Frames]:
    """Pictures that were drawn over training, thinned out."""
    found = []
    for place in sorted(path for path in folder.pictures.glob("*") if path.is_dir()):
        files = _by_step(place)
        steps = list(files)
        chosen = {round(i) for i in np.linspace(0, len(steps) - 1, min(most, len(steps)))}
        read = {steps[i]: pictures.source(files[steps[i]]) for i in sorted(chosen)}
        sources = {step: source for step, source in read.items() if source is not None}
        if sources:
            captions = [f"step {step:,}" for step in sources]
            texts = [text for text, _ in sources.values()]
            pixelated = all(small for _, small in sources.values())
            found.append(page.Frames(place.name, captions, texts, pixelated))
    return found


def _by_step(place: Path) -> dict[int, Path]:
    """The pictures of looks in a folder, by step, in order."""
    names = {path: path.stem.removeprefix("step-") for path in place.glob("step-*.png")}
    return dict(sorted((int(name), path) for path, name in names.items() if name.isdecimal()))


def _stills(
    run: Gathered, pictures: _Pictures, drawn_here: Collection[str]
) -> dict[str, tuple[str, bool]]:
    """Pictures of the end, but those that the page draws; of several seeds, those of the first."""
    places = [run.folder.pictures, run.folder.pictures / f"seed-{run.seeds[0]}"]
    return {
        path.stem: source
        for place in places
        for path in sorted(place.glob("*.png"))
        if path.stem not in drawn_here and (source := pictures.source(path)) is not None
    }


def _explorer(run: Gathered) -> tuple[page.Explorer | None, list[str]]:
    """The latent space of a run, of several seeds that of the first; and why there is none."""
    try:
        built, state = loading.load_run(run.path)
    # Its experiment file may raise anything, and end as a script does: the data are gone, genmod is
    # another one, or it has options of its own that are not given here.
    except (Exception, SystemExit) as error:
        return None, [f"There is no explorer: the run cannot be opened ({_in_words(error)})."]
    if built.latents is None:
        return None, []
    try:
        return _walked(run, built, rng.stream(rng.root(run.seeds[0]), "figures"), state)
    except Exception as error:
        return None, [f"There is no explorer: its latents cannot be shown ({_in_words(error)})."]


class _Codes(NamedTuple):
    """Where images lie in a latent space.

    Attributes:
      codes: float64 [N, L].
      labels: the classes of the images, [N].
      caption: which images they are.
      note: why there are none, or not all; empty if they are.
      are_wrong: whether there should be some, but are none that are the run's.
    """

    codes: np.ndarray
    labels: np.ndarray
    caption: str = ""
    note: str = ""
    are_wrong: bool = False


def _codes(run: Gathered, built: Experiment, state: Any) -> _Codes:
    """The codes of test images, where the data are still those of the run."""
    latents, test = built.latents, built.test
    assert latents is not None
    none = _Codes(np.zeros((0, latents.dim)), np.zeros(0, int))
    if latents.encode is None or test is None:
        return none
    if changed := _changed(run, built):
        return none._replace(note=f"There is no map: {changed}.", are_wrong=True)
    # Evenly from all of them: those of a class may lie side by side.
    num = len(test.images)
    places = np.unique(np.linspace(0, num - 1, min(num, _CODES)).round().astype(int))
    try:
        images = np.asarray(test.images[places], np.float32) / 255
        codes = np.asarray(jax.jit(functools.partial(latents.encode, state))(images), np.float64)
    except Exception as error:
        note = f"There is no map: its codes cannot be computed ({_in_words(error)})."
        return none._replace(note=note, are_wrong=True)
    finite = np.isfinite(codes).all(axis=1)
    lost = int((~finite).sum())
    return _Codes(
        codes[finite],
        np.asarray(test.labels)[places][finite],
        f"{len(places):,} of {num:,} test images",
        f"{lost:,} of {len(codes):,} codes are not finite and not on the map." if lost else "",
    )


def _changed(run: Gathered, built: Experiment) -> str:
    """What tells that data are not those of the run; empty if nothing does."""
    assert built.test is not None
    recorded = run.recorded
    for part, before, dataset in (
        ("training", recorded["data"], built.dataset),
        ("test", recorded.get("test_data"), built.test),
    ):
        now = str(getattr(dataset, "fingerprint", "none"))
        if before is not None and now != before:
            return (
                f"the {part} data are not those of the run (their fingerprint is {_short(now)}, "
                f"the record's {_short(before)})"
            )
    return ""


def _classes(run: Gathered, built: Experiment) -> Sequence[str]:
    """Names of the classes of the images on the map, by their numbers; none where none are known.

    Those of the test images come first: it is their labels that are shown.
    """
    known = (
        getattr(built.test, "classes", ()),
        run.recorded.get("classes", ()),
        getattr(built.dataset, "classes", ()),
    )
    return next((names for names in known if names), ())


def _short(fingerprint: str) -> str:
    return fingerprint.removeprefix("sha256:")[:12]


def _walked(
    run: Gathered, built: Experiment, key: jax.Array, state: Any
) -> tuple[page.Explorer | None, list[str]]:
    latents = built.latents
    assert latents is not None
    found = _codes(run, built, state)
    codes, notes = found.codes, [found.note] * bool(found.note)
    if not len(codes) and not latents.normal:
        why = "no codes tell where in its latent space images lie"
        return None, [*notes, f"There is no explorer: {why}."]
    draws = np.asarray(jax.random.normal(key, (_TRIED, latents.dim)), np.float64)
    centre = np.zeros(latents.dim) if latents.normal else codes.mean(0)
    start = codes[0] if len(codes) else draws[0]
    far = np.abs(codes - centre).max(0) if len(codes) else np.zeros(latents.dim)
    spread = codes.std(0) if len(codes) else np.zeros(latents.dim)
    # A dimension in which all codes are alike still has a slider to be moved.
    reach = np.maximum(far, 3.0 if latents.normal else 1e-3 * max(far.max(), 1e-6))
    tried = [codes[:_TRIED], centre[None] + reach, centre[None] - reach]
    program = None
    try:
        decode = latents.decoder(key, state)
        tried += [draws] * latents.normal
        program = programs.program(decode, latents.dim, tried=np.concatenate(tried))
    except programs.UnsupportedError as error:
        notes.append(f"There are no sliders: {error}.")
    except Exception as error:
        notes.append(f"There are no sliders: the decoder cannot be run ({_in_words(error)}).")
    plane = None
    if latents.dim >= 2 and not found.are_wrong:
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
        reach=reach.tolist(),
        centre=centre.tolist(),
        start=start.tolist(),
        normal=latents.normal,
        plane=plane,
        points=codes if plane else np.zeros((0, 2)),
        labels=found.labels if plane else np.zeros(0, int),
        classes=_classes(run, built),
        caption=found.caption,
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


def _comparison(runs: Sequence[Gathered], pictures: _Pictures) -> page.Comparison:
    arms = _arms(runs)
    names = [canvas.spelt(name) for name in _names([arm.recorded for arm in arms])]
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
    samples = {str(run.path): found for run in runs if (found := _last_samples(run, pictures))}
    curves = page.svg(report.compared(logs)) if logs else None
    return page.Comparison(curves, columns, table, samples, note)


def _counted(num: int) -> str:
    return f"{num} seed{'s' * (num != 1)}"


def _estimated(values: Sequence[float], signed: bool = False) -> str:
    """A mean with its standard error, where there are several values and they are finite."""
    if not values:
        return "-"
    if len(values) == 1 or not np.isfinite(values).all():
        with np.errstate(invalid="ignore"):
            mean = float(np.mean(values))
        return f"{mean:{'+' if signed and not math.isnan(mean) else ''}.4f}"
    mean, error = evaluate.estimate(np.asarray(values))
    text = logs.readable({"value": mean, "value_se": error})["value"]
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
            last = logs.losses(arm.rows[seed][-1]) if run.rows else {}
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
        with np.errstate(invalid="ignore", over="ignore"):
            means = logs.summary({name: np.array([p[name] for p in points]) for name in names})
        found.append({"step": step, "epoch": points[0].get("epoch", math.nan), **means})
    return found


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call arms: by what they differ in."""
    flat = [{"experiment": r["experiment"], **r["config"], "data": r["data"][:18]} for r in records]
    several_experiments = len({one["experiment"] for one in flat}) > 1
    names = []
    for index, one in enumerate(flat):
        alike = [other for other in flat if other["experiment"] == one["experiment"]]
        keys = [key for key in dict.fromkeys(k for other in alike for k in other) if key != "seed"]
        differing = [key for key in keys if len({str(other.get(key)) for other in alike}) > 1]
        own = [one["experiment"]] * several_experiments
        own += [f"{key} {one[key]}" for key in differing if key in one]
        name = ", ".join(own) or one["experiment"]
        names.append(name if name not in names else f"{name} ({index + 1})")
    return names


def _last_samples(run: Gathered, pictures: _Pictures) -> tuple[str, bool] | None:
    files = list(_by_step(run.folder.pictures / "samples").values())
    files += [run.folder.pictures / "samples.png"] * (not files)
    return pictures.source(files[-1]) if files[-1].is_file() else None
