"""Report page: one HTML file that works without a network.

It needs no other file. The page is the template `assets/page.html`, filled with a `Sheet` for each
run. Figures are inline SVG by matplotlib; pictures are PNG or WebP inside the page. The explorer
decodes in the browser: it runs the program of the run's own decoder (`report.programs`).
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
"""Maximum width of a PNG, in pixels.

Wider pictures are stored as WebP: they are drawings, with smooth edges and letters.
"""


@dataclass(frozen=True)
class Frames:
    """Picture that changes over time.

    Attributes:
      name: name of the picture.
      captions: captions, one for each moment.
      sources: data URLs of the pictures, as `source_of` returns them.
      pixelated: whether the pictures are small grids, to be enlarged without smoothing.
    """

    name: str
    captions: Sequence[str]
    sources: Sequence[str]
    pixelated: bool


@dataclass(frozen=True)
class Explorer:
    """Latent space of a run, to explore in the browser.

    Attributes:
      program: the decoder, as `programs.program` returns it; None if the browser cannot run it.
      order: latent dimensions, the most important first, [L].
      reach: distance from `centre` to the end of each slider, [L].
      centre: middle of each slider, [L].
      start: latents that are shown first, [L].
      normal: whether the prior is N(0, I), so that decoding z ~ N(0, I) draws from the model.
      plane: `centre` [L], `directions` [2, L] and `names` of the map's axes; None without a map.
      points: codes of test images in that plane, [N, 2]; empty for a model without an encoder.
      labels: classes of the points, [N].
      classes: names of the classes, by label; empty if they have no names.
      caption: description of the points.
      choices: names of the classes to choose from, if the decoder is conditional.
      choice: index of the class that is chosen first.
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
    choices: Sequence[str] = ()
    choice: int = 0


@dataclass(frozen=True)
class Sheet:
    """Content of a page about one run.

    Attributes:
      name: name of the run, as the user gave it.
      facts: facts at the top of the page, by name.
      curves: figure of the log, as `svg` returns it.
      explorer: the latent space, if there is one.
      frames: pictures that change over time.
      stills: single pictures by name, as `source_of` returns them: data URL, and whether the
        picture is pixelated.
      evaluation: results of the evaluation by name, formatted for readers.
      results: results of metrics, each as name, value, floor and protocol, formatted for readers.
      config: configuration of the run.
      versions: versions, device and settings that the numbers depend on.
      repeat: commands that repeat the run, each with its purpose.
      notes: parts that could not be shown, each with the reason.
    """

    name: str
    facts: Mapping[str, str]
    curves: str | None = None
    explorer: Explorer | None = None
    frames: Sequence[Frames] = ()
    stills: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    evaluation: Mapping[str, str] = field(default_factory=dict)
    results: Sequence[tuple[str, str, str, str]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    repeat: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """Content of a page about several runs together.

    Attributes:
      curves: figure of all logs, one over the other, as `svg` returns it.
      columns: headings of the table of numbers.
      rows: rows of the table, one for each number, with a cell for each column.
      samples: pictures of samples by run, as `source_of` returns them: data URL, and whether the
        picture is pixelated.
      note: explanation of the numbers in the table.
    """

    curves: str | None
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    samples: Mapping[str, tuple[str, bool]]
    note: str


@dataclass(frozen=True)
class Published:
    """Published table beside its reproduction, at the top of a page.

    Attributes:
      title: title of the table.
      columns: headings.
      rows: rows of cells, one for each heading.
      notes: sentences below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def page(
    sheets: Sequence[Sheet],
    comparison: Comparison | None = None,
    notes: Sequence[str] = (),
    published: Published | None = None,
) -> str:
    """Returns the HTML of a page about runs.

    The same runs give the same page.

    Args:
      sheets: contents, one for each run.
      comparison: content about all runs together; left out if None.
      notes: runs that are left out, each with the reason.
      published: a published table that the runs reproduce; left out if None.

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
    # JSON in a browser has no NaN, so Python must refuse to write it.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    # Jinja must not escape these: figures, in which matplotlib escapes text, and files of genmod.
    safe = {
        "svg": jinja2.utils.markupsafe.Markup,
        "script": lambda name: jinja2.utils.markupsafe.Markup(_asset(name)),
    }
    title = sheets[0].name if len(sheets) == 1 else f"{len(sheets)} runs"
    if published is not None:
        title = published.title
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
        published=published,
        explorers=explorers,
        **safe,
    )
    return canvas.spelt(html)


def svg(figure: Figure) -> str:
    """Returns a figure as SVG for a page.

    The XML header is left out. The same figure always gives the same text.
    """
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # Text stays text: a browser has characters that matplotlib's font lacks.
    options = {"svg.hashsalt": "genmod", "svg.fonttype": "none"}
    with matplotlib.rc_context(options):
        figure.savefig(buffer, format="svg", metadata=nothing)
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :]


def source_of(image: Image) -> tuple[str, bool]:
    """Encodes a picture as a data URL.

    Returns:
      The data URL, and whether the picture is pixelated: a small grid, to be enlarged without
      smoothing.
    """
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
    """Returns an explorer as JSON for the page's script."""
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
    """Rounds numbers to seven significant digits, as in float32."""
    return [float(f"{value:.7g}") for value in np.asarray(values, np.float64)]


def _within_a_pixel(points: np.ndarray) -> list[float]:
    """Rounds points [N, 2] to a thousandth of their spread.

    The result is flat: both coordinates of the first point, then those of the second, and so on.
    """
    spread = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    places = 3 - math.floor(math.log10(spread)) if spread > 0 else 6
    return points.round(places).ravel().tolist()
