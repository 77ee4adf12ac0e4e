"""Lazy penalties: the usual penalty over all steps together, and nothing at most of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import gan, rng
from genmod.gan import lazy_penalties

NUM, DIM = 4, 3


def keys(num=NUM):
    return rng.per_example(rng.root(0), num)


def images(num=NUM):
    """Real and generated ones."""
    return np.random.default_rng(0).normal(size=(2, num, DIM)).astype(np.float32)


EVERY = 3
SUM = 0.5 * gan.r1 + 2 * gan.gradient_penalty
PARAMS = np.random.default_rng(3).normal(size=(DIM, DIM)).astype(np.float32)


def tanh(params, x):
    return jnp.tanh(jnp.matmul(x, params, precision="highest")).sum(1)


def mean_at(step, params, every=EVERY):
    penalty = lazy_penalties.lazy(SUM, every=every)({"step": step})
    values = penalty(keys(), lambda x: tanh(params, x), *images())
    return values.mean(), values


def test_a_lazy_penalty_is_the_penalty_over_all_steps_together():
    take = jax.jit(jax.value_and_grad(mean_at, argnums=1, has_aux=True))
    found = [take(jnp.int32(step), PARAMS) for step in range(2 * EVERY)]

    def usual(params):
        return SUM(keys(), lambda x: tanh(params, x), *images()).mean()

    value, slope = jax.value_and_grad(usual)(PARAMS)
    for step, ((lazy, values), lazy_slope) in enumerate(found):
        due = step % EVERY == 0
        np.testing.assert_allclose(lazy, EVERY * due * value, rtol=1e-6)
        np.testing.assert_allclose(lazy_slope, EVERY * due * slope, rtol=1e-5, atol=1e-6)
        assert values.shape == (NUM,)
    np.testing.assert_allclose(np.mean([s for _, s in found], 0), slope, rtol=1e-5, atol=1e-6)


def test_each_term_keeps_its_name_and_weight():
    made = lazy_penalties.lazy(SUM, every=EVERY)({"step": 0})
    assert [term[:2] for term in made.terms] == [term[:2] for term in SUM.terms]

    def drift(keys, critic, real, fake):
        return critic(real) ** 2

    (term,) = lazy_penalties.lazy(drift, every=2)({"step": 1}).terms
    assert term[:2] == ("drift", 1.0)
    np.testing.assert_array_equal(term[2](keys(), lambda x: x[:, 0], *images()), np.zeros(NUM))


def inner(equation):
    """The programs inside an equation of a program."""
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def products(program, *, outside=False):
    """Number of matrix products, those inside of a `cond` left out if outside."""
    total = 0
    for equation in program.eqns:
        total += equation.primitive.name == "dot_general"
        if not (outside and equation.primitive.name == "cond"):
            total += sum(products(one, outside=outside) for one in inner(equation))
    return total


def conditionals(program):
    for equation in program.eqns:
        if equation.primitive.name == "cond":
            yield equation
        for one in inner(equation):
            yield from conditionals(one)


def test_at_other_steps_neither_the_penalty_nor_its_gradient_is_computed():
    slope = jax.grad(lambda params, step: mean_at(step, params)[0])
    program = jax.make_jaxpr(slope)(PARAMS, jnp.int32(0)).jaxpr
    assert products(program) > 4
    assert products(program, outside=True) == 0
    branches = [[products(one) for one in inner(cond)] for cond in conditionals(program)]
    assert len(branches) >= 4  # of each term forwards and backwards
    # The first branch is that of steps that are not due.
    assert all(idle == 0 for idle, _ in branches)
    assert all(due > 0 for _, due in branches)


def test_a_compiled_step_computes_it_when_it_is_due_alone():
    calls = []

    def counted(keys, critic, real, fake):
        jax.debug.callback(lambda: calls.append(1))
        return critic(real) ** 2

    def total(params, step):
        penalty = lazy_penalties.lazy(counted, every=EVERY)({"step": step})
        return penalty(keys(), lambda x: tanh(params, x), *images()).sum()

    slope = jax.jit(jax.grad(total))
    for step in range(2 * EVERY):
        slope(PARAMS, jnp.int32(step))
        jax.effects_barrier()
        assert len(calls) == 1 + step // EVERY


def test_runs_side_by_side_have_the_same_numbers():
    take = jax.grad(lambda params, step: mean_at(step, params)[0])
    steps = jnp.arange(4)
    together = jax.jit(jax.vmap(take, (None, 0)))(PARAMS, steps)
    compiled = jax.jit(take)
    for one, step in zip(together, steps, strict=True):
        np.testing.assert_allclose(one, compiled(PARAMS, step), rtol=1e-5)


def test_what_a_lazy_penalty_cannot_use_is_refused():
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match="every must be a positive whole number, got"):
            lazy_penalties.lazy(gan.r1, every=every)
    with pytest.raises(ValueError, match=r"penalty must be a function .*lambda hyper: gan.lazy"):
        lazy_penalties.lazy(lambda hyper: gan.r1, every=2)
    made = lazy_penalties.lazy(gan.r1, every=2)
    for hyper in ({}, {"step": 3.0}, {"step": jnp.float32(3)}):
        with pytest.raises(ValueError, match=r'hyper=\{"step": lambda step: step\}, got'):
            made(hyper)
