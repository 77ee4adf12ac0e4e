"""genmod: generative modelling as pure functions, in JAX.

    rng         keys
    nets        networks
    vae, gan    models, their losses and their parts
    train       learners, the loop, seeds, devices, checkpoints
    data        data sets and batches
    evaluate    numbers that say how good a model is
    report      figures, and the report page
    experiment  what an experiment file returns
    runs        run folders: training in them, and all that is made of them
    types, checks, devices, errors: what all of these share

Each is imported when it is first used, so that `import genmod` costs next to nothing.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    *("checks", "data", "devices", "errors", "evaluate", "experiment", "gan", "nets", "report"),
    *("rng", "runs", "train", "types", "vae"),
)

__all__ = ["__version__", *_ROOMS]  # pyrefly: ignore


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"genmod.{name}")
    raise AttributeError(f"module 'genmod' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
