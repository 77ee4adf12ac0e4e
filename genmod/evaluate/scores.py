"""Scores by a classifier: of its predictions for samples, and of its training on samples."""

import itertools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks
from genmod.evaluate import _rows, classifier
from genmod.evaluate._legacy import legacy_generator
from genmod.evaluate.averages import Estimate
from genmod.types import Array, Key, Keys


class ClassifierScore(NamedTuple):
    """Mean and standard deviation of a score over parts of the samples.

    The standard deviation has the denominator `splits`. It is that of one part, and no standard
    error of the mean.
    """

    mean: float
    std: float


def classifier_score(logits: Any, *, splits: int = 10) -> ClassifierScore:
    """Returns how sure and how diverse a classifier's predictions are.

        exp(mean_n KL(p(y | x_n) || p(y))),    p(y) = mean_n p(y | x_n)

    It is between 1 and the number of classes K: high if each sample is clearly of one class, and
    all classes occur equally often. With the Inception network's logits it is the Inception score;
    scores of other classifiers must not be compared with that.

    The score is computed as in torch-fidelity: softmax in float64, on `splits` parts of the samples
    after the shuffle with torch-fidelity's default seed 2020. It is biased downwards, more so for
    small parts. `splits=1` gives the score of all samples together, which does not depend on their
    order, with std 0.

    Args:
      logits: logits of a classifier for N samples, [N, K] with K at least 2.
      splits: number of parts.

    Raises:
      ValueError: if there are fewer samples than parts, or logits have another shape or are not
        finite.

    Warns:
      UserWarning: if the logits look like probabilities: no number is below 0, and each row sums
        to 1.

    References:
      Salimans et al., Improved Techniques for Training GANs, NeurIPS 2016 (arXiv:1606.03498),
      section 4. Barratt & Sharma, A Note on the Inception Score, 2018 (arXiv:1801.01973).

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import scores
      >>> logits = 50 * np.eye(4)  # four samples, each clearly of a class of its own
      >>> round(scores.classifier_score(logits, splits=1).mean, 6)
      4.0
    """
    splits = checks.positive_integer("splits", splits)
    logits = _rows.matrix("logits", logits, splits).astype(np.float64)
    if logits.shape[1] < 2:
        raise ValueError(f"logits must have at least 2 classes, got {list(logits.shape)}")
    if (logits >= 0).all() and np.allclose(logits.sum(axis=1), 1, atol=1e-3):
        warnings.warn(
            "logits look like probabilities, as each row sums to 1; if they are, give their "
            "logarithms",
            stacklevel=2,
        )
    num = len(logits)
    if splits > 1:
        logits = logits[legacy_generator().permutation(num)]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))
    ends = [i * num // splits for i in range(splits + 1)]
    values = [_score(log_p[a:b]) for a, b in itertools.pairwise(ends)]
    return ClassifierScore(float(np.mean(values)), float(np.std(values)))


def classification_accuracy_score(
    key: Key,
    recipe: classifier.Recipe,
    samples: classifier.Labelled,
    test: classifier.Labelled,
    *,
    augment: Callable[[Keys, Array], Array] | None = None,
) -> Estimate:
    """Trains a classifier on samples and returns its accuracy on real images.

    It is the classification accuracy score (CAS). Classes that a conditional model makes poorly, or
    with too little variety, are recognised poorly. Its reference is the same score with as many
    real training images in place of the samples.

    Args:
      key: single key, for initialisation, order and augmentation.
      recipe: settings for training.
      samples: generated images with the classes that they were generated for, as
        `classifier.labelled` returns them.
      test: real images with their classes, on which the accuracy is measured.
      augment: function `(keys [B], images [B, H, W, C] in [0, 1]) -> images` for the samples; no
        augmentation if None.

    Returns:
      Accuracy in [0, 1], with its standard error over test images. That over trainings comes on
      top: repeat the score with several keys.

    Raises:
      ValueError: if images and labels do not match or are of other types, the test images have
        another shape than the samples, a label is no class of the network, or there are fewer than
        2 test images.

    References:
      Ravuri & Vinyals, Classification Accuracy Score for Conditional Generative Models, NeurIPS
      2019 (arXiv:1905.10887).
    """
    for name, some, least in (("samples", samples, 1), ("test", test, 2)):
        images, labels = (np.asarray(some[field]) for field in ("image", "label"))
        if images.ndim != 4 or labels.shape != images.shape[:1] or len(images) < least:
            raise ValueError(
                f"{name} must have images [N, H, W, C] and labels [N] with N >= {least}, got "
                f"{list(images.shape)} and {list(labels.shape)}"
            )
        if images.dtype != np.uint8 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must have uint8 images and integer labels, as classifier.labelled returns "
                f"them, got {images.dtype} and {labels.dtype}"
            )
    shapes = [np.shape(some["image"])[1:] for some in (samples, test)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"test must have images of the samples' shape {list(shapes[0])}, got {list(shapes[1])}"
        )
    logits = jax.eval_shape(
        lambda x: recipe.net(recipe.net.init(key, x), x), jnp.zeros((1, *shapes[0]))
    )
    for name, some in (("samples", samples), ("test", test)):
        least, most = int(np.min(some["label"])), int(np.max(some["label"]))
        if not 0 <= least <= most < logits.shape[-1]:
            raise ValueError(
                f"{name} must have labels in [0, {logits.shape[-1]}), the classes of recipe.net, "
                f"got {least} to {most}"
            )
    share = float(classifier.score(key, recipe, samples, None, test, augment=augment))
    return Estimate(share, float(np.sqrt(share * (1 - share) / (len(test["label"]) - 1))))


def _score(log_p: np.ndarray) -> float:
    """Returns the score of all samples together."""
    p = np.exp(log_p)
    # A class that no sample has adds 0; its logarithm does not exist.
    log_mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
    return float(np.exp(np.mean(np.sum(p * (log_p - log_mean), axis=1))))
