"""Many runs as one program: each is the run that it would be alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, gan, nets, rng, train, vae

SEEDS = 3


def images(num=60):
    return np.random.default_rng(0).integers(0, 256, (num, 4, 4, 1)).astype(np.uint8)


@functools.cache  # what several tests train is compiled once
def autoencoder():
    return autoencoder_of()


def autoencoder_of(hyper=None, optimizer=None):
    model = vae.make(nets.mlp((8,), 6, heads=2), nets.mlp((8,), (4, 4, 1)), latent_dim=3)
    objective = vae.elbo(model)
    if hyper is not None:
        objective = lambda hyper: vae.elbo(model, beta=hyper["beta"])  # noqa: E731
    return train.learner(
        model.init,
        objective,
        optimizer or optax.adam(1e-2),
        sample=vae.generate(model),
        hyper=hyper,
    )


def game(**options):
    model = gan.make(
        nets.mlp((8,), (4, 4, 1), output=jax.nn.sigmoid, norm="batch"),
        nets.mlp((8,), 1),
        latent_dim=3,
        image_range=(0, 1),
    )
    return train.adversarial(
        model,
        gan.nonsaturating,
        # Not Adam: it makes a full step of what is but rounding, as the gradient by a bias ahead of
        # a normalisation is.
        optax.sgd(1e-2),
        penalty=0.5 * gan.r1 + 0.5 * gan.gradient_penalty,
        ema_half_life=50,
        **options,
    )


@functools.cache
def batch_at():
    return data.batches(images(), batch_size=12, prepare=data.binarized)


def last(learner, key, num_steps=100, **options):
    (*_, point) = train.run(learner, key, batch_at(), num_steps=num_steps, **options)
    return point


def assert_same(ours, theirs, tolerance=2e-4):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


LEARNERS = {"autoencoder": autoencoder, "game": game}


@pytest.mark.costly
@pytest.mark.parametrize("name", ["autoencoder", pytest.param("game", marks=pytest.mark.slow)])
def test_run_k_is_the_run_of_seed_plus_k(name):
    learner = LEARNERS[name]()
    alone = [last(learner, rng.root(5 + index), log_every=100) for index in range(SEEDS)]
    for sequential in (True, False):
        learner_of_many = train.over_seeds(learner, SEEDS, sequential=sequential)
        many = last(learner_of_many, rng.root(5), log_every=100)
        for index, one in enumerate(alone):
            # One after the other, they are the single run in every bit.
            assert_same(train.select_run(many.carry, index), one.carry, 0 if sequential else 2e-4)
            for metric, value in one.metrics.items():
                rtol = 0 if sequential else 1e-4
                np.testing.assert_allclose(many.metrics[metric][index], value, rtol, rtol / 10)
        losses = many.metrics[next(iter(many.metrics))]
        assert losses.shape == (SEEDS,)
        assert len(set(losses.tolist())) == SEEDS


@pytest.mark.costly
def test_a_run_that_is_taken_out_goes_on_alone():
    learner = autoencoder()
    many = last(train.over_seeds(learner, SEEDS), rng.root(0), 30, log_every=20)
    alone = train.select_run(many.carry, 1)
    ended = last(learner, rng.root(1), 100, log_every=20, carry=alone)
    assert_same(ended.carry, last(learner, rng.root(1), 100, log_every=20).carry)


def test_samples_have_an_axis_of_seeds():
    learner = autoencoder()
    many = train.over_seeds(learner, SEEDS)
    state = last(many, rng.root(0), 5).state
    shared = many.sample(rng.root(9), state, 2)
    assert shared.shape == (SEEDS, 2, 4, 4, 1)
    own = many.sample(rng.of_seeds(rng.root(9), SEEDS), state, 2)
    for index in range(SEEDS):
        one = jax.tree.map(lambda leaf, index=index: leaf[index], state)
        np.testing.assert_allclose(shared[index], learner.sample(rng.root(9), one, 2), rtol=1e-5)
        np.testing.assert_allclose(
            own[index], learner.sample(rng.root(9 + index), one, 2), rtol=1e-5
        )


def test_every_runs_data_are_checked():
    learner = train.over_seeds(game(), 2)
    with pytest.raises(ValueError, match=r"images must lie in the generator's range \[0, 1\]"):
        train.start(
            learner, rng.root(0), lambda key, step: 2 * jax.random.normal(key, (6, 4, 4, 1))
        )


@pytest.mark.parametrize("num", [0, -1, 1.5, True])
def test_a_number_of_seeds_that_is_none_is_refused(num):
    with pytest.raises(ValueError, match="num must be a positive whole number"):
        train.over_seeds(autoencoder(), num)


def test_seeds_of_seeds_and_of_devices_are_refused():
    many = train.over_seeds(autoencoder(), 2)
    with pytest.raises(ValueError, match="must be a single run, got one over 2 seeds"):
        train.over_seeds(many, 3)
    wide = train.over_devices(autoencoder(), devices=jax.devices()[:2])
    with pytest.raises(ValueError, match=r"got one over 2 devices; .* which spreads the runs"):
        train.over_seeds(wide, 3)


def test_keys_for_another_number_of_runs_are_refused():
    keys = rng.of_seeds(rng.root(0), 3)
    with pytest.raises(ValueError, match=r"key must have the shape \[2\] .* got \[3\]"):
        train.run(train.over_seeds(autoencoder(), 2), keys, batch_at(), num_steps=1)
    with pytest.raises(ValueError, match=r"key must have the shape \[\] for a learner of one run"):
        train.run(autoencoder(), keys, batch_at(), num_steps=1)


@pytest.mark.parametrize("devices", [None, 1, 3])
@pytest.mark.parametrize("sequential", [True, False])
def test_one_bad_run_stops_all_at_its_step(sequential, devices):
    def step(key, state, batch):
        return state + 1, {"loss": jnp.where((state == 6) & (batch[0] == 1), jnp.nan, 0.0)}

    learner = train.Learner(lambda key, batch: jnp.zeros((), jnp.int32), step, None)
    last_seed = jax.random.key_data(rng.stream(rng.root(2), "data"))[0]

    def batches(key, step):
        return (jax.random.key_data(key)[:1] == last_seed).astype(int)

    many = train.over_seeds(learner, 3, sequential=sequential)
    if devices is not None:
        many = train.over_devices(many, devices=jax.devices()[:devices])
    with pytest.raises(train.NonFiniteError, match=r"in step 7: loss \[ *0. +0. +nan\]") as caught:
        list(train.run(many, rng.root(0), batches, num_steps=20))
    assert caught.value.carry.state.tolist() == [6, 6, 6]
    assert caught.value.runs == (2,)


GRID = {"learning_rate": [1e-2, 1e-3], "beta": [0.5, 1.0, 4.0]}


def swept(learning_rate=3e-3, beta=2.0):
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=learning_rate)
    return autoencoder_of({"beta": beta}, optimizer)


@pytest.mark.end_to_end
def test_each_combination_is_the_run_with_these_numbers():
    points = train.combinations(GRID)
    assert points[:2] == [
        {"learning_rate": 1e-2, "beta": 0.5},
        {"learning_rate": 1e-2, "beta": 1.0},
    ]
    many = last(train.over_grid(swept(), GRID), rng.root(3), 50)
    assert many.metrics["loss"].shape == (6,)
    for index in (1, 3):  # between them, each number differs from the learner's own
        alone = last(swept(**points[index]), rng.root(3), 50)
        assert_same(train.select_run(many.carry, index), alone.carry)


@pytest.mark.end_to_end
def test_a_grid_can_be_run_over_seeds():
    grid = {"beta": [0.5, 4.0]}
    many = last(train.over_seeds(train.over_grid(swept(), grid), 2), rng.root(3), 20)
    assert many.metrics["loss"].shape == (2, 2)
    alone = last(swept(beta=4.0), rng.root(4), 20)
    np.testing.assert_allclose(many.metrics["loss"][1, 1], alone.metrics["loss"], rtol=1e-5)


@pytest.mark.end_to_end
@pytest.mark.slow
def test_a_games_penalty_can_be_swept():
    with pytest.raises(ValueError, match=r"no number 'r1' to sweep, only \[\]"):
        last(train.over_grid(game(), {"r1": [0.1]}), rng.root(0), 1)
    model = gan.make(nets.mlp((8,), (4, 4, 1)), nets.mlp((8,), 1), latent_dim=3)

    def make(weight):
        return train.adversarial(
            model,
            gan.nonsaturating,
            optax.sgd(1e-2),
            penalty=lambda hyper: hyper["r1"] * gan.r1,
            hyper={"r1": weight},
        )

    many = last(train.over_grid(make(1.0), {"r1": [0.0, 3.0]}), rng.root(0), 20)
    assert_same(train.select_run(many.carry, 1), last(make(3.0), rng.root(0), 20).carry)


def pulled(optimizer, hyper=None):
    """A learner of one number, which a weight pulls to the data."""

    def objective(hyper):
        return lambda keys, mean, x: (
            hyper["factor"] * hyper["beta"] * jnp.square(x - mean).mean((1, 2, 3)),
            {},
        )

    hyper = {"beta": 1.0, "factor": 1.0} | (hyper or {})
    return train.learner(lambda key, batch: jnp.zeros(()), objective, optimizer, hyper=hyper)


RISING = optax.linear_schedule(0.1, 1.0, 10)
INJECT = optax.inject_hyperparams


@pytest.mark.parametrize(
    ("name", "optimizer", "hyper", "message"),
    [
        ("beta", optax.sgd(0.1), {"beta": RISING}, r"no number 'beta' .*'hyper.factor'"),
        (
            "learning_rate",
            INJECT(optax.sgd)(RISING),
            {},
            "opt_state.hyperparams.learning_rate foll",
        ),
        (
            "rate",
            INJECT(lambda rate: optax.chain(optax.clip(1.0), optax.sgd(rate)))(rate=RISING),
            {"beta": RISING},
            "opt_state.hyperparams.rate follows",
        ),
        ("learning_rate", INJECT(lambda: optax.sgd(RISING))(), {}, "no number 'learning_rate'"),
        ("learning_rate", optax.sgd(RISING), {}, "no number 'learning_rate'"),
    ],
)
def test_a_schedule_cannot_be_swept(name, optimizer, hyper, message):
    learner = train.over_grid(pulled(optimizer, hyper), {name: [1.0]})
    with pytest.raises(ValueError, match=f"{message}.*to sweep a schedule, sweep a number of whic"):
        jax.eval_shape(learner.init, rng.root(0), jnp.ones((2, 4, 4, 1)))


def test_numbers_of_which_schedules_are_made_can_be_swept():
    """As the message advises: the peak of one, and a factor of another."""

    def made(peak=1.0, factor=1.0):
        optimizer = INJECT(lambda peak: optax.adam(optax.cosine_decay_schedule(peak, 30)))
        return pulled(optimizer(peak=peak), {"beta": RISING, "factor": factor})

    many = last(train.over_grid(made(), {"peak": [0.01, 0.1], "factor": [2.0]}), rng.root(0), 20)
    alone = last(made(peak=0.1, factor=2.0), rng.root(0), 20)
    assert_same(train.select_run(many.carry, 1), alone.carry, 1e-5)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "at least one name"),
        ({"beta": []}, "finite numbers"),
        ({"beta": [1.0, np.nan]}, "beta"),
    ],
)
def test_a_grid_without_numbers_is_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        train.over_grid(autoencoder(), grid)


@pytest.mark.costly
def test_there_is_no_run_beyond_the_last():
    carry = last(train.over_seeds(autoencoder(), 2), rng.root(0), 1).carry
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"one of the 2 runs, from 0, got {index}"):
            train.select_run(carry, index)
