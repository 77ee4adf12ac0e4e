"""Games against a critic: their losses by hand, what each player moves, and the best critic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import devices, nets, rng, train, vae
from genmod.types import Net
from genmod.vae.games import adversarial, factor, vae_gan

B, L, SHAPE = 4, 3, (4, 4, 1)
X = np.random.default_rng(0).uniform(size=(B, *SHAPE)).astype(np.float32)
mlp = functools.partial(nets.mlp, activation=jnp.tanh)
MODEL = vae.make(mlp((4,), 2 * L), mlp((4,), SHAPE), latent_dim=L)
CRITIC, FEATURES, TOP = mlp((4,), 1), mlp((4,), 5, output=jnp.tanh), mlp((), 1)
SGD = optax.sgd(0.1)
softplus = jax.nn.softplus


def keys(seed=1, num=B):
    return rng.per_example(rng.root(seed), num)


@functools.cache
def initial(name):
    return jax.jit(GAMES[name].init)(rng.root(0), X)


GAMES = {
    "factor": factor(MODEL, CRITIC, gamma=10.0),
    "adversarial": adversarial(MODEL, CRITIC, weight=3.0),
    "adversarial of means": adversarial(MODEL, CRITIC, deterministic=True),
    "vae_gan": vae_gan(MODEL, FEATURES, TOP, gamma=7.0),
}


def found(name, player):
    return jax.jit(GAMES[name].objectives[player])(keys(), initial(name), X)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_factor_vae_is_the_elbo_and_its_critic():
    @jax.jit
    def by_hand(params):
        parameters = MODEL.encode(params["vae"], X)
        logit = CRITIC(params["critic"], MODEL.sample(keys(), *parameters))[:, 0]
        loss, terms = vae.elbo(MODEL)(keys(), params["vae"], X)
        return loss + 10 * logit, {**terms, "total_correlation": logit}

    jax.tree.map(close, found("factor", "vae"), by_hand(initial("factor")))


def test_the_critic_sees_codes_and_codes_whose_latents_are_permuted():
    weigh = Net(lambda key, z: jnp.zeros(L), lambda weights, z: z @ weights)
    made = factor(MODEL, weigh, gamma=1.0)
    many, num = np.tile(X, (50, 1, 1, 1)), 50 * B

    @jax.jit
    def seen(params):
        def loss(weights):
            own = {"vae": params, "critic": weights}
            return made.objectives["critic"](keys(num=num), own, many)[0]

        parameters = MODEL.encode(params, many)
        codes = MODEL.sample(rng.stream(keys(num=num), "codes"), *parameters)
        losses = jax.vmap(loss, out_axes=1)(jnp.eye(L))
        return softplus(codes), 2 * losses - softplus(-codes)  # softplus of what is permuted

    codes, mixed = map(np.asarray, seen(initial("factor")["vae"]))
    close(np.sort(mixed, axis=0), np.sort(codes, axis=0))
    sources = np.argmin(np.abs(codes[:, None] - mixed[None]), axis=0)  # [B, L]
    close(np.take_along_axis(codes, sources, 0), mixed)
    for i in range(L):
        assert np.mean(sources[:, i] == np.arange(num)) < 0.1
        assert np.mean(sources[:, i] == sources[:, i - 1]) < 0.1


def gaussian(correlation=0.8):
    """A VAE whose aggregate posterior is a Gaussian with this correlation, and the best critic."""
    spread = 0.15  # the variance of q(z | x)
    root = np.linalg.cholesky(np.array([[1, correlation], [correlation, 1]]) - spread * np.eye(2))
    root = jnp.asarray(root, jnp.float32)

    def encode(params, x):
        logvars = jnp.full((len(x), 2), np.log(spread))
        return jnp.concatenate([x @ root.T, logvars], axis=1)

    def log_ratio(params, z):
        first, second = z.T
        rest = 1 - correlation**2
        squares = (first**2 + second**2 - 2 * correlation * first * second) / rest
        exact = -0.5 * (np.log(rest) + squares - first**2 - second**2)
        return params["scale"] * exact + params["offset"]

    likelihood = vae.Likelihood(lambda mean, x: vae.log_normal(x, mean), mean=lambda mean: mean)
    model = vae.make(
        Net(lambda key, x: (), encode),
        Net(lambda key, z: (), lambda params, z: z),
        latent_dim=2,
        likelihood=likelihood,
    )
    best = {"scale": jnp.ones(()), "offset": jnp.zeros(())}
    return model, Net(lambda key, z: best, log_ratio), -0.5 * np.log(1 - correlation**2)


def test_the_best_critic_of_a_gaussian_tells_its_total_correlation():
    model, critic, correlation = gaussian()
    made = factor(model, critic, gamma=1.0)
    num = 40_000
    x = jax.random.normal(rng.root(3), (num, 2))
    params = made.init(rng.root(0), x[:2])
    _, aux = jax.jit(made.objectives["vae"])(keys(num=num), params, x)
    values = np.asarray(aux["total_correlation"], np.float64)
    assert abs(values.mean() - correlation) < 4 * values.std() / np.sqrt(num)

    # It is the best one: its loss is stationary, in batches that are not of one another.
    def slope(key, x):
        def loss(critic):
            own = {**params, "critic": critic}
            return made.objectives["critic"](rng.per_example(key, len(x)), own, x)[0].mean()

        return jax.grad(loss)(params["critic"])

    parts = jax.jit(jax.vmap(slope))(rng.per_example(rng.root(4), 100), x.reshape(100, -1, 2))
    for name, slopes in parts.items():
        error = np.std(slopes, ddof=1) / 10
        assert error < 0.01, name
        assert abs(np.mean(slopes)) < 4 * error + 0.002, name


@pytest.mark.parametrize(("name", "weight"), [("adversarial", 3), ("adversarial of means", 1)])
def test_the_adversarial_autoencoder_fools_a_critic_of_codes(name, weight):
    @jax.jit
    def by_hand(params):
        parameters = MODEL.encode(params["vae"], X)
        z = MODEL.sample(rng.stream(keys(), "codes"), *parameters)
        z = parameters[0] if name.endswith("means") else z
        prior = MODEL.prior.sample(rng.stream(keys(), "prior"), ())
        code, real = (CRITIC(params["critic"], one)[:, 0] for one in (z, prior))
        reconstruction = -MODEL.likelihood.log_prob(MODEL.decode(params["vae"], z), X)
        loss = reconstruction + weight * softplus(-code)
        told = softplus(-real) + softplus(code)
        return (loss, {"reconstruction": reconstruction}), (told, {})

    both = found(name, "vae"), found(name, "critic")
    jax.tree.map(close, both, by_hand(initial(name)))


def test_the_vae_gan_has_the_losses_of_its_three_players():
    @jax.jit
    def by_hand(params):
        own = vae.VaeParams(params["encoder"], params["decoder"], ())
        parameters = MODEL.encode(own, X)
        z = MODEL.sample(rng.stream(keys(), "posterior"), *parameters)
        drawn = vae.generate(MODEL)(rng.stream(keys(), "prior"), own)
        images = X, vae.decode_mean(MODEL)(own, z), drawn
        seen = [FEATURES(params["discriminator"]["features"], image) for image in images]
        real, again, new = (TOP(params["discriminator"]["top"], h)[:, 0] for h in seen)
        distance = 0.5 * jnp.square(seen[0] - seen[1]).sum(1)
        kl = vae.kl_divergence(*parameters)
        fooled = softplus(-again) + softplus(-new)
        told = softplus(-real) + softplus(again) + softplus(new)
        encoder = kl + distance, {"kl": kl, "distance": distance}
        return encoder, (7 * distance + fooled, {}), (told, {})

    players = ("encoder", "decoder", "discriminator")
    losses = tuple(found("vae_gan", player) for player in players)
    jax.tree.map(close, losses, by_hand(initial("vae_gan")))


@pytest.mark.costly
@pytest.mark.parametrize(
    "name", [pytest.param("adversarial", marks=pytest.mark.slow), "factor", "vae_gan"]
)
def test_each_player_moves_its_own_field_down_its_own_loss(name):
    made = GAMES[name]
    players = {player: train.Player(loss, SGD) for player, loss in made.objectives.items()}
    learner = train.game(made.init, players, order="at once", sample=made.sample)

    def step(params):
        state = jax.eval_shape(learner.init, rng.root(0), X)
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        return learner.step(rng.root(1), state._replace(params=params), X)

    def slopes(params):
        for player, loss in made.objectives.items():
            own = rng.per_example(rng.at_step(rng.stream(rng.root(1), player), 0), B)

            def mean(field, player=player, loss=loss, own=own):
                return loss(own, {**params, player: field}, X)[0].mean()

            yield player, jax.value_and_grad(mean)(params[player])

    both = jax.jit(lambda params: (step(params), dict(slopes(params))))
    before = initial(name)
    (after, metrics), expected = both(before)
    for player, (value, gradient) in expected.items():
        close(metrics[f"{player}_loss"], value)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, before[player], gradient)
        jax.tree.map(close, after.params[player], moved)
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert set(after.params) - set(made.objectives) <= {"prior"}
    images = learner.sample(rng.root(2), after, 5)
    own = after.params.get("vae") or vae.VaeParams(
        *(after.params[field] for field in vae.VaeParams._fields)
    )
    close(images, vae.generate(MODEL)(rng.per_example(rng.root(2), 5), own))
    with pytest.raises(ValueError, match=r"images must lie in the likelihood's range"):
        learner.check(2 + X)


def test_the_critic_of_permutations_looks_at_its_whole_batch():
    objectives = GAMES["factor"].objectives
    assert objectives["critic"].whole_batch
    assert not hasattr(objectives["vae"], "whole_batch")
    with devices.microbatch(), pytest.raises(ValueError, match="factor's critic compares"):
        objectives["critic"](keys(), initial("factor"), X)


CONDITIONAL = nets.conditional(CRITIC, 3)


def learned(latent_dim):
    plain = vae.standard_normal(latent_dim)
    return plain._replace(init=lambda key, x: jnp.zeros(3), is_standard_normal=False)


def with_prior(prior):
    return vae.make(mlp((4,), 2 * L), mlp((4,), SHAPE), latent_dim=L, prior=prior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: factor(MODEL, CRITIC, gamma=-1), "gamma must be a number of at least 0"),
        (lambda: adversarial(MODEL, CRITIC, weight=-1), "weight must be a number of at least 0"),
        (lambda: vae_gan(MODEL, FEATURES, TOP, gamma=-1), "gamma must be a number of at least 0"),
        (lambda: factor(MODEL, CONDITIONAL, gamma=1), "critic must be a network without condition"),
        (lambda: adversarial(MODEL, CONDITIONAL), "critic must be a network without condition"),
        (lambda: vae_gan(MODEL, CONDITIONAL, TOP, gamma=1), "features must be a network without"),
        (lambda: vae_gan(MODEL, FEATURES, CONDITIONAL, gamma=1), "top must be a network without"),
        (
            lambda: adversarial(with_prior(learned), CRITIC).init(rng.root(0), X),
            "adversarial needs a prior without parameters",
        ),
        (
            lambda: vae_gan(with_prior(learned), FEATURES, TOP, gamma=1).init(rng.root(0), X),
            "vae_gan needs a prior without parameters",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", sorted(GAMES))
def test_each_image_has_a_key(name):
    for loss in GAMES[name].objectives.values():
        with pytest.raises(ValueError, match=r"keys must be one per example, \[4\], got \[1\]"):
            loss(keys(num=1), initial(name), X)


def test_logits_are_one_per_image():
    wide = factor(MODEL, mlp((4,), 2), gamma=1)
    with pytest.raises(ValueError, match=r"critic must return logits \[B\] or \[B, 1\]"):
        wide.objectives["vae"](keys(), wide.init(rng.root(0), X), X)


def test_a_learned_prior_of_the_factor_vae_moves_with_it():
    made = factor(with_prior(learned), CRITIC, gamma=1)
    assert made.init(rng.root(0), X)["vae"].prior.shape == (3,)


def test_the_critic_of_one_example_is_refused():
    game = factor(MODEL, CRITIC, gamma=1.0)
    params = game.init(rng.root(0), X)
    with pytest.raises(ValueError, match="the critic of factor compares examples"):
        game.objectives["critic"](rng.per_example(rng.root(0), 1), params, X[:1])
