"""Regularisers against float64 references, in the step of a learner, and at their edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genmod import data, devices, gan, nets, rng, train
from genmod.gan import lazy_penalties, regularisers

NUM, DIM = 4, 3


def keys(num=NUM, seed=0):
    return rng.per_example(rng.root(seed), num)


def images(num=NUM):
    """Real and generated ones."""
    return np.random.default_rng(0).normal(size=(2, num, DIM))


def linear(w, x):
    return jnp.matmul(x, w, precision="highest")


W = np.array([1.0, -2.0, 0.5])


def value_and_slope(penalty, real, fake, critic=linear, num=NUM):
    """Values and gradient of their mean by w, in float64."""

    def mean(w):
        values = penalty(keys(num), lambda x: critic(w, x), real, fake)
        return values.mean(), values

    with jax.enable_x64(True):
        (_, values), slope = jax.value_and_grad(mean, has_aux=True)(W)
    assert values.dtype == slope.dtype == jnp.float64
    return values, slope


# LeCam


def test_lecam_is_its_formula():
    real, fake = images()
    anchors = regularisers.Anchors(real=0.7, fake=-0.3)
    values, slope = value_and_slope(regularisers.lecam(anchors), real, fake)
    of_real, of_fake = real @ W + 0.3, fake @ W - 0.7
    np.testing.assert_allclose(values, of_real**2 + of_fake**2, rtol=1e-12)
    each = 2 * (of_real[:, None] * real + of_fake[:, None] * fake)
    np.testing.assert_allclose(slope, each.mean(0), rtol=1e-12)
    # Of other signs than the authors' code would let pay: a formula with max(0, .) differs.
    assert (of_real < 0).any()
    assert (of_fake > 0).any()


def test_lecam_of_packs_is_that_of_the_packs_logits():
    real, fake = images()
    packs = lambda w, x: linear(w, x).reshape(-1, 2).sum(1)  # noqa: E731
    values, _ = value_and_slope(
        regularisers.lecam(regularisers.Anchors(1.0, 2.0)), real, fake, packs
    )
    pairs = [(x @ W).reshape(-1, 2).sum(1) for x in (real, fake)]
    expected = (pairs[0] - 2) ** 2 + (pairs[1] - 1) ** 2
    np.testing.assert_allclose(values, np.repeat(expected, 2), rtol=1e-12)


@pytest.mark.parametrize("shape", [(4,), (3, 4)])  # one or several updates of the discriminator
def test_anchors_move_by_their_share(shape):
    real, fake = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    before = {"mine": regularisers.Anchors(jnp.float32(1), jnp.float32(-1)), "p": jnp.float32(0)}
    remember = regularisers.moving_anchors(decay=0.9, name="mine")
    after = remember(rng.root(0), before, {"real_logits": real, "fake_logits": fake})
    assert list(after) == ["mine"]
    np.testing.assert_allclose(after["mine"].real, 0.9 + 0.1 * real.mean(), rtol=1e-6)
    np.testing.assert_allclose(after["mine"].fake, -0.9 + 0.1 * fake.mean(), rtol=1e-6)


def test_anchors_keep_their_type():
    before = {"anchors": regularisers.Anchors(jnp.bfloat16(1), jnp.bfloat16(-1))}
    notes = dict.fromkeys(("real_logits", "fake_logits"), jnp.ones(4, jnp.bfloat16))
    after = regularisers.moving_anchors()(rng.root(0), before, notes)["anchors"]
    assert {leaf.dtype for leaf in after} == {jnp.dtype(jnp.bfloat16)}


def test_what_anchors_cannot_be_is_refused():
    for anchors in (0.0, (0.0, 0.0), None):
        with pytest.raises(ValueError, match=r"anchors must be gan\.Anchors\(real, fake\), got"):
            regularisers.lecam(anchors)
    for decay in (1, -0.1, 1.5, np.nan, "0.9", lambda step: 0.9):
        with pytest.raises(ValueError, match=r"decay must be a number in \[0, 1\), got"):
            regularisers.moving_anchors(decay=decay)
    with pytest.raises(
        ValueError, match=r"memory must hold gan\.Anchors\(\) as 'anchors', got None"
    ):
        regularisers.moving_anchors()(rng.root(0), {"other": 0}, {})
    with pytest.raises(ValueError, match=r"one number for each example .* got \[4, 3\]"):
        regularisers.lecam(regularisers.Anchors())(
            keys(), lambda x: x, *images().astype(np.float32)
        )


def test_several_remember_side_by_side():
    def drawing(name):
        return lambda key, params, notes: {name: jax.random.normal(key) + params["a"]}

    both = regularisers.remember_all(drawing("a"), drawing("b"))
    found = both(rng.root(0), {"a": 1.0, "b": 5.0}, {})
    assert sorted(found) == ["a", "b"]
    # Each has a key of its own, and sees the memory as it was.
    assert found["a"] != found["b"]
    alone = regularisers.remember_all(drawing("a"))(rng.root(0), {"a": 1.0}, {})
    assert found["a"] == alone["a"]
    with pytest.raises(ValueError, match="remembers must move different fields, got 'a' twice"):
        regularisers.remember_all(drawing("a"), drawing("a"))(rng.root(0), {"a": 1.0}, {})


# Consistency


def shifted(keys, x):
    return x + jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


@pytest.mark.parametrize("on", ["real", "fake"])
def test_consistency_is_its_formula(on):
    real, fake = images()
    x = {"real": real, "fake": fake}[on]
    made = []

    def augment(keys, x):
        made.append(np.asarray(shifted(keys, x)))
        return jnp.asarray(made[-1])

    values, slope = value_and_slope(regularisers.consistency(augment, on=on), real, fake)
    moved = x - made[0]
    np.testing.assert_allclose(values, (moved @ W) ** 2, rtol=1e-9)
    each = 2 * (moved @ W)[:, None] * moved
    np.testing.assert_allclose(slope, each.mean(0), rtol=1e-9)


def test_both_consistencies_are_terms_with_draws_of_their_own():
    both = 10 * regularisers.consistency(shifted, on="real") + 5 * regularisers.consistency(
        shifted, on="fake"
    )
    assert [term[:2] for term in both.terms] == [
        ("real_consistency", 10.0),
        ("fake_consistency", 5.0),
    ]
    x = images()[0].astype(np.float32)
    one, other = (
        regularisers.consistency(shifted, on=on)(keys(), lambda x: x[:, 0], x, x)
        for on in ("real", "fake")
    )
    assert np.all(one != other)


def test_an_augmentation_of_the_library_goes_in():
    x = np.random.default_rng(3).uniform(size=(2, 64, 6, 6, 1)).astype(np.float32)
    critic = lambda x: x[:, :, :3].sum((1, 2, 3))  # noqa: E731
    values = np.asarray(regularisers.consistency(data.flip, on="real")(keys(64), critic, *x))
    difference = np.square(critic(x[0]) - critic(x[0][:, :, ::-1]))
    flipped = values > 1e-6
    assert 16 < flipped.sum() < 48
    np.testing.assert_allclose(values[flipped], difference[flipped], rtol=1e-4)


def test_what_consistency_cannot_use_is_refused():
    for augment in (None, lambda x: x):
        with pytest.raises(ValueError, match=r"augment must be a function \(keys, images\)"):
            regularisers.consistency(augment, on="real")
    with pytest.raises(ValueError, match="unknown kind of images"):
        regularisers.consistency(shifted, on="both")
    small = regularisers.consistency(lambda keys, x: x[:, :2], on="real")
    with pytest.raises(ValueError, match=r"must keep .* \[4, 3\] float32, got \[4, 2\] float32"):
        small(keys(), lambda x: x[:, 0], *images().astype(np.float32))


# Top-k

shares = st.floats(0.01, 1)
logits = st.lists(st.integers(-40, 40).map(lambda k: k / 8), min_size=7, max_size=7)


@settings(max_examples=20)
@given(logits, shares)
def test_the_mean_is_that_of_the_most_realistic_images(fake, share):
    fake = np.array(fake, np.float32)
    num = len(fake)
    k = min(max(round(float(np.float32(share) * np.float32(num))), 1), num)
    loss = regularisers.top_k(gan.nonsaturating, share)
    found = np.asarray(loss.generator(jnp.zeros(num), jnp.asarray(fake)))
    best = np.sort(fake)[::-1][:k].astype(np.float64)
    assert (found > 0).sum() == k
    np.testing.assert_allclose(found.mean(), np.logaddexp(0, -best).mean(), rtol=1e-5)


def test_top_k_moves_the_chosen_alone_and_keeps_the_rest_of_the_loss():
    real, fake = jnp.array([0.5, 1, 2, 3]), jnp.array([1.0, -2, 3, 0.5])
    loss = regularisers.top_k(gan.relativistic, 0.5)
    assert loss.name == "top_k relativistic"
    slope = jax.grad(lambda fake: loss.generator(real, fake).mean())(fake)
    usual = jax.grad(lambda fake: gan.relativistic.generator(real, fake).sum())(fake)
    np.testing.assert_allclose(slope, np.asarray(usual) * [0.5, 0, 0.5, 0], rtol=1e-6)
    for name in ("discriminator", "probabilities"):
        assert getattr(loss, name) is getattr(gan.relativistic, name)
    # All images: the loss itself. Of equal logits the first count.
    whole = regularisers.top_k(gan.hinge, 1)
    np.testing.assert_array_equal(whole.generator(real, fake), gan.hinge.generator(real, fake))
    ties = regularisers.top_k(gan.hinge, 0.5).generator(real, jnp.ones(4))
    np.testing.assert_array_equal(ties, [-2, -2, 0, 0])


def test_a_share_may_be_traced():
    fake = jnp.array([1.0, -2, 3, 0.5])
    of_share = jax.jit(
        lambda share: regularisers.top_k(gan.nonsaturating, share).generator(fake, fake)
    )
    found = [int((of_share(share) > 0).sum()) for share in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert found == [4, 3, 2, 1, 1]


def test_what_top_k_cannot_use_is_refused():
    for share in (0, -0.5, 1.01, np.nan, "half", lambda step: 0.5):
        with pytest.raises(ValueError, match=r"share must be a number in \(0, 1\], got"):
            regularisers.top_k(gan.hinge, share)
    with pytest.raises(ValueError, match=r"loss must be a gan\.AdversarialLoss, got"):
        regularisers.top_k(gan.r1, 0.5)
    loss = regularisers.top_k(gan.hinge, 0.5)
    with devices.microbatch(), pytest.raises(ValueError, match="microbatches must be 1 with it"):
        loss.generator(jnp.zeros(4), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"one shape \[B\]"):
        loss.generator(jnp.zeros(4), jnp.zeros(3))


# Label smoothing, and defects of other libraries

EDGES = np.array([-1e4, -50, -1, 0, 1, 50, 1e4])


@pytest.mark.parametrize("loss", [gan.minimax, gan.nonsaturating], ids=lambda loss: loss.name)
@pytest.mark.parametrize("target", [0.7, 1])
def test_smoothing_is_the_cross_entropy_of_the_target(loss, target):
    made = regularisers.smoothed(loss, target=target)
    assert made.generator is loss.generator
    assert made.probabilities is loss.probabilities
    with jax.enable_x64(True):
        real, fake = jnp.asarray(EDGES), jnp.asarray(EDGES[::-1].copy())
        take = lambda real, fake: made.discriminator(real, fake)  # noqa: E731
        values = take(real, fake)
        slopes = jax.grad(lambda *logits: take(*logits).sum(), (0, 1))(real, fake)
    of_real = target * np.logaddexp(0, -EDGES) + (1 - target) * np.logaddexp(0, EDGES)
    np.testing.assert_allclose(values, of_real + np.logaddexp(0, EDGES[::-1]), rtol=1e-9)
    sigma = 1 / (1 + np.exp(-np.clip(EDGES, -700, 700)))
    np.testing.assert_allclose(slopes[0], sigma - target, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(slopes[1], sigma[::-1], rtol=1e-9, atol=1e-12)


def test_a_smoothed_target_has_a_finite_best_logit():
    """Smoothing that scales the logit, as a known library has it, is least at infinity."""
    grid = jnp.linspace(-20, 20, 4001)

    def best(loss_of_real):
        return float(grid[jnp.argmin(loss_of_real)])

    smoothed = regularisers.smoothed(gan.nonsaturating, target=0.9)
    nothing = jnp.full_like(grid, -100)  # its term is 0, to the last digit
    np.testing.assert_allclose(
        best(smoothed.discriminator(grid, nothing)), math.log(0.9 / 0.1), atol=0.011
    )
    assert best(gan.nonsaturating.discriminator(0.9 * grid, nothing)) == 20.0


def test_a_generator_learns_from_an_image_that_is_surely_generated():
    """A generator loss on clipped probabilities, as a known library has it, does not."""
    sure = jnp.full(1, -50.0)

    def clipped(fake):
        return -jnp.log(jnp.clip(jax.nn.sigmoid(fake), 1e-7, 1 - 1e-7)).sum()

    assert jax.grad(clipped)(sure) == 0
    for loss in (gan.nonsaturating, regularisers.smoothed(gan.nonsaturating)):
        slope = jax.grad(lambda fake, loss=loss: loss.generator(sure, fake).sum())(sure)
        np.testing.assert_allclose(slope, -1, rtol=1e-6)
        assert loss.generator(sure, sure) == 50


def test_what_smoothing_cannot_use_is_refused():
    for loss in (gan.hinge, gan.least_squares, gan.relativistic):
        with pytest.raises(ValueError, match=rf"loss must have the discriminator .* {loss.name!r}"):
            regularisers.smoothed(loss)
    for target in (0, 1.1, -1, np.nan):
        with pytest.raises(ValueError, match=r"target must be a number in \(0, 1\], got"):
            regularisers.smoothed(gan.minimax, target=target)
    # The loss whose generator alone is another has the same discriminator.
    best = regularisers.top_k(gan.nonsaturating, 0.5)
    assert regularisers.smoothed(best).name == "smoothed top_k nonsaturating"


# Instance noise


def test_instance_noise_is_normal_and_each_examples_own():
    x = np.random.default_rng(4).uniform(size=(2000, DIM)).astype(np.float32)
    noisy = regularisers.instance_noise(0.3)(keys(2000), x)
    assert noisy.dtype == x.dtype
    noise = (np.asarray(noisy) - x) / 0.3
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    between = np.corrcoef(noise.T)[~np.eye(DIM, dtype=bool)]
    assert np.all(np.abs(between) < 4 / np.sqrt(2000))
    few = regularisers.instance_noise(0.3)(keys(5), x[:5])
    np.testing.assert_array_equal(few, noisy[:5])
    np.testing.assert_array_equal(regularisers.instance_noise(0)(keys(5), x[:5]), x[:5])


def test_instance_noise_passes_gradients_and_keeps_the_type():
    x = jnp.ones((NUM, DIM), jnp.bfloat16)
    noisy = jax.jit(lambda sigma: regularisers.instance_noise(sigma)(keys(), x))(0.5)
    assert noisy.dtype == jnp.bfloat16
    slope = jax.grad(lambda x: regularisers.instance_noise(0.5)(keys(), x).sum())(x)
    np.testing.assert_array_equal(slope, np.ones((NUM, DIM)))


def test_what_instance_noise_cannot_use_is_refused():
    for sigma in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma must be a number of at least 0, got"):
            regularisers.instance_noise(sigma)
    with pytest.raises(ValueError, match="to follow a schedule"):
        regularisers.instance_noise(optax.linear_schedule(0.1, 0, 10))
    augment = regularisers.instance_noise(0.1)
    with pytest.raises(ValueError, match="images must be floating, got uint8"):
        augment(keys(), np.zeros((NUM, DIM), np.uint8))
    with pytest.raises(ValueError, match=r"one per example, \[4\], got \[1\]"):
        augment(keys(1), np.zeros((NUM, DIM), np.float32))


# All together

SHAPE = (6,)


def learner(**options):
    model = gan.make(nets.mlp((4,), SHAPE), nets.mlp((4,), 1, activation=jnp.tanh), latent_dim=2)
    return train.adversarial(
        model,
        lambda now: regularisers.top_k(gan.nonsaturating, now["share"]),
        optax.sgd(0.1),
        penalty=lambda now: (
            0.3 * regularisers.lecam(now["anchors"])
            + 10 * regularisers.consistency(shifted, on="real")
            + lazy_penalties.lazy(now["share"] * gan.r1, every=2)(now)
        ),
        augment=lambda now: regularisers.instance_noise(now["sigma"]),
        hyper={
            "share": 0.5,
            "sigma": optax.linear_schedule(0.1, 0.0, 10),
            "step": lambda step: step,
        },
        memory={"anchors": regularisers.Anchors()},
        remember=regularisers.moving_anchors(decay=0.5),
        **options,
    )


def batch():
    return np.random.default_rng(5).normal(size=(8, *SHAPE)).astype(np.float32)


@pytest.mark.costly
def test_a_learner_has_them_in_its_usual_step():
    made = learner()
    state = made.init(rng.root(0), batch())
    step = jax.jit(made.step)
    state, first = step(rng.at_step(rng.root(1), 0), state, batch())
    assert isinstance(state.memory["anchors"], regularisers.Anchors)
    after, second = step(rng.at_step(rng.root(1), 1), state, batch())
    assert all(np.isfinite(value) for value in second.values())
    assert {"lecam", "real_consistency", "r1"} < first.keys()
    assert first["r1"] > 0 == second["r1"]
    # Half of the way to the mean logit of the step, which the discriminator's loss bounds.
    moved = 2 * np.asarray(after.memory["anchors"]) - np.asarray(state.memory["anchors"])
    assert np.all(moved != 0)
    assert np.all(np.abs(moved) < second["discriminator_loss"] + 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pmap", "sharded"])
def test_devices_do_not_change_them(how):
    alone, spread = learner(), train.over_devices(learner(), how, jax.devices()[:2])
    states = []
    for made in (alone, spread):
        *_, point = train.run(
            made, rng.root(0), lambda key, step: jnp.asarray(batch()), num_steps=3
        )
        states.append(point.state)
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_memory_that_is_not_there_is_named():
    remember = gan.moving_probability()
    with pytest.raises(ValueError, match="the memory must hold a probability as 'probability'"):
        remember(rng.root(0), {}, {})
