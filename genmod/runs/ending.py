"""End of a run: its evaluation and its pictures."""

import contextlib
import math
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from genmod import checks, report, rng
from genmod._host import disk
from genmod.experiment import Experiment, Observation
from genmod.runs import logs
from genmod.runs.folder import Folder


def finish(experiment: Experiment, folder: Folder, key: jax.Array, state: Any) -> None:
    """Evaluates a trained state and draws its pictures.

    Both are written to the run folder.

    Raises:
      Exception: the first error of the experiment's evaluation or pictures. Everything else is
        written before.
    """
    failed: list[Exception] = []
    drawn = None
    with _put_off(failed):
        drawn = experiment.final_figures(rng.stream(key, "figures"), state)
    last = Observation()
    if experiment.evaluate is None or (drawn is None and not failed):
        with _put_off(failed):  # one observation for both: of the same samples
            last = experiment.observation(rng.stream(key, "evaluate"), state)
    taken: Mapping[str, Any] = last.numbers
    if experiment.evaluate is not None:
        with _put_off(failed):
            taken = experiment.evaluate(rng.stream(key, "evaluate"), state)
    evaluation: dict[str, Any] = {}
    with _put_off(failed):
        if not isinstance(taken, Mapping):
            raise ValueError(f"evaluate must return numbers by name, got {checks.described(taken)}")
        taken, remarks = logs.named(taken)
        for remark in remarks:
            print(f"warning: evaluation: {remark}", file=sys.stderr, flush=True)
        evaluation = logs.summary(taken)
    if evaluation:
        disk.write_json(folder.evaluation, evaluation)
        for name, value in logs.readable(evaluation).items():
            print(f"{name}: {value}{_not_finite(evaluation[name])}")
    figures = dict(last.figures if drawn is None else drawn)
    rows = logs.read_metrics(folder)
    if rows and report.is_game(rows):
        figures["game"] = report.game(rows)
    elif rows:
        figures["curves"] = report.curves(rows)
    print("pictures:")
    for name, figure in figures.items():
        path = folder.pictures / f"{name}.png"
        with _put_off(failed), disk.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
            print(f"  {path}")
    for error in failed[1:]:
        traceback.print_exception(error)
    if failed:
        raise failed[0]


@contextlib.contextmanager
def _put_off(failed: list[Exception]) -> Iterator[None]:
    """Catches an error and keeps it for later."""
    try:
        yield
    except Exception as error:
        failed.append(error)


def _not_finite(value: float) -> str:
    """Returns a remark on a value that is not finite."""
    if math.isfinite(value):
        return ""
    return " (not a number)" if math.isnan(value) else " (not finite)"
