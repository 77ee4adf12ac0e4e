"""Data sets, their random-access order, how examples become batches, and their augmentation."""

from genmod.data.augment import (
    augmented,
    brightness,
    compose,
    contrast,
    cutout,
    diffaugment,
    flip,
    saturation,
    translate,
)
from genmod.data.batches import batch_at, batches, indices_at, indices_of
from genmod.data.errors import DataError
from genmod.data.mixtures import MIXTURES, Mixture, grid, mixture_dataset, ring, sample_mixture
from genmod.data.order import shuffled
from genmod.data.protocols import binarized, signed_unit_interval, unchanged, unit_interval
from genmod.data.sources import Dataset, fingerprint, load
from genmod.data.stacked import (
    all_digits,
    stack,
    stacked_batches,
    stacked_frequencies,
    stacked_modes,
    triples,
)

__all__ = [
    "MIXTURES",
    "DataError",
    "Dataset",
    "Mixture",
    "all_digits",
    "augmented",
    "batch_at",
    "batches",
    "binarized",
    "brightness",
    "compose",
    "contrast",
    "cutout",
    "diffaugment",
    "fingerprint",
    "flip",
    "grid",
    "indices_at",
    "indices_of",
    "load",
    "mixture_dataset",
    "ring",
    "sample_mixture",
    "saturation",
    "shuffled",
    "signed_unit_interval",
    "stack",
    "stacked_batches",
    "stacked_frequencies",
    "stacked_modes",
    "translate",
    "triples",
    "unchanged",
    "unit_interval",
]
