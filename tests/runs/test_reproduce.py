"""Published tables beside their reproductions."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest

from genmod.cli import evaluation, training
from genmod.evaluate import Result
from genmod.runs import catalogue, reproduce, results
from genmod.runs.evaluation import Options
from genmod.runs.folder import Folder
from genmod.train import manifest

SMALL = reproduce.Budget(
    time="a moment",
    cells=("plain", "weighted"),
    seeds=2,
    config={"epochs": 3},
    options=Options(num_draws=7, num_test=20),
    orderings=(("weighted", "plain"),),
    deviations=("Three epochs.",),
)
TABLE = reproduce.Table(
    title="A table",
    experiment="iwae",
    quantity="-log p(x)",
    metric=("likelihood", "log_likelihood"),
    sign=-1,
    cells=(
        reproduce.Cell("plain", {"num_samples": 1, "hidden": (8, 8)}, {"paper": 90.0, "other": 91}),
        reproduce.Cell("weighted", {"num_samples": 5}, {"other": 88.0}),
    ),
    budgets={"small": SMALL},
)


@pytest.mark.parametrize("name", reproduce.files())
def test_every_cell_of_every_table_is_an_experiment_with_its_flags(name, tmp_path):
    table = reproduce.load(name)
    for budget in table.budgets.values():
        cells = reproduce.cells_of(table, budget)
        assert len({reproduce.folder_of(tmp_path, cell) for cell in cells}) == len(cells)
        for cell in cells:
            arguments = reproduce.training(table, budget, cell, tmp_path)
            assert arguments[:2] == ["train", table.experiment]
            module = catalogue.load(catalogue.find(table.experiment))
            config, options = training.parse(module, table.experiment, arguments[2:])
            for field, value in {**budget.config, **cell.config}.items():
                assert getattr(config, field) == value
            assert (options.seeds, options.run_dir) == (budget.seeds, tmp_path)
        assert {one for pair in budget.orderings for one in pair} <= set(budget.cells)


def written(folder, cell, values, *, step=30, config=None, seeds=2, **told):
    """Writes what `genmod train` and `genmod evaluate` leave in a folder."""
    saved = folder / "checkpoints" / f"{step:09d}"
    saved.mkdir(parents=True)
    (saved / manifest.MANIFEST).touch()
    recorded = {"config": {**SMALL.config, **cell.config, "batch_size": 50, **(config or {})}}
    recorded |= dict.fromkeys(("experiment", "data", "command", "created"), "")
    recorded |= {"versions": {}, "device": {}, "seeds": seeds}
    (folder / "record.json").write_text(json.dumps(recorded))
    protocol = {"metric": "log_likelihood", "num_draws": 7, "num_real": 20, "seed": 0, **told}
    runs = tuple(Result(value, 0.5, protocol=protocol) for value in values)
    results.write(Folder(folder), [results.Entry("log_likelihood", 30, runs)])


def test_a_cell_has_the_values_of_its_runs(tmp_path):
    plain = TABLE.cells[0]
    folder = reproduce.folder_of(tmp_path, plain)
    assert reproduce.value_of(TABLE, SMALL, plain, folder) is None
    written(folder, plain, [-91.0, -93.0])
    found = reproduce.value_of(TABLE, SMALL, plain, folder)
    np.testing.assert_allclose(found.runs, [91.0, 93.0])
    assert (found.mean.value, found.mean.error) == (92.0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        {"step": 60},
        {"num_draws": 8},
        {"num_real": 30},
        {"config": {"epochs": 4}},
        {"seeds": 3},
        {"latents": "a mixture of 10 Gaussians fitted to the codes"},
        {"checkpoint": "best"},
    ],
)
def test_values_of_another_length_or_evaluation_do_not_count(other, tmp_path):
    plain = TABLE.cells[0]
    written(tmp_path / "plain", plain, [-91.0, -93.0], **other)
    assert reproduce.value_of(TABLE, SMALL, plain, tmp_path / "plain") is None


def test_features_that_a_table_names_are_asked_for_and_needed(tmp_path):
    plain = TABLE.cells[0]
    pixels = SMALL._replace(options=Options(num_draws=7, num_test=20, features="pixels", ex_post=3))
    command = reproduce.evaluation(TABLE, pixels, tmp_path)
    assert command[-8:-2] == ["--num-test", "20", "--features", "pixels", "--ex-post", "3"]
    written(tmp_path / "judge", plain, [1.0, 2.0], features="mnist", latents="a mixture")
    assert reproduce.value_of(TABLE, pixels, plain, tmp_path / "judge") is None
    written(tmp_path / "pixels", plain, [1.0, 2.0], features="pixels", latents="a mixture")
    assert reproduce.value_of(TABLE, pixels, plain, tmp_path / "pixels") is not None


def test_the_table_has_published_values_ours_and_the_difference(tmp_path):
    runs = {"plain": [-91.0, -93.0], "weighted": [-90.5, -92.0]}
    values = []
    for cell in reproduce.cells_of(TABLE, SMALL):
        folder = reproduce.folder_of(tmp_path, cell)
        written(folder, cell, runs[cell.name])
        values.append(reproduce.value_of(TABLE, SMALL, cell, folder))
    shown = reproduce.published("a-table", TABLE, "small", values, tmp_path)
    assert shown.columns == ["", "paper", "other", "genmod", "less paper"]
    assert shown.rows[0] == ["plain", "90.00", "91.00", "92.0 +- 1.0", "+2.00"]
    assert shown.rows[1] == ["weighted", "-", "88.00", "91.25 +- 0.75", "-"]
    assert shown.notes[0] == "-log p(x). +- is the standard error over 2 seeds."
    assert shown.notes[1] == "weighted less plain: -0.75 +- 0.25, below 0 in 2 of 2 seeds: holds"
    assert "Three epochs." in shown.notes
    assert shlex.split(shown.notes[-1])[:3] == ["genmod", "reproduce", "a-table"]
    assert not reproduce.Ordering("a", "b", np.array([-1.0, 0.5])).holds


def test_values_of_other_protocols_are_compared_by_rank_alone(tmp_path):
    cells = [
        reproduce.Cell("a", {}, {"paper": 9.0}, "one"),
        reproduce.Cell("b", {}, {"paper": 7.0}, "one"),
        reproduce.Cell("c", {}, {}, "one"),
        reproduce.Cell("d", {}, {"paper": 1.0}, "two"),
    ]
    ours = [300.0, 400.0, 1.0, 2.0]
    cells.append(reproduce.Cell("e", {}, {"paper": 0.5}, "one"))
    ours.append(float("nan"))  # of a generator whose samples are all the same
    values = [
        reproduce.Value(cell, np.array([value]), Result(value, 1.0))
        for cell, value in zip(cells, ours, strict=True)
    ]
    budget = SMALL._replace(cells="abcde", orderings=())
    table = TABLE._replace(cells=cells, budgets={"small": budget}, ranked=True)
    shown = reproduce.published("a-table", table, "small", values, tmp_path)
    assert shown.columns == ["", "paper", "genmod", "published rank", "rank here"]
    assert [row[-2:] for row in shown.rows] == [
        ["2 of 2", "1 of 2"],
        ["1 of 2", "2 of 2"],
        ["-", "-"],
        ["1 of 1", "1 of 1"],
        ["-", "-"],
    ]
    assert "Without a value, and left out of both rankings: e." in shown.notes


def test_a_distance_counts_if_it_is_of_as_many_samples(tmp_path):
    plain = TABLE.cells[0]
    table = TABLE._replace(metric=("distances", "frechet_distance"), sign=1)
    written(tmp_path / "plain", plain, [1.0, 2.0])
    protocol = {"metric": "frechet_distance", "num_fake": 10_000, "num_real": 20, "seed": 0}
    runs = tuple(Result(value, protocol=protocol) for value in (1.0, 2.0))
    results.write(Folder(tmp_path / "plain"), [results.Entry("frechet_distance", 30, runs)])
    assert reproduce.value_of(table, SMALL, plain, tmp_path / "plain").mean.value == 1.5
    fewer = SMALL._replace(options=Options(num=1000, num_test=20))
    assert reproduce.value_of(table, fewer, plain, tmp_path / "plain") is None
    assert reproduce.evaluation(table, fewer, tmp_path)[-6:-4] == ["--num", "1000"]


@pytest.mark.end_to_end
def test_data_that_are_missing_are_told_before_any_training(tmp_path, monkeypatch, capfd):
    missing = str(tmp_path / "missing.npz")
    plain, weighted = TABLE.cells
    table = TABLE._replace(
        cells=[plain, weighted._replace(config={**weighted.config, "dataset": f"npz:{missing}"})]
    )
    monkeypatch.setattr(reproduce, "load", lambda name: table)
    out = tmp_path / "out"
    assert evaluation.reproduce("a-table", "small", out) == 3
    said = capfd.readouterr()
    assert missing in said.err
    assert "genmod train" not in said.out
    assert not list(out.iterdir())
    for cell in table.cells:
        written(reproduce.folder_of(out, cell), cell, [90.0, 91.0])
    assert not reproduce.datasets(table, SMALL, out)  # a cell with its values needs no data


def test_an_unknown_table_or_budget_is_refused():
    with pytest.raises(ValueError, match="unknown table 'iwae-table2'; did you mean 'iwae-table1'"):
        reproduce.load("iwae-table2")


@pytest.mark.end_to_end
def test_the_first_epochs_of_the_table_of_importance_weighted_autoencoders(shell, tmp_path):
    command = [sys.executable, "-m", "genmod", "reproduce", "iwae-table1", "--budget", "smoke"]

    def run():
        done = subprocess.run(command, cwd=tmp_path, env=shell, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    made = run()
    assert "IWAE, k = 5 less VAE, k = 1" in made
    page = tmp_path / "runs" / "reproduce" / "iwae-table1" / "smoke" / "table.html"
    assert "Burda et al." in page.read_text()
    again = run()
    assert "genmod train" not in again  # what is there is not made again
    assert again.splitlines()[-8:] == made.splitlines()[-8:]
