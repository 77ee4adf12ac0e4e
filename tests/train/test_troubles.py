"""Troubles that users reported of training, and numbers that a careful reading found wrong."""

import functools
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, devices, evaluate, gan, nets, rng, train, vae
from genmod.train import checkpoint, chunk, loop

SHAPE = (2, 2, 1)


def keys(num, seed=0):
    return rng.per_example(rng.root(seed), num)


def pictures(num=8):
    return np.random.default_rng(0).integers(0, 256, (num, *SHAPE)).astype(np.uint8)


@functools.cache
def autoencoder(**options):
    return vae.make(nets.mlp((3,), 2, heads=2), nets.mlp((3,), SHAPE), latent_dim=1, **options)


def linear(objective, **options):
    """A learner of one number w, by an objective `(w, x [B]) -> (loss [B], aux)`."""
    return train.learner(
        lambda key, x: jnp.ones(()),
        lambda keys, w, x: objective(w, x),
        optax.sgd(0.0),
        **options,
    )


def constant(key, step):
    """The same batch at every step: x [4]."""
    return jnp.full(4, 100.3)


def last(learner, batch_at=constant, num_steps=600, **options):
    (*_, point) = train.run(learner, rng.root(0), batch_at, num_steps=num_steps, **options)
    return point


def traced(learner, batch, key=None):
    """Traces the first step of a run, which computes nothing."""
    key = rng.root(0) if key is None else key

    def first(key, batch):
        return learner.step(key, learner.init(key, batch), batch)

    return jax.eval_shape(first, key, batch)


# Totals (case 3)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(jnp.bfloat16, 100.5), (jnp.float16, 300.5), (jnp.int32, 2**30), (jnp.bool_, 1)],
)
def test_the_logged_mean_of_a_metric_is_right_whatever_its_type(dtype, value):
    """Case 3: bfloat16 lost a sixth of 100 in 600 steps, float16 and int32 ran over."""

    def step(key, state, batch):
        return state, {"metric": jnp.asarray(value, dtype)}

    learner = train.Learner(lambda key, batch: {}, step, lambda key, state, num: batch_of(num))
    assert last(learner, log_every=600).metrics["metric"] == value


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_mean_over_a_batch_is_taken_in_float32(microbatches):
    """Case 3: half of the losses' sum is beyond float16."""

    def objective(w, x):
        loss = (w * jnp.full(len(x), 60_000.0)).astype(jnp.float16)
        return loss, {"metric": loss.astype(jnp.bfloat16)}

    learner = linear(objective, microbatches=microbatches)
    x = jnp.ones(400)
    _, metrics = learner.step(rng.root(0), learner.init(rng.root(0), x), x)
    assert (metrics["loss"].dtype, metrics["metric"].dtype) == (jnp.float32, jnp.float32)
    assert metrics["loss"] == 60_000


def test_a_million_steps_lose_nothing():
    """Case 3: in float32 alone the mean of a million equal numbers is a hundredth off."""
    value = np.float32(0.1)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})
    def total(value):
        zero = jnp.zeros(())
        add = lambda _, sums: chunk._added(*sums, value)  # noqa: E731
        return jax.lax.fori_loop(0, 1_000_000, add, (zero, zero))

    found, lost = total(value)
    carry = train.Carry(jnp.int32(0), {}, {"m": found}, jnp.int32(1_000_000), {"m": lost})
    means, emptied = loop.pop_metrics(carry)
    assert means["m"] == value
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(emptied))


@pytest.mark.parametrize("values", [(1e8, 1, -1e8), (3e38, 3e38, 1), (np.inf, 1), (np.nan, 1)])
def test_totals_are_right_in_every_order(values):
    """What is small is not lost beside what is large; beyond the largest number there is none."""
    sums = np.float32([0, 0])
    with np.errstate(over="ignore"):
        expected = np.float32(np.sum(np.float64(values)))
    for value in values:
        sums = chunk._added(*sums, jnp.float32(value))
    found, lost = map(float, sums)
    np.testing.assert_array_equal(np.float32(found + lost), expected)


def test_a_loss_of_whole_numbers_is_refused():
    """Case 3: it has no gradient, and trained nothing without a word."""
    learner = linear(lambda w, x: ((w * x).astype(jnp.int32), {}))
    with pytest.raises(ValueError, match=r"of a floating type.*gradients, got int32"):
        traced(learner, jnp.ones(4))

    class WholeLoss(NamedTuple):
        discriminator: Any = lambda real, fake: jnp.ones(len(real), jnp.int32)
        generator: Any = gan.nonsaturating.generator
        probabilities: Any = gan.nonsaturating.probabilities

    with pytest.raises(ValueError, match=r"discriminator's loss must be of a floating.*int32"):
        traced(train.adversarial(players(), WholeLoss(), optax.sgd(0.1)), jnp.ones((4, *SHAPE)))


class OldCarry(NamedTuple):
    """A run's carry as version 0.1 had it."""

    step: Any
    state: Any
    totals: Any
    count: Any


def test_checkpoints_without_compensation_open(tmp_path):
    """Case 3: totals were kept in their metrics' types."""
    learner = linear(lambda w, x: (w * x, {"metric": x.astype(jnp.bfloat16)}))
    target = train.abstract_carry(learner, rng.root(0), jax.tree_util.Partial(constant))
    carry = last(learner, num_steps=3, log_every=10).carry
    totals = {"loss": carry.totals["loss"], "metric": jnp.bfloat16(302)}
    checkpoint.save(tmp_path, 3, OldCarry(carry.step, carry.state, totals, carry.count))
    found = checkpoint.restore(tmp_path, target)
    assert jax.tree.structure(found) == jax.tree.structure(carry)
    assert found.totals["metric"].dtype == jnp.float32
    assert found.totals == {"loss": carry.totals["loss"], "metric": 302}
    assert not any(found.compensation.values())
    assert last(learner, num_steps=5, carry=found).step == 5


# Images in another range than the likelihood's (case 11)


def of_pictures(prepare):
    return lambda images: prepare(keys(len(images)), images)


OTHER_RANGES = {
    "signed": (of_pictures(data.signed_unit_interval), r"values from -\S+ to \S+ \(float32\)"),
    "floats to 255": (lambda x: x.astype(np.float32), r"values from \S+ to 2\S+ \(float32\)"),
    "as they are": (lambda x: x, "uint8"),
    "not numbers": (
        lambda x: np.where(x < 30, np.nan, x / 255).astype(np.float32),
        r"\d+ of 32 NaN or infinite",
    ),
    "infinite": (lambda x: np.where(x < 30, np.inf, x / 255).astype(np.float32), "NaN or inf"),
    "a little above": (
        lambda x: (x / x.max() * 1.01).astype(np.float32),
        r"\[0, 1\], got .*1\.01 ",
    ),
}


@pytest.mark.parametrize("case", OTHER_RANGES)
def test_images_in_another_range_than_the_likelihoods_are_refused(case):
    """Case 11: a VAE on images in [-1, 1] trained to a loss of minus infinity."""
    change, message = OTHER_RANGES[case]
    images = jnp.asarray(change(pictures()))
    model = autoencoder()

    def own_objective(keys, params, x):
        return vae.elbo(model)(keys, params, x)

    learner = train.learner(model.init, own_objective, optax.sgd(0.1))
    with pytest.raises(ValueError, match=message) as caught:
        train.start(learner, rng.root(0), lambda key, step: images)
    assert "prepare=data.unit_interval" in str(caught.value)


def test_images_in_the_likelihoods_range_are_trained_on():
    model = autoencoder()
    learner = train.learner(model.init, vae.elbo(model), optax.sgd(0.1))
    for prepare in (data.unit_interval, data.binarized, data.dequantized):
        learner.check(prepare(keys(8), pictures()))
    learner.check(np.array([0, 1], bool))
    learner.check(np.float32([0, 1 + 1e-7]))  # a rounding


def test_a_likelihood_may_have_any_range_and_a_learner_any_check():
    """Case 11: what users wrote before goes on."""

    def log_prob(mean, x):
        return -jnp.square(mean - x).reshape(len(x), -1).sum(1)

    gaussian = vae.Likelihood(log_prob, lambda mean: mean)
    model = autoencoder(likelihood=gaussian)
    images = of_pictures(data.signed_unit_interval)(pictures())
    train.start(
        train.learner(model.init, vae.elbo(model), optax.sgd(0.1)), rng.root(0), lambda *_: images
    )
    with pytest.raises(ValueError, match="range"):
        autoencoder().init.check(images)
    silent = train.learner(
        autoencoder().init, vae.elbo(model), optax.sgd(0.1), check=lambda x: None
    )
    silent.check(images)
    strict = autoencoder(likelihood=gaussian._replace(support=(-1, 1)))
    strict.init.check(images)
    with pytest.raises(ValueError, match=r"\[-1, 1\].*signed_unit_interval"):
        strict.init.check(2 * images)


def test_the_mean_for_a_bias_is_a_probability():
    with pytest.raises(ValueError, match=r"mean must lie in .*\[0, 1\], got values from 3 to 200"):
        vae.mean_logits(np.array([3.0, 200.0]))


@functools.cache
def players(image_range=None, generator=None, discriminator=None, packing=1):
    discriminator = discriminator or nets.mlp((), 1)
    return gan.make(
        generator or nets.mlp((), SHAPE),
        gan.packed(discriminator, packing) if packing > 1 else discriminator,
        latent_dim=2,
        **({} if image_range is None else {"image_range": image_range}),
    )


def test_a_gans_images_are_checked_alike():
    """Case 11: images in [0, 1] are half of a generator's range [-1, 1]."""
    check = players((-1, 1)).check
    with pytest.warns(UserWarning, match="below 0.*signed_unit_interval"):
        check(np.linspace(0, 1, 8))
    with pytest.raises(ValueError, match="1 of 2 NaN"):
        check(np.array([0, np.nan]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(np.linspace(-1, 1, 8))
        players().check(np.linspace(5, 9, 8))


# What an objective returns (case 25)

RETURNS = {
    "no aux": (lambda x: x, r"a tuple of these two, got an array float32 \[4\] \(loss, \{\}"),
    "none": (lambda x: None, "a tuple of these two, got None"),
    "list": (lambda x: [x, {}], "got a list of 2"),
    "four": (lambda x: (x, {}, {}, x), "got a tuple of 4"),
    "notes": (lambda x: (x, {}, x), r"notes a dict, got an array float32 \[4\] as notes"),
    "note": (lambda x: (x, {}, {"h": x[:2]}), r"\[4, ...\], got notes\['h'\] = an array"),
    "none as aux": (lambda x: (x, None), r"aux a dict, \{\} for none, got None as aux"),
    "tuple as aux": (lambda x: (x, (x, x)), "got a tuple of 2 as aux"),
    "nested": (lambda x: (x, {"parts": {"kl": x}}), r"aux\['parts'\] = a dict of 'kl'"),
    "string": (lambda x: (x, {"name": "elbo"}), r"\[B, K\], got aux\['name'\] = 'elbo'"),
    "number": (lambda x: (x, {"kl": 1.0}), r"\[B, K\], got aux\['kl'\] = 1.0"),
    "scalar": (lambda x: (x, {"kl": x.mean()}), r"aux\['kl'\] of shape \(\) \(broadcast"),
    "images": (
        lambda x: (x, {"x": jnp.ones((4, 2, 2, 1))}),
        r"aux\['x'\] of shape \(4, 2, 2, 1\) \(take the mean",
    ),
    "complex": (lambda x: (x, {"x": 1j * x}), r"\[B, K\], got aux\['x'\] = an array complex"),
    "name": (lambda x: (x, {1: x}), "names in aux and notes strings, got 1"),
    "mean": (lambda x: (x.mean(), {}), r"one loss per example, of shape \(4,\), got \(\)"),
    "column": (lambda x: (x[:, None], {}), r"one loss per example.*got \(4, 1\)"),
    "dict": (lambda x: ({"loss": x}, {}), "one loss per example.*got a dict of 'loss'"),
}


@pytest.mark.parametrize("case", RETURNS)
def test_what_an_objective_returns_wrongly_is_named(case):
    """Case 25: these were errors of Python's or JAX's own."""
    returns, message = RETURNS[case]
    with pytest.raises(ValueError, match=rf"must return \(loss \[B\], aux\): .*{message}"):
        traced(linear(lambda w, x: returns(w * x)), jnp.ones(4))
    with pytest.raises(ValueError, match=r"must return \(loss \[B\], aux\)"):
        evaluate.over_examples(
            rng.root(0), 1.0, jnp.ones(4), objective=lambda keys, w, x: returns(w * x)
        )


def test_half_precision_and_whole_aux_are_fine():
    def objective(w, x):
        loss = (w * x).astype(jnp.bfloat16)
        return loss, {"active": x > 0, "count": jnp.arange(len(x)), "low": loss}

    _, metrics = traced(linear(objective), jnp.ones(4))
    assert {value.dtype for value in metrics.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "use",
    [
        lambda schedule: vae.elbo(autoencoder(), beta=schedule),
        lambda schedule: vae.article_loss(autoencoder(), kl_weight=schedule),
        lambda schedule: schedule * gan.r1,
        lambda schedule: gan.weighted((schedule, gan.r1)),
    ],
)
def test_a_schedule_in_the_place_of_a_number_is_told_of_hyper(use):
    """Case 25: it was multiplied with an array."""
    with pytest.raises(ValueError, match=r"must be a number, got the function .*hyper="):
        use(optax.linear_schedule(0.0, 1.0, 100))


@pytest.mark.parametrize("beta", ["1", None, -1, np.nan, np.ones(2), 1j])
def test_a_weight_is_a_number(beta):
    with pytest.raises(ValueError, match="beta must be a number of at least 0, got"):
        vae.elbo(autoencoder(), beta=beta)


def test_hyper_goes_with_a_function_of_it():
    """Case 25: the error was one of arguments in a traced function."""
    objective = lambda keys, w, x: (w * x, {})  # noqa: E731
    for wrong, message in (
        (objective, "got one that takes other arguments"),
        (lambda hyper: (hyper, {}), "got one that returns a tuple of 2"),
    ):

        def train_it(wrong=wrong):
            init = lambda *_: jnp.ones(())  # noqa: E731
            learner = train.learner(init, wrong, optax.sgd(0.1), hyper={"beta": 1.0})
            traced(learner, jnp.ones(4))

        with pytest.raises(ValueError, match=f"objective must be a function hyper -> .*{message}"):
            train_it()
    with pytest.raises(ValueError, match=r"hyper\['beta'\] must be a finite number or a schedule"):
        linear(objective, hyper={"beta": "1"})


# Grids (numbers 3 and 12 of the reading)


def rated(rate, hyper=None):
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=rate)
    return train.learner(
        lambda *_: jnp.ones(()), lambda keys, w, x: (w * x, {}), optimizer, hyper=hyper
    )


def test_a_grid_over_what_a_schedule_sets_is_refused():
    """Both runs were the same: the schedule set the number anew at every update."""
    swept = train.over_grid(rated(optax.constant_schedule(0.1)), {"learning_rate": [0.0, 0.5]})
    with pytest.raises(ValueError, match=r"opt_state\.hyperparams\.learning_rate follows a sched"):
        jax.eval_shape(swept.init, rng.root(0), jnp.ones(4))
    found = train.over_grid(rated(0.1), {"learning_rate": [0.0, 0.5]}).init(
        rng.root(0), jnp.ones(4)
    )
    np.testing.assert_array_equal(found.opt_state.hyperparams["learning_rate"], [0, 0.5])


def test_a_name_found_twice_needs_a_path():
    """The rates of both players became the grid's."""
    rate = lambda rate: optax.inject_hyperparams(optax.sgd)(learning_rate=rate)  # noqa: E731
    learner = train.adversarial(players(), gan.nonsaturating, (rate(0.1), rate(0.4)))
    x = jnp.ones((2, *SHAPE))

    def begin(*names):
        swept = train.over_grid(learner, {name: [1.0, 2.0] for name in names})
        return swept.init(rng.root(0), x).opt_state

    paths = [
        f"opt_state.{name}.hyperparams.learning_rate" for name in ("generator", "discriminator")
    ]
    with pytest.raises(ValueError, match=f"2 numbers 'learning_rate'.*{paths[0]}, {paths[1]}"):
        begin("learning_rate")
    for name in ("generator.learning_rate", paths[0]):
        opt_state = begin(name)
        np.testing.assert_array_equal(opt_state.generator.hyperparams["learning_rate"], [1, 2])
        np.testing.assert_allclose(
            opt_state.discriminator.hyperparams["learning_rate"], [0.4, 0.4], rtol=1e-6
        )
    with pytest.raises(ValueError, match="name each number once"):
        begin("generator.learning_rate", paths[0])
    with pytest.raises(ValueError, match="no number 'rate' to sweep"):
        begin("rate")


# Names of penalties (case 12, number 14)


def own_penalty(keys, critic, real, fake):
    return jax.vmap(lambda key: jax.random.normal(key, (2,)).sum())(keys)


def test_penalties_with_names_of_the_games_own_are_refused():
    """Case 12: a penalty named accuracy was logged in its place."""
    for name in ("accuracy", "generator_loss", "real_probability"):
        with pytest.raises(ValueError, match=f"must not have the name '{name}': .*Penalty.of"):
            train.adversarial(
                players(),
                gan.nonsaturating,
                optax.sgd(0.1),
                penalty=gan.r1 + gan.Penalty.of(own_penalty, name),
            )

    def accuracy(keys, critic, real, fake):
        return own_penalty(keys, critic, real, fake)

    learner = train.adversarial(
        players(),
        gan.nonsaturating,
        optax.sgd(0.1),
        penalty=lambda hyper: accuracy,
        hyper={"w": 1.0},
    )
    with pytest.raises(ValueError, match="must not have the name 'accuracy'"):
        traced(learner, jnp.ones((4, *SHAPE)))
    with pytest.raises(ValueError, match="a penalty's name must be a word, got ''"):
        gan.Penalty((("", 1.0, own_penalty),))


def test_no_name_of_a_penalty_has_the_stream_of_latents():
    """The penalty's noise was that of the latents, number for number."""
    seen = {}

    def drawing(keys, critic, real, fake):
        seen["penalty"] = jax.random.key_data(keys)
        return jnp.zeros(len(real))

    gan.Penalty.of(drawing, "latent")(keys(4), lambda x: x[:, 0, 0, 0], *jnp.ones((2, 4, *SHAPE)))
    latents = jax.random.key_data(rng.stream(keys(4), "latent"))
    assert not np.array_equal(seen["penalty"], latents)


# Penalties over devices, microbatches and packs (numbers 8 and 13)


def spread(num=8):
    """Images whose deviation differs from share to share."""
    return jnp.arange(num, dtype=jnp.float32)[:, None, None, None] ** 2 * jnp.ones((num, *SHAPE))


def test_dragans_noise_has_the_scale_of_the_whole_batch():
    """Over devices it had that of each device's share."""
    x = spread()
    whole = float(jnp.std(x))

    def far(keys, x):
        """The largest noise there can be is half of the deviation: how near it comes."""
        seen = []

        def critic(near):
            seen.append(jax.lax.stop_gradient(near))
            return near.reshape(len(near), -1).sum(1)

        gan.dragan(keys, critic, x, x)
        return seen[0] - x

    alone = far(keys(8), x)
    assert 0 < float(alone.max()) <= whole / 2

    def share(keys, x):
        return far(keys, x)

    split = jax.pmap(share, axis_name=devices.AXIS)
    shares = split(keys(8).reshape(4, 2), x.reshape(4, 2, *SHAPE))
    np.testing.assert_allclose(shares.reshape(x.shape), alone, rtol=1e-4, atol=1e-4)


def test_dragan_in_pieces_is_refused():
    learner = train.adversarial(
        players(), gan.nonsaturating, optax.sgd(0.1), penalty=1.0 * gan.dragan, microbatches=2
    )
    with pytest.raises(
        ValueError, match="whole batch, which microbatches do not know: microbatches must be 1"
    ):
        traced(learner, spread())


@pytest.mark.parametrize("penalty", [gan.gradient_penalty, gan.dragan])
def test_the_norm_is_that_of_the_pack(penalty):
    """A critic of packs that is 1-Lipschitz paid a quarter."""
    weights = jnp.full(4 * 4, 0.25)  # of norm 1

    def critic(x):
        return jnp.matmul(x.reshape(len(x) // 4, -1), weights, precision="highest")

    real, fake = jax.random.normal(rng.root(1), (2, 8, *SHAPE))
    found = penalty(keys(8), critic, real, fake)
    assert found.shape == (8,)
    np.testing.assert_allclose(found, np.zeros(8), atol=1e-6)
    np.testing.assert_allclose(
        penalty(keys(8), lambda x: 3 * critic(x), real, fake), np.full(8, 4.0), rtol=1e-5
    )
    with pytest.raises(ValueError, match=r"one number for each example or each pack.*got \[3\]"):
        penalty(keys(8), lambda x: jnp.ones(3) * x.sum(), real, fake)


# Keys (numbers 9 and 17, case 26)


def test_keys_are_threefrys_whatever_jax_prefers():
    """An epoch of 64 held 45 distinct examples with the generator rbg."""
    with jax.default_prng_impl("rbg"):
        key = rng.root(3)
        assert jax.random.key_impl(rng.of_seeds(key, 2)) == "threefry2x32"
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(rng.root(3)))


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_of_other_generators_are_refused(impl):
    key = jax.random.key(0, impl=impl)
    for use in (
        lambda: rng.stream(key, "data"),
        lambda: rng.at_step(key, 0),
        lambda: rng.per_example(key, 2),
        lambda: rng.of_seeds(key, 2),
        lambda: train.start(linear(lambda w, x: (w * x, {})), key, constant),
    ):
        with pytest.raises(ValueError, match=f"typed key of threefry2x32.* got one of {impl}"):
            use()


def test_keys_that_are_no_typed_keys_are_refused():
    for wrong in (jax.random.PRNGKey(0), 0, None):
        with pytest.raises(ValueError, match="typed key of threefry2x32"):
            rng.stream(wrong, "data")
    with pytest.raises(ValueError, match=r"a single key, of shape \[\], got \[2\]"):
        rng.per_example(keys(2), 3)


def batch_of(num):
    return jnp.full((num, *SHAPE), 0.5)


def elbo_of(keys):
    model = autoencoder()
    params = model.init(rng.root(0), batch_of(4))
    return vae.elbo(model)(keys, params, batch_of(4))


DOORS = {
    "posterior": lambda keys: autoencoder().sample(keys, *jnp.zeros((2, 4, 2))),
    "objective": elbo_of,
    "dequantized": lambda keys: data.dequantized(keys, pictures(4)),
    "binarized": lambda keys: data.binarized(keys, pictures(4)),
    "flip": lambda keys: data.flip(keys, batch_of(4)),
    "translate": lambda keys: data.translate(1 / 2)(keys, batch_of(4)),
    "cutout": lambda keys: data.cutout(1 / 2)(keys, batch_of(4)),
    "brightness": lambda keys: data.brightness(keys, batch_of(4)),
    "augmented": lambda keys: data.augmented(data.flip, data.unit_interval)(keys, pictures(4)),
    "r1": lambda keys: gan.r1(keys, lambda x: x[:, 0, 0, 0], batch_of(4), batch_of(4)),
    "dragan": lambda keys: gan.dragan(keys, lambda x: x[:, 0, 0, 0], batch_of(4), batch_of(4)),
    "gradient_penalty": lambda keys: gan.gradient_penalty(
        keys, lambda x: x[:, 0, 0, 0], batch_of(4), batch_of(4)
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_keys_that_are_not_one_per_example_are_refused(door):
    """Keys [1] were broadcast: all examples had the same noise."""
    for wrong in (keys(1), keys(3), keys(5), rng.root(0), keys(4).reshape(2, 2)):
        with pytest.raises(ValueError, match=r"keys must be one per (example|image), \[4\], got"):
            DOORS[door](wrong)
    with pytest.raises(
        ValueError, match=r"keys must be one per .*typed keys as rng.per_ex|typed key of threefry"
    ):
        DOORS[door](jnp.zeros((4, 2), jnp.uint32))


@pytest.mark.parametrize(
    "draw",
    [
        gan.normal_latent(2),
        gan.uniform_latent(2),
        lambda keys: vae.standard_normal(2).sample(keys, {}),
    ],
)
def test_latents_take_keys_of_any_number_in_one_axis(draw):
    assert draw(keys(3)).shape == (3, 2)
    for wrong in (rng.root(0), keys(4).reshape(2, 2), np.zeros((4, 2), np.uint32)):
        with pytest.raises(ValueError, match="keys must be one per example"):
            draw(wrong)
