"""Classifier of MNIST digits, the judge of generated digits.

The judge tells which modes a generative model reaches. Its weights come with the package, in half
precision. To train them again from the packaged data and a fixed seed (minutes on a CPU), run

    python -m genmod.evaluate.digits FILE

This also reports whether the new weights are bit-identical to the packaged ones. They are with the
versions and on the kind of machine that the packaged file names.
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
    """Trained classifier of digits.

    Attributes:
      logits: function `images [N, 28, 28, 1] -> logits [N, 10]`, for floating images in [0, 1].
      accuracy: share of the 10,000 test images of MNIST that the classifier gets right.
      fingerprint: SHA-256 of the weights, with which a score names its judge.
    """

    logits: Callable[[Any], np.ndarray]
    accuracy: float
    fingerprint: str

    def labels(self, images: Any) -> np.ndarray:
        """Returns the digit of each image, int32 [N]."""
        return self.logits(images).argmax(axis=-1).astype(np.int32)


def packaged() -> Path:
    """Returns the file of the judge that comes with genmod."""
    return Path(str(resources.files("genmod.evaluate") / "weights" / "mnist.npz"))


@functools.cache
def classifier(path: str | Path | None = None) -> Classifier:
    """Reads the judge from its file.

    The network has two strided convolutions (32 and 64 channels) and a dense layer of 256 units. It
    was trained on images shifted by up to two pixels.

    Args:
      path: file that `python -m genmod.evaluate.digits FILE` has written; the packaged file if
        None.

    Raises:
      DataError: if the file is missing or damaged.
    """
    net = _net()
    like = jax.eval_shape(net.init, rng.root(0), jnp.zeros((1, 28, 28, 1)))
    params, about = _read(packaged() if path is None else Path(path), like)
    return Classifier(_logits(net, params), about["accuracy"], about["fingerprint"])


def fingerprint() -> str:
    """Reads the SHA-256 of the packaged judge's weights."""
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
        {"image": images.images, "label": images.labels},
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
        # The last chunk is padded: with one shape of chunks, XLA compiles one program.
        missing = _CHUNK - len(chunks[-1])
        chunks[-1] = np.pad(chunks[-1], [(0, missing), (0, 0), (0, 0), (0, 0)])
        return np.concatenate([np.asarray(apply(params, x)) for x in chunks])[: len(images)]

    return logits


def accuracy(judge: Classifier) -> float:
    """Returns a judge's accuracy on the 10,000 MNIST test images."""
    test = data.load("mnist", "test")
    return float((judge.labels(np.asarray(test.images, np.float32) / 255) == test.labels).mean())


def _fingerprint(params: Params) -> str:
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _halves(params: Params) -> Params:
    """Rounds weights to half precision; returns float32."""
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16).astype(np.float32), params)


def _write(path: Path, net: Net, params: Params) -> dict[str, Any]:
    """Writes rounded weights and information about them.

    Returns:
      The information: fingerprint, accuracy, recipe, versions and device.
    """
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
    """Reads weights, as float32, and the information about them."""
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
    """Trains the judge again and writes it to a file.

    Returns:
      0 if the weights are bit-identical to those of the packaged judge, else 1.

    Raises:
      ValueError: if the arguments are not exactly one file.
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
