"""Learner with two players: a generator and a discriminator.

It is a game whose two objectives are made of a loss, penalties and networks; one compiled step
trains both.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from genmod import checks, rng
from genmod.train import ema, engine, gradients
from genmod.train import hyper as hypers
from genmod.train.engine import Form, MeanLoss, Position, Report, Role, Rules
from genmod.train.game import Order, check_order, constraint, prefixed, reads_now
from genmod.train.hyper import Schedule
from genmod.train.learner import Conditions, Learner, sampler
from genmod.train.objectives import (
    Augment,
    Components,
    PenaltyFunction,
    Unrolled,
    check_terms,
    discriminator_loss,
    generated,
    generator_loss,
    penalty_terms,
)
from genmod.train.players import AdversarialState, Loss, Optimizers, OptStates, Players
from genmod.types import Array, Batch, Key, Params

_PLAYERS = ("generator", "discriminator")


def adversarial(
    players: Players,
    loss: Loss | Callable[[Mapping[str, Array]], Loss],
    optimizers: optax.GradientTransformation
    | Optimizers
    | Mapping[str, optax.GradientTransformation],
    *,
    penalty: PenaltyFunction | Callable[[Mapping[str, Array]], PenaltyFunction] | None = None,
    terms: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    hyper: Mapping[str, float | Schedule] | None = None,
    memory: Mapping[str, Any] | None = None,
    remember: Callable[[Key, Any, Any], Mapping[str, Any]] | None = None,
    conditions: Any = None,
    discriminator_steps: int = 1,
    generator_steps: int = 1,
    order: Order = "in turn",
    unrolled: Unrolled | None = None,
    joint_batch: bool = False,
    ema_half_life: float | None = None,
    ema_ramp_up: float = 0.05,
    constrain: Callable[..., Params] | Mapping[str, Callable[..., Params]] | None = None,
    microbatches: int = 1,
    whole_batch: bool = False,
    augment: Augment | Callable[[Mapping[str, Array]], Augment] | None = None,
    deception: float | Callable[[Mapping[str, Array]], Array] | None = None,
    as_images: Callable[[Array], Array] | None = None,
    report: Report | None = None,
) -> Learner:
    """Returns a learner with two players, who take turns.

    In each step, unless `order` says otherwise, the discriminator is updated first, then the
    generator. The batch is cut into `discriminator_steps` equal parts, one for each update of the
    discriminator, so that it never sees an image twice. Latents are drawn anew for every update.
    The generator's update i sees the real images of part i, for losses that compare real and
    generated images; after the last part it starts again with the first.

    Args:
      players: the model, as from `gan.make`. A conditional model judges and generates images with
        the conditions of the batch: generated images have those of the real ones beside them.
      loss: losses of both players, such as `gan.nonsaturating`.
      optimizers: one optax transformation for both, or `Optimizers(generator, discriminator)`, or a
        dict with these names.
      penalty: function `(keys, critic, real, fake) -> [B]`, added to the discriminator's loss. A
        sum such as `0.5 * gan.r1 + 0.5 * gan.r2` is logged term by term; the terms' names must
        differ from the metrics below.
      terms: further terms of both players' losses by name, `gan.Term`, such as
        `{"class": gan.auxiliary_classifier()}`. They may read outputs of the discriminator beside
        its logits, as those of `nets.heads`.
      hyper: weights that follow a schedule or are to be swept: name -> number or schedule
        `step -> value`. Numbers are part of the state, where `over_grid` finds them. `loss`,
        `penalty`, `terms` and `augment` may then be functions of their values, such as
        `lambda hyper: hyper["weight"] * gan.r1`; `memory` is among the values.
      memory: initial values of further fields, which no gradient moves, by name: arrays or trees.
      remember: `(key, params, notes) -> values`, new values of fields of the memory by name, after
        both players' turns. `params` has the entries `generator`, `discriminator` and those of the
        memory; `notes` has `real_logits` and `fake_logits`, those of the discriminator's update
        (with a leading axis of updates if there are several), and the notes of terms.
      conditions: conditions that occur in the data, a tree of arrays [N, ...] such as all labels,
        for a conditional model. `Learner.sample` draws from them if it gets no condition.
      discriminator_steps: number of updates of the discriminator in a step.
      generator_steps: number of updates of the generator in a step.
      order: "in turn", "at once" or "extrapolated" (extra-gradient), as of `train.game`; the latter
        two with one update of each player. Schedules of "extrapolated" count two for a step.
      unrolled: further steps of the discriminator that the generator foresees; None for none.
      joint_batch: True judges real and generated images in one batch. This matters only to a
        discriminator that depends on batch statistics (batch normalisation).
      ema_half_life: half-life, in generated images, of an exponential moving average (EMA) of the
        generator's parameters, from which samples are drawn (Karras et al. 2018). None keeps no
        average.
      ema_ramp_up: upper bound of the half-life, as a share of the images generated so far, so that
        the average soon forgets the first generators (Karras et al. 2020).
      constrain: transform of the discriminator's parameters after each of its updates, such as
        `gan.weight_clipping(0.01)`; or a function `(params, hyper) -> params`; or a dict of such
        functions by player, "generator" and "discriminator".
      microbatches: number of equal parts into which each update's batch is cut to save memory
        (gradient accumulation). The gradient is that of the whole batch. Parts whose examples
        interact, such as batch normalisation, refuse it.
      whole_batch: whether a loss, a penalty or a term of your own looks at its batch as a whole:
        whether an example's value depends on other examples. Microbatches are then refused; under
        `pmap`, every device computes the losses of the whole batch. Those of `genmod.gan` do not
        need it.
      augment: function `(keys [B], images [B, ...]) -> images [B, ...]`, such as
        `data.diffaugment()`. It changes real and generated images before the discriminator sees
        them, in both players' updates and in penalties, with fresh noise for every example and use
        (Zhao et al. 2020). Gradients must pass through it. None leaves the images as they are;
        samples are never augmented.
      deception: probability with which the discriminator is shown a generated image in place of a
        real one, in its own turn alone (adaptive pseudo augmentation, Jiang et al. 2021), or a
        function of hyper that returns it, such as `lambda now: now["probability"]` with
        `gan.moving_probability`. None for never. Such images count as real ones everywhere, also in
        metrics and notes.
      as_images: function that `Learner.sample` applies to generated images. If None, images of the
        players' finite `image_range` are scaled to [0, 1].
      report: `(gradient, updates, params) -> metrics` of a player's update, such as norms of
        layers; the metrics get the player's name before theirs.

    `Learner.inspect` returns the terms of both players' updates. Each example takes part in one
    update of the discriminator, whose terms are in the order of the batch; if examples are judged
    in packs, each has the value of its pack. `generator_loss` is in the order of the updates; each
    value belongs to the real example that was judged beside the generated one.

    Returns:
      A Learner whose state is an AdversarialState. Its metrics are means over a step's updates:
      `discriminator_loss` and `generator_loss`, without penalties and terms; the health of the
      game, taken before each update of the discriminator: `real_probability` and
      `fake_probability` (mean probability of being real; the article's equilibrium is 0.5 for
      both), `accuracy` (share of images that the discriminator classifies correctly, at a threshold
      of 0.5); `discriminator_gradient` and `generator_gradient` (norms); each penalty by name; and
      each term as `discriminator_NAME` or `generator_NAME`. Penalties and terms are unweighted.

    Raises:
      ValueError: if a number of steps or of microbatches, or a half-life, is not positive, a
        penalty or a term has the name of a metric of the game, hyper is given but nothing is a
        function of it, memory and `remember` are not given together, or the optimizers, the loss
        or the penalty are none; in `init`, if samples need `conditions` and there are none; when
        traced, if the batch cannot be cut evenly, a loss, a penalty, a term or augmented images
        have another shape than above, or a loss is not of a floating type.
    """
    for name, value in (
        ("discriminator_steps", discriminator_steps),
        ("generator_steps", generator_steps),
        ("microbatches", microbatches),
    ):
        checks.positive_integer(name, value)
    gradients.check_whole_batch("the loss, the penalty or a term", whole_batch, microbatches)
    average = ema.check(ema_half_life, ema_ramp_up)
    of_player = constrain if isinstance(constrain, Mapping) else {"discriminator": constrain}
    for name in of_player:
        checks.known("player of constrain", name, _PLAYERS)
    optimizer = _of_players(optimizers)
    if not (hasattr(loss, "discriminator") or (callable(loss) and checks.takes(loss, 1))):
        raise ValueError(
            "loss must be an AdversarialLoss such as gan.hinge, or a function hyper -> it, got "
            f"{checks.described(loss)}"
        )
    if penalty is not None and not any(checks.takes(penalty, num) for num in (4, 1)):
        raise ValueError(
            "penalty must be a function (keys, critic, real, fake) -> [B], or a function "
            f"hyper -> it, got {checks.described(penalty)}"
        )
    if not callable(terms):
        check_terms(terms)
    for name, steps in (("discriminator", discriminator_steps), ("generator", generator_steps)):
        check_order(order, name, steps)
    if unrolled is not None:
        unrolled.check(microbatches)
    if deception is not None and not callable(deception):
        checks.probability("deception", deception)
    parts = Components(
        players,
        loss,
        penalty,
        terms,
        augment,
        joint_batch,
        remember is not None,
        unrolled,
        deception,
    )
    parts_of_hyper = {"loss": (loss, 2), "penalty": (penalty, 4), "augment": (augment, 2)}
    hypers.check(
        hyper,
        reads=any(map(reads_now, of_player.values()))
        or callable(terms)
        or callable(deception)
        or any(hypers.is_of(*one) for one in parts_of_hyper.values()),
        what="the loss, the penalty, terms, augment or deception must be a function hyper -> it, "
        "got none",
    )
    if penalty is not None and not hypers.is_of(penalty, 4):
        penalty_terms(penalty)  # a name that clashes is refused now, not when the step is traced
    start_memory = _check_memory(memory, remember)

    def role(
        name: str,
        loss: Callable[[Components, Mapping[str, Any]], MeanLoss],
        steps: int,
    ) -> Role:
        return Role(
            name,
            (name,),
            lambda now: loss(parts, now),
            f"{name}_loss",
            getattr(optimizer, name),
            steps=steps,
            constrain=constraint(of_player.get(name)),
            whole_batch=whole_batch,
            report=report and prefixed(name, report),
            gradient=f"{name}_gradient",
        )

    # The generator plays against the discriminator that has just been updated.
    roles = (
        role("discriminator", discriminator_loss, discriminator_steps),
        role("generator", generator_loss, generator_steps),
    )

    def rules_of(params: Any) -> Rules:
        def join(fields: dict[str, Params]) -> Any:
            own = {name: fields[name] for name in _PLAYERS}
            return params._replace(**own)

        return Rules(
            roles=roles,
            join=join,
            key_of=lambda key, name, index: rng.at_step(rng.stream(key, name), index),
            parts=discriminator_steps,
            parts_name="discriminator_steps",
            at_once=order != "in turn",
            extrapolated=order == "extrapolated",
            microbatches=microbatches,
            averages={} if average is None else {"generator": average},
            hyper=hyper,
            remember=remember,
            offered=True,
        )

    def read(state: AdversarialState) -> Position:
        own = {name: getattr(state.params, name) for name in _PLAYERS}
        return Position(
            state.step,
            {**own, **state.memory},
            {} if average is None else {"generator": state.ema},
            state.opt_state._asdict(),
            state.hyper,
        )

    def write(params: Any, position: Position) -> AdversarialState:
        fields = dict(position.fields)
        own = {name: fields.pop(name) for name in _PLAYERS}
        return AdversarialState(
            position.step,
            params._replace(**own),
            position.averages.get("generator", ()),
            OptStates(**position.opt_states),
            position.hyper,
            fields,
        )

    known = Conditions.of(conditions)
    form = Form(rules_of, read, write, lambda params, found: params._replace(**found))

    def init(key: Key, batch: Batch) -> AdversarialState:
        params = players.init(key, batch)
        if known is None:  # a generator that normalises over its batch may need them to sample
            jax.eval_shape(lambda own: players.standing(rng.root(0), own), params)
        own = {name: getattr(params, name) for name in _PLAYERS}
        return engine.begin(form, params, {**own, **start_memory}, batch)

    to_images = _to_unit_interval(players) if as_images is None else as_images

    def decoder(key: Key, state: AdversarialState) -> Callable[..., Array]:
        params = state.averaged
        standing_key = rng.stream(key, "standing")
        of_data = () if known is None else (known.examples,)
        params = players.standing(standing_key, params, *of_data)
        return lambda z, condition=None: to_images(generated(players, params, z, condition))

    def draw(key: Key, state: AdversarialState, num: int, condition: Any) -> Array:
        keys = rng.per_example(rng.stream(key, "latent"), num)
        return decoder(key, state)(players.latent(keys), condition)

    return Learner(
        init,
        functools.partial(engine.step, form),
        sampler(draw, known),
        players.check,
        inspect=functools.partial(engine.inspect, form),
        decoder=decoder,
        conditions=known,
    )


def _of_players(
    optimizers: optax.GradientTransformation
    | Optimizers
    | Mapping[str, optax.GradientTransformation],
) -> Optimizers:
    """Returns the optimizer of each player.

    Raises:
      ValueError: if they are neither one transformation nor one for each player.
    """
    if isinstance(optimizers, optax.GradientTransformation):
        return Optimizers(optimizers, optimizers)
    found = optimizers
    if isinstance(found, tuple) and len(found) == len(_PLAYERS):
        found = Optimizers(*found)._asdict()
    if (
        not isinstance(found, Mapping)
        or set(found) != set(_PLAYERS)
        or not all(isinstance(one, optax.GradientTransformation) for one in found.values())
    ):
        raise ValueError(
            "optimizers must be one optax transformation, or one for each of generator and "
            f"discriminator, got {checks.described(optimizers)}"
        )
    return Optimizers(**found)


def _check_memory(
    memory: Mapping[str, Any] | None, remember: Callable[..., Any] | None
) -> dict[str, Any]:
    """Returns the initial memory.

    Raises:
      ValueError: if there is memory but no `remember` or vice versa, or it has the name of a
        player.
    """
    if (memory is None) != (remember is None):
        given = "memory" if remember is None else "remember"
        raise ValueError(f"memory and remember must be given together, got {given} alone")
    for name in memory or {}:
        if name in _PLAYERS:
            raise ValueError(f"memory must not have the name of a player, got {name!r}")
    return dict(memory or {})


def _to_unit_interval(players: Players) -> Callable[[Array], Array]:
    """Returns a function that scales generated images to [0, 1].

    It is the identity if the players have no finite image range.
    """
    low, high = getattr(players, "image_range", (0.0, 1.0))
    if (low, high) == (0, 1) or not math.isfinite(high - low):
        return lambda images: images
    return lambda images: (images - low) / (high - low)
