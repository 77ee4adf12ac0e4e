"""Observations and validations of a run in training: schedule and storage."""

import functools
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from genmod import checks, devices, report, rng
from genmod._host import cluster
from genmod.experiment import Experiment
from genmod.runs import goals, logs
from genmod.runs.folder import Folder
from genmod.types import Key, Keys


class Watch:
    """Observer of a run in training.

    It takes an observation at the first log point of each interval of `observe_every`, and a
    validation at that of each interval of `validate_every`.
    """

    def __init__(self, experiment: Experiment, folder: Folder, key: Key | Keys, log_every: int):
        self._experiment, self._folder, self._run_key = experiment, folder, key
        self._key = rng.stream(key, "observe")
        self._log_every = log_every
        self._every = experiment.observe_every or experiment.steps_per_epoch
        self._logged: set[str] = set()
        self._validated: set[str] = set()
        self._said: set[str] = set()

    def check(self, state: Any, metrics: Iterable[str], logged: Iterable[str]) -> None:
        """Validates a state before any step, so that mistakes are refused early.

        Args:
          state: the learner's state; None if there is nothing to validate.
          metrics: names of the metrics.
          logged: names of the numbers that are in the log so far.

        Raises:
          ValueError: if the validation does not give what it should, or a goal names a number that
            is not logged.
        """
        names = dict.fromkeys(metrics)
        self._logged = {*names, *logged}
        if self._experiment.validate is None or state is None:
            return
        state = self._of_one_device(state)
        if cluster.leads():
            self._validated = set(validated(self._experiment, self._run_key, state, names))
            self._logged |= self._validated
            if self._experiment.observe is None:
                goals.refuse_unknown(self._experiment, self._logged)

    def validate(self, step: int, state: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the validation of a log point, if one is due.

        Returns the numbers to log beside the log point's row; they are empty without validation.
        """
        if not validation_is_due(self._experiment, step, self._log_every):
            return {}
        state = self._of_one_device(state)
        if not cluster.leads():
            return {}
        return validated(self._experiment, self._run_key, state, row)

    def look(self, step: int, state: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the observation of a log point, if one is due.

        Returns the numbers to log beside the log point's row; they are empty without observation.

        Raises:
          ValueError: if a number has the name of one of the validation, or a goal names a number
            that is not logged.
        """
        if not _is_due(step, self._every, self._log_every):
            return {}
        state = self._of_one_device(state)
        if not cluster.leads():
            return {}
        try:
            seen = self._experiment.observation(self._key, state)
        except Exception as error:
            self._warn(
                step, f"this observation failed: {_in_a_line(error)}; training goes on without it"
            )
            return {}
        drawn = {name: figure.savefig for name, figure in seen.figures.items()}
        grids = {
            name: functools.partial(report.save_grid, images)
            for name, images in seen.images.items()
        }
        for name, save in {**drawn, **grids}.items():
            path = self._folder.pictures / name / f"step-{step:08d}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                save(path)
            except Exception as error:
                self._warn(step, f"the picture {name} failed: {_in_a_line(error)}")
        for warning in seen.warnings:
            self._warn(step, warning)
        numbers, remarks = logs.named(seen.numbers, row)
        for remark in remarks:
            self._warn(step, remark)
        # Renaming would not do: a log point without a validation would keep the name.
        if both := sorted(self._validated & set(seen.numbers)):
            raise ValueError(
                f"Experiment.observe and Experiment.validate must give numbers of different names, "
                f"got {both[0]!r} from both"
            )
        self._logged |= {*row, *numbers}
        goals.refuse_unknown(self._experiment, self._logged)
        return logs.summary(numbers)

    def tell(self, logger: logs.Logger, row: Mapping[str, Any]) -> None:
        """Gives a log point to a logger."""
        try:
            logger(row["step"], logs.numbers(row))
        except Exception as error:
            said = f"a logger failed: {_in_a_line(error)}; training goes on"
            self._warn(row["step"], said)

    def _of_one_device(self, state: Any) -> Any:
        return state if self._experiment.learner.mesh is None else devices.local(state)

    def _warn(self, step: int, warning: str) -> None:
        kind = re.sub(r"[\d.]+", "", warning)  # one with other numbers is not new
        if kind not in self._said:
            self._said.add(kind)
            print(f"warning: step {step:,}: {warning}", file=sys.stderr, flush=True)


def validation_is_due(experiment: Experiment, step: int, log_every: int) -> bool:
    """Returns whether a run is validated at a log point."""
    every = experiment.validate_every or experiment.steps_per_epoch
    return experiment.validate is not None and _is_due(step, every, log_every)


def validated(
    experiment: Experiment, key: Key | Keys, state: Any, row: Mapping[str, Any]
) -> dict[str, Any]:
    """Validates a state, which must be on one device.

    Args:
      experiment: the experiment, which has a validation.
      key: the run's key, or the keys of many runs.
      state: the learner's state.
      row: log point to which the numbers are added; its names are in use.

    Returns:
      The numbers, as the log holds them.

    Raises:
      ValueError: if the validation does not give numbers by name, one for each run, or a name is in
        use.
    """
    assert experiment.validate is not None
    found = experiment.validate(rng.stream(key, "validate"), state)
    if not isinstance(found, Mapping) or not found:
        said = checks.described(found)
        raise ValueError(f"Experiment.validate must return numbers by name, got {said}")
    expected = () if experiment.learner.seeds is None else (experiment.learner.seeds,)
    for name, value in found.items():
        if logs.is_reserved(name) or name in row:
            whose = "the log itself" if logs.is_reserved(name) else "a metric"
            raise ValueError(
                f"Experiment.validate gives {name!r}, the name of a number of {whose}: call it "
                f"otherwise, such as 'test_{name.removesuffix('_se')}'"
            )
        if np.shape(value) != expected:
            raise ValueError(
                f"Experiment.validate must give single numbers, got {name!r}: "
                f"{checks.described(value)}"
            )
    return logs.summary(found)


def _is_due(step: int, every: int, log_every: int) -> bool:
    """Returns whether a log point is the first of an interval."""
    # The schedule depends on steps alone, so a run that was stopped observes the same steps.
    last_log_point = (step - 1) // log_every * log_every
    return step // every != last_log_point // every


def _in_a_line(error: Exception) -> str:
    """Describes an error and the line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {said} ({place.filename}:{place.lineno})"
