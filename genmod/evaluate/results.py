"""Results with their error, their floor and their protocol.

A number means little without the way in which it was computed. Two numbers can only be compared if
that was the same.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from genmod import checks
from genmod.evaluate.averages import Estimate, estimate


class Result(NamedTuple):
    """Number with everything that is needed to compare it with another.

    Attributes:
      value: the number.
      error: its standard error; NaN if it is not known.
      floor: value of perfect samples under the same protocol, such as held-out real images; NaN if
        there is none.
      protocol: how the number was computed: the metric, the part of the data, the number of real
        and of generated images, the feature extractor with its hash, and other settings, by name.
        Each is a text, a number, a boolean, None or a list of these.
      interval: an interval that holds the true value, such as a lower and an upper bound, or the
        limits of a bootstrap interval; None if there is none. The protocol says which.

    Example:
      >>> from genmod import evaluate
      >>> ours = evaluate.Result(4.1, 0.2, 1.3, {"metric": "frechet_distance", "num_fake": 10_000})
      >>> theirs = ours._replace(value=5.1, error=0.1)
      >>> difference = evaluate.compare(ours, theirs)
      >>> round(difference.mean, 3), round(difference.error, 3)
      (-1.0, 0.224)
    """

    value: float
    error: float = math.nan
    floor: float = math.nan
    protocol: Mapping[str, Any] = MappingProxyType({})
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        # Two digits of the error are shown, and the other numbers to the same digit.
        known = math.isfinite(self.error) and self.error > 0
        form = f".{max(0, 1 - math.floor(math.log10(self.error)))}f" if known else ".4g"
        text = f"{self.value:{form}}"
        if not math.isnan(self.error):
            text += f" +- {self.error:{form}}"
        if self.interval is not None:
            text += " in [{}, {}]".format(*(f"{end:{form}}" for end in self.interval))
        return text if math.isnan(self.floor) else f"{text} (floor {self.floor:{form}})"

    def as_json(self) -> dict[str, Any]:
        """Returns the result as a dict that JSON can hold. NaN becomes None."""
        numbers = {name: _json(getattr(self, name)) for name in ("value", "error", "floor")}
        interval = None if self.interval is None else [_json(end) for end in self.interval]
        return {**numbers, "interval": interval, "protocol": dict(self.protocol)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Result":
        """Returns the result that `as_json` has described.

        Raises:
          ValueError: if it is not such a description.
        """
        try:
            value, error, floor = (_number(found[name]) for name in ("value", "error", "floor"))
            interval = found["interval"]
            ends = None if interval is None else (_number(interval[0]), _number(interval[1]))
            return cls(value, error, floor, dict(found["protocol"]), ends)
        except (KeyError, TypeError, ValueError, IndexError) as cause:
            raise ValueError(f"expected a result as JSON, got {found!r} ({cause!r})") from None


def compare(a: Result, b: Result) -> Estimate:
    """Returns the difference of two results, a - b.

    Its standard error is that of the difference of independent numbers. If both are computed on the
    same examples, the difference of the values of each example has a smaller error.

    Raises:
      ValueError: if the protocols differ, or one of them is empty. The fields that differ are
        named.
    """
    for name, one in (("a", a), ("b", b)):
        if not isinstance(one, Result) or not one.protocol:
            raise ValueError(f"{name} must be a Result with a protocol, got {one!r}")
    check_protocols([a, b])
    return Estimate(a.value - b.value, math.hypot(a.error, b.error))


def check_protocols(results: Sequence[Result]) -> None:
    """Refuses results whose protocols differ.

    Raises:
      ValueError: if two protocols differ, and the fields are named; or if there are no results.
    """
    wrong = [checks.described(one) for one in results if not isinstance(one, Result)]
    if wrong or not results:
        got = ", ".join(wrong) or "none"
        raise ValueError(f"results must hold at least one Result and nothing else, got {got}")
    first = results[0].protocol
    for other in results[1:]:
        differing = {
            name: (first.get(name, "nothing"), other.protocol.get(name, "nothing"))
            for name in (*first, *other.protocol)
            if first.get(name, "nothing") != other.protocol.get(name, "nothing")
        }
        if differing:
            said = ", ".join(f"{n} is {one!r} and {two!r}" for n, (one, two) in differing.items())
            raise ValueError(f"results under different protocols cannot be compared: {said}")


def over_runs(results: Sequence[Result]) -> Result:
    """Returns the mean of the results of several runs, such as seeds.

    The error is the standard error over the runs. It holds the noise of each run's own draws, but
    not that of the test data, which all runs share. The floor is the mean of the floors. An
    interval is left out.

    Raises:
      ValueError: if there are no results, or their protocols differ.
    """
    check_protocols(results)
    if len(results) == 1:
        return results[0]
    mean, error = estimate(np.array([one.value for one in results]))
    floor = float(np.mean([one.floor for one in results]))
    return Result(mean, error, floor, {**results[0].protocol, "runs": len(results)})


def _json(number: float) -> float | None:
    return None if math.isnan(number) else float(number)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
