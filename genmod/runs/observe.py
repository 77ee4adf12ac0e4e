"""Observations of a GAN in training, for `Experiment.observe`.

They show what the GAN generates, and warn of mode collapse. The losses do not show a collapse:
samples that repeat each other do, and modes of the data that no sample reaches.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from genmod import data, evaluate, report, rng
from genmod.evaluate import judges
from genmod.experiment import Observation
from genmod.runs.samples import CHUNK
from genmod.train import Learner
from genmod.types import Key

_GOOD = 0.5
"""Least share of high-quality samples for a warning of mode collapse.

A generator with a smaller share is unfinished, not collapsed.
"""
_DUPLICATES = 0.05
"""Largest share of near duplicates without a warning.

Real images have next to none.
"""
_REACHED = 0.9
"""Least share of modes without a warning.

It is a share of the modes that perfect samples reach.
"""
_COMPARED = 1000
"""Number of samples among which near duplicates are sought."""


def points(samples: Any, mixture: data.Mixture) -> Observation:
    """Observes generated points over the modes of a mixture.

    The scores are those of `evaluate.mixture_modes`.

    Args:
      samples: generated points, [N, 2]; 2,500 in the protocol of PacGAN.
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


def images(samples: Any, dataset: data.Dataset) -> Observation:
    """Observes generated images.

    Gives a grid and the share of near duplicates. If a classifier that comes with genmod recognises
    the data, it also tells how many of its classes are reached.

    Args:
      samples: generated images, [N, H, W, C], floating in [0, 1]. Near duplicates are sought among
        as many samples as there are real images, at most a thousand.
      dataset: real images with their labels.
    """
    return _of_images(samples, dataset, _judge(dataset))


def samples(
    learner: Learner, dataset: data.Dataset, *, num: int = 1000
) -> Callable[[Key, Any], Observation]:
    """Returns the observation of a learner's samples, for `Experiment.observe`.

    Args:
      learner: learner that draws images.
      dataset: real images, as for `images`.
      num: number of samples. If no classifier recognises the data, a thousand are enough.
    """
    judge = functools.cache(lambda: _judge(dataset))

    def look(key: Key, state: Any) -> Observation:
        count = num if judge() is not None else min(num, _COMPARED)
        return _of_images(_drawn(learner, key, state, count), dataset, judge())

    return look


def scores(
    learner: Learner, dataset: data.Dataset, *, num: int = 10_000
) -> Callable[[Key, Any], dict[str, float]]:
    """Returns the scores of many samples, for `Experiment.evaluate`.

    It is a function `(key, state) -> numbers`. The numbers are those of `samples`, and
    `class_as_asked` of a learner that is given the labels.

    Args:
      learner: learner that draws images.
      dataset: real images with their labels.
      num: number of samples.
    """
    many, asked = samples(learner, dataset, num=num), class_as_asked(learner, dataset)
    conditions = learner.conditions
    given = conditions is not None and conditions.are(dataset.labels)

    def evaluation(key: Key, state: Any) -> dict[str, float]:
        return {**many(key, state).numbers, **(asked(key, state) if given else {})}

    return evaluation


def class_as_asked(
    learner: Learner, dataset: data.Dataset, *, num_each: int = 1000
) -> Callable[[Key, Any], dict[str, float]]:
    """Returns a function `(key, state) -> numbers`, for `Experiment.evaluate`.

    The number `class_as_asked` is the share of samples in which a classifier that comes with genmod
    finds the class that was asked for. If none recognises the data, there is no number.

    Args:
      learner: learner whose conditions are the labels of the data.
      dataset: real images with their labels.
      num_each: number of samples of each class.
    """

    def evaluation(key: Key, state: Any) -> dict[str, float]:
        judge = _judge(dataset)
        if judge is None:
            return {}
        assert learner.conditions is not None
        assert learner.conditions.labels is not None
        asked = np.tile(learner.conditions.labels, num_each)
        drawn = _drawn(learner, rng.stream(key, "samples"), state, len(asked), asked)
        return {"class_as_asked": float((judge.labels(drawn) == asked).mean())}

    return evaluation


def stacked_digits(samples: Any, reference: np.ndarray, frequencies: np.ndarray) -> Observation:
    """Observes generated stacks of three digits.

    Gives the same as `images`, but over 1,000 modes.

    Args:
      samples: generated stacks, [N, 28, 28, 3], floating in [0, 1]; 26,000 in the published
        protocol.
      reference: real stacks, as many or more, uint8. Near duplicates are sought among a thousand.
      frequencies: frequency of each mode among real stacks, [1000], for the floor of the scores.
    """
    samples = np.asarray(samples)
    judge = judges.classifier()
    labels = data.stacked_modes(judge.labels_by_channel(samples))
    scores = evaluate.label_modes(labels, 1000, frequencies=frequencies, judge=judge.fingerprint)
    return _images(samples, reference, scores)


def _judge(dataset: data.Dataset) -> judges.Judge | None:
    """Returns the classifier that recognises a data set."""
    return judges.that_reads(dataset) if dataset.images.shape[1:] == judges.SHAPE else None


def _drawn(
    learner: Learner, key: Key, state: Any, num: int, condition: np.ndarray | None = None
) -> np.ndarray:
    """Draws images in chunks.

    All at once may take more memory than there is.
    """
    parts = []
    for index, first in enumerate(range(0, num, CHUNK)):
        some = None if condition is None else condition[first : first + CHUNK]
        size = min(CHUNK, num - first)
        parts.append(np.asarray(learner.sample(rng.at_step(key, index), state, size, some)))
    return np.concatenate(parts)


def _of_images(samples: Any, dataset: data.Dataset, judge: judges.Judge | None) -> Observation:
    samples, scores = np.asarray(samples), None
    if judge is not None and samples.shape[1:] == judges.SHAPE:
        scores = judge.modes(judge.labels(samples), dataset.labels)
    return _images(samples, dataset.images, scores)


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
    # Modes that even perfect samples would miss give no warning.
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
