"""Observations of a run in training: schedule and storage."""

import functools
import re
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from genmod import devices, report
from genmod._host import cluster
from genmod.experiment import Experiment
from genmod.runs import logs
from genmod.runs.folder import Folder
from genmod.types import Key


class Watch:
    """Observer of a run in training.

    It takes an observation at the first log point of each interval of `observe_every`.
    """

    def __init__(self, experiment: Experiment, folder: Folder, key: Key, log_every: int):
        self._experiment, self._folder, self._key = experiment, folder, key
        self._log_every = log_every
        self._every = experiment.observe_every or experiment.steps_per_epoch
        self._said: set[str] = set()

    def look(self, step: int, state: Any, row: Mapping[str, Any]) -> dict[str, Any]:
        """Takes the observation of a log point, if one is due.

        Returns the numbers to log beside the log point's row; they are empty without observation.
        """
        # The schedule depends on steps alone, so a run that was stopped observes the same steps.
        last_log_point = (step - 1) // self._log_every * self._log_every
        if step // self._every == last_log_point // self._every:
            return {}
        if self._experiment.learner.mesh is not None:
            state = devices.local(state)
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
        return logs.summary(numbers)

    def tell(self, logger: logs.Logger, row: Mapping[str, Any]) -> None:
        """Gives a log point to a logger."""
        try:
            logger(row["step"], logs.numbers(row))
        except Exception as error:
            said = f"a logger failed: {_in_a_line(error)}; training goes on"
            self._warn(row["step"], said)

    def _warn(self, step: int, warning: str) -> None:
        kind = re.sub(r"[\d.]+", "", warning)  # one with other numbers is not new
        if kind not in self._said:
            self._said.add(kind)
            print(f"warning: step {step:,}: {warning}", file=sys.stderr, flush=True)


def _in_a_line(error: Exception) -> str:
    """Describes an error and the line that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {said} ({place.filename}:{place.lineno})"
