"""Carries of version 0.1, which summed metrics in their own type, without compensation."""

from typing import Any

import numpy as np

from genmod import checks, devices

_COMPENSATION = "compensation"
"""Field of `genmod.train.Carry` that checkpoints of version 0.1 lack."""


def is_saved_so(stored: Any, target: Any) -> bool:
    """Returns whether version 0.1 saved this carry.

    That version summed metrics in their own type, without compensation.
    """
    return hasattr(target, _COMPENSATION) and _COMPENSATION not in stored


def target_of(stored: Any, target: Any) -> dict[str, Any]:
    """Returns the target of a carry of version 0.1.

    It has no compensation, and its totals have the types of the metrics.
    """
    fields = {name: leaf for name, leaf in target._asdict().items() if name != _COMPENSATION}
    saved = stored.get("totals", {})

    def as_saved(name: str, leaf: Any) -> Any:
        dtype = getattr(saved.get(name), "dtype", leaf.dtype)
        return leaf.update(dtype=dtype) if checks.summed_as(dtype) == leaf.dtype else leaf

    return fields | {"totals": {n: as_saved(n, leaf) for n, leaf in target.totals.items()}}


def completed(tree: Any, target: Any) -> Any:
    """Converts a carry of version 0.1 to the present fields.

    The rounding errors of its sums are unknown, so the compensation is 0.
    """

    def place(value: Any, leaf: Any) -> Any:
        return devices.place(np.asarray(value, leaf.dtype), leaf.sharding)

    totals = {
        name: tree["totals"][name]
        if tree["totals"][name].dtype == leaf.dtype
        else place(tree["totals"][name], leaf)
        for name, leaf in target.totals.items()
    }
    lost = {n: place(np.zeros(leaf.shape), leaf) for n, leaf in target.compensation.items()}
    return type(target)(**(tree | {"totals": totals, _COMPENSATION: lost}))
