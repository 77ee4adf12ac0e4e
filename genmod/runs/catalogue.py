"""Experiment files: those in ./experiments and those that come with genmod, found and loaded."""

import dataclasses
from importlib.machinery import SOURCE_SUFFIXES
from pathlib import Path
from types import ModuleType

from genmod._host import source

INSTALLED = "shipped_experiments"
"""Where the experiments lie within an installed package; in a clone they are beside it."""


def shipped() -> Path:
    """The folder of the experiments that come with genmod."""
    package = Path(__file__).parents[1]
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


def find(name: str, folder: str | Path | None = None) -> Path:
    """The file of an experiment, from its path or from its name.

    Args:
      name: a path that ends in .py, or a name in ./experiments or of what comes with genmod; the
        first comes first.
      folder: where names are looked for instead.

    Raises:
      ValueError: if there is none; the nearest names are given.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise ValueError(f"experiment {name!r}: there is no such file")
        return path
    from genmod import checks  # which imports JAX: a list of names needs none

    found = files(folder)
    checks.known("experiment", name, found)
    return found[name]


def names(folder: str | Path | None = None) -> list[str]:
    """The experiments that `find` knows by name: Python files whose name starts with a letter."""
    return list(files(folder))


def load(path: str | Path) -> ModuleType:
    """Imports an experiment file, with what it imports from its own folder (`genmod._host.source`).

    Raises:
      ValueError: if it lacks a frozen dataclass `Config` with the fields `seed` and `epochs`, or a
        function `build`.
    """
    if Path(path).suffix not in SOURCE_SUFFIXES:
        raise ValueError(f"experiment {str(path)!r}: not a Python file")
    module = source.load(path)
    config = getattr(module, "Config", None)
    frozen = getattr(getattr(config, "__dataclass_params__", None), "frozen", False)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config) and frozen):
        raise ValueError(f"{path}: expected a frozen dataclass Config, got {config!r}")
    missing = {"seed", "epochs"} - {field.name for field in dataclasses.fields(config)}
    if missing:
        raise ValueError(
            f"{path}: expected Config to have the fields seed and epochs, not without {missing}"
        )
    if not callable(getattr(module, "build", None)):
        raise ValueError(f"{path}: expected a function build(config), found none")
    return module
