"""Training loop.

A run is a sequence of calls of one compiled program. Each call takes as many steps as fit into half
a second.

    run             yields a LogPoint every `log_every` steps               (Python)
      _Run.call     one call: chooses its length, fetches its batches       (Python)
        advance_finite  keeps the way back to the last good state           (Python, `finite.py`)
          advance   takes the steps, stops at one that is not finite        (compiled, `chunk.py`)
            step    `learner.step(key, state, batch)`: the only model code
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from genmod import checks, devices, rng
from genmod.train import chunk
from genmod.train.batches import Batches, as_argument, many
from genmod.train.chunk import Carry
from genmod.train.finite import advance_finite
from genmod.train.learner import Learner
from genmod.types import Array, Batch, BatchAt, Key, Keys, Stream

_SECONDS_PER_CALL = 0.5
"""Seconds that one call of the compiled program should take.

It is long enough for the overhead of a call not to matter, and short enough for a progress bar and
for Ctrl-C to respond.
"""


class LogPoint(NamedTuple):
    """Metrics and carry of a run at a log point.

    Attributes:
      step: number of steps taken.
      metrics: mean of each metric over the steps since the last log point; empty if the run was
        stopped between two log points.
      carry: the run's carry, to save in a checkpoint and to continue from with `run`.
    """

    step: int
    metrics: dict[str, Any]
    carry: Carry

    @property
    def state(self) -> Any:
        """The learner's state."""
        return self.carry.state


class StepTrace(NamedTuple):
    """Inputs and metrics of a single step of a run.

    Attributes:
      key: key that the step draws from; one key per run for many runs.
      batch: batch that the step sees.
      metrics: metrics that the step reports.
    """

    key: Key | Keys
    batch: Batch
    metrics: dict[str, Any]


def run(
    learner: Learner,
    key: Key | Keys,
    batch_at: BatchAt,
    *,
    num_steps: int,
    log_every: int = 100,
    carry: Carry | None = None,
    compiled: bool = True,
    on_call: Callable[[int], bool] | None = None,
) -> Iterator[LogPoint]:
    """Trains, yielding a `LogPoint` at every log point.

    Log, save and plot in the loop over it.

    Step i sees `batch_at(key of the data, i)` and its own key; both depend on `key` and i alone. So
    a run that continues from any carry is bit-identical to one that was never interrupted.

    Args:
      learner: the learner to train.
      key: the run's key, `rng.root(seed)`. For a learner over seeds, the key of the first run, from
        which the others are derived, or the keys of all runs, [seeds].
      batch_at: function `(key, step) -> batch`, as from `data.batches`. The arrays of a
        `jax.tree_util.Partial` are arguments of the compiled program; those of any other function
        are compiled into it as constants. A `genmod.types.Stream` is read ahead in a thread.
      num_steps: number of steps at which the run ends, those before `carry` included.
      log_every: number of steps between log points. The run yields at each multiple of it, and at
        the end.
      carry: carry to continue from, instead of from `start(learner, key, batch_at)`; it stays
        valid.
      compiled: False runs every operation by itself, so that a debugger and `print` see values.
      on_call: function called with the number of steps taken, after each call of the compiled
        program, about twice a second. If it returns True, the run ends after that step.

    Returns:
      An iterator of `LogPoint`. Carries that it has yielded stay valid as it goes on.

    Raises:
      ValueError: immediately, if num_steps or log_every is not positive, or key is not for this
        learner.
      NonFiniteError: at the step whose metrics or whose new state are not finite.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> from genmod import rng, train
    >>> learner = train.learner(
    ...     model_init=lambda key, batch: jnp.zeros(()),
    ...     objective=lambda keys, mean, x: (jnp.square(x - mean), {}),
    ...     optimizer=optax.sgd(0.25),
    ... )
    >>> def batch_at(key, step):
    ...     return jnp.array([1.0, 3.0])
    >>> for point in train.run(learner, rng.root(0), batch_at, num_steps=4, log_every=2):
    ...     print(point.step, point.metrics["loss"], float(point.state.params))
    2 3.5 1.5
    4 1.15625 1.875
    """
    num_steps = checks.positive_integer("num_steps", num_steps)
    log_every = checks.positive_integer("log_every", log_every)
    key = chunk.keys_of(learner, key)
    if carry is None:
        carry = start(learner, key, batch_at)
    return _points(
        learner,
        key,
        batch_at,
        carry,
        num_steps=num_steps,
        log_every=log_every,
        compiled=compiled,
        on_call=on_call,
    )


def advance(
    learner: Learner,
    key: Key | Keys,
    batch_at: BatchAt,
    carry: Carry,
    num_steps: int,
    *,
    compiled: bool = True,
) -> Carry:
    """Takes exactly `num_steps` further steps.

    There is no log point. The result is the carry that `run` has at that step.

    Args:
      learner: the learner to train.
      key: the run's key, as for `run`.
      batch_at: function `(key, step) -> batch`, as for `run`.
      carry: carry to begin with; it stays valid.
      num_steps: number of steps to take; 0 takes none.
      compiled: False runs every operation by itself, as for `run`.

    Raises:
      NonFiniteError: at a step whose metrics or whose new state are not finite.
    """
    key = chunk.keys_of(learner, key)
    step = int(carry.step)
    end = step + num_steps
    with (
        contextlib.nullcontext() if compiled else jax.disable_jit(),
        Batches(learner, key, batch_at, step, end) as batches,
    ):
        run = _Run(learner, key, batches, _CallLength())
        while step < end:
            carry, step = run.call(carry, step, end)
    return carry


def fit(learner: Learner, key: Key, batch_at: BatchAt, num_steps: int) -> Any:
    """Trains in one pure function and returns the final state.

    The state is the one in which `run` ends. This is for small models, many of which are trained in
    one program: `jax.vmap` can map it over keys, and over the examples that a
    `jax.tree_util.Partial` carries. It does not stop at values that are not finite.

    Args:
      learner: the learner of a single run.
      key: the run's key, as for `run`.
      batch_at: function `(key, step) -> batch`, as for `run`, but not a `Stream`.
      num_steps: number of steps to take.

    Raises:
      ValueError: if num_steps is not positive or the learner is not that of a single run.
    """
    checks.positive_integer("num_steps", num_steps)
    if learner.seeds is not None:
        raise ValueError(f"the learner must be a single run, got one over {learner.seeds} seeds")
    data_key, step_key = rng.stream(key, "data"), rng.stream(key, "step")
    state = learner.init(rng.stream(key, "init"), batch_at(data_key, jnp.zeros((), jnp.int32)))

    def one_step(step: Array, state: Any) -> Any:
        key, batch = chunk.inputs(batch_at, data_key, step_key, step)
        return learner.step(key, state, batch)[0]

    return jax.lax.fori_loop(0, num_steps, one_step, state)


def next_step(learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry) -> StepTrace:
    """Returns inputs and metrics of the step after a carry.

    They are bit-identical to those of the run, finite or not.

    Args:
      learner: the learner to train.
      key: the run's key, as for `run`.
      batch_at: function `(key, step) -> batch`, as for `run`.
      carry: the run's carry before the step; it stays valid.
    """
    key, step = chunk.keys_of(learner, key), int(carry.step)
    with Batches(learner, key, batch_at, step, step + 1) as batches:
        at, _ = batches.at(step)
        _, metrics, _ = chunk.advance(learner, key, at, chunk.copy(carry), 1)
        seen = chunk.inputs(at, rng.stream(key, "data"), rng.stream(key, "step"), carry.step)
    return StepTrace(*seen, chunk.readable(metrics))


def start(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> Carry:
    """Returns the initial carry of a run.

    `run` starts from it if no carry is given.

    Raises:
      ValueError: if the learner refuses the first batch.
    """
    key = chunk.keys_of(learner, key)
    # The whole batch is on one device, or on one device of each process.
    alone = learner._replace(mesh=None)
    with Batches(alone, key, batch_at, 0, 1) as batches:
        carry, batch = _start()(learner, key, batches.at(0)[0])
    if learner.check is not None:
        learner.check(batch)
    return carry


def abstract_carry(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> Carry:
    """Returns the shapes and types of a run's carry.

    It is the target into which a checkpoint is restored. Nothing is computed, but learner, key and
    batches that do not fit together are refused. For a learner over devices, it also has the
    sharding of each array.
    """
    key = chunk.keys_of(learner, key)
    batches = batch_at.shapes(many(key)) if isinstance(batch_at, Stream) else as_argument(batch_at)
    found = _start().eval_shape(learner, key, batches)[0]
    if learner.mesh is None:
        return found

    def place(tree: Any, where: NamedSharding) -> Any:
        return jax.tree.map(lambda leaf: leaf.update(sharding=where), tree)

    return Carry(*map(place, found, chunk.shardings(learner)))


def pop_metrics(carry: Carry) -> tuple[dict[str, Any], Carry]:
    """Returns the mean of each metric, and the emptied carry.

    Every log point does this: the means are those since the last log point, and the carry begins
    new sums.
    """
    # NumPy divides exactly. XLA compiles a division of many values by one number to a product with
    # its inverse: the mean of one run among many would differ from that of the same run alone.
    totals, lost, count = jax.device_get((carry.totals, carry.compensation, carry.count))
    means = {}
    for name, total in totals.items():
        exact = total + lost[name].astype(np.float64)
        means[name] = np.divide(exact, count).astype(total.dtype)
    return chunk.readable(means), chunk.emptied(carry)


class _Run(NamedTuple):
    """Inputs that all calls of a run share.

    Attributes:
      learner: the learner to train.
      key: the run's key, or the keys of many runs.
      batches: source of the batches of the compiled program.
      calls: length of the calls, chosen from their times.
    """

    learner: Learner
    key: Key | Keys
    batches: Batches
    calls: "_CallLength"

    def call(self, carry: Carry, step: int, end: int) -> tuple[Carry, int]:
        """Takes as many steps as fit into a call.

        It stops at `end` at the latest. Returns the carry and the number of steps taken so far.
        """
        batch_at, last = self.batches.at(step)
        length = devices.agree(min(self.calls.length, end - step, last - step), min)
        began = time.perf_counter()
        carry = advance_finite(self.learner, self.key, batch_at, carry, length)
        self.calls.took(length, time.perf_counter() - began)
        return carry, step + length


def _points(
    learner: Learner,
    key: Key | Keys,
    batch_at: BatchAt,
    carry: Carry,
    *,
    num_steps: int,
    log_every: int,
    compiled: bool,
    on_call: Callable[[int], bool] | None,
) -> Iterator[LogPoint]:
    step, stop = int(carry.step), False
    with Batches(learner, key, batch_at, step, num_steps) as batches:
        # A carry may come from one device, so each array is placed as the program expects it.
        if learner.mesh is not None:
            _, parts, *_ = where = chunk.shardings(learner)
            carry = Carry(*map(devices.place, carry, where))
            key = devices.place(key, parts)
        run = _Run(learner, key, batches, _CallLength())
        while step < num_steps and not stop:
            # Log points are multiples of `log_every`, wherever the run has started or continued.
            log_point = min(num_steps, (step // log_every + 1) * log_every)
            # The context ends before the yield, so that the caller's code compiles as usual.
            with contextlib.nullcontext() if compiled else jax.disable_jit():
                while step < log_point and not stop:
                    carry, step = run.call(carry, step, log_point)
                    # All processes of a run stop at the same step.
                    stop = bool(devices.agree(bool(on_call and on_call(step))))
            # A run that is stopped between two log points yields once more, to hand out its carry.
            metrics = {}
            if step == log_point:
                metrics, carry = pop_metrics(carry)
            yield LogPoint(step, metrics, carry)


class _CallLength:
    """Number of steps per call.

    It is chosen from the time that the last call took. The number of steps is an argument of the
    program, not part of it, so a new number needs no compilation. It cannot change results, as the
    program takes one step after the other.
    """

    def __init__(self):
        self.length = 1

    def took(self, length: int, seconds: float) -> None:
        fitting = length * _SECONDS_PER_CALL / max(seconds, 1e-9)
        self.length = max(1, min(int(fitting), 8 * length))


@functools.cache
def _start() -> Any:
    # This program runs once. On a CPU, XLA optimises it for longer than it runs unoptimised.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(_begin, static_argnums=0, compiler_options=quick)


def _begin(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> tuple[Carry, Batch]:
    batch = chunk.batch_of(batch_at, rng.stream(key, "data"), jnp.zeros((), jnp.int32))
    state = learner.init(rng.stream(key, "init"), batch)
    _, metrics = jax.eval_shape(learner.step, key, state, batch)
    totals, lost = (
        {n: jnp.zeros(m.shape, checks.summed_as(m.dtype)) for n, m in metrics.items()}
        for _ in range(2)
    )
    return Carry(jnp.zeros((), jnp.int32), state, totals, jnp.zeros((), jnp.int32), lost), batch
