"""Small classifiers of images, and how well one does that was trained on what it is given."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genmod import data, rng, train
from genmod.train import Learner
from genmod.types import Array, Batch, Key, Keys, Metrics, Net, Params

Labelled = dict[str, Any]
"""`images` uint8 [N, H, W, C] and their `labels`, whole numbers [N]."""


class Recipe(NamedTuple):
    """How a classifier is trained, whatever it is trained on.

    Attributes:
      net: images [B, H, W, C] in [0, 1] -> logits [B, classes].
      optimizer: any optax transformation.
      batch_size: images in a batch.
      num_steps: number of steps.
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
    """The learner of a classifier: the cross entropy, in nats; its batches are `Labelled`.

    Args:
      net: images [B, H, W, C] in [0, 1] -> logits [B, classes].
      optimizer: any optax transformation.
      augment: `(keys [B], images) -> images`, of what is trained on; None leaves it as it is.
    """

    def cross_entropy(keys: Keys, params: Params, batch: Labelled) -> tuple[Array, Metrics]:
        x = _scaled(batch["images"])
        logits = net.apply(params, x if augment is None else augment(keys, x))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]), {}

    return train.learner(
        lambda key, batch: net.init(key, batch["images"].astype(jnp.float32)),
        cross_entropy,
        optimizer,
    )


def accuracy(net: Net, params: Params, images: Array, labels: Array, *, chunk: int = 1000) -> Array:
    """The share of images that a classifier gets right, float32 []; it can be traced.

    Args:
      net: images [B, H, W, C] in [0, 1] -> logits [B, classes].
      params: its parameters.
      images: uint8 [N, H, W, C].
      labels: whole numbers [N].
      chunk: how many images to hold at once.
    """
    num, chunk = len(images), min(chunk, len(images))
    # The last chunk is filled up: one shape, one program.
    chunks = jnp.pad(images, [(0, -num % chunk), (0, 0), (0, 0), (0, 0)])
    chunks = chunks.reshape(-1, chunk, *images.shape[1:])
    found = jax.lax.map(lambda x: jnp.argmax(net.apply(params, _scaled(x)), axis=-1), chunks)
    return jnp.mean(found.ravel()[:num] == labels)


def made_of_classes(images: Array, classes: int) -> Labelled:
    """Generated images as stored ones, with the labels of their places.

    Args:
      images: floating, in [0, 1], [N, H, W, C], of which image i is to be of class i mod classes.
      classes: their number.
    """
    pixels = jnp.round(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)
    return {"images": pixels, "labels": jnp.arange(len(images), dtype=jnp.int32) % classes}


def score(
    key: Key,
    recipe: Recipe,
    real: Labelled,
    made: Labelled | None,
    test: Labelled,
    *,
    augment: Callable[[Keys, Array], Array] | None = None,
) -> Array:
    """The accuracy on `test` of a classifier trained on real images, and generated ones beside.

    Half of each batch is generated, where there are any: the number of steps and the size of a
    batch are the recipe's, whatever the classifier is shown. It is a pure function, to be compiled
    or mapped.

    Args:
      key: of initialisation, order and augmentation.
      recipe: how to train.
      real: what there is to train on.
      made: generated images with the labels that they were to have; None for none.
      test: what to judge by.
      augment: `(keys [B], images [B, H, W, C] in [0, 1]) -> images`, of all that is trained on.

    Returns:
      float32 [].
    """
    at = functools.partial(_batch_at, recipe.batch_size)
    batch_at = jax.tree_util.Partial(at, *jax.tree.map(jnp.asarray, (real, made)))
    own = learner(recipe.net, recipe.optimizer, augment=augment)
    state = train.fit(own, key, batch_at, recipe.num_steps)
    return accuracy(recipe.net, state.params, test["images"], test["labels"])


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
