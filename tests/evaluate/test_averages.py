"""Averages over a data set: each example once, and the numbers that an experiment reports."""

import gc
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genmod import data, evaluate, rng
from genmod.evaluate import programs
from genmod.types import Parts

EXAMPLES = np.arange(1, 8, dtype=np.float32)[:, None]


def objective(keys, params, x):
    return params * x[:, 0], {"square": jnp.square(x[:, 0])}


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_every_example_is_used_once(batch_size):
    values = evaluate.over_examples(
        rng.root(0), 2.0, EXAMPLES, objective=objective, batch_size=batch_size
    )
    np.testing.assert_array_equal(values["loss"], 2 * EXAMPLES[:, 0])
    np.testing.assert_array_equal(values["square"], EXAMPLES[:, 0] ** 2)


def test_the_numbers_of_a_test_set_have_names_and_a_standard_error():
    evaluation = evaluate.on_test(objective, EXAMPLES, loss="distance")
    numbers = evaluation(rng.root(0), SimpleNamespace(params=2.0))
    # 2, 4, ..., 14: the mean is 8, the standard deviation 2 * sqrt(14 / 3).
    assert numbers == {
        "test_distance": 8.0,
        "test_square": pytest.approx(20.0),
        "test_distance_standard_error": pytest.approx(2 * np.sqrt(14 / 3) / np.sqrt(7)),
    }


def test_fields_of_the_examples_are_prepared_by_functions_of_their_own():
    examples = {"image": np.full((3, 2, 2, 1), 255, np.uint8), "label": np.array([1, 2, 4])}

    def objective(keys, params, batch):
        return batch["image"].sum((1, 2, 3)) + batch["label"], {}

    def losses(prepare):
        found = evaluate.over_examples(
            rng.root(0), (), examples, objective=objective, prepare=prepare, batch_size=2
        )
        return found["loss"].tolist()

    assert losses({"image": data.unit_interval}) == [5.0, 6.0, 8.0]
    assert losses(lambda keys, raw: {**raw, "image": jnp.zeros((len(keys), 1, 1, 1))}) == [1, 2, 4]
    with pytest.raises(ValueError, match="got 'picture' where the examples have 'image', 'label'"):
        losses({"picture": data.unit_interval})
    with pytest.raises(ValueError, match=r"prepare must be a function .*, got 3"):
        losses(3)


def test_a_value_of_several_numbers_is_several_values():
    def objective(keys, params, x):
        return x[:, 0], {"kl": x * jnp.arange(3.0)[None]}

    evaluation = evaluate.on_test(objective, EXAMPLES)
    numbers = evaluation(rng.root(0), SimpleNamespace(params=()))
    assert {name: numbers[f"test_kl/{name}"] for name in range(3)} == {0: 0.0, 1: 4.0, 2: 8.0}


def test_notes_of_an_objective_are_not_averaged():
    values = evaluate.over_examples(
        rng.root(0), (), EXAMPLES, objective=lambda keys, params, x: (x[:, 0], {}, {"all": x})
    )
    assert list(values) == ["loss"]


def test_batches_side_by_side_are_refused():
    parts = Parts(labelled=EXAMPLES, unlabelled=EXAMPLES)
    expected = "must be an array .*, got types.Parts of 'labelled', 'unlabelled'; give one part"
    with pytest.raises(ValueError, match=f"examples {expected}"):
        evaluate.over_examples(rng.root(0), 1.0, parts, objective=objective)
    with pytest.raises(ValueError, match=f"what prepare returns {expected}"):
        evaluate.over_examples(
            rng.root(0), 1.0, EXAMPLES, objective=objective, prepare=lambda keys, x: parts
        )


def test_products_have_the_highest_precision():
    seen = []

    def objective(keys, params, x):
        seen.append(jax.config.jax_default_matmul_precision)
        return x[:, 0], {}

    evaluate.over_examples(rng.root(0), (), EXAMPLES, objective=objective)
    assert seen == ["highest"]


def test_without_examples_there_is_no_average():
    for make in (
        lambda x: evaluate.over_examples(rng.root(0), 1.0, x, objective=objective),
        lambda x: evaluate.on_test(objective, x),  # at once, not after training
    ):
        with pytest.raises(ValueError, match="examples must hold at least one example, got none"):
            make(EXAMPLES[:0])
        with pytest.raises(ValueError, match=r"examples must hold arrays .*, got \[\(\), \(\)\]"):
            make([1.0, 2.0])


def test_an_objective_of_the_whole_batch_gets_it():
    def objective(keys, params, x):
        return x[:, 0] - x.mean(), {}

    objective.whole_batch = True
    values = evaluate.over_examples(rng.root(0), (), EXAMPLES, objective=objective, batch_size=7)
    np.testing.assert_allclose(values["loss"], np.arange(-3.0, 4.0))
    with pytest.raises(ValueError, match=r"at least the number of examples 7, .* got 6"):
        evaluate.over_examples(rng.root(0), (), EXAMPLES, objective=objective, batch_size=6)


# Programs: objectives that compute the same are compiled once, any others are not mixed up.

PARAMS = {"a": np.float32(2), "b": np.float32(3)}


def losses(objective, prepare=None):
    found = evaluate.over_examples(
        rng.root(0), PARAMS, EXAMPLES, objective=objective, prepare=prepare, batch_size=7
    )
    return {name: values.tolist() for name, values in found.items()}


def compiled():
    return programs.run._cache_size()


def weighted(weight):
    """As `vae.elbo(model, beta=weight)`: a function of functions."""

    def scaled(x):
        return weight * x[:, 0]

    return lambda keys, params, x: (params["a"] * scaled(x), {"square": jnp.square(scaled(x))})


def looked_up(table):
    def objective(keys, params, x):
        return jnp.asarray(table, jnp.float32)[30_000 + x[:, 0].astype(jnp.int32)], {}

    return objective


CELL = """
def objective(keys, params, x):
    return beta * x[:, 0], {}
"""


def cell(**variables):
    """A cell of a notebook, run once more: its function reads a variable of the notebook."""
    NOTEBOOK.update(variables)
    exec(CELL, NOTEBOOK)
    return NOTEBOOK["objective"]


NOTEBOOK = {}


def test_equal_objectives_share_a_program():
    first = losses(weighted(2.0))
    before = compiled()
    assert losses(weighted(2.0)) == first
    assert losses(lambda keys, params, x: weighted(2.0)(keys, params, x)) == first
    held = weighted(2.0)
    assert losses(held) == losses(held) == first
    assert compiled() == before


DIFFERENT = {
    "numbers": (lambda: weighted(2.0), lambda: weighted(4.0)),
    "arrays": (lambda: weighted(np.arange(7.0)), lambda: weighted(np.arange(7.0)[::-1])),
    "large arrays": (
        lambda: looked_up(np.arange(70_000.0)),
        lambda: looked_up(np.arange(70_000.0)[::-1]),
    ),
    "a variable that has changed": (lambda: cell(beta=2.0), lambda: cell(beta=4.0)),
    "parameters": (
        lambda: lambda keys, params, x: (params["a"] * x[:, 0], {}),
        lambda: lambda keys, params, x: (params["b"] * x[:, 0], {}),
    ),
    "names": (
        lambda: lambda keys, params, x: (x[:, 0], {"one": x[:, 0]}),
        lambda: lambda keys, params, x: (x[:, 0], {"other": x[:, 0]}),
    ),
    "callbacks": (
        lambda: lambda keys, params, x: (jax.pure_callback(np.sin, x[:, 0], x[:, 0]), {}),
        lambda: lambda keys, params, x: (jax.pure_callback(np.cos, x[:, 0], x[:, 0]), {}),
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_other_objectives_have_a_program_of_their_own(name):
    first, second = DIFFERENT[name]
    jax.clear_caches()
    one = losses(first())
    other = losses(second())
    assert compiled() == 2
    assert one != other
    jax.clear_caches()
    assert losses(second()) == other
    assert losses(first()) == one


def test_a_mutable_object_that_has_changed_is_seen():
    settings = SimpleNamespace(beta=1.0)
    found = []
    for beta in (1.0, 2.0, 1.0):
        settings.beta = beta
        found.append(losses(lambda keys, params, x: (settings.beta * x[:, 0], {}))["loss"][0])
    assert found == [1.0, 2.0, 1.0]


def test_preprocessing_belongs_to_the_program():
    def times(factor):
        return lambda keys, x: factor * x

    assert losses(weighted(1.0), times(1.0)) == losses(weighted(1.0), times(1.0))
    before = compiled()
    assert losses(weighted(1.0), times(1.0)) != losses(weighted(1.0), times(2.0))
    assert compiled() == before + 1


def test_old_objectives_are_forgotten():
    """An evaluation at every log point of a long run does not fill the memory."""
    alive = []
    for _ in range(20):
        made = lambda keys, params, x: (x[:, 0], {})  # noqa: E731
        alive.append(weakref.ref(made))
        losses(made)
    del made
    gc.collect()
    # 16 in the cache of traces, and the one whose program JAX keeps.
    assert sum(one() is not None for one in alive) <= 17


def test_numbers_of_another_part_bear_its_name():
    found = evaluate.on_test(
        lambda keys, params, x: (x[:, 0], {"own": x[:, 0]}), EXAMPLES, part="val"
    )
    numbers = found(rng.root(0), SimpleNamespace(params=(), ema=()))
    assert set(numbers) == {"val_loss", "val_own", "val_loss_standard_error"}
