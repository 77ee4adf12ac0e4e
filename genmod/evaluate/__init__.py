"""Evaluation of generative models.

Each score comes with its standard error, or with its floor: the mean score of as many perfect
samples.
"""

from genmod.evaluate.annealing import Interval, Simulated, annealed, bidirectional
from genmod.evaluate.averages import Estimate, estimate, on_test, over_examples
from genmod.evaluate.clusters import clustering_accuracy, matched_classes
from genmod.evaluate.disentangle_fitted import Dci, InfoMec, dci, infomec, sap
from genmod.evaluate.disentanglement import (
    FactorGroups,
    factor_groups,
    factor_vae_score,
    group_score,
    mig,
)
from genmod.evaluate.distances import (
    Subsets,
    kernel_distance,
    kernel_distance_of_subsets,
    sliced_distance,
)
from genmod.evaluate.duplicates import duplicate_tolerance, near_duplicates
from genmod.evaluate.frechet import (
    Extrapolation,
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    frechet_from_statistics,
    frechet_infinity,
)
from genmod.evaluate.likelihood import Likelihood, importance
from genmod.evaluate.modes import (
    ModeFloor,
    ModeScores,
    expected_reverse_kl,
    label_modes,
    mixture_modes,
    mode_counts,
)
from genmod.evaluate.neighbours import (
    Copying,
    PrecisionRecall,
    authenticity,
    copying,
    precision_recall_density_coverage,
)
from genmod.evaluate.observation import choose_sigma, gaussian_observation
from genmod.evaluate.posteriors import (
    ActiveUnits,
    AggregatePosterior,
    active_units,
    aggregate_posterior,
    minibatch_stratified_sampling,
    minibatch_weighted_sampling,
    unit_kl,
)
from genmod.evaluate.resampling import floor, interval, intervals
from genmod.evaluate.results import Result, check_protocols, compare, over_runs
from genmod.evaluate.scores import ClassifierScore, classification_accuracy_score, classifier_score
from genmod.evaluate.tempering import Prior, standard_normal, temperatures
from genmod.evaluate.units import bits_per_dim

__all__ = [
    "ActiveUnits",
    "AggregatePosterior",
    "ClassifierScore",
    "Copying",
    "Dci",
    "Estimate",
    "Extrapolation",
    "FactorGroups",
    "FeatureStatistics",
    "InfoMec",
    "Interval",
    "Likelihood",
    "ModeFloor",
    "ModeScores",
    "PrecisionRecall",
    "Prior",
    "Result",
    "Simulated",
    "Subsets",
    "active_units",
    "aggregate_posterior",
    "annealed",
    "authenticity",
    "bidirectional",
    "bits_per_dim",
    "check_protocols",
    "choose_sigma",
    "classification_accuracy_score",
    "classifier_score",
    "clustering_accuracy",
    "compare",
    "copying",
    "dci",
    "duplicate_tolerance",
    "estimate",
    "expected_reverse_kl",
    "factor_groups",
    "factor_vae_score",
    "feature_statistics",
    "floor",
    "frechet_distance",
    "frechet_from_statistics",
    "frechet_infinity",
    "gaussian_observation",
    "group_score",
    "importance",
    "infomec",
    "interval",
    "intervals",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "label_modes",
    "matched_classes",
    "mig",
    "minibatch_stratified_sampling",
    "minibatch_weighted_sampling",
    "mixture_modes",
    "mode_counts",
    "near_duplicates",
    "on_test",
    "over_examples",
    "over_runs",
    "precision_recall_density_coverage",
    "sap",
    "sliced_distance",
    "standard_normal",
    "temperatures",
    "unit_kl",
]
