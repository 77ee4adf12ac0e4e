"""Conditional VAEs, batches of several arrays, and parts that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genmod import nets, rng, train, vae
from genmod.types import Net

SHAPE, CLASSES, DIM = (4, 4, 1), 3, 2


def conditional(net):
    """A network of an example and its class, as a user writes it."""

    def joined(x, c):
        return jnp.concatenate([x.reshape(len(x), -1), jax.nn.one_hot(c, CLASSES)], axis=1)

    return Net(
        lambda key, x, c: net.init(key, joined(x, c)),
        lambda params, x, c: net.apply(params, joined(x, c)),
    )


def split(batch):
    return batch["x"], batch["y"]


ENCODER, DECODER = nets.mlp((6,), 2 * DIM, heads=2), nets.mlp((6,), SHAPE)


def cvae(encoder=ENCODER, decoder=DECODER, **options):
    return vae.make(
        conditional(encoder), conditional(decoder), latent_dim=DIM, condition=split, **options
    )


def labelled(num=12):
    labels = jnp.arange(num) % CLASSES
    # A class fills one row of its images.
    images = jnp.zeros((num, *SHAPE)).at[jnp.arange(num), labels].set(1.0)
    return {"x": images, "y": labels}


def images(num=5):
    return jax.random.uniform(rng.root(0), (num, *SHAPE))


def keys(num, seed=1):
    return rng.per_example(rng.root(seed), num)


@pytest.mark.costly
def test_a_conditional_vae_draws_the_class_that_is_asked_for():
    model, batch = cvae(), labelled()
    learner = train.learner(model.init, vae.elbo(model), optax.adam(3e-2))
    state = learner.init(rng.root(0), batch)
    step = jax.jit(learner.step)
    for i in range(200):
        state, metrics = step(rng.at_step(rng.root(1), i), state, batch)
    assert metrics["loss"] < 3
    asked = jnp.array([2, 0, 1, 1])
    drawn = vae.generate(model)(keys(4, 2), state.params, asked)
    np.testing.assert_array_equal(drawn.sum((2, 3)).argmax(1), asked)


def test_the_condition_reaches_both_networks_and_every_function():
    model, batch = cvae(), labelled()
    x, y = model.condition(batch)
    assert x is batch["x"]
    assert y is batch["y"]
    params = model.init(rng.root(0), batch)
    other = (y + 1) % CLASSES
    assert not np.allclose(model.encode(params, x, y)[0], model.encode(params, x, other)[0])
    z = jnp.zeros((12, DIM))
    assert not np.allclose(model.decode(params, z, y), model.decode(params, z, other))

    mean, logvar = model.encode(params, x, y)
    loss, aux = vae.elbo(model)(keys(12), params, batch)
    z = model.sample(keys(12), mean, logvar)
    reconstruction = -vae.bernoulli.log_prob(model.decode(params, z, y), x)
    np.testing.assert_allclose(aux["reconstruction"], reconstruction, rtol=1e-6)
    np.testing.assert_allclose(loss, reconstruction + vae.kl_divergence(mean, logvar), rtol=1e-6)
    article, _ = vae.article_loss(model, kl_weight=0.5)(keys(12), params, batch)
    np.testing.assert_allclose(article, reconstruction / 16 + 0.5 * 2 * aux["kl"] / DIM, rtol=1e-6)

    expected = jax.nn.sigmoid(model.decode(params, mean, y))
    np.testing.assert_allclose(vae.reconstruct(model)(params, batch), expected, rtol=1e-6)
    z = jnp.zeros((12, DIM))
    np.testing.assert_allclose(
        vae.decode_mean(model)(params, z, y), jax.nn.sigmoid(model.decode(params, z, y)), rtol=1e-6
    )


def test_one_conditional_network_is_enough():
    # The decoder alone knows the class, the encoder alone, or a network that can do without.
    optional = Net(
        lambda key, z, c=None: DECODER.init(key, z),
        lambda params, z, c=None: DECODER.apply(params, z),
    )
    for encoder, decoder in (
        (ENCODER, conditional(DECODER)),
        (conditional(ENCODER), DECODER),
        (ENCODER, optional),
    ):
        model = vae.make(encoder, decoder, latent_dim=DIM, condition=split)
        params = model.init(rng.root(0), labelled())
        loss, _ = vae.elbo(model)(keys(12), params, labelled())
        assert loss.shape == (12,)
    vae.make(ENCODER, optional, latent_dim=DIM).init(rng.root(0), images())


def test_a_condition_may_be_any_tree():
    def attributed(batch):
        return batch["x"], {"y": batch["y"], "half": batch["x"][:, :2]}

    decoder = Net(
        lambda key, z, c: DECODER.init(key, z),
        lambda params, z, c: DECODER.apply(params, z).at[:, :2].add(c["half"]),
    )
    model = vae.make(ENCODER, decoder, latent_dim=DIM, condition=attributed)
    params = model.init(rng.root(0), labelled())
    assert vae.reconstruct(model)(params, labelled()).shape == (12, *SHAPE)


def test_a_model_without_condition_is_as_it_was():
    model, x = vae.make(ENCODER, DECODER, latent_dim=DIM), images()
    assert model.condition(x) == (x, None)
    params = model.init(rng.root(0), x)
    mean, _ = model.encode(params, x)
    expected = jax.nn.sigmoid(model.decode(params, mean))
    np.testing.assert_array_equal(vae.reconstruct(model)(params, x), expected)
    # The parameters of each network come from a stream with its name.
    encoder = ENCODER.init(rng.stream(rng.root(0), "encoder"), x)
    decoder = DECODER.init(rng.stream(rng.root(0), "decoder"), jnp.zeros((5, DIM)))
    jax.tree.map(np.testing.assert_array_equal, params, vae.VaeParams(encoder, decoder, ()))


def test_networks_and_condition_must_agree():
    with pytest.raises(ValueError, match="neither the encoder nor the decoder takes a condition"):
        vae.make(ENCODER, DECODER, latent_dim=DIM, condition=split)
    with pytest.raises(ValueError, match=r"condition must be .* the encoder needs .* got None"):
        vae.make(conditional(ENCODER), DECODER, latent_dim=DIM)
    with pytest.raises(ValueError, match=r"condition must be .* the decoder needs .* got None"):
        vae.make(ENCODER, conditional(DECODER), latent_dim=DIM)
    with pytest.raises(ValueError, match=r"condition must be a function .* got 'y'"):
        vae.make(ENCODER, conditional(DECODER), latent_dim=DIM, condition="y")


def test_a_condition_that_does_not_fit_is_refused():
    model, batch = cvae(), labelled()
    params = model.init(rng.root(0), batch)
    x, y = split(batch)
    z = jnp.zeros((12, DIM))
    for what, call in (
        ("encoder", lambda: model.encode(params, x)),
        ("decoder", lambda: model.decode(params, z)),
        ("decoder", lambda: vae.decode_mean(model)(params, z)),
        ("decoder", lambda: vae.generate(model)(keys(12), params)),
    ):
        with pytest.raises(ValueError, match=f"c must be given, as the {what} needs a condition"):
            call()
    with pytest.raises(ValueError, match=r"c, which condition returns, must be arrays .* got None"):
        model.init(rng.root(0), {"x": x, "y": None})
    for c in (y[:5], jnp.float32(3), {"a": y, "b": y[:5]}, {}, [1, 2]):
        for call in (
            lambda c=c: model.encode(params, x, c),
            lambda c=c: model.decode(params, z, c),
            lambda c=c: model.condition({"x": x, "y": c}),
            lambda c=c: vae.generate(model)(keys(12, 3), params, c),
        ):
            with pytest.raises(ValueError, match=r"c.* must be arrays \[12, ...\], .* got"):
                call()

    plain = vae.make(ENCODER, DECODER, latent_dim=DIM)
    params = plain.init(rng.root(0), x)
    for what, call in (
        ("encoder", lambda: plain.encode(params, x, y)),
        ("decoder", lambda: plain.decode(params, z, y)),
    ):
        with pytest.raises(ValueError, match=f"the model of this {what} was made without cond"):
            call()


def test_a_batch_that_is_not_images_is_refused():
    plain = vae.make(ENCODER, DECODER, latent_dim=DIM)
    for refuse in (lambda x: plain.init(rng.root(0), x), plain.init.check):
        with pytest.raises(ValueError, match=r"images \[B, ...\], got a dict of 'x', 'y'; vae\.m"):
            refuse(labelled())
    wrong = {"an array": lambda batch: batch["x"], "a tuple of 3": lambda batch: (1, 2, 3)}
    for got, function in wrong.items():
        model = vae.make(ENCODER, conditional(DECODER), latent_dim=DIM, condition=function)
        with pytest.raises(ValueError, match=rf"condition must return \(x, c\), got {got}"):
            model.init(rng.root(0), labelled())


def test_the_values_of_a_batch_are_checked_by_its_parts():
    def init(key, z, c):
        if not isinstance(c, jax.core.Tracer) and np.max(c) >= CLASSES:
            raise ValueError(f"labels must be less than {CLASSES}")
        return DECODER.init(key, z)

    decoder = Net(init, lambda params, z, c: DECODER.apply(params, z))
    model, batch = vae.make(ENCODER, decoder, latent_dim=DIM, condition=split), labelled()
    model.init.check(batch)
    with pytest.raises(ValueError, match=r"images must lie in .*\[0, 1\], got values from 0 to 2"):
        model.init.check({**batch, "x": 2 * batch["x"]})
    with pytest.raises(ValueError, match="labels must be less than 3"):
        model.init.check({**batch, "y": batch["y"] + 1})


def log_prob(reduce):
    return lambda logits, x: -reduce(jnp.square(logits - x))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"likelihood": vae.Likelihood(log_prob(jnp.sum), jax.nn.sigmoid)},
            r"likelihood.log_prob must return one number .* \[B\] = \[5\] .*an array float32 \[\]",
        ),
        (
            {"likelihood": vae.Likelihood(log_prob(lambda v: v.sum(3)), jax.nn.sigmoid)},
            r"likelihood.log_prob .*got an array float32 \[5, 4, 4\]",
        ),
        (
            {"likelihood": vae.Likelihood(lambda logits, x: 0.0, jax.nn.sigmoid)},
            r"likelihood.log_prob .*got 0\.0",
        ),
        (
            {"prior": lambda dim: vae.standard_normal(dim + 1)._replace(latent_dim=None)},
            r"prior.sample must return \[B, latent_dim\] = \[5, 2\] .*array float32 \[5, 3\]",
        ),
        (
            {"prior": lambda dim: prior(log_prob=lambda params, z, posterior: z)},
            r"prior.log_prob must return one number .*got an array float32 \[5, 2\]",
        ),
        (
            {"prior": lambda dim: prior(kl_divergence=lambda params, mean, logvar: mean.sum())},
            r"prior.kl_divergence must return one number .*got an array float32 \[\]",
        ),
        (
            {"posterior": lambda dim: posterior(sample=lambda keys, mean, logvar: mean[:, :1])},
            r"posterior.sample must return \[B, latent_dim\] = \[5, 2\] .*\[5, 1\]",
        ),
        (
            {"posterior": lambda dim: posterior(log_prob=lambda z, mean, logvar: (z, z))},
            r"posterior.log_prob must return one number .*got a tuple of 2",
        ),
    ],
)
def test_densities_and_draws_of_another_shape_are_refused(part, message):
    # A scalar, the mean or sum over a batch, would be broadcast and trained on in silence.
    model = vae.make(ENCODER, DECODER, latent_dim=DIM, **part)
    with pytest.raises(ValueError, match=message):
        model.init(rng.root(0), images())


def prior(**parts):
    return vae.standard_normal(DIM)._replace(**parts)


def posterior(**parts):
    return vae.diagonal_normal(DIM)._replace(**parts)


def test_an_encoder_that_mixes_its_batch_is_refused():
    mean = Net(ENCODER.init, lambda params, x: ENCODER.apply(params, x).mean(0, keepdims=True))
    model = vae.make(mean, DECODER, latent_dim=DIM)
    with pytest.raises(ValueError, match=r"encoder's output must be arrays \[5, ...\].*\[1, 4\]"):
        model.init(rng.root(0), images())


@pytest.mark.parametrize("place", ["encoder", "decoder"])
def test_networks_that_normalise_over_their_batch_are_refused(place):
    norms = {"encoder": {}, "decoder": {}, place: {"norm": "batch"}}
    model = vae.make(
        nets.mlp((4,), 4, **norms["encoder"]),
        nets.mlp((4,), (2, 2, 1), **norms["decoder"]),
        latent_dim=2,
    )
    with pytest.raises(ValueError, match="must not use the statistics of their batch"):
        model.init(rng.root(0), jnp.ones((3, 2, 2, 1)))


def test_bytes_are_not_encoded():
    model = vae.make(nets.mlp((4,), 4), nets.mlp((4,), (2, 2, 1)), latent_dim=2)
    params = model.init(rng.root(0), jnp.ones((3, 2, 2, 1)))
    with pytest.raises(ValueError, match="images to encode must be floating, as prepare"):
        model.encode(params, np.ones((3, 2, 2, 1), np.uint8))
