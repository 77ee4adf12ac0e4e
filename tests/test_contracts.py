"""Contracts that every public factory keeps. A new one fails here until it has an entry.

The tables of factories are in `tests/support/factories.py`.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from entries import DATA, SHAPE, B
from factories import BY_POSITION, ENTRIES, EXCEPTIONS, LEARNERS, TABLE

from genmod import devices, gan, nets, rng, train, vae

ROOMS = {"vae": vae, "gan": gan, "nets": nets, "train": train}
PLATFORMS = ("cuda", "tpu")


def test_every_factory_has_an_entry():
    public = {
        f"{room}.{name}"
        for room, module in ROOMS.items()
        for name in module.__all__
        if not isinstance(getattr(module, name), type)  # a class is the type of what is made
    }
    entered = {*TABLE, *(name.partition(" ")[0] for name in LEARNERS)}
    assert public == entered | EXCEPTIONS.keys()
    assert not entered & EXCEPTIONS.keys()


def check_order(function):
    """Asserts that keys come first, then parameters, then data."""
    # The loop's functions are about a learner, objectives about a model: it comes before all.
    ranks = {"learner": -1, "model": -1, "key": 0, "keys": 0, "params": 1, "state": 1, "critic": 1}
    names = list(inspect.signature(function).parameters)
    order = [ranks.get(name, 2) for name in names]
    assert order == sorted(order), names


@pytest.mark.parametrize("room", ROOMS)
def test_options_of_public_functions_are_given_by_name(room):
    for name in ROOMS[room].__all__:
        function = getattr(ROOMS[room], name)
        if inspect.isfunction(function):
            check_order(function)
            arguments = inspect.signature(function).parameters.values()
            options = [p for p in arguments if p.default is not p.empty]
            named = all(p.kind is p.KEYWORD_ONLY for p in options)
            assert named == (f"{room}.{name}" not in BY_POSITION), f"{room}.{name}"


# Entries

CONDITIONAL = (" of a condition", " with labels")
# Of objectives with a condition, the shared one stands for all but in `make test-all`.
each = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.slow
            if entry.sums and name.endswith(" of a condition") and "elbo" not in name
            else (),
        )
        for name, entry in ENTRIES.items()
    ],
)
of_examples = jax.jit(lambda key: rng.per_example(key, B))
of_examples_of_seeds = jax.jit(lambda key: jax.vmap(of_examples)(rng.of_seeds(key, 2)))


def keys(seed=0):
    return of_examples(rng.root(seed))


def call(name):
    """The function `(keys, params, data)` of an entry: a new one, which is traced anew."""
    entry = ENTRIES[name]
    return lambda keys, params, data: entry.apply(entry.made, keys, params, data)


compiled = functools.cache(lambda name: jax.jit(call(name)))


def drawn(form, seed):
    """Arrays of given shapes: random numbers, and 3 where whole numbers are."""
    random = np.random.default_rng(seed)
    whole = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.integer)  # noqa: E731
    draw = lambda leaf: 3 if whole(leaf) else 0.5 * random.normal(size=leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(draw(leaf), leaf.dtype), form)


@functools.cache
def params(name, seed=0):
    """Parameters of the form of an entry's initial ones, whose draw is not compiled."""
    init = ENTRIES[name].init
    return () if init is None else drawn(jax.eval_shape(init, rng.root(0), DATA), seed)


def taken(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def half(tree):
    """The shapes and types of a tree, with bfloat16 for floating numbers."""
    floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    kind = lambda leaf: jnp.bfloat16 if floating(leaf) else leaf.dtype  # noqa: E731
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, kind(x)), tree)


def pairs(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    return zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)


def close(found, expected, error=1e-5):
    for one, other in pairs(found, expected):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one, other, rtol=error, atol=error)


def round_trips(tree):
    leaves, structure = jax.tree.flatten(tree)
    for again in (jax.tree.unflatten(structure, leaves), jax.tree.map(lambda leaf: leaf, tree)):
        assert type(again) is type(tree)
        assert all(one is other for one, other in pairs(again, tree))


def check_functions(made):
    fields = made if isinstance(made, tuple) else vars(made).values()
    functions = [made] if inspect.isfunction(made) else filter(callable, fields)
    for function in functions:
        check_order(function)


@each
def test_what_is_made_is_a_tree_of_functions_of_keys_parameters_data(name):
    check_functions(ENTRIES[name].made)
    round_trips(ENTRIES[name].made)
    round_trips(params(name))


@each
def test_values_are_one_per_example(name):
    entry = ENTRIES[name]
    for leaf in jax.tree.leaves(compiled(name)(keys(), params(name), DATA)):
        assert leaf.shape == (B,) if entry.scalar else leaf.shape[0] == B or entry.regroups


@each
def test_examples_do_not_interact_unless_it_is_told(name):
    entry, order = ENTRIES[name], np.array([3, 7, 0, 2, 6, 1, 5, 4])
    found = compiled(name)(keys(), params(name), DATA)
    if not entry.regroups:
        moved = compiled(name)(keys()[order], params(name), taken(DATA, order))
        # The statistics of a batch are sums, which differ in the last digits with their order.
        close(moved, taken(found, order), 1e-4 if entry.looks else 1e-5)
    others = np.array([0, 3, 3, 2, 6, 6, 5, 4])  # beside which the first example stays the same
    beside = compiled(name)(keys()[others], params(name), taken(DATA, others))
    same = [np.allclose(one[0], two[0], 1e-5, 1e-5) for one, two in pairs(beside, found)]
    assert not any(same) if entry.looks else all(same)


@each
def test_what_looks_at_its_batch_refuses_microbatches(name):
    entry, inputs = ENTRIES[name], (keys(), params(name), DATA)
    with devices.microbatch():
        if not entry.looks or entry.regroups:
            jax.eval_shape(call(name), *inputs)
        else:
            with pytest.raises(ValueError, match="microbatches must be 1"):
                jax.eval_shape(call(name), *inputs)


@pytest.mark.costly
@pytest.mark.parametrize(
    "name",
    # A condition goes through the code of the entry without one.
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith(CONDITIONAL) else ())
        for name in ENTRIES
    ],
)
def test_seeds_side_by_side_are_each_alone_and_compile_once(name):
    alone = [compiled(name)(keys(seed), params(name, seed), DATA) for seed in range(2)]
    assert compiled(name)._cache_size() == 1
    many = jax.jit(jax.vmap(call(name), (0, 0, None)))
    both = stacked(params(name, 0), params(name, 1))
    close(many(of_examples_of_seeds(rng.root(0)), both, DATA), stacked(*alone))


@each
def test_sums_of_bfloat16_are_in_float32(name):
    found = jax.eval_shape(call(name), keys(), half(params(name)), half(DATA))
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32 or not ENTRIES[name].sums


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (lambda x: -vae.bernoulli.log_prob(-100 * x, x), 333 * 100),
        (lambda x: vae.kl_divergence(x, 0 * x), 333 / 2),
        (lambda x: gan.r1(keys()[:1], lambda x: x.sum(1), x, x), 333),
    ],
    ids=["bernoulli", "kl_divergence", "r1"],
)
def test_a_sum_of_bfloat16_has_the_digits_of_float32(total, expected):
    """The terms are numbers of bfloat16, their sum is not: it has 8 binary digits."""
    assert jax.jit(total)(jnp.ones((1, 333), jnp.bfloat16)).tolist() == [expected]


@each
def test_it_lowers_for_other_platforms(name):
    traced = compiled(name).trace(keys(), params(name), DATA)
    assert traced.lower(lowering_platforms=PLATFORMS).as_text()


# Learners

each_learner = pytest.mark.parametrize("name", LEARNERS)
built = functools.cache(lambda name: LEARNERS[name].build())
compiled_step = functools.cache(lambda name: jax.jit(built(name).step))


@functools.cache
def initial(name):
    """Shapes and types of a learner's initial state, whose draw is not compiled."""
    return jax.eval_shape(built(name).init, rng.root(0), LEARNERS[name].batch)


@functools.cache
def inputs(name, seed=0):
    """A state in the midst of a run, and a batch."""
    return drawn(initial(name), seed), LEARNERS[name].batch


@functools.cache
def stepped(name, seed=0):
    return compiled_step(name)(rng.root(seed), *inputs(name, seed))


@each_learner
def test_a_learner_and_its_state_are_trees(name):
    check_functions(built(name))
    round_trips(built(name))
    round_trips(inputs(name)[0])


@each_learner
def test_a_step_keeps_the_form_of_its_state_and_is_compiled_once(name):
    form = lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type)  # noqa: E731
    after, metrics = stepped(name)
    assert jax.tree.map(form, after) == jax.tree.map(form, initial(name))
    compiled_step(name)(rng.root(2), after, LEARNERS[name].batch)
    assert compiled_step(name)._cache_size() == 1
    assert {(value.shape, str(value.dtype)) for value in metrics.values()} == {((), "float32")}


@pytest.mark.costly
@each_learner
def test_seeds_of_a_learner_are_each_alone(name):
    step = jax.jit(train.over_seeds(built(name), 2, sequential=False).step)
    both = stacked(inputs(name, 0), inputs(name, 1))
    close(step(rng.of_seeds(rng.root(0), 2), *both), stacked(stepped(name, 0), stepped(name, 1)))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("name", "how"),
    [
        *((name, "pmap") for name in LEARNERS),
        *(
            # The compiler partitions the step as it is: quickly shown where examples meet.
            pytest.param(name, "sharded", marks=() if case.looks else pytest.mark.slow)
            for name, case in LEARNERS.items()
        ),
    ],
)
def test_two_devices_are_one(name, how):
    step = train.over_devices(built(name), how, jax.devices()[:2]).step
    close((step if how == "pmap" else jax.jit(step))(rng.root(0), *inputs(name)), stepped(name))


@pytest.mark.costly
@each_learner
def test_microbatches_are_the_whole_batch_or_refused(name):
    step = lambda *inputs: LEARNERS[name].build(microbatches=2).step(*inputs)  # noqa: E731
    if LEARNERS[name].looks:
        with pytest.raises(ValueError, match="microbatches must be 1"):
            jax.eval_shape(step, rng.root(0), *inputs(name))
    else:
        close(jax.jit(step)(rng.root(0), *inputs(name)), stepped(name))


@pytest.mark.costly
@each_learner
def test_what_inspect_shows_is_what_the_step_reports(name):
    _, metrics = stepped(name)
    terms = jax.jit(built(name).inspect)(rng.root(0), *inputs(name)).terms
    assert terms
    for term, values in terms.items():
        np.testing.assert_allclose(values.mean(), metrics[term], rtol=1e-5, err_msg=term)
    others = metrics.keys() - terms.keys()  # the sum of the losses of parts, norms of gradients
    assert all(metric == "loss" or metric.endswith("_gradient") for metric in others)


@each_learner
def test_metrics_of_bfloat16_are_in_float32(name):
    before, batch = half(inputs(name))
    after, metrics = jax.eval_shape(built(name).step, rng.root(0), before, batch)
    assert {str(value.dtype) for value in metrics.values()} == {"float32"}
    assert all(one.dtype == other.dtype for one, other in pairs(after, before))


@each_learner
def test_steps_and_samples_lower_for_other_platforms(name):
    traced = [compiled_step(name).trace(rng.root(0), *inputs(name))]
    if any(leaf is DATA.x for leaf in jax.tree.leaves(LEARNERS[name].batch)):  # it can sample
        draw = jax.jit(lambda key, state: built(name).sample(key, state, 3))
        traced.append(draw.trace(rng.root(0), inputs(name)[0]))
        assert traced[1].out_info.shape == (3, *SHAPE)
    for one in traced:
        assert one.lower(lowering_platforms=PLATFORMS).as_text()
