"""Learner: training as pure functions."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from genmod import checks, devices, rng
from genmod.train import gradients
from genmod.types import Array, Batch, Key, Keys, Metrics, Objective, Params


class Inspection(NamedTuple):
    """Terms and gradients of one step, before its update.

    `Learner.inspect` returns it.

    Attributes:
      terms: each example's values by name, [B] in the order of the batch: the loss, and every other
        term whose mean the step reports.
      gradients: gradient of the loss that the step minimises, a tree like the parameters. If a
        player has several updates in a step, a tuple of such trees, in order.
      examples: indices of examples in the batch, by the name of a term, int32 of the term's shape:
        the example to which each value belongs. Terms with one value per example, in the order of
        the batch, have no entry.
    """

    terms: Metrics
    gradients: Any
    examples: dict[str, Array] | None = None


def no_decoder(key: Key, state: Any) -> Callable[[Array], Array]:
    """Refuses to decode: the decoder of learners without one."""
    raise ValueError("this learner has no decoder; expected a single run of train.adversarial")


class Learner(NamedTuple):
    """Training as pure functions.

    A learner holds no state and no key.

    Attributes:
      init: `(key, batch) -> state`, a tree of arrays with everything that the next step depends on.
      step: `(key, state, batch) -> (state, metrics)`, one step of training, the update included;
        metrics are means over the batch.
      sample: `(key, state, num) -> images [num, H, W, C]`.
      check: `batch -> None`, raises ValueError if the values of the data are unsuitable for
        training. It is called once, with the first batch, outside compiled code. None checks
        nothing.
      seeds: number of independent runs, as from `over_seeds`; keys, state, batches and metrics then
        have a leading axis of that length. None for a single run, without such an axis.
      single: the learner of each of many runs; None for a single run.
      sequential: True takes many runs through their steps one after the other, False vectorises
        over them, None chooses the faster way.
      mesh: devices to run on, as from `over_devices`; None for the default device.
      inspect: `(key, state, batch) -> Inspection`, the values of `step` with these arguments,
        example by example, with the same keys and before the update. Over seeds or a grid, its
        arrays have their leading axis. Over devices, it is the function for a single device, equal
        up to rounding. None if the learner has no such function.
      decoder: `(key, state) -> (z [B, L] -> images [B, H, W, C])`, the function of latents behind
        `sample`; the key is for networks that must first collect batch statistics. Only learners
        of `train.adversarial` have one.
    """

    init: Callable[[Key, Batch], Any]
    step: Callable[[Key, Any, Batch], tuple[Any, Metrics]]
    sample: Callable[[Key, Any, int], Array]
    check: Callable[[Batch], None] | None = None
    seeds: int | None = None
    single: "Learner | None" = None
    sequential: bool | None = None
    mesh: jax.sharding.Mesh | None = None
    inspect: Callable[[Key, Any, Batch], Inspection] | None = None
    decoder: Callable[[Key, Any], Callable[[Array], Array]] = no_decoder


class TrainState(NamedTuple):
    """State of a one-player learner.

    It holds everything that the next step depends on.

    Attributes:
      step: int32 [], number of steps taken.
      params: the model's parameters.
      opt_state: the optimizer's state.
      hyper: the constant entries of the learner's `hyper`.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    hyper: dict[str, Array]


Schedule = Callable[[Array], Array]


def learner(
    model_init: Callable[[Key, Batch], Params],
    objective: Objective | Callable[[Mapping[str, Array]], Objective],
    optimizer: optax.GradientTransformation,
    *,
    sample: Callable[[Keys, Params], Array] | None = None,
    hyper: Mapping[str, float | Schedule] | None = None,
    microbatches: int = 1,
    check: Callable[[Batch], None] | None = None,
) -> Learner:
    """Returns a learner that minimises the mean of an objective.

    It has one player: each step takes the gradient of the mean over a batch and updates the
    parameters once.

    Args:
      model_init: `(key, batch) -> params`.
      objective: `(keys [B], params, batch) -> (loss [B], aux)`. With `hyper`, a function
        `hyper -> objective`.
      optimizer: any optax transformation.
      sample: `(keys [num], params) -> images [num, H, W, C]`, for `Learner.sample`.
      hyper: weights that follow a schedule or are to be swept: name -> number or schedule
        `step -> value`. Inside the step, `objective` is called with their values at that step; the
        objective that it returns keeps its three arguments. Numbers are part of the state, where
        `over_grid` finds them.
      microbatches: number of equal parts into which the batch is cut, to save memory (gradient
        accumulation). The gradient is that of the whole batch.
      check: function `batch -> None` for `Learner.check`, which refuses data by their values. None
        uses the attribute `check` of model_init, if present: that of a model from `vae.make`
        refuses images outside the range of its likelihood. `lambda batch: None` accepts everything.

    Returns:
      A Learner whose state is a TrainState. Its metrics are `loss`, the mean of the objective over
      the batch, and the mean of each of its aux values, in float32 at least.

    Raises:
      ValueError: if microbatches is not positive, or hyper holds anything but numbers and
        schedules; when traced, if the objective does not return one loss of a floating type and
        one of each aux value per example, or the batch cannot be cut evenly.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from genmod import rng, train
    >>> def objective(keys, mean, x):  # x [B] -> loss [B], aux
    ...     return jnp.square(x - mean), {"distance": jnp.abs(x - mean)}
    >>> learner = train.learner(lambda key, batch: jnp.zeros(()), objective, optax.sgd(0.25))
    >>> batch = jnp.array([1.0, 3.0])
    >>> state = learner.init(rng.root(0), batch)
    >>> state, metrics = jax.jit(learner.step)(rng.root(1), state, batch)
    >>> float(metrics["loss"]), float(metrics["distance"]), float(state.params)
    (5.0, 2.0, 1.0)
    """
    checks.positive_integer("microbatches", microbatches)
    check_hyper(hyper)
    if check is None:
        check = getattr(model_init, "check", None)

    def objective_at(state: TrainState) -> Objective:
        if hyper is None:
            return cast(Objective, objective)
        return of_hyper("objective", objective, hyper, state.step, state.hyper)

    def init(key: Key, batch: Batch) -> TrainState:
        params = model_init(key, batch)
        numbers = hyper_numbers(hyper)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), numbers)

    def examine(key: Key, state: TrainState, batch: Batch) -> tuple[Metrics, Params]:
        """Returns each example's terms, and the gradient of the mean loss."""
        size = checks.leading_axis("batch", batch)
        keys = devices.split(rng.per_example(key, size, axis_name=devices.axis()))
        current = objective_at(state)

        def mean_loss(params: Params, examples: tuple[Keys, Batch]) -> tuple[Array, Metrics]:
            returned = current(examples[0], params, examples[1])
            losses, aux = checks.objective(returned, size // microbatches)
            return gradients.mean(losses), {"loss": losses, **aux}

        (_, terms), gradient = gradients.of_mean(
            mean_loss, state.params, (keys, batch), microbatches=microbatches
        )
        return terms, devices.mean(gradient)

    def step(key: Key, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        terms, gradient = examine(key, state, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        after = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
        return after, gradients.means(terms)

    def inspect(key: Key, state: TrainState, batch: Batch) -> Inspection:
        return Inspection(*examine(key, state, batch))

    def draw(key: Key, state: TrainState, num: int) -> Array:
        if sample is None:
            raise ValueError("this learner cannot sample: train.learner got no sample function")
        num = checks.positive_integer("num", num)
        return sample(rng.per_example(key, num), state.params)

    return Learner(init, step, draw, check, inspect=inspect)


def check_hyper(hyper: Mapping[str, float | Schedule] | None) -> None:
    """Refuses values that are neither a finite number nor a schedule."""
    for name, value in (hyper or {}).items():
        traced = isinstance(value, jax.core.Tracer)
        if not (callable(value) or traced or checks.is_finite_number(value)):
            raise ValueError(
                f"hyper[{name!r}] must be a finite number or a schedule step -> value, got "
                f"{checks.described(value)}"
            )


def of_hyper(
    what: str,
    function: Any,
    hyper: Mapping[str, float | Schedule],
    step: Array,
    numbers: Mapping[str, Array],
) -> Any:
    """Returns the objective or penalty at a step.

    `function` is `hyper -> objective` or `hyper -> penalty`; it is called with the values at that
    step.
    """
    values = hyper_values(hyper, step, numbers)
    expected = f"with hyper, {what} must be a function hyper -> {what}"
    try:
        signature(function).bind(values)
    except TypeError:
        raise ValueError(f"{expected}, got one that takes other arguments") from None
    made = function(values)
    if not callable(made):
        raise ValueError(f"{expected}, got one that returns {checks.described(made)}")
    return made


def hyper_numbers(hyper: Mapping[str, float | Schedule] | None) -> dict[str, Array]:
    """Returns the constant entries of `hyper` as arrays."""
    numbers = {} if hyper is None else hyper
    return {name: jnp.asarray(n, jnp.float32) for name, n in numbers.items() if not callable(n)}


def hyper_values(
    hyper: Mapping[str, float | Schedule], step: Array, numbers: Mapping[str, Array]
) -> dict[str, Array]:
    """Returns the values of all entries of `hyper` at a step."""
    return {
        name: jnp.asarray(value(step)) if callable(value) else numbers[name]
        for name, value in hyper.items()
    }
