"""Paths through a latent space whose prior is N(0, I)."""

import numpy as np
import pytest
from scipy import stats

from genmod import report
from genmod.report import paths

Z = np.random.default_rng(0).normal(size=(20, 5))


def seen(labels=None):
    """The latents that a decoder is given, and their labels, by figure."""
    found = []

    def decode(z, *c):
        found.append((z, *c))
        return np.zeros((len(z), 4, 4, 1), np.float32)

    figures = report.prior_figures(Z, decode, labels=labels)
    return dict(zip(figures, found, strict=True))


def test_interpolations_turn_from_one_draw_to_the_next():
    (z,) = seen()["interpolations"]
    assert z.dtype == np.float32
    way = z.reshape(10, 10, 5).astype(np.float64)
    np.testing.assert_allclose(way[:, 0], Z[::2], rtol=1e-5)
    np.testing.assert_allclose(way[:, -1], Z[1::2], rtol=1e-5)
    norms = np.linalg.norm(way, axis=2)
    np.testing.assert_allclose(np.diff(norms, 2, axis=1), 0, atol=1e-5)
    units = way / norms[..., None]
    turns = np.arccos(np.clip((units[:, 1:] * units[:, :-1]).sum(2), -1, 1))
    np.testing.assert_allclose(turns, turns[:, :1] * np.ones(9), atol=1e-4)


def test_truncated_latents_keep_their_quantiles():
    (z,) = seen()["truncation"]
    rows = z.reshape(5, 10, 5)
    np.testing.assert_allclose(rows[0], Z[:10], rtol=1e-5)
    for row, limit in zip(rows[1:], (2.0, 1.0, 0.5, 0.1), strict=True):
        assert np.abs(row).max() <= limit
        within = stats.truncnorm(-limit, limit)
        np.testing.assert_allclose(within.cdf(row), stats.norm.cdf(Z[:10]), atol=1e-4)


def test_a_path_and_a_column_have_one_label():
    found = seen(labels=np.array([3, 7, 8]))
    np.testing.assert_array_equal(
        found["interpolations"][1].reshape(10, 10)[:, 0], np.resize([3, 7, 8], 10)
    )
    of_columns = found["truncation"][1].reshape(5, 10)
    np.testing.assert_array_equal(of_columns, np.resize([3, 7, 8], 10) * np.ones((5, 1), int))


def test_equal_draws_are_their_own_path():
    np.testing.assert_allclose(
        paths._turned(Z[:1], Z[:1], np.linspace(0, 1, 3)), Z[None, :1].repeat(3, 1), rtol=1e-6
    )


def test_draws_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"z must be \[N, L\] with N even .* got \[3, 5\]"):
        report.prior_figures(Z[:3], lambda z: z)
