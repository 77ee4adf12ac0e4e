"""Many runs as one program: over seeds, or over a grid.

A grid holds values of the numbers that enter a step, such as a learning rate.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.train.chunk import Carry, runs_sequentially
from genmod.train.learner import Learner, no_decoder
from genmod.types import Array, Batch, Key, Keys, Metrics

_NUMBERS = ("hyper", "hyperparams")
"""Names under which a state holds numbers.

A learner's state has `hyper`; `optax.inject_hyperparams` puts `hyperparams` into an optimizer's.
"""
_OF_SCHEDULES = (
    "to sweep a schedule, sweep a number of which it is made, such as peak in "
    "optax.inject_hyperparams(lambda peak: optax.adam(optax.cosine_decay_schedule(peak, 1000)))"
    "(peak=1e-3), or factor in hyper={'beta': schedule, 'factor': 1.0} with "
    "hyper['factor'] * hyper['beta'] as the weight"
)
"""Advice on how to sweep a schedule."""


def over_seeds(learner: Learner, num: int, *, sequential: bool | None = None) -> Learner:
    """Returns `num` independent runs as one learner.

    Run k is the run of seed + k, with its own initialisation, order of the data and noise. State,
    batches and metrics have a leading axis [num]; `select_run` returns the carry of one run, to
    examine it or to continue it alone.

    Args:
      learner: the learner of a single run.
      num: number of runs.
      sequential: True takes one run after the other through its steps, in the compiled program;
        each is bit-identical to the same run alone. False vectorises the step over the runs
        (`jax.vmap`), so that small runs fill a GPU. None chooses True on a CPU, where vectorising
        is no faster, and False elsewhere.

    Returns:
      A learner whose functions take keys [num], one for each run; `train.run` derives them from the
      key of the first run. `sample` also takes a single key, for the same latents in all runs;
      images are [num, images, H, W, C].

    Raises:
      ValueError: if num is not positive, or the learner is over seeds or over devices already.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from genmod import rng, train
    >>> learner = train.learner(
    ...     model_init=lambda key, batch: jax.random.normal(key),
    ...     objective=lambda keys, mean, x: (jnp.square(x - mean), {}),
    ...     optimizer=optax.sgd(0.25),
    ... )
    >>> def batch_at(key, step):
    ...     return jnp.array([1.0, 3.0])
    >>> many = train.over_seeds(learner, 3)
    >>> [point] = train.run(many, rng.root(0), batch_at, num_steps=2)
    >>> point.metrics["loss"].shape, point.state.params.shape
    ((3,), (3,))
    >>> train.select_run(point.carry, 2).state.params.shape  # the run of seed 2 alone
    ()
    """
    num = checks.positive_integer("num", num)
    if learner.seeds is not None:
        raise ValueError(f"the learner must be a single run, got one over {learner.seeds} seeds")
    if learner.mesh is not None:
        raise ValueError(
            f"the learner must be on one device, got one over {learner.mesh.size} devices; "
            "expected over_devices(over_seeds(learner, num)), which spreads the runs"
        )

    def init(keys: Keys, batch: Batch) -> Any:
        if runs_sequentially(many):
            return jax.lax.map(lambda run: learner.init(*run), (keys, batch))
        return jax.vmap(learner.init)(keys, batch)

    def step(keys: Keys, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        return jax.vmap(learner.step)(keys, state, batch)

    def sample(key: Key | Keys, state: Any, images: int, condition: Any = None) -> Array:
        in_axes = (0 if key.ndim else None, 0)
        draw = lambda key, one: learner.sample(key, one, images, condition)  # noqa: E731
        return jax.vmap(draw, in_axes)(key, state)

    def check(batch: Batch) -> None:
        if learner.check is not None:
            for index in range(num):
                learner.check(jax.tree.map(lambda leaf, index=index: leaf[index], batch))

    many = Learner(
        init,
        step,
        sample,
        check,
        seeds=num,
        single=learner,
        sequential=sequential,
        inspect=learner.inspect and jax.vmap(learner.inspect),
        conditions=learner.conditions,
    )
    return many


def over_grid(learner: Learner, grid: Mapping[str, Sequence[float]]) -> Learner:
    """Returns one run per combination of numbers, as one learner.

    A number can be swept if it is part of the state: given to the learner as `hyper={"beta": 1.0}`,
    or to an optimizer by `optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)`. If a state
    holds several numbers of one name, as in a game whose players each have an optimizer, a part of
    their path in the state goes before the name: "generator.learning_rate". The runs share
    initialisation, batches and noise, so that they differ by the numbers alone. State and metrics
    have a leading axis, in the order of `combinations(grid)`. For several seeds as well, apply
    `over_seeds` to the result.

    A schedule is no number, but it can be made of one. The peak of a learning rate is swept in
    `optax.inject_hyperparams(lambda peak: optax.adam(optax.cosine_decay_schedule(peak, 1000)))`,
    called with `peak=1e-3`; a factor of a weight in `hyper={"beta": schedule, "factor": 1.0}`.

    Raises:
      ValueError: if the grid is empty or holds a value that is not finite; when traced, if the
        state holds no number or several numbers of a name, if the number is overwritten at every
        update because it follows a schedule, or if it is a whole number and a value is not.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from genmod import rng, train
    >>> learner = train.learner(
    ...     model_init=lambda key, batch: jnp.zeros(()),
    ...     objective=lambda keys, mean, x: (jnp.square(x - mean), {}),
    ...     optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.125),
    ... )
    >>> def batch_at(key, step):
    ...     return jnp.array([1.0, 3.0])
    >>> grid = {"learning_rate": [0.125, 0.25]}
    >>> sweep = train.over_grid(learner, grid)
    >>> [point] = train.run(sweep, rng.root(0), batch_at, num_steps=2)
    >>> for numbers, mean in zip(train.combinations(grid), point.state.params):
    ...     print(numbers, float(mean))
    {'learning_rate': 0.125} 0.875
    {'learning_rate': 0.25} 1.5
    """
    points = combinations(grid)
    values = {name: jnp.asarray([point[name] for point in points], jnp.float32) for name in grid}

    def init(key: Key, batch: Batch) -> Any:
        state = learner.init(key, batch)
        paths = {name: _path_of(name, state) for name in grid}
        _check_sweep(grid, paths, state)
        by_path = {paths[name]: swept for name, swept in values.items()}
        return jax.vmap(lambda numbers: _with_numbers(state, numbers))(by_path)

    def step(key: Key, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        return jax.vmap(learner.step, (None, 0, None))(key, state, batch)

    def sample(key: Key, state: Any, images: int, condition: Any = None) -> Array:
        return jax.vmap(lambda one: learner.sample(key, one, images, condition))(state)

    inspect = learner.inspect and jax.vmap(learner.inspect, (None, 0, None))
    parts = {"step": step, "sample": sample, "inspect": inspect, "decoder": no_decoder}
    return learner._replace(init=init, **parts)


def combinations(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Returns every combination of a grid's values.

    The values of the last name change fastest.

    Raises:
      ValueError: if there is no combination, or a value is not finite.
    """
    for name, values in grid.items():
        if not (len(values) and all(math.isfinite(value) for value in values)):
            raise ValueError(f"grid must hold finite numbers for each name, got {name}: {values!r}")
    if not grid:
        raise ValueError("grid must hold at least one name with its values, got none")
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def select_run(carry: Carry, index: int) -> Carry:
    """Returns the carry of one of many runs.

    `run` continues it with the single learner and the key of that run:

        alone = train.select_run(point.carry, 3)  # of the seeds 0, 1, 2, ...
        train.run(learner, rng.root(3), batch_at, carry=alone, num_steps=...)

    Args:
      carry: carry of a learner over seeds or over a grid.
      index: index of the run, from 0.

    Raises:
      ValueError: if there is no such run.
    """
    checks.index_of_run(index, checks.leading_axis("carry.state", carry.state))
    parts = {name: getattr(carry, name) for name in ("state", "totals", "compensation")}
    return carry._replace(**jax.tree.map(lambda leaf: leaf[index], parts))


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _numbers(state: Any) -> dict[str, Array]:
    """Returns the numbers that a grid can sweep, by path.

    A path is that of a number in the state, with dots between its parts.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        _dotted(path): leaf
        for path, leaf in leaves
        if len(path) > 1 and _dotted(path[-2:-1]) in _NUMBERS
    }


def _scheduled(state: Any) -> set[str]:
    """Returns the paths of the numbers that follow a schedule.

    `optax.inject_hyperparams` computes them anew at every update.
    """
    found = set()
    for path, _ in jax.tree_util.tree_leaves_with_path(state):
        parts = [_dotted((part,)) for part in path]
        # Optax keeps the count of a number's schedule below "hyperparams_states".
        if "hyperparams_states" in parts[:-1]:
            place = parts.index("hyperparams_states")
            found.add(".".join([*parts[:place], "hyperparams", parts[place + 1]]))
    return found


def _path_of(name: str, state: Any) -> str:
    """Returns the path of the one number that a name means.

    The path and the name end in the same part; other parts of the name are in the path, in order.
    """
    numbers = _numbers(state)

    def means(path: str) -> bool:
        *before, last = path.split(".")
        *wanted, own = name.split(".")
        rest = iter(before)  # `in` consumes it, so each part must come after the one before it
        return last == own and all(part in rest for part in wanted)

    found = [path for path in numbers if means(path)]
    if not found:
        raise ValueError(
            f"the state holds no number {name!r} to sweep, only {sorted(numbers)}. It holds what "
            "the learner gets as a number in hyper={...}, or the optimizer by "
            "optax.inject_hyperparams, but not what they get as a schedule; " + _OF_SCHEDULES
        )
    if len(found) > 1:
        raise ValueError(
            f"the state holds {len(found)} numbers {name!r}: name one of them by its path "
            f"or by enough of it to be unique: {', '.join(found)}"
        )
    return found[0]


def _check_sweep(grid: Mapping[str, Sequence[float]], paths: Mapping[str, str], state: Any) -> None:
    """Refuses a grid whose values the state cannot keep.

    A schedule would overwrite them, an integer type would round them, and a second name of the same
    number would replace them.
    """
    scheduled, numbers = _scheduled(state), _numbers(state)
    for name, path in paths.items():
        if path in scheduled:
            raise ValueError(
                f"{name!r} cannot be swept: {path} follows a schedule, which sets it anew at every "
                f"update. Give a number in place of the schedule; {_OF_SCHEDULES}"
            )
        whole = not jnp.issubdtype(numbers[path].dtype, jnp.inexact)
        if whole and any(value != int(value) for value in grid[name]):
            raise ValueError(
                f"{name!r} must be swept over whole numbers, as {path} is of the type "
                f"{numbers[path].dtype}, got {grid[name]!r}"
            )
        others = [other for other in paths if other != name and paths[other] == path]
        if others:
            raise ValueError(f"grid must name each number once, got {name!r} and {others[0]!r}")


def _with_numbers(state: Any, numbers: Mapping[str, Array]) -> Any:
    """Returns the state with some of its numbers replaced, by path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.asarray(numbers[_dotted(path)], leaf.dtype) if _dotted(path) in numbers else leaf
        ),
        state,
    )
