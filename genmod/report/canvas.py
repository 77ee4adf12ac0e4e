"""The one place where matplotlib is imported, and only when a figure is drawn.

It takes half a second: training should not wait for it.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of this size in inches, outside pyplot: nothing global, nothing to close.

    It can be drawn whatever names stand in it: of folders, of classes, in any language or in none.
    """
    return _figure_of_any_names()(figsize=(width, height), dpi=110, **options)


@functools.cache
def _figure_of_any_names() -> type[Figure]:
    from matplotlib.figure import Figure as Plain
    from matplotlib.mathtext import MathTextParser
    from matplotlib.text import Text

    parse = MathTextParser("path").parse

    class Figure(Plain):  # the name under which a notebook shows it
        def draw(self, renderer: Any) -> None:
            for text in self.findobj(Text):
                said = spelt(text.get_text())
                if said != text.get_text():
                    text.set_text(said)
                if "$" in said and text.get_parse_math():
                    try:
                        parse(said)
                    except ValueError:  # a name with such signs, and no formula
                        text.set_parse_math(False)
            with warnings.catch_warnings():
                # matplotlib draws a box for what its font lacks, and says so on every occasion.
                warnings.filterwarnings("ignore", "Glyph .* missing from")
                super().draw(renderer)

    return Figure


def spelt(text: str) -> str:
    """A text whose characters are all Unicode: the bytes of a file's name may be none."""
    return text.encode(errors="backslashreplace").decode()


def colour(index: int) -> tuple[float, float, float, float]:
    """The colour of class number `index`; there are ten, then they repeat."""
    from matplotlib import colormaps

    return colormaps["tab10"](index % 10)


def colours(num: int) -> list[tuple[float, float, float, float]]:
    """As many colours, no two of them the same; up to ten are those of `colour`."""
    from matplotlib import colormaps

    if num <= 10:
        return [colour(index) for index in range(num)]
    if num <= 20:
        return [colormaps["tab20"](index) for index in range(num)]
    return [colormaps["gist_rainbow"](index / (num - 1)) for index in range(num)]


def hex_colours(num: int) -> list[str]:
    """The same as #rrggbb, for what is drawn elsewhere."""
    from matplotlib.colors import to_hex

    return [to_hex(one) for one in colours(num)]
