"""Report pages of runs, made from their folders.

The page always shows the contents of a run folder. If the run can also be rebuilt and its
checkpoint restored, the page has an explorer of its latent space; if not, a note says why. A run
that cannot be read is named, and the others are shown.
"""

import math
import os
import shlex
import string
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from genmod import report
from genmod.report import canvas, page
from genmod.runs import comparison, explorer, goals, logs, pictures
from genmod.runs.gathered import Gathered, below, gather, in_words

MOST_BYTES = 6_000_000
"""Largest size of a page, in bytes.

A larger page is made again with less in it.
"""
_LEVELS = ((24, True), (8, True), (3, True), (3, False))
"""Levels of detail, from the fullest page to the smallest.

Each is the number of pictures over time, and whether there are explorers.
"""


def build(
    paths: Sequence[str | Path],
    *,
    most_bytes: int = MOST_BYTES,
    published: page.Published | None = None,
) -> str:
    """Makes the report page of runs, as HTML.

    Args:
      paths: run folders, or folders of runs. The other runs are compared with the first.
      most_bytes: largest size of the page. Pictures over time are thinned out, then explorers are
        left out, until the page is not larger.
      published: a published table that the runs reproduce, to stand before them.

    Raises:
      ValueError: if a folder holds no run, or the page cannot be made that small.
    """
    runs, left_out = _gathered([run for path in paths for run in below(path)])
    shown = _Shown(runs)
    size = 0
    for frames, with_explorers in _LEVELS:
        sheets, failed = _sheets(shown, frames, with_explorers)
        if not sheets:
            raise ValueError(failed[0])
        notes = [*left_out, *failed, *shown.notes]
        html = page.page(sheets, shown.comparison, notes, published)
        size = len(html.encode())
        if size <= most_bytes:
            _say(notes)
            _say(f"{one.name}: {note}" for one in sheets for note in one.notes)
            return html
    raise ValueError(
        f"the page of {len(runs)} runs would have {size:,} bytes; "
        f"expected at most {most_bytes:,}: report fewer runs"
    )


def _say(notes: Iterable[str]) -> None:
    """Prints the notes of the page to standard error."""
    for note in notes:
        print(f"note: {canvas.spelt(note)}", file=sys.stderr, flush=True)


def _gathered(paths: Sequence[Path]) -> tuple[list[Gathered], list[str]]:
    """Reads the runs, and notes those that cannot be read.

    Raises:
      ValueError: if no run can be read.
    """
    found, failed = [], []
    for path in paths:
        try:
            found.append(gather(path))
        # A damaged file may raise any error, which must not affect the other runs.
        except Exception as error:
            failed.append(f"{path} is left out: {in_words(error)}")
            if len(paths) == 1:
                raise
    if not found:
        raise ValueError(f"none of {len(paths)} runs can be read; the first: {failed[0]}")
    return found, failed


class _Shown:
    """Parts of a page that do not depend on its size.

    They take time, so they are made only once.
    """

    def __init__(self, runs: Sequence[Gathered]):
        self.runs = runs
        self.pictures = pictures.Pictures()
        self.notes: list[str] = []
        self.curves = [self._drawn(run) for run in runs]
        self.explorers = [explorer.explorer_of(run) for run in runs]
        self.comparison = None
        if len(runs) > 1:
            try:
                self.comparison = comparison.comparison_of(runs, self.pictures)
            # The part of each run is still right.
            except Exception as error:
                self.notes.append(f"The runs cannot be shown side by side ({in_words(error)}).")

    def _drawn(self, run: Gathered) -> tuple[str | None, list[str]]:
        """Draws the log of a run, or notes why it cannot."""
        if not run.rows:
            return None, ["This run has not logged anything yet."]
        try:
            draw = report.game if report.is_game(run.rows) else report.curves
            return page.svg(draw(run.rows)), []
        except Exception as error:
            return None, [f"There are no curves ({in_words(error)})."]


def _sheets(shown: _Shown, frames: int, explorers: bool) -> tuple[list[page.Sheet], list[str]]:
    """Makes the sheet of each run, and notes failures."""
    sheets, failed = [], []
    for place, run in enumerate(shown.runs):
        try:
            sheets.append(_sheet(shown, place, frames, explorers))
        except Exception as error:
            failed.append(f"{run.path} is left out: {in_words(error)}")
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
    over_time = pictures.frames(run.folder, frames, shown.pictures)
    drawn_here = {"curves", "game"} if curves else set()
    drawn_here |= {"latents"} if explorer is not None and explorer.plane is not None else set()
    stills = pictures.stills(run, shown.pictures, drawn_here)
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
        results=[entry.described() for entry in run.results],
        config=recorded["config"],
        versions={n: value for n, value in versions.items() if value not in ("", None)},
        repeat=_repeat(run),
        notes=[
            *notes,
            *why_none,
            *_of_an_earlier_end(run),
            *(
                f"{p.relative_to(run.folder.path)} is not a picture that can be opened."
                for p in unreadable
            ),
        ],
    )


def _of_an_earlier_end(run: Gathered) -> list[str]:
    """Notes that the numbers belong to an earlier end.

    This holds if a run that had ended goes on and has not reached its new end.
    """
    end = max((start.get("num_steps", 0) for start in run.recorded.get("starts", [])), default=0)
    step = run.rows[-1]["step"] if run.rows else 0
    ended = goals.recorded(run.recorded, run.rows).ended is not None
    if not run.evaluation or step >= end or ended:
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
        **goals.facts(recorded, run.rows),
        "begun": recorded["created"][:16].replace("T", " "),
        "device": f"{device.get('kind', '?')}, {device.get('cores', '?')} cores",
        **(
            {}
            if speed is None or not math.isfinite(speed)
            else {"speed": f"{speed:,.0f} examples/s"}
        ),
        "data": explorer.short(recorded["data"]),
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
    """Quotes a path for a shell.

    A path with bytes that are not text is quoted in the form that bash reads.
    """
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
