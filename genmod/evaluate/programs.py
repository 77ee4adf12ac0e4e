"""Programs that evaluate a data set batch by batch.

Every example has a key of its own, and equal functions share one compiled program.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.data.protocols import Preprocessing
from genmod.types import Array, Batch, Key, Keys, Parts


def batches(examples: Batch, batch_size: int, *, first: int = 0) -> Iterator[tuple[int, Batch]]:
    """Yields the number of a batch's first example, and the batch.

    All examples from number `first` on are used once; the last batch may be smaller.
    """
    num = checks.leading_axis("examples", examples)
    for start in range(first, num, batch_size):
        rows = slice(start, min(start + batch_size, num))
        yield start, jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples)


def number_of(examples: Batch) -> int:
    """Returns the number of examples, which is at least one.

    Raises:
      ValueError: if there are none, or they are of several parts.
    """
    refuse_parts("examples", examples)
    num = checks.leading_axis("examples", examples)
    if not num:
        raise ValueError("examples must hold at least one example, got none")
    return num


def keys_of(key: Key, name: str, first: int | Array, num: int) -> Keys:
    """Returns the keys of `num` examples from number `first` on.

    A key depends on `key`, the stream's name and the number of the example alone.
    """
    index = first + jnp.arange(num)
    return jax.vmap(rng.at_step, in_axes=(None, 0))(rng.stream(key, name), index)


def prepared(prepare: Preprocessing | None, key: Key, raw: Batch, first: int | Array) -> Batch:
    """Returns the batch that `prepare` makes of raw examples."""
    if prepare is None:
        return raw
    num = checks.leading_axis("batch", raw)
    batch = prepare(keys_of(key, "prepare", first, num), raw)
    refuse_parts("what prepare returns", batch)
    return batch


def refuse_parts(what: str, batch: Batch) -> None:
    """Refuses batches side by side, whose parts have a length of their own."""
    if isinstance(batch, Parts):
        raise ValueError(
            f"{what} must be an array [N, ...] or a tree of such arrays, got types.Parts of "
            f"{', '.join(map(repr, batch))}; give one part, and an objective of it"
        )


class Programs:
    """Function of arrays, with one compiled program for each shape.

    It computes at the highest matmul precision, on every platform.
    """

    def __init__(self, function: Callable[..., Any], *parts: Any):
        """Binds the leading arguments of a function.

        Args:
          function: pure function `(*parts, *arrays)`, of a module.
          parts: functions that it calls, such as an objective and its preprocessing.
        """
        self._parts = (function, *parts)
        self._programs: dict[Any, _Program] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Computes the function's value."""
        shapes = tuple(map(jnp.shape, jax.tree.leaves(arguments)))
        with jax.default_matmul_precision("highest"):
            if shapes not in self._programs:
                self._programs[shapes] = _Program(self._parts, arguments)
            return run(self._programs[shapes], *arguments)


@functools.lru_cache(maxsize=16)
def _traceable(function: Callable[..., Any], *parts: Any) -> Any:
    """Returns a function of arrays as a compiled function.

    JAX keeps the function's traces as long as the function lives. Its program takes all arguments,
    also those without a use: else that of `params["a"]` and that of `params["b"]` would be equal.
    """
    return jax.jit(functools.partial(function, *parts), keep_unused=True)


class _Program:
    """Function for arguments of certain shapes, equal to all that compute the same.

    Two compute the same if XLA gets the same StableHLO for these shapes. Their Python functions
    tell less: one that looks like another may read a variable that has changed since. Tracing takes
    a tenth of the time of compiling.
    """

    def __init__(self, parts: tuple[Any, ...], arguments: tuple[Any, ...]):
        self.values = _traceable(*parts)
        traced = self.values.trace(*arguments)
        lowered = traced.lower()
        text = lowered.as_text()
        # The text does not say which Python function a callback of JAX calls.
        calls_back = traced.jaxpr.effects or "callback" in text or "host_transfer" in text
        digest = hashlib.sha256(text.encode()).digest()
        names = jax.tree.structure(lowered.out_info)
        self._identity = parts if calls_back else (digest, names)

    def __eq__(self, other: object) -> bool:
        """Whether both compute the same."""
        return isinstance(other, _Program) and self._identity == other._identity

    def __hash__(self) -> int:
        """Returns a number that equal programs share."""
        return hash(self._identity)


@functools.partial(jax.jit, static_argnames="program")
def run(program: _Program, *arguments: Any) -> Any:
    """Computes a program's value; equal programs are compiled once."""
    return program.values(*arguments)
