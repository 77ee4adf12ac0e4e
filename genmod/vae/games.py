"""Games of an autoencoder against a critic.

A critic tells two kinds of codes or images apart, and the autoencoder uses what it says. Each
factory here returns the objectives of the players, for `train.game`:

    made = vae.factor(model, critic, gamma=10.0)
    players = {name: train.Player(loss, optimizers[name]) for name, loss in made.objectives.items()}
    learner = train.game(made.init, players, sample=made.sample)

The critic's logit is positive for the kind of codes or images that it takes for real.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Batch, Key, Keys, Metrics, Net, Objective
from genmod.vae.aggregate import check_two
from genmod.vae.model import Init, Vae, VaeParams, decode_mean, generate
from genmod.vae.objectives import check_weight, of_whole_batch, terms_at
from genmod.vae.regularised import sum_of_squares


class Game(NamedTuple):
    """Players of a game, as pure functions.

    Attributes:
      init: initial parameters, `(key, batch) -> params`, a dict with a field for each player. Its
        attribute `check` is that of the model's `init`.
      objectives: objectives of the players, by name.
      sample: sampler, `(keys [num], params, condition=None) -> images [num, H, W, C]`.
    """

    init: Init
    objectives: Mapping[str, Objective]
    sample: Callable[..., Array]


def factor(model: Vae, critic: Net, *, gamma: float | Array) -> Game:
    """Returns the game of the FactorVAE, which penalises the total correlation.

        vae:     -log p(x | z) + KL(q(z | x) || p(z)) + gamma * logit(z)
        critic:  1/2 softplus(-logit(z)) + 1/2 softplus(logit(z'))

    z is a draw from q(z | x), and z' the draws of the batch with each latent permuted by itself, as
    if from the product of q(z_j). The best critic has the logit log q(z) - sum_j log q(z_j), whose
    mean is the total correlation. In the paper z' are permuted draws of another batch, here of the
    same one.

    Args:
      model: the VAE; its parameters are the field `vae`.
      critic: network of latents [B, L] with the output [B] or [B, 1]; the field `critic`.
      gamma: weight of the total correlation, at least 0.

    Returns:
      A game with the players `vae` and `critic`. The critic's objective looks at its whole batch.
      The aux of `vae` holds `reconstruction`, `kl` and `total_correlation` [B], in nats and
      unweighted.

    Raises:
      ValueError: if gamma is below 0, or the critic needs a condition; when called, if the critic
        returns another shape, or there is not one key for each image.

    References:
      Kim & Mnih, Disentangling by Factorising, 2018 (arXiv:1802.05983), equations 2 and 3,
      algorithms 1 and 2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make(nets.mlp((8,), 4), nets.mlp((8,), (6, 6, 1)), latent_dim=2)
      >>> made = vae.factor(model, nets.mlp((8,), 1), gamma=10.0)
      >>> sorted(made.init(rng.root(0), jnp.zeros((3, 6, 6, 1)))), sorted(made.objectives)
      (['critic', 'vae'], ['critic', 'vae'])
    """
    check_weight("gamma", gamma)
    judge = _judge("critic", critic)

    def vae_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        parameters = model.encode(params["vae"], x, c)
        z = model.sample(keys, *parameters)
        terms = terms_at(model, params["vae"], x, c, z, parameters, closed_form=True)
        correlation = judge(params["critic"], z)
        aux = dict(zip(("reconstruction", "kl"), terms, strict=True))
        return sum(terms) + gamma * correlation, {**aux, "total_correlation": correlation}

    def critic_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Metrics]:
        z = _codes(model, rng.stream(keys, "codes"), params["vae"], batch)
        check_two("the critic of factor", z)
        mixed = _permuted(rng.stream(keys, "permutation"), z)
        joint, product = (judge(params["critic"], codes) for codes in (z, mixed))
        return 0.5 * (jax.nn.softplus(-joint) + jax.nn.softplus(product)), {}

    objectives = {"vae": vae_loss, "critic": of_whole_batch("factor's critic", critic_loss)}
    return Game(_init(model, critic), objectives, _sample(model))


def adversarial(
    model: Vae, critic: Net, *, weight: float | Array = 1.0, deterministic: bool = False
) -> Game:
    """Returns the game of the adversarial autoencoder (AAE), also known as WAE-GAN.

        vae:     -log p(x | z) + weight * softplus(-logit(z))
        critic:  softplus(-logit(p)) + softplus(logit(z))

    z is a draw from q(z | x) and p one from the prior. A critic that cannot tell them apart takes
    the place of the KL term: the aggregate posterior, not each posterior, follows the prior.

    Args:
      model: the VAE, with a prior that has no parameters; its own are the field `vae`.
      critic: network of latents [B, L] with the output [B] or [B, 1]; the field `critic`.
      weight: weight of the critic in the autoencoder's loss, at least 0. The paper has none, as
        each of the two terms has a step of its own there.
      deterministic: whether the mean of q(z | x) is the code, in place of a draw.

    Returns:
      A game with the players `vae` and `critic`. The aux of `vae` holds `reconstruction` [B] in
      nats.

    Raises:
      ValueError: if weight is below 0, or the critic needs a condition; when called, if the prior
        has parameters, the critic returns another shape, or there is not one key for each image.

    References:
      Makhzani et al., Adversarial Autoencoders, 2016 (arXiv:1511.05644), section 2.
      Tolstikhin et al., Wasserstein Auto-Encoders, 2018 (arXiv:1711.01558), algorithm 1.
    """
    check_weight("weight", weight)
    judge = _judge("critic", critic)

    def codes(keys: Keys, params: Any, batch: Batch) -> Array:
        return _codes(model, rng.stream(keys, "codes"), params["vae"], batch, deterministic)

    def vae_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Metrics]:
        x, c = model.condition(batch)
        z = codes(keys, params, batch)
        reconstruction = -model.likelihood.log_prob(model.decode(params["vae"], z, c), x)
        fooled = jax.nn.softplus(-judge(params["critic"], z))
        return reconstruction + weight * fooled, {"reconstruction": reconstruction}

    def critic_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Metrics]:
        drawn = model.prior.sample(rng.stream(keys, "prior"), params["vae"].prior)
        real = judge(params["critic"], drawn)
        fake = judge(params["critic"], codes(keys, params, batch))
        return jax.nn.softplus(-real) + jax.nn.softplus(fake), {}

    init = _init(model, critic, fixed_prior="adversarial")
    return Game(init, {"vae": vae_loss, "critic": critic_loss}, _sample(model))


def vae_gan(model: Vae, features: Net, top: Net, *, gamma: float | Array) -> Game:
    """Returns the game of the VAE-GAN, which compares images by a discriminator's features.

        encoder:        KL(q(z | x) || p(z)) + d
        decoder:        gamma * d + softplus(-logit(again)) + softplus(-logit(new))
        discriminator:  softplus(-logit(x)) + softplus(logit(again)) + softplus(logit(new)),
        d = |f(x) - f(again)|^2 / 2,    logit(x) = top(f(x))

    The images `again` are reconstructions, the mean images of draws from q(z | x), and `new` those
    of draws from the prior. The distance d of features f stands in place of -log p(x | z), up to a
    constant; the discriminator does not follow it. The decoder's two last terms are the
    non-saturating ones; in the paper they are log(1 - sigmoid(logit)).

    Args:
      model: the VAE, with a prior that has no parameters. The parameters of its networks are the
        fields `encoder` and `decoder`; its likelihood only makes mean images.
      features: network f of images, [B, H, W, C] -> [B, ...].
      top: network of the features, with the output [B] or [B, 1]. The parameters of both networks
        are the field `discriminator`.
      gamma: weight of the distance in the decoder's loss, at least 0.

    Returns:
      A game with the players `encoder`, `decoder` and `discriminator`. In the paper they move at
      once, `order="at once"`. The aux of `encoder` holds `kl` and `distance` [B], in nats.

    Raises:
      ValueError: if gamma is below 0, or a network needs a condition; when called, if the prior has
        parameters, `top` returns another shape, or there is not one key for each image.

    References:
      Larsen et al., Autoencoding beyond Pixels using a Learned Similarity Metric, 2016
      (arXiv:1512.09300), equations 7 and 8, algorithm 1.
    """
    check_weight("gamma", gamma)
    _refuse_conditional("features", features)
    judge = _judge("top", top)

    def of_player(player: str) -> Objective:
        def objective(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Metrics]:
            own, seen_by = _model_params(params), params["discriminator"]
            x, c = model.condition(batch)
            parameters = model.encode(own, x, c)
            z = model.sample(rng.stream(keys, "posterior"), *parameters)
            drawn = model.prior.sample(rng.stream(keys, "prior"), own.prior)
            images = (x, *(decode_mean(model)(own, codes, c) for codes in (z, drawn)))
            seen = [features(seen_by["features"], image) for image in images]
            real, again, new = (judge(seen_by["top"], one) for one in seen)
            distance = 0.5 * sum_of_squares(seen[0] - seen[1])
            if player == "encoder":
                _, kl = terms_at(model, own, x, c, z, parameters, closed_form=True)
                return kl + distance, {"kl": kl, "distance": distance}
            if player == "decoder":
                fooled = jax.nn.softplus(-again) + jax.nn.softplus(-new)
                return gamma * distance + fooled, {}
            told = jax.nn.softplus(-real) + jax.nn.softplus(again) + jax.nn.softplus(new)
            return told, {}

        return objective

    def init(key: Key, batch: Batch) -> dict[str, Any]:
        params = _initial(model, key, batch, fixed_prior="vae_gan")
        x, _ = model.condition(batch)
        own = features.initial(rng.stream(key, "features"), x)
        last = top.initial(rng.stream(key, "top"), features(own, x))
        return {**params._asdict(), "discriminator": {"features": own, "top": last}}

    def sample(keys: Keys, params: Any, condition: Any = None) -> Array:
        return generate(model)(keys, _model_params(params), condition)

    players = ("encoder", "decoder", "discriminator")
    objectives = {player: of_player(player) for player in players}
    return Game(Init(init, model.init.check), objectives, sample)


def _model_params(params: Any) -> VaeParams:
    return VaeParams(*(params[name] for name in VaeParams._fields))


def _codes(
    model: Vae, keys: Keys, params: VaeParams, batch: Batch, deterministic: bool = False
) -> Array:
    """Returns codes of a batch: draws from q(z | x), or its means."""
    parameters = model.encode(params, *model.condition(batch))
    checks.keys(keys, len(parameters[0]))
    return parameters[0] if deterministic else model.sample(keys, *parameters)


def _permuted(keys: Keys, z: Array) -> Array:
    """Returns latents [B, L], each permuted over the batch by itself.

    A permutation takes the example of a rank to that of the same rank in another order. Both orders
    are of random numbers of the examples, so that the order within the batch has no influence.
    """

    def order(name: str) -> Array:
        own = rng.stream(keys, name)
        return jnp.argsort(jax.vmap(lambda key: jax.random.uniform(key, z.shape[1:]))(own), axis=0)

    taken = jnp.take_along_axis(z, order("source"), axis=0)
    return jnp.put_along_axis(z, order("target"), taken, axis=0, inplace=False)


def _judge(name: str, net: Net) -> Callable[[Any, Array], Array]:
    """Returns a network as a function `(params, x) -> logits [B]`."""
    _refuse_conditional(name, net)

    def logits(params: Any, x: Array) -> Array:
        found = net(params, x)
        if found.shape not in ((len(x),), (len(x), 1)):
            raise ValueError(
                f"{name} must return logits [B] or [B, 1] = [{len(x)}, 1], got {list(found.shape)}"
            )
        return found.reshape(len(x)).astype(checks.summed_as(found.dtype))

    return logits


def _refuse_conditional(name: str, net: Net) -> None:
    if net.needs_condition:
        raise ValueError(f"{name} must be a network without condition, got one that needs it")


def _initial(model: Vae, key: Key, batch: Batch, *, fixed_prior: str = "") -> VaeParams:
    """Returns the model's initial parameters.

    Raises:
      ValueError: if the game `fixed_prior` moves no prior, and this one has parameters.
    """
    params = model.init(key, batch)
    if fixed_prior and jax.tree.leaves(params.prior):
        raise ValueError(
            f"{fixed_prior} needs a prior without parameters, as none of its players moves them, "
            "got a prior with parameters"
        )
    return params


def _init(model: Vae, critic: Net, *, fixed_prior: str = "") -> Init:
    """Returns the initialiser of a VAE and a critic of its latents."""

    def init(key: Key, batch: Batch) -> dict[str, Any]:
        x, _ = model.condition(batch)
        z = jnp.zeros((len(x), model.latent_dim))
        return {
            "vae": _initial(model, key, batch, fixed_prior=fixed_prior),
            "critic": critic.initial(rng.stream(key, "critic"), z),
        }

    return Init(init, model.init.check)


def _sample(model: Vae) -> Callable[..., Array]:
    def sample(keys: Keys, params: Any, condition: Any = None) -> Array:
        return generate(model)(keys, params["vae"], condition)

    return sample
