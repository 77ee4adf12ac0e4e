"""Looks at a GAN in training: what it generates, and whether its modes are collapsing.

For `Experiment.observe`. A collapse is not seen in the losses: it shows in samples that repeat each
other, and in modes of the data that no sample reaches.
"""

from typing import Any

import numpy as np

from genmod import data, evaluate, report
from genmod.evaluate import digits as judges
from genmod.experiment import Observation

_GOOD = 0.5
"""Below this share of high-quality samples a generator is unfinished, not collapsed."""
_DUPLICATES = 0.05
"""More near duplicates than this are a warning; real images have next to none."""
_REACHED = 0.9
"""Fewer modes than this share of what perfect samples reach are a warning."""
_COMPARED = 1000
"""Among how many samples near duplicates are sought."""


def points(samples: Any, mixture: data.Mixture) -> Observation:
    """Generated points over the modes of a mixture, with the scores of `evaluate.mixture_modes`.

    Args:
      samples: [N, 2]; 2,500 in the protocol of PacGAN.
      mixture: the true distribution.
    """
    samples = np.asarray(samples)
    scores = evaluate.mixture_modes(samples, mixture.centers, mixture.std)
    warnings = []
    if scores.captured < scores.num_modes and (scores.high_quality or 0) > _GOOD:
        warnings.append(f"mode collapse: good samples, but {_reach(scores)}")
    return Observation(
        numbers=_numbers(scores),
        figures={"samples": report.plane(samples, mixture.centers, title=str(scores))},
        warnings=warnings,
    )


def digits(samples: Any, reference: np.ndarray | data.StreamedImages) -> Observation:
    """Generated digits: a grid, the share of near duplicates, and how the ten classes are reached.

    Args:
      samples: [N, 28, 28, 1], floating in [0, 1].
      reference: as many real digits or more, uint8.
    """
    samples = np.asarray(samples)
    judge = judges.classifier()
    scores = evaluate.label_modes(judge.labels(samples), 10, judge=judge.fingerprint)
    return _images(samples, reference, scores)


def images(samples: Any, reference: np.ndarray | data.StreamedImages) -> Observation:
    """Generated images of any kind: a grid, and the share of near duplicates.

    Args:
      samples: [N, H, W, C], floating in [0, 1].
      reference: real images, uint8; among as many samples, at most a thousand, copies are sought.
    """
    return _images(np.asarray(samples), reference, None)


def stacked_digits(samples: Any, reference: np.ndarray, frequencies: np.ndarray) -> Observation:
    """Generated stacks of three digits: the same, over 1,000 modes.

    Args:
      samples: [N, 28, 28, 3], floating in [0, 1]; 26,000 in the published protocol.
      reference: as many real stacks or more, uint8; near duplicates are sought among a thousand.
      frequencies: how often each mode is among real stacks, [1000], for the floor.
    """
    samples = np.asarray(samples)
    judge = judges.classifier()
    digits = [judge.labels(samples[..., channel : channel + 1]) for channel in range(3)]
    labels = data.stacked_modes(np.stack(digits, axis=1))
    scores = evaluate.label_modes(labels, 1000, frequencies=frequencies, judge=judge.fingerprint)
    return _images(samples, reference, scores)


def _images(
    samples: np.ndarray,
    reference: np.ndarray | data.StreamedImages,
    scores: evaluate.ModeScores | None,
) -> Observation:
    num = min(_COMPARED, len(samples), len(reference))
    share = evaluate.near_duplicates(samples[:num], reference=reference[:num] / np.float32(255))
    warnings = []
    if share > _DUPLICATES:
        warnings.append(f"mode collapse: {share:.0%} of the samples have a near duplicate")
    # Modes that even perfect samples would miss are none to warn of.
    if scores is not None and scores.captured < _REACHED * scores.floor.captured:
        warnings.append(f"mode collapse: {_reach(scores)}")
    title = f"near duplicates: {share:.1%}" if scores is None else str(scores)
    return Observation(
        numbers={"near_duplicates": share, **({} if scores is None else _numbers(scores))},
        figures={"samples": report.image_grid(samples[:100], title=title)},
        warnings=warnings,
    )


def _numbers(scores: evaluate.ModeScores) -> dict[str, float]:
    numbers = {"modes": float(scores.captured), "reverse_kl": scores.reverse_kl}
    if scores.high_quality is not None:
        numbers["high_quality"] = scores.high_quality
    return numbers


def _reach(scores: evaluate.ModeScores) -> str:
    return f"{scores.captured} of {scores.num_modes} modes are reached"
