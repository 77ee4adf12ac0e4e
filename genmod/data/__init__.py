"""Data sets, their random-access order, and how examples become batches."""

from genmod.data.batches import batch_at, batches, indices_at, indices_of
from genmod.data.errors import DataError
from genmod.data.mixtures import MIXTURES, Mixture, grid, mixture_dataset, ring, sample_mixture
from genmod.data.order import shuffled
from genmod.data.protocols import (
    binarized,
    binarized_once,
    dequantized,
    padded,
    signed_unit_interval,
    thresholded,
    unchanged,
    unit_interval,
)
from genmod.data.sources import (
    Dataset,
    Source,
    fingerprint,
    from_arrays,
    load,
    train_and_test,
)
from genmod.data.stacked import (
    all_digits,
    stack,
    stacked_batches,
    stacked_frequencies,
    stacked_modes,
    triples,
)
from genmod.data.summary import Summary, images_per_second, summary

__all__ = [
    "MIXTURES",
    "DataError",
    "Dataset",
    "Mixture",
    "Source",
    "Summary",
    "all_digits",
    "batch_at",
    "batches",
    "binarized",
    "binarized_once",
    "dequantized",
    "fingerprint",
    "from_arrays",
    "grid",
    "images_per_second",
    "indices_at",
    "indices_of",
    "load",
    "mixture_dataset",
    "padded",
    "ring",
    "sample_mixture",
    "shuffled",
    "signed_unit_interval",
    "stack",
    "stacked_batches",
    "stacked_frequencies",
    "stacked_modes",
    "summary",
    "thresholded",
    "train_and_test",
    "triples",
    "unchanged",
    "unit_interval",
]
