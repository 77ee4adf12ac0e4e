"""Converters from flax modules to a `Net`.

A module must be a pure function of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import jax
from flax import linen

from genmod.nets.initial import drawn, noted
from genmod.nets.normalization import MOMENTS, pooled
from genmod.types import Array, Key, Net, Params

if TYPE_CHECKING:
    from flax import nnx


def from_linen(module: linen.Module, *, standing: bool = False) -> Net:
    """Makes a Net from a flax.linen module.

    Args:
      module: the module, called with one array; its only collection must be `params`. Weights with
        a `nets.Initializer` are drawn together, by the names of the parameters; flax draws all
        others.
      standing: whether the module contains `BatchNorm`; if so, the Net has a `standing`.

    Raises:
      ValueError: on init, if the module keeps other collections (such as `batch_stats`).
    """

    def init(key: Key, x: Array) -> Params:
        with noted() as notes:
            variables = module.init(key, x)
        others = sorted(set(variables) - {"params", MOMENTS})
        if others:
            raise ValueError(
                f"{type(module).__name__} keeps the collections {others}; expected none but "
                "'params': a Net is a pure function of its parameters"
            )
        params = drawn(key, variables.get("params", {}), notes)
        return module.init(key, x)["params"] if params is None else params

    def apply(params: Params, x: Array) -> Array:
        return cast(Array, module.apply({"params": params}, x))

    def with_moments(params: Params, x: Array) -> Params:
        def gather(batch: Array) -> Params:
            _, variables = module.apply({"params": params}, batch, mutable=[MOMENTS])
            return variables[MOMENTS]

        return _with_standing(params, jax.lax.map(gather, x))

    return Net(init, apply, with_moments if standing else None)


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
      build: function `rngs -> module`. The module is called with one array, and `nnx.Param` must be
        its only kind of variable.

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

    def init(key: Key, x: Array) -> Params:
        del x  # an nnx module gets its input's shape when it is built
        return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))

    def apply(params: Params, x: Array) -> Array:
        state = jax.tree.map(lambda leaf: leaf, parameters)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state, others)(x)

    return Net(init, apply)
