"""The Dirac-GAN: derivatives of genmod's losses and penalties against the closed forms."""

import importlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from genmod import gan

TABLES = Path(__file__).parents[2] / "experiments" / "tables"


@pytest.fixture
def dirac(monkeypatch):
    monkeypatch.syspath_prepend(TABLES)
    return importlib.import_module("dirac_gan")


def test_every_loss_is_there(dirac):
    assert {*dirac.STRENGTHS, "least_squares"} == set(gan.LOSSES)


@pytest.mark.parametrize("name", sorted(set(gan.LOSSES) - {"least_squares"}))
@pytest.mark.parametrize("gamma", [0.0, 0.3, 3.0])
def test_the_eigenvalues_are_those_of_the_closed_form(dirac, name, gamma):
    for penalty in (gan.r1, gan.r2) if name == "minimax" and gamma else (gan.r1,):
        weighted = None if gamma == 0 else gamma / 2 * penalty
        found = dirac.eigenvalues(gan.LOSSES[name], weighted)
        np.testing.assert_allclose(
            found, dirac.closed_form(dirac.STRENGTHS[name], gamma), atol=1e-3 if gamma else 1e-6
        )
        assert (found.real.max() < 0) == (gamma > 0), "it converges if and only if gamma > 0"


def test_the_published_values_are_the_closed_forms(dirac):
    np.testing.assert_allclose(dirac.closed_form(0.5), [-0.5j, 0.5j])
    np.testing.assert_allclose(dirac.closed_form(1.0), [-1j, 1j])
    np.testing.assert_allclose(dirac.closed_form(0.5, 1.0), [-0.5, -0.5])


def test_least_squares_does_not_turn(dirac):
    np.testing.assert_allclose(dirac.eigenvalues(gan.least_squares), 0, atol=1e-6)


def test_the_gradient_penalty_has_no_equilibrium_there(dirac):
    """(|D'| - 1)^2 pushes the discriminator away from 0 on both sides."""
    field = dirac.field(gan.wasserstein, gan.gradient_penalty)
    assert float(field(jnp.array([0.0, 0.1]))[1]) > 0 > float(field(jnp.array([0.0, -0.1]))[1])


@pytest.mark.end_to_end
def test_the_table_and_the_figure_are_made(dirac, tmp_path, capsys):
    dirac.main(dirac.Options(gamma=2.0, out=tmp_path / "dirac.png"))
    assert (tmp_path / "dirac.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert said.count("converges") == 12
    assert "circles" in said
    with pytest.raises(ValueError, match="gamma must be a number of at least 0, got -1"):
        dirac.Options(gamma=-1)
