"""Log-likelihood of a latent-variable model, by importance sampling.

The model is known by its log weight alone: a function `(keys [B], params, batch) -> log w [B]` that
returns log p(x, z) - log q(z | x) at one draw z ~ q(z | x) per example. So the same estimator
serves every model, also those that genmod did not make.
"""

import hashlib
import json
import math
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod._host.disk import replacing
from genmod.data.protocols import Prepare, Preprocessing, as_function
from genmod.data.stores import StreamedImages
from genmod.evaluate import programs
from genmod.evaluate.averages import estimate
from genmod.types import Array, Batch, Key, Keys, Params

LogWeight = Callable[[Keys, Params, Batch], Array]
"""Function `(keys [B], params, batch) -> log w [B]`, in nats."""

_CHUNKS = 10
"""Largest number of chunks in one call of the compiled program.

A call costs the host as much as some hundred decoded images.
"""

_SAVE_EVERY = 10.0
"""Seconds between two writes of a checkpoint."""


class LikelihoodMean(NamedTuple):
    """Mean log-likelihood over examples, in nats.

    Attributes:
      mean: the mean.
      error: its standard error as an estimate for all examples of this kind. It includes the noise
        of the draws.
      sampling_error: the part of the error that more draws would remove. It is the standard error
        if only these very examples count, as when two models are compared on one test set.
    """

    mean: float
    error: float
    sampling_error: float


class Likelihood(NamedTuple):
    """Estimated log-likelihood of each example, as float64 arrays [N].

    Attributes:
      log_likelihood: estimate of log p(x), in nats. Its mean over draws is a lower bound, about
        error^2 / 2 below log p(x).
      error: its standard error by the delta method, in nats; NaN with a single draw.
      effective_samples: number of equally weighted draws that are worth as much as these, from 1 to
        num_samples. If it is a few only, the estimate is too low, and so is its error.
    """

    log_likelihood: np.ndarray
    error: np.ndarray
    effective_samples: np.ndarray

    @property
    def average(self) -> LikelihoodMean:
        """Mean over all examples, with both parts of its error."""
        sampling = np.sqrt(np.square(self.error).sum()) / len(self.error)
        return LikelihoodMean(*estimate(self.log_likelihood), float(sampling))


def importance(
    key: Key,
    params: Params,
    examples: Batch,
    log_weight: LogWeight,
    *,
    num_samples: int,
    batch_size: int = 20,
    chunk_size: int = 50,
    prepare: Prepare | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Likelihood:
    """Estimates the log-likelihood of each example.

        log p(x) ~ log (1/S sum_s w_s),    w_s = p(x, z_s) / q(z_s | x),    z_s ~ q(z | x)

    Its standard error by the delta method, and the effective number of samples (Kish), are

        error = sd(w) / (sqrt(S) mean(w)),    effective samples = (sum w)^2 / sum w^2

    A draw's key depends on the numbers of its example and its sample alone, so the result does not
    depend on batch_size and chunk_size (except for rounding), and every example and sample is used.
    Neither does the memory depend on num_samples.

    The model computes its log weights in its own precision, at the highest matmul precision. They
    are summed in float64, which adds no error of its own. In float32 the log weights of a VAE of
    MNIST have errors of 1e-5 nats; these are of either sign, and the mean over thousands of samples
    has errors of 1e-6.

    Args:
      key: single key.
      params: parameters of the model.
      examples: array [N, ...], or a tree of such arrays, such as {"image": ..., "label": ...};
        images may be streamed.
      log_weight: function `(keys [B], params, batch) -> log w [B]`, in nats, such as
        `vae.log_weight(model)`. It is mapped over samples by `jax.vmap`, so that what does not
        depend on the keys, such as the encoder, is computed once for many samples.
      num_samples: number of draws S for each example.
      batch_size: number of examples in a batch.
      chunk_size: largest number of samples of each example in a chunk. The device holds batch_size
        * chunk_size decoded images at a time. A CPU is fastest if these fit into its caches, about
        500 images of MNIST per core; a GPU is with many more.
      prepare: function `(keys [B], raw examples) -> batch`, or such functions by field, as in
        `data.batch_at`; raw examples are the batch if None. Its noise is drawn once per example.
      progress: whether to show a progress bar in a terminal.
      checkpoint: file (.npz) that keeps the finished examples. A second call with the same
        arguments goes on with the others. It may have other batch and chunk sizes. The file does
        not know the functions log_weight and prepare, nor the values of streamed images: use one
        file for each model and each data set.

    Raises:
      ValueError: if num_samples, batch_size or chunk_size is not positive, there are no examples or
        they are of several parts, log_weight looks at its whole batch (it has a true attribute
        `whole_batch`) or returns another shape, a log weight is NaN or +inf (-inf is a weight of
        0), or the checkpoint is of other arguments.

    References:
      Burda et al., Importance Weighted Autoencoders, 2016 (arXiv:1509.00519), section 5.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import rng
      >>> from genmod.evaluate.likelihood import importance
      >>> exact = lambda keys, params, x: params - x
      >>> importance(rng.root(0), 1.0, jnp.arange(3.0), exact, num_samples=10).log_likelihood
      array([ 1.,  0., -1.])
    """
    from genmod._host.bars import tqdm

    num_samples = checks.positive_integer("num_samples", num_samples)
    batch_size = checks.positive_integer("batch_size", batch_size)
    chunk_size = checks.positive_integer("chunk_size", chunk_size)
    if prepare is not None:
        prepare = as_function(prepare)
    num = programs.number_of(examples)
    if getattr(log_weight, "whole_batch", False):
        raise ValueError(
            "log_weight must compute each example's weight from that example alone, got a function "
            "that looks at its whole batch (it has a true attribute whole_batch)"
        )

    params = jax.device_put(params)
    kept = _Kept(checkpoint, num, lambda: _about(key, params, examples, num_samples))
    compute = programs.Programs(_log_weights, log_weight, prepare)
    calls = _in_calls(num_samples, chunk_size)
    hidden = None if progress else True
    done, total = kept.done * num_samples, num * num_samples
    bar = tqdm(
        total=total, initial=done, unit="sample", unit_scale=True, leave=False, disable=hidden
    )
    with bar, kept:
        for first, raw in programs.batches(examples, batch_size, first=kept.done):
            # The device gets the examples once for all calls.
            batch, size = jax.device_put(raw), checks.leading_axis("examples", raw)
            sums, rest = _empty(size), num_samples
            for found in _ahead(compute(key, params, batch, first, call) for call in calls):
                some = _checked(found, first, rest)
                sums, rest = _with_weights(sums, some), rest - len(some)
                bar.update(some.size)
            kept.add(_estimates(sums, num_samples))
    return Likelihood(*kept.values)


def _in_calls(num_samples: int, chunk_size: int) -> list[np.ndarray]:
    """Returns the numbers of the samples for each call of the program, [chunks, samples].

    All calls have one shape, so that there is one program. It has a surplus of less than one sample
    per chunk, which is not used.
    """
    num_chunks = math.ceil(num_samples / chunk_size)
    num_calls = math.ceil(num_chunks / _CHUNKS)
    num_chunks = math.ceil(num_chunks / num_calls)
    size = math.ceil(num_samples / (num_calls * num_chunks))
    numbers = np.arange(num_calls * num_chunks * size, dtype=np.uint32)
    return list(numbers.reshape(num_calls, num_chunks, size))


def _log_weights(
    log_weight: LogWeight,
    prepare: Preprocessing | None,
    key: Key,
    params: Params,
    raw: Batch,
    first: int | Array,
    samples: Array,
) -> Array:
    """Computes log weights [K, C, B] of the samples with these numbers [K, C].

    The chunks are computed one after the other.
    """
    num = checks.leading_axis("batch", raw)
    batch = programs.prepared(prepare, key, raw, first)
    keys = programs.keys_of(key, "log_weight", first, num)

    def draw(sample: Array) -> Array:
        found = log_weight(rng.at_step(keys, sample), params, batch)
        shape = getattr(found, "shape", None)
        if shape != (num,) or not jnp.issubdtype(found.dtype, jnp.floating):
            raise ValueError(
                f"log_weight must return one floating number per example, of shape ({num},), got "
                f"{checks.described(found)}"
            )
        return found

    return jax.lax.map(jax.vmap(draw), samples)


def _ahead(results: Iterator[Any]) -> Iterator[Any]:
    """Yields results, each once the next one has been asked for.

    The device computes a result while the host works on the one before.
    """
    previous = next(results)
    for result in results:
        yield previous
        previous = result
    yield previous


def _checked(log_weights: Array, first: int, num_samples: int) -> np.ndarray:
    """Returns the log weights of up to `num_samples` samples, [samples, B], or refuses them."""
    found = np.asarray(log_weights).astype(np.float64)
    found = found.reshape(-1, found.shape[-1])[:num_samples]
    wrong = np.isnan(found) | (found == np.inf)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"log_weight must return numbers or -inf, got {found[row, column]} for example "
            f"{first + column}"
        )
    return found


class _Sums(NamedTuple):
    """Running sums over samples for each example, [B].

    Attributes:
      largest: largest log weight so far.
      weights: sum of w / exp(largest).
      squares: sum of its square.
    """

    largest: np.ndarray
    weights: np.ndarray
    squares: np.ndarray


def _empty(num: int) -> _Sums:
    return _Sums(np.full(num, -np.inf), np.zeros(num), np.zeros(num))


def _with_weights(sums: _Sums, log_weights: np.ndarray) -> _Sums:
    """Adds the log weights [samples, B] to the sums."""
    largest = np.maximum(sums.largest, log_weights.max(axis=0))
    # As long as all weights are 0, any number serves in place of -inf.
    shift = np.where(np.isfinite(largest), largest, 0.0)
    weights, before = np.exp(log_weights - shift), np.exp(sums.largest - shift)
    return _Sums(
        largest,
        sums.weights * before + weights.sum(axis=0),
        sums.squares * np.square(before) + np.square(weights).sum(axis=0),
    )


def _estimates(sums: _Sums, num_samples: int) -> Likelihood:
    """Returns the estimates that rest on these sums."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_mean = sums.largest + np.log(sums.weights) - np.log(num_samples)
        effective = np.square(sums.weights) / sums.squares
        # The squared coefficient of variation of w over S; rounding may give a number below 0.
        variance = np.maximum(num_samples / effective - 1, 0.0) / np.float64(num_samples - 1)
    return Likelihood(log_mean, np.sqrt(variance), effective)


class _Kept:
    """Estimates so far, kept in a file if one is given.

    Attributes:
      values: the fields of `Likelihood`, [3, N].
      done: number of finished examples.
    """

    def __init__(
        self, path: str | Path | None, num: int, about: Callable[[], dict[str, Any]]
    ) -> None:
        self.values, self.done = np.full((3, num), np.nan), 0
        self._path = None if path is None else Path(path)
        self._saved = time.monotonic()
        if self._path is None:
            return
        self._about = about()
        if self._path.exists():
            found = _read(self._path, self._about)
            self.done = found.shape[1]
            self.values[:, : self.done] = found

    def __enter__(self) -> None:
        self._save()  # now, so that a path that cannot be written is no surprise at the end

    def __exit__(self, *error: Any) -> None:
        self._save()

    def add(self, more: Likelihood) -> None:
        """Adds a batch, and writes the file now and then."""
        size = len(more.error)
        self.values[:, self.done : self.done + size] = more
        self.done += size
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        if self._path is not None:
            with replacing(self._path) as file:
                finished = self.values[:, : self.done]
                np.savez(file, values=finished, about=np.array(json.dumps(self._about)))
            self._saved = time.monotonic()


def _read(path: Path, about: dict[str, Any]) -> np.ndarray:
    """Reads finished estimates [3, n], if they are of these arguments."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            values, known = arrays["values"], json.loads(str(arrays["about"]))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"checkpoint must be a file of evaluate.importance or not exist, got {path} ({error})"
        ) from error
    other = [name for name in about if known.get(name) != about[name]]
    if other:
        raise ValueError(
            f"checkpoint must be of the same arguments, got {path}, which is of other "
            f"{' and '.join(other)}; give another path, or delete it"
        )
    return values


def _about(key: Key, params: Params, examples: Batch, num_samples: int) -> dict[str, Any]:
    """Describes the arguments on which estimates depend."""
    return {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "params": _digest(params),
        "examples": _digest(examples),
        "num_samples": num_samples,
    }


def _digest(tree: Any) -> str:
    """Returns the SHA-256 of a tree's names, types, shapes and values.

    Streamed images are known by their shape.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = leaf if isinstance(leaf, StreamedImages) else np.asarray(leaf)
        about = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};"
        digest.update(about.encode())
        if isinstance(array, np.ndarray):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
