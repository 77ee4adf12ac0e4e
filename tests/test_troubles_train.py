"""Troubles that users had with losses and with numbers, each with what is right.

Numbers in brackets: those of the list of reported troubles, and of the careful reading of the code.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, devices, evaluate, gan, nets, rng, train, vae
from genmod.data import protocols
from genmod.gan import model as gan_model
from genmod.train import loop

X = np.random.default_rng(0).integers(0, 255, (40, 4, 4, 1), dtype=np.uint8)
IMAGES = jnp.asarray(X[:4])
FLOATS = jnp.asarray(X[:4] / 255, jnp.float32)
MODEL = vae.make(nets.mlp((4,), 4, heads=2), nets.mlp((4,), (4, 4, 1)), latent_dim=2)
GAME = gan.make(nets.mlp((4,), (4, 4, 1)), nets.mlp((4,), 1), latent_dim=2)


def constant_learner(value, dtype):
    """Reports a constant of some type; its state is a number that the loss would move."""

    def loss(keys, params, x):
        losses = value * jnp.ones(len(x)) + 0 * params["w"]
        return losses, {"metric": (jnp.ones(len(x)) * value).astype(dtype)}

    return train.learner(lambda key, x: {"w": jnp.zeros(())}, loss, optax.sgd(1e-9))


def last(learner, *, num_steps, log_every, images=X, prepare=data.unit_interval):
    batch_at = data.batches(images, batch_size=4, prepare=prepare)
    (*_, point) = train.run(
        learner, rng.root(0), batch_at, num_steps=num_steps, log_every=log_every
    )
    return point


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (100.0, jnp.bfloat16, 100.0),
        (544.0, jnp.float16, 544.0),
        (1, jnp.bool_, 1.0),
        (2_000_000, jnp.int32, 2e6),
        (0.1, jnp.float32, 0.1),
    ],
)
def test_a_mean_does_not_depend_on_the_type_of_its_metric(value, dtype, expected):
    """[3, 4] bfloat16 544.2 was logged as 436.9, True as .25, and whole numbers overflowed."""
    point = last(constant_learner(value, dtype), num_steps=1200, log_every=1200)
    np.testing.assert_allclose(point.metrics["metric"], expected, rtol=1e-6)
    assert point.carry.totals["metric"].dtype == jnp.float32


def test_a_million_steps_lose_nothing():
    """[4] A sum in single precision is off by 1 % after so many."""

    tenth = jnp.float32(0.1)

    @jax.jit
    def million():
        def add(_, sums):
            plain, (total, lost) = sums
            return plain + tenth, loop._added(total, lost, tenth)

        zero = jnp.zeros(())
        return jax.lax.fori_loop(0, 1_000_000, add, (zero, (zero, zero)))

    plain, sums = million()
    assert abs(plain / 1e5 - 1) > 0.005
    total, lost = ({"metric": part} for part in sums)
    means, _ = train.drain(train.Carry(jnp.int32(0), (), total, jnp.int32(1_000_000), lost))
    np.testing.assert_allclose(means["metric"], np.float32(0.1), rtol=1e-7)


def terms(keys, params, x):
    mean, logvar = MODEL.encode(params, x)
    logits = MODEL.decode(params, MODEL.sample(keys, mean, logvar))
    return -vae.bernoulli.log_prob(logits, x) + vae.kl_divergence(mean, logvar)


RETURNS = {
    "no aux": (lambda loss, x: loss, r"a tuple of these two, got an array float32 \[4\].*\{\}"),
    "none": (lambda loss, x: (loss, None), "aux a dict, {} for none, got None as aux"),
    "three": (lambda loss, x: (loss, loss, loss), "these two, got a tuple of 3"),
    "tuple": (lambda loss, x: (loss, (loss, loss)), "aux a dict.* got a tuple of 2 as aux"),
    "nested": (lambda loss, x: (loss, {"parts": {"kl": loss}}), r"aux\['parts'\] = a dict of 'kl'"),
    "text": (lambda loss, x: (loss, {"name": "elbo"}), r"aux\['name'\] = 'elbo'"),
    "scalar": (
        lambda loss, x: (loss, {"kl": loss.mean()}),
        r"aux\['kl'\] of shape \(\).*broadcast",
    ),
    "images": (lambda loss, x: (loss, {"x": x}), r"aux\['x'\] of shape \(4, 4, 4, 1\).*the mean"),
    "mean": (lambda loss, x: (loss.mean(), {}), r"shape \(4,\), got \(\)"),
    "column": (lambda loss, x: (loss[:, None], {}), r"shape \(4,\), got \(4, 1\)"),
    "whole": (lambda loss, x: (loss.astype(jnp.int32), {}), "floating type.* got int32"),
    "loss": (lambda loss, x: (loss, {"loss": loss}), "aux must not use the name 'loss'"),
}


@pytest.mark.parametrize("kind", RETURNS)
def test_an_objective_that_returns_something_else_is_told_what(kind):
    """[25, 3] These were raw errors of Python, and whole numbers trained nothing."""
    made, message = RETURNS[kind]

    def objective(keys, params, x):
        return made(terms(keys, params, x), x)

    learner = train.learner(MODEL.init, objective, optax.adam(1e-3))
    with pytest.raises(ValueError, match=message):
        train.shapes(learner, rng.root(0), data.batches(X, batch_size=4))
    params = MODEL.init(rng.root(0), FLOATS)
    with pytest.raises(ValueError, match=message):
        evaluate.over_examples(rng.root(0), params, FLOATS, objective=objective)


@pytest.mark.parametrize(
    "call",
    [
        lambda schedule: vae.elbo(MODEL, beta=schedule),
        lambda schedule: vae.article_loss(MODEL, kl_weight=schedule),
        lambda schedule: schedule * gan.r1,
    ],
)
def test_a_schedule_in_the_place_of_a_number_is_told_of_hyper(call):
    """[25]"""
    with pytest.raises(ValueError, match=r"must be a number, got the function .* hyper="):
        call(optax.linear_schedule(0.0, 1.0, 100))


@pytest.mark.parametrize("value", ["0.1", None, [1.0, 2.0], float("nan")])
def test_hyper_that_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match=r"hyper\['beta'\] must be a finite number or a schedule"):
        train.learner(
            MODEL.init,
            lambda hyper: vae.elbo(MODEL, beta=hyper["beta"]),
            optax.adam(1e-3),
            hyper={"beta": value},
        )


def test_hyper_with_an_objective_that_does_not_take_it_is_told_what_is_expected():
    learner = train.learner(MODEL.init, vae.elbo(MODEL), optax.adam(1e-3), hyper={"beta": 1.0})
    with pytest.raises(ValueError, match="with hyper, objective must be a function hyper -> obj"):
        train.shapes(learner, rng.root(0), data.batches(X, batch_size=4))


NAN = np.where(X < 9, np.nan, X / 255).astype(np.float32)


@pytest.mark.parametrize(
    ("images", "prepare", "message"),
    [
        (
            X,
            data.signed_unit_interval,
            r"range \[0, 1\], got values from -[\d.]+ to .*data.unit_interval",
        ),
        (X.astype(np.float32), data.unchanged, r"got values from \d+ to 2\d\d \(float32\)"),
        (NAN, data.unchanged, r"\d+ of 64 NaN or infinite"),
        (X, data.unchanged, "images must be floating, in .* got uint8.*prepare=data.unit_interval"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_images_outside_the_likelihoods_range_are_refused(images, prepare, message, own):
    """[11] The loss ran to -1e7; also with a loss of one's own, which nobody has told the range."""
    objective = (lambda k, p, x: (terms(k, p, x), {})) if own else vae.elbo(MODEL)
    learner = train.learner(MODEL.init, objective, optax.adam(1e-2))
    with pytest.raises(ValueError, match=message):
        train.start(learner, rng.root(0), data.batches(images, batch_size=4, prepare=prepare))


def test_a_likelihood_without_a_range_takes_everything_and_a_check_can_be_left_out():
    anything = vae.bernoulli._replace(support=None)
    model = vae.make(
        nets.mlp((4,), 4, heads=2), nets.mlp((4,), (4, 4, 1)), latent_dim=2, likelihood=anything
    )
    images = jnp.full((4, 4, 4, 1), -1.0)
    model.init.check(images)
    with pytest.raises(ValueError, match="range"):
        MODEL.init.check(images)
    learner = train.learner(MODEL.init, vae.elbo(MODEL), optax.adam(1e-2), check=lambda batch: None)
    learner.check(images)


def adversarial(**options):
    return train.adversarial(GAME, gan.nonsaturating, optax.sgd(0.1), **options)


def zero(keys, critic, real, fake):
    return jnp.zeros(len(real))


@pytest.mark.parametrize("name", ["accuracy", "discriminator_loss", "generator_gradient", "latent"])
def test_a_penalty_has_no_name_of_the_games_own(name):
    """[12, 14] `accuracy` replaced the game's, and `latent` drew the very latents."""
    with pytest.raises(ValueError, match=f"a penalty must not have the name '{name}'"):
        adversarial(penalty=gan.Penalty.of(zero, name))


def test_a_penalty_draws_from_a_stream_that_nothing_else_has():
    """[14]"""
    seen = {}

    def spy(name, inner):
        def call(keys, *rest):
            seen[name] = np.asarray(jax.random.key_data(keys))
            return inner(keys, *rest)

        return call

    players = GAME._replace(latent=spy("latent", GAME.latent))
    learner = train.adversarial(
        players,
        gan.nonsaturating,
        optax.sgd(0.1),
        penalty=gan.Penalty.of(spy("penalty", zero), "noise") + gan.Penalty.of(zero, "other"),
    )
    x = jnp.zeros((4, 4, 4, 1))
    state = jax.jit(learner.init)(rng.root(0), x)
    with jax.disable_jit():
        learner.step(rng.root(1), state, x)
    first, *_ = np.split(np.concatenate([seen["latent"], seen["penalty"]]), 2)
    assert not np.array_equal(first, seen["penalty"])


def test_the_gradient_of_a_pack_has_norm_one_where_its_critic_is_one_lipschitz():
    """[13] Each example's part of the gradient was asked to have norm 1: a penalty of .25."""
    num, pack = 12, 4
    direction = rng.root(5)
    w = jax.random.normal(direction, (pack * 16,))
    w = w / jnp.linalg.norm(w)

    def critic(x):
        return x.reshape(-1, pack * 16) @ w

    real, fake = (jax.random.normal(rng.root(s), (num, 4, 4, 1)) for s in (1, 2))
    for penalty in (gan.gradient_penalty, gan.dragan):
        values = penalty(rng.per_example(rng.root(3), num), critic, real, fake)
        np.testing.assert_allclose(values, np.zeros(num), atol=1e-10)


def test_dragan_knows_the_deviation_of_the_whole_batch():
    """[8] That of a device's share, or of a piece, is another."""
    spread = jnp.asarray(np.linspace(-1, 1, 8 * 16).reshape(8, 4, 4, 1), jnp.float32)
    keys = rng.per_example(rng.root(0), 8)

    def critic(x):
        return jnp.sum(x**2, axis=(1, 2, 3))

    alone = gan.dragan(keys, critic, spread, spread)
    mapped = jax.pmap(lambda keys, x: gan.dragan(keys, critic, x, x), axis_name=devices.AXIS)(
        keys.reshape(4, 2), spread.reshape(4, 2, 4, 4, 1)
    )
    np.testing.assert_allclose(mapped.ravel(), alone, rtol=1e-5)
    learner = adversarial(penalty=gan.dragan, pieces=2)
    with pytest.raises(ValueError, match="dragan needs the standard deviation of the whole batch"):
        train.shapes(
            learner,
            rng.root(0),
            data.batches(X, batch_size=4, prepare=data.signed_unit_interval),
        )


# Sweeps


def swept(learner, **grid):
    batch_at = data.batches(X, batch_size=4)
    return train.shapes(train.over_grid(learner, grid), rng.root(0), batch_at)


def test_what_follows_a_schedule_is_not_swept():
    """[3] optax overwrites the number at every update: all runs were the same."""
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(1e-3, 0, 10))
    learner = train.learner(MODEL.init, vae.elbo(MODEL), adam)
    with pytest.raises(ValueError, match=r"'learning_rate' cannot be swept: .* follows a schedule"):
        swept(learner, learning_rate=[0.0, 0.5])


def test_a_number_that_is_there_twice_is_named_by_its_path():
    """[12] The learning rates of both players became the grid's."""
    adam = optax.inject_hyperparams(optax.adam)
    both = train.Optimizers(adam(learning_rate=1e-4), adam(learning_rate=4e-4))
    learner = train.adversarial(GAME, gan.nonsaturating, both)
    with pytest.raises(ValueError, match=r"2 numbers 'learning_rate'.*generator.*discriminator"):
        swept(learner, learning_rate=[1e-3])
    x = jnp.zeros((4, 4, 4, 1))
    one = train.over_grid(learner, {"generator.learning_rate": [1e-2, 1e-3]})
    state = jax.jit(one.init)(rng.root(0), x)
    rates = {
        name: getattr(state.opt_state, name).hyperparams["learning_rate"]
        for name in ("generator", "discriminator")
    }
    np.testing.assert_allclose(rates["generator"], [1e-2, 1e-3])
    np.testing.assert_allclose(rates["discriminator"], [4e-4, 4e-4])


# Classes by place


CLASSES = 5
LABELLED = vae.make(
    nets.conditional(nets.mlp((4,), 4, heads=2), CLASSES),
    nets.conditional(nets.mlp((4,), (4, 4, 1)), CLASSES),
    latent_dim=2,
)
LABELLED_GAME = gan.make(
    nets.per_class(nets.mlp((4,), (4, 4, 1)), CLASSES),
    nets.conditional(nets.mlp((4,), 1), CLASSES),
    latent_dim=2,
)


def cut_learners():
    objective = vae.elbo(LABELLED)
    alone = train.learner(LABELLED.init, objective, optax.sgd(0.1))
    game = functools.partial(train.adversarial, LABELLED_GAME, gan.hinge, optax.sgd(0.1))
    return {
        "pieces": train.learner(LABELLED.init, objective, optax.sgd(0.1), pieces=2),
        "discriminator_steps": game(discriminator_steps=2),
        "pmap": train.over_devices(alone, "pmap", jax.devices()[:2]),
    }


@pytest.mark.parametrize("what", ["pieces", "discriminator_steps", "pmap"])
def test_a_cut_that_mixes_classes_up_is_refused(what):
    """[1] Of a batch cut in two, four of eight labels were wrong."""
    # Ten examples in two parts of five: consecutive ones, as of pmap, keep their classes.
    batch_at = data.batches(X, batch_size=10 if what != "pmap" else 8)
    with pytest.raises(ValueError, match=f"knows each example's class by its place.*{what}"):
        train.shapes(cut_learners()[what], rng.root(0), batch_at)


def test_consecutive_parts_of_whole_rounds_of_classes_are_the_whole():
    objective = vae.elbo(LABELLED)
    x = jnp.asarray(X / 255, jnp.float32)
    params = jax.jit(LABELLED.init)(rng.root(0), x)
    run = functools.partial(evaluate.over_examples, rng.root(1), params, x, objective=objective)
    whole = run(batch_size=40)["loss"]
    np.testing.assert_allclose(run(batch_size=10)["loss"], whole, rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size cuts it into parts of 7"):
        run(batch_size=7)
    alone = train.learner(LABELLED.init, objective, optax.sgd(0.1))
    wide = train.over_devices(alone, "pmap", jax.devices()[:2])
    train.shapes(wide, rng.root(0), data.batches(X, batch_size=10))


@pytest.mark.parametrize("classes", [3, 10])
def test_networks_of_each_class_settle_on_batches_of_whole_rounds(classes):
    """[6] Ten classes: trained, then an error, as ten does not divide 64."""
    net = nets.per_class(nets.mlp((4,), (4, 4, 1), norm="batch"), classes)
    model = gan.make(net, nets.mlp((4,), 1), latent_dim=2)
    assert net.standing_size % classes == 0
    learner = train.adversarial(model, gan.hinge, optax.sgd(0.1))
    x = jnp.zeros((2 * classes, 4, 4, 1))
    state = jax.eval_shape(learner.init, rng.root(0), x)
    images = jax.eval_shape(lambda state: learner.sample(rng.root(1), state, 7), state)
    assert images.shape == (7, 4, 4, 1)


# Keys


def test_keys_are_threefrys_whatever_the_default_is(monkeypatch):
    """[9] With rbg a streamed epoch of 64 held 45 distinct examples."""
    before = np.asarray(jax.random.key_data(rng.root(3)))
    implementation = jax.config.jax_default_prng_impl
    jax.config.update("jax_default_prng_impl", "rbg")
    try:
        key = rng.root(3)
        assert str(jax.random.key_impl(key)) == "threefry2x32"
        np.testing.assert_array_equal(jax.random.key_data(key), before)
        other = jax.random.key(3)
    finally:
        jax.config.update("jax_default_prng_impl", implementation)
    for call in (
        lambda: rng.stream(other, "data"),
        lambda: rng.at_step(other, 1),
        lambda: rng.per_example(other, 3),
        lambda: rng.of_seeds(other, 3),
        lambda: train.shapes(
            train.learner(MODEL.init, vae.elbo(MODEL), optax.sgd(0.1)),
            other,
            data.batches(X, batch_size=4),
        ),
    ):
        with pytest.raises(ValueError, match=r"a typed key of threefry2x32.*got one of rbg"):
            call()
    with pytest.raises(ValueError, match=r"a typed key of threefry2x32.*got \w+ uint32"):
        rng.stream(jax.random.PRNGKey(0), "data")


@pytest.mark.parametrize(
    "call",
    [
        lambda keys: MODEL.sample(keys, jnp.zeros((4, 2)), jnp.zeros((4, 2))),
        lambda keys: protocols.binarized(keys, IMAGES),
        lambda keys: protocols.dequantized(keys, IMAGES),
        lambda keys: data.flip(keys, IMAGES),
        lambda keys: gan.gradient_penalty(
            keys, lambda x: jnp.sum(x, axis=(1, 2, 3)), FLOATS, FLOATS
        ),
        lambda keys: gan.dragan(keys, lambda x: jnp.sum(x, axis=(1, 2, 3)), FLOATS, FLOATS),
    ],
)
@pytest.mark.parametrize("num", [1, 3, None])
def test_every_door_wants_a_key_for_each_example(call, num):
    """[17] Keys of shape [1] were broadcast: all examples had the same noise."""
    keys = rng.root(0) if num is None else rng.per_example(rng.root(0), num)
    with pytest.raises(ValueError, match=r"keys must be one per (example|image), \[4\], got \["):
        call(keys)


def test_latents_want_keys_with_an_axis():
    for latent in (gan_model.normal(3), gan_model.uniform(3)):
        with pytest.raises(ValueError, match=r"keys must be one per example, \[B\], got \[\]"):
            latent(rng.root(0))
    with pytest.raises(ValueError, match=r"key must be a single key, of shape \[\], got \[2\]"):
        rng.per_example(rng.per_example(rng.root(0), 2), 3)
