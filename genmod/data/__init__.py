"""Data sets, their order, batches and augmentation."""

from genmod.data.adaptive_augment import adaptive
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
from genmod.data.batches import (
    batch_at,
    batch_size_of,
    batches,
    describe,
    indices_of,
    placement,
)
from genmod.data.cache import fingerprint
from genmod.data.classes import fold
from genmod.data.dataset import Dataset, from_arrays, image_and_label, num_classes
from genmod.data.factors import (
    Factors,
    factor_dataset,
    factors_of,
    pooled,
    sample_factors,
    sprites,
    xy_squares,
)
from genmod.data.mixtures import MIXTURES, Mixture, grid, mixture_dataset, ring, sample_mixture
from genmod.data.order import indices_at, shuffled
from genmod.data.protocols import (
    Prepare,
    binarized,
    binarized_once,
    by_field,
    dequantized,
    padded,
    signed_unit_interval,
    thresholded,
    unchanged,
    unit_interval,
)
from genmod.data.sources import Source, load, train_and_test
from genmod.data.splits import DIVISIONS, Division
from genmod.data.stacked import (
    all_digits,
    stack,
    stacked_batches,
    stacked_dataset,
    stacked_frequencies,
    stacked_modes,
    triples,
)
from genmod.data.stores import StreamedImages
from genmod.data.summary import Summary, batches_per_second, mean_image, summary
from genmod.data.together import together
from genmod.errors import DataError

__all__ = [
    "DIVISIONS",
    "MIXTURES",
    "DataError",
    "Dataset",
    "Division",
    "Factors",
    "Mixture",
    "Prepare",
    "Source",
    "StreamedImages",
    "Summary",
    "adaptive",
    "all_digits",
    "augmented",
    "batch_at",
    "batch_size_of",
    "batches",
    "batches_per_second",
    "binarized",
    "binarized_once",
    "brightness",
    "by_field",
    "compose",
    "contrast",
    "cutout",
    "dequantized",
    "describe",
    "diffaugment",
    "factor_dataset",
    "factors_of",
    "fingerprint",
    "flip",
    "fold",
    "from_arrays",
    "grid",
    "image_and_label",
    "indices_at",
    "indices_of",
    "load",
    "mean_image",
    "mixture_dataset",
    "num_classes",
    "padded",
    "placement",
    "pooled",
    "ring",
    "sample_factors",
    "sample_mixture",
    "saturation",
    "shuffled",
    "signed_unit_interval",
    "sprites",
    "stack",
    "stacked_batches",
    "stacked_dataset",
    "stacked_frequencies",
    "stacked_modes",
    "summary",
    "thresholded",
    "together",
    "train_and_test",
    "translate",
    "triples",
    "unchanged",
    "unit_interval",
    "xy_squares",
]
