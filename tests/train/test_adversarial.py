"""Two players: the same step taken apart, the order of play, averages, microbatches, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, gan, nets, rng, train
from genmod.train import gradients


def small(**options):
    model = gan.make(nets.mlp((8,), 2), nets.mlp((8,), 1), latent_dim=3)
    loss = options.pop("loss", gan.nonsaturating)
    optimizers = options.pop("optimizers", optax.sgd(0.1))
    return model, train.adversarial(model, loss, optimizers, **options)


def points(num=12):
    return jax.random.normal(rng.stream(rng.root(7), "points"), (num, 2))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def close(tree, other, **tolerance):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def each(keys, name):
    return jax.vmap(lambda key: rng.stream(key, name))(keys)


@pytest.mark.costly
def test_a_step_is_the_discriminators_update_then_the_generators():
    model, learner = small(penalty=0.3 * gan.r1 + 2.0 * gan.gradient_penalty)
    x, key = points(), rng.root(1)
    state = learner.init(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(key, state, x)

    def noise(player):
        keys = rng.per_example(rng.at_step(rng.stream(key, player), 0), len(x))
        return keys, model.latent(each(keys, "latent"))

    params = state.params
    keys, z = noise("discriminator")
    fake = model.generate(params, z)

    def discriminator_loss(own):
        now = params._replace(discriminator=own)
        logits = model.discriminate(now, x), model.discriminate(now, fake)

        def critic(x):
            return model.discriminate(now, x)

        penalty = (0.3 * gan.r1 + 2.0 * gan.gradient_penalty)(keys, critic, x, fake)
        return jnp.mean(gan.nonsaturating.discriminator(*logits)), jnp.mean(penalty), logits

    gradient = jax.grad(lambda own: sum(discriminator_loss(own)[:2]))(params.discriminator)
    loss, _, (real_logits, fake_logits) = discriminator_loss(params.discriminator)
    np.testing.assert_allclose(metrics["discriminator_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["discriminator_gradient"], optax.tree.norm(gradient), rtol=1e-5
    )
    real, made = jax.nn.sigmoid(real_logits), jax.nn.sigmoid(fake_logits)
    np.testing.assert_allclose(metrics["real_probability"], real.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["fake_probability"], made.mean(), rtol=1e-5)
    right = np.mean(np.concatenate([real > 0.5, made < 0.5]))
    np.testing.assert_allclose(metrics["accuracy"], right, rtol=1e-6)
    params = params._replace(
        discriminator=jax.tree.map(lambda p, g: p - 0.1 * g, params.discriminator, gradient)
    )
    close(after.params.discriminator, params.discriminator, rtol=1e-5, atol=1e-7)

    # The generator plays against the discriminator that has just moved.
    _, z = noise("generator")

    def generator_loss(own):
        fake = model.generate(params._replace(generator=own), z)
        return jnp.mean(jax.nn.softplus(-model.discriminate(params, fake)))

    loss, gradient = jax.value_and_grad(generator_loss)(params.generator)
    np.testing.assert_allclose(metrics["generator_loss"], loss, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params.generator, gradient)
    close(after.params.generator, expected, rtol=1e-5, atol=1e-7)
    assert (int(state.step), int(after.step)) == (0, 1)


@pytest.mark.end_to_end
def test_the_noise_is_fresh_for_every_update():
    seen = []

    class Spy:
        def __init__(self, model):
            self.__dict__.update(model._asdict())

        def latent(self, keys):
            seen.append(jax.random.key_data(keys))
            return self.draw(keys)

    model, _ = small()
    spy = Spy(model)
    spy.draw, spy.__dict__["latent"] = model.latent, Spy.latent.__get__(spy)
    learner = train.adversarial(
        spy, gan.nonsaturating, optax.sgd(0.1), discriminator_steps=2, generator_steps=2
    )
    x = points()
    state = learner.init(rng.root(0), x)
    with jax.disable_jit():
        learner.step(rng.root(1), state, x)
        learner.step(rng.root(2), state, x)
    keys = np.concatenate([np.asarray(k) for k in seen])
    assert len(keys) == 2 * 4 * 6
    assert len(np.unique(keys, axis=0)) == len(keys)


def test_discriminator_steps_take_a_part_of_the_batch_each():
    # Two updates in a step on halves: the second starts where the first ended.
    _, learner = small(discriminator_steps=2, optimizers=optax.adam(1e-2))
    x = points()
    state = learner.init(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    count = after.opt_state.discriminator[0].count
    assert (int(count), int(after.opt_state.generator[0].count)) == (2, 1)

    # Only the discriminator's losses tell the parts apart, so compare with a doctored batch.
    swapped = jnp.concatenate([x[6:], x[:6]])
    other, _ = jax.jit(learner.step)(rng.root(1), state, swapped)
    assert bits(other.params) != bits(after.params)
    assert np.isfinite(metrics["discriminator_loss"])


@pytest.mark.parametrize("loss", [gan.nonsaturating, gan.relativistic])
@pytest.mark.parametrize("microbatches", [3])
def test_gradients_in_pieces_are_those_of_the_whole_batch(loss, microbatches):
    options = {"loss": loss, "penalty": 0.5 * gan.r1 + 0.5 * gan.r2 + 1.0 * gan.gradient_penalty}
    _, whole = small(**options)
    _, cut = small(**options, microbatches=microbatches)
    x = points()
    state = whole.init(rng.root(0), x)
    expected, metrics = jax.jit(whole.step)(rng.root(1), state, x)
    found, same = jax.jit(cut.step)(rng.root(1), state, x)
    close(found, expected, rtol=1e-6, atol=1e-6)
    close(same, metrics, rtol=1e-5, atol=1e-6)


def to_the_mean(real, fake):
    return jnp.square(real - fake.mean())


def smallest(keys, critic, real, fake):
    """A penalty that is the same for every example, as it looks at all of them."""
    return jnp.full(len(real), jnp.square(critic(real)).min())


@pytest.mark.costly
@pytest.mark.parametrize(
    "own",
    [{"loss": gan.AdversarialLoss(to_the_mean, to_the_mean)}, {"penalty": smallest}],
    ids=["loss", "penalty"],
)
def test_losses_that_look_at_their_batch_can_say_so(own):
    x = points()
    _, plain = small(**own)
    _, whole = small(**own, whole_batch=True)
    state = plain.init(rng.root(0), x)
    expected, _ = jax.jit(plain.step)(rng.root(1), state, x)
    for how in ("pmap", "sharded"):
        spread = train.over_devices(whole, how, jax.devices()[:2])
        found, _ = spread.step(rng.root(1), spread.init(rng.root(0), x), x)
        close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"the loss, the penalty or a term looks at its batch .* got 2"
    ):
        small(**own, whole_batch=True, microbatches=2)


def test_the_norm_of_a_gradient_in_bfloat16_is_summed_in_float32():
    gradient = {"a": jnp.full(1000, 0.1, jnp.bfloat16), "b": jnp.ones((2, 2), jnp.bfloat16)}
    squares = sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in gradient.values())
    found = gradients.norm(gradient)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.sqrt(squares), rtol=1e-6)


def test_one_player_takes_pieces_too():
    def objective(keys, params, x):
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        return jnp.sum(jnp.square(x * params["w"][None] + noise), axis=1), {"x": x[:, 0]}

    def init(key, x):
        return {"w": jnp.array([0.5, -1.0])}

    x = points()
    steps = [train.learner(init, objective, optax.sgd(0.1), microbatches=n).step for n in (1, 4)]
    state = train.learner(init, objective, optax.sgd(0.1)).init(rng.root(0), x)
    (whole, means), (cut, same) = (step(rng.root(1), state, x) for step in steps)
    close(cut, whole, rtol=1e-6)
    close(same, means, rtol=1e-6)
    uneven = train.learner(init, objective, optax.sgd(0.1), microbatches=5)
    with pytest.raises(
        ValueError, match="batch of 12 examples cannot be cut into 5 equal microbatches"
    ):
        uneven.step(rng.root(1), state, x)


def test_the_average_forgets_half_in_a_half_life():
    # 12 images an update; the ramp allows a tenth of what was generated before.
    _, learner = small(ema_half_life=24.0, ema_ramp_up=0.5)
    x = points()
    state = learner.init(rng.root(0), x)
    average = state.params.generator
    step = jax.jit(learner.step)
    for count in range(6):
        state, _ = step(rng.root(count), state, x)
        half_life = min(24.0, 0.5 * 12 * count)
        kept = 0.5 ** (12 / half_life) if half_life else 0.0
        average = jax.tree.map(
            lambda a, p, kept=kept: kept * a + (1 - kept) * p, average, state.params.generator
        )
        close(state.ema, average, rtol=1e-5, atol=1e-7)
    assert kept == 0.5 ** (12 / 24)


def test_samples_come_from_the_average_and_are_made_images_of():
    model, learner = small(ema_half_life=1e9, as_images=lambda x: 10 * x)
    x = points()
    state = learner.init(rng.root(0), x)
    for count in range(3):
        state, _ = jax.jit(learner.step)(rng.root(count), state, x)
    key = rng.root(9)
    z = model.latent(rng.per_example(rng.stream(key, "latent"), 4))
    expected = 10 * model.generate(state.params._replace(generator=state.ema), z)
    np.testing.assert_allclose(learner.sample(key, state, 4), expected, rtol=1e-6)
    assert not np.allclose(expected, 10 * model.generate(state.params, z))


def test_two_optimizers_move_their_own_player():
    pair = train.Optimizers(generator=optax.sgd(0.0), discriminator=optax.sgd(0.1))
    _, learner = small(optimizers=pair)
    x = points()
    state = learner.init(rng.root(0), x)
    after, _ = jax.jit(learner.step)(rng.root(1), state, x)
    assert bits(after.params.generator) == bits(state.params.generator)
    assert bits(after.params.discriminator) != bits(state.params.discriminator)


@pytest.mark.costly
def test_a_penaltys_weight_follows_its_schedule():
    weights = []

    def penalty(hyper):
        weights.append(hyper["gamma"])
        return hyper["gamma"] * gan.r1

    _, learner = small(penalty=penalty, hyper={"gamma": lambda step: 2.0 * step})
    _, plain = small()
    x = points()
    state = learner.init(rng.root(0), x)
    for step in range(2):
        found, metrics = learner.step(rng.root(1), state, x)
        without, _ = plain.step(rng.root(1), state, x)
        # At step 0 the weight is 0.
        assert (bits(found.params) == bits(without.params)) == (step == 0)
        assert metrics["r1"] > 0
        state = state._replace(step=state.step + 1)
    assert [float(weight) for weight in weights] == [0.0, 2.0]


def test_a_penalty_of_ones_own_is_a_function():
    def drift(keys, critic, real, fake):
        return jnp.square(critic(real))

    _, learner = small(penalty=drift)
    _, weighted = small(penalty=3.0 * gan.Penalty.of(drift))
    x = points()
    state = learner.init(rng.root(0), x)
    after, metrics = learner.step(rng.root(1), state, x)
    other, same = weighted.step(rng.root(1), state, x)
    assert float(metrics["drift"]) == float(same["drift"]) > 0
    assert bits(after.params) != bits(other.params)


def test_clipped_weights_stay_in_their_box():
    _, learner = small(
        loss=gan.wasserstein, constrain=gan.weight_clipping(0.01), optimizers=optax.sgd(1.0)
    )
    x = points()
    state, _ = learner.step(rng.root(1), learner.init(rng.root(0), x), x)
    largest = max(
        float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(state.params.discriminator)
    )
    assert largest == pytest.approx(0.01)


@pytest.mark.costly
def test_together_matters_only_to_a_discriminator_that_looks_at_its_batch():
    x = points()

    def step(discriminator, together):
        model = gan.make(nets.mlp((8,), 2), discriminator, latent_dim=3)
        learner = train.adversarial(model, gan.hinge, optax.sgd(0.1), joint_batch=together)
        return learner.step(rng.root(1), learner.init(rng.root(0), x), x)[0]

    plain = nets.mlp((8,), 1)
    close(step(plain, True), step(plain, False), rtol=1e-5, atol=1e-7)
    normalised = nets.mlp((8,), 1, norm="batch")
    apart, one = step(normalised, False), step(normalised, True)
    assert not np.allclose(
        apart.params.discriminator["output"]["kernel"], one.params.discriminator["output"]["kernel"]
    )


@pytest.mark.costly
def test_a_game_repeats_to_the_bit_and_continues_from_anywhere():
    _, learner = small(
        penalty=0.1 * gan.r1, ema_half_life=100.0, optimizers=optax.adam(1e-3, b1=0.5)
    )
    batch_at = data.batches(np.asarray(points(40)), batch_size=12, prepare=data.unchanged)
    runs = [
        list(train.run(learner, rng.root(seed), batch_at, num_steps=20, log_every=6))
        for seed in (0, 0, 1)
    ]
    assert bits(runs[0][-1].carry) == bits(runs[1][-1].carry) != bits(runs[2][-1].carry)
    (*_, end) = train.run(
        learner, rng.root(0), batch_at, num_steps=20, log_every=6, carry=runs[0][1].carry
    )
    assert bits(end.carry) == bits(runs[0][-1].carry)


def test_a_game_that_diverges_stops_at_its_step():
    _, learner = small(loss=gan.wasserstein, optimizers=optax.sgd(1e12))
    batch_at = data.batches(np.asarray(points(40)), batch_size=12, prepare=data.unchanged)
    with pytest.raises(train.NonFiniteError) as e:
        list(train.run(learner, rng.root(0), batch_at, num_steps=50, log_every=50))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(e.value.carry.state))
    assert int(e.value.carry.step) == e.value.step - 1


class Dirac:
    """The Dirac-GAN (Mescheder et al. 2018): data at 0, a generator that is its one parameter."""

    def __init__(self, dim):
        from typing import NamedTuple

        class Params(NamedTuple):
            generator: jax.Array
            discriminator: jax.Array

        one = jnp.ones(dim) / jnp.sqrt(dim)
        self.init = lambda key, x: Params(one, one)
        self.latent = lambda keys: jnp.zeros((len(keys), 1))
        self.generate = lambda params, z: jnp.broadcast_to(params.generator, (len(z), dim))
        self.discriminate = lambda params, x: x @ params.discriminator
        self.standing = lambda key, params: params
        self.check = lambda x: None


@pytest.mark.parametrize("loss", ["minimax", "wasserstein"])
@pytest.mark.parametrize(
    ("penalty", "converges"), [(None, False), (0.5 * gan.r1, True), (0.5 * gan.r2, True)]
)
def test_the_dirac_gan_converges_with_gradient_penalties_and_not_without(loss, penalty, converges):
    # Mescheder, Geiger & Nowozin (2018), lemma 2.4 and theorem 4.1: without a penalty alternating
    # steps circle the equilibrium at 0 for ever; with one they reach it.
    learner = train.adversarial(Dirac(2), getattr(gan, loss), optax.sgd(0.1), penalty=penalty)
    (*_, end) = train.run(
        learner, rng.root(0), lambda key, step: jnp.zeros((2, 2)), num_steps=1000, log_every=1000
    )
    distance = optax.tree.norm(end.state.params)
    assert (distance < 1e-3) if converges else (distance > 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discriminator_steps": 0}, "discriminator_steps must be a positive whole number, got 0"),
        ({"generator_steps": 0}, "generator_steps must be a positive whole number, got 0"),
        ({"microbatches": -1}, "microbatches must be a positive whole number, got -1"),
        ({"ema_half_life": 0.0}, "ema_half_life must be a positive number, got 0.0"),
        (
            {"hyper": {"gamma": 1.0}},
            r"hyper \['gamma'\], the loss, .* must be a function hyper -> it",
        ),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_images_that_the_generator_cannot_reach_are_refused_at_the_start():
    model = gan.make(nets.mlp((8,), 2), nets.mlp((8,), 1), latent_dim=3, image_range=(-1, 1))
    learner = train.adversarial(model, gan.hinge, optax.sgd(0.1))
    batch_at = data.batches(
        100 * np.ones((40, 2), np.float32), batch_size=8, prepare=data.unchanged
    )
    with pytest.raises(ValueError, match=r"range \[-1, 1\], got values from 100 to 100"):
        train.run(learner, rng.root(0), batch_at, num_steps=1)


def test_what_does_not_fit_is_refused_before_any_step():
    x = points(13)
    _, learner = small(discriminator_steps=2)
    with pytest.raises(ValueError, match="batch of 13 examples cannot be cut into 2 equal"):
        learner.init(rng.root(0), x)
    _, learner = small(penalty=lambda keys, critic, real, fake: jnp.mean(critic(real)))
    with pytest.raises(ValueError, match=r"must be one number per example, of shape \(13,\)"):
        learner.step(rng.root(1), learner.init(rng.root(0), x), x)
    mean = gan.AdversarialLoss(lambda r, f: jnp.mean(r), lambda r, f: -f)
    _, learner = small(loss=mean)
    with pytest.raises(ValueError, match="the discriminator's loss must be one number per example"):
        learner.step(rng.root(1), learner.init(rng.root(0), x), x)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [({"image_range": (-1, 1)}, -1, 1), ({"image_range": (0, 1)}, 0, 1), ({}, 0, 1)],
)
def test_samples_are_scaled_from_the_range_of_the_images(options, low, high):
    net = nets.mlp((), 2, output=jnp.tanh)
    model = gan.make(net, nets.mlp((), 1), latent_dim=2, **options)
    learner = train.adversarial(model, gan.nonsaturating, optax.sgd(0.1))
    state = learner.init(rng.root(0), jnp.zeros((4, 2)))
    keys = rng.per_example(rng.stream(rng.root(1), "latent"), 5)
    images = model.generate(state.params, model.latent(keys))
    expected = (images - low) / (high - low)
    np.testing.assert_allclose(learner.sample(rng.root(1), state, 5), expected, rtol=1e-6)


# Foreseeing the other player


@pytest.mark.costly
def test_an_unrolled_generator_plays_against_the_discriminators_next_steps():
    """Metz et al. 2017: its gradient passes through two steps of gradient descent."""
    model, learner = small(unrolled=train.Unrolled(2, 0.4), penalty=0.3 * gan.r1)
    x, key = points(), rng.root(1)
    state = learner.init(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(key, state, x)
    _, plain = small(penalty=0.3 * gan.r1)
    expected, _ = jax.jit(plain.step)(key, state, x)
    close(after.params.discriminator, expected.params.discriminator, rtol=1e-6)

    keys = rng.per_example(rng.at_step(rng.stream(key, "generator"), 0), len(x))
    z = model.latent(each(keys, "latent"))
    params = state.params._replace(discriminator=after.params.discriminator)

    def generator_loss(own):
        now = params._replace(generator=own)

        def discriminator_loss(judge):
            ahead = now._replace(discriminator=judge)
            fake = model.generate(now, z)
            logits = model.discriminate(ahead, x), model.discriminate(ahead, fake)
            penalty = gan.r1(keys, lambda x: model.discriminate(ahead, x), x, fake)
            return jnp.mean(gan.nonsaturating.discriminator(*logits) + 0.3 * penalty)

        judge = params.discriminator
        for _ in range(2):
            slope = jax.grad(discriminator_loss)(judge)
            judge = jax.tree.map(lambda p, g: p - 0.4 * g, judge, slope)
        ahead = now._replace(discriminator=judge)
        logits = model.discriminate(ahead, x), model.discriminate(ahead, model.generate(now, z))
        return jnp.mean(gan.nonsaturating.generator(*logits))

    loss, slope = jax.value_and_grad(generator_loss)(params.generator)
    np.testing.assert_allclose(metrics["generator_loss"], loss, rtol=1e-5)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params.generator, slope)
    close(after.params.generator, moved, rtol=1e-4, atol=1e-6)
    assert bits(after.params.generator) != bits(expected.params.generator)


@pytest.mark.parametrize("order", ["at once", "extrapolated"])
def test_players_may_move_at_once(order):
    _, learner = small(order=order)
    x, key = points(), rng.root(1)
    state = learner.init(rng.root(0), x)
    after, _ = jax.jit(learner.step)(key, state, x)
    there = state
    if order == "extrapolated":
        _, first = small(order="at once")
        there, _ = jax.jit(first.step)(rng.stream(key, "extrapolation"), state, x)
    _, at_once = small(order="at once")
    reached, _ = jax.jit(at_once.step)(key, there, x)
    # The update that is taken there moves the parameters that are here.
    expected = jax.tree.map(lambda h, t, r: h + (r - t), state.params, there.params, reached.params)
    close(after.params, expected, rtol=1e-5, atol=1e-6)
    # At once: the generator's gradient is against the discriminator before its move.
    _, in_turn = small()
    other, _ = jax.jit(in_turn.step)(key, state, x)
    assert bits(after.params.generator) != bits(other.params.generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "at once", "generator_steps": 2}, "one step each, got 2 of generator"),
        ({"order": "backwards"}, "unknown order 'backwards'"),
        ({"unrolled": train.Unrolled(0, 0.1)}, "Unrolled.num must be a positive whole number"),
        (
            {"unrolled": train.Unrolled(2, 0.1), "microbatches": 2},
            "unrolled discriminator needs .* microbatches must be 1, got 2",
        ),
        ({"unrolled": train.Unrolled(2, 0.0)}, "Unrolled.rate must be a positive number, got 0.0"),
    ],
)
def test_what_cannot_be_foreseen_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


# Deception


def test_the_discriminator_is_shown_generated_images_for_real_ones():
    """Adaptive pseudo augmentation (Jiang et al. 2021)."""
    shown = []

    def term(keys, seen):
        jax.debug.callback(lambda real: shown.append(np.asarray(real)), seen.real)
        return jnp.zeros(len(keys))

    model, learner = small(deception=0.5, terms={"see": gan.Term(term, term)})
    x, key = points(200), rng.root(1)
    state = learner.init(rng.root(0), x)
    _, metrics = jax.jit(learner.step)(key, state, x)
    jax.effects_barrier()
    (own,) = [real for real in shown if not np.array_equal(real, x)]  # the discriminator's turn
    (other,) = [real for real in shown if np.array_equal(real, x)]  # the generator's
    replaced = np.any(own != np.asarray(x), axis=1)
    assert abs(replaced.mean() - 0.5) < 4 * 0.5 / np.sqrt(200)
    keys = rng.per_example(rng.at_step(rng.stream(key, "discriminator"), 0), len(x))
    fake = model.generate(state.params, model.latent(each(keys, "latent of deception")))
    np.testing.assert_allclose(own[replaced], fake[replaced], rtol=1e-5)
    beside = model.generate(state.params, model.latent(each(keys, "latent")))
    assert not np.any(np.all(np.isclose(own, beside), axis=1))  # others than the fakes
    assert other.shape == own.shape
    assert np.isfinite(metrics["discriminator_loss"])


def test_deception_follows_memory():
    _, learner = small(
        deception=lambda now: now["probability"],
        memory={"probability": 0.0},
        remember=gan.moving_probability(num_images=24),
    )
    x = points()
    state = learner.init(rng.root(0), x)
    after, metrics = jax.jit(learner.step)(rng.root(1), state, x)
    _, plain = small()
    _, expected = jax.jit(plain.step)(rng.root(1), plain.init(rng.root(0), x), x)
    np.testing.assert_allclose(metrics["discriminator_loss"], expected["discriminator_loss"])
    assert float(after.memory["probability"]) in (0.0, 0.5)


def test_a_deception_that_is_no_probability_is_refused():
    with pytest.raises(ValueError, match=r"deception must be a number in \[0, 1\], got 1.5"):
        small(deception=1.5)


def test_optimizers_may_be_a_dict_of_both_players():
    _, learner = small(optimizers={"discriminator": optax.sgd(0.0), "generator": optax.sgd(0.1)})
    state = learner.init(rng.root(0), points())
    after, _ = jax.jit(learner.step)(rng.root(1), state, points())
    assert bits(after.params.discriminator) == bits(state.params.discriminator)
    assert bits(after.params.generator) != bits(state.params.generator)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizers": {"generator": optax.sgd(0.1)}}, "one for each of generator and"),
        ({"optimizers": (optax.sgd(0.1),) * 3}, "one for each of generator and"),
        ({"optimizers": 1e-3}, "optimizers must be one optax transformation"),
        ({"loss": "hinge"}, "loss must be an AdversarialLoss such as gan.hinge"),
        ({"penalty": 0.5}, r"penalty must be a function \(keys, critic, real, fake\) -> \[B\]"),
        ({"penalty": lambda a, b: a}, "penalty must be a function"),
    ],
)
def test_what_is_no_part_of_a_game_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_logits_of_another_number_of_images_are_refused():
    judge = nets.mlp((8,), 3)
    patches = judge._replace(apply=lambda params, x: judge.apply(params, x).reshape(-1))
    model = gan.make(nets.mlp((8,), 2), patches, latent_dim=3)
    learner = train.adversarial(model, gan.nonsaturating, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"or one for each pack of equally many, got \[36\]"):
        learner.init(rng.root(0), points())


def test_a_report_must_not_take_the_names_of_the_game():
    _, learner = small(report=lambda gradient, updates, params: {"loss": jnp.zeros(())})
    state = learner.init(rng.root(0), points())
    with pytest.raises(ValueError, match="must not return the metric 'discriminator_loss'"):
        jax.eval_shape(learner.step, rng.root(1), state, points())


def test_conditions_that_samples_need_are_asked_for_before_training():
    pair = lambda batch: (batch["x"], batch["c"])  # noqa: E731
    model = gan.make(
        nets.conditional(nets.mlp((8,), 2, norm="batch"), 3),
        nets.conditional(nets.mlp((8,), 1), 3),
        latent_dim=3,
        condition=pair,
    )
    batch = {"x": points(), "c": jnp.arange(12) % 3}
    learner = train.adversarial(model, gan.nonsaturating, optax.sgd(0.1))
    with pytest.raises(ValueError, match="conditions must be given"):
        learner.init(rng.root(0), batch)
    learner = train.adversarial(
        model, gan.nonsaturating, optax.sgd(0.1), conditions=np.arange(12) % 3
    )
    state = learner.init(rng.root(0), batch)
    with pytest.raises(ValueError, match="labels of the data, 3 from 0 to 2, got 7"):
        learner.sample(rng.root(1), state, 2, jnp.array([0, 7]))


def test_samples_are_drawn_from_averages():
    _, learner = small(ema_half_life=10.0)
    state = learner.init(rng.root(0), points())
    marked = state._replace(ema="average")
    assert train.drawn_from(marked) == state.params._replace(generator="average")
    _, plain = small()
    state = plain.init(rng.root(0), points())
    assert train.drawn_from(state) is state.params
    game = train.GameState(0, {"a": 1, "b": 2}, {}, {}, {"b": 3})
    assert train.drawn_from(game) == {"a": 1, "b": 3}
    one = train.TrainState(0, jnp.ones(2), (), {}, jnp.zeros(2))
    assert train.drawn_from(one) is one.ema
