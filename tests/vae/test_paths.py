"""Paths through a latent space: ends to the bit, norms, angles, and opposite directions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmod import vae

# Numbers whose squares float32 does not hold are among them.
value = st.one_of(st.floats(-4, 4, width=32), st.sampled_from([0.0, 1e-30, -1e-25, 1e25, 1.0]))
codes = st.integers(1, 4).flatmap(
    lambda size: st.tuples(*[st.lists(value, min_size=size, max_size=size)] * 2)
)


@pytest.mark.costly
@given(codes, st.integers(2, 5), st.sampled_from(["linear", "slerp"]))
def test_a_path_is_finite_and_has_its_ends(ends, num, kind):
    a, b = (np.array(end, np.float32) for end in ends)
    path = vae.interpolate(a, b, num, kind=kind)
    assert path.shape == (num, len(a))
    assert np.isfinite(path).all()
    np.testing.assert_array_equal(path[0], a)
    np.testing.assert_array_equal(path[-1], b)


@given(codes)
def test_slerp_has_norms_between_those_of_its_ends(ends):
    a, b = (np.array(end, np.float32) for end in ends)
    norms = [np.linalg.norm(end.astype(np.float64)) for end in (a, b)]
    path = np.asarray(vae.interpolate(a, b, 5, kind="slerp"), np.float64)
    if min(norms) > 0 and len(a) > 1:
        expected = np.linspace(*norms, 5)
        np.testing.assert_allclose(np.linalg.norm(path, axis=1), expected, rtol=1e-5)


def test_slerp_turns_at_constant_speed_in_the_plane_of_its_ends():
    a, b = np.array([2.0, 0, 0]), np.array([1.0, np.sqrt(3), 0])  # 60 degrees, both of norm 2
    angles = np.radians([0, 15, 30, 45, 60])
    expected = 2 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    np.testing.assert_allclose(vae.interpolate(a, b, 5, kind="slerp"), expected, atol=1e-6)


def test_a_line_has_equal_steps_and_leading_axes_are_kept():
    a, b = np.zeros((2, 3, 4), np.float32), np.ones((2, 3, 4), np.float32)
    path = vae.interpolate(a, b, 5)
    assert path.shape == (5, 2, 3, 4)
    np.testing.assert_allclose(path[:, 1, 2, 3], [0, 0.25, 0.5, 0.75, 1])
    b[0] = [3, 0, 4, 0]
    each = [vae.interpolate(a[0, 0] + 1, b[0, 0], 3, kind="slerp")]
    np.testing.assert_allclose(vae.interpolate(a + 1, b, 3, kind="slerp")[:, 0, 0], each[0])


@pytest.mark.parametrize("tilt", [0.0, 1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_and_opposite_directions_have_a_path_of_their_norm(tilt, sign):
    a = np.array([1.0, 2.0, 2.0])
    b = sign * a + np.array([2 * tilt, tilt, -2 * tilt])
    path = np.asarray(vae.interpolate(a, b, 9, kind="slerp"), np.float64)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 3, rtol=1e-6)
    turned = np.arccos(np.clip((path[1:] * path[:-1]).sum(1) / 9, -1, 1))
    np.testing.assert_allclose(turned, (np.pi if sign < 0 else 0) / 8, atol=2e-3)


def test_slerp_from_zero_is_the_line():
    a, b = np.zeros(3), np.array([1.0, 2.0, 3.0])
    for ends in ((a, b), (b, a), (a, a)):
        np.testing.assert_allclose(
            vae.interpolate(*ends, 5, kind="slerp"), vae.interpolate(*ends, 5), rtol=1e-6
        )


@given(codes, st.lists(value, max_size=3))
def test_a_traversal_changes_one_latent(ends, values):
    z = np.array(ends[0], np.float32)
    for dimension in range(len(z)):
        path = np.asarray(vae.traverse(z, dimension, np.array(values, np.float32)))
        assert path.shape == (len(values), len(z))
        np.testing.assert_array_equal(path[:, dimension], np.array(values, np.float32))
        others = np.delete(path, dimension, axis=1)
        np.testing.assert_array_equal(others, np.tile(np.delete(z, dimension), (len(values), 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vae.interpolate(jnp.zeros(2), jnp.zeros(3), 5), r"got \(2,\) and \(3,\)"),
        (lambda: vae.interpolate(0.0, 1.0, 5), r"one shape \[\.\.\., L\], got \(\) and \(\)"),
        (lambda: vae.interpolate(jnp.zeros(2), jnp.ones(2), 1), "num must be at least 2.*got 1"),
        (lambda: vae.interpolate(jnp.zeros(2), jnp.ones(2), 2.5), "num must be .*got 2.5"),
        (
            lambda: vae.interpolate(jnp.zeros(2), jnp.ones(2), 3, kind="slurp"),
            "unknown kind 'slurp'; did you mean 'slerp'",
        ),
        (lambda: vae.traverse(jnp.zeros((1, 2)), 0, [1.0]), r"got \(1, 2\) and \(1,\)"),
        (lambda: vae.traverse(jnp.zeros(2), 0, 1.0), r"got \(2,\) and \(\)"),
        (lambda: vae.traverse(jnp.zeros(2), 2, [1.0]), r"dimension must be .* \[0, 2\), got 2"),
        (lambda: vae.traverse(jnp.zeros(2), -1, [1.0]), "got -1"),
        (lambda: vae.traverse(jnp.zeros(2), 1.0, [1.0]), r"got 1\.0"),
    ],
)
def test_what_is_no_path_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
