"""A classifier of MNIST's digits: the judge of which modes a generative model reaches.

It is trained here, from the packaged data and a fixed seed, the first time it is asked for, and
kept in the user's cache folder with the SHA-256 of its weights: none are shipped or downloaded.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genmod import caches, data, nets, rng, train
from genmod import classifier as classifiers
from genmod.data import DataError
from genmod.types import Array, Net, Params

_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _SHIFT, _SEED = 15, 100, 2e-3, 2, 0
_RECIPE = {
    "version": 1,
    "epochs": _EPOCHS,
    "batch_size": _BATCH_SIZE,
    "learning_rate": _LEARNING_RATE,
    "shift": _SHIFT,
    "seed": _SEED,
}
_CHUNK = 1000


class Classifier(NamedTuple):
    """A trained classifier of digits.

    Attributes:
      logits: `images [N, 28, 28, 1] -> [N, 10]`, on images of floats in [0, 1].
      accuracy: share of the 10,000 test images of MNIST that it gets right.
      fingerprint: SHA-256 of its weights; a score says by which judge it was given.
    """

    logits: Callable[[Any], np.ndarray]
    accuracy: float
    fingerprint: str

    def labels(self, images: Any) -> np.ndarray:
        """The digit of each image, int32 [N]."""
        return self.logits(images).argmax(axis=-1).astype(np.int32)


@functools.cache
def classifier(cache: str | Path | None = None) -> Classifier:
    """The judge: read from the cache, or trained and put there, which takes minutes on a CPU.

    Two strided convolutions (32 and 64 channels) and a dense layer of 256, trained on images
    shifted by up to two pixels.

    Args:
      cache: the folder to keep it in; $GENMOD_CACHE_DIR or the user's cache folder if None.

    Raises:
      DataError: if the file in the cache is damaged.
    """
    folder = caches.folder() if cache is None else Path(cache)
    recipe = hashlib.sha256(json.dumps(_RECIPE, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"mnist-classifier-{recipe}.npz"
    net = _net()
    like = jax.eval_shape(net.init, rng.root(0), jnp.zeros((1, 28, 28, 1)))
    if path.exists():
        params = _read(path, like)
    else:
        print("training the classifier of digits, once: some minutes on a CPU", flush=True)
        params = _train(net)
        _write(path, params)
    return _judge(net, params)


def _net() -> Net:
    features = nets.dcgan_discriminator(
        width=32, out=256, kernel_init=jax.nn.initializers.he_normal()
    )
    head = nets.mlp((), 10)

    def init(key: Any, x: Array) -> Params:
        first = features.init(rng.stream(key, "features"), x)
        hidden = features.apply(first, x)
        return {"features": first, "head": head.init(rng.stream(key, "head"), hidden)}

    def apply(params: Params, x: Array) -> Array:
        return head.apply(params["head"], jax.nn.relu(features.apply(params["features"], x)))

    return Net(init, apply)


def _train(net: Net) -> Params:
    images = data.load("mnist")
    steps = _EPOCHS * len(images.images) // _BATCH_SIZE

    def shifted(key: Any, image: Array) -> Array:
        padded = jnp.pad(image, ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)))
        start = jax.random.randint(key, (2,), 0, 2 * _SHIFT + 1)
        return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)

    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, steps)
    learner = classifiers.learner(net, optax.adam(schedule), augment=jax.vmap(shifted))
    batch_at = data.batches(
        {"images": images.images, "labels": images.labels},
        batch_size=_BATCH_SIZE,
        prepare=data.unchanged,
    )
    (*_, end) = train.run(
        learner, rng.root(_SEED), batch_at, num_steps=steps, log_every=steps // _EPOCHS
    )
    return end.state.params


def _judge(net: Net, params: Params) -> Classifier:
    apply = jax.jit(net.apply)

    def logits(images: Any) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (28, 28, 1) or not len(images):
            raise ValueError(f"images must be [N, 28, 28, 1], got {list(images.shape)}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images must be floating, in [0, 1], got {images.dtype}")
        chunks = [images[first : first + _CHUNK] for first in range(0, len(images), _CHUNK)]
        # The last chunk is filled up: one shape, one program.
        missing = _CHUNK - len(chunks[-1])
        chunks[-1] = np.pad(chunks[-1], [(0, missing), (0, 0), (0, 0), (0, 0)])
        return np.concatenate([np.asarray(apply(params, x)) for x in chunks])[: len(images)]

    test = data.load("mnist", "test")
    found = Classifier(logits, 0.0, _fingerprint(params))
    right = found.labels(np.asarray(test.images, np.float32) / 255) == test.labels
    return found._replace(accuracy=float(right.mean()))


def _fingerprint(params: Params) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _write(path: Path, params: Params) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(params))}
    arrays["fingerprint"] = np.array(_fingerprint(params))
    # Written aside and renamed, so that nobody reads half of it; two who train write the same.
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, **cast(Any, arrays))
    partial.replace(path)


def _read(path: Path, like: Params) -> Params:
    expected, structure = jax.tree.flatten(like)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            leaves = [arrays[f"{i}"] for i in range(len(expected))]
            fingerprint = str(arrays["fingerprint"])
        params = jax.tree.unflatten(structure, leaves)
        sound = _fingerprint(params) == fingerprint and all(
            a.shape == b.shape and a.dtype == b.dtype for a, b in zip(leaves, expected, strict=True)
        )
    except Exception as error:
        raise DataError(f"{path}: damaged ({error}); delete it to have it trained anew") from None
    if not sound:
        raise DataError(f"{path}: damaged: not the weights it names; delete it to train anew")
    return params
