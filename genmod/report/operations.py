"""Operations of a decoder, written for a browser.

Everything is broken down into the few operations that `assets/interpreter.js` runs: functions of
single numbers, matrix products, convolutions, sums and maxima, and `view`, which copies with
strides.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod.report import weights
from genmod.report.unfolded import Reference, Unfolded

OPERATIONS = {
    *("add", "sub", "mul", "div", "max", "min", "pow", "rem", "lt", "le", "gt", "ge", "eq", "ne"),
    *("and", "or", "not", "neg", "abs", "sign", "floor", "ceil", "round", "exp", "expm1", "log"),
    *("log1p", "sqrt", "rsqrt", "square", "sin", "cos", "tanh", "logistic", "erf", "erfc"),
    *("select_n", "clamp", "is_finite"),
}
"""Functions of single numbers, by their names in JAX."""
_RESHAPED = {"reshape", "squeeze", "expand_dims"}
_PLACED = {"transpose", "broadcast_in_dim", "slice", "rev", "split", "concatenate", "pad"}
_OF_WHOLE = {"convert_element_type", "select_n", "max", "min", "clamp"} | _PLACED | _RESHAPED
"""Operations that may return whole numbers.

None of them returns larger whole numbers than it was given.
"""


class UnsupportedError(ValueError):
    """Operation that the browser does not know."""


class _Value(NamedTuple):
    """Array that is known only in the browser.

    Attributes:
      number: number of the array, which is flat in the browser.
      shape: shape of the array that it stands for.
    """

    number: int
    shape: tuple[int, ...]


class Writer:
    """Writer of a function's operations, one after the other."""

    def __init__(self):
        self.steps: list[dict[str, Any]] = []
        self.constants: dict[int, np.ndarray] = {}
        self._numbers = itertools.count(1)  # z has the number 0
        self._known: dict[int, tuple[Any, _Value]] = {}

    def write(self, function: Unfolded, latent_dim: int) -> _Value:
        """Writes a function of z [1, L]; returns the result."""
        found: dict[int, _Value] = {0: _Value(0, (1, latent_dim))}

        def read(value: Any) -> Any:
            return found[value.number] if isinstance(value, Reference) else value

        for operation in function.operations:
            outputs = self._operation(operation.equation, [read(one) for one in operation.given])
            numbers = (one.number for one in operation.outputs)
            found.update(zip(numbers, outputs, strict=True))
        return self.register(read(function.result))

    def register(self, value: Any) -> _Value:
        """Returns the browser's array for a value.

        A known array becomes a constant of the program.
        """
        if isinstance(value, _Value):
            return value
        if id(value) not in self._known:
            array = np.asarray(value)
            whole = np.issubdtype(array.dtype, np.integer)
            if whole and array.size and np.abs(array.astype(np.float64)).max() > weights.MOST_WHOLE:
                raise UnsupportedError(
                    f"whole numbers above {weights.MOST_WHOLE:,} are not known in the browser"
                )
            number = next(self._numbers)
            self.constants[number] = array.ravel()
            self._known[id(value)] = value, _Value(number, array.shape)  # value keeps its id in use
        return self._known[id(value)][1]

    def _emit(
        self, name: str, given: Sequence[Any], shape: Sequence[int], /, **more: Any
    ) -> _Value:
        size = int(np.prod(shape))
        numbers = [self.register(value).number for value in given]
        out = next(self._numbers)
        self.steps.append({"f": name, "a": numbers, "out": out, "n": size, **more})
        return _Value(out, tuple(int(side) for side in shape))

    def _operation(self, equation: Any, given: list[Any]) -> list[_Value]:
        name = equation.primitive.name
        shapes = [variable.aval.shape for variable in equation.outvars]
        for variable in equation.outvars:
            _refuse_type(name, variable.aval.dtype)
        if name in _RESHAPED:
            return [self.register(given[0])._replace(shape=shapes[0])]
        rule = getattr(self, f"_rule_{name}", None)
        if rule is not None:
            return rule(equation, given, shapes[0])
        if name not in OPERATIONS:
            raise UnsupportedError(f"the operation {name!r} is not known in the browser")
        return [self._elementwise(name, given, shapes[0])]

    def _elementwise(self, name: str, given: Sequence[Any], shape: Sequence[int]) -> _Value:
        return self._emit(name, [self._spread(value, shape) for value in given], shape)

    def _spread(self, value: Any, shape: Sequence[int]) -> _Value:
        """Broadcasts a value to `shape`.

        A single number stays as it is.
        """
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
        """Returns a view of a value, by strides.

        The element for each index of `shape` is that at

            offset + strides . index
        """
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

    def _rule_convert_element_type(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
        if new == old or new == np.float32:
            return [self.register(given[0])]
        if new == np.bool_:  # NaN counts as true
            return [self._elementwise("ne", [given[0], np.float32(0)], shape)]
        if jnp.issubdtype(old, jnp.floating):
            raise UnsupportedError("conversion of z to whole numbers is not known in the browser")
        if not np.can_cast(old, new) and new.itemsize < 4:
            raise UnsupportedError(f"conversion of {old} to {new} is not known in the browser")
        return [self.register(given[0])]

    def _rule_reduce_precision(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        bits = equation.params["exponent_bits"], equation.params["mantissa_bits"]
        if bits[0] < 8 or bits[1] < 23:
            raise UnsupportedError(
                f"numbers with {bits[0]} bits of exponent and {bits[1]} of mantissa are not known "
                "in the browser"
            )
        return [self.register(given[0])]

    def _rule_round(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        to_even = equation.params["rounding_method"] == jax.lax.RoundingMethod.TO_NEAREST_EVEN
        return [self._elementwise("round" if to_even else "round_away", given, shape)]

    def _rule_add_any(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return [self._emit("add", given, shape)]  # both operands have the same shape

    def _rule_integer_pow(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return [self._emit("pow", [*given, np.float32(equation.params["y"])], shape)]

    def _rule_transpose(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return [self._transposed(given[0], equation.params["permutation"])]

    def _rule_broadcast_in_dim(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept = self.register(given[0])
        strides = [0] * len(shape)
        own = _strides(kept.shape)
        for axis, target in enumerate(equation.params["broadcast_dimensions"]):
            strides[target] = own[axis] if kept.shape[axis] != 1 else 0
        return [self._view(kept, shape, strides)]

    def _rule_slice(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept = self.register(given[0])
        own = _strides(kept.shape)
        steps = equation.params["strides"] or (1,) * len(own)
        starts = equation.params["start_indices"]
        offset = sum(start * stride for start, stride in zip(starts, own, strict=True))
        strides = [stride * step for stride, step in zip(own, steps, strict=True)]
        return [self._view(kept, shape, strides, offset)]

    def _rule_rev(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        strides, axes = list(_strides(shape)), equation.params["dimensions"]
        offset = sum((shape[axis] - 1) * strides[axis] for axis in axes)
        for axis in axes:
            strides[axis] *= -1
        return [self._view(given[0], shape, strides, offset)]

    def _rule_split(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept = self.register(given[0])
        axis, own = equation.params["axis"], _strides(kept.shape)
        starts = np.cumsum([0, *equation.params["sizes"]])[:-1]
        sides = [variable.aval.shape for variable in equation.outvars]
        return [
            self._view(kept, side, own, start * own[axis])
            for side, start in zip(sides, starts, strict=True)
        ]

    def _placed(self, pieces: Sequence[tuple[Any, Sequence[int], int]], fill: Any, shape: Any):
        """Returns an array of `fill` with pieces written into it.

        A piece is a value with the strides and the offset at which it is written.
        """
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

    def _rule_concatenate(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        axis, own = equation.params["dimension"], _strides(shape)
        sides = [self.register(value).shape[axis] for value in given]
        starts = np.cumsum([0, *sides])[:-1]
        pieces = [(v, own, start * own[axis]) for v, start in zip(given, starts, strict=True)]
        return [self._placed(pieces, np.float32(0), shape)]

    def _rule_pad(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
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

    def _rule_dot_general(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
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
        finite = self._is_finite(right)
        return [self._emit("matmul", [left, right], shape, k=inner, finite=finite)]

    def _is_finite(self, value: _Value) -> bool:
        """Returns whether a value is known to be finite.

        Then zero times any of its numbers is zero.
        """
        known = self.constants.get(value.number)
        return known is not None and bool(np.isfinite(known.astype(np.float32)).all())

    def _reduce(self, name: str, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        kept, axes = self.register(given[0]), equation.params["axes"]
        rest = [axis for axis in range(len(kept.shape)) if axis not in axes]
        k = int(np.prod([kept.shape[axis] for axis in axes]))
        return [self._emit(name, [self._transposed(kept, [*rest, *axes])], shape, k=k)]

    def _rule_reduce_sum(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return self._reduce("sum", equation, given, shape)

    def _rule_reduce_max(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
        return self._reduce("maximum", equation, given, shape)

    def _rule_conv_general_dilated(self, equation: Any, given: list[Any], shape: Any) -> list[Any]:
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
            finite=self._is_finite(kernel),
        )
        return [self._transposed(result, np.argsort([batch, *sides, channels]).tolist())]


def _refuse_type(name: str, dtype: Any) -> None:
    """Refuses results that the browser's float32 does not represent."""
    if dtype in (np.float32, np.bool_):
        return
    if jnp.issubdtype(dtype, jnp.integer) and name in _OF_WHOLE:
        return
    raise UnsupportedError(f"the operation {name!r} on {dtype} is not known in the browser")


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
