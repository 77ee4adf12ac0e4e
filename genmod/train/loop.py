"""The training loop.

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
"""What one call of the compiled program aims at: long enough to cost nothing, short enough for a
progress bar that moves and a Ctrl-C that is heard."""


class LogPoint(NamedTuple):
    """Where a run stands at a log point.

    Attributes:
      step: number of steps taken.
      metrics: mean of each metric over the steps since the last log point; empty where the run was
        stopped between two.
      carry: what to save, and what `run` continues from.
    """

    step: int
    metrics: dict[str, Any]
    carry: Carry

    @property
    def state(self) -> Any:
        """The learner's state."""
        return self.carry.state


class StepTrace(NamedTuple):
    """A single step of a run.

    Attributes:
      key: what it draws from; of many runs, each has its own.
      batch: what it sees.
      metrics: what it reports.
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
    """Trains, yielding at every log point; log, save and plot in the loop over it.

        for point in train.run(learner, key, batch_at, num_steps=30_000, log_every=600):
            print(point.step, point.metrics["loss"])

    Step i sees `batch_at(key of the data, i)` and a key of its own, both functions of `key` and i
    alone: a run continued from any carry ends in the same bits as one that was never interrupted.

    Args:
      learner: what to train.
      key: the run's key, `rng.root(seed)`. For a learner over seeds the key of the first, of which
        the others are made, or all of them, [seeds].
      batch_at: `(key, step) -> batch`, as from `data.batches`. A `jax.tree_util.Partial` has its
        arrays passed to the compiled program; any other function has them built in as constants. A
        `genmod.types.Stream` is read ahead in a thread.
      num_steps: number of steps at which the run ends, those before `carry` included.
      log_every: yield whenever the number of steps is a multiple of this, and at the end.
      carry: continue from here instead of from `start(learner, key, batch_at)`; it stays valid.
      compiled: False runs every operation on its own, so that a debugger and `print` see values.
      on_call: called with the number of steps taken after each call of the compiled program, about
        twice a second; a true answer ends the run after that step.

    Returns:
      An iterator of `LogPoint`. The carries it yields stay valid while it goes on.

    Raises:
      ValueError: at once, if num_steps or log_every is not positive, or key is not for this
        learner.
      NonFiniteError: at the step whose metrics or whose new state are not finite.
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
    """Exactly so many steps further, without a log point: what `run` carries at that step.

    Args:
      learner: what to train.
      key: the run's key, as for `run`.
      batch_at: as for `run`.
      carry: where to begin; it stays valid.
      num_steps: how many steps to take; none if 0.
      compiled: as for `run`.

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
    """A whole training as one pure function: the state in which `run` ends, for one run.

    For small models, many of which are to be trained in one program: it can be mapped over keys and
    over the examples that a `jax.tree_util.Partial` carries. Nothing stops it where a number is not
    finite.

    Args:
      learner: a single run's.
      key: the run's key, as for `run`.
      batch_at: as for `run`, but no `Stream`.
      num_steps: how many steps to take.

    Raises:
      ValueError: if num_steps is not positive or the learner is not a single run's.
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
    """The step that follows a carry, in the bits of the run, whether its numbers are finite or not.

    Args:
      learner: what to train.
      key: the run's key, as for `run`.
      batch_at: as for `run`.
      carry: where the run stands before the step; it stays valid.
    """
    key, step = chunk.keys_of(learner, key), int(carry.step)
    with Batches(learner, key, batch_at, step, step + 1) as batches:
        at, _ = batches.at(step)
        _, metrics, _ = chunk.advance(learner, key, at, chunk.copy(carry), 1)
        seen = chunk.inputs(at, rng.stream(key, "data"), rng.stream(key, "step"), carry.step)
    return StepTrace(*seen, chunk.readable(metrics))


def start(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> Carry:
    """The beginning of a run: what `run` starts from if it is given no carry.

    Raises:
      ValueError: if the learner refuses the first batch.
    """
    key = chunk.keys_of(learner, key)
    alone = learner._replace(mesh=None)  # on one device, or in each process, the whole of it
    with Batches(alone, key, batch_at, 0, 1) as batches:
        carry, batch = _start()(learner, key, batches.at(0)[0])
    if learner.check is not None:
        learner.check(batch)
    return carry


def abstract_carry(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> Carry:
    """What a run carries, as shapes and types: the target to restore a checkpoint into.

    Nothing is computed; parts that do not fit together are refused here. Of a learner over devices
    they say where each array belongs.
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
    """What a log point does: each metric's mean since the last one, and the carry that goes on."""
    # NumPy divides as it says; a compiled division by a number that many values share is a product
    # with its inverse, and the mean of one run of many would not be that of the run alone.
    totals, lost, count = jax.device_get((carry.totals, carry.compensation, carry.count))
    means = {}
    for name, total in totals.items():
        exact = total + lost[name].astype(np.float64)
        means[name] = np.divide(exact, count).astype(total.dtype)
    return chunk.readable(means), chunk.emptied(carry)


class _Run(NamedTuple):
    """A run, as its calls need it.

    Attributes:
      learner: the learner to train.
      key: the run's key, or the keys of its runs.
      batches: feeds the compiled program.
      calls: chooses how many steps a call takes.
    """

    learner: Learner
    key: Key | Keys
    batches: Batches
    calls: "_CallLength"

    def call(self, carry: Carry, step: int, end: int) -> tuple[Carry, int]:
        """Takes as many steps as fit into a call, at most up to `end`; returns where it stands."""
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
        if learner.mesh is not None:
            _, parts, *_ = where = chunk.shardings(learner)
            carry = Carry(*map(devices.place, carry, where))
            key = devices.place(key, parts)
        run = _Run(learner, key, batches, _CallLength())
        while step < num_steps and not stop:
            log_point = min(num_steps, (step // log_every + 1) * log_every)
            with contextlib.nullcontext() if compiled else jax.disable_jit():
                while step < log_point and not stop:
                    carry, step = run.call(carry, step, log_point)
                    # All processes of a run stop at the same step.
                    stop = bool(devices.agree(bool(on_call and on_call(step))))
            # A run that is stopped between two log points yields once more: there is its carry.
            metrics = {}
            if step == log_point:
                metrics, carry = pop_metrics(carry)
            yield LogPoint(step, metrics, carry)


class _CallLength:
    """How many steps to compile-and-go at once, from how long the last call took.

    The number of steps is an argument of the program, not part of it, so this choice costs no
    compilation; and it cannot change the numbers, as the program does one step after the other.
    """

    def __init__(self):
        self.length = 1

    def took(self, length: int, seconds: float) -> None:
        fitting = length * _SECONDS_PER_CALL / max(seconds, 1e-9)
        self.length = max(1, min(int(fitting), 8 * length))


@functools.cache
def _start() -> Any:
    # It runs once: on the CPU, optimising it takes longer than the whole of it unoptimised.
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
