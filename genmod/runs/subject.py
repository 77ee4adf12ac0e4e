"""Trained runs as metrics see them."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from genmod import checks, rng, train
from genmod.data import Dataset
from genmod.data.dataset import chosen
from genmod.evaluate import features
from genmod.experiment import Experiment
from genmod.runs import samples
from genmod.types import Key


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
        if self.num < 4:
            raise ValueError(f"num must be at least 4, as errors are of halves, got {self.num}")
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

    Raises:
      ValueError: if num_test is larger than the number of test examples.
    """

    built: Experiment
    state: Any
    options: Options
    progress: bool = True
    remarks: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        num_test = self.options.num_test
        if self.built.test is None or num_test is None:
            return
        num = len(self.built.test.images)
        if num_test > num:
            raise ValueError(f"num_test must be at most {num}, the test examples, got {num_test}")

    def key(self, name: str) -> Key:
        """Returns the key of a metric's own noise."""
        return rng.stream(rng.root(self.options.seed), f"evaluate {name}")

    @functools.cached_property
    def test(self) -> Dataset:
        """Test data of the experiment, or the first of them."""
        if self.built.test is None:
            raise NotApplicable("the experiment has no test data (Experiment.test)")
        whole = self.options.num_test in (None, len(self.built.test.images))
        return self.built.test if whole else chosen(self.built.test, self.first)

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

    @property
    def reference(self) -> Dataset:
        """Images of which floors are taken."""
        return self.built.reference or self.built.dataset

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
        images, num = self.reference.images, self.options.num
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
