"""Data sets, their random-access order, and how examples become batches."""

from genmod.data.batches import batch_at, batches
from genmod.data.errors import DataError
from genmod.data.order import shuffled
from genmod.data.protocols import binarized, unit_interval
from genmod.data.sources import Dataset, fingerprint, load

__all__ = [
    "DataError",
    "Dataset",
    "batch_at",
    "batches",
    "binarized",
    "fingerprint",
    "load",
    "shuffled",
    "unit_interval",
]
