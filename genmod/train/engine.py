"""The step that all learners share, whatever the number of their players.

`train.learner` has one player, `train.adversarial` two, `train.game` any number. All of them are
the rules below with another form of state, so updates, microbatches, devices, averages, memory and
inspection are implemented once.

    step            all players' updates, then averages and memory
      turn          the updates of one player in a step
        update      one gradient, one update of the optimizer
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genmod import checks, devices, rng
from genmod.train import ema, gradients, memory
from genmod.train import hyper as hypers
from genmod.train.ema import Ema
from genmod.train.hyper import Hyper
from genmod.train.memory import Remember
from genmod.types import Array, Batch, Key, Keys, Metrics, Params, Parts

MeanLoss = Callable[[Keys, Any, Batch], tuple[Array, tuple[Metrics, dict[str, Any]]]]
"""Function `(keys, params of all, batch) -> (mean loss [], (terms, notes))`."""
Report = Callable[[Params, Params, Params], Metrics]
"""Function `(gradient, updates, params) -> metrics`, of one player's update."""


class Role(NamedTuple):
    """A player, as the step sees it.

    Attributes:
      name: name of the player; "" for the only one.
      fields: fields of the parameters that it moves.
      loss: `now -> MeanLoss`, for the values of hyper and memory at the step.
      loss_name: name of the loss among the terms and the metrics.
      optimizer: the optax transformation of its gradients.
      steps: number of its updates in a step.
      constrain: `now -> (params -> params)` for its parameters after each update; None for none.
      whole_batch: whether the loss must see the whole batch.
      report: further metrics of an update; None for none.
      gradient: name of the metric that is the gradient's norm; None for no such metric.
    """

    name: str
    fields: tuple[str, ...]
    loss: Callable[[Mapping[str, Any]], MeanLoss]
    loss_name: str
    optimizer: optax.GradientTransformation
    steps: int = 1
    constrain: Callable[[Mapping[str, Any]], Callable[[Params], Params]] | None = None
    whole_batch: bool = False
    report: Report | None = None
    gradient: str | None = None


class Rules(NamedTuple):
    """Rules of a step.

    Attributes:
      roles: the players, in the order of their turns.
      join: `fields -> params`, as losses and `remember` see them.
      key_of: `(key, role, index) -> key` of an update.
      parts: number of equal parts into which a step cuts its batch; update i of a player sees part
        i modulo their number.
      parts_name: name of that number, for messages.
      at_once: whether all players' gradients are taken before any of them moves.
      extrapolated: whether the gradients are taken where a first round of updates leads, from which
        only the optimizers' states are kept (extra-gradient); players then move at once.
      microbatches: number of equal parts into which an update cuts its batch to save memory.
      averages: moving averages, by field.
      hyper: numbers that follow a schedule or are swept.
      remember: `(key, fields, notes) -> values` of fields that no player moves; None if there is
        nothing to remember.
      offered: whether `remember` need not read all notes.
    """

    roles: tuple[Role, ...]
    join: Callable[[dict[str, Params]], Any]
    key_of: Callable[[Key, str, Array], Key]
    parts: int = 1
    parts_name: str = "steps"
    at_once: bool = False
    extrapolated: bool = False
    microbatches: int = 1
    averages: Mapping[str, Ema] = MappingProxyType({})
    hyper: Hyper | None = None
    remember: Remember | None = None
    offered: bool = False

    @property
    def owners(self) -> dict[str, str]:
        """The player that moves a field, by field."""
        return {name: role.name for role in self.roles for name in role.fields}


class Position(NamedTuple):
    """State of a learner, whatever its form.

    Attributes:
      step: int32 [], number of steps taken.
      fields: the parameters, by field.
      averages: moving averages, by field.
      opt_states: the optimizers' states, by player.
      hyper: the constant entries of hyper.
    """

    step: Array
    fields: dict[str, Params]
    averages: dict[str, Params]
    opt_states: dict[str, optax.OptState]
    hyper: dict[str, Array]


class Form(NamedTuple):
    """Form of a learner's state, which has a field `params`.

    Attributes:
      rules: `params -> rules`.
      read: `state -> position`.
      write: `(params, position) -> state`; of `params` only their structure counts.
      gradients: `(params, gradients by player) -> gradients`, as `Inspection` has them.
    """

    rules: Callable[[Any], Rules]
    read: Callable[[Any], Position]
    write: Callable[[Any, Position], Any]
    gradients: Callable[[Any, dict[str, Any]], Any]


class Inspection(NamedTuple):
    """Terms and gradients of one step, before its update.

    `Learner.inspect` returns it.

    Attributes:
      terms: each example's values by name, [B] in the order of the batch: the loss, and every other
        term whose mean the step reports.
      gradients: gradient of the loss that the step minimises, a tree like the parameters; of a
        `game`, a dict of those of each player. If a player has several updates in a step, a tuple
        of such trees, in order.
      examples: indices of examples in the batch, by the name of a term, int32 of the term's shape:
        the example to which each value belongs. Terms with one value per example, in the order of
        the batch, have no entry.
    """

    terms: Metrics
    gradients: Any
    examples: dict[str, Array] | None = None


class _Update(NamedTuple):
    """Result of one update, before it is summed up.

    Attributes:
      loss: the mean loss of this device's share.
      terms: each example's values by name.
      gradient: gradient of the mean loss.
      metrics: what the player's `report` says.
      notes: what the loss hands on to `remember`.
    """

    loss: Array
    terms: Metrics
    gradient: Params
    metrics: Metrics
    notes: dict[str, Any]


def begin(form: Form, params: Any, fields: dict[str, Params], batch: Batch) -> Any:
    """Returns the state before the first step.

    Args:
      form: the form of the state.
      params: initial parameters.
      fields: their fields, and those of the memory.
      batch: a batch.

    Raises:
      ValueError: if the batch cannot be cut into the parts of a step, or hyper has the name of a
        field.
    """
    rules = form.rules(params)
    _cut(rules, batch)
    if both := sorted(set(fields) & set(rules.hyper or ())):
        raise ValueError(f"hyper must not have the name of a field, got {both[0]!r}")
    fields = memory.as_arrays(fields)
    position = Position(
        jnp.zeros((), jnp.int32),
        fields,
        {name: fields[name] for name in rules.averages},
        {role.name: role.optimizer.init(_own(role, fields)) for role in rules.roles},
        hypers.numbers(rules.hyper),
    )
    return form.write(params, position)


def step(form: Form, key: Key, state: Any, batch: Batch) -> tuple[Any, Metrics]:
    """Returns the state after a step, and its metrics: means over the step's updates."""
    rules, at = form.rules(state.params), form.read(state)

    def summary(role: Role, update: _Update) -> tuple[Metrics, dict[str, Any]]:
        metrics = gradients.means(update.terms)
        own = (*metrics, role.loss_name, role.gradient)
        if twice := [name for name in update.metrics if name in own]:
            raise ValueError(
                f"report of {role.name} must not return the metric {twice[0]!r}, which the game has"
            )
        metrics |= update.metrics
        if role.loss_name not in metrics:  # the loss of several parts is the sum of theirs
            metrics[role.loss_name] = devices.mean(update.loss)
        if role.gradient is not None:
            metrics[role.gradient] = gradients.norm(update.gradient)
        return metrics, update.notes

    fields, opt_states, outcomes = _play(rules, key, at, batch, summary)
    metrics: dict[str, Array] = {}
    notes: dict[str, Any] = {}
    for role, (own, noted) in zip(rules.roles, outcomes, strict=True):
        _refuse_twice("metric", metrics, own, role, rules)
        _refuse_twice("note", notes, noted, role, rules)
        # A player of one update has its values, one of several a value for each update.
        metrics |= {name: jnp.mean(value) for name, value in own.items()}
        notes |= noted
    fields = memory.remembered(
        rules.remember, key, fields, rules.owners, notes, offered=rules.offered
    )
    averages = dict(at.averages)
    for role in rules.roles:
        examples = gradients.num_examples(batch) // rules.parts * devices.count() * role.steps
        for name in role.fields:
            if name in averages:
                averages[name] = ema.updated(
                    rules.averages[name], averages[name], fields[name], examples, at.step
                )
    after = Position(at.step + 1, fields, averages, opt_states, at.hyper)
    return form.write(state.params, after), metrics


def inspect(form: Form, key: Key, state: Any, batch: Batch) -> Inspection:
    """Returns terms and gradients of a step, before its update."""
    rules, at = form.rules(state.params), form.read(state)

    def whole(role: Role, update: _Update) -> tuple[Metrics, Params]:
        return update.terms, update.gradient

    _, _, outcomes = _play(rules, key, at, batch, whole)
    terms: dict[str, Array] = {}
    found: dict[str, Any] = {}
    examples: dict[str, Array] = {}
    for role, (own, gradient) in zip(rules.roles, outcomes, strict=True):
        found[role.name] = _each_update(gradient, role.steps)
        own = own if role.steps > 1 else jax.tree.map(lambda leaf: leaf[None], own)
        if rules.parts == role.steps:
            terms |= gradients.join(own)
            continue
        terms |= {name: values.ravel() for name, values in own.items()}
        # The terms are in the order of the updates: `shown` holds the index in the batch of the
        # example beside each of them.
        if not isinstance(batch, Parts):
            indices = _cut(rules, jnp.arange(checks.leading_axis("batch", batch)))
            shown = indices[jnp.arange(role.steps) % rules.parts].ravel()
            examples |= dict.fromkeys(own, shown)
    return Inspection(terms, form.gradients(state.params, found), examples or None)


def of_objective(
    what: str,
    objective: Any,
    now: Mapping[str, Any],
    loss_name: str = "loss",
    whole_batch: bool = False,
) -> MeanLoss:
    """Returns the mean loss of an objective.

    Args:
      what: name of the objective, for messages.
      objective: `(keys, params, batch) -> (loss [B], aux)`, or a function of `now` that returns it.
      now: values of hyper and memory at the step.
      loss_name: name of the loss among the terms.
      whole_batch: whether the learner knows that the objective looks at its batch as a whole.

    Raises:
      ValueError: if the objective looks at its batch as a whole, and the learner does not know it.
    """
    current = hypers.resolve(what.removeprefix("the "), objective, 3, now)
    if getattr(current, "whole_batch", False) and not whole_batch:
        raise ValueError(f"{what} looks at its batch as a whole: give the learner whole_batch=True")

    def mean_loss(
        keys: Any, params: Any, batch: Batch
    ) -> tuple[Array, tuple[Metrics, dict[str, Any]]]:
        if isinstance(keys, Parts):
            sizes = {part: len(own) for part, own in keys.items()}
            losses, aux, notes = checks.objective(current(keys, params, batch), sizes, what)
            total = jnp.array([gradients.mean(values) for values in losses.values()]).sum()
            terms = {f"{loss_name}/{part}": values for part, values in losses.items()}
            return total, ({**terms, **aux}, notes)
        losses, aux, notes = checks.objective(current(keys, params, batch), len(keys), what)
        return gradients.mean(losses), ({loss_name: losses, **aux}, notes)

    return mean_loss


def _play(
    rules: Rules, key: Key, at: Position, batch: Batch, note: Callable[[Role, _Update], Any]
) -> tuple[dict[str, Params], dict[str, optax.OptState], list[Any]]:
    """Takes all players' turns of a step.

    Returns the fields, the optimizers' states, and `note(role, update)` of each player, with a
    leading axis of updates if it has several.
    """
    ahead = at
    if rules.extrapolated:
        once = rules._replace(extrapolated=False)
        first = rng.stream(key, "extrapolation")
        found, opt_states, _ = _play(once, first, at, batch, lambda role, update: None)
        ahead = at._replace(fields=found, opt_states=opt_states)
    batches = _cut(rules, batch) if rules.parts > 1 else batch
    fields, opt_states = dict(at.fields), dict(ahead.opt_states)
    now = hypers.values(rules.hyper, at.step, at.hyper)
    now = {**{name: value for name, value in fields.items() if name not in rules.owners}, **now}
    kept = []
    for role in rules.roles:
        seen = ahead.fields if rules.at_once else fields
        base = _own(role, at.fields) if rules.extrapolated else None
        own, opt_state, noted = _turn(rules, role, key, now, seen, ahead, batches, note, base)
        fields, opt_states[role.name] = {**fields, **_fields(role, own)}, opt_state
        kept.append(noted)
    return fields, opt_states, kept


def _turn(
    rules: Rules,
    role: Role,
    key: Key,
    now: Mapping[str, Any],
    fields: dict[str, Params],
    at: Position,
    batches: Batch,
    note: Callable[[Role, _Update], Any],
    base: Params | None,
) -> tuple[Params, optax.OptState, Any]:
    """Takes one player's updates of a step.

    An update moves the parameters at which its gradient is taken, or those of `base` if given.
    """
    loss = role.loss(now)
    constrain = None if role.constrain is None else role.constrain(now)

    def one(carry: tuple[Params, Any], index: Any) -> tuple[tuple[Params, Any], Any]:
        own, opt_state = carry
        # There may be more updates than parts, which are then used again in order.
        part = batches
        if rules.parts > 1:
            part = jax.tree.map(lambda leaf: leaf[index % rules.parts], batches)
        update = _gradient(
            rules, role, rules.key_of(key, role.name, index), loss, own, fields, part
        )
        own = own if base is None else base
        updates, opt_state = role.optimizer.update(update.gradient, opt_state, own)
        if role.report is not None:
            update = update._replace(metrics=role.report(update.gradient, updates, own))
        own = optax.apply_updates(own, updates)
        # The next update must already see the constrained parameters.
        own = own if constrain is None else constrain(own)
        return (own, opt_state), note(role, update)

    carry = (_own(role, fields), at.opt_states[role.name])
    if role.steps == 1:
        (own, opt_state), kept = one(carry, 0)
    else:
        # A scan compiles an update once, however many of them a step has.
        (own, opt_state), kept = jax.lax.scan(one, carry, jnp.arange(role.steps))
    return own, opt_state, kept


def _gradient(
    rules: Rules,
    role: Role,
    key: Key,
    loss: MeanLoss,
    own: Params,
    fields: dict[str, Params],
    batch: Batch,
) -> _Update:
    """Returns terms, gradient and notes of a player's update."""
    gathered = role.whole_batch and devices.axis() is not None
    if gathered:
        batch = devices.gather(batch)
    with devices.whole() if gathered else nullcontext():
        keys = _keys(key, batch)

        def mean_loss(own: Params, examples: Any) -> tuple[Array, Any]:
            # The gradient is taken by the player's own parameters: all others are constants here.
            params = rules.join({**fields, **_fields(role, own)})
            return loss(examples[0], params, examples[1])

        (total, (terms, notes)), gradient = gradients.of_mean(
            mean_loss, own, (keys, batch), microbatches=rules.microbatches
        )
    if not gathered:
        notes = jax.tree.map(devices.gather, notes)
    return _Update(total, terms, devices.mean(gradient), {}, notes)


def _keys(key: Key, batch: Batch) -> Any:
    """Returns one key per example; those of each part for a batch of several."""
    if isinstance(batch, Parts):
        return Parts({name: _keys(rng.stream(key, name), part) for name, part in batch.items()})
    size = checks.leading_axis("batch", batch)
    return devices.split(rng.per_example(key, size, axis_name=devices.axis()))


def _refuse_twice(
    what: str, known: Mapping[str, Any], more: Mapping[str, Any], role: Role, rules: Rules
) -> None:
    if twice := sorted(set(known) & set(more)):
        raise ValueError(
            f"the players {', '.join(repr(one.name) for one in rules.roles)} must name their "
            f"{what}s differently, got {twice[0]!r} again from {role.name!r}"
        )


def _cut(rules: Rules, batch: Batch) -> Batch:
    return gradients.split_batch("batch", batch, rules.parts, rules.parts_name)


def _own(role: Role, fields: dict[str, Params]) -> Params:
    """Returns the parameters of a player: those of its field, or of its fields by name."""
    if len(role.fields) == 1:
        return fields[role.fields[0]]
    return {name: fields[name] for name in role.fields}


def _fields(role: Role, own: Params) -> dict[str, Params]:
    return {role.fields[0]: own} if len(role.fields) == 1 else own


def _each_update(stacked: Params, num: int) -> Params:
    """Returns a player's gradient, or a tuple of one per update."""
    if num == 1:
        return stacked
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(num))
