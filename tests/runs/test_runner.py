"""Looks during training: when they are taken, and what is kept of them."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counting import experiment, look
from PIL import Image

from genmod import report, rng, train
from genmod.experiment import Latents
from genmod.runs import logs, runner, several
from genmod.runs.folder import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def run(built, folder, **options):
    return runner.run(built, folder, seed=0, progress=False, **options)


def looks(folder):
    return {row["step"]: row["seen"] for row in logs.read_metrics(folder) if "seen" in row}


@pytest.mark.parametrize(
    ("every", "log_every", "steps"),
    [
        (None, None, [10, 20, 30]),  # an epoch's
        (5, 5, [5, 10, 15, 20, 25, 30]),
        (10, 4, [12, 20, 30]),  # the first log point of each interval
        (3, 10, [10, 20, 30]),  # no oftener than it is logged
        (40, 10, []),
    ],
)
def test_looks_are_taken_at_the_first_log_point_of_each_interval(folder, every, log_every, steps):
    run(experiment(3, every=every, observe=look), folder, log_every=log_every)
    assert looks(folder) == {step: step for step in steps}
    pictures = sorted(path.name for path in (folder.pictures / "samples").glob("*"))
    assert pictures == [f"step-{step:08d}.png" for step in steps]


def test_a_run_without_looks_is_as_it_was(folder):
    run(experiment(2), folder)
    assert [set(row) for row in logs.read_metrics(folder)] == [
        {"step", "epoch", "a_loss", "b_loss", "examples_per_s"}
    ] * 2
    assert [path.name for path in folder.pictures.iterdir()] == ["curves.png"]


def test_every_look_has_the_same_key(folder):
    run(experiment(3, observe=look), folder)
    draws = {row["draw"] for row in logs.read_metrics(folder)}
    key = rng.stream(rng.root(0), "observe")
    assert draws == {float(jax.random.uniform(jax.random.fold_in(key, 0)))}


def test_a_warning_is_said_once_with_its_step(folder, capsys):
    run(experiment(4, observe=look), folder)
    assert capsys.readouterr().err == "warning: step 20: collapsed by 20%\n"


@pytest.mark.end_to_end
def test_a_run_that_was_stopped_looks_at_the_same_steps(tmp_path):
    class Stop(BaseException):
        pass

    def stopping(key, state):
        if int(state) >= 20:
            raise Stop
        return look(key, state)

    whole, cut = (Folder(tmp_path / name) for name in ("whole", "cut"))
    for one in (whole, cut):
        one.path.mkdir()
    options = {"log_every": 4, "checkpoint_every": 4}
    run(experiment(4, every=7, observe=look), whole, **options)
    with pytest.raises(Stop):
        run(experiment(4, every=7, observe=stopping), cut, **options)
    run(experiment(4, every=7, observe=look), cut, **options)
    rows = [logs.read_metrics(one) for one in (whole, cut)]
    for row in [*rows[0], *rows[1]]:
        row.pop("examples_per_s")
    assert rows[0] == rows[1]
    assert looks(whole) == {8: 8, 16: 16, 24: 24, 28: 28, 36: 36}


def test_the_losses_lead_a_row(folder, capsys):
    runner.run(experiment(1, observe=look), folder, seed=0)
    (row,) = map(json.loads, folder.metrics.read_text().splitlines())
    assert list(row)[:4] == ["step", "epoch", "a_loss", "b_loss"]
    assert "a_loss 5.5000  b_loss 0.0000" in capsys.readouterr().out
    assert logs.losses(row) == {"a_loss": 5.5, "b_loss": 0.0}


def test_a_game_gets_the_picture_of_its_health(folder):
    def step(key, state, batch):
        names = ["discriminator_loss", "generator_loss", "real_probability", "fake_probability"]
        names += ["accuracy", "discriminator_gradient", "generator_gradient", "r1"]
        return state + 1, {name: jnp.ones(()) for name in names}

    built = experiment(2)
    built = dataclasses.replace(built, learner=built.learner._replace(step=step))
    run(built, folder)
    assert {path.name for path in folder.pictures.iterdir()} == {"game.png"}
    assert Path(folder.pictures / "game.png").stat().st_size > 1000


def test_by_default_the_end_is_a_look(folder):
    runner.run(experiment(2, observe=look), folder, seed=0)
    assert logs.read_evaluation(folder)["seen"] == 20
    assert (folder.pictures / "samples.png").exists()


def test_an_evaluation_and_figures_of_its_own_come_before_a_look(folder):
    own = {
        "evaluate": lambda key, state: {"own": 1.0},
        "figures": lambda key, state: {"mine": report.image_grid(np.full((1, 2, 2, 1), 0.5))},
    }
    runner.run(experiment(2, observe=look, **own), folder, seed=0)
    assert logs.read_evaluation(folder) == {"own": 1.0}
    assert {path.name for path in folder.pictures.glob("*.png")} == {"mine.png", "curves.png"}


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        (None, "evaluate must return numbers by name, got None"),
        ({"own": None}, "what is logged must be numbers by name, got 'own': None"),
        ({"own": "good"}, "what is logged must be numbers by name, got 'own': 'good'"),
    ],
)
def test_an_evaluation_that_is_no_numbers_is_named_after_all_else_is_written(folder, taken, said):
    with pytest.raises(ValueError, match=said):
        runner.run(experiment(2, evaluate=lambda key, state: taken), folder, seed=0)
    assert (folder.pictures / "curves.png").exists()
    assert not folder.evaluation.exists()


def test_nothing_is_evaluated_by_default(folder):
    run(experiment(2), folder)
    assert not folder.evaluation.exists()
    assert {path.name for path in folder.pictures.iterdir()} == {"curves.png"}


def test_a_logger_is_a_function_of_a_step_and_its_numbers(folder):
    seen = []
    run(
        experiment(2, observe=look),
        folder,
        loggers=[lambda step, values: seen.append((step, values))],
    )
    rows = logs.read_metrics(folder)
    assert [step for step, _ in seen] == [10, 20]
    for (_, values), row in zip(seen, rows, strict=True):
        assert values == {name: value for name, value in row.items() if name != "step"}


def test_a_logger_of_several_seeds_gets_means_and_their_errors(folder):
    seen = {}
    many = several.over_seeds(experiment(1, observe=look), 0, 3)
    run(many, folder, loggers=[seen.__setitem__])
    assert seen[10]["seen"] == 10
    assert seen[10]["draw_se"] > 0
    assert "seeds" not in seen[10], "numbers alone"


def test_a_logger_that_fails_is_warned_of_once_and_hides_no_other(folder, capsys):
    seen = []

    def failing(step, values):
        raise OSError(f"no network at {step}")

    run(experiment(3), folder, loggers=[failing, lambda step, values: seen.append(step)])
    assert seen == [10, 20, 30]
    said = capsys.readouterr().err
    assert said.count("a logger failed: OSError: no network at 10") == 1
    assert len(logs.read_metrics(folder)) == 3


def test_a_script_needs_no_record(tmp_path):
    """Three lines: load, build, run."""
    new = Folder(tmp_path / "a" / "new")
    assert run(experiment(1), new).step == 10
    assert len(logs.read_metrics(new)) == 1


def walked(**rest):
    """Of latents of two numbers, which are the image's corners."""
    latents = Latents(
        2, lambda key, state: lambda z: jnp.zeros((len(z), 2, 2, 1)) + z[:, :1, None, None]
    )
    return experiment(2, latents=latents._replace(**rest))


def test_what_has_latents_is_seen_in_training(folder):
    run(walked(), folder)
    looks = sorted((folder.pictures / "samples").iterdir())
    assert [path.name for path in looks] == ["step-00000010.png", "step-00000020.png"]
    with Image.open(looks[0]) as grid:
        assert grid.size == (16, 16), "64 images, pixel for pixel"
    assert {path.name for path in folder.pictures.glob("*.png")} == {
        *("data.png", "samples.png", "interpolations.png", "truncation.png", "curves.png")
    }


@pytest.mark.parametrize("can_sample", [False, True])
def test_what_cannot_sample_draws_no_samples(folder, can_sample):
    """An autoencoder cannot; a model whose prior is another one can."""
    built = walked(
        standard_normal_prior=False, encode=lambda state, x: x.reshape(len(x), -1)[:, :2]
    )
    if not can_sample:
        alone = train.learner(lambda key, x: 0.0, lambda keys, params, x: (x, {}), optax.sgd(1.0))
        built = dataclasses.replace(built, learner=built.learner._replace(sample=alone.sample))
    run(dataclasses.replace(built, test=built.dataset), folder)
    assert (folder.pictures / "samples").exists() == can_sample
    assert (folder.pictures / "samples.png").exists() == can_sample
    assert (folder.pictures / "reconstructions.png").exists()
    assert not (folder.pictures / "manifold.png").exists()
