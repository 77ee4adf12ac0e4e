"""Evaluation: numbers that say how good a model is, each with its standard error or its floor."""

from genmod.evaluate.averages import Estimate, estimate, over_examples
from genmod.evaluate.duplicates import duplicate_tolerance, near_duplicates
from genmod.evaluate.modes import (
    ModeFloor,
    ModeScores,
    expected_reverse_kl,
    label_modes,
    mixture_modes,
    mode_counts,
)

__all__ = [
    "Estimate",
    "ModeFloor",
    "ModeScores",
    "duplicate_tolerance",
    "estimate",
    "expected_reverse_kl",
    "label_modes",
    "mixture_modes",
    "mode_counts",
    "near_duplicates",
    "over_examples",
]
