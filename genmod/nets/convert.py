"""Converters from flax modules to a `Net`.

A module must be a pure function of its parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import jax
from flax import errors, linen

from genmod.nets.initial import drawn, noted
from genmod.nets.normalization import MOMENTS, pooled
from genmod.types import Array, Key, Net, Params

if TYPE_CHECKING:
    from flax import nnx


def from_linen(module: linen.Module, *, standing: bool = False) -> Net:
    """Makes a Net from a flax.linen module.

    Args:
      module: the module, called with one array x, or with x and a condition if its `__call__` has a
        second argument without a default, or with the default None. Its only collection must be
        `params`. Weights with a `nets.Initializer` are drawn together, by the names of the
        parameters; flax draws all others.
      standing: whether the module contains `BatchNorm`; if so, the Net has a `standing`.

    Raises:
      ValueError: on init, if the module keeps other collections (such as `batch_stats`), draws
        random numbers when it is applied (such as `dropout`), or contains `BatchNorm` without
        `standing`, or the other way round.
    """
    name = type(module).__name__

    def init(key: Key, *inputs: Any) -> Params:
        with noted() as notes:
            variables = module.init(key, *inputs)
        others = sorted(set(variables) - {"params", MOMENTS})
        if others:
            raise ValueError(
                f"{name} keeps the collections {others}; expected none but "
                "'params': a Net is a pure function of its parameters"
            )
        if (MOMENTS in variables) != standing:
            raise ValueError(
                f"{name} contains {'nets' if MOMENTS in variables else 'no nets'}.BatchNorm, so "
                f"standing must be {not standing}: nets.from_linen(module, standing={not standing})"
            )
        params = drawn(key, variables.get("params", {}), notes)
        params = module.init(key, *inputs)["params"] if params is None else params
        # On init flax draws every number from the key of the parameters; apply has no key.
        try:
            jax.eval_shape(
                lambda params, inputs: module.apply({"params": params}, *inputs), params, inputs
            )
        except errors.InvalidRngError as error:
            wanted = str(error).partition(" (http")[0]
            raise ValueError(
                f"{name} draws random numbers when it is applied ({wanted}), but a Net is a pure "
                "function of its parameters and input: leave such layers out or make them "
                "deterministic, or draw the noise outside and pass it on with x or as a condition"
            ) from error
        return params

    def apply(params: Params, *inputs: Any) -> Array:
        return cast(Array, module.apply({"params": params}, *inputs))

    def with_moments(params: Params, *inputs: Any) -> Params:
        def gather(batch: Any) -> Params:
            _, variables = module.apply({"params": params}, *batch, mutable=[MOMENTS])
            return variables[MOMENTS]

        return _with_standing(params, jax.lax.map(gather, inputs))

    return _called_as(module, Net(init, apply, with_moments if standing else None))


def _called_as(module: Any, net: Net) -> Net:
    """Gives a Net's functions a condition if the module's `__call__` has one.

    The condition is the second argument, unless that has a default other than None, as an option
    such as `train=False` has.
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    arguments = inspect.signature(module.__call__).parameters.values()
    defaults = [each.default for each in arguments if each.kind in positional][1:2]

    def called(function: Callable[..., Any]) -> Callable[..., Any]:
        if defaults and defaults[0] is inspect.Parameter.empty:
            return lambda first, x, c: function(first, x, c)
        if defaults and defaults[0] is None:
            return lambda first, x, c=None: function(first, x, c)
        return lambda first, x: function(first, x)

    standing = net.standing and called(net.standing)
    return Net(called(net.init), called(net.apply), standing)


def _with_standing(params: Params, moments: Params) -> Params:
    """Returns the parameters with fixed statistics for every `BatchNorm`.

    Its pooled mean and variance are added beside its scale and bias.
    """
    if "mean" in moments and not isinstance(moments["mean"], Mapping):
        mean, variance = pooled(moments["mean"], moments["variance"])
        return {**params, "mean": mean, "variance": variance}
    return {**params, **{name: _with_standing(params[name], moments[name]) for name in moments}}


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Net:
    """Makes a Net from a flax.nnx module.

    Args:
      build: function `rngs -> module`. The module is called as that of `from_linen`, and
        `nnx.Param` must be its only kind of variable.

    Raises:
      ValueError: if the module keeps other variables (such as `BatchStat`, or a dropout's keys).
    """
    # Importing nnx takes a sixth of a second, so only programs that use it import it.
    from flax import nnx

    abstract = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    graph, parameters, others = nnx.split(abstract, nnx.Param, ...)
    if jax.tree.leaves(others):
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(others)})
        raise ValueError(
            f"{type(abstract).__name__} keeps the variables {kinds}; expected none but Param: "
            "a Net is a pure function of its parameters"
        )

    def init(key: Key, *inputs: Any) -> Params:
        del inputs  # an nnx module gets its input's shape when it is built
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def apply(params: Params, *inputs: Any) -> Array:
        state = jax.tree.map(lambda leaf: leaf, parameters)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state, others)(*inputs)

    return _called_as(abstract, Net(init, apply))
