"""A batch made by hand runs as one program, and a program that makes batches stays the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genmod import data, rng
from genmod.data.compiled import Compiled

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 4, 3, 1), np.uint8)


def makers(prepare=data.unit_interval):
    return {
        "batches": data.batches(IMAGES, batch_size=7, prepare=prepare),
        "stacked": data.stacked_batches(IMAGES, batch_size=7, prepare=prepare),
        "together": data.together(a=data.batches(IMAGES, batch_size=7, prepare=prepare)),
        "stream": data.batches(IMAGES, batch_size=7, prepare=prepare, stream=True),
    }


@pytest.mark.parametrize("name", ["batches", "stacked", "together", "stream"])
def test_a_batch_by_hand_is_one_program(name):
    traced = []

    def prepare(keys, images):
        traced.append(isinstance(images, jax.core.Tracer))
        return data.binarized(keys, images)

    batch_at = makers(prepare)[name]
    num = len(traced)
    for step in (0, 1, np.int64(2), jnp.int32(3)):
        batch_at(rng.root(step), step)
    assert traced[num:] == [True]


@pytest.mark.costly
def test_a_batch_by_hand_has_the_bits_of_the_compiled_one():
    for name, batch_at in makers(data.dequantized).items():
        if name != "stream":
            ours, theirs = batch_at(rng.root(1), 5), jax.jit(batch_at)(rng.root(1), 5)
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_program_that_makes_batches_is_that_of_the_plain_function():
    examples, key = jnp.asarray(IMAGES), rng.root(0)
    plain = functools.partial(
        data.batch_at, examples=examples, batch_size=7, prepare=data.binarized
    )
    batch_at = data.batches(examples, batch_size=7, prepare=data.binarized)
    ours, theirs = (str(jax.make_jaxpr(at)(key, 0)) for at in (batch_at, plain))
    assert ours == theirs
    ours, theirs = (
        str(jax.make_jaxpr(jax.vmap(at))(key[None], jnp.zeros(1, int))) for at in (batch_at, plain)
    )
    assert ours == theirs
    # A program that knows key and step makes the same batch, too.
    np.testing.assert_array_equal(jax.jit(lambda: batch_at(key, 3))(), batch_at(key, 3))


def test_each_program_traces_the_function_anew():
    """What is traced may depend on its surroundings, as on the devices of `genmod.devices`."""
    traced = []
    batch_at = Compiled(lambda key, step: traced.append(step) or step)
    for program in (lambda step: batch_at(None, step), lambda step: 2 * batch_at(None, step)):
        jax.jit(program)(3)
    assert len(traced) == 2


def test_without_jit_every_operation_runs_by_itself():
    seen = []

    def prepare(keys, images):
        seen.append(images)
        return data.unit_interval(keys, images)

    batch_at = data.batches(IMAGES, batch_size=60, prepare=prepare)
    with jax.disable_jit():
        batch = batch_at(rng.root(0), 0)
    np.testing.assert_allclose(batch, np.asarray(seen[-1], np.float64) / 255, rtol=1e-6)


def test_a_function_that_has_no_hash_prepares_too():
    class Scaled:
        __hash__ = None

        def __call__(self, keys, images):
            return 2 * data.unit_interval(keys, images)

    batch = data.batches(IMAGES, batch_size=60, prepare=Scaled())(rng.root(0), 0)
    np.testing.assert_allclose(batch.max(), 2 * float(IMAGES.max()) / 255, rtol=1e-6)


def test_a_step_beyond_31_bits_is_served_by_hand():
    batch_at = data.batches(np.arange(10), batch_size=3, prepare=data.unchanged)
    for step in (2**31 - 1, 2**31, 2**32 - 1):
        expected = data.indices_at(rng.root(0), np.uint32(step), 10, batch_size=3)
        np.testing.assert_array_equal(batch_at(rng.root(0), step), expected)


@settings(max_examples=30)
@given(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()))
@example(2**31)
@example(2**32)
@example(-1)
@example(2.5)
@example(np.float32(1))
def test_a_step_that_is_no_step_is_refused(step):
    batch_at = Compiled(lambda key, step: step)
    if isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**32:
        assert int(batch_at(rng.root(0), step)) == step
    else:
        with pytest.raises(ValueError, match=r"step must be a whole number in \[0, 2\*\*32\), got"):
            batch_at(rng.root(0), step)
