"""Functions as flat lists of operations.

A list holds the operations that depend on the function's argument; the others are evaluated while
the list is made. Calls within the function are followed, so that only operations are left. The
constants of the list are those that meet the argument: constants from which these were computed are
gone.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from genmod.types import Array

SAME = {"copy", "optimization_barrier", "stop_gradient", "name", "device_put"}
"""Names of JAX's primitives that do not change values."""
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
_CALLS |= {"custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "remat2": "jaxpr"}
_CALLS |= {"checkpoint": "jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}


class Reference(NamedTuple):
    """Number of a value that depends on the argument.

    The argument itself has the number 0.
    """

    number: int


class Operation(NamedTuple):
    """Operation on a value that depends on the argument.

    Attributes:
      equation: equation that JAX traced. The shapes and types of its variables are valid, their
        names are not.
      given: operands, each a `Reference` or a known array.
      outputs: references to the results.
      alone: the operation as a function of the variables among its operands.
    """

    equation: Any
    given: list[Any]
    outputs: list[Reference]
    alone: ClosedJaxpr


class Unfolded(NamedTuple):
    """Function of one argument, as a list of operations.

    Attributes:
      operations: operations in order.
      result: result of the function: a `Reference`, or an array if it does not depend on the
        argument.
    """

    operations: list[Operation]
    result: Any


def unfold(closed: ClosedJaxpr) -> Unfolded:
    """Unfolds a function of one argument and one result."""
    operations: list[Operation] = []
    numbers = itertools.count(1)

    def note(equation: Any, given: list[Any], alone: ClosedJaxpr) -> list[Reference]:
        outputs = [Reference(next(numbers)) for _ in equation.outvars]
        operations.append(Operation(equation, given, outputs, alone))
        return outputs

    (result,) = _walk(closed.jaxpr, closed.consts, [Reference(0)], note)
    return Unfolded(operations, result)


def constants(function: Unfolded) -> list[Any]:
    """Returns the known arrays among the operands, in order.

    If the result of the function is a known array, too, it comes last.
    """
    met = [
        value
        for operation in function.operations
        for value in _operands(operation.equation, operation.given)
        if not isinstance(value, Reference)
    ]
    return met if isinstance(function.result, Reference) else [*met, function.result]


def evaluate(function: Unfolded, argument: Array, given: Sequence[Any]) -> Array:
    """Computes the result with other values for the constants.

    Args:
      function: unfolded function.
      argument: argument of the function.
      given: values in place of `constants(function)`, in the same order.
    """
    found: dict[int, Any] = {0: argument}
    rest = iter(given)
    for operation in function.operations:
        values = [
            found[value.number] if isinstance(value, Reference) else next(rest)
            for value in _operands(operation.equation, operation.given)
        ]
        outputs = jaxpr_as_fun(operation.alone)(*values)
        found.update(zip((one.number for one in operation.outputs), outputs, strict=True))
    result = function.result
    return found[result.number] if isinstance(result, Reference) else next(rest)


def _walk(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    given: Sequence[Any],
    note: Callable[[Any, list[Any], ClosedJaxpr], list[Reference]],
) -> list[Any]:
    found: dict[Any, Any] = {
        **dict(zip(jaxpr.constvars, consts, strict=True)),
        **dict(zip(jaxpr.invars, given, strict=True)),
    }

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else found[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        if not any(isinstance(value, Reference) for value in values):
            alone = _alone(jaxpr, equation)
            outputs = jaxpr_as_fun(alone)(*_operands(equation, values))
        elif (followed := _within(equation)) is not None:
            inner, skipped = followed
            outputs = _walk(inner.jaxpr, inner.consts, values[skipped:], note)
        elif equation.primitive.name in SAME:
            outputs = values
        else:
            outputs = note(equation, values, _alone(jaxpr, equation))
        found.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _within(equation: Any) -> tuple[ClosedJaxpr, int] | None:
    """Returns the function that an operation calls, if any.

    With it comes the number of operands before the arguments of that function.
    """
    name, options = equation.primitive.name, equation.params
    if name == "cond" and None in (options.get("branches_platforms") or ()):
        # `lax.platform_dependent` becomes a `cond`, with None for its default branch.
        return options["branches"][list(options["branches_platforms"]).index(None)], 1
    if name not in _CALLS:
        return None
    inner = options[_CALLS[name]]
    return (inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())), 0


def _alone(jaxpr: Jaxpr, equation: Any) -> ClosedJaxpr:
    """Isolates an operation as a function of its distinct variables."""
    variables = list(dict.fromkeys(a for a in equation.invars if not isinstance(a, Literal)))
    alone = jaxpr.replace(constvars=[], invars=variables, eqns=[equation], outvars=equation.outvars)
    return ClosedJaxpr(alone, ())


def _operands(equation: Any, given: Sequence[Any]) -> list[Any]:
    """Returns the values of an operation's distinct variables.

    Literals are left out, because they are part of the operation.
    """
    pairs = zip(equation.invars, given, strict=True)
    return list({atom: value for atom, value in pairs if not isinstance(atom, Literal)}.values())
