"""Experiments over several seeds and devices."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from genmod import checks, train
from genmod.experiment import Experiment, Observation
from genmod.types import Key, Keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def over_seeds(built: Experiment, seed: int, num: int) -> Experiment:
    """Returns `num` runs of an experiment as one experiment.

    The runs are those of seed, seed + 1, and so on. The functions of the experiment take keys [num]
    and a state with a leading axis of runs. Numbers become arrays [num], NaN if a run lacks a name.
    Figures of the end get the seed into their names; observations draw those of the first run.
    """
    seeds = range(seed, seed + num)

    def each(function: Callable[[Key, Any], Any], keys: Keys, state: Any) -> list[Any]:
        runs = [jax.tree.map(lambda leaf, k=k: leaf[k], state) for k in range(num)]
        return [function(keys[k], run) for k, run in enumerate(runs)]

    def together(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}

    def observe(keys: Keys, state: Any) -> Observation:
        seen = each(built.observation, keys, state)
        return Observation(
            together([one.numbers for one in seen]),
            seen[0].figures,
            [
                f"seed {s}: {text}"
                for s, one in zip(seeds, seen, strict=True)
                for text in one.warnings
            ],
            seen[0].images,
        )

    def numbers_of(
        function: Callable[[Key, Any], Mapping[str, Any]] | None,
    ) -> Callable[[Keys, Any], Mapping[str, Any]] | None:
        if function is None:
            return None

        def of_runs(keys: Keys, state: Any) -> Mapping[str, Any]:
            rows = each(function, keys, state)
            # A result that is no numbers by name is handed on, and refused as that of one run is.
            wrong = [row for row in rows if not isinstance(row, Mapping)]
            return wrong[0] if wrong else together(rows)

        return of_runs

    def figures(keys: Keys, state: Any) -> Mapping[str, "Figure"]:
        def draw(key: Key, state: Any) -> Mapping[str, "Figure"]:
            found = built.final_figures(key, state)
            return built.observation(key, state).figures if found is None else found

        drawn = zip(seeds, each(draw, keys, state), strict=True)
        return {f"seed-{s}/{name}": figure for s, ones in drawn for name, figure in ones.items()}

    return dataclasses.replace(
        built,
        learner=train.over_seeds(built.learner, num),
        observe=observe if built.observe or built.latents else None,
        evaluate=numbers_of(built.evaluate),
        validate=numbers_of(built.validate),
        figures=figures,
    )


def over(
    built: Experiment,
    seed: int,
    seeds: int = 1,
    devices: Sequence[jax.Device] = (),
    how: Literal["pmap", "sharded"] = "sharded",
) -> Experiment:
    """Returns an experiment over several seeds, on several devices.

    Args:
      built: the experiment, as one run on one device.
      seed: seed of the first run.
      seeds: number of runs in one program.
      devices: devices to use; the default one if there are less than two.
      how: way in which a batch is spread, see `train.over_devices`.

    Raises:
      ValueError: if the last seed is out of range.
    """
    checks.seed("seed", seed + seeds - 1)
    if seeds > 1:
        built = over_seeds(built, seed, seeds)
    if len(devices) > 1:
        built = dataclasses.replace(built, learner=train.over_devices(built.learner, how, devices))
    return built
