"""A classifier of MNIST's digits: the judge of which modes a generative model reaches.

Its weights come with the package, in half precision. `python -m genmod.evaluate.digits FILE` trains
them again from the packaged data and a fixed seed, which takes minutes on a CPU, and says whether
every bit agrees, as it does on the versions and the kind of machine that the file names.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genmod import data, nets, rng, train
from genmod.data import DataError
from genmod.evaluate import classifier as classifiers
from genmod.types import Array, Net, Params

_EPOCHS, _BATCH_SIZE, _LEARNING_RATE, _SHIFT, _SEED = 15, 100, 2e-3, 2, 0
_RECIPE = {
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


def packaged() -> Path:
    """The file of the judge that comes with genmod."""
    return Path(str(resources.files("genmod.evaluate") / "judges" / "mnist.npz"))


@functools.cache
def classifier(path: str | Path | None = None) -> Classifier:
    """The judge, read from its file.

    Two strided convolutions (32 and 64 channels) and a dense layer of 256, trained on images
    shifted by up to two pixels.

    Args:
      path: a file that `python -m genmod.evaluate.digits FILE` has written; the packaged one if
        None.

    Raises:
      DataError: if the file is missing or damaged.
    """
    net = _net()
    like = jax.eval_shape(net.init, rng.root(0), jnp.zeros((1, 28, 28, 1)))
    params, about = _read(packaged() if path is None else Path(path), like)
    return Classifier(_logits(net, params), about["accuracy"], about["fingerprint"])


def fingerprint() -> str:
    """SHA-256 of the packaged judge's weights, as its file says."""
    with np.load(packaged()) as arrays:
        return json.loads(str(arrays["about"]))["fingerprint"]


def _net() -> Net:
    features = nets.dcgan_discriminator(width=32, out=256, kernel_init=nets.he_normal)
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
    points = train.run(
        learner, rng.root(_SEED), batch_at, num_steps=steps, log_every=steps // _EPOCHS
    )
    for point in points:
        print(f"epoch {point.step * _EPOCHS // steps} of {_EPOCHS}: {point.metrics}", flush=True)
    return point.state.params


def _logits(net: Net, params: Params) -> Callable[[Any], np.ndarray]:
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

    return logits


def accuracy(judge: Classifier) -> float:
    """The share of the 10,000 test images of MNIST that a judge gets right."""
    test = data.load("mnist", "test")
    return float((judge.labels(np.asarray(test.images, np.float32) / 255) == test.labels).mean())


def _fingerprint(params: Params) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _halves(params: Params) -> Params:
    """Weights rounded to half precision, in single precision again."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), params)


def _write(path: Path, net: Net, params: Params) -> dict[str, Any]:
    """Writes weights, rounded, with what is to be known about them; returns that."""
    from genmod._host import environment

    params = _halves(params)
    judge = Classifier(_logits(net, params), 0.0, _fingerprint(params))
    about = {
        "fingerprint": judge.fingerprint,
        "accuracy": accuracy(judge),
        "recipe": _RECIPE,
        "versions": environment.versions(),
        "device": environment.device(),
    }
    names = [name for name, _ in _named(params)]
    leaves = [np.asarray(leaf).astype(np.float16) for _, leaf in _named(params)]
    arrays = {**dict(zip(names, leaves, strict=True)), "about": np.array(json.dumps(about))}
    with path.open("wb") as file:
        np.savez_compressed(file, **cast(Any, arrays))
    return about


def _named(params: Params) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]


def _read(path: Path, like: Params) -> tuple[Params, dict[str, Any]]:
    """The weights in a file, float32, and what is to be known about them."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            about = json.loads(str(arrays["about"]))
            leaves = [arrays[name].astype(np.float32) for name, _ in _named(like)]
        params = jax.tree.unflatten(jax.tree.structure(like), leaves)
        sound = _fingerprint(params) == about["fingerprint"] and all(
            leaf.shape == one.shape for leaf, (_, one) in zip(leaves, _named(like), strict=True)
        )
    except FileNotFoundError:
        raise DataError(f"{path}: missing; expected the weights of the judge") from None
    except Exception as error:
        raise DataError(f"{path}: damaged ({error}); reinstall genmod, or train it anew") from None
    if not sound:
        raise DataError(f"{path}: damaged: not the weights it names; reinstall genmod")
    return params, about


def main(arguments: Sequence[str]) -> int:
    """Trains the judge again into a file; 0 if every bit is that of the packaged one, else 1.

    Raises:
      ValueError: if not one file is given.
    """
    if len(arguments) != 1:
        raise ValueError(f"expected one file to write the judge to, got {list(arguments)}")
    net = _net()
    about = _write(Path(arguments[0]), net, _train(net))
    size = Path(arguments[0]).stat().st_size / 1e6
    print(
        f"{arguments[0]}: {size:.2f} MB, {about['fingerprint']}, accuracy {about['accuracy']:.2%}"
    )
    if not packaged().exists() or about["fingerprint"] != fingerprint():
        print("not the packaged judge")
        return 1
    print("every bit is the packaged judge's")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
