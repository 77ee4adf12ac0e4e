"""Adversarial losses, as functions of the discriminator's logits.

Each loss is an `AdversarialLoss`: one function `(real [B], fake [B]) -> [B]` for each player, both
to be minimised. `real` and `fake` are the discriminator's logits of real and of generated images; a
packed discriminator returns one logit per pack, and B then counts packs. Every loss raises
ValueError if the logits do not share one shape [B].

In the formulas sigma is the logistic function. The code writes its logarithm as a softplus, which
neither overflows nor cancels:

    -log sigma(a) = softplus(-a)

"At the optimum" means that the generator matches the data and the discriminator is the best one
for it.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from genmod import devices
from genmod.types import Array

Logits = Callable[[Array, Array], Array]


def _sigmoids(real: Array, fake: Array) -> tuple[Array, Array]:
    return jax.nn.sigmoid(real), jax.nn.sigmoid(fake)


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """Loss functions of the two players of a GAN.

    Attributes:
      discriminator: loss of the discriminator, `(real [B], fake [B]) -> [B]`, from the logits of
        real and of generated images.
      generator: loss of the generator, `(real [B], fake [B]) -> [B]`, from the same logits.
      probabilities: probabilities of being real that the logits assign to real and to generated
        images, `(real [B], fake [B]) -> ([B], [B])`. They show the game's health: both are 0.5 if
        the discriminator cannot tell the two apart.
      name: name of the loss; in `LOSSES`, its key.
      doc: text of the loss for `help(loss)`, which becomes its `__doc__`.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import gan
      >>> mine = gan.AdversarialLoss(
      ...     discriminator=lambda real, fake: fake - real + 0.1 * (real**2 + fake**2),
      ...     generator=lambda real, fake: -fake,
      ... )
      >>> mine.discriminator(jnp.ones(2), jnp.zeros(2)).shape  # one number per example
      (2,)
    """

    discriminator: Logits
    generator: Logits
    probabilities: Callable[[Array, Array], tuple[Array, Array]] = _sigmoids
    name: str = "custom"
    doc: str | None = None

    def __post_init__(self) -> None:
        if self.doc is not None:
            object.__setattr__(self, "__doc__", self.doc)

    def __repr__(self) -> str:
        return f"<AdversarialLoss {self.name!r}>"


_USE = """`real` and `fake` are the discriminator's outputs, [B]. D and G are the losses of the
discriminator and the generator, [B], both to be minimised:

    train.adversarial(model, gan.{0}, optimizers)
    gan.{0}.discriminator(real, fake), gan.{0}.generator(real, fake)"""


def _loss(build: Callable[[], AdversarialLoss]) -> AdversarialLoss:
    """Turns a function into the loss that it returns.

    The function has no arguments. The loss takes the function's name and docstring: so
    `help(gan.hinge)`, an editor and the API pages all show the same text, which stands once. The
    loss's functions check their logits.
    """
    loss = build()
    return AdversarialLoss(
        _checked(loss.discriminator),
        _checked(loss.generator),
        _checked(loss.probabilities),
        name=build.__name__,
        doc=f"{inspect.getdoc(build)}\n\n{_USE.format(build.__name__)}",
    )


def _checked(function: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Any]:
    def checked(real_logits: Array, fake_logits: Array) -> Any:
        if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
            raise ValueError(
                "real_logits and fake_logits must have one shape [B], "
                f"got {list(real_logits.shape)} and {list(fake_logits.shape)}"
            )
        return function(real_logits, fake_logits)

    return checked


def _classification(real: Array, fake: Array) -> Array:
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


@_loss
def minimax() -> AdversarialLoss:
    """Minimax loss, the original zero-sum game.

        D: -log sigma(real) - log(1 - sigma(fake))
        G: log(1 - sigma(fake)) = -softplus(fake)

    The best discriminator has the loss log 4 - 2 JSD, where JSD is the Jensen-Shannon divergence
    between the generator's images and the data. At the optimum its probability is 1/2 everywhere, D
    is log 4 and G is -log 2.

    The generator saturates: its gradient with respect to `fake` is -sigma(fake), which vanishes if
    the discriminator is sure that an image is generated, above all at the start of training. Other
    libraries often give the name "minimax" to the loss that is `nonsaturating` here. The article
    *Beginners Intro to Generative Modeling*, taken literally, trains with this loss.

    References:
      Goodfellow et al., Generative Adversarial Networks, 2014 (arXiv:1406.2661), equation 1.
    """
    return AdversarialLoss(
        discriminator=_classification,
        generator=lambda real, fake: -jax.nn.softplus(fake),
    )


@_loss
def nonsaturating() -> AdversarialLoss:
    """Non-saturating loss, the usual variant of `minimax`.

        D: -log sigma(real) - log(1 - sigma(fake))
        G: -log sigma(fake) = softplus(-fake)

    The discriminator and the optimum are those of `minimax`; there D is log 4 and G is log 2. The
    generator's gradient with respect to `fake` is -sigma(-fake), which is largest if the
    discriminator is sure that an image is generated.

    References:
      Goodfellow et al., Generative Adversarial Networks, 2014 (arXiv:1406.2661), section 3.
    """
    return AdversarialLoss(
        discriminator=_classification,
        generator=lambda real, fake: jax.nn.softplus(-fake),
    )


@_loss
def least_squares() -> AdversarialLoss:
    """Least-squares loss (LSGAN).

        D: (real - 1)^2 / 2 + fake^2 / 2
        G: (fake - 1)^2 / 2

    The targets are 0 for generated images, 1 for real ones and 1 for the generator. The best
    discriminator is p_data / (p_data + p_generator), a probability without a sigmoid. At the
    optimum it is 1/2 everywhere, D is 1/4 and G is 1/8.

    References:
      Mao et al., Least Squares Generative Adversarial Networks, 2017 (arXiv:1611.04076),
      equations 2 and 9.
    """
    return AdversarialLoss(
        discriminator=lambda real, fake: 0.5 * jnp.square(real - 1) + 0.5 * jnp.square(fake),
        generator=lambda real, fake: 0.5 * jnp.square(fake - 1),
        probabilities=lambda real, fake: (jnp.clip(real, 0, 1), jnp.clip(fake, 0, 1)),
    )


@_loss
def wasserstein() -> AdversarialLoss:
    """Wasserstein loss (WGAN), for a Lipschitz critic.

        D: fake - real
        G: -fake

    The best 1-Lipschitz critic has minus the Wasserstein-1 distance as its loss, 0 at the optimum.
    `gradient_penalty` keeps a critic close to 1-Lipschitz. `weight_clipping` keeps it K-Lipschitz
    for an unknown K, so its loss is a distance up to a factor. The outputs are not logits and have
    no origin: `probabilities` still returns their sigmoid for the logs, but it means little.

    References:
      Arjovsky, Chintala & Bottou, Wasserstein GAN, 2017 (arXiv:1701.07875), equations 2 and 3.
    """
    return AdversarialLoss(
        discriminator=lambda real, fake: fake - real,
        generator=lambda real, fake: -fake,
    )


@_loss
def hinge() -> AdversarialLoss:
    """Hinge loss for GANs.

        D: max(0, 1 - real) + max(0, 1 + fake)
        G: -fake

    At the optimum D is 2. The outputs are scores, not logits: their sign says real or generated,
    and so does the side of 1/2 on which their sigmoid lies.

    References:
      Lim & Ye, Geometric GAN, 2017 (arXiv:1705.02894).
      Miyato et al., Spectral Normalization for Generative Adversarial Networks, 2018
      (arXiv:1802.05957), equations 16 and 17.
    """
    return AdversarialLoss(
        discriminator=lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
        generator=lambda real, fake: -fake,
    )


@_loss
def relativistic() -> AdversarialLoss:
    """Relativistic pairing loss (RSGAN, RpGAN).

        D: -log sigma(real - fake)
        G: -log sigma(fake - real)

    Each generated image is compared with one real image, example by example. At the optimum both
    losses are log 2. `probabilities` are those of being the more realistic image of the pair.

    References:
      Jolicoeur-Martineau, The Relativistic Discriminator: a Key Element Missing from Standard GAN,
      2019 (arXiv:1807.00734), as RSGAN.
      Huang et al., The GAN is Dead; Long Live the GAN! A Modern GAN Baseline, 2024
      (arXiv:2501.05441), as RpGAN.
    """
    return AdversarialLoss(
        discriminator=lambda real, fake: jax.nn.softplus(fake - real),
        generator=lambda real, fake: jax.nn.softplus(real - fake),
        probabilities=lambda real, fake: _sigmoids(real - fake, fake - real),
    )


def _relative_to_mean(real: Array, fake: Array) -> Array:
    devices.refuse_microbatch(
        "relativistic_average needs the mean logits",
        "relativistic compares pairs of examples, and is the same in microbatches",
    )
    return jax.nn.softplus(jnp.mean(fake) - real) + jax.nn.softplus(fake - jnp.mean(real))


@_loss
def relativistic_average() -> AdversarialLoss:
    """Relativistic average loss (RaSGAN).

        D: -log sigma(real - mean(fake)) - log(1 - sigma(fake - mean(real)))
        G: -log sigma(fake - mean(real)) - log(1 - sigma(real - mean(fake)))

    The means are over the batch that is passed. So examples interact: the loss of one depends on
    the others. Microbatches are refused (ValueError), as a microbatch does not know these means.
    At the optimum both losses are log 4. `probabilities` are those of being more realistic than
    the other kind's average.

    References:
      Jolicoeur-Martineau, The Relativistic Discriminator: a Key Element Missing from Standard GAN,
      2019 (arXiv:1807.00734).
    """
    return AdversarialLoss(
        discriminator=_relative_to_mean,
        generator=lambda real, fake: _relative_to_mean(fake, real),
        probabilities=lambda real, fake: _sigmoids(real - jnp.mean(fake), fake - jnp.mean(real)),
    )


LOSSES: Mapping[str, AdversarialLoss] = MappingProxyType(
    {
        "minimax": minimax,
        "nonsaturating": nonsaturating,
        "least_squares": least_squares,
        "wasserstein": wasserstein,
        "hinge": hinge,
        "relativistic": relativistic,
        "relativistic_average": relativistic_average,
    }
)
"""All losses by name, for a command-line flag.

A loss of your own needs no name and no entry here.
"""
