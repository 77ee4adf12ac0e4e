"""Metrics of a run's samples: classes, distances, memorisation."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from genmod import data, evaluate
from genmod.evaluate import Result, judges
from genmod.runs.subject import NotApplicable, Subject

Measure = Callable[..., Sequence[float]]
"""Function `(real [N, D], fake [M, D]) -> numbers` of features."""
_HALVES = 10
"""Number of random halves from which the error of a distance is estimated."""
_ERROR = f"standard deviation over {_HALVES} random halves"


def classes(subject: Subject) -> dict[str, Result]:
    """Returns how a classifier sees the samples, and whether as asked for.

    Stacks of three digits have 1,000 modes in place of the classes.
    """
    if subject.generated.shape[1:3] != judges.SHAPE[:2]:
        raise NotApplicable(f"the classifiers of genmod judge images {list(judges.SHAPE)}")
    judge = judges.that_reads(subject.built.dataset)
    if judge is None:
        raise NotApplicable("no classifier of genmod recognises the data")
    protocol = functools.partial(
        subject.protocol,
        num_fake=subject.options.num,
        classifier=judge.name,
        classifier_fingerprint=judge.fingerprint,
    )
    if subject.generated.shape[3] > 1:
        return _stacks(subject, judge, protocol)
    real, fake = judge.logits(subject.test.images), judge.logits(subject.generated)

    def score(logits: np.ndarray) -> float:  # which is biased by their number
        return evaluate.classifier_score(logits, splits=1).mean

    own = _with_error(subject, "classifier_score", score, fake)
    seen = fake.argmax(axis=1)
    modes = judge.modes(seen, subject.test.labels)
    found = {
        "classifier_score": own._replace(
            floor=score(real[: len(fake)]),
            protocol=protocol("classifier_score", splits=1, error=_ERROR),
        ),
        "reverse_kl_of_classes": Result(
            modes.reverse_kl,
            floor=modes.floor.reverse_kl,
            protocol=protocol("reverse_kl_of_classes", unit="nats", reference="uniform"),
        ),
    }
    if subject.built.is_given_labels:
        right = evaluate.estimate(seen == subject.drawn[1])
        floor = float(np.mean(real.argmax(axis=1) == subject.test.labels))
        found["class_as_asked"] = Result(*right, floor, protocol("class_as_asked"))
    return found


def _with_error(
    subject: Subject, name: str, score: Callable[[np.ndarray], float], fake: np.ndarray
) -> Result:
    """Returns a score of samples with its error."""
    key = subject.key(f"halves of {name}")
    own = evaluate.interval(
        key, lambda _, fake: score(fake), fake, fake, num=_HALVES, progress=False
    )
    return Result(own.value, own.error)


def _stacks(
    subject: Subject, judge: judges.Judge, protocol: Callable[..., dict[str, Any]]
) -> dict[str, Result]:
    """Returns how many modes stacks of digits reach, and how evenly.

    The protocol is that of PacGAN (Lin et al. 2018), which draws 26,000 stacks.
    """
    frequencies = data.stacked_frequencies(np.ravel(subject.built.dataset.labels))
    seen = data.stacked_modes(judge.labels_by_channel(subject.generated))

    def scores(seen: np.ndarray) -> evaluate.ModeScores:
        return evaluate.label_modes(seen, len(frequencies), frequencies=frequencies)

    name, found = "reverse_kl_of_modes", scores(seen)
    divergence = _with_error(subject, name, lambda seen: scores(seen).reverse_kl, seen)
    return {
        "modes": Result(
            float(found.captured),
            floor=found.floor.captured,
            protocol=protocol("modes", num_modes=found.num_modes),
        ),
        name: divergence._replace(
            floor=found.floor.reverse_kl,
            protocol=protocol(name, unit="nats", reference="uniform", error=_ERROR),
        ),
    }


def _frechet(*sets: np.ndarray) -> list[float]:
    return [evaluate.frechet_distance(*sets, convention="torch_fidelity")]


def distances(subject: Subject) -> dict[str, Result]:
    """Returns distances between samples and test images, each with its error and floor."""
    near = functools.partial(evaluate.precision_recall_density_coverage, progress=False)
    kernel = functools.partial(evaluate.kernel_distance, progress=False)
    sliced = functools.partial(evaluate.sliced_distance, subject.key("projections"))
    measures: dict[tuple[str, ...], tuple[Measure, dict[str, Any]]] = {
        ("frechet_distance",): (_frechet, {"convention": "torch_fidelity"}),
        ("kernel_distance",): (lambda *sets: [kernel(*sets)], {"convention": "unbiased"}),
        ("sliced_distance",): (lambda *sets: [sliced(*sets)], {"num_projections": 1000}),
        evaluate.PrecisionRecall._fields: (near, {"convention": "prdc", "k": 5}),
    }
    sets = subject.test_features, subject.generated_features, subject.perfect_features
    found = {}
    for names, (measure, settings) in measures.items():
        compared = _compared(subject, names, measure, *sets, progress=subject.progress)
        for name, result in zip(names, compared, strict=True):
            protocol = subject.distance_protocol(name, **settings, error=_ERROR)
            found[name] = result._replace(protocol=protocol)
    return found


def _compared(
    subject: Subject,
    names: tuple[str, ...],
    measure: Measure,
    real: np.ndarray,
    fake: np.ndarray,
    perfect: np.ndarray | None,
    progress: bool,
) -> list[Result]:
    """Returns the numbers of a measure, with errors and floors.

    Numbers that cannot be computed, as of a generator whose samples are all the same, are NaN.
    """
    key = subject.key(f"halves of {' '.join(names)}")
    try:
        own = evaluate.intervals(key, measure, real, fake, num=_HALVES, progress=progress)
        floors = [math.nan] * len(names) if perfect is None else measure(real, perfect)
    except ValueError as reason:
        subject.remarks.append(f"not a number: {', '.join(names)}: {reason}")
        return [Result(math.nan)] * len(names)
    return [Result(one.value, one.error, floor) for one, floor in zip(own, floors, strict=True)]


def class_distances(subject: Subject) -> dict[str, Result]:
    """Returns Fréchet distances of the classes, and their mean (intra-FID).

    Samples that were asked for a class are compared with the test images of it. The mean is that of
    Miyato & Koyama (2018, arXiv:1802.05637), section 5.1, on other features.
    """
    built, found = subject.built, {}
    labels = np.unique(built.dataset.labels)
    if not built.is_given_labels:
        raise NotApplicable("the samples are not asked for a class of the data")
    settings = {"convention": "torch_fidelity", "error": _ERROR}
    perfect = _perfect_of_classes(subject)
    for label, name in zip(labels, built.class_names(labels), strict=True):
        metric = f"frechet_distance of {name}"
        real = subject.test_features[subject.test.labels == label]
        fake = subject.generated_features[subject.drawn[1] == label]
        (found[metric],) = _compared(
            subject, (metric,), _frechet, real, fake, perfect[label], progress=False
        )
        sizes = {"num_real": len(real), "num_fake": len(fake)}
        protocol = subject.distance_protocol(metric, **settings) | sizes
        found[metric] = found[metric]._replace(protocol=protocol)
    values, errors, floors = np.array([result[:3] for result in found.values()]).T
    metric = "intra_frechet_distance"
    missing = [name for name, result in found.items() if math.isnan(result.value)]
    if missing:
        subject.remarks.append(f"not a number: {metric}: {', '.join(missing)} is none")
    found[metric] = Result(
        float(values.mean()),
        float(np.sqrt(np.mean(errors**2) / len(errors))),
        float(floors.mean()),
        subject.distance_protocol(metric, **settings, classes=len(values)),
    )
    return found


def _perfect_of_classes(subject: Subject) -> dict[int, np.ndarray | None]:
    """Returns features of training images in place of samples, by label.

    They are as many as the samples of the class; None if there are fewer.
    """
    dataset, places = subject.reference, {}
    for label in np.unique(subject.built.dataset.labels):
        own, num = np.flatnonzero(dataset.labels == label), np.sum(subject.drawn[1] == label)
        order = jax.random.permutation(subject.key(f"floor of class {label}"), len(own))
        places[label] = own[np.asarray(order[:num])] if num <= len(own) else own[:0]
    if not any(map(len, places.values())):
        return dict.fromkeys(places)
    of_all = subject.features_of(dataset.images[np.concatenate([*places.values()])])
    parts = np.split(of_all, np.cumsum([len(own) for own in places.values()])[:-1])
    return {label: part if len(part) else None for label, part in zip(places, parts, strict=True)}


def memorisation(subject: Subject) -> dict[str, Result]:
    """Returns whether samples are nearer to training images than test images are."""
    trained, quiet = subject.training_features, {"progress": subject.progress}
    found = {}
    value, error = evaluate.authenticity(trained, subject.generated_features, **quiet)
    floor = evaluate.authenticity(trained, subject.test_features, **quiet).mean
    own = {"num_train": len(trained)}
    found["authenticity"] = Result(
        value, error, floor, subject.distance_protocol("authenticity", **own)
    )
    copied = evaluate.copying(trained, subject.test_features, subject.generated_features, **quiet)
    for name, value, floor in (
        ("nearer_to_training", copied.share, 0.5),
        ("c_t", copied.z, 0.0),
    ):
        found[name] = Result(value, floor=floor, protocol=subject.distance_protocol(name, **own))
    return found
