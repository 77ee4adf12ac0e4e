"""The experiments known by name: those in ./experiments, then those that come with genmod."""

from pathlib import Path

INSTALLED = "shipped_experiments"
"""Where the experiments lie within an installed package; in a clone they are beside it."""


def shipped() -> Path:
    """The folder of the experiments that come with genmod."""
    package = Path(__file__).parent
    installed = package / INSTALLED
    return installed if installed.is_dir() else package.parent / "experiments"


def files(folder: str | Path | None = None) -> dict[str, Path]:
    """The experiments by name: Python files whose name starts with a letter.

    Args:
      folder: where to look instead.
    """
    places = [shipped(), Path("experiments")] if folder is None else [Path(folder)]
    found = {path.stem: path for place in places for path in place.glob("[a-zA-Z]*.py")}
    return dict(sorted(found.items()))
