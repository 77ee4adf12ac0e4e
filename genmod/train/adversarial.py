"""Learner with two players: a generator and a discriminator.

One compiled step trains both.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genmod import checks, devices, rng
from genmod.train import gradients
from genmod.train.learner import (
    Inspection,
    Learner,
    Schedule,
    check_hyper,
    hyper_numbers,
    of_hyper,
)
from genmod.train.players import AdversarialState, Loss, Optimizers, OptStates, Players
from genmod.types import Array, Batch, Key, Keys, Metrics, Params

PenaltyFunction = Callable[[Keys, Callable[[Array], Array], Array, Array], Array]


def adversarial(
    players: Players,
    loss: Loss,
    optimizers: optax.GradientTransformation | Optimizers,
    *,
    penalty: PenaltyFunction | Callable[[Mapping[str, Array]], PenaltyFunction] | None = None,
    hyper: Mapping[str, float | Schedule] | None = None,
    discriminator_steps: int = 1,
    generator_steps: int = 1,
    joint_batch: bool = False,
    ema_half_life: float | None = None,
    ema_ramp_up: float = 0.05,
    constrain: Callable[[Params], Params] | None = None,
    microbatches: int = 1,
    augment: Callable[[Keys, Array], Array] | None = None,
    as_images: Callable[[Array], Array] | None = None,
) -> Learner:
    """Returns a learner with two players, who take turns.

    In each step the discriminator is updated first, then the generator. The batch is cut into
    `discriminator_steps` equal parts, one for each update of the discriminator, so that it never
    sees an image twice. Latents are drawn anew for every update. The generator's update i sees the
    real images of part i, for losses that compare real and generated images; after the last part it
    starts again with the first.

    Args:
      players: the model, as from `gan.make`.
      loss: losses of both players, such as `gan.nonsaturating`.
      optimizers: one optax transformation for both, or `Optimizers(generator, discriminator)`.
      penalty: function `(keys, critic, real, fake) -> [B]`, added to the discriminator's loss. A
        sum such as `0.5 * gan.r1 + 0.5 * gan.r2` is logged term by term; the terms' names must
        differ from the metrics below. With `hyper`, a function `hyper -> penalty`.
      hyper: weights that follow a schedule or are to be swept: name -> number or schedule
        `step -> value`. Numbers are part of the state, where `over_grid` finds them.
      discriminator_steps: number of updates of the discriminator in a step.
      generator_steps: number of updates of the generator in a step.
      joint_batch: True judges real and generated images in one batch. This matters only to a
        discriminator that depends on batch statistics (batch normalisation).
      ema_half_life: half-life, in generated images, of an exponential moving average (EMA) of the
        generator's parameters, from which samples are drawn (Karras et al. 2018). None keeps no
        average.
      ema_ramp_up: upper bound of the half-life, as a share of the images generated so far, so that
        the average soon forgets the first generators (Karras et al. 2020).
      constrain: transform of the discriminator's parameters after each of its updates, such as
        `gan.weight_clipping(0.01)`.
      microbatches: number of equal parts into which each update's batch is cut to save memory
        (gradient accumulation). The gradient is that of the whole batch if examples do not
        interact.
      augment: function `(keys [B], images [B, ...]) -> images [B, ...]`, such as
        `data.diffaugment()`. It changes real and generated images before the discriminator sees
        them, in both players' updates and in penalties, with fresh noise for every example and use
        (Zhao et al. 2020). Gradients must pass through it. None leaves the images as they are;
        samples are never augmented.
      as_images: function that `Learner.sample` applies to generated images. If None, images of the
        players' finite `image_range` are scaled to [0, 1].

    `Learner.inspect` returns the terms of both players' updates. Each example takes part in one
    update of the discriminator, whose terms are in the order of the batch; if examples are judged
    in packs, each has the value of its pack. `generator_loss` is in the order of the updates; each
    value belongs to the real example that was judged beside the generated one.

    Returns:
      A Learner whose state is an AdversarialState. Its metrics are means over a step's updates:
      `discriminator_loss` (without penalties) and `generator_loss`; the health of the game, taken
      before each update of the discriminator: `real_probability` and `fake_probability` (mean
      probability of being real; the article's equilibrium is 0.5 for both), `accuracy` (share of
      images that the discriminator classifies correctly, at a threshold of 0.5);
      `discriminator_gradient` and `generator_gradient` (norms); and each penalty by name,
      unweighted.

    Raises:
      ValueError: if a number of steps or of microbatches, or a half-life, is not positive, or a
        penalty has the name of a metric or a stream of the game; when traced, if the batch cannot
        be cut evenly, a loss, a penalty or augmented images have another shape than above, or a
        loss is not of a floating type.
    """
    for name, value in (
        ("discriminator_steps", discriminator_steps),
        ("generator_steps", generator_steps),
        ("microbatches", microbatches),
    ):
        checks.positive_integer(name, value)
    if ema_half_life is not None:
        checks.positive("ema_half_life", ema_half_life)
        checks.positive("ema_ramp_up", ema_ramp_up)
    optimizer = (
        Optimizers(optimizers, optimizers)
        if isinstance(optimizers, optax.GradientTransformation)
        else Optimizers(*optimizers)
    )

    check_hyper(hyper)
    if hyper is not None and penalty is None:
        raise ValueError(f"hyper {sorted(hyper)} needs a penalty that uses it, got none")
    if hyper is None and penalty is not None:
        _terms(penalty)  # a name that clashes is refused now, not when the step is traced

    to_images = _to_unit_interval(players) if as_images is None else as_images

    def split_batch(batch: Batch) -> Batch:
        return gradients.split_batch("batch", batch, discriminator_steps, "discriminator_steps")

    def terms_at(state: AdversarialState) -> list[tuple[str, Any, PenaltyFunction]]:
        """Returns name, weight and function of each penalty."""
        current: Any = penalty
        if penalty is not None and hyper is not None:
            current = of_hyper("penalty", penalty, hyper, state.step, state.hyper)
        return [] if current is None else _terms(current)

    def show(keys: Keys, real: Array, fake: Array) -> tuple[Array, Array]:
        """Augments real and generated images for the discriminator."""
        if augment is None:
            return real, fake
        both = {"real": real, "fake": fake}
        for name, images in both.items():
            both[name] = augment(rng.stream(keys, f"augmentation of {name}"), images)
            if (both[name].shape, both[name].dtype) != (images.shape, images.dtype):
                raise ValueError(
                    f"augment must keep the images' shape and dtype, {list(images.shape)} "
                    f"{images.dtype}, got {list(both[name].shape)} {both[name].dtype}"
                )
        return both["real"], both["fake"]

    def judge(params: Any, real: Array, fake: Array) -> tuple[Array, Array]:
        if joint_batch:
            with devices.cut("judging real and generated images together", len(real)):
                logits = players.discriminate(params, jnp.concatenate([real, fake]))
            both = logits[: len(logits) // 2], logits[len(logits) // 2 :]
        else:
            both = players.discriminate(params, real), players.discriminate(params, fake)
        # A loss may compare an example with all others, which may lie on other devices.
        return devices.gather(both[0]), devices.gather(both[1])

    def init(key: Key, batch: Batch) -> AdversarialState:
        split_batch(batch)
        params = players.init(key, batch)
        opt_state = OptStates(
            optimizer.generator.init(params.generator),
            optimizer.discriminator.init(params.discriminator),
        )
        ema = () if ema_half_life is None else params.generator
        numbers = hyper_numbers(hyper)
        return AdversarialState(jnp.zeros((), jnp.int32), params, ema, opt_state, numbers)

    def play(
        key: Key,
        state: AdversarialState,
        batch: Batch,
        note: Callable[[str, Metrics, Params], Any],
    ) -> tuple[Any, OptStates, tuple[Any, Any]]:
        """Runs all updates of a step.

        Returns the parameters, the states of both optimizers, and the results of `note(player,
        terms, gradient)` for each player, with a leading axis of updates.
        """
        parts = split_batch(batch)
        size = checks.leading_axis("batch", batch) // discriminator_steps
        terms = terms_at(state)

        def example_keys(player: str, index: Array) -> Keys:
            # Each update of each player draws fresh noise.
            keyed = rng.at_step(rng.stream(key, player), index)
            return devices.split(rng.per_example(keyed, size, axis_name=devices.axis()))

        def discriminator_update(carry: Any, inputs: Any) -> tuple[Any, Any]:
            (params, opt_state), (index, real) = carry, inputs
            keys = example_keys("discriminator", index)

            def mean_loss(own: Params, examples: Any) -> tuple[Array, Metrics]:
                keys, real = examples
                # The gradient is taken by `own` alone: the generator is a constant here.
                now = params._replace(discriminator=own)
                fake = players.generate(params, players.latent(rng.stream(keys, "latent")))
                real, fake = show(keys, real, fake)
                logits = judge(now, real, fake)
                losses = loss.discriminator(*logits)
                _check_losses("the discriminator's loss", losses, logits[0].shape)
                total = gradients.mean(losses)
                values = {"discriminator_loss": losses, **_health(loss, *logits)}
                # `judge` gathers the logits of all devices, so the terms count their examples too.
                num = len(real) * devices.count()
                values = {name: _of_examples(value, num) for name, value in values.items()}
                for name, weight, function in terms:
                    # `gan.Penalty` gives its terms the same streams if a sum is called by itself.
                    own_keys = rng.stream(keys, f"penalty {name}")
                    penalties = function(
                        own_keys, lambda x: players.discriminate(now, x), real, fake
                    )
                    _check_losses(f"the penalty {name}", penalties, (len(real),))
                    values[name] = penalties
                    total = total + weight * gradients.mean(penalties)
                return total, values

            (_, values), gradient = gradients.of_mean(
                mean_loss, params.discriminator, (keys, real), microbatches=microbatches
            )
            gradient = devices.mean(gradient)
            updates, opt_state = optimizer.discriminator.update(
                gradient, opt_state, params.discriminator
            )
            own = optax.apply_updates(params.discriminator, updates)
            # The next update must already see the constrained parameters.
            own = own if constrain is None else constrain(own)
            kept = note("discriminator", values, gradient)
            return (params._replace(discriminator=own), opt_state), kept

        def generator_update(carry: Any, index: Array) -> tuple[Any, Any]:
            params, opt_state = carry
            keys = example_keys("generator", index)

            def mean_loss(own: Params, examples: Any) -> tuple[Array, Metrics]:
                keys, real = examples
                # The gradient passes through the discriminator, which is a constant here.
                now = params._replace(generator=own)
                fake = players.generate(now, players.latent(rng.stream(keys, "latent")))
                real, fake = show(keys, real, fake)
                logits = judge(now, real, fake)
                losses = loss.generator(*logits)
                _check_losses("the generator's loss", losses, logits[1].shape)
                values = _of_examples(losses, len(real) * devices.count())
                return gradients.mean(losses), {"generator_loss": values}

            # There may be more updates than parts, which are then used again in order.
            real = jax.tree.map(lambda leaf: leaf[index % discriminator_steps], parts)
            (_, values), gradient = gradients.of_mean(
                mean_loss, params.generator, (keys, real), microbatches=microbatches
            )
            gradient = devices.mean(gradient)
            updates, opt_state = optimizer.generator.update(gradient, opt_state, params.generator)
            own = optax.apply_updates(params.generator, updates)
            kept = note("generator", values, gradient)
            return (params._replace(generator=own), opt_state), kept

        # Code that depends on a whole batch in its order can see here that this is only a part.
        cut = devices.cut("discriminator_steps") if discriminator_steps > 1 else nullcontext()
        with cut:
            # A scan compiles an update once, however many of them a step has.
            (params, discriminator_state), discriminator_terms = jax.lax.scan(
                discriminator_update,
                (state.params, state.opt_state.discriminator),
                (jnp.arange(discriminator_steps), parts),
            )
            # The generator plays against the discriminator that has just been updated.
            (params, generator_state), generator_terms = jax.lax.scan(
                generator_update, (params, state.opt_state.generator), jnp.arange(generator_steps)
            )
        opt_states = OptStates(generator_state, discriminator_state)
        return params, opt_states, (discriminator_terms, generator_terms)

    def step(key: Key, state: AdversarialState, batch: Batch) -> tuple[AdversarialState, Metrics]:
        def summary(player: str, terms: Metrics, gradient: Params) -> Metrics:
            return {**gradients.means(terms), f"{player}_gradient": gradients.norm(gradient)}

        params, opt_state, (discriminator_terms, generator_terms) = play(key, state, batch, summary)
        ema = state.ema
        if ema_half_life is not None:
            size = checks.leading_axis("batch", batch) // discriminator_steps
            generated = size * devices.count() * generator_steps
            half_life = jnp.minimum(ema_half_life, ema_ramp_up * generated * state.step)
            # The old average has the weight 0 at the first step, where the half-life is 0.
            kept = jnp.exp2(-generated / half_life)
            ema = optax.incremental_update(params.generator, ema, 1 - kept)
        after = state._replace(
            step=state.step + 1,
            params=params,
            ema=ema,
            opt_state=opt_state,
        )
        terms = {**discriminator_terms, **generator_terms}
        return after, {name: jnp.mean(values) for name, values in terms.items()}

    def inspect(key: Key, state: AdversarialState, batch: Batch) -> Inspection:
        _, _, notes = play(key, state, batch, lambda player, *kept: kept)
        (discriminator_terms, discriminator_gradients), (generator_terms, generator_gradients) = (
            notes
        )
        # The generator's terms are in the order of its updates: `shown` holds the index in the
        # batch of the real example beside each of them.
        indices = split_batch(jnp.arange(checks.leading_axis("batch", batch)))
        shown = indices[jnp.arange(generator_steps) % discriminator_steps].ravel()
        both = state.params._replace(
            discriminator=_each_update(discriminator_gradients, discriminator_steps),
            generator=_each_update(generator_gradients, generator_steps),
        )
        generator_terms = {name: values.ravel() for name, values in generator_terms.items()}
        return Inspection(
            {**gradients.join(discriminator_terms), **generator_terms},
            both,
            dict.fromkeys(generator_terms, shown),
        )

    def decoder(key: Key, state: AdversarialState) -> Callable[[Array], Array]:
        params = state.params
        if ema_half_life is not None:
            params = params._replace(generator=state.ema)
        params = players.standing(rng.stream(key, "standing"), params)

        def decode(z: Array) -> Array:
            images = players.generate(params, z)
            return to_images(images)

        return decode

    def sample(key: Key, state: AdversarialState, num: int) -> Array:
        keys = rng.per_example(rng.stream(key, "latent"), checks.positive_integer("num", num))
        return decoder(key, state)(players.latent(keys))

    return Learner(init, step, sample, players.check, inspect=inspect, decoder=decoder)


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


def _to_unit_interval(players: Players) -> Callable[[Array], Array]:
    """Returns a function that scales generated images to [0, 1].

    It is the identity if the players have no finite image range.
    """
    low, high = getattr(players, "image_range", (0.0, 1.0))
    if (low, high) == (0, 1) or not math.isfinite(high - low):
        return lambda images: images
    return lambda images: (images - low) / (high - low)


def _terms(penalty: Any) -> list[tuple[str, Any, PenaltyFunction]]:
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


def _each_update(stacked: Params, num: int) -> Params:
    """Returns a player's gradient, or a tuple of one per update."""
    each = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(num))
    return each if num > 1 else each[0]


def _check_losses(what: str, values: Array, shape: tuple[int, ...]) -> None:
    if jnp.shape(values) != shape:
        raise ValueError(
            f"{what} must be one number per example, of shape {shape}, got {jnp.shape(values)}"
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{what} must be of a floating type, as only those have gradients, got {values.dtype}"
        )
