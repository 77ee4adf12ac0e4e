"""Losses of the two players of a GAN, made of a loss, penalties and networks.

`train.adversarial` plays them against each other.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, devices, rng
from genmod.train import gradients
from genmod.train import hyper as hypers
from genmod.train.engine import MeanLoss
from genmod.train.players import Loss, Players
from genmod.types import Array, Batch, Keys, Metrics

PenaltyFunction = Callable[[Keys, Callable[[Array], Array], Array, Array], Array]
Augment = Callable[[Keys, Array], Array]

_NAMES = (
    "discriminator_loss",
    "generator_loss",
    "real_probability",
    "fake_probability",
    "accuracy",
    "discriminator_gradient",
    "generator_gradient",
)
_STREAMS = ("latent", "augmentation of real", "augmentation of fake")
"""Names that penalties must not have.

`_NAMES` are the game's own metrics, `_STREAMS` the streams that its updates draw from.
"""


class Components(NamedTuple):
    """Components of which both players' losses are made.

    Attributes:
      players: the model.
      loss: losses of both players.
      penalty: penalty of the discriminator; None for none.
      augment: augmentation of what the discriminator sees; None for none.
      joint_batch: whether real and generated images are judged in one batch.
      noted: whether the discriminator's logits are handed on to `remember`.
    """

    players: Players
    loss: Any
    penalty: Any
    augment: Any
    joint_batch: bool
    noted: bool

    def at(self, now: Mapping[str, Any]) -> "Components":
        """Returns the parts at a step, by the values of hyper and memory."""
        loss = self.loss
        if callable(loss) and not hasattr(loss, "discriminator"):
            loss = loss(now)
            if not hasattr(loss, "discriminator"):
                raise ValueError(
                    "loss must be a function hyper -> loss, got one that returns "
                    f"{checks.described(loss)}"
                )
        return self._replace(
            loss=loss,
            penalty=hypers.resolve("penalty", self.penalty, 4, now),
            augment=hypers.resolve("augment", self.augment, 2, now),
        )

    def game(self, params: Any, keys: Keys, batch: Batch) -> "_Shown":
        """Returns what the discriminator sees of a batch and of generated images beside it."""
        real, condition = _split(self.players, batch)
        z = self.players.latent(rng.stream(keys, "latent"))
        fake = generated(self.players, params, z, condition)
        both = {"real": real, "fake": fake}
        if self.augment is not None:
            both = {name: self._augmented(keys, name, x) for name, x in both.items()}
        return _Shown(both["real"], both["fake"], condition)

    def judge(self, params: Any, shown: "_Shown") -> tuple[Array, Array]:
        """Returns the logits of real and generated images of this device."""
        real, fake, condition = shown
        if not self.joint_batch:
            real_logits = judged(self.players, params, real, condition)
            return real_logits, judged(self.players, params, fake, condition)
        both = [(real, condition), (fake, condition)]
        x, c = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *both)
        logits = judged(self.players, params, x, c)
        return logits[: len(logits) // 2], logits[len(logits) // 2 :]

    def _augmented(self, keys: Keys, name: str, images: Array) -> Array:
        made = self.augment(rng.stream(keys, f"augmentation of {name}"), images)
        checks.augmented(made, images)
        return made


class _Shown(NamedTuple):
    """Images that the discriminator sees, with their condition."""

    real: Array
    fake: Array
    condition: Any


def discriminator_loss(parts: Components, now: Mapping[str, Any]) -> MeanLoss:
    """Returns the discriminator's mean loss at a step, penalties included."""
    parts = parts.at(now)
    terms = [] if parts.penalty is None else penalty_terms(parts.penalty)

    def mean_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Any]:
        shown = parts.game(params, keys, batch)
        own = parts.judge(params, shown)
        # A loss may compare an example with all others, which may lie on other devices.
        logits = devices.gather(own[0]), devices.gather(own[1])
        losses = parts.loss.discriminator(*logits)
        _check_losses("the discriminator's loss", losses, logits[0].shape)
        total = gradients.mean(losses)
        values = {"discriminator_loss": losses, **_health(parts.loss, *logits)}
        # The logits are those of all devices, so the terms count their examples too.
        num = len(keys) * devices.count()
        values = {name: _of_examples(value, num) for name, value in values.items()}
        for name, weight, function in terms:
            # `gan.Penalty` gives its terms the same streams if a sum is called by itself.
            penalties = function(
                rng.stream(keys, f"penalty {name}"),
                lambda x: judged(parts.players, params, x, shown.condition),
                shown.real,
                shown.fake,
            )
            _check_losses(f"the penalty {name}", penalties, (len(keys),))
            values[name] = penalties
            total = total + weight * gradients.mean(penalties)
        notes = dict(zip(("real_logits", "fake_logits"), own, strict=True)) if parts.noted else {}
        return total, (values, notes)

    return mean_loss


def generator_loss(parts: Components, now: Mapping[str, Any]) -> MeanLoss:
    """Returns the generator's mean loss at a step."""
    parts = parts._replace(penalty=None).at(now)

    def mean_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Any]:
        own = parts.judge(params, parts.game(params, keys, batch))
        logits = devices.gather(own[0]), devices.gather(own[1])
        losses = parts.loss.generator(*logits)
        _check_losses("the generator's loss", losses, logits[1].shape)
        values = _of_examples(losses, len(keys) * devices.count())
        return gradients.mean(losses), ({"generator_loss": values}, {})

    return mean_loss


def _split(players: Players, batch: Batch) -> tuple[Array, Any]:
    """Returns images and condition of a batch."""
    condition = getattr(players, "condition", None)
    return (batch, None) if condition is None else condition(batch)


def generated(players: Players, params: Any, z: Array, condition: Any) -> Array:
    """Returns generated images; a condition goes to a conditional model."""
    if condition is None:
        return players.generate(params, z)
    return players.generate(params, z, condition)


def judged(players: Players, params: Any, x: Array, condition: Any) -> Array:
    """Returns logits; a condition goes to a conditional model."""
    if condition is None:
        return players.discriminate(params, x)
    return players.discriminate(params, x, condition)


def penalty_terms(penalty: Any) -> list[tuple[str, Any, PenaltyFunction]]:
    """Returns the terms of a sum of penalties.

    A term is the name, the weight and the function of a penalty.
    """
    single = ((getattr(penalty, "__name__", "penalty"), 1.0, penalty),)
    terms = list(getattr(penalty, "terms", single))
    for name, _, _ in terms:
        if name in (*_NAMES, *_STREAMS):
            kind = "metrics" if name in _NAMES else "streams"
            raise ValueError(
                f"a penalty must not have the name {name!r}: the game's own {kind} are "
                f"{', '.join(_NAMES if name in _NAMES else _STREAMS)}; "
                "gan.Penalty.of(function, name) gives it another"
            )
    return terms


def _health(loss: Loss, real_logits: Array, fake_logits: Array) -> Metrics:
    real, fake = loss.probabilities(real_logits, fake_logits)
    right = 0.5 * (jnp.astype(real > 0.5, real.dtype) + jnp.astype(fake < 0.5, fake.dtype))
    health = {"real_probability": real, "fake_probability": fake, "accuracy": right}
    return jax.lax.stop_gradient(health)


def _of_examples(values: Array, num: int) -> Array:
    """Returns one value for each of `num` examples.

    If examples are judged in packs, each gets the value of its pack.
    """
    return values if len(values) == num else jnp.repeat(values, num // len(values))


def _check_losses(what: str, values: Array, shape: tuple[int, ...]) -> None:
    if jnp.shape(values) != shape:
        raise ValueError(
            f"{what} must be one number per example, of shape {shape}, got {jnp.shape(values)}"
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{what} must be of a floating type, as only those have gradients, got {values.dtype}"
        )
