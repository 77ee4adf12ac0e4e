"""Adversarial losses: functions of the discriminator's logits, one number per example.

Each is an `AdversarialLoss(discriminator, generator)` of two functions `(real_logits [B],
fake_logits [B]) -> [B]`, both to be minimised; B counts packs where the discriminator packs. r and
f are the logits of real and of generated images, sigma the logistic function. Logarithms of sigma
are written as softplus, -log sigma(a) = softplus(-a), which neither overflows nor cancels. The
optimum is where the generator matches the data and the discriminator is at its best. All of them
raise ValueError if the logits are not of one shape [B].
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod.types import Array

Logits = Callable[[Array, Array], Array]


def _sigmoids(real: Array, fake: Array) -> tuple[Array, Array]:
    return jax.nn.sigmoid(real), jax.nn.sigmoid(fake)


class AdversarialLoss(NamedTuple):
    """What the two players minimise.

    Attributes:
      discriminator: `(real_logits [B], fake_logits [B]) -> [B]`.
      generator: `(real_logits [B], fake_logits [B]) -> [B]`.
      probabilities: `(real_logits [B], fake_logits [B]) -> (real [B], fake [B])`, the probability
        of being real that the discriminator's logits give to each, for the game's health: 0.5 on
        both is where nothing can be told apart.
    """

    discriminator: Logits
    generator: Logits
    probabilities: Callable[[Array, Array], tuple[Array, Array]] = _sigmoids


def _checked(function: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Any]:
    def checked(real_logits: Array, fake_logits: Array) -> Any:
        if real_logits.ndim != 1 or real_logits.shape != fake_logits.shape:
            raise ValueError(
                "real_logits and fake_logits must have one shape [B], "
                f"got {list(real_logits.shape)} and {list(fake_logits.shape)}"
            )
        return function(real_logits, fake_logits)

    return checked


def _make(
    discriminator: Logits,
    generator: Logits,
    probabilities: Callable[[Array, Array], tuple[Array, Array]] = _sigmoids,
) -> AdversarialLoss:
    return AdversarialLoss(_checked(discriminator), _checked(generator), _checked(probabilities))


def _classification(real: Array, fake: Array) -> Array:
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


minimax = _make(_classification, lambda real, fake: -jax.nn.softplus(fake))
"""The zero-sum game of Goodfellow et al. (2014), equation 1, and the article's.

D: -log sigma(r) - log(1 - sigma(f)); G: log(1 - sigma(f)) = -softplus(f). The best discriminator
loses log 4 less twice the Jensen-Shannon divergence of the generator from the data; at the optimum
it says 1/2 everywhere, D loses log 4 and G -log 2. The generator saturates: its gradient by f is
-sigma(f), which vanishes where the discriminator is sure that an image is generated, at the start
of training above all. What other libraries call minimax is often `nonsaturating`.
"""

nonsaturating = _make(_classification, lambda real, fake: jax.nn.softplus(-fake))
"""Goodfellow et al. (2014), section 3: the same discriminator, and G: -log sigma(f) = softplus(-f).

The same optimum as `minimax`, where G loses log 2; the gradient by f is -sigma(-f), largest where
the discriminator is sure that an image is generated.
"""

least_squares = _make(
    lambda real, fake: 0.5 * jnp.square(real - 1) + 0.5 * jnp.square(fake),
    lambda real, fake: 0.5 * jnp.square(fake - 1),
    probabilities=lambda real, fake: (jnp.clip(real, 0, 1), jnp.clip(fake, 0, 1)),
)
"""Mao et al. (2017), equation 2 with targets 0 for generated, 1 for real and 1 for the generator.

D: (r - 1)^2 / 2 + f^2 / 2; G: (f - 1)^2 / 2. The best discriminator is p_data / (p_data + p_g), a
probability without a sigmoid: 1/2 everywhere at the optimum, where D loses 1/4 and G 1/8.
"""

wasserstein = _make(lambda real, fake: fake - real, lambda real, fake: -fake)
"""Arjovsky, Chintala & Bottou (2017), equations 2 and 3: D: f - r; G: -f.

The best of all 1-Lipschitz critics loses the Wasserstein-1 distance with its sign turned, 0 at the
optimum. `gradient_penalty` keeps a critic near those; `weight_clipping` near the K-Lipschitz ones
for a K that is not known, so its loss is a distance up to a factor. The outputs are no logits and
have no origin: their sigmoid is there to be logged, but means little.
"""

hinge = _make(
    lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake), lambda real, fake: -fake
)
"""Lim & Ye (2017); Miyato et al. (2018), equations 16 and 17.

D: max(0, 1 - r) + max(0, 1 + f); G: -f. At the optimum D loses 2. The outputs are no logits, but
their sign says real or generated, and so does their sigmoid's side of 1/2.
"""

relativistic = _make(
    lambda real, fake: jax.nn.softplus(fake - real),
    lambda real, fake: jax.nn.softplus(real - fake),
    probabilities=lambda real, fake: _sigmoids(real - fake, fake - real),
)
"""The relativistic pairing loss: RSGAN of Jolicoeur-Martineau (2019), RpGAN of Huang et al. (2024).

D: -log sigma(r - f); G: -log sigma(f - r), example by example: each generated image is compared
with one real image. At the optimum both lose log 2. Its probabilities are those of being the more
realistic of the pair.
"""


def _relative_to_mean(real: Array, fake: Array) -> Array:
    return jax.nn.softplus(jnp.mean(fake) - real) + jax.nn.softplus(fake - jnp.mean(real))


relativistic_average = _make(
    _relative_to_mean,
    lambda real, fake: _relative_to_mean(fake, real),
    probabilities=lambda real, fake: _sigmoids(real - jnp.mean(fake), fake - jnp.mean(real)),
)
"""The relativistic average loss: RaSGAN of Jolicoeur-Martineau (2019).

D: -log sigma(r - mean f) - log(1 - sigma(f - mean r)); G: the same with r and f exchanged. The
means are over the batch that is passed, so the loss of an example depends on the others, and on how
a batch is cut up. At the optimum both lose log 4. Its probabilities are those of being more
realistic than the others' average.
"""

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
"""The losses above by name, for a flag that chooses; one of your own needs no name."""
