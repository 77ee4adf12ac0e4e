"""The report page: one HTML file that needs nothing else, not even a network.

It is a template (`assets/page.html`) filled with what `Sheet` holds of each run. Figures are inline
SVG by matplotlib, pictures PNG or WebP in the page itself; the explorer decodes in the browser,
following the program of the run's own decoder.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from genmod.report import canvas
from genmod.report.latents import class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_WIDEST_PNG = 640
"""Wider pictures become WebP: they are drawings, with smooth edges and letters."""


@dataclass(frozen=True)
class Frames:
    """A picture over time.

    Attributes:
      name: of the picture.
      captions: one for each moment.
      sources: the pictures, as `source_of` gives them.
      pixelated: whether they are small grids, to be enlarged pixel for pixel.
    """

    name: str
    captions: Sequence[str]
    sources: Sequence[str]
    pixelated: bool


@dataclass(frozen=True)
class Explorer:
    """The latent space of a run, to be walked in.

    Attributes:
      program: the decoder, as `program` gives it; None where the browser cannot follow it.
      order: the latent dimensions, those that matter most first, [L].
      reach: how far from `centre` a slider goes, [L].
      centre: the middle of the sliders, [L].
      start: where the walk begins, [L].
      normal: whether z ~ N(0, I) draws from the model.
      plane: `centre` [L], `directions` [2, L] and `names` of the map's axes; None without a map.
      points: codes of test images in that plane, [N, 2]; none for a model without an encoder.
      labels: their classes, [N].
      classes: names of the classes, by label, where they have names.
      caption: says what the points are.
    """

    program: Mapping[str, Any] | None
    order: Sequence[int]
    reach: Sequence[float]
    centre: Sequence[float]
    start: Sequence[float]
    normal: bool
    plane: Mapping[str, Any] | None
    points: np.ndarray
    labels: np.ndarray
    classes: Sequence[str] = ()
    caption: str = ""


@dataclass(frozen=True)
class Sheet:
    """What a page says of one run.

    Attributes:
      name: of the run, as it was asked for.
      facts: what to say first, by name.
      curves: the log, drawn, as `svg` gives it.
      explorer: the latent space, if there is one.
      frames: pictures over time.
      stills: single pictures, by name, as `source_of` gives them, and whether they are pixelated.
      evaluation: numbers by name, for people.
      config: the configuration.
      versions: of what the numbers depend on.
      repeat: commands that repeat the run, with what each is for.
      notes: what could not be shown, and why.
    """

    name: str
    facts: Mapping[str, str]
    curves: str | None = None
    explorer: Explorer | None = None
    frames: Sequence[Frames] = ()
    stills: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    evaluation: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    repeat: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """What a page says of several runs together.

    Attributes:
      curves: the logs, one over the other, as `svg` gives it.
      columns: heads of the table of numbers.
      rows: the table, a row for each number of each run.
      samples: of each run, a picture as `source_of` gives it, and whether it is pixelated.
      note: what the table's numbers are.
    """

    curves: str | None
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    samples: Mapping[str, tuple[str, bool]]
    note: str


def page(
    sheets: Sequence[Sheet], comparison: Comparison | None = None, notes: Sequence[str] = ()
) -> str:
    """The HTML of a page about runs; the same runs give the same page.

    Args:
      sheets: what it says of each.
      comparison: what it says of all.
      notes: which runs are left out, and why.

    Raises:
      ValueError: if there is no run.
    """
    if not sheets:
        raise ValueError("a page must be about at least one run, got none")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genmod.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A browser reads no NaN: it must not come so far.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    # What is marked as safe is ours: figures by matplotlib, whose text it escapes, and two files.
    safe = {
        "svg": jinja2.utils.markupsafe.Markup,
        "script": lambda name: jinja2.utils.markupsafe.Markup(_asset(name)),
    }
    title = sheets[0].name if len(sheets) == 1 else f"{len(sheets)} runs"
    explorers = {
        str(index): _explorer(sheet.explorer)
        for index, sheet in enumerate(sheets)
        if sheet.explorer is not None
    }
    html = environment.get_template("page.html").render(
        title=title,
        sheets=sheets,
        comparison=comparison,
        notes=notes,
        explorers=explorers,
        **safe,
    )
    return canvas.spelt(html)


def svg(figure: Figure) -> str:
    """A figure as SVG to stand in a page: without its header, and the same every time."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # Text stays text: a browser has letters that matplotlib's font has not.
    options = {"svg.hashsalt": "genmod", "svg.fonttype": "none"}
    with matplotlib.rc_context(options):
        figure.savefig(buffer, format="svg", metadata=nothing)
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]


def source_of(image: Image) -> tuple[str, bool]:
    """A picture as a page can hold it, and whether it is a small grid of pixels."""
    small = image.width <= _WIDEST_PNG
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.convert("RGB").save(buffer, "WEBP", quality=80, method=4)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if small else 'webp'};base64,{encoded}", small


def _asset(name: str) -> str:
    return resources.files("genmod.report").joinpath("assets", name).read_text("utf-8")


def _explorer(found: Explorer) -> dict[str, Any]:
    """What the page's script needs of an explorer."""
    plane = found.plane and {
        "centre": _digits(found.plane["centre"]),
        "directions": [_digits(axis) for axis in found.plane["directions"]],
        "names": [re.sub(r"\$z_(\d)\$", r"z\1", name) for name in found.plane["names"]],
    }
    labels, places = np.unique(found.labels, return_inverse=True)
    return {
        "program": found.program,
        "order": list(found.order),
        "reach": _digits(found.reach),
        "centre": _digits(found.centre),
        "start": _digits(found.start),
        "normal": found.normal,
        "plane": plane,
        "points": _within_a_pixel(np.asarray(found.points, np.float64)),
        "labels": places.ravel().tolist(),
        "classes": class_names(labels, found.classes),
        "colours": canvas.hex_colours(len(labels)),
        "caption": found.caption,
    }


def _digits(values: Any) -> list[float]:
    """Numbers to seven digits each, whatever their scale: those of float32."""
    return [float(f"{value:.7g}") for value in np.asarray(values, np.float64)]


def _within_a_pixel(points: np.ndarray) -> list[float]:
    """Points [N, 2] to a thousandth of what they spread over, one coordinate after the other."""
    spread = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    places = 3 - math.floor(math.log10(spread)) if spread > 0 else 6
    return points.round(places).ravel().tolist()
