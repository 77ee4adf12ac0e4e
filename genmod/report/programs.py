"""A decoder as a short list of operations that a browser can follow, with its weights.

The function is traced, so any network will do that is made of the operations below: nothing of its
layers has to be known. What does not depend on the latents is computed here; what does is broken
down to a few operations: functions of single numbers, matrix products, convolutions, sums and
maxima, and `view`, which copies by strides. `assets/interpreter.js` is their other half.
"""

import base64
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from genmod import checks, rng
from genmod.types import Array

OPERATIONS = {
    *("add", "sub", "mul", "div", "max", "min", "pow", "rem", "lt", "le", "gt", "ge", "eq", "ne"),
    *("and", "or", "not", "neg", "abs", "sign", "floor", "ceil", "round", "exp", "expm1", "log"),
    *("log1p", "sqrt", "rsqrt", "square", "sin", "cos", "tanh", "logistic", "erf", "erfc"),
    *("select_n", "clamp", "is_finite"),
}
"""Functions of single numbers, by the names of JAX's primitives."""
_SAME = {"copy", "optimization_barrier", "reduce_precision", "reshape", "squeeze", "expand_dims"}
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "remat2": "jaxpr"}
_CALLS |= {"checkpoint": "jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}
_SHORT_CONSTANTS = 64
"""Constants of at most so many numbers keep all their bits."""
_CLOSE = 2e-4
"""16 bits a weight will do where no pixel of some draws differs by more."""
_TRIED = 16


class UnsupportedError(ValueError):
    """A function holds an operation that the browser does not know."""


def program(decode: Callable[[Array], Array], latent_dim: int) -> dict[str, Any]:
    """Breaks a decoder down, for `assets/interpreter.js`.

    Weights are given in 16 bits where no pixel of some draws from N(0, I) changes by more than
    2e-4, else in 32.

    Args:
      decode: `z [B, L] -> images [B, H, W, C]`, its weights inside; each image of its own z alone.
      latent_dim: L.

    Returns:
      What JSON can hold: `latentDim` L, `shape` [H, W, C]; `steps`, operations in order, each with
      `f`, its name, `a`, the numbers of its arguments (0 is z), `out`, that of its result, `n`, the
      length of the result, and what else it needs; `constants` by their numbers; `result`, the
      number of the image.

    Raises:
      UnsupportedError: if it holds an operation, or a form of one, that the browser does not know.
      ValueError: if it does not make images.
    """
    checks.positive_integer("latent_dim", latent_dim)
    closed = jax.make_jaxpr(decode)(jax.ShapeDtypeStruct((1, latent_dim), jnp.float32))
    shapes = [list(aval.shape) for aval in closed.out_avals]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1:
        raise ValueError(f"decode must return images [B, H, W, C], got the shapes {shapes} for B=1")
    rounded = [_rounded(value) for value in closed.consts]
    short = _close(closed, rounded, latent_dim)
    writer = _Writer()
    (image,) = writer.walk(
        closed.jaxpr, rounded if short else closed.consts, [_Value(0, (1, latent_dim))]
    )
    image = writer.register(image)
    return {
        "latentDim": latent_dim,
        "shape": shapes[0][1:],
        "steps": writer.steps,
        "result": image.number,
        "constants": {str(n): _as_text(v, short) for n, v in writer.constants.items()},
    }


def _close(exact: ClosedJaxpr, rounded: Sequence[Any], latent_dim: int) -> bool:
    """Whether rounded constants make the same pixels of some draws."""
    draws = jax.random.normal(rng.root(0), (_TRIED, 1, latent_dim))

    @jax.jit
    def pixels(consts: Sequence[Any]) -> Array:
        (images,) = jax.lax.map(jaxpr_as_fun(ClosedJaxpr(exact.jaxpr, consts)), draws)
        return images

    return bool(jnp.abs(pixels(exact.consts) - pixels(rounded)).max() <= _CLOSE)


class _Value(NamedTuple):
    """What is known only in the browser: the number of its array, and the shape it stands for."""

    number: int
    shape: tuple[int, ...]


class _Writer:
    """Writes down the operations of a function, one after the other."""

    def __init__(self):
        self.steps: list[dict[str, Any]] = []
        self.constants: dict[int, np.ndarray] = {}
        self._numbers = itertools.count(1)  # 0 is z
        self._known: dict[int, tuple[Any, _Value]] = {}

    def walk(self, jaxpr: Jaxpr, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        """Follows a function; values are arrays where they are known, else `_Value`."""
        found: dict[Any, Any] = {
            **dict(zip(jaxpr.constvars, consts, strict=True)),
            **dict(zip(jaxpr.invars, given, strict=True)),
        }

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else found[atom]

        for equation in jaxpr.eqns:
            values = [read(atom) for atom in equation.invars]
            if any(isinstance(value, _Value) for value in values):
                outputs = self._equation(equation, values)
            else:
                outputs = _computed(jaxpr, equation, values)
            found.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def register(self, value: Any) -> _Value:
        """A value as the browser has it; known arrays become constants."""
        if isinstance(value, _Value):
            return value
        if id(value) not in self._known:
            array = np.asarray(value, np.float32)
            number = next(self._numbers)
            self.constants[number] = array.ravel()
            self._known[id(value)] = value, _Value(number, array.shape)  # kept: ids are not reused
        return self._known[id(value)][1]

    def _emit(
        self, name: str, given: Sequence[Any], shape: Sequence[int], /, **more: Any
    ) -> _Value:
        size = int(np.prod(shape))
        numbers = [self.register(value).number for value in given]
        out = next(self._numbers)
        self.steps.append({"f": name, "a": numbers, "out": out, "n": size, **more})
        return _Value(out, tuple(int(side) for side in shape))

    def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
        name, options = equation.primitive.name, equation.params
        shapes = [variable.aval.shape for variable in equation.outvars]
        if name == "cond" and options.get("branches_platforms"):
            # `lax.platform_dependent`: the one that is for no platform in particular.
            platforms = list(options["branches_platforms"])
            branch = options["branches"][platforms.index(None)]
            return self.walk(branch.jaxpr, branch.consts, given[1:])
        if name in _CALLS:
            inner = options[_CALLS[name]]
            closed = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            return self.walk(closed.jaxpr, closed.consts, given)
        if name in _SAME:
            return [self.register(value)._replace(shape=s) for value, s in zip(given, shapes)]  # noqa: B905
        rule = getattr(self, f"_{name}", None)
        if rule is not None:
            return rule(equation, given, shapes[0])
        if name not in OPERATIONS:
            raise UnsupportedError(f"the operation {name!r} is not known in the browser")
        return [self._emit(name, [self._spread(value, shapes[0]) for value in given], shapes[0])]

    def _spread(self, value: Any, shape: Sequence[int]) -> _Value:
        """A value in the shape of what is computed of it, where it is more than one number."""
        kept = self.register(value)
        if int(np.prod(kept.shape)) == 1 or kept.shape == tuple(shape):
            return kept
        strides = [
            stride if side != 1 else 0
            for side, stride in zip(kept.shape, _strides(kept.shape), strict=True)
        ]
        return self._view(kept, shape, strides)

    def _view(
        self, value: Any, shape: Sequence[int], strides: Sequence[int], offset: int = 0
    ) -> _Value:
        """The elements at offset + strides . index for each index of `shape`."""
        kept = self.register(value)
        size = int(np.prod(kept.shape))
        if size == np.prod(shape) and tuple(strides) == _strides(shape) and offset == 0:
            return kept._replace(shape=tuple(shape))
        sides, steps = [int(side) for side in shape], [int(stride) for stride in strides]
        return self._emit("view", [value], shape, shape=sides, strides=steps, offset=int(offset))

    def _transposed(self, value: Any, order: Sequence[int]) -> _Value:
        if not isinstance(value, _Value):
            return self.register(np.transpose(np.asarray(value), order))
        kept = value
        strides = _strides(kept.shape)
        return self._view(kept, [kept.shape[i] for i in order], [strides[i] for i in order])

    def _convert_element_type(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        whole = jnp.issubdtype(equation.params["new_dtype"], jnp.integer)
        if whole and jnp.issubdtype(equation.invars[0].aval.dtype, jnp.floating):
            raise UnsupportedError("conversion of z to whole numbers is not known in the browser")
        return [self.register(given[0])]

    def _add_any(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return [self._emit("add", given, shape)]  # its shapes are always the same

    def _integer_pow(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return [self._emit("pow", [*given, np.float32(equation.params["y"])], shape)]

    def _transpose(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return [self._transposed(given[0], equation.params["permutation"])]

    def _broadcast_in_dim(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept = self.register(given[0])
        strides = [0] * len(shape)
        own = _strides(kept.shape)
        for axis, target in enumerate(equation.params["broadcast_dimensions"]):
            strides[target] = own[axis] if kept.shape[axis] != 1 else 0
        return [self._view(kept, shape, strides)]

    def _slice(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept = self.register(given[0])
        own = _strides(kept.shape)
        steps = equation.params["strides"] or (1,) * len(own)
        starts = equation.params["start_indices"]
        offset = sum(start * stride for start, stride in zip(starts, own, strict=True))
        strides = [stride * step for stride, step in zip(own, steps, strict=True)]
        return [self._view(kept, shape, strides, offset)]

    def _rev(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        strides, axes = list(_strides(shape)), equation.params["dimensions"]
        offset = sum((shape[axis] - 1) * strides[axis] for axis in axes)
        for axis in axes:
            strides[axis] *= -1
        return [self._view(given[0], shape, strides, offset)]

    def _split(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept = self.register(given[0])
        axis, own = equation.params["axis"], _strides(kept.shape)
        starts = np.cumsum([0, *equation.params["sizes"]])[:-1]
        sides = [variable.aval.shape for variable in equation.outvars]
        return [
            self._view(kept, side, own, start * own[axis])
            for side, start in zip(sides, starts, strict=True)
        ]

    def _placed(self, pieces: Sequence[tuple[Any, Sequence[int], int]], fill: Any, shape: Any):
        """An array of `fill` with pieces written into it, each by strides from an offset."""
        value = self._emit("view", [fill], shape, shape=list(shape), strides=[0] * len(shape))
        for piece, strides, offset in pieces:
            kept = self.register(piece)
            value = self._emit(
                "place",
                [value, kept],
                shape,
                shape=[int(side) for side in kept.shape],
                strides=[int(stride) for stride in strides],
                offset=int(offset),
            )
        return value

    def _concatenate(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        axis, own = equation.params["dimension"], _strides(shape)
        sides = [self.register(value).shape[axis] for value in given]
        starts = np.cumsum([0, *sides])[:-1]
        pieces = [(v, own, start * own[axis]) for v, start in zip(given, starts, strict=True)]
        return [self._placed(pieces, np.float32(0), shape)]

    def _pad(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        configuration = equation.params["padding_config"]
        if any(low < 0 or high < 0 for low, high, _ in configuration):
            raise UnsupportedError("padding by less than nothing is not known in the browser")
        own = _strides(shape)
        offset = sum(low * stride for (low, _, _), stride in zip(configuration, own, strict=True))
        strides = [
            stride * (1 + between)
            for (_, _, between), stride in zip(configuration, own, strict=True)
        ]
        return [self._placed([(given[0], strides, offset)], given[1], shape)]

    def _dot_general(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        (left_axes, right_axes), (left_batch, right_batch) = equation.params["dimension_numbers"]
        if left_batch or right_batch:
            raise UnsupportedError("products of batches of matrices are not known in the browser")
        left, right = given
        sides = [np.shape(x) if not isinstance(x, _Value) else x.shape for x in given]
        rows = [axis for axis in range(len(sides[0])) if axis not in left_axes]
        columns = [axis for axis in range(len(sides[1])) if axis not in right_axes]
        inner = int(np.prod([sides[0][axis] for axis in left_axes]))
        left = self._transposed(left, [*rows, *left_axes])
        right = self._transposed(right, [*right_axes, *columns])
        return [self._emit("matmul", [left, right], shape, k=inner)]

    def _reduce(self, name: str, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept, axes = self.register(given[0]), equation.params["axes"]
        rest = [axis for axis in range(len(kept.shape)) if axis not in axes]
        k = int(np.prod([kept.shape[axis] for axis in axes]))
        return [self._emit(name, [self._transposed(kept, [*rest, *axes])], shape, k=k)]

    def _reduce_sum(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return self._reduce("sum", equation, given, shape)

    def _reduce_max(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return self._reduce("maximum", equation, given, shape)

    def _conv_general_dilated(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        options = equation.params
        numbers = options["dimension_numbers"]
        groups = options["feature_group_count"], options["batch_group_count"]
        if len(shape) != 4 or groups != (1, 1) or tuple(options["rhs_dilation"]) != (1, 1):
            raise UnsupportedError("this kind of convolution is not known in the browser")
        batch, channels, *sides = numbers.lhs_spec
        image = self._transposed(given[0], [batch, *sides, channels])
        to, of, *sides = numbers.rhs_spec
        kernel = self._transposed(given[1], [*sides, of, to])
        batch, channels, *sides = numbers.out_spec
        out = [shape[axis] for axis in (batch, *sides, channels)]
        if out[0] != 1:
            raise UnsupportedError("a convolution of several images is not known in the browser")
        result = self._emit(
            "conv",
            [image, kernel],
            out,
            x=[int(side) for side in image.shape[1:]],
            kernel=[int(side) for side in kernel.shape[:2]],
            shape=[int(side) for side in out[1:]],
            stride=[int(step) for step in options["window_strides"]],
            dilation=[int(step) for step in options["lhs_dilation"]],
            before=[int(low) for low, _ in options["padding"]],
        )
        return [self._transposed(result, np.argsort([batch, *sides, channels]).tolist())]


def _computed(jaxpr: Jaxpr, equation: Any, values: Sequence[Any]) -> list[Any]:
    """The results of an operation on what is known."""
    given = {
        atom: value
        for atom, value in zip(equation.invars, values, strict=True)
        if not isinstance(atom, Literal)
    }
    alone = jaxpr.replace(
        constvars=[],
        invars=list(given),
        eqns=[equation],
        outvars=equation.outvars,
    )
    return list(jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values()))


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def _rounded(value: Any) -> Any:
    """What 16 bits keep of a weight."""
    values = np.asarray(value)
    if values.size <= _SHORT_CONSTANTS or not np.issubdtype(values.dtype, np.floating):
        return value
    scale = _scale(values)
    return jnp.asarray(np.round(values / scale) * scale, values.dtype)


def _scale(values: np.ndarray) -> np.float32:
    largest = max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
    return np.float32(largest / 32767)


def _as_text(values: np.ndarray, short: bool) -> dict[str, Any]:
    if not short or values.size <= _SHORT_CONSTANTS:
        return {"f32": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    scale = _scale(values)
    whole = np.round(values / scale).astype("<i2")
    return {"i16": base64.b64encode(whole.tobytes()).decode(), "scale": float(scale)}
