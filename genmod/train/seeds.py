"""Many runs as one program: over seeds, and over values of the numbers that enter a step."""

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
"""Under these names a state holds numbers: `hyper` of a learner, and what
`optax.inject_hyperparams` leaves in an optimizer's state."""


def over_seeds(learner: Learner, num: int, *, sequential: bool | None = None) -> Learner:
    """`num` independent runs as one learner: run k is the run of seed + k.

        for point in train.run(train.over_seeds(learner, 16), rng.root(0), batch_at, ...):
            print(point.metrics["loss"].mean())

    Each has its own initialisation, order of the data and noise. State, batches and metrics have a
    leading axis [num]; `select_run` takes one run out, to look at it or to continue it alone.

    Args:
      learner: the single run.
      num: number of runs.
      sequential: True has the compiled program take one run after the other through its steps, the
        bits of each being those that it would have alone; False vectorises the step over the runs
        (`jax.vmap`), which fills a GPU with small ones. None chooses the first on a CPU, where the
        second is no faster, and the second elsewhere.

    Returns:
      A learner whose functions take keys [num], one for each run; `train.run` makes them of the key
      of the first. `sample` takes a single key as well, for the same latents in all runs; images
      are [num, images, H, W, C].

    Raises:
      ValueError: if num is not positive, or the learner is over seeds or over devices already.
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

    def sample(key: Key | Keys, state: Any, images: int) -> Array:
        in_axes = (0 if key.ndim else None, 0)
        return jax.vmap(lambda key, one: learner.sample(key, one, images), in_axes)(key, state)

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
    )
    return many


def over_grid(learner: Learner, grid: Mapping[str, Sequence[float]]) -> Learner:
    """One run for each combination of numbers, all of them as one learner.

        grid = {"learning_rate": [1e-3, 1e-4], "beta": [1.0, 4.0]}
        for point in train.run(train.over_grid(learner, grid), rng.root(0), batch_at, ...):
            print(dict(zip(train.combinations(grid), point.metrics["loss"])))

    A number can be swept if it is part of the state: given to the learner as `hyper={"beta": 1.0}`,
    or to an optimizer by `optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)`. Where a state
    holds several of a name, as that of a game whose players each have an optimizer, the name is
    preceded by what tells their paths in the state apart: "generator.learning_rate". The runs share
    initialisation, batches and noise, so that they differ by the numbers alone. State and metrics
    have a leading axis, in the order of `combinations(grid)`; over seeds too, apply `over_seeds` to
    the result.

    Raises:
      ValueError: if the grid is empty or holds what is not finite; when traced, if the state holds
        no number of a name or several, if it is overwritten at every update because it follows a
        schedule, or if it is a whole number and a value is none.
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

    def sample(key: Key, state: Any, images: int) -> Array:
        return jax.vmap(lambda one: learner.sample(key, one, images))(state)

    inspect = learner.inspect and jax.vmap(learner.inspect, (None, 0, None))
    parts = {"step": step, "sample": sample, "inspect": inspect, "decoder": no_decoder}
    return learner._replace(init=init, **parts)


def combinations(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Every combination of a grid's values, the last name's changing fastest.

    Raises:
      ValueError: if there is none, or a value is not finite.
    """
    for name, values in grid.items():
        if not (len(values) and all(math.isfinite(value) for value in values)):
            raise ValueError(f"grid must hold finite numbers for each name, got {name}: {values!r}")
    if not grid:
        raise ValueError("grid must hold at least one name with its values, got none")
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def select_run(carry: Carry, index: int) -> Carry:
    """One of many runs alone: `run` continues it with the single learner and that run's key.

        alone = train.select_run(point.carry, 3)  # of the seeds 0, 1, 2, ...
        train.run(learner, rng.root(3), batch_at, carry=alone, num_steps=...)

    Args:
      carry: of a learner over seeds or over a grid.
      index: which run, from 0.

    Raises:
      ValueError: if there is no such run.
    """
    checks.index_of_run(index, checks.leading_axis("carry.state", carry.state))
    parts = {name: getattr(carry, name) for name in ("state", "totals", "compensation")}
    return carry._replace(**jax.tree.map(lambda leaf: leaf[index], parts))


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _numbers(state: Any) -> dict[str, Array]:
    """The numbers of a state that enter a step, by their path in it, with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        _dotted(path): leaf
        for path, leaf in leaves
        if len(path) > 1 and _dotted(path[-2:-1]) in _NUMBERS
    }


def _scheduled(state: Any) -> set[str]:
    """The paths of those that `optax.inject_hyperparams` computes anew at every update."""
    found = set()
    for path, _ in jax.tree_util.tree_leaves_with_path(state):
        parts = [_dotted((part,)) for part in path]
        if "hyperparams_states" in parts[:-1]:  # where the schedule of a number keeps its count
            place = parts.index("hyperparams_states")
            found.add(".".join([*parts[:place], "hyperparams", parts[place + 1]]))
    return found


def _path_of(name: str, state: Any) -> str:
    """The path of the one number that a name in a grid means: its last part, others in order."""
    numbers = _numbers(state)

    def means(path: str) -> bool:
        *before, last = path.split(".")
        *wanted, own = name.split(".")
        rest = iter(before)  # each part is looked for behind the one before it
        return last == own and all(part in rest for part in wanted)

    found = [path for path in numbers if means(path)]
    if not found:
        raise ValueError(
            f"the state holds no number {name!r} to sweep, only {sorted(numbers)}; give it to "
            "the learner as hyper={...}, or to the optimizer by optax.inject_hyperparams, "
            "as a number and not as a schedule"
        )
    if len(found) > 1:
        raise ValueError(
            f"the state holds {len(found)} numbers {name!r}: say which is to be swept, by its path "
            f"or enough of it to tell it apart: {', '.join(found)}"
        )
    return found[0]


def _check_sweep(grid: Mapping[str, Sequence[float]], paths: Mapping[str, str], state: Any) -> None:
    """Refuses numbers that are no longer the grid's once a step is taken."""
    scheduled, numbers = _scheduled(state), _numbers(state)
    for name, path in paths.items():
        if path in scheduled:
            raise ValueError(
                f"{name!r} cannot be swept: {path} follows a schedule, which sets it anew at every "
                "update; give optax.inject_hyperparams a number"
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
    """The state with these numbers, by their paths, in the place of its own."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.asarray(numbers[_dotted(path)], leaf.dtype) if _dotted(path) in numbers else leaf
        ),
        state,
    )
