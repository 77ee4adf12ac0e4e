"""Judges: small image classifiers that come with genmod.

A judge tells which class a generated image shows, and its features are a space in which sets of
images can be compared. There are recipes for MNIST and for Fashion-MNIST; the weights of those in
`names()` come with the package, in half precision. To train one again from a fixed seed (minutes on
a CPU), run

    python -m genmod.evaluate.judges mnist FILE
    python -m genmod.evaluate.judges fashion_mnist FILE --dataset idx:FOLDER

where FOLDER has the original archives of Fashion-MNIST. This also reports whether the new weights
are bit-identical to the packaged ones. They are with the versions and on the kind of CPU that the
packaged file names.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genmod import checks, data, nets, rng, train
from genmod.data import DataError, Dataset
from genmod.evaluate import _chunks, _weights
from genmod.evaluate import classifier as classifiers
from genmod.evaluate.modes import ModeScores, label_modes
from genmod.types import Array, Key, Net, Params

_CHUNK = 500
_RECOGNISED = 0.8
"""Least share of a data set's labels that its own judge finds."""
_TRIED = 1000

SHAPE = (28, 28, 1)
"""Shape of an image, (H, W, C)."""


class Judge(NamedTuple):
    """Trained classifier of images.

    Images are floating in [0, 1], or uint8.

    Attributes:
      name: name of its recipe.
      classes: names of the classes.
      logits: function `images [N, 28, 28, 1] -> logits [N, classes]`.
      features: function `images [N, 28, 28, 1] -> features float32 [N, D]`, the values before the
        last layer.
      accuracy: share of the 10,000 test images of its data that the judge gets right.
      fingerprint: SHA-256 of the weights, with which a score names its judge.
    """

    name: str
    classes: tuple[str, ...]
    logits: Callable[[Any], np.ndarray]
    features: Callable[[Any], np.ndarray]
    accuracy: float
    fingerprint: str

    def labels(self, images: Any) -> np.ndarray:
        """Returns the class of each image, int32 [N]."""
        return self.logits(images).argmax(axis=-1).astype(np.int32)

    def labels_by_channel(self, images: Any) -> np.ndarray:
        """Returns the class of each channel, [N, H, W, C] -> int32 [N, C]."""
        channels = range(images.shape[-1])
        return np.stack([self.labels(images[..., one : one + 1]) for one in channels], axis=1)

    def modes(self, seen: np.ndarray, labels: np.ndarray) -> ModeScores:
        """Scores the classes seen in samples.

        The floor has the frequencies of real labels.
        """
        counts = np.bincount(labels, minlength=len(self.classes))
        frequencies = counts / counts.sum()
        return label_modes(seen, len(counts), frequencies=frequencies, judge=self.fingerprint)


class Recipe(NamedTuple):
    """Settings that determine the weights of a judge.

    The first convolution has kernels of 6 x 6 and stride 2, the others have kernels of 3 x 3. After
    the first and after the last of them, max pooling halves the image, so that its side is 28, 14,
    7 and 4 pixels in turn. A dense layer then computes the features, and another one the logits.
    ReLUs follow all layers but the last.

    Attributes:
      dataset: name of the data set for `data.load`; empty if it does not come with genmod.
      fingerprint: fingerprint of the training images.
      classes: names of the classes.
      width: channels of the first layer.
      widths: channels of the further convolutions.
      num_features: number of features.
      shift: largest shift of a training image, in pixels.
      flip: whether half of the training images are mirrored.
      epochs: passes over the training images.
      batch_size: images in a batch.
      learning_rate: first learning rate of AdamW; it decays to zero along a cosine.
      weight_decay: weight decay of AdamW.
      seed: seed of the run.
    """

    dataset: str
    fingerprint: str
    classes: tuple[str, ...]
    width: int
    widths: tuple[int, ...]
    num_features: int
    shift: int
    flip: bool
    epochs: int
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0


RECIPES = {
    "mnist": Recipe(
        dataset="mnist",
        fingerprint="sha256:0560295d6af96cd409fb237c384e5625e6e85742f44e5b012abab8a1d9f9226e",
        classes=tuple("0123456789"),
        width=32,
        widths=(64, 64),
        num_features=128,
        shift=2,
        flip=False,
        epochs=12,
    ),
    "fashion_mnist": Recipe(
        dataset="",
        fingerprint="sha256:78a80775613950d54ab4496e9c7afa1dae00c68ad03bd6495bdba6e861ba3253",
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        width=64,
        widths=(128, 128),
        num_features=128,
        shift=1,
        flip=True,
        epochs=24,
    ),
}
"""Recipes of the packaged judges, by name."""


def _net(recipe: Recipe) -> Net:
    """Makes the network of a judge as it is trained.

    Each kernel is standardised, which takes the place of a normalisation of the activations (Brock
    et al., Characterizing signal propagation to close the performance gap in unnormalized ResNets,
    2021, arXiv:2101.08692).
    """
    inner = [(6, recipe.width), *((3, width) for width in recipe.widths), (4, recipe.num_features)]

    def init(key: Key, x: Array) -> Params:
        params, channels = {}, x.shape[-1]
        for index, (side, width) in enumerate(inner):
            shape = (side, side, channels, width)
            params[f"layer_{index}"] = {
                "kernel": nets.he_normal(rng.stream(key, f"layer_{index}"), shape),
                "scale": jnp.ones(width),
                "bias": jnp.zeros(width),
            }
            channels = width
        kernel = nets.he_normal(rng.stream(key, "output"), (channels, len(recipe.classes)))
        return {**params, "output": {"kernel": kernel, "bias": jnp.zeros(len(recipe.classes))}}

    def apply(params: Params, x: Array) -> Array:
        params = _plain(params)
        return _logits(params, _features(params, x))

    return Net(init, apply)


def _plain(params: Params) -> Params:
    """Returns trained parameters with standardised kernels.

    Each layer then has a "kernel" and a "bias" alone.
    """

    def layer(name: str, kernel: Any, scale: Any, bias: Any) -> dict[str, Any]:
        # A kernel of mean zero does not see the brightness of an image, so the first layer keeps
        # its mean.
        if name != "layer_0":
            kernel = kernel - kernel.mean((0, 1, 2), keepdims=True)
        norm = ((kernel**2).sum((0, 1, 2), keepdims=True) + 1e-12) ** 0.5
        return {"kernel": kernel * (2**0.5 * scale.reshape(1, 1, 1, -1) / norm), "bias": bias}

    return {name: layer(name, **one) if "scale" in one else one for name, one in params.items()}


def _features(params: Params, x: Array) -> Array:
    """Returns the features [B, D] of images [B, 28, 28, 1], given plain parameters."""
    last = len(params) - 2
    for index in range(last + 1):
        kernel, bias = params[f"layer_{index}"]["kernel"], params[f"layer_{index}"]["bias"]
        padding = "VALID" if index == last else "SAME"
        x = nets.conv(x, kernel, stride=1 if index else 2, padding=padding)
        x = jax.nn.relu(x + bias.reshape(1, 1, 1, -1))
        if index in (0, last - 1):
            x = _halved(x)
    return x.reshape(x.shape[0], -1)


def _logits(params: Params, features: Array) -> Array:
    return features @ params["output"]["kernel"] + params["output"]["bias"].reshape(1, -1)


def _halved(x: Array) -> Array:
    """Returns the maxima of 2 x 2 pixels of values that are not negative."""
    # XLA's CPU backend has slow derivatives of its own pooling.
    for axis in (1, 2):
        odd = [(0, x.shape[axis] % 2 if axis == own else 0) for own in range(4)]
        x = jnp.pad(x, odd)
        pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        first, second = jnp.split(pairs, 2, axis + 1)
        x = jnp.maximum(first, second).squeeze(axis + 1)
    return x


def _training(recipe: Recipe, images: Dataset, carry: Any = None) -> Iterator[train.LogPoint]:
    """Trains a judge, yielding after each epoch; goes on from a carry."""
    steps = recipe.epochs * len(images.images) // recipe.batch_size
    moved = data.translate(recipe.shift / SHAPE[0])
    learner = classifiers.learner(
        _net(recipe),
        optax.adamw(
            optax.cosine_decay_schedule(recipe.learning_rate, steps),
            weight_decay=recipe.weight_decay,
        ),
        augment=data.compose(moved, data.flip) if recipe.flip else moved,
    )
    batch_at = data.batches(
        {"image": images.images, "label": images.labels},
        batch_size=recipe.batch_size,
        prepare=data.unchanged,
    )
    return train.run(
        learner,
        rng.root(recipe.seed),
        batch_at,
        num_steps=steps,
        log_every=steps // recipe.epochs,
        carry=carry,
    )


def packaged(name: str) -> Path:
    """Returns the file of a judge that comes with genmod."""
    return Path(str(resources.files("genmod.evaluate") / "weights" / f"{name}.npz"))


def names() -> list[str]:
    """Returns the names of the judges that come with genmod."""
    return [name for name in RECIPES if packaged(name).exists()]


@functools.cache
def classifier(name: str | Path = "mnist") -> Judge:
    """Reads a judge from its file.

    Args:
      name: name of a judge that comes with genmod, one of `names()`; or the path, a `Path`, of a
        file that `python -m genmod.evaluate.judges` has written.

    Raises:
      ValueError: if no judge has this name.
      DataError: if the file is missing or damaged.

    Example:
      >>> import numpy as np
      >>> from genmod.evaluate import judges
      >>> judge = judges.classifier("mnist")
      >>> images = np.zeros((3, 28, 28, 1), np.uint8)
      >>> judge.logits(images).shape, judge.features(images).shape
      ((3, 10), (3, 128))
    """
    if isinstance(name, str):
        checks.known("judge", name, names())
        return _read(packaged(name))
    return _read(name)


def that_reads(dataset: Dataset) -> Judge | None:
    """Returns the packaged judge that recognises a data set's labels.

    It must find four of five labels among the first 1,000 images. Images of several channels, such
    as Stacked-MNIST, need a label for each channel.

    Args:
      dataset: images [N, H, W, C] with labels [N], or [N, C].

    Returns:
      The judge; None if there is none.
    """
    shape = tuple(dataset.images.shape[1:])
    some, labels = dataset.images[:_TRIED], np.asarray(dataset.labels[:_TRIED])
    if shape[:2] != SHAPE[:2] or labels.size != len(some) * shape[-1]:
        return None
    for name in names():
        judge = classifier(name)
        if np.mean(judge.labels_by_channel(some) == labels.reshape(len(some), -1)) >= _RECOGNISED:
            return judge
    return None


def fingerprint(name: str = "mnist") -> str:
    """Reads the SHA-256 of the weights of a packaged judge.

    Raises:
      ValueError: if no judge has this name.
    """
    checks.known("judge", name, names())
    with np.load(packaged(name)) as arrays:
        return json.loads(str(arrays["about"]))["fingerprint"]


def accuracy(judge: Judge, test: Dataset) -> float:
    """Returns the share of images that a judge gets right."""
    return float((judge.labels(test.images) == test.labels).mean())


def _judge(params: Params, about: Mapping[str, Any]) -> Judge:
    """Returns the judge with these plain parameters."""

    def of_images(function: Callable[[Params, Array], Array]) -> Callable[[Any], np.ndarray]:
        compiled = functools.partial(jax.jit(function), params)

        def values(images: Any) -> np.ndarray:
            _chunks.check_images(images, *SHAPE)
            return _chunks.in_chunks(compiled, images, size=_CHUNK)

        return values

    return Judge(
        name=about["name"],
        classes=tuple(about["recipe"]["classes"]),
        logits=of_images(lambda params, x: _logits(params, _features(params, x))),
        features=of_images(_features),
        accuracy=about["accuracy"],
        fingerprint=about["fingerprint"],
    )


def _read(path: Path) -> Judge:
    arrays = _weights.read(path)
    try:
        about = json.loads(str(arrays.pop("about")))
        params = _weights.nested({name: a.astype(np.float32) for name, a in arrays.items()})
        sound = _weights.fingerprint(arrays) == about["fingerprint"]
        judge = _judge(params, about)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error!r}); expected a judge") from None
    if not sound:
        raise DataError(f"{path}: damaged: not the weights it names; reinstall genmod")
    return judge


def _write(path: Path, name: str, params: Params, test: Dataset) -> dict[str, Any]:
    """Writes a judge, given trained parameters.

    Returns:
      Information about it: name, fingerprint, accuracy, recipe, versions and device.
    """
    from genmod._host import environment

    # NumPy computes the same bits on every machine.
    plain = _plain(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params))
    arrays = {name: array.astype(np.float16) for name, array in _weights.named(plain).items()}
    about = {
        "name": name,
        "fingerprint": _weights.fingerprint(arrays),
        "accuracy": 0.0,
        "recipe": RECIPES[name]._asdict(),
        "versions": environment.versions(),
        "device": environment.device(),
    }
    rounded = _weights.nested({n: array.astype(np.float32) for n, array in arrays.items()})
    about["accuracy"] = accuracy(_judge(rounded, about), test)
    with path.open("wb") as file:
        np.savez_compressed(file, **cast(Any, {**arrays, "about": np.array(json.dumps(about))}))
    return about


def main(arguments: Sequence[str]) -> int:
    """Trains a judge again and writes it to a file.

    Returns:
      0 if the weights are bit-identical to those of the packaged judge, else 1.

    Raises:
      ValueError: if the training images are not those of the recipe.
    """
    parser = argparse.ArgumentParser(prog="python -m genmod.evaluate.judges")
    parser.add_argument("name", choices=sorted(RECIPES), help="judge to train")
    parser.add_argument("file", type=Path, help="file to write, .npz")
    parser.add_argument("--dataset", help="its data, as for genmod.data.load: idx:FOLDER")
    given = parser.parse_args(arguments)
    recipe = RECIPES[given.name]
    dataset = given.dataset or recipe.dataset
    if not dataset:
        raise ValueError(
            f"--dataset must be given, as {given.name} does not come with genmod: idx:FOLDER, a "
            "folder with its original archives"
        )
    images = data.load(dataset)
    if images.fingerprint != recipe.fingerprint:
        raise ValueError(
            f"--dataset must hold the training images of {given.name} in the order of its "
            f"original archives, fingerprint {recipe.fingerprint}, got {images.fingerprint}"
        )
    params = None
    for point in _training(recipe, images):
        params = point.state.params
        epoch = point.step * recipe.batch_size // len(images.images)
        loss = float(point.metrics["loss"])
        print(f"epoch {epoch} of {recipe.epochs}: cross entropy {loss:.4f} nats", flush=True)
    about = _write(given.file, given.name, params, data.load(dataset, "test"))
    size = given.file.stat().st_size / 1e6
    print(f"{given.file}: {size:.2f} MB, {about['fingerprint']}, accuracy {about['accuracy']:.2%}")
    same = packaged(given.name).exists() and about["fingerprint"] == fingerprint(given.name)
    print("every bit is the packaged judge's" if same else "not the packaged judge")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
