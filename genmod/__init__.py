"""genmod: generative modelling as pure functions, in JAX.

Rooms: `rng` (keys), `nets`, `vae`, `gan`, `data`, `train`, `evaluate`, `report`, `record`. Each is
imported when it is first used, so that `import genmod` costs next to nothing.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = ("data", "evaluate", "gan", "nets", "record", "report", "rng", "train", "types", "vae")

__all__ = ["__version__", *_ROOMS]  # pyrefly: ignore


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"genmod.{name}")
    raise AttributeError(f"module 'genmod' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
