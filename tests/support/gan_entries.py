"""Entries of genmod.gan for the contracts."""

import jax
import jax.numpy as jnp
import optax
from entries import (
    CLASSES,
    CRITIC,
    DECODER,
    GANS,
    GIVEN,
    LOOKS,
    Entry,
    L,
    loss,
    mlp,
    net,
    of_class,
    of_gan,
    penalty,
)

from genmod import gan, nets, rng
from genmod.types import Seen


def shaken(keys, x):
    """An augmentation."""
    return x + 0.1 * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys)


def regularised(now):
    """A penalty of several kinds, by the values of hyper and memory."""
    seldom = gan.lazy(gan.approximate_r1(0.1) + gan.gradient_penalty, every=2)(now)
    return 0.3 * gan.lecam(now["anchors"]) + gan.consistency(shaken, on="fake") + seldom


CODES = gan.Codes(categorical=(2,))
JUDGE = nets.heads(
    mlp(3, output=jnp.tanh),
    digit=mlp(CLASSES),
    twin=mlp(CLASSES),
    pair=mlp(2 * CLASSES),
    codes=mlp(CODES.num_outputs),
    embedding=mlp(4),
    proxy=nets.class_vectors(CLASSES, 4),
)
JUDGED = gan.make(of_class(DECODER), JUDGE, **GIVEN)


def term(made, **options):
    """Both players' values of a term, where they have one."""

    def apply(made, keys, params, d):
        def judge(x):
            return JUDGED.outputs(params, x, d.label)

        def generate(z):
            return JUDGED.generate(params, z, d.label)

        z = CODES.replaced(jnp.asarray(d.z), categorical=jnp.asarray(d.label % 2)[:, None])
        seen = Seen(d.x, d.fake, judge(d.x), judge(d.fake), z, d.label, generate, judge)
        sides = [each for each in (made.discriminator, made.generator) if each]
        found = [each(rng.at_step(keys, place), seen) for place, each in enumerate(sides)]
        return [each[0] if isinstance(each, tuple) else each for each in found]

    return Entry(made, apply, JUDGED.init, scalar=True, sums=True, **options)


ACCEPTANCE = gan.Acceptance(jnp.float32(1), jnp.float32(0))
TABLE = {
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
    "gan.one_sided_gradient_penalty": penalty(gan.one_sided_gradient_penalty),
    "gan.maximal_gradient_penalty": penalty(
        gan.maximal_gradient_penalty, looks="takes the largest gradient of the batch"
    )._replace(  # the steepest point is then one that the contract replaces
        apply=lambda f, keys, p, d: f(keys, lambda x: GANS[0].discriminate(p, x), d.x, d.logits)
    ),
    "gan.approximate_r1": penalty(gan.approximate_r1(0.1)),
    "gan.approximate_r2": penalty(gan.approximate_r2(0.1)),
    "gan.lazy": penalty(gan.lazy(gan.r1 + gan.gradient_penalty, every=2)({"step": jnp.int32(2)})),
    "gan.lecam": penalty(gan.lecam(gan.Anchors(0.5, -0.5))),
    "gan.consistency": penalty(
        gan.consistency(shaken, on="real") + gan.consistency(shaken, on="fake")
    ),
    "gan.top_k": Entry(
        gan.top_k(gan.nonsaturating, 0.5),
        lambda loss, keys, p, d: loss.generator(d.real_logits, d.logvar[:, 1]),
        scalar=True,
        looks="the generator learns from the most realistic images of the batch",
    ),
    "gan.smoothed": loss(gan.smoothed(gan.nonsaturating)),
    "gan.instance_noise": Entry(gan.instance_noise(0.1), lambda f, keys, p, d: f(keys, d.x)),
    "gan.truncated_latent": Entry(
        gan.truncated_latent(L, limit=0.5), lambda f, keys, _, d: (f(keys), f.log_prob(d.z))
    ),
    "gan.truncated": of_gan(
        lambda model: gan.truncated(model, limit=0.5),
        lambda m, keys, p, batch, c, d: m.generate(p, m.latent(keys), c),
    ),
    "gan.rejection_sampling": of_gan(
        lambda model: model,
        lambda m, keys, p, batch, c, d: gan.rejection_sampling(
            m, keys, p, ACCEPTANCE, num_proposals=4, c=c
        ),
    ),
    "gan.langevin": of_gan(
        lambda model: model,
        lambda m, keys, p, batch, c, d: gan.langevin(
            m, keys, p, num_steps=2, step_size=0.1, metropolis=True, c=c
        ),
    ),
    "gan.project": of_gan(
        lambda model: model,
        lambda m, keys, p, batch, c, d: gan.project(
            m, keys, p, d.x, optimizer=optax.sgd(0.05), num_steps=2, num_starts=2, c=c
        ),
    ),
    "gan.auxiliary_classifier": term(gan.auxiliary_classifier(output="digit")),
    "gan.twin_classifier": term(gan.twin_classifier(output="digit")),
    "gan.discriminative_classifier": term(gan.discriminative_classifier(output="pair")),
    "gan.information": term(gan.information(CODES)),
    "gan.latent_consistency": term(
        gan.latent_consistency(sigma=0.1, discriminator_weight=5.0, generator_weight=0.5)
    ),
    "gan.path_length": term(gan.path_length(0.5, weight=2.0)),
    "gan.data_to_data": term(gan.data_to_data(), looks="compares the images of its batch"),
    "gan.feature_matching": term(
        gan.feature_matching(), looks="matches the mean features of the batch"
    ),
}
