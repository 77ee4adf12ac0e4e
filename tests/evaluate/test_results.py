"""Results with their protocols: how they are told, kept, averaged and compared."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmod import evaluate
from genmod.evaluate import Result

PROTOCOL = {"metric": "frechet_distance", "split": "test", "num_fake": 1000, "k": None}
numbers = st.floats(allow_nan=False, allow_infinity=True)


def same(one, other):
    np.testing.assert_equal(one[:3], other[:3])
    assert one[3:] == other[3:]


@given(
    st.builds(
        Result,
        numbers,
        numbers | st.just(math.nan),
        numbers | st.just(math.nan),
        st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()),
        st.none() | st.tuples(numbers, numbers),
    )
)
def test_a_result_comes_back_from_json(result):
    same(Result.from_json(json.loads(json.dumps(result.as_json()))), result)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("value"),
        lambda found: found.update(error="little"),
        lambda found: found.update(interval=[1]),
        lambda found: found.update(protocol=3),
    ],
)
def test_what_is_no_result_is_refused(change):
    found = Result(1.0, 0.1, 0.5, PROTOCOL, (0.0, 2.0)).as_json()
    change(found)
    with pytest.raises(ValueError, match="expected a result as JSON, got"):
        Result.from_json(found)


def test_a_difference_has_the_error_of_both():
    a, b = Result(5.0, 0.3, protocol=PROTOCOL), Result(3.0, 0.4, protocol=PROTOCOL)
    assert evaluate.compare(a, b) == (2.0, 0.5)
    assert math.isnan(evaluate.compare(a, b._replace(error=math.nan)).error)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**PROTOCOL, "num_fake": 500}, "num_fake is 1000 and 500"),
        ({**PROTOCOL, "split": "train", "k": 5}, "split is 'test' and 'train', k is None and 5"),
        ({n: v for n, v in PROTOCOL.items() if n != "metric"}, "metric is 'frechet_distance' and"),
        ({**PROTOCOL, "seed": 3}, "seed is 'nothing' and 3"),
    ],
)
def test_numbers_of_different_protocols_are_not_compared(other, said):
    a, b = Result(1.0, protocol=PROTOCOL), Result(2.0, protocol=other)
    for refuse in (lambda: evaluate.compare(a, b), lambda: evaluate.over_runs([a, a, b])):
        with pytest.raises(ValueError, match=said):
            refuse()


def test_a_number_without_a_protocol_is_not_compared():
    with pytest.raises(ValueError, match="b must be a Result with a protocol, got Result"):
        evaluate.compare(Result(1.0, protocol=PROTOCOL), Result(1.0))
    with pytest.raises(ValueError, match=r"a must be a Result with a protocol, got 1\.0"):
        evaluate.compare(1.0, Result(1.0, protocol=PROTOCOL))


def test_the_mean_over_runs_has_the_error_over_runs():
    runs = [Result(value, 9.0, value / 10, PROTOCOL) for value in (1.0, 1.0, 1.0, 5.0)]
    mean = evaluate.over_runs(runs)
    assert mean[:2] == (2.0, 1.0)
    assert mean.floor == pytest.approx(0.2)
    assert mean.protocol == {**PROTOCOL, "runs": 4}
    assert evaluate.over_runs(runs[:1]) == runs[0]
    for refuse in (evaluate.over_runs, evaluate.check_protocols):
        for results, got in (([], "none"), ([runs[0], 2.0], r"2\.0")):
            with pytest.raises(ValueError, match=f"one Result and nothing else, got {got}"):
                refuse(results)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (Result(98.8871, 0.3213), "98.89 +- 0.32"),
        (Result(4.0, 0.25, 1.0), "4.00 +- 0.25 (floor 1.00)"),
        (Result(4.1234567), "4.123"),
        (Result(1234.5, 120.0, interval=(1000.0, 1500.0)), "1234 +- 120 in [1000, 1500]"),
        (Result(2.0, 0.0), "2 +- 0"),
        (Result(math.nan, math.inf), "nan +- inf"),
    ],
)
def test_a_result_is_told_to_two_digits_of_its_error(result, text):
    assert str(result) == text
