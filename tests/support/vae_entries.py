"""Every public factory of genmod.vae, for the contracts."""

import functools

import jax.numpy as jnp
from entries import (
    CLASSES,
    CRITIC,
    DATA,
    DECODER,
    ENCODER,
    GIVEN,
    VAES,
    Entry,
    L,
    flow,
    mlp,
    number,
    objective,
    of_class,
    of_model,
    of_vae,
    posterior,
    prior,
    whole_batch,
)

from genmod import nets, rng, vae

COUPLING = vae.coupling(mlp, num_layers=2)
MASKED = nets.masked_mlp((4,), 2, activation=jnp.tanh)
FACTOR = vae.factor(VAES[0], CRITIC, gamma=2.0)
CHAINS, LADDERS = (
    tuple(
        make(of, **options)
        for of, options in ((lambda net: net, {}), (of_class, {"condition": GIVEN["condition"]}))
    )
    for make in (
        lambda of, **options: vae.chain(
            [of(ENCODER), mlp(6)], [of(DECODER), mlp(2 * L)], latent_dims=(L, 3), **options
        ),
        lambda of, **options: vae.ladder(
            [
                vae.Rung((2,), of(mlp(3)), mlp(4), of(DECODER), mlp(4)),
                vae.Rung((3,), mlp(5), mlp(6), mlp(3)),
            ],
            **options,
        ),
    )
)
CODEBOOK = vae.quantised(mlp((2, 3)), DECODER, num_codes=3, restart=0.1)
CODES = vae.code_prior(mlp((2, 3)), grid=(2,), num_codes=3)
CATEGORICAL = tuple(
    vae.make_categorical(
        of(mlp(6)), of(DECODER), num_latents=2, num_classes=3, temperature=0.5, **options
    )
    for of, options in ((lambda net: net, {}), (of_class, {"condition": GIVEN["condition"]}))
)
FEW_LABELS = vae.semi_supervised(VAES[1], mlp(CLASSES), num_classes=CLASSES, weight=0.5)
MIXTURE = vae.fit_gaussian_mixture(rng.root(0), DATA.z, num_components=2, num_steps=3)


def of_game(made, player, **options):
    """The objective of a player."""
    return Entry(
        made,
        lambda game, keys, params, d: game.objectives[player](keys, params, d.x),
        lambda key, d: made.init(key, d.x),
        scalar=True,
        sums=True,
        **options,
    )


def drawn(model, keys, params, batch, c, d):
    """The batch, a draw of all layers, what it decodes to, and its prior density."""
    z = model.sample(keys, *model.encode(params, d.x, c))
    densities = model.prior.log_prob(params.prior, z)
    return model.condition(batch), z, model.decode(params, z, c), densities


def seen(params):
    """Parameters whose frequencies are positive, as those of a codebook are."""
    return params._replace(frequencies=jnp.abs(params.frequencies))


def codes_of(d):
    return jnp.stack([d.label, d.label], 1)


def parts(d):
    return {"labelled": d, "unlabelled": d.fake}


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
    "vae.planar": flow(vae.planar(num_layers=2)(L), 5),
    "vae.coupling": flow(COUPLING(L)),
    "vae.inverse_autoregressive": flow(
        vae.inverse_autoregressive(MASKED, num_layers=2, context=2)(L), 1
    ),
    "vae.composed": flow(vae.composed(COUPLING, vae.planar(num_layers=1))(L), 3),
    "vae.full_normal": posterior(vae.full_normal(L), 5),
    "vae.flow_posterior": posterior(vae.flow_posterior(vae.planar(num_layers=1))(L), 9),
    "vae.von_mises_fisher": posterior(vae.von_mises_fisher(3), 4),
    "vae.uniform_sphere": number(
        vae.uniform_sphere(L), lambda p, keys, params, d: p.log_prob(params, p.sample(keys, params))
    ),
    "vae.mixture": prior(vae.mixture(3)(L)),
    "vae.vampprior": prior(vae.vampprior(3)(L)),
    "vae.flow_prior": prior(vae.flow_prior(COUPLING)(L)),
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
    "vae.beta_tc": whole_batch(lambda model: vae.beta_tc(model, beta=2.0, num_examples=50)),
    "vae.dip": whole_batch(lambda model: vae.dip(model, off_diagonal=2.0, diagonal=3.0, kind="II")),
    "vae.mmd": whole_batch(lambda model: vae.mmd(model, weight=2.0, kl_weight=0.5)),
    "vae.optimal_sigma": whole_batch(lambda model: vae.optimal_sigma(model, beta=2.0)),
    "vae.regularised": objective(
        lambda model: vae.regularised(
            model, code_weight=0.1, penalty="gradient", penalty_weight=0.1
        )
    ),
    "vae.factor": {
        "": of_game(FACTOR, "vae"),
        "'s critic": of_game(FACTOR, "critic", looks="permutes its batch"),
    },
    "vae.adversarial": of_game(vae.adversarial(VAES[0], CRITIC), "critic"),
    "vae.vae_gan": of_game(vae.vae_gan(VAES[0], mlp(3), CRITIC, gamma=0.5), "decoder"),
    "vae.chain": of_model(CHAINS, lambda model: model, drawn),
    "vae.ladder": of_model(LADDERS, lambda model: model, drawn),
    "vae.layered_elbo": objective(
        lambda model: vae.layered_elbo(model, nats=0.1), LADDERS, scalar=False
    ),
    "vae.layer_terms": objective(vae.layer_terms, CHAINS, scalar=False),
    "vae.tempered": of_model(
        LADDERS,
        lambda model: vae.tempered(model, temperature=0.5),
        lambda model, keys, p, batch, c, d: model.prior.sample(keys, p.prior),
    ),
    "vae.quantised": {
        "": Entry(
            CODEBOOK,
            lambda model, keys, p, d: model.objective(keys, seen(p), d.x)[:2],
            lambda key, d: CODEBOOK.init(key, d.x),
            scalar=True,
            sums=True,
        ),
        " of codes": Entry(
            CODEBOOK,
            lambda model, keys, p, d: (
                model.encode(p, d.x),
                model.decode(p, model.encode(p, d.x)),
                model.sample(keys, seen(p)),
            ),
            lambda key, d: CODEBOOK.init(key, d.x),
        ),
    },
    "vae.code_prior": {
        "": Entry(
            CODES,
            lambda model, keys, p, d: model.objective(keys, p, codes_of(d)),
            lambda key, d: CODES.init(key, codes_of(d)),
            scalar=True,
            sums=True,
        ),
        " of draws": Entry(
            CODES,
            lambda model, keys, p, d: model.sample(keys, p),
            lambda key, d: CODES.init(key, codes_of(d)),
        ),
    },
    "vae.make_categorical": of_model(
        CATEGORICAL,
        lambda model: model,
        lambda model, keys, p, batch, c, d: (
            model.encode(p, d.x, c),
            model.sample(rng.stream(keys, "other"), *model.encode(p, d.x, c)),
            vae.elbo(model)(keys, p, batch),
        ),
    ),
    "vae.semi_supervised": {
        "": Entry(
            FEW_LABELS,
            lambda model, keys, p, d: model.objective(
                dict.fromkeys(("labelled", "unlabelled"), keys), p, parts(d)
            ),
            lambda key, d: FEW_LABELS.init(key, parts(d)),
            scalar=True,
            sums=True,
        ),
        " of labels": Entry(
            FEW_LABELS,
            lambda model, keys, p, d: (model.classify(p, d.x), model.generate(keys, p, d.label)),
            lambda key, d: FEW_LABELS.init(key, parts(d)),
        ),
    },
    "vae.aggregated_posterior": Entry(
        vae.aggregated_posterior(VAES[0], DATA.fake),
        lambda q, keys, p, d: (
            q.sample(keys, (), functools.partial(VAES[0].encode, p)),
            q.log_prob((), d.z, functools.partial(VAES[0].encode, p)),
        ),
        lambda key, d: VAES[0].init(key, d.x),
    ),
    "vae.fit_gaussian_mixture": number(
        MIXTURE.prior,
        lambda q, keys, _, d: (q.log_prob((), d.z), q.log_prob((), q.sample(keys, ()))),
    ),
}
