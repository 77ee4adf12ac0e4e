"""Numbers that follow a schedule or are swept, and functions of them.

`hyper` maps names to numbers or schedules. A part of a learner, such as its objective, may be a
function of their values at the step: `lambda hyper: vae.elbo(model, beta=hyper["beta"])`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array

Schedule = Callable[[Array], Any]
Hyper = Mapping[str, float | Schedule]


def check(hyper: Hyper | None, *, reads: bool, what: str) -> None:
    """Refuses values that are no numbers or schedules, and hyper that nothing reads.

    Args:
      hyper: the learner's `hyper`.
      reads: whether a part of the learner is a function of it.
      what: what may be a function of it, for the message.

    Raises:
      ValueError: if a value is neither a finite number nor a schedule, or hyper is not read.
    """
    for name, value in (hyper or {}).items():
        traced = isinstance(value, jax.core.Tracer)
        if not (callable(value) or traced or checks.is_finite_number(value)):
            raise ValueError(
                f"hyper[{name!r}] must be a finite number or a schedule step -> value, got "
                f"{checks.described(value)}"
            )
    if hyper and not reads:
        raise ValueError(f"with hyper {sorted(hyper)}, {what}")


def is_of(function: Any, num_args: int) -> bool:
    """Returns whether a part is a function of hyper.

    It then takes one argument, where the part itself takes `num_args`.
    """
    return callable(function) and not checks.takes(function, num_args) and checks.takes(function, 1)


def resolve(what: str, function: Any, num_args: int, values: Mapping[str, Any]) -> Any:
    """Returns a part at a step.

    Args:
      what: name of the part, for messages.
      function: the part, or a function of hyper that returns it.
      num_args: number of the part's own arguments.
      values: the values of hyper at the step.

    Raises:
      ValueError: if the function of hyper returns something else.
    """
    if not is_of(function, num_args):
        return function
    made = function(values)
    if not callable(made) or not checks.takes(made, num_args):
        raise ValueError(
            f"{what} must be a function hyper -> {what}, got one that returns "
            f"{checks.described(made)}"
        )
    return made


def numbers(hyper: Hyper | None) -> dict[str, Array]:
    """Returns the constant entries of hyper as arrays."""
    constant = {} if hyper is None else hyper
    return {name: jnp.asarray(n, jnp.float32) for name, n in constant.items() if not callable(n)}


def values(hyper: Hyper | None, step: Array, constant: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the values of all entries of hyper at a step."""
    return {
        name: jnp.asarray(value(step)) if callable(value) else constant[name]
        for name, value in (hyper or {}).items()
    }
