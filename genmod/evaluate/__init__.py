"""Evaluation: numbers that say how good a model is, each with its standard error."""

from genmod.evaluate.averages import Estimate, estimate, over_examples

__all__ = ["Estimate", "estimate", "over_examples"]
