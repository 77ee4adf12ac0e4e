"""A conditional VAE and a classifier, trained on few labels beside many images (model M2).

Where the label y of an image x is unknown, it is a latent like z: the classifier is its posterior
q(y | x), and the bound is summed over all classes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Batch, Key, Keys, Metrics, Net, Params
from genmod.vae import objectives
from genmod.vae.model import Init, Vae, VaeParams, generate

_PARTS = ("labelled", "unlabelled")


class SemiSupervisedParams(NamedTuple):
    """Parameters of a VAE and a classifier.

    Attributes:
      vae: parameters of q(z|x, y), p(x|y, z) and p(z).
      classifier: parameters of q(y|x).
    """

    vae: VaeParams
    classifier: Params


class SemiSupervised(NamedTuple):
    """A VAE and a classifier, as pure functions.

    A batch has the parts `labelled`, which the VAE's `condition` splits into images and labels, and
    `unlabelled`, images [U, H, W, C]. `data.together` makes such batches.

    Attributes:
      init: initial parameters, `(key, batch) -> SemiSupervisedParams`. Its attribute `check` is
        that of the VAE, and refuses labels out of range.
      objective: `(keys by part, params, batch) -> (losses by part, aux)`, in nats.
      generate: mean images of given classes, `(keys [B], params, labels [B]) -> images`.
      classify: logits of q(y|x), `(params, x [B, H, W, C]) -> [B, num_classes]`.
    """

    init: Init
    objective: Callable[..., Any]
    generate: Callable[..., Array]
    classify: Callable[[SemiSupervisedParams, Array], Array]


def semi_supervised(
    model: Vae,
    classifier: Net,
    *,
    num_classes: int,
    weight: float | Array,
    labelled: float | Array = 1.0,
) -> SemiSupervised:
    """Returns the model M2, a VAE of few labelled and many unlabelled images.

    With p(y) = 1/K, the negative bounds on log p(x, y) and on log p(x) are

        L(x, y) = -log p(x | y, z) + KL(q(z | x, y) || p(z)) + log K,    z ~ q(z | x, y)
        U(x) = sum_y q(y | x) (L(x, y) + log q(y | x))

    Each class has a draw z of its own. The losses of the two parts are

        labelled * L(x, y) - weight * log q(y | x),    U(x)

    A learner minimises the sum of both means. The paper minimises sums over all examples, N of them
    labelled and M not, plus alpha times the mean of -log q(y | x), with an alpha of 0.1 times the
    number of examples. Divided by M, these are labelled = N / M and weight = 0.1 (N + M) / M.

    Args:
      model: a conditional VAE, whose condition is the labels [B], whole numbers from 0.
      classifier: network [B, H, W, C] -> logits of q(y|x), [B, num_classes].
      num_classes: number of classes K.
      weight: weight of the classification term, at least 0.
      labelled: weight of the bound of labelled images, at least 0.

    Returns:
      A SemiSupervised. The aux of its objective holds `classification`, -log q(y|x) of the labelled
      images, and `entropy`, that of q(y|x) of the unlabelled ones, in nats.

    Raises:
      ValueError: if num_classes is not positive, a weight is below 0, or the classifier needs a
        condition; when called, if a part, its keys or its labels are missing or of another form, or
        the classifier returns another shape; when training begins, if labels or images are out of
        range.

    References:
      Kingma et al., Semi-Supervised Learning with Deep Generative Models, 2014 (arXiv:1406.5298),
      equations 6 to 9.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(
      ...     nets.conditional(nets.mlp((8,), 4), 10),
      ...     nets.conditional(nets.mlp((8,), (6, 6, 1)), 10),
      ...     latent_dim=2,
      ...     condition=lambda batch: (batch["image"], batch["label"]),
      ... )
      >>> m2 = vae.semi_supervised(model, nets.mlp((8,), 10), num_classes=10, weight=0.1)
      >>> few = {"image": jnp.zeros((2, 6, 6, 1)), "label": jnp.array([7, 0])}
      >>> batch = {"labelled": few, "unlabelled": jnp.zeros((5, 6, 6, 1))}
      >>> params = m2.init(rng.root(0), batch)
      >>> keys = {part: rng.per_example(rng.root(1), num) for part, num in [
      ...     ("labelled", 2), ("unlabelled", 5)]}
      >>> losses, aux = m2.objective(keys, params, batch)
      >>> losses["labelled"].shape, losses["unlabelled"].shape
      ((2,), (5,))
    """
    num_classes = checks.positive_integer("num_classes", num_classes)
    for name, value in (("weight", weight), ("labelled", labelled)):
        if not isinstance(value, jax.core.Tracer):
            checks.not_negative(name, value)
    checks.networks({"classifier": classifier}, None)
    # The bound of images and labels that are split already.
    bound = objectives.elbo(model._replace(condition=lambda split: split))

    def classify(params: SemiSupervisedParams, x: Array) -> Array:
        logits = classifier(params.classifier, x)
        if logits.shape != (len(x), num_classes):
            raise ValueError(
                f"the classifier must return [B, num_classes] = [{len(x)}, {num_classes}], "
                f"got {list(logits.shape)}"
            )
        return logits

    def told(params: SemiSupervisedParams, x: Array) -> Array:
        logits = classify(params, x)
        return jax.nn.log_softmax(logits.astype(checks.summed_as(logits.dtype)))

    def check(batch: Batch) -> None:
        _split(model, batch)
        model.init.check(batch["labelled"])
        labels = np.asarray(model.condition(batch["labelled"])[1])
        checks.values_within("labels", labels, (0, num_classes - 1), "num_classes", hint=False)
        # The unlabelled images must lie within the likelihood's support, too.
        if model.likelihood.support is not None:
            checks.values_within(
                "unlabelled images", batch["unlabelled"], model.likelihood.support, "the likelihood"
            )

    def init(key: Key, batch: Batch) -> SemiSupervisedParams:
        x, _, _ = _split(model, batch)
        own = classifier.initial(rng.stream(key, "classifier"), x)
        params = SemiSupervisedParams(model.init(key, batch["labelled"]), own)
        jax.eval_shape(classify, params, x)
        return params

    def objective(
        keys: Mapping[str, Keys], params: SemiSupervisedParams, batch: Batch
    ) -> tuple[dict[str, Array], Metrics]:
        x, labels, unlabelled = _split(model, batch)
        few, many = (_part(keys, part) for part in _PARTS)

        def of_labels(keys: Keys, x: Array, labels: Array) -> Array:
            return bound(keys, params.vae, (x, labels))[0] + math.log(num_classes)

        def of_class(label: Array) -> Array:
            all_alike = jnp.full(len(unlabelled), label)
            return of_labels(rng.at_step(many, label), unlabelled, all_alike)

        log_q = told(params, x)
        classification = -jnp.take_along_axis(log_q, labels[:, None], 1, mode="fill")[:, 0]
        log_q = told(params, unlabelled)
        q = jnp.exp(log_q)
        entropy = -jnp.sum(q * log_q, axis=1)
        of_each = jax.vmap(of_class)(jnp.arange(num_classes))  # [K, U]
        losses = {
            "labelled": labelled * of_labels(few, x, labels) + weight * classification,
            "unlabelled": jnp.sum(q * of_each.T, axis=1) - entropy,
        }
        return losses, {"classification": classification, "entropy": entropy}

    draw = generate(model)

    def sample(keys: Keys, params: SemiSupervisedParams, condition: Any = None) -> Array:
        return draw(keys, params.vae, condition)

    return SemiSupervised(Init(init, check), objective, sample, classify)


def _split(model: Vae, batch: Batch) -> tuple[Array, Array, Array]:
    """Returns labelled images, their labels and unlabelled images."""
    few, unlabelled = (_part(batch, part) for part in _PARTS)
    x, labels = model.condition(few)
    known = getattr(labels, "shape", None) == (len(x),)
    if not known or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"the condition must be labels, whole numbers [{len(x)}], "
            f"got {checks.described(labels)}"
        )
    if getattr(unlabelled, "shape", ())[1:] != x.shape[1:]:
        raise ValueError(
            f"the unlabelled part must be images [U, ...] as the labelled ones {x.shape}, "
            f"got {checks.described(unlabelled)}"
        )
    return x, jnp.asarray(labels), unlabelled


def _part(tree: Any, part: str) -> Any:
    if not isinstance(tree, Mapping) or part not in tree:
        raise ValueError(
            f"batch and keys must have the parts {' and '.join(map(repr, _PARTS))}, as "
            f"data.together makes them, got {checks.described(tree)}"
        )
    return tree[part]
