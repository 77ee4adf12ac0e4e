"""Folders of pictures as data sets."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genmod._host.examples import Pictures, is_coloured
from genmod.data.cache import file_state
from genmod.data.notes import named, say
from genmod.errors import DataError

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm"),
)
WRITTEN = b"Software\0genmod"
"""In a PNG file: one of genmod's commands has drawn it. See `commands.save`."""
_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
_SILENT = ("thumbs.db", "desktop.ini")


class Folder(NamedTuple):
    """A folder of pictures.

    Attributes:
      pictures: all of them.
      parts: places of the pictures of each part.
      state: what tells these pictures from any others, and whether one of them has changed.
      classes: names of the classes, by their numbers; none where there is but one.
    """

    pictures: Pictures
    parts: dict[str, range]
    state: list[Any]
    classes: tuple[str, ...]

    def in_colour(self, part: str) -> bool:
        """Whether another part holds a picture in colour: then this one is in colour, too."""
        others = (places for name, places in self.parts.items() if name != part)
        return any(is_coloured(self.pictures.files[place]) for one in others for place in one)


class _Seen(NamedTuple):
    """What a walk through a folder has passed by.

    Attributes:
      others: what has not the name of a picture, or is no file.
      runs: run folders.
      own: pictures that genmod has drawn.
    """

    others: list[str]
    runs: list[str]
    own: list[str]


def folder(where: str, *, size: int | None, background: str = "white") -> Folder:
    """Lists a data set of pictures: FOLDER/CLASS/PICTURE, or all of one class in FOLDER.

    Where all folders in it are called `train`, `test` or `val` (or `training`, `testing`, `valid`,
    `validation`, `dev`; in any case), they are its parts. Classes are numbered over all parts, in
    the order of their names, or of their numbers where all are numbers. Pictures of a class may lie
    in folders within its own. Links are followed. Run folders, and pictures that genmod's commands
    have drawn into FOLDER, are left out. What was chosen or left out is said in notes.

    Args:
      where: the folder.
      size: side of the square to which each picture is resized and cropped; None leaves them.
      background: the ground on which transparent places are laid, white or black.

    Raises:
      DataError: if there are no pictures, a folder cannot be read, or a link leads back to a folder
        that it lies in.
      ValueError: if two folders are the same part.
    """
    root = Path(where).expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: {'no folder' if root.exists() else 'missing'}; expected pictures")
    seen = _Seen([], [], [])
    pictures = list(_pictures_in(root, seen))
    parts = _parts_of(root, sorted({steps[0] for _, steps in pictures if steps}))
    listed: dict[str, list[tuple[str, str]]] = {}
    loose, deep = [], set()
    for path, steps in pictures:
        if not steps:
            loose.append(os.path.basename(path))
            if parts is not None:
                continue
        part, within = ("train", steps) if parts is None else (parts[steps[0]], steps[1:])
        listed.setdefault(part, []).append((path, within[0] if within else "."))
        deep.update(within[1:])
    files = [path for part in listed.values() for path, _ in part]
    if not files:
        raise DataError(f"{root}: holds no pictures; expected files {', '.join(PICTURES)}")
    classes = [name for part in listed.values() for _, name in part]
    names = _in_order(set(classes))
    _say_what_was_seen(root, seen)
    if deep:
        say(f"{root}: a class is the first folder; deeper ones join it: {named(sorted(deep))}")
    if loose and parts is not None:
        say(f"{root}: {len(loose)} pictures beside the parts are left out: {named(loose)}")
    elif loose and len(names) > 1:
        say(f"{root}: {len(loose)} pictures beside the classes are one more: {named(loose)}")
    numbers = {name: number for number, name in enumerate(names)}
    begins = len(os.path.join(root, ""))
    state = [str(root.resolve())]
    state += [(path[begins:], *file_state(_stat(path))) for path in files]
    ends = list(itertools.accumulate(map(len, listed.values()), initial=0))
    spans = zip(listed, itertools.pairwise(ends), strict=True)
    return Folder(
        Pictures(files, [numbers[name] for name in classes], size, background),
        {part: range(*span) for part, span in spans if span[0] < span[1]},
        state,
        tuple(names) if len(names) > 1 else (),
    )


def _parts_of(root: Path, folders: Sequence[str]) -> dict[str, str] | None:
    """Which part each folder is; None where they are classes."""
    parts = {name: _FOLDERS[name.lower()] for name in folders if name.lower() in _FOLDERS}
    if not parts:
        return None
    if len(parts) < len(folders):
        say(
            f"{root}: {named(folders)} are taken for classes, {named(list(parts))} among them: not "
            "all of these folders have the name of a part"
        )
        return None
    for part in parts.values():
        same = [name for name in parts if parts[name] == part]
        if len(same) > 1:
            raise ValueError(f"{root}: {' and '.join(same)} are both the part {part!r}; join them")
    if any(name != part for name, part in parts.items()):
        said = ", ".join(f"{name} is {part!r}" for name, part in parts.items())
        say(f"{root}: its folders are taken for parts: {said}")
    return parts


def _in_order(names: set[str]) -> list[str]:
    if all(re.fullmatch(r"\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _say_what_was_seen(root: Path, seen: _Seen) -> None:
    if seen.others:
        num = f"{len(seen.others)} file{'s' * (len(seen.others) > 1)}"
        say(f"{root}: left out, as no pictures by their names: {num}, {named(seen.others)}")
    if seen.runs:
        say(f"{root}: run folders are left out: {named(seen.runs)}")
    if seen.own:
        say(f"{root}: pictures that genmod has drawn are left out: {named(seen.own)}")


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError:  # a link to nothing: a picture that cannot be read
        return os.lstat(path)


def _pictures_in(root: Path, seen: _Seen) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Pictures in order, each with the names of the folders from `root` to it."""
    # Of hundreds of thousands, paths as objects would take seconds.
    above = {os.fspath(root): frozenset[tuple[int, int]]()}
    for where, folders, names in os.walk(root, onerror=_refuse_folder, followlinks=True):
        status = os.stat(where)
        own = status.st_dev, status.st_ino
        before = above.pop(where, frozenset())
        if own in before:
            raise DataError(f"{where}: a link back to a folder that it lies in; remove it")
        relative = os.path.relpath(where, root)
        steps = () if relative == "." else tuple(relative.split(os.sep))
        if (
            "record.json" in names
            and steps
            and {"experiment.py", "checkpoints"} & {*names, *folders}
        ):
            seen.runs.append(relative)
            folders[:] = []
            continue
        folders[:] = sorted(n for n in folders if n[0] != "." and n != "__MACOSX")
        for name in folders:
            above[os.path.join(where, name)] = before | {own}
        for name in sorted(names):
            path = os.path.join(where, name)
            if name[0] == "." or name.lower() in _SILENT:
                continue
            if not name.lower().endswith(PICTURES):
                to_nothing = " (a link to nothing)" * (not os.path.exists(path))
                seen.others.append(os.path.join(*steps, name) + to_nothing)
            elif not os.path.isfile(path) and not os.path.islink(path):
                seen.others.append(os.path.join(*steps, name) + " (no file)")
            elif not steps and _is_own(path):
                seen.own.append(name)
            else:
                yield path, steps


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: a folder that cannot be read ({error.strerror})") from error


def _is_own(path: str) -> bool:
    """Whether one of genmod's commands has drawn a picture."""
    if not path.lower().endswith(".png"):
        return False
    try:
        with open(path, "rb") as file:
            return WRITTEN in file.read(256)
    except OSError:
        return False
