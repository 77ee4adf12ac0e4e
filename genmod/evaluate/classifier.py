"""Small image classifiers: training and accuracy."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genmod import checks, data, rng, train
from genmod.train import Learner
from genmod.types import Array, Batch, Key, Keys, Metrics, Net, Params

Labelled = dict[str, Any]
"""Images with labels.

`images` are uint8 [N, H, W, C], `labels` are integers [N].
"""


class Recipe(NamedTuple):
    """Settings for training a classifier, on any data.

    Attributes:
      net: network from images [B, H, W, C] in [0, 1] to logits [B, classes].
      optimizer: any optax transformation.
      batch_size: images in a batch.
      num_steps: number of training steps.
    """

    net: Net
    optimizer: optax.GradientTransformation
    batch_size: int
    num_steps: int


def learner(
    net: Net,
    optimizer: optax.GradientTransformation,
    *,
    augment: Callable[[Keys, Array], Array] | None = None,
) -> Learner:
    """Returns a learner that minimises a classifier's cross entropy.

    The cross entropy is in nats. Batches are `Labelled`.

    Args:
      net: network from images [B, H, W, C] in [0, 1] to logits [B, classes].
      optimizer: any optax transformation.
      augment: function `(keys [B], images) -> images`, applied to training images; no augmentation
        if None.
    """

    def cross_entropy(keys: Keys, params: Params, batch: Labelled) -> tuple[Array, Metrics]:
        x = _scaled(batch["image"])
        logits = net.apply(params, x if augment is None else augment(keys, x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]), {}

    return train.learner(
        lambda key, batch: net.init(key, batch["image"].astype(jnp.float32)),
        cross_entropy,
        optimizer,
    )


def accuracy(net: Net, params: Params, images: Array, labels: Array, *, chunk: int = 1000) -> Array:
    """Returns the share of images that a classifier gets right.

    The share is float32 []. JAX can trace this function.

    Args:
      net: network from images [B, H, W, C] in [0, 1] to logits [B, classes].
      params: parameters of the network.
      images: images, uint8 [N, H, W, C].
      labels: true classes, integers [N].
      chunk: number of images that the network gets in one call.

    Raises:
      ValueError: if there are no images, or not as many labels.
    """
    if not len(images) or jnp.shape(labels) != (len(images),):
        raise ValueError(
            "images and labels must be of the same examples, at least one, got "
            f"{list(images.shape)} and {list(jnp.shape(labels))}"
        )
    num, chunk = len(images), min(chunk, len(images))
    # The last chunk is padded: with one shape of chunks, XLA compiles one program.
    chunks = jnp.pad(images, [(0, -num % chunk), (0, 0), (0, 0), (0, 0)])
    chunks = chunks.reshape(-1, chunk, *images.shape[1:])
    found = jax.lax.map(lambda x: jnp.argmax(net.apply(params, _scaled(x)), axis=-1), chunks)
    return jnp.mean(found.ravel()[:num] == labels)


def labelled(images: Array, labels: Array) -> Labelled:
    """Returns generated images as `Labelled`.

    Args:
      images: generated images, floating, [N, H, W, C]. They become uint8: values are clipped to
        [0, 1], and scaled and rounded to 0 to 255.
      labels: classes that the images were generated for, integers [N].

    Raises:
      ValueError: if images or labels are not as above, or images are not finite.
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating [N, H, W, C], got {checks.described(images)}")
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers [{len(images)}], one for each image, "
            f"got {checks.described(labels)}"
        )
    # Images with known values are checked; a byte cannot tell NaN from black.
    if not isinstance(images, jax.core.Tracer) and not jnp.isfinite(images).all():
        raise ValueError("images must be finite, got NaN or infinity")
    pixels = jnp.round(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)
    return {"image": pixels, "label": labels}


def score(
    key: Key,
    recipe: Recipe,
    real: Labelled,
    made: Labelled | None,
    test: Labelled,
    *,
    augment: Callable[[Keys, Array], Array] | None = None,
) -> Array:
    """Trains a classifier and returns its accuracy on `test`.

    The training images are real, or half of each batch is generated if there are generated images.
    The number of steps and the batch size are those of the recipe in both cases. Matrix products
    have the highest precision. The function is pure, so it can be compiled or mapped.

    Args:
      key: key for initialisation, order and augmentation.
      recipe: settings for training.
      real: real training images.
      made: generated training images, labelled with the classes that they were generated for; None
        for real images alone.
      test: images on which the accuracy is measured.
      augment: function `(keys [B], images [B, H, W, C] in [0, 1]) -> images`, applied to all
        training images; no augmentation if None.

    Returns:
      Accuracy, float32 [].
    """
    at = functools.partial(_batch_at, recipe.batch_size)
    batch_at = jax.tree_util.Partial(at, *jax.tree.map(jnp.asarray, (real, made)))
    own = learner(recipe.net, recipe.optimizer, augment=augment)
    with jax.default_matmul_precision("highest"):
        state = train.fit(own, key, batch_at, recipe.num_steps)
        return accuracy(recipe.net, state.params, test["image"], test["label"])


def _batch_at(
    size: int, real: Labelled, made: Labelled | None, key: Key, step: int | Array
) -> Batch:
    of_made = 0 if made is None else size // 2
    take = functools.partial(data.batch_at, step=step, prepare=data.unchanged)
    some = take(rng.stream(key, "real"), examples=real, batch_size=size - of_made)
    if made is None:
        return some
    more = take(rng.stream(key, "made"), examples=made, batch_size=of_made)
    return jax.tree.map(lambda *both: jnp.concatenate(both), some, more)


def _scaled(images: Array) -> Array:
    return images.astype(jnp.float32) / 255
