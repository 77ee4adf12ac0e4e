"""Games of any number of players, against games whose course is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import data, gan, nets, rng, train
from genmod.types import Parts

X = jnp.linspace(-1.0, 1.0, 24).reshape(12, 2)


def start(key, x):
    return {"a": jnp.ones(2), "b": jnp.full(2, 2.0)}


def pulls(name, factor=1.0):
    """Loss of a player that is drawn to its own data, and to the other player."""
    other = {"a": "b", "b": "a"}[name]

    def objective(keys, params, x):
        noise = jax.vmap(lambda key: jax.random.normal(rng.stream(key, "noise"), (2,)))(keys)
        to_data = jnp.square(params[name][None] - x - 0.1 * noise).sum(1)
        to_other = jnp.square(params[name] - factor * params[other]).sum()
        return 0.5 * to_data + 0.5 * to_other, {f"{name}_far": to_data}

    return objective


def pair(**options):
    players = {name: train.Player(pulls(name), optax.sgd(0.1)) for name in "ab"}
    return train.game(start, players, **options)


def steps(learner, num=3, x=X, jit=True):
    """State and metrics after some steps with keys of their own."""
    state = learner.init(rng.root(0), x)
    step = jax.jit(learner.step) if jit else learner.step
    metrics = {}
    for number in range(num):
        state, metrics = step(rng.at_step(rng.root(1), number), state, x)
    return state, metrics


def close(found, expected, rtol=1e-5):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-6)


# Turns


def test_players_move_in_turn_or_at_once():
    """One step by hand: without noise in the gradient of the other's pull."""

    def objective(name):
        other = {"a": "b", "b": "a"}[name]
        return lambda keys, p, x: (0.5 * jnp.square(p[name] - p[other]).sum() + 0 * x[:, 0], {})

    players = {name: train.Player(objective(name), optax.sgd(0.5)) for name in "ab"}
    in_turn, _ = steps(train.game(start, players), num=1)
    at_once, _ = steps(train.game(start, players, order="at once"), num=1)
    close(in_turn.params, {"a": jnp.full(2, 1.5), "b": jnp.full(2, 1.75)})
    close(at_once.params, {"a": jnp.full(2, 1.5), "b": jnp.full(2, 1.5)})
    swapped, _ = steps(train.game(start, dict(reversed(players.items()))), num=1)
    close(swapped.params, {"a": jnp.full(2, 1.25), "b": jnp.full(2, 1.5)})


def bilinear(x_objective, y_objective, **options):
    """The game min over x, max over y of x y, whose only equilibrium is 0."""
    players = {
        "x": train.Player(x_objective, optax.sgd(0.3)),
        "y": train.Player(y_objective, optax.sgd(0.3)),
    }
    begin = lambda key, batch: {"x": jnp.ones(()), "y": jnp.ones(())}  # noqa: E731
    return train.game(begin, players, **{"order": "at once", **options})


def test_simultaneous_gradients_spiral_out_and_extra_gradients_spiral_in():
    """Gidel et al. 2019: each step multiplies the radius by a known factor."""

    def value(p):
        return p["x"] * p["y"]

    def ahead(p):
        """The position after one step of both players at once."""
        gradient = jax.grad(value)(p)
        return {"x": p["x"] - 0.3 * gradient["x"], "y": p["y"] + 0.3 * gradient["y"]}

    def extra(sign):
        def objective(keys, p, x):
            # The value at the position ahead, differentiated there.
            move = jax.tree.map(lambda q, r: q - r, ahead(p), p)
            shifted = jax.tree.map(lambda q, m: q + jax.lax.stop_gradient(m), p, move)
            return sign * value(shifted) + 0 * x[:, 0], {}

        return objective

    def plain(sign):
        return lambda keys, p, x: (sign * value(p) + 0 * x[:, 0], {})

    def radius(learner, num):
        state, _ = steps(learner, num)
        return np.hypot(state.params["x"], state.params["y"])

    rate = 0.3
    simultaneous, extragradient = bilinear(plain(1), plain(-1)), bilinear(extra(1), extra(-1))
    close(radius(simultaneous, 5), np.sqrt(2) * (1 + rate**2) ** 2.5)
    inwards = np.sqrt(2) * ((1 - rate**2) ** 2 + rate**2) ** 2.5
    close(radius(extragradient, 5), inwards)
    close(radius(bilinear(plain(1), plain(-1), order="extrapolated"), 5), inwards)


def test_the_optimizers_of_an_extrapolated_game_follow_both_rounds():
    """Gidel et al. 2019, algorithm 4: the first round counts in the moments, and then is undone."""
    adam = optax.adam(0.1, b1=0.5, b2=0.9)

    def objective(sign):
        return lambda keys, p, x: (sign * p["x"] * p["y"] + 0 * x[:, 0], {})

    players = {name: train.Player(objective(s), adam) for name, s in (("x", 1), ("y", -1))}
    begin = lambda key, batch: {"x": jnp.float32(1), "y": jnp.float32(2)}  # noqa: E731
    found, metrics = steps(train.game(begin, players, order="extrapolated"), 3)
    here, states = {"x": 1.0, "y": 2.0}, {name: adam.init(jnp.float32(0)) for name in "xy"}
    for _ in range(3):
        there = here
        for _ in range(2):
            slopes = {"x": there["y"], "y": -there["x"]}
            moves = {}
            for name in "xy":
                moves[name], states[name] = adam.update(jnp.float32(slopes[name]), states[name])
            there = {name: here[name] + moves[name] for name in "xy"}
        here = there
    close(found.params, here)
    assert metrics.keys() >= {"x_loss", "y_loss", "x_gradient"}


def test_both_rounds_of_an_extrapolated_game_have_noise_of_their_own():
    def noisy(keys, p, x):
        noise = jax.vmap(jax.random.normal)(keys)
        return p["a"] * noise, {"noise": noise}

    def begin(key, batch):
        return {"a": jnp.zeros(())}

    learner = train.game(begin, {"a": train.Player(noisy, optax.sgd(1.0))}, order="extrapolated")
    state, metrics = steps(learner, 1)
    # The move is that of the second round alone, whose noise the metrics show.
    close(state.params["a"], -metrics["noise"])


def test_an_unrolled_player_sees_the_others_answer():
    """Metz et al. 2017 on the same game: x moves as if y had answered already."""

    def unrolled(keys, p, batch):
        y = p["y"]
        for _ in range(2):
            y = y + 0.3 * jax.grad(lambda y: p["x"] * y)(y)
        return p["x"] * y + 0 * batch[:, 0], {}

    state, _ = steps(bilinear(unrolled, lambda keys, p, b: (-p["x"] * p["y"] + 0 * b[:, 0], {})), 1)
    # d/dx of x (y + 2 * .3 x) = y + 1.2 x
    close(state.params, {"x": 1 - 0.3 * (1 + 1.2), "y": 1.3})


def test_several_updates_of_a_player_see_parts_of_the_batch():
    seen = []

    def objective(keys, p, x):
        seen.append(len(x))
        return jnp.square(p["a"].sum() - x[:, 0]), {}

    players = {
        "a": train.Player(objective, optax.sgd(0.1), steps=3),
        "b": train.Player(pulls("b"), optax.sgd(0.1)),
    }
    learner = train.game(start, players)
    state, _ = steps(learner, num=1)
    assert set(seen) == {4}
    a = jnp.ones(2)
    for part in range(3):
        a = a - 0.1 * 2 * (a.sum() - X[part::3, 0].mean())
    close(state.params["a"], a)
    inspection = learner.inspect(rng.root(1), learner.init(rng.root(0), X), X)
    assert inspection.terms["a_loss"].shape == (12,)
    assert len(inspection.gradients["a"]) == 3
    np.testing.assert_array_equal(inspection.examples["b_loss"], [0, 3, 6, 9])
    with pytest.raises(ValueError, match="batch of 10 examples cannot be cut into 3 equal steps"):
        learner.init(rng.root(0), X[:10])


def test_a_player_of_several_fields_moves_them_all():
    objective = lambda keys, p, x: (jnp.square(p["a"] - p["b"]).sum() + 0 * x[:, 0], {})  # noqa: E731
    learner = train.game(start, {("a", "b"): train.Player(objective, optax.adam(0.1))})
    state, metrics = steps(learner, 1)
    assert set(metrics) == {"a_b_loss", "a_b_gradient"}
    close(state.params, {"a": jnp.full(2, 1.1), "b": jnp.full(2, 1.9)})
    assert set(learner.inspect(rng.root(0), state, X).gradients["a_b"]) == {"a", "b"}


# One implementation


def test_a_game_of_one_is_a_learner():
    def objective(keys, params, x):
        return jnp.square(params["w"][None] - x).sum(1), {"first": x[:, 0]}

    init = lambda key, x: {"w": jnp.ones(2)}  # noqa: E731
    learner = train.learner(init, objective, optax.adam(0.1), ema_half_life=20.0)
    game = train.game(
        init, {"w": train.Player(objective, optax.adam(0.1))}, ema_half_life={"w": 20.0}
    )
    (one, metrics), (other, of_game) = steps(learner), steps(game)
    for tree in ("params", "ema"):
        np.testing.assert_array_equal(getattr(one, tree)["w"], getattr(other, tree)["w"])
    assert metrics["loss"] == of_game["w_loss"]
    assert metrics["first"] == of_game["first"]


def small_gan():
    return gan.make(nets.mlp((4,), (3, 3, 1)), nets.mlp((4,), 1), latent_dim=2)


def test_a_game_of_two_is_the_adversarial_learner():
    """The two objectives written out give its numbers to the bit."""
    model, loss = small_gan(), gan.relativistic

    def logits(keys, params, x):
        fake = model.generate(params, model.latent(rng.stream(keys, "latent")))
        return model.discriminate(params, x), model.discriminate(params, fake)

    def discriminator(keys, params, x):
        return loss.discriminator(*logits(keys, params, x)), {}

    def generator(keys, params, x):
        return loss.generator(*logits(keys, params, x)), {}

    adam = optax.adam(1e-2)
    players = {"discriminator": discriminator, "generator": generator}
    game = train.game(model.init, {n: train.Player(f, adam) for n, f in players.items()})
    x = jax.random.uniform(rng.root(3), (6, 3, 3, 1))
    (one, metrics), (other, of_game) = (
        steps(game, x=x),
        steps(train.adversarial(model, loss, adam), x=x),
    )
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    for name, value in metrics.items():
        assert value == of_game[name], name


# Memory


def remembering(**options):
    """A running mean of the data beside one player, in a NamedTuple."""

    def objective(keys, p, x):
        return jnp.square(p["w"] - x[:, 0]), {}, {"x": x}

    def remember(key, p, notes):
        return {"mean": 0.5 * p["mean"] + 0.5 * notes["x"].mean(0)}

    init = lambda key, x: {"w": jnp.zeros(()), "mean": jnp.zeros(2), "fixed": 3.0}  # noqa: E731
    player = train.Player(objective, optax.sgd(0.1))
    return train.game(init, {"w": player}, remember=remember, **options)


def test_a_field_of_nobody_is_what_remember_says():
    state, metrics = steps(remembering(), 3)
    close(state.params["mean"], X.mean(0) * (1 - 0.5**3))
    assert float(state.params["fixed"]) == 3
    assert set(metrics) == {"w_loss", "w_gradient"}


@pytest.mark.parametrize("how", ["microbatches", "pmap", "sharded"])
def test_notes_are_those_of_the_whole_batch(how):
    """A device, or a microbatch, has those of its share alone."""
    if how == "microbatches":
        learner = remembering(microbatches=3)
    else:
        learner = train.over_devices(remembering(), how, jax.devices()[:2])
    found, _ = steps(learner)
    expected, _ = steps(remembering())
    close(found.params, expected.params)
    if how == "microbatches":
        seen = []

        def remember(key, p, notes):
            seen.append(notes["x"].shape)
            return {}

        steps(
            train.game(
                lambda key, x: {"w": jnp.zeros(())},
                {
                    "w": train.Player(
                        lambda k, p, x: (x[:, 0] * p["w"], {}, {"x": x}), optax.sgd(1.0)
                    )
                },
                remember=remember,
                microbatches=3,
            )
        )
        assert set(seen) == {(12, 2)}


def test_the_memory_of_an_adversarial_learner_moves_its_augmentation():
    """An augmentation whose strength follows the discriminator's outputs (ADA in small)."""
    model, x = small_gan(), jax.random.uniform(rng.root(3), (6, 3, 3, 1))

    def remember(key, params, notes):
        assert set(params) == {"generator", "discriminator", "p"}
        assert notes["real_logits"].shape == notes["fake_logits"].shape == (6,)
        return {"p": params["p"] + 0.1 * jnp.sign(notes["real_logits"]).mean() + 0.25}

    learner = train.adversarial(
        model,
        gan.nonsaturating,
        optax.sgd(0.1),
        memory={"p": 0.5},
        remember=remember,
        augment=lambda now: lambda keys, images: now["p"] * images,
    )
    state, _ = steps(learner, x=x)
    spread, _ = steps(train.over_devices(learner, "pmap", jax.devices()[:2]), x=x)
    close(spread, state)
    assert state.memory["p"] > 0.75
    start, _ = steps(learner, 0, x=x)
    logits = model.discriminate(start.params, 0.5 * x)
    once, _ = steps(learner, 1, x=x)
    close(once.memory["p"], 0.75 + 0.1 * jnp.sign(logits).mean())


def test_hyper_and_memory_reach_loss_penalty_augment_and_constraint():
    model, x = small_gan(), jax.random.uniform(rng.root(3), (6, 3, 3, 1))
    seen = {}

    def reading(name, value):
        def of(now):
            seen[name] = set(now)
            return value

        return of

    def constrain(params, now):
        seen["constrain"] = set(now)
        return params

    def remember(key, params, notes):
        return {"p": notes["real_logits"].mean() + notes["fake_logits"].mean()}

    learner = train.adversarial(
        model,
        reading("loss", gan.hinge),
        optax.sgd(0.1),
        penalty=reading("penalty", 0.1 * gan.r1),
        augment=reading("augment", data.flip),
        constrain=constrain,
        hyper={"w": 1.0},
        memory={"p": 0.5},
        remember=lambda key, params, notes: {
            "p": notes["real_logits"].mean() + notes["fake_logits"].mean()
        },
    )
    plain = train.adversarial(
        model, gan.hinge, optax.sgd(0.1), penalty=0.1 * gan.r1, augment=data.flip
    )
    (one, _), (other, _) = steps(learner, x=x), steps(plain, x=x)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    assert seen.keys() == {"loss", "penalty", "augment", "constrain"}
    assert all(names == {"w", "p"} for names in seen.values())


# Averages, reports, constraints


def test_each_player_may_have_an_average():
    learner = pair(ema_half_life={"b": 12.0}, ema_ramp_up=1e9)
    states = [steps(learner, num)[0] for num in range(3)]
    assert states[0].ema.keys() == {"b"}
    # The half-life is a batch; the first step replaces the average.
    close(states[1].ema["b"], states[1].params["b"])
    close(states[2].ema["b"], 0.5 * (states[1].ema["b"] + states[2].params["b"]))
    both, _ = steps(pair(ema_half_life=12.0, ema_ramp_up=1e9), 2)
    close(both.ema["b"], states[2].ema["b"])
    assert both.ema.keys() == {"a", "b"}


def test_samples_come_from_the_averages():
    draw = lambda keys, params: params["b"][None] + jnp.zeros((len(keys), 2))  # noqa: E731
    learner = pair(ema_half_life={"b": 12.0}, sample=draw)
    state, _ = steps(learner)
    close(learner.sample(rng.root(0), state, 3), jnp.tile(state.ema["b"], (3, 1)))
    with pytest.raises(ValueError, match=r"takes no condition, got one"):
        learner.sample(rng.root(0), state, 3, jnp.zeros(3))


def test_a_report_sees_gradient_updates_and_parameters():
    def report(gradient, updates, params):
        return {"ratio": jnp.abs(updates).sum() / jnp.abs(params).sum(), "g": gradient[0]}

    state, metrics = steps(pair(report=report), 1)
    assert {"a_ratio", "b_ratio", "a_g", "b_g"} <= set(metrics)
    close(metrics["a_ratio"] * 2, jnp.abs(state.params["a"] - 1).sum())
    alone = train.learner(
        lambda key, x: jnp.ones(2),
        lambda keys, w, x: ((w[None] * x).sum(1), {}),
        optax.sgd(1.0),
        report=report,
    )
    assert {"loss", "ratio", "g"} == set(steps(alone, 1)[1])


def test_a_constraint_may_follow_hyper():
    players = {
        "a": train.Player(pulls("a"), optax.sgd(0.1), constrain=lambda p, now: now["top"] + 0 * p)
    }
    learner = train.game(start, players, hyper={"top": lambda step: 5.0 + step})
    close(steps(learner, 2)[0].params["a"], jnp.full(2, 6.0))
    plain = {"a": train.Player(pulls("a"), optax.sgd(0.1), constrain=lambda p: jnp.clip(p, 0, 0.5))}
    close(steps(train.game(start, plain))[0].params["a"], jnp.full(2, 0.5))


def test_hyper_is_read_by_the_objectives_that_ask_for_it():
    players = {
        "a": train.Player(lambda hyper: pulls("a", hyper["f"]), optax.sgd(0.1)),
        "b": train.Player(pulls("b"), optax.sgd(0.1)),
    }
    swept = train.over_grid(train.game(start, players, hyper={"f": 1.0}), {"f": [1.0, 2.0]})
    found, _ = steps(swept)
    expected, _ = steps(pair())
    close(jax.tree.map(lambda leaf: leaf[0], found.params), expected.params)
    assert not np.allclose(found.params["a"][1], expected.params["a"])


# Devices, seeds, microbatches


@pytest.mark.costly
@pytest.mark.parametrize("order", ["in turn", "at once", "extrapolated"])
def test_devices_do_not_change_a_game(order):
    learner = pair(order=order, ema_half_life=30.0)
    alone = steps(learner)
    for how in ("pmap", "sharded"):
        close(steps(train.over_devices(learner, how, jax.devices()[:2])), alone)


def test_seeds_do_not_change_a_game():
    alone = pair(order="at once")
    many = train.over_seeds(alone, 2)
    x = jnp.stack([X, X + 1])
    state = many.init(rng.of_seeds(rng.root(0), 2), x)
    after, _ = many.step(rng.of_seeds(rng.root(0), 2), state, x)
    for seed in range(2):
        state = alone.init(rng.root(seed), x[seed])
        one, _ = alone.step(rng.root(seed), state, x[seed])
        close(jax.tree.map(lambda leaf, seed=seed: leaf[seed], after), one)


def test_what_inspect_sees_is_what_the_step_does():
    learner = pair(microbatches=2)
    state = learner.init(rng.root(0), X)
    after, metrics = learner.step(rng.root(1), state, X)
    seen = learner.inspect(rng.root(1), state, X)
    for name in ("a_loss", "b_loss", "a_far", "b_far"):
        assert seen.terms[name].shape == (12,)
        close(seen.terms[name].mean(), metrics[name])
    close(state.params["a"] - 0.1 * seen.gradients["a"], after.params["a"])
    close(jnp.linalg.norm(seen.gradients["b"]), metrics["b_gradient"])


# Objectives that look at their batch


def permuting(keys, params, x):
    """Squared distance of each example to another one of the batch: it depends on all."""
    other = jax.random.permutation(rng.of_batch(keys), x)
    return (params["w"][None] * jnp.square(x - other)).sum(1), {"first": x[:, 0]}


def whole(whole_batch=True, **options):
    init = lambda key, x: {"w": jnp.ones(2)}  # noqa: E731
    return train.learner(init, permuting, optax.sgd(0.1), whole_batch=whole_batch, **options)


@pytest.mark.parametrize("how", ["pmap", "sharded"])
def test_an_objective_that_looks_at_its_batch_sees_it_whole_on_every_device(how):
    spread = train.over_devices(whole(), how, jax.devices()[:2])
    close(steps(spread), steps(whole()))
    if how == "pmap":  # unsaid, it would be another number in silence
        cut = train.over_devices(whole(False), how, jax.devices()[:2])
        assert not np.allclose(steps(cut)[1]["loss"], steps(whole())[1]["loss"])


def test_an_objective_that_looks_at_its_batch_refuses_microbatches():
    message = (
        r"looks at its batch as a whole \(whole_batch=True\), so microbatches must be 1, got 2"
    )
    with pytest.raises(ValueError, match=message):
        whole(microbatches=2)
    said = functools.partial(permuting)
    said.whole_batch = True
    init = lambda key, x: {"w": jnp.ones(2)}  # noqa: E731
    with pytest.raises(ValueError, match=message):
        train.learner(init, said, optax.sgd(0.1), microbatches=2)
    with pytest.raises(ValueError, match=f"the objective of w {message}"):
        train.game(init, {"w": train.Player(said, optax.sgd(0.1))}, microbatches=2)
    made = train.learner(init, lambda hyper: said, optax.sgd(0.1), hyper={"beta": 1.0})
    with pytest.raises(ValueError, match="give the learner whole_batch=True"):
        steps(made)


# Several parts, several numbers


def test_the_losses_of_parts_are_means_that_are_added():
    batch = Parts(few=X[:4], many={"x": X})

    def objective(keys, w, batch):
        assert 3 * len(keys["few"]) == len(keys["many"]) == len(batch["many"]["x"])
        few, many = batch["few"], batch["many"]["x"]
        return {"few": w * few[:, 0], "many": 0.5 * w * many[:, 1]}, {"y": many[:, 1]}

    learner = train.learner(lambda key, batch: jnp.ones(()), objective, optax.sgd(1.0))
    state, metrics = steps(learner, 1, batch)
    gradient = X[:4, 0].mean() + 0.5 * X[:, 1].mean()
    close(state.params, 1 - gradient)
    close(metrics["loss"], gradient)
    assert set(metrics) == {"loss", "loss/few", "loss/many", "y"}
    spread = train.over_devices(learner, "pmap", jax.devices()[:2])
    close(steps(spread, 1, batch), (state, metrics))
    wrong = train.learner(
        lambda key, batch: jnp.ones(()), lambda keys, w, b: (w * b["few"][:, 0], {}), optax.sgd(1.0)
    )
    with pytest.raises(ValueError, match="as loss a dict with the losses of few, many"):
        steps(wrong, 1, batch)


def test_aux_of_several_numbers_is_several_numbers():
    learner = train.learner(
        lambda key, x: jnp.ones(()), lambda keys, w, x: (w * x[:, 0], {"kl": x}), optax.sgd(1.0)
    )
    state, metrics = steps(learner, 1)
    assert set(metrics) == {"loss", "kl/0", "kl/1"}
    close(metrics["kl/1"], X[:, 1].mean())
    close(learner.inspect(rng.root(0), state, X).terms["kl/0"], X[:, 0])


# Bad input


def good(keys, params, x):
    return x[:, 0] * params["a"].sum(), {}


SGD = optax.sgd(0.1)
GOOD = train.Player(good, SGD)


@pytest.mark.parametrize(
    ("players", "options", "message"),
    [
        ({}, {}, "at least one player, got none"),
        ({"a": good}, {}, "the player 'a' must be a train.Player, got a function"),
        ({"a": GOOD, ("b", "a"): GOOD}, {}, "field 'a' must have one player, got 'a' and 'b_a'"),
        ({"a": GOOD._replace(steps=0)}, {}, "steps of a must be a positive whole number, got 0"),
        ({"a": GOOD._replace(steps=2)}, {"order": "at once"}, "one step each, got 2 of a"),
        ({"a": GOOD}, {"order": "at one"}, "unknown order 'at one'; did you mean 'at once'"),
        ({"a": GOOD}, {"microbatches": 0}, "microbatches must be a positive whole number, got 0"),
        ({"a": GOOD}, {"ema_half_life": {"b": 1.0}}, "unknown field of a player in ema_half_life"),
        ({"a": GOOD}, {"ema_half_life": -1.0}, "ema_half_life must be a positive number, got -1.0"),
        ({"a": GOOD}, {"hyper": {"f": 1.0}}, r"\['f'\], the objective of a player must be a func"),
    ],
)
def test_a_game_that_cannot_be_is_refused_at_once(players, options, message):
    with pytest.raises(ValueError, match=message):
        train.game(start, players, **options)


@pytest.mark.parametrize(
    ("init", "players", "options", "message"),
    [
        (start, {"c": GOOD}, {}, "player 'c' must have a field .* have the fields 'a', 'b'"),
        (lambda key, x: jnp.ones(2), {"a": GOOD}, {}, "a dict or a NamedTuple, with a field"),
        (
            start,
            {"a": train.Player(lambda keys, p, x: x[:, 0], SGD)},
            {},
            "the objective of a must",
        ),
        (
            start,
            {"a": GOOD, "b": train.Player(lambda *_: (X[:, 0], {"a_loss": X[:, 0]}), SGD)},
            {},
            "players 'a', 'b' must name their metrics differently, got 'a_loss' again from 'b'",
        ),
        (
            start,
            {name: train.Player(lambda *_: (X[:, 0], {}, {"n": X}), SGD) for name in "ab"},
            {"remember": lambda key, p, notes: {}},
            "name their notes differently, got 'n' again from 'b'",
        ),
        (
            start,
            {"a": GOOD},
            {"remember": lambda key, p, notes: {"a": p["a"]}},
            "remember must not move the field 'a': the player 'a' does",
        ),
        (
            start,
            {"a": GOOD},
            {"remember": lambda key, p, notes: {"c": 1.0}},
            "unknown field of rem",
        ),
        (start, {"a": GOOD}, {"remember": lambda key, p, notes: None}, "return a dict of fields"),
        (
            start,
            {"a": GOOD},
            {"remember": lambda key, p, notes: {"b": jnp.ones(3)}},
            r"must keep the form of the field 'b', .*\(2,\).*got .*\(3,\)",
        ),
        (
            start,
            {"a": train.Player(lambda hyper: good, SGD)},
            {"hyper": {"b": 1.0}},
            "hyper must not have the name of a field, got 'b'",
        ),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_step(init, players, options, message):
    learner = train.game(init, players, **options)
    with pytest.raises(ValueError, match=message):
        steps(learner, 1)


def test_notes_that_nobody_reads_are_told():
    noting = train.Player(lambda keys, p, x: (*good(keys, p, x), {"n": x, "m": x}), SGD)
    with pytest.warns(UserWarning, match=r"nobody reads the notes \['m', 'n'\]"):
        steps(train.game(start, {"a": noting}), 1)
    half = lambda key, p, notes: {"b": notes["n"].mean(0)}  # noqa: E731
    with pytest.warns(UserWarning, match=r"remember does not read the notes \['m'\]"):
        steps(train.game(start, {"a": noting}, remember=half), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": {"p": 0.0}}, "must be given together, got memory alone"),
        ({"remember": lambda *_: {}}, "must be given together, got remember alone"),
        (
            {"memory": {"generator": 0.0}, "remember": lambda *_: {}},
            "memory must not have the name of a player, got 'generator'",
        ),
    ],
)
def test_memory_that_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        train.adversarial(small_gan(), gan.hinge, SGD, **options)
