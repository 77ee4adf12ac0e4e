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
from genmod.types import Array, Batch, Keys, Metrics, Seen

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
"""Names of the game's own metrics, which penalties must not have."""


class Unrolled(NamedTuple):
    """Steps of the discriminator that the generator foresees (unrolled GAN).

    The generator's loss is that against the discriminator after so many further steps of plain
    gradient descent, each on the generator's own batch and latents, and its gradient passes through
    these steps. (The paper takes the discriminator's optimizer for them.) The discriminator itself
    takes none of these steps. They take `num` second derivatives, and gradients of the whole batch:
    microbatches are refused (ValueError).

    Attributes:
      num: number of steps.
      rate: learning rate of the steps.

    References:
      Metz et al., Unrolled Generative Adversarial Networks, 2017 (arXiv:1611.02163), equations 7
      to 10.
    """

    num: int
    rate: float

    def check(self, microbatches: int) -> None:
        """Refuses numbers that are not positive, and microbatches.

        Raises:
          ValueError: if num is not a positive whole number or rate not a positive number, or there
            are several microbatches.
        """
        if microbatches > 1:
            raise ValueError(
                "an unrolled discriminator needs the gradient of the whole batch, so microbatches "
                f"must be 1, got {microbatches}"
            )
        checks.positive_integer("Unrolled.num", self.num)
        checks.positive("Unrolled.rate", self.rate)


class Components(NamedTuple):
    """Components of which both players' losses are made.

    Attributes:
      players: the model.
      loss: losses of both players.
      penalty: penalty of the discriminator; None for none.
      terms: further terms of both players' losses, by name, or a function of hyper that returns
        them.
      augment: augmentation of what the discriminator sees; None for none.
      joint_batch: whether real and generated images are judged in one batch.
      noted: whether the discriminator's logits are handed on to `remember`.
      unrolled: further steps of the discriminator that the generator foresees; None for none.
      deception: probability that the discriminator is shown a generated image for a real one, or a
        function of hyper that returns it; None for never.
    """

    players: Players
    loss: Any
    penalty: Any
    terms: Any
    augment: Any
    joint_batch: bool
    noted: bool
    unrolled: Unrolled | None = None
    deception: Any = None

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
            terms=check_terms(self.terms(now) if callable(self.terms) else self.terms),
            augment=hypers.resolve("augment", self.augment, 2, now),
            deception=self.deception(now) if callable(self.deception) else self.deception,
        )

    def game(self, params: Any, keys: Keys, batch: Batch) -> Seen:
        """Returns what the discriminator sees and says, of a batch and of images beside it."""
        real, condition = _split(self.players, batch)
        z = self.players.latent(rng.stream(keys, "latent"))
        fake = generated(self.players, params, z, condition)
        if self.deception is not None:
            real = self._deceiving(params, keys, real, condition)
        if self.augment is not None:
            real, fake = self._augmented(keys, "real", real), self._augmented(keys, "fake", fake)

        def judge(x: Array) -> dict[str, Array]:
            return judged(self.players, params, x, condition)

        def generate(z: Array) -> Array:
            return generated(self.players, params, z, condition)

        outputs = (
            self._of_both(params, real, fake, condition)
            if self.joint_batch
            else (judge(real), judge(fake))
        )
        return Seen(real, fake, *outputs, z, condition, generate, judge)

    def _deceiving(self, params: Any, keys: Keys, real: Array, condition: Any) -> Array:
        """Returns real images of which some are replaced by other generated ones."""
        z = self.players.latent(rng.stream(keys, "latent of deception"))
        other = jax.lax.stop_gradient(generated(self.players, params, z, condition))
        coins = jax.vmap(jax.random.uniform)(rng.stream(keys, "deception"))
        shown = (coins < self.deception).reshape(-1, *[1] * (real.ndim - 1))
        return jnp.where(shown, other, real)

    def _of_both(
        self, params: Any, real: Array, fake: Array, condition: Any
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Returns the outputs for real and for generated images, judged in one batch."""
        both = [(real, condition), (fake, condition)]
        x, c = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *both)
        outputs = judged(self.players, params, x, c)
        first = {name: value[: len(value) // 2] for name, value in outputs.items()}
        return first, {name: value[len(value) // 2 :] for name, value in outputs.items()}

    def _augmented(self, keys: Keys, name: str, images: Array) -> Array:
        made = self.augment(rng.stream(keys, f"augmentation of {name}"), images)
        checks.augmented(made, images)
        return made


def discriminator_loss(parts: Components, now: Mapping[str, Any]) -> MeanLoss:
    """Returns the discriminator's mean loss at a step, penalties and terms included."""
    parts = parts.at(now)
    penalties = [] if parts.penalty is None else penalty_terms(parts.penalty)

    def mean_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Any]:
        seen = parts.game(params, keys, batch)
        own = seen.real_outputs["logit"], seen.fake_outputs["logit"]
        # A loss may compare an example with all others, which may lie on other devices.
        logits = devices.gather(own[0]), devices.gather(own[1])
        losses = parts.loss.discriminator(*logits)
        _check_losses("the discriminator's loss", losses, logits[0].shape)
        total = gradients.mean(losses)
        values = {"discriminator_loss": losses, **_health(parts.loss, *logits)}
        # The logits are those of all devices, so the terms count their examples too.
        num = len(keys) * devices.count()
        values = {name: _of_examples(value, num) for name, value in values.items()}
        for name, weight, function in penalties:
            # `gan.Penalty` gives its terms the same streams if a sum is called by itself.
            found = function(
                rng.stream(keys, f"penalty {name}"),
                lambda x: seen.judge(x)["logit"],
                seen.real,
                seen.fake,
            )
            _check_losses(f"the penalty {name}", found, (len(keys),))
            values[name] = found
            total = total + weight * gradients.mean(found)
        more, further, notes = _of_terms(parts.terms, "discriminator", keys, seen)
        if parts.noted:
            logits_of = dict(zip(("real_logits", "fake_logits"), own, strict=True))
            notes = _joined("note", notes, logits_of)
        return total + more, (_joined("metric", values, further), notes)

    return mean_loss


def generator_loss(parts: Components, now: Mapping[str, Any]) -> MeanLoss:
    """Returns the generator's mean loss at a step, terms included."""
    foreseen = None if parts.unrolled is None else discriminator_loss(parts, now)
    unrolled = parts.unrolled
    parts = parts._replace(penalty=None, deception=None).at(now)

    def mean_loss(keys: Keys, params: Any, batch: Batch) -> tuple[Array, Any]:
        if unrolled is not None and foreseen is not None:
            params = _ahead(unrolled, foreseen, keys, params, batch)
        seen = parts.game(params, keys, batch)
        logits = [devices.gather(each["logit"]) for each in (seen.real_outputs, seen.fake_outputs)]
        losses = parts.loss.generator(*logits)
        _check_losses("the generator's loss", losses, logits[1].shape)
        values = {"generator_loss": _of_examples(losses, len(keys) * devices.count())}
        more, further, notes = _of_terms(parts.terms, "generator", keys, seen)
        total = gradients.mean(losses) + more
        return total, (_joined("metric", values, further), notes)

    return mean_loss


def _ahead(unrolled: Unrolled, loss: MeanLoss, keys: Keys, params: Any, batch: Batch) -> Any:
    """Returns parameters whose discriminator has taken further steps of gradient descent."""
    devices.refuse_microbatch("an unrolled discriminator needs the gradient")

    def descend(own: Any, _: None) -> tuple[Any, None]:
        slope = jax.grad(lambda own: loss(keys, params._replace(discriminator=own), batch)[0])(own)
        slope = devices.mean(slope)
        return jax.tree.map(
            lambda p, g: p - jnp.asarray(unrolled.rate, p.dtype) * g, own, slope
        ), None

    own, _ = jax.lax.scan(descend, params.discriminator, None, length=unrolled.num)
    return params._replace(discriminator=own)


def _of_terms(
    terms: Mapping[str, Any], player: str, keys: Keys, seen: Seen
) -> tuple[Array, Metrics, dict[str, Any]]:
    """Returns the weighted sum of a player's terms, their values by name, and their notes."""
    total, values, notes = jnp.zeros(()), {}, {}
    for name, term in terms.items():
        function = getattr(term, player)
        if function is None:
            continue
        found = function(rng.stream(keys, f"term {name}"), seen)
        found, noted = found if isinstance(found, tuple) else (found, {})
        _check_losses(f"the {player}'s term {name}", found, (len(keys),))
        total = total + getattr(term, f"{player}_weight") * gradients.mean(found)
        values[f"{player}_{name}"] = found
        notes = _joined("note", notes, noted)
    return total, values, notes


def _joined(what: str, some: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Returns two sets of values by name.

    Raises:
      ValueError: if they share a name.
    """
    if twice := sorted(some.keys() & others.keys()):
        raise ValueError(f"terms and penalties must name each {what} differently, got {twice[0]!r}")
    return {**some, **others}


def _split(players: Players, batch: Batch) -> tuple[Array, Any]:
    """Returns images and condition of a batch."""
    condition = getattr(players, "condition", None)
    return (batch, None) if condition is None else condition(batch)


def generated(players: Players, params: Any, z: Array, condition: Any) -> Array:
    """Returns generated images; a condition goes to a conditional model."""
    if condition is None:
        return players.generate(params, z)
    return players.generate(params, z, condition)


def judged(players: Players, params: Any, x: Array, condition: Any) -> dict[str, Array]:
    """Returns the discriminator's outputs by name; a condition goes to a conditional model."""
    given = () if condition is None else (condition,)
    outputs = getattr(players, "outputs", None)
    if outputs is None:
        return {"logit": players.discriminate(params, x, *given)}
    return outputs(params, x, *given)


def penalty_terms(penalty: Any) -> list[tuple[str, Any, PenaltyFunction]]:
    """Returns the terms of a sum of penalties.

    A term is the name, the weight and the function of a penalty.
    """
    single = ((getattr(penalty, "__name__", "penalty"), 1.0, penalty),)
    terms = list(getattr(penalty, "terms", single))
    for name, _, _ in terms:
        if name in _NAMES:
            raise ValueError(
                f"a penalty must not have the name {name!r}: the game's own metrics are "
                f"{', '.join(_NAMES)}; gan.Penalty.of(function, name) gives it another"
            )
    return terms


def check_terms(terms: Any) -> Mapping[str, Any]:
    """Returns the terms of both players' losses by name.

    Raises:
      ValueError: if they are no mapping from names to terms, or one would be logged under the name
        of a metric.
    """
    if terms is None:
        return {}
    if not isinstance(terms, Mapping):
        raise ValueError(f"terms must be a dict of gan.Term by name, got {checks.described(terms)}")
    for name, term in terms.items():
        if not (hasattr(term, "discriminator") and hasattr(term, "generator_weight")):
            raise ValueError(f"terms[{name!r}] must be a gan.Term, got {checks.described(term)}")
        if name in ("loss", "gradient"):
            raise ValueError(f"a term must not have the name {name!r}, which is that of a metric")
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
