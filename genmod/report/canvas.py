"""Empty matplotlib figures, and colours.

Matplotlib is imported only when a figure is drawn. The import takes half a second, and training
should not wait for it.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float, **options: Any) -> Figure:
    """Creates an empty figure; its size is in inches.

    The figure does not belong to pyplot, so there is no global state and nothing to close. It may
    hold any text, such as names of folders or classes in any language. Text with "$" that is not a
    valid formula is drawn as plain text, and bytes that are not valid Unicode as escapes.
    """
    return _figure_of_any_names()(figsize=(width, height), dpi=110, **options)


@functools.cache
def _figure_of_any_names() -> type[Figure]:
    from matplotlib.figure import Figure as Plain
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    parse = MathTextParser("path").parse

    class Figure(Plain):  # a notebook shows this name
        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):
                said = spelt(text.get_text())
                if said != text.get_text():
                    text.set_text(said)
                if "$" in said and text.get_parse_math():
                    try:
                        parse(said)
                    except ValueError:  # the text is a name with "$" in it and not a formula
                        text.set_parse_math(False)
            with warnings.catch_warnings():
                # Matplotlib draws a box for a character that its font lacks, and warns each time.
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                super().draw(renderer)

    return Figure


def spelt(text: str) -> str:
    """Escapes characters that are not valid Unicode.

    A file's name may consist of bytes that Python can only decode to such characters.
    """
    return text.encode(errors="backslashreplace").decode()


def colour(index: int) -> tuple[float, float, float, float]:
    """Returns the colour of class number `index`, as RGBA.

    There are ten colours; then they repeat.
    """
    from matplotlib import colormaps

    return colormaps["tab10"](index % 10)


def colours(num: int) -> list[tuple[float, float, float, float]]:
    """Returns `num` different colours.

    Up to ten, these are the colours of `colour`.
    """
    from matplotlib import colormaps

    if num <= 10:
        return [colour(index) for index in range(num)]
    if num <= 20:
        return [colormaps["tab20"](index) for index in range(num)]
    return [colormaps["gist_rainbow"](index / (num - 1)) for index in range(num)]


def hex_colours(num: int) -> list[str]:
    """Returns `num` colours as #rrggbb, for use outside matplotlib."""
    from matplotlib.colors import to_hex

    return [to_hex(one) for one in colours(num)]
