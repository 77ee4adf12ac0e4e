"""The examples in docstrings do what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

import genmod

PACKAGE = Path(genmod.__file__).parent
# What a newcomer calls first: each of these shows how.
SHOWN = {
    "rng.stream",
    "data.batches",
    "data.shuffled",
    "nets.mlp",
    "vae.make",
    "vae.elbo",
    "vae.kl_divergence",
    "gan.make",
    "gan.Penalty",
    "gan.AdversarialLoss",
    "nets.conditional",
    "data.together",
    "train.game",
    "train.learner",
    "train.run",
    "train.over_seeds",
    "train.over_grid",
    "evaluate.estimate",
}


MODULES = [
    ".".join(("genmod", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.end_to_end
def test_examples_do_what_they_show(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed, "see the captured output"


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_the_public_path_has_examples(name):
    package, _, own = name.partition(".")
    shown = getattr(importlib.import_module(f"genmod.{package}"), own)
    assert ">>> " in shown.__doc__
