"""Pictures of a run folder, for report pages."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from genmod.report import page
from genmod.runs.folder import Folder
from genmod.runs.gathered import Gathered


class Pictures:
    """Reader of pictures in a page's form, each read once."""

    def __init__(self):
        self._found: dict[Path, tuple[str, bool] | None] = {}

    def source(self, path: Path) -> tuple[str, bool] | None:
        """Returns a picture, or None if it cannot be read.

        The second value is whether it is a small grid of pixels.
        """
        if path not in self._found:
            try:
                with Image.open(path) as image:
                    self._found[path] = page.source_of(image)
            except Exception:  # Pillow may raise any error
                self._found[path] = None
        return self._found[path]

    def unreadable(self, folder: Path) -> list[Path]:
        """Returns the pictures below a folder that cannot be read."""
        return [p for p, one in self._found.items() if one is None and p.is_relative_to(folder)]


def frames(folder: Folder, most: int, pictures: Pictures) -> list[page.Frames]:
    """Returns pictures drawn during training, thinned out."""
    found = []
    for place in sorted(path for path in folder.pictures.glob("*") if path.is_dir()):
        files = by_step(place)
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


def stills(
    run: Gathered, pictures: Pictures, drawn_here: Collection[str]
) -> dict[str, tuple[str, bool]]:
    """Returns the pictures drawn at the end of a run.

    Those that the page draws itself are left out. Of several seeds, only the first has its pictures
    returned.
    """
    places = [run.folder.pictures, run.folder.pictures / f"seed-{run.seeds[0]}"]
    return {
        path.stem: source
        for place in places
        for path in sorted(place.glob("*.png"))
        if path.stem not in drawn_here and (source := pictures.source(path)) is not None
    }


def by_step(place: Path) -> dict[int, Path]:
    """Returns a folder's pictures of observations, ordered by step."""
    names = {path: path.stem.removeprefix("step-") for path in place.glob("step-*.png")}
    return dict(sorted((int(name), path) for path, name in names.items() if name.isdecimal()))
