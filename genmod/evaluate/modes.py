"""Mode coverage: how many known modes samples reach, how evenly.

The protocol is that of VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al. 2018): 2,500 samples
of a mixture in the plane, 26,000 samples of Stacked-MNIST. A finite number of perfect samples does
not score perfectly either, so every score comes with its floor: the mean score of as many perfect
samples.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.types import Array


class ModeFloor(NamedTuple):
    """Mean scores of as many samples of the true distribution.

    Attributes:
      captured: number of modes.
      high_quality: share in [0, 1]; None if it is not measured.
      reverse_kl: reverse KL divergence, in nats.
    """

    captured: float
    high_quality: float | None
    reverse_kl: float


class ModeScores(NamedTuple):
    """Scores of samples against known modes.

    As a string, they are one line with the floor in brackets.

    Attributes:
      captured: number of modes with at least one high-quality sample.
      num_modes: number of modes K.
      high_quality: share of the samples that are near a mode, in [0, 1]; None if only the mode of
        each sample is known.
      reverse_kl: KL(samples' modes || true modes) over the high-quality samples, in nats.
      floor: mean scores of as many perfect samples.
      judge: fingerprint of the classifier that recognised the modes; empty without a classifier.
    """

    captured: int
    num_modes: int
    high_quality: float | None
    reverse_kl: float
    floor: ModeFloor
    judge: str = ""

    def __str__(self) -> str:
        floor = self.floor
        parts = [f"modes {self.captured} of {self.num_modes} (floor {floor.captured:.4g})"]
        if self.high_quality is not None:
            parts.append(f"high quality {self.high_quality:.1%} ({floor.high_quality:.1%})")
        parts.append(f"reverse KL {self.reverse_kl:.3g} ({floor.reverse_kl:.3g})")
        if self.judge:
            parts.append(f"judge {self.judge.removeprefix('sha256:')[:8]}")
        return ", ".join(parts)


def mode_counts(
    samples: Array | np.ndarray,
    centers: Array | np.ndarray,
    std: float | Array,
    *,
    within: float = 3.0,
) -> Any:
    """Counts the samples near each mode.

    A sample belongs to its nearest mode, and counts if it is at most `within` standard deviations
    away. A sample with NaN counts nowhere. With NumPy arrays the computation runs on the host, in
    their precision; with JAX arrays it may be compiled, and mapped over seeds.

    Args:
      samples: samples [N, D].
      centers: mean of each mode, [K, D].
      std: standard deviation of each mode, in every coordinate.
      within: radius of a mode, in standard deviations.

    Returns:
      Number of high-quality samples of each mode, integers [K].

    Raises:
      ValueError: if a shape differs from these.
    """
    if len(centers.shape) != 2 or 0 in centers.shape:
        raise ValueError(f"centers must have the shape [K, D], got {list(centers.shape)}")
    dimensions = centers.shape[1]
    if len(samples.shape) != 2 or samples.shape[1] != dimensions or not samples.shape[0]:
        raise ValueError(
            f"samples must have the shape [N, {dimensions}], got {list(samples.shape)}"
        )
    offsets = samples[:, None, :] - centers[None, :, :]
    squared = (offsets * offsets).sum(-1)
    near = squared.min(-1) <= (within * std) ** 2
    modes = np.arange(len(centers))[None, :]
    return ((squared.argmin(-1)[:, None] == modes) & near[:, None]).sum(0)


def mixture_modes(samples: Any, centers: Any, std: float, *, within: float = 3.0) -> ModeScores:
    """Scores samples against a mixture of equally likely Gaussian modes.

    The floor assumes that modes are much further apart than they are wide.

    Args:
      samples: samples [N, D].
      centers: mean of each mode, [K, D].
      std: standard deviation of each mode, in every coordinate.
      within: radius of a mode, in standard deviations: a sample that is not further away from its
        nearest mode has high quality.

    Returns:
      The scores. Without any high-quality sample reverse_kl is ln K, its largest value, which
      samples in a single mode also have.

    Raises:
      ValueError: if a shape differs from these, centers are not finite, or std or within is not
        positive.
    """
    samples, centers = np.asarray(samples, np.float64), np.asarray(centers, np.float64)
    if not np.isfinite(centers).all():
        raise ValueError("centers must be finite, got NaN or infinity")
    checks.positive("std", std)
    checks.positive("within", within)
    counts = mode_counts(samples, centers, float(std), within=within)
    num_modes, dimensions = centers.shape
    uniform = np.full(num_modes, 1 / num_modes)
    share = _share_within(within, dimensions)
    return ModeScores(
        captured=int(np.count_nonzero(counts)),
        num_modes=num_modes,
        high_quality=float(counts.sum() / len(samples)),
        reverse_kl=_reverse_kl(counts, uniform) if counts.any() else math.log(num_modes),
        floor=_floor(len(samples), uniform, uniform, share),
    )


def label_modes(
    labels: Any,
    num_modes: int,
    *,
    reference: Any = None,
    frequencies: Any = None,
    judge: str = "",
) -> ModeScores:
    """Scores samples whose modes a classifier has recognised.

    An example is Stacked-MNIST. Its published scores are KL to 1,000 uniform modes, though the
    digits of MNIST are not equally frequent. To compute the published score, and as its floor that
    of real stacks, leave `reference` out and give `frequencies=data.stacked_frequencies(...)`.

    Args:
      labels: mode of each sample, integers in [0, K), [N].
      num_modes: number of modes K.
      reference: distribution over modes from which reverse_kl is measured, [K]; uniform if None.
      frequencies: true probability of each mode, [K], for the floor; the reference if None.
      judge: fingerprint of the classifier that gave the labels, to be kept with the scores.

    Raises:
      ValueError: if a shape or type differs from these, a label is out of range, or a distribution
        does not sum to 1 or has numbers below 0 (a reference: not above 0).
    """
    num_modes = checks.positive_integer("num_modes", num_modes)
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of the shape [N], got {labels.dtype} {list(labels.shape)}"
        )
    if not 0 <= labels.min() <= labels.max() < num_modes:
        raise ValueError(
            f"labels must be in [0, {num_modes}), got {labels.min()} to {labels.max()}"
        )
    if reference is None:
        reference = np.full(num_modes, 1 / num_modes)
    reference = _distribution("reference", reference, num_modes)
    if not reference.all():
        raise ValueError(
            "reference must give every mode a probability above 0, got 0 for mode "
            f"{int(reference.argmin())}"
        )
    if frequencies is None:
        frequencies = reference
    frequencies = _distribution("frequencies", frequencies, num_modes)
    counts = np.bincount(labels, minlength=num_modes)
    return ModeScores(
        captured=int(np.count_nonzero(counts)),
        num_modes=num_modes,
        high_quality=None,
        reverse_kl=_reverse_kl(counts, reference),
        floor=_floor(len(labels), frequencies, reference, None),
        judge=judge,
    )


def expected_reverse_kl(num: int, frequencies: Any, reference: Any = None) -> float:
    """Returns the exact mean of the reverse KL of N draws.

    For N independent draws of modes, this is the mean of

        KL(counts / N || reference)

    Even if the draws follow the reference, it is above 0, by about (K - 1) / 2N nats. Each count c
    is binomial, and its term c/N ln(c/N) is summed over all values of c.

    Args:
      num: number of draws N.
      frequencies: probability of each mode, [K].
      reference: distribution from which the divergence is measured, [K]; frequencies if None.

    Returns:
      Mean divergence, in nats.

    Raises:
      ValueError: if num is not positive, or a distribution has numbers below 0 or does not sum to
        1, or reference gives a mode that is drawn the probability 0.
    """
    num = checks.positive_integer("num", num)
    frequencies = _distribution("frequencies", frequencies, np.size(frequencies))
    if reference is None:
        reference = frequencies
    reference = _distribution("reference", reference, len(frequencies))
    drawn = frequencies > 0
    frequencies, reference = frequencies[drawn], reference[drawn]
    if not reference.all():
        raise ValueError("reference must give every mode that is drawn a probability above 0")

    log_factorials = np.concatenate([[0], np.cumsum(np.log(np.arange(1, num + 1)))])
    log_choose = log_factorials[-1] - log_factorials - log_factorials[::-1]
    counts = np.arange(num + 1)
    terms = counts / num * np.log(np.maximum(counts, 1) / num)
    # Many modes may have the same probability; the sum is computed once for each probability.
    alike, times = np.unique(frequencies, return_counts=True)
    total = -float(frequencies @ np.log(reference))
    for p, many in zip(alike, times, strict=True):
        if p == 1:  # the count is always N, so its term is 0
            continue
        # Counts further from their mean have a probability below 1e-25 altogether.
        reach = 40 * math.sqrt(num * p * (1 - p)) + 40
        near = slice(max(0, int(num * p - reach)), int(num * p + reach) + 1)
        each = counts[near]
        log_pmf = log_choose[near] + each * math.log(p) + (num - each) * math.log1p(-p)
        total += float(many * (np.exp(log_pmf) @ terms[near]))
    return total


def _floor(
    num: int, frequencies: np.ndarray, reference: np.ndarray, share: float | None
) -> ModeFloor:
    good = 1.0 if share is None else share
    # The number of high-quality samples varies; the divergence is computed for its mean.
    expected = max(1, round(num * good))
    return ModeFloor(
        captured=float((1 - (1 - good * frequencies) ** num).sum()),
        high_quality=share,
        reverse_kl=expected_reverse_kl(expected, frequencies, reference),
    )


def _share_within(radius: float, dimensions: int) -> float:
    """Returns the share of a standard normal within `radius`.

    It is the probability that a standard normal vector in D dimensions is no longer than `radius`.
    This is the regularised incomplete gamma function P(D/2, radius^2 / 2), computed by its
    recurrence in D. In the plane it is 1 - exp(-radius^2 / 2).
    """
    half = radius * radius / 2
    order, beyond = (0.5, math.erfc(math.sqrt(half))) if dimensions % 2 else (0.0, 0.0)
    while order < dimensions / 2:
        beyond += math.exp(order * math.log(half) - half - math.lgamma(order + 1))
        order += 1
    return 1 - min(beyond, 1.0)


def _reverse_kl(counts: np.ndarray, reference: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    # A divergence is never below 0, but for equal distributions rounding may give such a value.
    return max(0.0, float(shares @ np.log(shares / reference[counts > 0])))


def _distribution(name: str, values: Any, num: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (num,) or not num:
        raise ValueError(f"{name} must have the shape [{num}], got {list(values.shape)}")
    if not (values >= 0).all() or abs(values.sum() - 1) > 1e-6:
        raise ValueError(
            f"{name} must be probabilities that sum to 1, got a sum of {values.sum():g} and a "
            f"smallest value of {values.min():g}"
        )
    return values
