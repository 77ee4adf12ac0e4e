"""Entries of the contracts: what a public factory makes of tiny networks, and how it is called."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from genmod import gan, nets, vae

B, L, CLASSES, SHAPE = 8, 2, 3, (4, 4, 1)


class Data(NamedTuple):
    """One batch, of which every entry takes what it needs."""

    x: Any
    label: Any
    fake: Any
    logits: Any
    z: Any
    mean: Any
    logvar: Any
    real_logits: Any
    fake_logits: Any


def data():
    random = np.random.default_rng(0)
    x, fake = random.uniform(size=(2, B, *SHAPE)).astype(np.float32)
    shapes = [(B, *SHAPE), *[(B, L)] * 3, *[(B,)] * 2]
    normal = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    return Data(x, random.integers(0, CLASSES, B).astype(np.int32), fake, *normal)


DATA = data()


class Entry(NamedTuple):
    """What a factory has made, and how it is called.

    Attributes:
      made: the function, model or loss.
      apply: `(made, keys [B], params, data) -> tree of arrays`, one value per example each.
      init: `(key, data) -> params`; None if there is nothing to learn.
      scalar: whether values are one number per example, [B].
      sums: whether values are sums of nats or squares, which are in float32 at least.
      looks: why an example's values depend on other examples; "" if they do not.
      regroups: why that is not refused in microbatches.
    """

    made: Any
    apply: Callable[..., Any]
    init: Callable[..., Any] | None = None
    scalar: bool = False
    sums: bool = False
    looks: str = ""
    regroups: str = ""


def mlp(out, **options):
    # Not piecewise linear: a penalty's gradient would not depend on the point.
    return nets.mlp((4,), out, activation=jnp.tanh, **options)


of_class = functools.partial(nets.conditional, classes=CLASSES)
ENCODER, DECODER, CRITIC, SMALL = mlp(2 * L), mlp(SHAPE), mlp(1), mlp(2)
GIVEN = {"latent_dim": L, "condition": lambda batch: (batch.x, batch.label)}
# Each of images, and of images with labels.
VAES = (
    vae.make(ENCODER, DECODER, latent_dim=L),
    vae.make(of_class(ENCODER), of_class(DECODER), **GIVEN),
)
GANS = (
    gan.make(DECODER, CRITIC, latent_dim=L),
    gan.make(of_class(DECODER), of_class(CRITIC), **GIVEN),
)


def of_model(models, made, apply, **options):
    """Entries of what is made of a model: of one of images, and one of images with labels."""
    plain, given = models
    return {
        "": Entry(
            made(plain),
            lambda f, keys, p, d: apply(f, keys, p, d.x, None, d),
            lambda key, d: plain.init(key, d.x),
            **options,
        ),
        " of a condition": Entry(
            made(given),
            lambda f, keys, p, d: apply(f, keys, p, d, d.label, d),
            given.init,
            **options,
        ),
    }


def objective(made, models=VAES, **options):
    apply = lambda f, keys, p, batch, c, d: f(keys, p, batch)  # noqa: E731
    return of_model(models, made, apply, **{"scalar": True, "sums": True, **options})


def whole_batch(made):
    """The loss alone: of the other numbers, some are of single examples."""
    apply = lambda f, keys, p, batch, c, d: f(keys, p, batch)[0]  # noqa: E731
    looks = "compares the codes of its batch"
    return of_model(VAES, made, apply, scalar=True, sums=True, looks=looks)


def loss(made, **options):
    def apply(loss, keys, params, d):
        logits = d.real_logits, d.fake_logits
        return loss.discriminator(*logits), loss.generator(*logits), loss.probabilities(*logits)

    return Entry(made, apply, scalar=True, **options)


def penalty(made, **options):
    def apply(penalty, keys, params, d):
        return penalty(keys, lambda x: GANS[0].discriminate(params, x), d.x, d.fake)

    init = lambda key, d: GANS[0].init(key, d.x)  # noqa: E731
    return Entry(made, apply, init, scalar=True, sums=True, **options)


def net(made, take=lambda d: (d.x,), **options):
    apply = lambda net, keys, params, d: net(params, *take(d))  # noqa: E731
    return Entry(made, apply, lambda key, d: made.initial(key, *take(d)), **options)


number = functools.partial(Entry, scalar=True, sums=True)
of_vae, of_gan = functools.partial(of_model, VAES), functools.partial(of_model, GANS)
of_latent = functools.partial(net, take=lambda d: (d.z,))
of_label = functools.partial(net, take=lambda d: (d.x, d.label))


def flow(made, context=0):
    """The log-determinants of both ways; the context is taken from the data."""

    def apply(f, keys, params, d):
        h = jnp.tile(d.mean, context)[:, : f.context] if f.context else None
        return f.forward(params, d.z, h)[1], f.inverse(params, d.z, h)[1]

    return number(made, apply, lambda key, d: made.init(key))


def posterior(made, width):
    """The density at a draw and at the data; the encoder's output is the data."""

    def apply(q, keys, shared, d):
        output = jnp.tile(jnp.concatenate([d.mean, d.logvar], 1), width)[:, :width]
        parameters = q.split(output, *([] if q.init is None else [shared]))
        return q.log_prob(q.sample(keys, *parameters), *parameters)

    init = None if made.init is None else lambda key, d: made.init(key)
    return number(made, apply, init)


def prior(made):
    """The density at a draw and at the data; the model's encoder is that of `VAES`."""

    def apply(p, keys, params, d):
        encode = lambda x: (x[:, 0, :2, 0], x[:, 1, :2, 0])  # noqa: E731
        return p.log_prob(params, p.sample(keys, params, encode), encode), p.log_prob(
            params, d.z, encode
        )

    return number(made, apply, lambda key, d: made.init(key, d.x))


LOOKS = {
    "relativistic_average": "compares with the mean logits of the batch",
    "dragan": "its noise has the deviation of the batch's values",
    "batch": "batch normalisation takes mean and variance over the batch",
    "packed": "judges consecutive examples together",
}
