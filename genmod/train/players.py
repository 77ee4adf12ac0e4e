"""Types of a two-player game: players, loss, optimizers and state."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import optax

from genmod.types import Array, Key, Keys, Params


class Players(Protocol):
    """The model to train, as `gan.make` returns it.

    Its parameters have the fields `generator` and `discriminator`. A conditional model also has a
    function `condition`, `batch -> (x, c)`.
    """

    @property
    def init(self) -> Callable[[Key, Array], Any]:
        """Initialiser: `(key, x [B, ...]) -> params`."""

    @property
    def generate(self) -> Callable[..., Array]:
        """Generator: `(params, z [B, L]) -> images [B, ...]`.

        That of a conditional model has the condition as its third argument.
        """

    @property
    def discriminate(self) -> Callable[..., Array]:
        """Discriminator: `(params, x [B, ...]) -> logits [B]`.

        That of a conditional model has the condition as its third argument.
        """

    @property
    def latent(self) -> Callable[[Keys], Array]:
        """Sampler of latents: `keys [B] -> z [B, L]`."""

    @property
    def standing(self) -> Callable[..., Any]:
        """Parameters to sample with: `(key, params) -> params`.

        That of a conditional model has conditions that occur in the data as its third argument.
        """

    @property
    def check(self) -> Callable[[Array], None]:
        """Check of real images by their values: `x -> None`."""


class Loss(Protocol):
    """Losses of both players, such as `gan.nonsaturating`."""

    @property
    def discriminator(self) -> Callable[[Array, Array], Array]:
        """Loss of the discriminator: `(real_logits [B], fake_logits [B]) -> [B]`."""

    @property
    def generator(self) -> Callable[[Array, Array], Array]:
        """Loss of the generator: `(real_logits [B], fake_logits [B]) -> [B]`."""

    @property
    def probabilities(self) -> Callable[[Array, Array], tuple[Array, Array]]:
        """Probabilities that real and generated images are real.

        They are given by `(real_logits [B], fake_logits [B]) -> (real [B], fake [B])`.
        """


class Optimizers(NamedTuple):
    """An optax transformation for each player.

    Two learning rates give the two time-scale update rule (TTUR, Heusel et al. 2017).
    """

    generator: optax.GradientTransformation
    discriminator: optax.GradientTransformation


class OptStates(NamedTuple):
    """States of both optimizers."""

    generator: optax.OptState
    discriminator: optax.OptState


class AdversarialState(NamedTuple):
    """State of a two-player learner.

    It holds everything that the next step depends on.

    Attributes:
      step: int32 [], number of steps taken.
      params: both players' parameters, with the fields `generator` and `discriminator`.
      ema: exponential moving average (EMA) of the generator's parameters; `()` if none is kept.
      opt_state: both optimizers' states.
      hyper: the constant entries of the learner's `hyper`.
      memory: the fields that no gradient moves, by name.
    """

    step: Array
    params: Any
    ema: Params
    opt_state: OptStates
    hyper: dict[str, Array]
    memory: dict[str, Any]

    @property
    def averaged(self) -> Any:
        """Parameters to draw from, with the generator's average."""
        kept = not isinstance(self.ema, tuple) or self.ema
        return self.params._replace(generator=self.ema) if kept else self.params
