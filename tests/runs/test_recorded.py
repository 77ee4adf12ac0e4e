"""Recorded runs from a script: what the command does, and the same refusals."""

import dataclasses
import json
import shlex

import pytest
from commands import SMALL

from genmod._host import lock
from genmod.runs import catalogue, loading, recorded, runner
from genmod.runs.folder import Folder


@pytest.fixture(scope="module")
def small():
    return catalogue.load(SMALL)


@pytest.mark.end_to_end
def test_a_run_from_a_script_is_recorded_and_continues(small, tmp_path, genmod, capsys):
    config = small.Config(epochs=1, seed=3)
    seen = []
    outcome = recorded.train(
        small, config, tmp_path / "run", loggers=[lambda step, values: seen.append(step)]
    )
    assert outcome == runner.Outcome(4, None)
    assert seen == [4]
    folder = Folder(tmp_path / "run")
    assert json.loads(folder.record.read_text())["config"]["seed"] == 3
    longer = dataclasses.replace(config, epochs=2)
    assert recorded.train(small, longer, tmp_path / "run").step == 8
    assert "continuing at step 4" in capsys.readouterr().out
    built, _ = loading.load_run(tmp_path / "run")
    assert built.num_steps == 8
    assert genmod("verify", tmp_path / "run").code == 0


@pytest.mark.end_to_end
def test_its_command_starts_it_again(small, tmp_path, genmod):
    config = small.Config(epochs=1, latent_dim=3)
    recorded.train(small, config, tmp_path / "run")
    command = json.loads(Folder(tmp_path / "run").record.read_text())["command"]
    assert shlex.split(command)[:2] == ["genmod", "train"]
    ended = genmod(*shlex.split(command)[1:])
    assert ended.code == 0, ended
    assert "already trained" in ended.out


@pytest.mark.costly
def test_another_run_and_a_folder_in_use_are_refused(small, tmp_path):
    recorded.train(small, small.Config(epochs=1), tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run: seed is 0 there and 5 here"):
        recorded.train(small, small.Config(epochs=1, seed=5), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="exists and is not a genmod run"):
        recorded.train(small, small.Config(epochs=1), tmp_path / "mine")
    with (
        lock.held(tmp_path / "held"),
        pytest.raises(ValueError, match="is in use by process"),
    ):
        recorded.train(small, small.Config(epochs=1), tmp_path / "held")
