"""Folders of pictures as data sets."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genmod._host.examples import Pictures, is_coloured
from genmod._host.words import counted
from genmod.data.cache import file_state
from genmod.data.notes import named, say
from genmod.errors import DataError

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm"),
)
WRITTEN = b"Software\0genmod"
"""Mark in PNG files that genmod's commands have drawn.

`genmod.cli.options.save` writes it.
"""
_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}
_SILENT = ("thumbs.db", "desktop.ini")


class Folder(NamedTuple):
    """A folder of pictures.

    Attributes:
      pictures: the pictures of all parts.
      parts: indices of the pictures of each part.
      state: value that identifies the pictures and changes if one of them changes.
      classes: names of the classes, in the order of their numbers; empty if there is only one.
    """

    pictures: Pictures
    parts: dict[str, range]
    state: list[Any]
    classes: tuple[str, ...]

    def in_colour(self, part: str) -> bool:
        """Returns whether another part holds a picture in colour.

        In that case this part gets three channels, too.
        """
        others = (indices for name, indices in self.parts.items() if name != part)
        return any(is_coloured(self.pictures.files[index]) for one in others for index in one)


class _Seen(NamedTuple):
    """Paths that were left out while listing a folder.

    Attributes:
      others: paths that are not named like a picture, or are not files.
      runs: run folders.
      own: pictures that genmod has drawn.
    """

    others: list[str]
    runs: list[str]
    own: list[str]


def folder(where: str, *, size: int | None, background: str = "white") -> Folder:
    """Lists a folder's pictures with parts and classes.

    The pictures are in FOLDER/CLASS/PICTURE or, if there is a single class, in FOLDER itself. If
    all folders in FOLDER are called `train`, `test` or `val` (or `training`, `testing`, `valid`,
    `validation`, `dev`; in upper or lower case), they are the parts of the data set. Classes are
    numbered over all parts: in numerical order if all their names are numbers, else in the order of
    their names. Pictures of a class may lie in folders within the folder of the class. Links are
    followed. Run folders, and pictures that genmod's commands have drawn into FOLDER, are left out.
    Notes say what was chosen or left out.

    Args:
      where: the folder.
      size: side of the square to which each picture is resized and cropped; None keeps the sizes.
      background: background for transparent areas, "white" or "black".

    Raises:
      DataError: if there are no pictures, if a folder cannot be read, or if a link leads back to a
        folder that contains it.
      ValueError: if two folders are the same part.
    """
    root = Path(where).expanduser()
    if not root.is_dir():
        raise DataError(
            f"{root}: {'not a folder' if root.exists() else 'missing'}; expected pictures"
        )
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
        say(f"{root}: {len(loose)} pictures beside the classes form another class: {named(loose)}")
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
    """Returns each folder's part; None if they are classes."""
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
        num = counted(len(seen.others), "file")
        say(f"{root}: left out, as not named like pictures: {num}, {named(seen.others)}")
    if seen.runs:
        say(f"{root}: run folders are left out: {named(seen.runs)}")
    if seen.own:
        say(f"{root}: pictures that genmod has drawn are left out: {named(seen.own)}")


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError:  # a broken link counts as a picture that cannot be read
        return os.lstat(path)


def _pictures_in(root: Path, seen: _Seen) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the pictures in order, with their folders' names."""
    # Paths are plain strings: Path objects would take seconds for 100,000s of pictures.
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
                to_nothing = " (a broken link)" * (not os.path.exists(path))
                seen.others.append(os.path.join(*steps, name) + to_nothing)
            elif not os.path.isfile(path) and not os.path.islink(path):
                seen.others.append(os.path.join(*steps, name) + " (not a file)")
            elif not steps and _is_own(path):
                seen.own.append(name)
            else:
                yield path, steps


def _refuse_folder(error: OSError) -> None:
    raise DataError(f"{error.filename}: a folder that cannot be read ({error.strerror})") from error


def _is_own(path: str) -> bool:
    """Returns whether genmod has drawn the picture."""
    if not path.lower().endswith(".png"):
        return False
    try:
        with open(path, "rb") as file:
            return WRITTEN in file.read(256)
    except OSError:
        return False
