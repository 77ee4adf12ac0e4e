"""Experiment files: finding and loading.

They are in ./experiments, or come with genmod.
"""

import dataclasses
from importlib.machinery import SOURCE_SUFFIXES
from pathlib import Path
from types import ModuleType

from genmod._host import source

INSTALLED = "shipped_experiments"
"""Folder of the experiments within an installed package.

A clone of the repository has them beside the package.
"""


def shipped() -> Path:
    """Returns the folder of genmod's own experiments."""
    package = Path(__file__).parents[1]
    installed = package / INSTALLED
    return installed if installed.is_dir() else package.parent / "experiments"


def files(folder: str | Path | None = None) -> dict[str, Path]:
    """Returns the experiment files by name.

    An experiment is a Python file whose name starts with a letter.

    Args:
      folder: folder to search; if None, ./experiments and genmod's own.
    """
    places = [shipped(), Path("experiments")] if folder is None else [Path(folder)]
    found = {path.stem: path for place in places for path in place.glob("[a-zA-Z]*.py")}
    return dict(sorted(found.items()))


def find(name: str, folder: str | Path | None = None) -> Path:
    """Finds the file of an experiment by path or name.

    Args:
      name: a path that ends in .py, or the name of an experiment. One in ./experiments takes
        precedence over one that comes with genmod.
      folder: folder to search for names instead.

    Raises:
      ValueError: if there is no such experiment; the message gives the nearest names.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise ValueError(f"experiment {name!r}: there is no such file")
        return path
    from genmod import checks  # imports JAX, which a list of names does not need

    found = files(folder)
    checks.known("experiment", name, found)
    return found[name]


def names(folder: str | Path | None = None) -> list[str]:
    """Returns the names of experiments that `find` knows."""
    return list(files(folder))


def load(path: str | Path) -> ModuleType:
    """Imports an experiment file.

    The modules beside it that it imports are loaded as well (`genmod._host.source`).

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
