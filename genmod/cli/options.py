"""Options and outputs that several commands share."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

DIFFERS = 1
"""Exit code of a comparison that finds a difference."""
PICTURES = (".png", ".pdf", ".svg")
"""Ends of the names of pictures that commands draw."""


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options for data: which part of them, and how they are read."""

    split: str = "train"
    """Part of the data: train or test, or a part of them such as train[:90%]."""
    data_dir: Path | None = None
    """Folder to read from instead of the usual one."""
    manual_dir: Path | None = None
    """Folder with the original archives of a data set of tensorflow-datasets."""
    image_size: int | None = None
    """Side of the square to which pictures of a folder are resized and cropped."""
    skip_corrupt: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Whether to leave out, and count, pictures of a folder that cannot be read."""
    background: Literal["white", "black"] | None = None
    """Colour behind the transparent pixels of a folder's pictures; white if not given."""

    def load(self, name: str) -> Any:
        """Loads a data set by its name."""
        from genmod import data

        given = dataclasses.asdict(self)
        split, image_size = given.pop("split"), given.pop("image_size")
        return data.load(name, split, image_size=image_size or None, **given)


def save(figure: Any, out: Path) -> None:
    """Writes a figure to a file.

    A PNG names genmod as its software, so that a data set in the same folder leaves it out.
    """
    mark = {"metadata": {"Software": "genmod"}} if out.suffix.lower() == ".png" else {}
    figure.savefig(out, **mark)


def check_out(out: Path, ends: Sequence[str] | None = PICTURES, hint: str = "") -> None:
    """Refuses a file that cannot be written.

    Args:
      out: the file, or a folder.
      ends: ends of its name that are allowed; None allows any.
      hint: further outputs that are allowed, in words.
    """
    if not out.absolute().parent.is_dir():
        raise ValueError(f"out: the folder {str(out.absolute().parent)!r} does not exist")
    if ends is not None and out.suffix.lower() not in ends:
        raise ValueError(f"out must end in {', '.join(ends)}{hint}, got {out.name!r}")


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = True
) -> None:
    """Prints a table.

    Args:
      columns: headings; none is shown if all are empty.
      rows: cells, a sequence for each row.
      right: whether all columns but the first are aligned on the right.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, show_header=any(columns))
    for column in table.columns[1:] if right else ():
        column.justify = "right"
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
