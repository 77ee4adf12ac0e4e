"""Every public factory of genmod, what it makes of tiny networks, and a batch for all of them.

`tests/test_contracts.py` walks these tables. A new factory is entered in `TABLE`, a new kind of
learner in `LEARNERS`; any other public function is one of `EXCEPTIONS`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from genmod import gan, nets, rng, train, vae
from genmod.types import Parts

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


def objective(made):
    apply = lambda f, keys, p, batch, c, d: f(keys, p, batch)  # noqa: E731
    return of_model(VAES, made, apply, scalar=True, sums=True)


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
LOOKS = {
    "relativistic_average": "compares with the mean logits of the batch",
    "dragan": "its noise has the deviation of the batch's values",
    "batch": "batch normalisation takes mean and variance over the batch",
    "packed": "judges consecutive examples together",
}
TABLE = {
    "vae.elbo": objective(lambda model: vae.elbo(model, beta=2.0)),
    "vae.article_loss": objective(vae.article_loss),
    "vae.capacity": objective(lambda model: vae.capacity(model, weight=2.0, nats=1.0)),
    "vae.free_bits": objective(lambda model: vae.free_bits(model, nats=0.5)),
    "vae.iwae": objective(lambda model: vae.iwae(model, num_samples=3, estimator="dreg")),
    "vae.miwae": objective(lambda model: vae.miwae(model, num_groups=2, num_samples=2)),
    "vae.piwae": objective(lambda model: vae.piwae(model, num_groups=2, num_samples=2)),
    "vae.ciwae": objective(lambda model: vae.ciwae(model, num_samples=3, beta=0.3)),
    "vae.log_weight": objective(vae.log_weight),
    "vae.bernoulli": number(vae.bernoulli, lambda p, keys, _, d: p.log_prob(d.logits, d.x)),
    **{
        f"vae.{name}": number(
            likelihood,
            lambda p, keys, _, d, times=times: p.log_prob(jnp.tile(d.logits, times), d.x),
        )
        for name, likelihood, times in (
            ("continuous_bernoulli", vae.continuous_bernoulli(), 1),
            ("gaussian", vae.gaussian(std=0.5), 1),
            ("laplace", vae.laplace(scale=0.5), 1),
            ("discretised_logistic", vae.discretised_logistic(), 2),
            ("categorical", vae.categorical(), 256),
        )
    },
    "vae.kl_divergence": number(vae.kl_divergence, lambda kl, keys, _, d: kl(d.mean, d.logvar)),
    "vae.log_normal": number(vae.log_normal, lambda p, keys, _, d: p(d.z, d.mean, d.logvar)),
    "vae.kl_normal": Entry(
        vae.kl_normal, lambda kl, keys, _, d: kl(d.mean, d.logvar, d.z, 0.0), sums=True
    ),
    "vae.standard_normal": number(
        vae.standard_normal(L),
        lambda p, keys, params, d: (
            p.log_prob(params, p.sample(keys, params)),
            p.log_prob(params, d.z),
            p.kl_divergence(params, d.mean, d.logvar),
        ),
    ),
    "vae.diagonal_normal": number(
        vae.diagonal_normal(L),
        lambda q, keys, _, d: q.log_prob(
            q.sample(keys, d.mean, d.logvar), *q.split(jnp.concatenate([d.mean, d.logvar], 1))
        ),
    ),
    "vae.make": of_vae(
        lambda model: model,
        lambda m, keys, p, batch, c, d: (
            m.condition(batch),
            m.encode(p, d.x, c),
            m.decode(p, d.z, c),
            m.sample(keys, d.mean, d.logvar),
        ),
    ),
    "vae.generate": of_vae(vae.generate, lambda f, keys, p, batch, c, d: f(keys, p, c)),
    "vae.decode_mean": of_vae(vae.decode_mean, lambda f, keys, p, batch, c, d: f(p, d.z, c)),
    "vae.reconstruct": of_vae(vae.reconstruct, lambda f, keys, p, batch, c, d: f(p, batch)),
    **{f"gan.{n}": loss(made, looks=LOOKS.get(n, "")) for n, made in gan.LOSSES.items()},
    **{
        f"gan.{n}": penalty(getattr(gan, n), looks=LOOKS.get(n, ""))
        for n in ("r1", "r2", "gradient_penalty", "dragan")
    },
    "gan.weighted": penalty(gan.weighted((0.5, gan.r1), (0.0, gan.r2))),
    "gan.normal_latent": Entry(gan.normal_latent(L), lambda f, keys, _, d: f(keys)),
    "gan.uniform_latent": Entry(gan.uniform_latent(L), lambda f, keys, _, d: f(keys)),
    "gan.make": of_gan(
        lambda model: model,
        lambda m, keys, p, batch, c, d: (
            m.condition(batch),
            m.generate(p, m.latent(keys), c),
            m.discriminate(p, d.x, c),
        ),
    ),
    "gan.packed": net(
        gan.packed(CRITIC, 2),
        looks=LOOKS["packed"],
        regroups="a microbatch forms packs of its own examples, as any batch does",
    ),
    "nets.mlp": {
        "": net(SMALL),
        " with group normalisation": net(mlp(2, norm="group")),
        " with batch normalisation": net(mlp(2, norm="batch"), looks=LOOKS["batch"]),
    },
    "nets.maxout": net(nets.mlp((4,), 2, activation=nets.maxout(2))),
    "nets.dcgan_generator": of_latent(nets.dcgan_generator(SHAPE, width=2)),
    "nets.dcgan_discriminator": net(nets.dcgan_discriminator(width=2)),
    "nets.conditional": of_label(of_class(SMALL)),
    "nets.per_class": of_label(nets.per_class(SMALL, CLASSES)),
    "nets.fourier_features": of_latent(nets.fourier_features(SMALL, (1.0, 2.0))),
    "nets.wrapped": net(nets.wrapped(SMALL, before=jnp.square, after=jnp.tanh)),
    "nets.with_scale": net(nets.with_scale(SMALL, initial=0.5)),
    "nets.from_linen": of_latent(
        nets.from_linen(nets.BatchNorm(), standing=True), looks=LOOKS["batch"]
    ),
    "nets.from_nnx": of_latent(nets.from_nnx(lambda rngs: nnx.Linear(L, 2, rngs=rngs))),
}
ENTRIES = {
    name + case: entry
    for name, cases in TABLE.items()
    for case, entry in (cases.items() if isinstance(cases, dict) else [("", cases)])
}


# Learners


def noisy(keys, w, x):
    """Squared distances of points x [B, L] from a noisy point w."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (L,)))(keys)
    return jnp.square(w[None] - x + 0.1 * noise).sum(1)


def permuting(keys, w, x):
    other = jax.random.permutation(rng.stream(rng.of_batch(keys), "order"), x)
    return noisy(keys, w, x * other), {"both": x}


def of_parts(keys, w, batch):
    few, many = (noisy(keys[name], w, batch[name]) for name in ("few", "many"))
    return {"few": few, "many": 0.5 * many}, {"far": many}


def pulled(name, other):
    """Objective of a player, which sees the other and hands on what it saw."""

    def objective(keys, params, x):
        losses = noisy(keys, params[name] - 0.5 * params[other], x)
        return losses, {f"{name}_far": losses}, {name: x}

    return objective


def point(key, batch):
    return jnp.full(L, 0.5)  # weakly typed, which a state must not be


SGD = optax.sgd(0.05, momentum=0.9)
PLAYERS = {name: train.Player(pulled(name, other), SGD) for name, other in ("ab", "ba")}


class Case(NamedTuple):
    """A learner as a function of its options, its batch, and why it looks at it as a whole."""

    build: Callable[..., train.Learner]
    batch: Any
    looks: str = ""


def case(batch, factory, *arguments, looks="", **options):
    return Case(functools.partial(factory, *arguments, **options), batch, looks)


LEARNERS = {
    "train.learner": case(
        DATA.x,
        train.learner,
        VAES[0].init,
        lambda hyper: vae.elbo(VAES[0], beta=hyper["beta"]),
        SGD,
        hyper={"beta": 2.0},
        ema_half_life=50.0,
        sample=vae.generate(VAES[0]),
    ),
    "train.learner of a condition": case(
        DATA,
        train.learner,
        VAES[1].init,
        vae.elbo(VAES[1]),
        SGD,
        sample=vae.generate(VAES[1]),
        conditions=DATA.label,
    ),
    "train.learner of the whole batch": case(
        DATA.z, train.learner, point, permuting, SGD, whole_batch=True, looks="permutes its batch"
    ),
    "train.learner of parts": case(
        Parts(few=DATA.z[:4], many=DATA.mean), train.learner, point, of_parts, SGD
    ),
    "train.adversarial": case(
        DATA.x,
        train.adversarial,
        GANS[0],
        gan.relativistic,
        SGD,
        penalty=lambda now: now["w"] * gan.r1 + gan.gradient_penalty,
        hyper={"w": 0.5},
        memory={"p": 0.0},
        remember=lambda key, params, notes: {"p": notes["real_logits"].mean()},
        ema_half_life=50.0,
    ),
    "train.adversarial of a condition": case(
        DATA,
        train.adversarial,
        gan.make(of_class(mlp(SHAPE, norm="batch")), gan.packed(of_class(CRITIC), 2), **GIVEN),
        gan.relativistic_average,
        SGD,
        penalty=gan.dragan,
        conditions=DATA.label,
        looks="normalises, packs and compares with the whole batch",
    ),
    # The players of train.adversarial have turns: these move at once.
    "train.game": case(
        DATA.z,
        train.game,
        lambda key, batch: {"a": point(key, batch), "b": jnp.ones(L), "mean": jnp.zeros(L)},
        PLAYERS,
        order="at once",
        remember=lambda key, params, notes: {"mean": notes["a"].mean(0) + notes["b"].mean(0)},
        ema_half_life={"b": 30.0},
    ),
}


# The public names

EXCEPTIONS = {
    "vae.mean_logits": "a function of one average image",
    **dict.fromkeys(("vae.interpolate", "vae.traverse"), "paths of codes, not a batch"),
    "gan.LOSSES": "the losses by name",
    "gan.weight_clipping": "moves parameters, and sees no batch",
    **dict.fromkeys(("nets.conv", "nets.conv_transpose"), "layers of the dcgan networks"),
    **dict.fromkeys(("nets.glorot_uniform", "nets.he_normal", "nets.normal"), "draw weights"),
    **dict.fromkeys(
        ("train.over_seeds", "train.over_devices"), "applied to every learner by the tests"
    ),
    "train.over_grid": "maps a step as over_seeds does: tests/train/test_seeds.py",
    "train.combinations": "numbers, not a batch",
    **dict.fromkeys(
        [f"train.{name}" for name in ("run", "advance", "fit", "start", "next_step")],
        "the loop around a learner: tests/train/test_loop.py",
    ),
    **dict.fromkeys(
        [f"train.{name}" for name in ("abstract_carry", "pop_metrics", "select_run")],
        "functions of the loop's carry: tests/train/test_loop.py",
    ),
}
BY_POSITION = {
    "vae.log_normal": "mean and logvar are data, with a default",
    "nets.conditional": "nets.conditional(net, 10) says enough",
    "train.over_devices": 'over_devices(learner, "pmap") says enough',
}
