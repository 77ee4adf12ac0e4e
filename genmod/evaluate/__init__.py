"""Evaluation of generative models.

Each score comes with its standard error, or with its floor: the mean score of as many perfect
samples.
"""

from genmod.evaluate.averages import Estimate, estimate, on_test, over_examples
from genmod.evaluate.duplicates import duplicate_tolerance, near_duplicates
from genmod.evaluate.modes import (
    ModeFloor,
    ModeScores,
    expected_reverse_kl,
    label_modes,
    mixture_modes,
    mode_counts,
)
from genmod.evaluate.units import bits_per_dim

__all__ = [
    "Estimate",
    "ModeFloor",
    "ModeScores",
    "bits_per_dim",
    "duplicate_tolerance",
    "estimate",
    "expected_reverse_kl",
    "label_modes",
    "mixture_modes",
    "mode_counts",
    "near_duplicates",
    "on_test",
    "over_examples",
]
