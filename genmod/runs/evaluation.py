"""Metrics of a run, for `genmod evaluate`.

Each group of metrics is a function of a `Subject`: one trained run with all that several metrics
use, such as samples and features, which are made once.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from genmod import checks, evaluate, rng, train
from genmod.data import Dataset
from genmod.data.dataset import chosen
from genmod.evaluate import Result, features, judges
from genmod.evaluate.resampling import Interval
from genmod.experiment import Experiment, drawn_from
from genmod.runs import codes, loading, redrawn, results, samples
from genmod.runs.folder import Folder
from genmod.types import Key

_HALVES = 10
"""Number of random halves from which the error of a distance is estimated."""
_ERROR = f"standard deviation over {_HALVES} random halves"


@dataclass(frozen=True)
class Options:
    """Options that metrics share, and that their protocols name.

    Attributes:
      num: number of samples, and of training images from which the floor is taken.
      num_draws: number of importance samples for each likelihood.
      seed: seed of samples and draws.
      features: name of the features, as for `features.named`; None for those of the data's kind.
      num_test: number of test examples, the first ones; None for all.
      ex_post: number of Gaussians of a mixture that is fitted to the codes and draws the latents of
        the samples; None for the prior.

    Raises:
      ValueError: if a number is out of range.
    """

    num: checks.Count = 10_000
    num_draws: checks.Count = 500
    seed: checks.Seed = 0
    features: str | None = None
    num_test: int | None = None
    ex_post: int | None = None

    def __post_init__(self):
        checks.fields(self)
        for name in ("num_test", "ex_post"):
            if getattr(self, name) is not None:
                checks.positive_integer(name, getattr(self, name))


class NotApplicable(ValueError):
    """Reason why a group of metrics does not apply to an experiment."""


@dataclass(frozen=True)
class Subject:
    """Trained run with all that several metrics use.

    Attributes:
      built: the experiment, as a single run.
      state: state of its learner.
      options: options of the metrics.
      progress: whether to show progress bars.
      remarks: metrics that could not be computed, each with the reason.
    """

    built: Experiment
    state: Any
    options: Options
    progress: bool = True
    remarks: list[str] = dataclasses.field(default_factory=list)

    def key(self, name: str) -> Key:
        """Returns the key of a metric's own noise."""
        return rng.stream(rng.root(self.options.seed), f"evaluate {name}")

    @functools.cached_property
    def test(self) -> Dataset:
        """Test data of the experiment, or the first of them."""
        if self.built.test is None:
            raise NotApplicable("the experiment has no test data (Experiment.test)")
        num, num_test = len(self.built.test.images), self.options.num_test
        if num_test is not None and num_test > num:
            raise ValueError(f"num_test must be at most {num}, the test examples, got {num_test}")
        return self.built.test if num_test in (None, num) else chosen(self.built.test, self.first)

    @property
    def first(self) -> slice:
        """Place of the test examples that are used."""
        return slice(self.options.num_test)

    @functools.cached_property
    def drawn(self) -> tuple[np.ndarray, Any]:
        """Samples as files hold them, uint8 [num, H, W, C], and their condition.

        Points are float32 [num, D].
        """
        points, pixels = self.built.dataset.images.ndim == 2, samples.Pixels()
        converted = np.asarray if points else pixels
        try:
            drawn = samples.samples(self.built, self.state, self.key("samples"), self.options.num)
            chunks = [(converted(images), condition) for images, condition in drawn]
        except train.NoSampler as error:
            raise NotApplicable(str(error)) from None
        if pixels.remark:
            self.remarks.append(pixels.remark)
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks)

    @property
    def generated(self) -> np.ndarray:
        """Samples as files hold them, uint8 [num, H, W, C]; points [num, D]."""
        return self.drawn[0]

    @functools.cached_property
    def extractor(self) -> features.Features:
        """Feature function of the distances."""
        return features.named(self.options.features, self.built.dataset)

    @functools.cached_property
    def test_features(self) -> np.ndarray:
        """Features of all test images, [N, D]."""
        return self.features_of(self.test.images)

    @functools.cached_property
    def training_features(self) -> np.ndarray:
        """Features of all training images, [N, D]."""
        return self.features_of(self.built.dataset.images)

    @functools.cached_property
    def generated_features(self) -> np.ndarray:
        """Features of the samples, [num, D]."""
        return self.features_of(self.generated)

    @functools.cached_property
    def perfect_features(self) -> np.ndarray | None:
        """Features of training images in place of samples, [num, D]; None if there are fewer."""
        images, num = self.built.dataset.images, self.options.num
        if len(images) < num:
            return None
        order = jax.random.permutation(self.key("floor"), len(images))
        return self.features_of(images[np.sort(np.asarray(order[:num]))])

    def features_of(self, images: Any) -> np.ndarray:
        """Returns the features of images, uint8 [N, H, W, C] -> float32 [N, D]."""
        return self.extractor.of(images)

    def protocol(self, metric: str, **fields: Any) -> dict[str, Any]:
        """Returns the protocol of a metric on the test data."""
        return {
            "metric": metric,
            "data": self.test.fingerprint,
            "split": "test",
            "num_real": len(self.test.images),
            **fields,
            "seed": self.options.seed,
            "matmul_precision": "highest",
        }

    def distance_protocol(self, metric: str, **fields: Any) -> dict[str, Any]:
        """Returns the protocol of a metric that compares features of samples and test images."""
        return self.protocol(
            metric,
            num_fake=self.options.num,
            features=self.extractor.name,
            features_fingerprint=self.extractor.fingerprint,
            **fields,
        )


def likelihood(subject: Subject) -> dict[str, Result]:
    """Returns log-likelihood and evidence lower bound of the test examples, in nats."""
    told = subject.built.likelihood
    if told is None:
        raise NotApplicable("the experiment names no likelihood (Experiment.likelihood)")
    num_draws = subject.options.num_draws
    protocol = functools.partial(subject.protocol, unit="nats")
    estimate = functools.partial(
        evaluate.importance,
        subject.key("likelihood"),
        drawn_from(subject.state),
        jax.tree.map(lambda array: array[subject.first], told.examples),
        told.log_weight,
        prepare=told.prepare,
        progress=subject.progress,
    )
    bound, found = estimate(num_samples=1).average, estimate(num_samples=num_draws)
    mean = found.average
    return {
        "elbo": Result(bound.mean, bound.error, protocol=protocol("elbo", num_draws=1)),
        "log_likelihood": Result(
            mean.mean, mean.error, protocol=protocol("log_likelihood", num_draws=num_draws)
        ),
        "effective_samples": Result(
            *evaluate.estimate(found.effective_samples),
            protocol=subject.protocol("effective_samples", num_draws=num_draws),
        ),
    }


def posterior(subject: Subject) -> dict[str, Result]:
    """Returns the number of active units, and the parts of the KL divergence in nats."""
    latents = subject.built.latents
    if latents is None or latents.posterior is None:
        raise NotApplicable("the experiment has no latents with a diagonal Gaussian posterior")
    if not latents.standard_normal_prior:
        raise NotApplicable("the prior is not N(0, I)")
    try:
        condition = codes.conditions_of(subject.built, "the test data", subject.test)
    except ValueError as reason:
        raise NotApplicable(str(reason)) from None
    encode = functools.partial(latents.posterior, subject.state)
    mean, logvar = codes.encoded(encode, subject.test, condition)
    keys = rng.per_example(subject.key("posterior"), len(mean))
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
    parts = evaluate.aggregate_posterior(
        mean, logvar, mean + np.exp(0.5 * logvar) * np.asarray(noise), progress=subject.progress
    )
    units = evaluate.active_units(mean)
    found = {
        "active_units": Result(float(units.num_active), protocol=subject.protocol("active_units"))
    }
    for name in ("kl", "mutual_information", "total_correlation", "dimension_wise_kl"):
        protocol = subject.protocol(name, unit="nats", aggregate="all test examples")
        found[name] = Result(*getattr(parts, name), protocol=protocol)
    return found


def classes(subject: Subject) -> dict[str, Result]:
    """Returns how a classifier sees the samples, and how often it sees the class asked for."""
    if subject.generated.shape[1:] != judges.SHAPE:
        raise NotApplicable(f"the classifiers of genmod judge images {list(judges.SHAPE)}")
    judge = judges.that_reads(subject.built.dataset)
    if judge is None:
        raise NotApplicable("no classifier of genmod recognises the data")
    real, fake = judge.logits(subject.test.images), judge.logits(subject.generated)
    protocol = functools.partial(
        subject.protocol,
        num_fake=subject.options.num,
        classifier=judge.name,
        classifier_fingerprint=judge.fingerprint,
    )

    def score(logits: np.ndarray) -> float:
        return evaluate.classifier_score(logits, splits=1).mean

    own = evaluate.interval(
        subject.key("halves of classifier_score"),
        lambda real, fake: score(fake),
        real,
        fake,
        num=_HALVES,
        progress=False,
    )
    seen = fake.argmax(axis=1)
    counts = np.bincount(subject.test.labels, minlength=len(judge.classes))
    modes = evaluate.label_modes(
        seen, len(counts), frequencies=counts / counts.sum(), judge=judge.fingerprint
    )
    found = {
        "classifier_score": Result(
            own.value, own.error, score(real), protocol("classifier_score", splits=1, error=_ERROR)
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


def distances(subject: Subject) -> dict[str, Result]:
    """Returns distances between samples and test images, each with its error and floor."""
    near = functools.partial(evaluate.precision_recall_density_coverage, progress=False)
    kernel = functools.partial(evaluate.kernel_distance, progress=False)
    sliced = functools.partial(evaluate.sliced_distance, subject.key("projections"))
    measures: dict[tuple[str, ...], tuple[Callable[..., Sequence[float]], dict[str, Any]]] = {
        ("frechet_distance",): (
            lambda *sets: [evaluate.frechet_distance(*sets)],
            {"convention": "torch_fidelity"},
        ),
        ("kernel_distance",): (lambda *sets: [kernel(*sets)], {"convention": "unbiased"}),
        ("sliced_distance",): (lambda *sets: [sliced(*sets)], {"num_projections": 1000}),
        evaluate.PrecisionRecall._fields: (near, {"convention": "prdc", "k": 5}),
    }
    real, perfect = subject.test_features, subject.perfect_features
    found = {}
    for names, (measure, settings) in measures.items():
        key, fake = subject.key(f"halves of {' '.join(names)}"), subject.generated_features
        try:
            own = evaluate.intervals(
                key, measure, real, fake, num=_HALVES, progress=subject.progress
            )
            floors = [math.nan] * len(names) if perfect is None else measure(real, perfect)
        except ValueError as reason:  # as of a generator whose samples are all the same
            subject.remarks.append(f"not a number: {', '.join(names)}: {reason}")
            own, floors = [Interval(*[math.nan] * 4)] * len(names), [math.nan] * len(names)
        for name, value, floor in zip(names, own, floors, strict=True):
            protocol = subject.distance_protocol(name, **settings, error=_ERROR)
            found[name] = Result(value.value, value.error, floor, protocol)
    return found


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


GROUPS: dict[str, Callable[[Subject], Mapping[str, Result]]] = {
    "likelihood": likelihood,
    "posterior": posterior,
    "classes": classes,
    "distances": distances,
    "memorisation": memorisation,
}
"""Groups of metrics by name."""
_OF_SAMPLES = ("classes", "distances", "memorisation")
"""Groups that look at samples."""


def evaluate_run(
    path: str | Path,
    options: Options,
    groups: Sequence[str] = (),
    *,
    best: bool = False,
    progress: bool = True,
) -> list[str]:
    """Evaluates the runs of a folder and adds the results to it.

    Args:
      path: the run folder.
      options: options of the metrics.
      groups: names of groups of metrics; all that apply to the experiment if there are none.
      best: whether to evaluate the best checkpoint and not the newest.
      progress: whether to show progress bars on a terminal.

    Returns:
      Notes on groups that do not apply, if none was asked for, and on metrics that are NaN.

    Raises:
      ValueError: if a group is unknown or does not apply, or no group applies.
    """
    known = list(GROUPS) if options.ex_post is None else list(_OF_SAMPLES)
    for name in groups:
        checks.known("metrics" if options.ex_post is None else "metrics with ex_post", name, known)
    loaded = loading.load_runs(path, best=best)
    notes: list[str] = []
    found: dict[str, list[Result]] = {}
    for index, state in enumerate(loaded.states):
        built, latents = loaded.built, {}
        if options.ex_post is not None:
            built = redrawn.ex_post(built, state, options.ex_post)
            latents = {"latents": f"a mixture of {options.ex_post} Gaussians fitted to the codes"}
        subject = Subject(built, state, options, progress)
        for name in groups or known:
            try:
                with jax.default_matmul_precision("highest"):
                    own = GROUPS[name](subject)
            except NotApplicable as reason:
                if groups:
                    raise ValueError(f"{path}: {name} does not apply: {reason}") from None
                notes += [f"{path}: {name} is left out: {reason}"] * (index == 0)
                continue
            for metric, result in own.items():
                told = result._replace(protocol={**result.protocol, **latents})
                found.setdefault(metric, []).append(told)
        notes += [f"{path}: {remark}" for remark in subject.remarks]
    if not found:
        raise ValueError(f"{path}: no metrics apply: {'; '.join(notes)}")
    entries = [results.Entry(name, loaded.step, tuple(runs)) for name, runs in found.items()]
    results.write(Folder(Path(path)), entries)
    return notes
