"""Every public factory of genmod, what it makes of tiny networks, and a batch for all of them.

`tests/test_contracts.py` walks these tables. A new factory is entered in `TABLE` (of genmod.vae in
vae_entries.py, of genmod.gan in gan_entries.py), a new kind of learner in `LEARNERS`; any other
public function is one of `EXCEPTIONS`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gan_entries
import jax
import jax.numpy as jnp
import optax
import vae_entries
from entries import (
    CLASSES,
    CRITIC,
    DATA,
    GANS,
    GIVEN,
    LOOKS,
    SHAPE,
    SMALL,
    VAES,
    L,
    mlp,
    net,
    of_class,
    of_label,
    of_latent,
)
from flax import nnx

from genmod import gan, nets, rng, train, vae
from genmod.types import Parts

TABLE = {
    **vae_entries.TABLE,
    **gan_entries.TABLE,
    "nets.mlp": {
        "": net(SMALL),
        " with group normalisation": net(mlp(2, norm="group")),
        " with layer normalisation": net(mlp(2, norm="layer")),
        " with batch normalisation": net(mlp(2, norm="batch"), looks=LOOKS["batch"]),
    },
    "nets.gated": net(nets.mlp((4,), 2, activation=nets.gated())),
    "nets.masked_mlp": net(vae_entries.MASKED, take=lambda d: (d.z, d.mean)),
    "nets.residual_stage": net(nets.residual_stage(2, out=3)),
    "nets.residual_encoder": net(nets.residual_encoder(3, widths=(2,))),
    "nets.residual_decoder": of_latent(nets.residual_decoder(SHAPE, widths=(2,))),
    "nets.maxout": net(nets.mlp((4,), 2, activation=nets.maxout(2))),
    "nets.dcgan_generator": of_latent(nets.dcgan_generator(SHAPE, width=2)),
    "nets.dcgan_discriminator": net(nets.dcgan_discriminator(width=2)),
    "nets.conditional": of_label(of_class(SMALL)),
    "nets.per_class": of_label(nets.per_class(SMALL, CLASSES)),
    "nets.fourier_features": of_latent(nets.fourier_features(SMALL, (1.0, 2.0))),
    "nets.wrapped": net(nets.wrapped(SMALL, before=jnp.square, after=jnp.tanh)),
    "nets.half_precision": net(nets.half_precision(SMALL)),
    "nets.with_scale": net(nets.with_scale(SMALL, initial=0.5)),
    "nets.spectral": net(nets.spectral(SMALL)),
    "nets.weight_standardized": net(nets.weight_standardized(nets.dcgan_discriminator(width=2))),
    "nets.projection": of_label(nets.projection(SMALL, CLASSES)),
    "nets.projected": net(nets.projected(CLASSES), take=lambda d: (d.z, d.label)),
    "nets.class_vectors": net(nets.class_vectors(CLASSES, 2), take=lambda d: (d.z, d.label)),
    "nets.heads": of_label(gan_entries.JUDGE),
    "nets.sngan_generator": {
        "": of_latent(nets.sngan_generator((8, 8, 1), width=2), looks=LOOKS["batch"]),
        " with labels": net(
            nets.sngan_generator((8, 8, 1), width=2, classes=CLASSES),
            take=lambda d: (d.z, d.label),
            looks=LOOKS["batch"],
        ),
    },
    "nets.sngan_discriminator": {
        "": net(nets.sngan_discriminator(width=2)),
        " with labels": of_label(nets.sngan_discriminator(width=2, classes=CLASSES)),
    },
    "nets.r3gan_generator": {
        "": of_latent(nets.r3gan_generator((8, 8, 1), widths=(2, 2), cells=1, group_width=2)),
        " with labels": net(
            nets.r3gan_generator((8, 8, 1), widths=(2, 2), cells=1, group_width=2, classes=CLASSES),
            take=lambda d: (d.z, d.label),
        ),
    },
    "nets.r3gan_discriminator": {
        "": net(nets.r3gan_discriminator(widths=(2, 2), cells=1, group_width=2)),
        " with labels": of_label(
            nets.r3gan_discriminator(widths=(2, 2), cells=1, group_width=2, classes=CLASSES)
        ),
    },
    "nets.biggan_generator": {
        "": of_latent(
            nets.biggan_generator((8, 8, 1), widths=(8, 8), attention=8), looks=LOOKS["batch"]
        ),
        " with labels": net(
            nets.biggan_generator((8, 8, 1), widths=(2, 2), classes=CLASSES, embedding_dim=2),
            take=lambda d: (d.z, d.label),
            looks=LOOKS["batch"],
        ),
    },
    "nets.biggan_discriminator": {
        "": net(nets.biggan_discriminator(widths=(8, 8), halvings=1, attention=2)),
        " with labels": of_label(
            nets.biggan_discriminator(widths=(2, 2), halvings=1, classes=CLASSES)
        ),
    },
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
    "train.learner of few labels": case(
        Parts(labelled=DATA, unlabelled=DATA.fake),
        train.learner,
        vae_entries.FEW_LABELS.init,
        vae_entries.FEW_LABELS.objective,
        SGD,
        sample=vae_entries.FEW_LABELS.generate,
        conditions=DATA.label,
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
    "train.adversarial with regularisers": case(
        DATA.x,
        train.adversarial,
        GANS[0],
        gan.smoothed(gan.nonsaturating),
        SGD,
        penalty=gan_entries.regularised,
        augment=lambda now: gan.instance_noise(now["sigma"]),
        hyper={"sigma": 0.1, "step": lambda step: step},
        memory={"anchors": gan.Anchors()},
        remember=gan.moving_anchors(),
    ),
    "train.adversarial with terms": case(
        DATA,
        train.adversarial,
        gan_entries.JUDGED,
        gan.hinge,
        SGD,
        terms=lambda now: {
            "digit": gan.auxiliary_classifier(output="digit", weight=now["weight"]),
            "path": gan.path_length(now["path_length"], weight=2.0),
        },
        hyper={"weight": 0.5},
        memory={"path_length": 0.0},
        remember=gan.moving_length(),
        conditions=DATA.label,
    ),
    "train.adversarial unrolled": case(
        DATA.x,
        train.adversarial,
        GANS[0],
        gan.nonsaturating,
        SGD,
        unrolled=train.Unrolled(1, 0.1),
        looks="foresees a step of the discriminator on the whole batch",
    ),
    # The players of train.adversarial have turns: these move by gradients at one point.
    "train.game": case(
        DATA.z,
        train.game,
        lambda key, batch: {"a": point(key, batch), "b": jnp.ones(L), "mean": jnp.zeros(L)},
        PLAYERS,
        order="extrapolated",
        remember=lambda key, params, notes: {"mean": notes["a"].mean(0) + notes["b"].mean(0)},
        ema_half_life={"b": 30.0},
    ),
}
LEARNERS["train.game of a codebook"] = case(
    DATA.x,
    train.game,
    vae_entries.CODEBOOK.init,
    {vae_entries.CODEBOOK.fields: train.Player(vae_entries.CODEBOOK.objective, SGD)},
    remember=vae_entries.CODEBOOK.remember,
    sample=vae_entries.CODEBOOK.sample,
)


# The public names

EXCEPTIONS = {
    "vae.mean_logits": "a function of one average image",
    **dict.fromkeys(("vae.interpolate", "vae.traverse"), "paths of codes, not a batch"),
    **dict.fromkeys(
        ("vae.code_frequencies", "vae.perplexity"), "numbers of all codes, not a batch"
    ),
    "vae.balanced": "compares a batch's means, and is used in objectives of the whole batch",
    "vae.cyclical": "a schedule",
    "train.cosine": "a schedule",
    "nets.mlp_chain": "lists of networks",
    "gan.LOSSES": "the losses by name",
    "train.drawn_from": "a part of a state",
    "gan.weight_clipping": "moves parameters, and sees no batch",
    "gan.acceptance": "numbers of many draws, not a batch",
    "gan.directions": "directions of one weight, not a batch",
    **dict.fromkeys(
        ("gan.moving_anchors", "gan.remember_all"), "move memory: tests/gan/test_regularisers.py"
    ),
    "gan.moving_length": "moves memory: tests/gan/test_terms.py",
    "gan.moving_probability": "moves memory: tests/data/test_adaptive.py",
    **dict.fromkeys(("nets.conv", "nets.conv_transpose"), "layers of the dcgan networks"),
    "nets.conv_grouped": "a layer of the r3gan networks",
    **dict.fromkeys(
        ("nets.enlarged", "nets.reduced"), "no parameters: tests/nets/test_resampling.py"
    ),
    **dict.fromkeys(("nets.conv_averaged", "nets.conv_enlarged"), "layers of the sngan networks"),
    **dict.fromkeys(
        [f"nets.{name}" for name in ("glorot_uniform", "he_normal", "normal", "orthogonal")],
        "draw weights",
    ),
    "nets.power_iteration": "moves parameters, and sees no batch",
    "nets.orthogonal_penalty": "one number of parameters, and sees no batch",
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
