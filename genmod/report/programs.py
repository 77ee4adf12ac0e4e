"""Decoders as short programs that a browser can run.

JAX traces the decoder, so any network works that consists of the operations in `operations.py`; its
layers need not be known. Everything that does not depend on the latents is computed here.
`assets/interpreter.js` runs the rest.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.report import unfolded, weights
from genmod.report.operations import UnsupportedError, Writer
from genmod.report.unfolded import Unfolded
from genmod.types import Array

_CLOSE = 2e-4
"""Largest difference of a pixel for 16-bit weights."""
_TRIED = 16


def program(
    decode: Callable[..., Array],
    latent_dim: int,
    *,
    conditions: Sequence[Any] | None = None,
    tried: Any = None,
) -> dict[str, Any]:
    """Translates a decoder to a program for `assets/interpreter.js`.

    Weights have 16 bits if this changes no pixel of the images for `tried` by more than 2e-4, else
    32 bits.

    A conditional decoder is translated once for each condition. The translations share everything
    but some constants, such as an embedding of the class: a choice of condition is one of these.

    Args:
      decode: decoder with its weights, `z [B, L] -> images [B, H, W, C]`; each image must depend on
        its own z alone. With `conditions`, `(z, c) -> images`.
      latent_dim: number of latents L.
      conditions: conditions to choose from, each a tree of arrays [1, ...]; None for a decoder of z
        alone.
      tried: latents [T, L] for whose images pixels are compared; 16 draws from N(0, I) if None.

    Returns:
      The program, which JSON can hold:

      - `latentDim`: L,
      - `shape`: [H, W, C],
      - `steps`: operations in order, each with its name `f`, the numbers `a` of its arguments (0 is
        z), the number `out` of its result, the length `n` of its result, and its further options,
      - `constants`: constants by their numbers,
      - `choices`: for each condition, the constants that depend on it, by their numbers,
      - `result`: the number of the image.

    Raises:
      UnsupportedError: if the decoder holds an operation, or a form of one, that the browser does
        not know, or has other operations for another condition.
      ValueError: if the decoder does not return images, or `tried` has another shape.
    """
    checks.positive_integer("latent_dim", latent_dim)
    if tried is None:
        tried = jax.random.normal(rng.root(0), (_TRIED, latent_dim))
    tried = jnp.asarray(tried, jnp.float32)
    if tried.ndim != 2 or tried.shape[1] != latent_dim or not len(tried):
        raise ValueError(f"tried must have the shape [T, {latent_dim}], got {list(tried.shape)}")
    given = [()] if conditions is None else [(condition,) for condition in conditions]
    with jax.default_matmul_precision("highest"):  # the browser multiplies in full precision
        first = _translated(decode, latent_dim, given[0])
        close = _Closeness(first.function, tried)
        choices = [_own_constants(first, first)]
        for condition in given[1:]:
            other = _translated(decode, latent_dim, condition)
            choices.append(_own_constants(first, other))
            close.add(other.function)
    level = close.level
    own = sorted({number for choice in choices for number in choice})
    constants = {n: value for n, value in first.constants.items() if n not in own}
    of_each = [{n: choice.get(n, first.constants[n]) for n in own} for choice in choices]
    return {
        "latentDim": latent_dim,
        "shape": first.shape,
        "steps": first.steps,
        "result": first.result,
        "constants": _as_text(constants, level),
        "choices": [_as_text(one, level) for one in of_each] if conditions is not None else [],
    }


def _as_text(constants: Mapping[int, np.ndarray], level: int | None) -> dict[str, Any]:
    return {str(number): weights.as_text(value, level) for number, value in constants.items()}


class _Translation(NamedTuple):
    """Translation of a decoder for one condition.

    Attributes:
      function: the decoder, unfolded.
      steps: operations for the browser.
      constants: constants by their numbers.
      result: number of the image.
      shape: shape of the image, [H, W, C].
    """

    function: Unfolded
    steps: list[dict[str, Any]]
    constants: dict[int, np.ndarray]
    result: int
    shape: list[int]


def _translated(
    decode: Callable[..., Array], latent_dim: int, condition: tuple[Any, ...]
) -> _Translation:
    closed = jax.make_jaxpr(lambda z: decode(z, *condition))(
        jax.ShapeDtypeStruct((1, latent_dim), jnp.float32)
    )
    shapes = [list(aval.shape) for aval in closed.out_avals]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1:
        raise ValueError(f"decode must return images [B, H, W, C], got the shapes {shapes} for B=1")
    function = unfolded.unfold(closed)
    writer = Writer()
    image = writer.write(function, latent_dim)
    return _Translation(function, writer.steps, writer.constants, image.number, shapes[0][1:])


def _own_constants(first: _Translation, other: _Translation) -> dict[int, np.ndarray]:
    """Returns the constants of a translation that differ from those of the first.

    Raises:
      UnsupportedError: if anything else differs.
    """
    same = (first.steps, first.result, first.shape) == (other.steps, other.result, other.shape)
    if not same or first.constants.keys() != other.constants.keys():
        raise UnsupportedError("its decoder has other operations for another class")
    pairs = ((number, first.constants[number], value) for number, value in other.constants.items())
    return {
        number: value
        for number, before, value in pairs
        if (before.shape, before.dtype, before.tobytes())
        != (value.shape, value.dtype, value.tobytes())
    }


class _Closeness:
    """Search for the first of `weights.LEVELS` that keeps the pixels.

    The comparison rounds the constants that are written, that is, after all computations on weights
    alone and before any computation on latents.

    Attributes:
      level: the first level that keeps the pixels of all functions so far.
    """

    def __init__(self, function: Unfolded, tried: Array):
        """Takes a function, and the latents for whose images pixels are compared."""

        @jax.jit
        def pixels(constants: Sequence[Any]) -> Array:
            evaluate = functools.partial(unfolded.evaluate, function, given=constants)
            return jax.lax.map(evaluate, tried[:, None])

        self._pixels = pixels
        self._levels = list(weights.LEVELS)
        self.add(function)

    @property
    def level(self) -> int | None:
        return self._levels[0]

    def add(self, function: Unfolded) -> None:
        """Compares pixels of a function with the same operations."""
        exact = unfolded.constants(function)
        wanted = self._pixels(exact)
        while len(self._levels) > 1:
            level = self._levels[0]
            rounded = [_as_given(weights.written(value, level), value) for value in exact]
            # A comparison with NaN is False: if pixels are NaN, weights keep 32 bits.
            if bool(jnp.abs(self._pixels(rounded) - wanted).max() <= _CLOSE):
                return
            self._levels.pop(0)


def _as_given(values: np.ndarray, given: Any) -> Any:
    """Returns rounded values in place of a float32 constant.

    Constants of other types are not rounded.
    """
    return given if np.asarray(given).dtype != np.float32 else values
