"""The table of likelihoods, on tiny models and few images."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from genmod import data

TABLES = Path(__file__).parents[2] / "experiments" / "tables"


@pytest.mark.slow
def test_the_table_is_made_once_and_continued(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(TABLES)
    likelihood = importlib.import_module("likelihood")
    load = data.Source.load

    def few(self, split="train"):
        found = load(self, split)
        return found._replace(images=found.images[:200], labels=found.labels[:200])

    monkeypatch.setattr(data.Source, "load", few)
    monkeypatch.setattr(likelihood, "HIDDEN", (16,))
    options = likelihood.Options(
        epochs=2,
        sigmas=(0.1, 0.3, 5.0),
        validation=2,
        images=3,
        simulated=2,
        at_once=2,
        chains=2,
        temperatures=8,
        out=tmp_path,
    )
    likelihood.main(options)
    said = capsys.readouterr().out
    assert "VAE-10" in said
    assert "GAN-10 (published)" in said
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers) == 8  # of each model: sigma, two parts of test images, simulated ones
    assert {len(part["lower"]) for name, part in numbers.items() if "test 0" in name} == {2}

    # What an interruption has lost is computed again, to the same numbers; nothing else is.
    lost = next(name for name in numbers if "GAN" in name and "test 2" in name)
    (tmp_path / "numbers.json").write_text(
        json.dumps({name: part for name, part in numbers.items() if name != lost})
    )
    likelihood.main(options)
    again = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" s")]
    assert [line.rpartition(":")[0] for line in again] == [lost]
    found = json.loads((tmp_path / "numbers.json").read_text())
    np.testing.assert_allclose(found[lost]["lower"], numbers[lost]["lower"], rtol=1e-6)


@pytest.mark.parametrize("field", ["chains", "temperatures", "images", "vae_sigma", "at_once"])
def test_options_out_of_range(monkeypatch, field):
    monkeypatch.syspath_prepend(TABLES)
    likelihood = importlib.import_module("likelihood")
    with pytest.raises(ValueError, match=field):
        likelihood.Options(**{field: 0})
