"""Images at twice and half their size, against loops and each other's adjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import nets

X = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)


def along(x, axis, row):
    """A linear function of the pixels along an axis: row(i, x) of the result's pixel i."""
    x = np.moveaxis(x, axis, 0)
    return np.moveaxis(np.stack([row(i, x) for i in range(2 * len(x))]), 0, axis)


def smooth(i, x):
    place, odd = divmod(i, 2)
    other = place + (1 if odd else -1)
    return 0.75 * x[place] + (0.25 * x[other] if 0 <= other < len(x) else 0)


def test_images_are_doubled():
    np.testing.assert_array_equal(nets.enlarged(X), X.repeat(2, 1).repeat(2, 2))
    expected = along(along(X.astype(np.float64), 1, smooth), 2, smooth)
    np.testing.assert_allclose(nets.enlarged(X, kind="smooth"), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["block", "smooth"])
def test_halving_is_a_quarter_of_the_adjoint_of_doubling(kind):
    form = jax.ShapeDtypeStruct((2, 2, 3, 3), np.float32)
    adjoint = jax.linear_transpose(lambda y: nets.enlarged(y, kind=kind), form)
    (expected,) = adjoint(jnp.asarray(X))
    np.testing.assert_allclose(nets.reduced(X, kind=kind), expected / 4, rtol=1e-5, atol=1e-6)


def test_a_constant_image_keeps_its_value_inside():
    ones = np.ones((1, 8, 8, 1), np.float32)
    for kind in ("block", "smooth"):
        np.testing.assert_allclose(nets.enlarged(ones, kind=kind)[:, 1:-1, 1:-1], 1, rtol=1e-6)
        np.testing.assert_allclose(nets.reduced(ones, kind=kind)[:, 1:-1, 1:-1], 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.enlarged(X, kind="cubic"), "unknown kind of resampling 'cubic'; .* block"),
        (lambda: nets.enlarged(X[0]), r"images must be \[B, H, W, C\], got shape \(4, 6, 3\)"),
        (lambda: nets.reduced(X[:, :3]), r"must have an even height and width, got shape \(2, 3"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
