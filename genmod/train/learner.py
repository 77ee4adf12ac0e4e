"""Learner: training as pure functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genmod import checks, rng
from genmod.train import ema, engine, gradients
from genmod.train import hyper as hypers
from genmod.train.engine import Form, Inspection, Position, Report, Role, Rules
from genmod.train.hyper import Schedule
from genmod.types import Array, Batch, Key, Keys, Metrics, Objective, Params


class NoSampler(ValueError):
    """Error: a learner has no function to sample with."""


def no_decoder(key: Key, state: Any) -> Callable[..., Array]:
    """Refuses to decode: the decoder of learners without one."""
    raise ValueError("this learner has no decoder; expected a single run of train.adversarial")


class Conditions:
    """Conditions that occur in the data, from which samples draw theirs.

    Attributes:
      examples: tree of arrays [N, ...], such as the labels of all examples.
      num: number of examples N.
      labels: distinct labels in ascending order, if the examples are whole numbers [N]; None for
        any other conditions.
    """

    # Equal only to itself: a learner must be hashable, and arrays are not.
    def __init__(self, examples: Any):
        """Takes the tree of arrays.

        Raises:
          ValueError: if the arrays have no common leading axis.
        """
        self.num = checks.leading_axis("conditions", examples)
        self.examples = jax.tree.map(np.asarray, examples)
        found = self.examples
        whole = isinstance(found, np.ndarray) and found.ndim == 1 and found.dtype.kind in "iu"
        self.labels: np.ndarray | None = np.unique(found) if whole else None

    @classmethod
    def of(cls, examples: Any) -> "Conditions | None":
        """Returns the conditions; None for none."""
        return None if examples is None else cls(examples)

    def draw(self, key: Key, num: int) -> Any:
        """Returns conditions of random examples, [num, ...]."""
        keys = rng.per_example(rng.stream(key, "condition"), num)
        index = jax.vmap(lambda one: jax.random.randint(one, (), 0, self.num))(keys)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], self.examples)

    def are(self, labels: Any) -> bool:
        """Returns whether the conditions are some labels [N], or each of them once."""
        own = np.asarray(labels)
        return self.labels is not None and any(
            np.array_equal(self.examples, others) for others in (own, np.unique(own))
        )

    def check(self, condition: Any) -> None:
        """Refuses a condition of another form, and labels that are not in the data.

        Its arrays must have the structure of the data's and their shapes, but for the first axis.
        Traced labels are not checked.
        """

        def form(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: ["num", *leaf.shape[1:]], tree)

        if form(condition) != form(self.examples):
            raise ValueError(
                f"condition must have the form of the learner's conditions, "
                f"{form(self.examples)}, got {form(condition)}"
            )
        if self.labels is None or isinstance(condition, jax.core.Tracer):
            return
        unknown = np.setdiff1d(condition, self.labels)
        if len(unknown):
            raise ValueError(
                f"condition must hold labels of the data, {len(self.labels)} from "
                f"{self.labels.min()} to {self.labels.max()}, got {unknown[0]}"
            )


class Learner(NamedTuple):
    """Training as pure functions.

    A learner holds no state and no key.

    Attributes:
      init: `(key, batch) -> state`, a tree of arrays with everything that the next step depends on.
      step: `(key, state, batch) -> (state, metrics)`, one step of training, the update included;
        metrics are means over the batch.
      sample: `(key, state, num, condition=None) -> images [num, H, W, C]`, a compiled program. The
        condition of a conditional model is a tree of arrays [num, ...], such as labels; if it is
        None, conditions are drawn from `conditions`, as frequent as there.
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
        `sample`; the key is for networks that must first collect batch statistics. Of a
        conditional model it is `(z, condition) -> images`. Only learners of `train.adversarial`
        have one.
      conditions: conditions that occur in the data; None for a model without condition.
    """

    init: Callable[[Key, Batch], Any]
    step: Callable[[Key, Any, Batch], tuple[Any, Metrics]]
    sample: Callable[..., Array]
    check: Callable[[Batch], None] | None = None
    seeds: int | None = None
    single: "Learner | None" = None
    sequential: bool | None = None
    mesh: jax.sharding.Mesh | None = None
    inspect: Callable[[Key, Any, Batch], Inspection] | None = None
    decoder: Callable[[Key, Any], Callable[..., Array]] = no_decoder
    conditions: Conditions | None = None


class TrainState(NamedTuple):
    """State of a one-player learner.

    It holds everything that the next step depends on.

    Attributes:
      step: int32 [], number of steps taken.
      params: the model's parameters.
      opt_state: the optimizer's state.
      hyper: the constant entries of the learner's `hyper`.
      ema: exponential moving average (EMA) of the parameters; `()` if none is kept.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    hyper: dict[str, Array]
    ema: Params = ()


def drawn_from(state: Any) -> Any:
    """Returns the parameters from which samples are drawn.

    They are `averaged` of a state that has it, as games do. Otherwise they are the average `ema`,
    if one is kept, or `params`.

    Args:
      state: state of a learner, or any object with `params`.
    """
    if hasattr(state, "averaged"):
        return state.averaged
    ema = getattr(state, "ema", ())
    return state.params if isinstance(ema, tuple) and not ema else ema


def learner(
    model_init: Callable[[Key, Batch], Params],
    objective: Objective | Callable[[Mapping[str, Array]], Objective],
    optimizer: optax.GradientTransformation,
    *,
    sample: Callable[..., Array] | None = None,
    conditions: Any = None,
    hyper: Mapping[str, float | Schedule] | None = None,
    ema_half_life: float | None = None,
    ema_ramp_up: float = 0.05,
    microbatches: int = 1,
    whole_batch: bool = False,
    report: Report | None = None,
    check: Callable[[Batch], None] | None = None,
) -> Learner:
    """Returns a learner that minimises the mean of an objective.

    It has one player: each step takes the gradient of the mean over a batch and updates the
    parameters once. `train.game` has several.

    Args:
      model_init: `(key, batch) -> params`.
      objective: `(keys [B], params, batch) -> (loss [B], aux)`. With `hyper`, a function
        `hyper -> objective`. Of a batch with several parts (`data.together`), it gets the keys of
        each part by name, and returns the losses of each part by name; the loss is the sum of the
        parts' means.
      optimizer: any optax transformation.
      sample: `(keys [num], params) -> images [num, H, W, C]`, for `Learner.sample`; of a
        conditional model `(keys, params, condition) -> images`, such as `vae.generate(model)`.
      conditions: conditions that occur in the data, a tree of arrays [N, ...] such as all labels.
        `Learner.sample` draws from them if it gets no condition.
      hyper: weights that follow a schedule or are to be swept: name -> number or schedule
        `step -> value`. Inside the step, `objective` is called with their values at that step; the
        objective that it returns keeps its three arguments. Numbers are part of the state, where
        `over_grid` finds them.
      ema_half_life: half-life, in examples, of an exponential moving average (EMA) of the
        parameters, from which samples are drawn. None keeps no average.
      ema_ramp_up: upper bound of the half-life, as a share of the examples seen so far.
      microbatches: number of equal parts into which the batch is cut, to save memory (gradient
        accumulation). The gradient is that of the whole batch.
      whole_batch: whether the objective looks at its batch as a whole: whether an example's loss
        depends on other examples. Microbatches are then refused; under `pmap`, every device
        computes the losses of the whole batch. An objective can say so itself, by an attribute
        `whole_batch`.
      report: `(gradient, updates, params) -> metrics`, further numbers to log, such as norms of
        layers; `params` are those before the update.
      check: function `batch -> None` for `Learner.check`, which refuses data by their values. None
        uses the attribute `check` of model_init, if present: that of a model from `vae.make`
        refuses images outside the range of its likelihood. `lambda batch: None` accepts everything.

    Returns:
      A Learner whose state is a TrainState. Its metrics are `loss`, the mean of the objective over
      the batch, and the mean of each of its aux values, in float32 at least.

    Raises:
      ValueError: if microbatches or a half-life is not positive, hyper holds anything but numbers
        and schedules, or the objective is not a function of hyper though there is one; when
        traced, if the objective does not return one loss of a floating type and one of each aux
        value per example, or the batch cannot be cut evenly.

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
    hypers.check(
        hyper,
        reads=hypers.is_of(objective, 3),
        what="objective must be a function hyper -> objective, got one that takes other arguments",
    )
    average = ema.check(ema_half_life, ema_ramp_up)
    whole_batch = whole_batch or getattr(objective, "whole_batch", False)
    gradients.check_whole_batch("the objective", whole_batch, microbatches)
    # The only field of the only player is the whole tree of parameters.
    role = Role(
        "",
        ("",),
        lambda now: engine.of_objective("the objective", objective, now, whole_batch=whole_batch),
        "loss",
        optimizer,
        whole_batch=whole_batch,
        report=report,
    )
    rules = Rules(
        roles=(role,),
        join=lambda fields: fields[""],
        key_of=lambda key, name, index: key,
        microbatches=microbatches,
        averages={} if average is None else {"": average},
        hyper=hyper,
    )

    def read(state: TrainState) -> Position:
        averages = {} if average is None else {"": state.ema}
        fields, opt_states = {"": state.params}, {"": state.opt_state}
        return Position(state.step, fields, averages, opt_states, state.hyper)

    def write(params: Params, position: Position) -> TrainState:
        return TrainState(
            position.step,
            position.fields[""],
            position.opt_states[""],
            position.hyper,
            position.averages.get("", ()),
        )

    form = Form(lambda params: rules, read, write, lambda params, found: found[""])

    def init(key: Key, batch: Batch) -> TrainState:
        params = model_init(key, batch)
        return engine.begin(form, params, {"": params}, batch)

    def draw(key: Key, state: TrainState, num: int, condition: Any) -> Array:
        if sample is None:
            raise NoSampler("this learner cannot sample: train.learner got no sample function")
        return sampled(sample, rng.per_example(key, num), drawn_from(state), condition)

    if check is None:
        check = getattr(model_init, "check", None)
    known = Conditions.of(conditions)
    return Learner(
        init,
        functools.partial(engine.step, form),
        sampler(draw, known),
        check,
        inspect=functools.partial(engine.inspect, form),
        conditions=known,
    )


def sampler(
    draw: Callable[[Key, Any, int, Any], Array], conditions: Conditions | None
) -> Callable[..., Array]:
    """Returns `Learner.sample`, a compiled program.

    Args:
      draw: `(key, state, num, condition) -> images`.
      conditions: conditions that occur in the data; None for a model without condition.
    """

    def complete(key: Key, state: Any, num: int, condition: Any) -> Array:
        if condition is None and conditions is not None:
            condition = conditions.draw(key, num)
        return draw(key, state, num, condition)

    compiled = jax.jit(complete, static_argnums=2)

    def sample(key: Key, state: Any, num: int, condition: Any = None) -> Array:
        num = checks.positive_integer("num", num)
        if condition is not None:
            condition = jax.tree.map(jnp.asarray, condition)
            checks.examples("condition", condition, num)
            if conditions is not None:
                conditions.check(condition)
        return compiled(key, state, num, condition)

    return sample


def sampled(sample: Callable[..., Array], keys: Keys, params: Params, condition: Any) -> Array:
    """Returns images by a sample function of two or three arguments.

    Raises:
      ValueError: if there is a condition, but the function takes none.
    """
    if condition is None:
        return sample(keys, params)
    if not checks.takes(sample, 3):
        raise ValueError(
            "this learner's sample function takes no condition, got one; expected a function "
            "(keys, params, condition) -> images"
        )
    return sample(keys, params, condition)
