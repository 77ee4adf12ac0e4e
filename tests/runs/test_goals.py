"""Runs that are validated in training, end by patience, and keep their best state."""

import dataclasses
import json
import math
import shutil

import jax
import numpy as np
import pytest
from commands import refused
from counting import experiment, look
from hypothesis import given
from hypothesis import strategies as st

from genmod import evaluate, rng
from genmod.experiment import Goal, Observation, Patience
from genmod.runs import goals, loading, logs, pages, record, replay, runner, several, verify
from genmod.runs.folder import Folder
from genmod.train import checkpoint

VALUES = [5.0, 3.0, 4.0, 2.0, 2.0, 3.0, 2.5, 1.0]
"""Values of the test loss at the steps 10, 20, ..., of which that at 40 is best before 80."""


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "run")


def measured(key, state):
    return {"test_loss": VALUES[int(state) // 10 - 1]}


def built(epochs=8, **rest):
    return experiment(epochs, **{"validate": measured, **rest})


def run(built, folder, **options):
    return runner.run(built, folder, seed=0, progress=False, **options)


def values(folder, name="test_loss"):
    return {row["step"]: row[name] for row in logs.read_metrics(folder) if name in row}


def best(folder, built):
    """The step and the state of the best checkpoint, which is the only one."""
    (step,) = checkpoint.steps(folder.best)
    return step, int(checkpoint.restore(folder.best, runner.check(built, 0)).state)


# The decisions, from rows alone.


def by_definition(numbers, patience, larger):
    """Where a run is best and ends: each log point compared with all before it."""
    held = [(10 * i, n) for i, n in enumerate(numbers, 1) if n is not None]
    improving = []
    for i, (step, number) in enumerate(held):
        before = [n for _, n in held[:i] if not math.isnan(n)]
        better = all(number > n if larger else number < n for n in before)
        if better and not math.isnan(number):
            improving.append((i, step))
    best = improving[-1][1] if improving else 0
    for i, (step, _) in enumerate(held):
        last = max((at for at, _ in improving if at <= i), default=-1)
        if i - last >= patience:
            return best, step
    return best, None


NUMBER = st.none() | st.sampled_from([math.nan, math.inf, -math.inf]) | st.integers(-3, 3)


@given(st.lists(NUMBER, max_size=12), st.integers(1, 4), st.booleans())
def test_the_best_log_point_and_the_end_are_those_of_their_definitions(numbers, patience, larger):
    rows = [
        {"step": 10 * i, "loss": 0.0, **({} if n is None else {"acc": n})}
        for i, n in enumerate(numbers, 1)
    ]
    goal = Goal("acc", larger_is_better=larger)
    found = goals.Standing(Patience(goal, patience), goal, rows)
    ended = None if found.ended is None else found.ended.step
    assert (found.best.step, ended) == by_definition(numbers, patience, larger)


def test_a_change_that_is_too_small_is_no_improvement():
    rows = [{"step": step, "x": x} for step, x in enumerate([4.0, 3.5, 3.25, 3.0, 2.5], 1)]
    # From 4: 3.5 is not lower by more than a half, and 3.25 is; then 2.5, after one in vain.
    ended = [goals.Standing(Patience("x", n, 0.5), None, rows).ended for n in (1, 2)]
    assert ended[0] is not None
    assert (ended[0].step, ended[0].best.step) == (2, 1)
    assert ended[1] is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Patience("x", 0), "patience must be a positive whole number, got 0"),
        (lambda: Patience("x", 2.5), "patience must be a positive whole number, got 2.5"),
        (lambda: Patience("x", 1, -0.1), "smallest_change must be a number of at least 0"),
        (lambda: Patience(3, 1), "goal must be the name of a logged number or a Goal, got 3"),
        (lambda: Goal(""), "metric must be the name of a logged number, got ''"),
        (lambda: built(until="x"), "Experiment.until must be a Patience, got 'x'"),
        (lambda: built(best=("x", 1)), "Experiment.best must be the name of a logged number or a"),
        (lambda: built(validate_every=0), "Experiment.validate_every must be a positive whole"),
        (
            lambda: built(validate=None, validate_every=3),
            "Experiment.validate_every needs Experiment.validate, got None",
        ),
    ],
)
def test_goals_that_cannot_be_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# Validation.


@pytest.mark.parametrize(
    ("every", "log_every", "steps"),
    [(None, None, [10, 20, 30]), (5, 5, [5, 10, 15, 20, 25, 30]), (12, 5, [15, 25])],
)
@pytest.mark.end_to_end
def test_validations_are_taken_at_the_first_log_point_of_each_interval(
    folder, every, log_every, steps
):
    seen = []

    def validate(key, state):
        return {"at": int(state), "draw": float(jax.random.uniform(jax.random.fold_in(key, 0)))}

    made = built(3, validate=validate, validate_every=every)
    logged = [lambda step, numbers: seen.append((step, numbers.get("at")))]
    run(made, folder, log_every=log_every, loggers=logged)
    assert values(folder, "at") == {step: step for step in steps}
    key = rng.stream(rng.root(0), "validate")
    draw = float(jax.random.uniform(jax.random.fold_in(key, 0)))
    assert set(values(folder, "draw").values()) == {draw}, "one key for all"
    assert [step for step, at in seen if at] == steps


@pytest.mark.end_to_end
def test_a_start_validates_once_before_its_first_step(folder):
    seen = []

    def validate(key, state):
        seen.append(int(state))
        return {"at": int(state)}

    for epochs, steps in ((2, [0, 10, 20]), (2, []), (3, [20, 30])):
        seen.clear()
        run(built(epochs, validate=validate), folder)
        assert seen == steps


@pytest.mark.end_to_end
def test_an_evaluation_on_test_data_is_a_validation(folder):
    def objective(keys, params, x):
        return x + params, {"twice": 2 * x}

    class State(dict):
        params = 1.0

    on_test = evaluate.on_test(objective, np.arange(4, dtype=np.float32), loss="nll")
    run(built(1, validate=lambda key, state: on_test(key, State())), folder)
    (row,) = logs.read_metrics(folder)
    assert (row["test_nll"], row["test_twice"]) == (2.5, 3.0)
    assert row["test_nll_standard_error"] == pytest.approx(np.arange(4).std(ddof=1) / 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "Experiment.validate must return numbers by name, got None"),
        ({}, "Experiment.validate must return numbers by name, got a dict of nothing"),
        ({"x": "good"}, "what is logged must be numbers by name, got 'x': 'good'"),
        ({"x": np.ones(3)}, r"must give single numbers, got 'x': an array float64 \[3\]"),
        ({"a_loss": 1.0}, "gives 'a_loss', the name of a number of a metric: call it otherwise"),
        ({"step": 1.0}, "gives 'step', the name of a number of the log itself"),
        ({"x_se": 1.0}, "gives 'x_se', .* call it otherwise, such as 'test_x'"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.end_to_end
def test_what_is_no_validation_is_refused_before_the_first_step(folder, given, said, seeds):
    made = built(validate=lambda key, state: given)
    if seeds > 1:
        made = several.over_seeds(made, 0, seeds)
        said = said.replace(r"\[3\]", r"\[2, 3\]").replace("'good'", "an array <U4")
    with pytest.raises(ValueError, match=said):
        run(made, folder)
    assert not logs.read_metrics(folder)
    assert not checkpoint.steps(folder.checkpoints)


def test_one_name_for_a_look_and_a_validation_is_refused(folder):
    made = built(observe=lambda key, state: Observation({"test_loss": 1.0}))
    made = dataclasses.replace(made, validate=lambda key, state: {"test_loss": 1.0})
    with pytest.raises(ValueError, match="different names, got 'test_loss' from both"):
        run(made, folder)


@pytest.mark.end_to_end
def test_a_validation_that_fails_later_loses_nothing(folder, tmp_path):
    def fails(key, state):
        if int(state) == 30:
            raise RuntimeError("no memory today")
        return measured(key, state)

    with pytest.raises(RuntimeError, match="no memory today"):
        run(built(validate=fails), folder)
    assert (checkpoint.steps(folder.checkpoints), list(values(folder))) == ([30], [10, 20])
    run(built(), folder)
    assert list(values(folder).values()) == VALUES


# The end, and the best.


@pytest.mark.end_to_end
def test_a_run_ends_by_its_patience_and_stays_there(folder, tmp_path, capsys):
    made = built(until=Patience("test_loss", 3), best="test_loss", observe=look)
    assert run(made, folder) == runner.Outcome(70, None)
    said = "ended at step 70 by patience on test_loss: 3 log points without an improvement"
    assert f"{said} since step 40 (2.0000)" in capsys.readouterr().out
    assert values(folder) == dict(zip(range(10, 80, 10), VALUES, strict=False))
    assert checkpoint.steps(folder.checkpoints)[-1] == 70
    assert best(folder, made) == (40, 40)
    assert logs.read_evaluation(folder)["seen"] == 70, "the end is that of the newest state"

    for again in (made, dataclasses.replace(made, epochs=20)):
        assert run(again, folder) == runner.Outcome(70, None)
        assert f"already trained: {said}" in capsys.readouterr().out.splitlines()[0]

    # With more patience it goes on, as a run does that had it from the beginning.
    patient = dataclasses.replace(made, until=Patience("test_loss", 4))
    whole = Folder(tmp_path / "whole")
    for one in (folder, whole):
        assert run(patient, one).step == 80
        assert best(one, made) == (80, 80)
    assert "continuing at step 70 (epoch 7) of 80 steps" in capsys.readouterr().out
    assert values(folder) == values(whole)


def test_a_metric_is_a_goal_and_the_larger_may_be_better(folder):
    larger = Goal("a_loss", larger_is_better=True)
    made = experiment(3, until=Patience("a_loss", 2), best=larger)  # a_loss grows
    assert run(made, folder).step == 30
    assert best(folder, made) == (30, 30)


def test_the_first_of_equals_is_best(folder):
    made = built(2, validate=lambda key, state: {"x": 1.0}, best="x")
    run(made, folder)
    assert best(folder, made) == (10, 10)


def test_of_several_seeds_the_mean_decides(folder):
    def validate(key, state):
        # Of the first seed 1, 3, 5 and of the second, whose draw is another, 9, 3, 5.
        first = bool((jax.random.key_data(key) == jax.random.key_data(FIRST)).all())
        return {"x": {10: 1.0 if first else 9.0, 20: 3.0, 30: 5.0}.get(int(state), 0.0)}

    made = several.over_seeds(built(3, validate=validate, until=Patience("x", 1), best="x"), 0, 2)
    assert run(made, folder).step == 30
    rows = logs.read_metrics(folder)
    assert [row["seeds"]["x"] for row in rows] == [[1, 9], [3, 3], [5, 5]]
    assert [row["x"] for row in rows] == [5, 3, 5]
    assert checkpoint.steps(folder.best) == [20]


FIRST = rng.stream(rng.root(0), "validate")


def test_the_number_of_a_goal_is_shown_beside_the_losses(folder, capsys):
    made = built(1, validate=lambda key, state: {"score": 0.5, "other": 7.0}, best="score")
    runner.run(made, folder, seed=0)
    line = next(line for line in capsys.readouterr().out.splitlines() if "step 10" in line)
    assert "score 0.5000" in line
    assert "other" not in line


@pytest.mark.parametrize("goal", ["until", "best"])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("parts", "steps"),
    [
        ({"validate": None}, 0),
        ({}, 0),
        ({"observe": look}, 1),
        ({"observe": look, "validate": None}, 1),
    ],
)
@pytest.mark.end_to_end
def test_a_number_that_is_not_logged_is_refused(folder, goal, seeds, parts, steps):
    aim = Patience("test_los", 2) if goal == "until" else "test_los"
    made = built(**{goal: aim}, **parts)
    made = made if seeds == 1 else several.over_seeds(made, 0, seeds)
    names = ["a_loss", "b_loss"]
    names += ["draw", "seen"] * ("observe" in parts) + ["test_loss"] * ("validate" not in parts)
    said = f"unknown logged number of Experiment.{goal} 'test_los'; .*is: {', '.join(names)}$"
    with pytest.raises(ValueError, match=said):
        run(made, folder)
    # At the latest where it is looked first; what was done until then is saved.
    assert checkpoint.steps(folder.checkpoints) == [10] * steps
    if not steps:
        assert not folder.metrics.exists() or not folder.metrics.read_text()


@pytest.mark.parametrize("name", ["step", "examples_per_s", "a_loss_se"])
def test_what_the_log_itself_writes_is_no_goal(folder, name):
    with pytest.raises(ValueError, match=f"'{name}'; .*there is: a_loss, b_loss, test_loss"):
        run(built(best=name), folder)


@pytest.mark.end_to_end
def test_a_look_may_give_the_number_of_a_goal_now_and_then(folder):
    def observe(key, state):
        return Observation({"fid": float(state)} if int(state) in (10, 40) else {"other": 1.0})

    made = built(4, observe=observe, best=Goal("fid", larger_is_better=True), validate=None)
    run(made, folder)
    assert best(folder, made) == (40, 40)


@pytest.mark.end_to_end
def test_another_goal_forgets_the_best_of_the_old_one(folder):
    run(built(4, best="test_loss"), folder)
    assert checkpoint.steps(folder.best) == [40]
    made = built(5, best="a_loss")
    run(made, folder)
    # The log says that step 10 had the smallest; its state is gone, and no other is taken for it.
    assert checkpoint.steps(folder.best) == []
    run(built(8, best="test_loss"), folder)
    assert checkpoint.steps(folder.best) == [80]


# A run with a record.

GOALS = (
    (
        "        epochs=config.epochs,\n",
        """        epochs=config.epochs,
        validate=lambda key, state: {"test": float(uneven(state.params))},
        until=Patience("test", 2),
        best="test",
""",
    ),
    (
        "    def evaluation(",
        """    def uneven(params):
        return 1000 * params.encoder["layer_0"]["bias"][0] % 1

    def evaluation(""",
    ),
    (
        "from genmod.experiment import Experiment\n",
        "from genmod.experiment import Experiment, Patience\n",
    ),
)


@pytest.fixture
def ended(genmod, altered, folder):
    """A run that has ended by its patience, its file, and the step of its best log point."""
    file = altered(*GOALS)
    done = genmod("train", file, "--run-dir", folder.path, "--epochs", 20, "--log-every", 3)
    assert done.code == 0, done
    rows = logs.read_metrics(folder)
    assert f"ended at step {rows[-1]['step']} by patience on test" in done.out
    assert rows[-1]["step"] < 80
    return file


@pytest.mark.end_to_end
def test_a_run_that_has_ended_can_be_used_as_any(ended, genmod, folder, tmp_path):
    rows = logs.read_metrics(folder)
    held = [row for row in rows if "test" in row]
    last, (step,) = rows[-1]["step"], checkpoint.steps(folder.best)
    assert step == min(held, key=lambda row: row["test"])["step"] == held[-3]["step"]
    content = json.loads(folder.record.read_text())
    goal = {"metric": "test", "larger_is_better": False}
    assert content["until"] == {"goal": goal, "patience": 2, "smallest_change": 0.0}
    assert content["best"] == goal

    found = verify.run(folder.path, everything=True)
    assert found.difference is None
    assert (found.steps, found.log_points[-1]) == (last, last)
    assert {step, last} <= set(found.checkpoints)
    with pytest.raises(ValueError, match=f"one of the run's {last} steps, got {last + 1}"):
        replay.step(folder.path, last + 1)
    assert replay.step(folder.path, last).num_steps == last

    _, newest = loading.load_run(folder.path)
    _, state = loading.load_run(folder.path, best=True)
    assert (int(newest.step), int(state.step)) == (last, step)
    pictures = [tmp_path / "newest.png", tmp_path / "best.png"]
    for flags, picture in zip(([], ["--best"]), pictures, strict=True):
        assert genmod("sample", folder.path, *flags, "--out", picture).code == 0
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    done = genmod("export", folder.path, "--best")
    assert "every bit agrees" in done.out
    assert f"the state of step {step}, the smallest test" in done.err
    assert json.loads((folder.path / "export" / "export.json").read_text())["checkpoint"] == "best"

    done = genmod("runs", tmp_path)
    assert f"{rows[-1]['epoch']:g} of 20, ended" in done.out
    html = pages.build([folder.path])
    assert f"ended at step {last} by patience on test" in html
    assert "goes on to step" not in html

    done = genmod("train", ended, "--run-dir", folder.path, "--epochs", 20, "--log-every", 3)
    assert f"already trained: ended at step {last}" in done.first_line
    assert len(record.read(folder)["starts"]) == 1


@pytest.mark.end_to_end
def test_a_best_checkpoint_that_was_changed_or_is_another_is_a_difference(ended, folder):
    (step,) = checkpoint.steps(folder.best)
    kept = tmp = folder.path.parent / "kept"
    shutil.copytree(folder.best, kept)
    last = checkpoint.steps(folder.checkpoints)[-1]
    shutil.rmtree(folder.best)
    shutil.copytree(folder.checkpoints / f"{last:09d}", folder.best / f"{last:09d}")
    found = verify.run(folder.path, everything=True)
    said = f"step {last}: the best checkpoint is of this step, and the best log point is {step}"
    assert found.difference == said
    shutil.copytree(folder.checkpoints / f"{last:09d}", tmp / "other")
    shutil.rmtree(folder.best)
    shutil.move(tmp / "other", folder.best / f"{step:09d}")
    found = verify.run(folder.path, everything=True)
    assert (found.difference or "").startswith(f"step {step}: ")


@pytest.mark.end_to_end
def test_other_goals_are_noted_and_recorded(ended, genmod, folder):
    last = logs.read_metrics(folder)[-1]["step"]
    text = ended.read_text()
    ended.write_text(text.replace('Patience("test", 2)', 'Patience("test", 9)'))
    flags = ["--run-dir", folder.path, "--epochs", 20, "--log-every", 3]
    done = genmod("train", ended, *flags)
    assert f"continuing at step {last}" in done.out
    until = "until was patience {} on the smallest test when the run began and is patience {}"
    assert until.format(2, 9) in done.err
    assert record.read(folder)["until"]["patience"] == 9
    assert verify.run(folder.path, everything=True).difference is None
    ended.write_text(text.replace('        best="test",\n', ""))
    genmod("train", ended, *flags)
    assert "best" not in record.read(folder)


@pytest.mark.end_to_end
def test_a_run_that_keeps_no_best_says_so(genmod, place, folder):
    assert genmod("train", "small", "--run-dir", folder.path, "--epochs", 1).code == 0
    for command in ("sample", "export"):
        done = genmod(command, folder.path, "--best")
        refused(done, 2, "best needs a checkpoint of the best log point", "keeps none: its")
