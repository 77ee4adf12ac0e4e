"""Learner with any number of players, each with an objective of its own.

Two players of a GAN are `train.adversarial`; FactorVAE, VAE-GAN, BiGAN or a codebook that follows
its codes are games.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import optax

from genmod import checks, rng
from genmod.train import ema, engine, gradients
from genmod.train import hyper as hypers
from genmod.train.engine import Form, Position, Report, Role, Rules
from genmod.train.hyper import Schedule
from genmod.train.learner import (
    Conditions,
    Learner,
    NoSampler,
    sampled,
    sampler,
)
from genmod.types import Array, Batch, Key, Objective, Params

Order = Literal["in turn", "at once", "extrapolated"]
"""Names of the orders in which players move."""


class Player(NamedTuple):
    """Player of a game: an objective, and the optimizer of its own parameters.

    Attributes:
      objective: `(keys [B], params, batch) -> (loss [B], aux)`, with the parameters of all players.
        The player moves its own by the gradient of the mean loss; all others are constants. As a
        third value it may return notes, a dict of trees of arrays [B, ...], for `remember`. It may
        also be a function `hyper -> objective`.
      optimizer: any optax transformation.
      steps: number of its updates in a step.
      constrain: `params -> params`, applied to its own parameters after each update, such as
        `gan.weight_clipping(0.01)`, or `(params, now) -> params`, where `now` holds the values of
        hyper and the remembered fields by name. None changes nothing.
      whole_batch: whether the objective looks at its batch as a whole, as in `train.learner`.
    """

    objective: Objective | Callable[[Mapping[str, Any]], Objective]
    optimizer: optax.GradientTransformation
    steps: int = 1
    constrain: Callable[..., Params] | None = None
    whole_batch: bool = False


class GameState(NamedTuple):
    """State of a game.

    It holds everything that the next step depends on.

    Attributes:
      step: int32 [], number of steps taken.
      params: the parameters of all players and the remembered fields, as `init` returns them.
      opt_state: the optimizers' states, by player.
      hyper: the constant entries of the game's `hyper`.
      ema: exponential moving averages (EMA), by field.
    """

    step: Array
    params: Any
    opt_state: dict[str, optax.OptState]
    hyper: dict[str, Array]
    ema: dict[str, Params]

    @property
    def averaged(self) -> Any:
        """Parameters to draw from, with averages in place of fields."""
        return _with_fields(self.params, self.ema)


def game(
    init: Callable[[Key, Batch], Any],
    players: Mapping[str | tuple[str, ...], Player],
    *,
    remember: Callable[[Key, Any, Any], Mapping[str, Any]] | None = None,
    order: Order = "in turn",
    sample: Callable[..., Array] | None = None,
    conditions: Any = None,
    hyper: Mapping[str, float | Schedule] | None = None,
    ema_half_life: float | Mapping[str, float] | None = None,
    ema_ramp_up: float = 0.05,
    microbatches: int = 1,
    report: Report | None = None,
    check: Callable[[Batch], None] | None = None,
) -> Learner:
    """Returns a learner in which each player minimises its own objective.

    The parameters are a dict or a NamedTuple. Each of its fields belongs to one player, or to
    nobody: such a field stays as it is, or is moved by `remember`, like a codebook or a running
    average. In a step, the players have their turns in the order of `players`; each sees the others
    as they are then. Then `remember` has its turn.

    The batch is cut into as many equal parts as the largest number of `steps` of a player: update i
    of a player sees part i modulo their number, where one that has a single update sees part 0.

    Args:
      init: `(key, batch) -> params`.
      players: the players, by the name of the field that they move. A player of several fields has
        a tuple of their names; it is called by them, joined by "_".
      remember: `(key, params, notes) -> values`, new values of fields of nobody by name, from the
        parameters after all turns and the notes of all players. A note of a player with several
        `steps` has a leading axis of them.
      order: "in turn"; "at once": all gradients are taken at the same parameters; or
        "extrapolated", the extra-gradient method (Gidel et al. 2019, algorithm 4): all players move
        at once, by the gradients at the parameters to which a first round of updates leads, which
        is then undone. Both rounds see the same batch, with noise of their own. The optimizers'
        states follow both, so that a learning rate's schedule counts two for a step.
      sample: `(keys [num], params) -> images [num, H, W, C]`, for `Learner.sample`, or `(keys,
        params, condition) -> images`.
      conditions: conditions that occur in the data, as in `train.learner`.
      hyper: numbers that follow a schedule or are swept, as in `train.learner`. An objective may
        then be a function `hyper -> objective`.
      ema_half_life: half-life, in examples, of an exponential moving average (EMA) of each player's
        parameters, or half-lives by field. Samples are drawn from averages where there are any.
      ema_ramp_up: upper bound of the half-life, as a share of the examples seen so far.
      microbatches: number of equal parts into which an update cuts its batch to save memory.
      report: `(gradient, updates, params) -> metrics` of a player's update, such as norms of
        layers; the metrics get the player's name before theirs.
      check: function `batch -> None` for `Learner.check`. None uses the attribute `check` of init,
        if present.

    Returns:
      A Learner whose state is a GameState. Its metrics are means over a step's updates: of each
      player `NAME_loss`, the norm `NAME_gradient`, and its aux values, whose names must differ
      between players.

    Raises:
      ValueError: if there are no players, two players have one field, a number of steps,
        microbatches or a half-life is not positive, or a player of several steps moves at once with
        others; when traced, if a player has no field of its name, or an objective or `remember`
        returns something else than above.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from genmod import rng, train
    >>> init = lambda key, x: {"mean": jnp.zeros(()), "fast": jnp.zeros(())}
    >>> def objective(keys, params, x):
    ...     return jnp.square(x - params["mean"]), {}, {"x": x}
    >>> def remember(key, params, notes):
    ...     return {"fast": 0.5 * params["fast"] + 0.5 * notes["x"].mean()}
    >>> player = train.Player(objective, optax.sgd(0.25))
    >>> learner = train.game(init, {"mean": player}, remember=remember)
    >>> x = jnp.array([1.0, 3.0])
    >>> state, metrics = learner.step(rng.root(1), learner.init(rng.root(0), x), x)
    >>> float(state.params["mean"]), float(state.params["fast"])
    (1.0, 1.0)
    """
    checks.positive_integer("microbatches", microbatches)
    roles = _roles(players, order, microbatches, report)
    moved = [name for role in roles for name in role.fields]
    hypers.check(
        hyper,
        reads=any(
            hypers.is_of(one.objective, 3) or reads_now(one.constrain) for one in players.values()
        ),
        what="the objective of a player must be a function hyper -> objective, got none",
    )
    averages = ema.by_field(ema_half_life, ema_ramp_up, moved)

    def rules_of(params: Any) -> Rules:
        def key_of(key: Key, name: str, index: Array) -> Key:
            return rng.at_step(rng.stream(key, name), index)

        def moved_by_nobody(key: Key, fields: dict[str, Params], notes: Any) -> Mapping[str, Any]:
            assert remember is not None
            return remember(key, _with_fields(params, fields), notes)

        return Rules(
            roles=roles,
            join=lambda fields: _with_fields(params, fields),
            key_of=key_of,
            parts=max(role.steps for role in roles),
            at_once=order != "in turn",
            extrapolated=order == "extrapolated",
            microbatches=microbatches,
            averages=averages,
            hyper=hyper,
            remember=remember and moved_by_nobody,
        )

    def read(state: GameState) -> Position:
        fields = _fields_of(state.params)
        return Position(state.step, fields, state.ema, state.opt_state, state.hyper)

    def write(params: Any, position: Position) -> GameState:
        return GameState(
            position.step,
            _with_fields(params, position.fields),
            position.opt_states,
            position.hyper,
            position.averages,
        )

    form = Form(rules_of, read, write, lambda params, found: found)

    def start(key: Key, batch: Batch) -> GameState:
        params = init(key, batch)
        fields = _fields_of(params)
        for name in moved:
            if name not in fields:
                raise ValueError(
                    f"the player {name!r} must have a field of its name in the parameters, which "
                    f"have the fields {', '.join(map(repr, fields))}"
                )
        return engine.begin(form, params, fields, batch)

    def draw(key: Key, state: GameState, num: int, condition: Any) -> Array:
        if sample is None:
            raise NoSampler("this learner cannot sample: train.game got no sample function")
        return sampled(sample, rng.per_example(key, num), state.averaged, condition)

    if check is None:
        check = getattr(init, "check", None)
    known = Conditions.of(conditions)
    return Learner(
        start,
        functools.partial(engine.step, form),
        sampler(draw, known),
        check,
        inspect=functools.partial(engine.inspect, form),
        conditions=known,
    )


def _roles(
    players: Mapping[str | tuple[str, ...], Player],
    order: str,
    microbatches: int,
    report: Report | None,
) -> tuple[Role, ...]:
    """Returns the players as the step sees them.

    Raises:
      ValueError: if they do not fit together.
    """
    if not players:
        raise ValueError("players must hold at least one player, got none")
    roles: list[Role] = []
    owners: dict[str, str] = {}
    for key, player in players.items():
        fields = (key,) if isinstance(key, str) else tuple(key)
        name = "_".join(fields)
        if not isinstance(player, Player):
            raise ValueError(
                f"the player {name!r} must be a train.Player, got {checks.described(player)}"
            )
        for field in fields:
            if field in owners:
                raise ValueError(
                    f"the field {field!r} must have one player, got {owners[field]!r} and {name!r}"
                )
            owners[field] = name
        steps = checks.positive_integer(f"steps of {name}", player.steps)
        check_order(order, name, steps)
        roles.append(_role(name, fields, player, microbatches, report))
    return tuple(roles)


def _role(
    name: str, fields: tuple[str, ...], player: Player, microbatches: int, report: Report | None
) -> Role:
    what = f"the objective of {name}"
    whole_batch = player.whole_batch or getattr(player.objective, "whole_batch", False)
    gradients.check_whole_batch(what, whole_batch, microbatches)

    def loss(now: Mapping[str, Any]) -> engine.MeanLoss:
        return engine.of_objective(what, player.objective, now, f"{name}_loss", whole_batch)

    return Role(
        name,
        fields,
        loss,
        f"{name}_loss",
        player.optimizer,
        steps=player.steps,
        constrain=constraint(player.constrain),
        whole_batch=whole_batch,
        report=report and prefixed(name, report),
        gradient=f"{name}_gradient",
    )


def check_order(order: str, name: str, steps: int) -> None:
    """Refuses an unknown order, and several steps of a player that moves at once with others."""
    checks.known("order", order, get_args(Order))
    if order != "in turn" and steps > 1:
        raise ValueError(f"players that move at once have one step each, got {steps} of {name}")


def prefixed(player: str, report: Report) -> Report:
    """Returns a report whose metrics have the player's name before theirs."""
    return lambda *arrays: {f"{player}_{name}": v for name, v in report(*arrays).items()}


def constraint(
    constrain: Callable[..., Params] | None,
) -> Callable[[Mapping[str, Any]], Callable[[Params], Params]] | None:
    """Returns a constraint as a function `now -> (params -> params)`."""
    if constrain is None:
        return None
    if reads_now(constrain):
        return lambda now: lambda params: constrain(params, now)
    return lambda now: constrain


def reads_now(constrain: Callable[..., Params] | None) -> bool:
    """Returns whether a constraint is a function `(params, now) -> params`."""
    return constrain is not None and checks.takes(constrain, 2) and not checks.takes(constrain, 1)


def _fields_of(params: Any) -> dict[str, Params]:
    """Returns the fields of parameters.

    Raises:
      ValueError: if the parameters are neither a dict nor a NamedTuple.
    """
    if isinstance(params, dict):
        return dict(params)
    if hasattr(params, "_asdict"):
        return params._asdict()
    raise ValueError(
        "init must return the parameters as a dict or a NamedTuple, with a field for each player, "
        f"got {checks.described(params)}"
    )


def _with_fields(params: Any, fields: Mapping[str, Params]) -> Any:
    """Returns parameters with some fields replaced."""
    return {**params, **fields} if isinstance(params, dict) else params._replace(**fields)
