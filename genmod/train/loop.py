"""The loop: many steps compiled into one program, plain Python between them."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from genmod import checks, devices, rng
from genmod.train.learner import Learner
from genmod.types import Array, Batch, BatchAt, Key, Keys, Metrics, Stream

_SECONDS_PER_CALL = 0.5
"""What one call of the compiled program aims at: long enough to cost nothing, short enough for a
progress bar that moves and a Ctrl-C that is heard."""


class Carry(NamedTuple):
    """All that the rest of a run depends on, apart from its key: saving it is saving the run.

    Attributes:
      step: int32 [], number of steps taken.
      state: the learner's state.
      totals: sum of each metric over the steps since the last log point, float32 or wider.
      count: int32 [], number of those steps.
      compensation: what rounding has taken from each of the totals: to be added to it in the end.
    """

    step: Array
    state: Any
    totals: Metrics
    count: Array
    compensation: Metrics


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


class NonFiniteError(ArithmeticError):
    """A metric or the state became infinite or NaN, and training stopped there.

    Attributes:
      step: the step that went wrong, counted from 1.
      metrics: that step's metrics.
      carry: the run before that step, its state still finite.
      term: the first metric that is not finite; where all are, as where only a gradient is not, the
        first of the state's arrays that the update has ruined.
      runs: of many runs, which ones, from 0, as `select_run` counts them.
    """

    def __init__(
        self,
        step: int,
        metrics: dict[str, Any],
        carry: Carry,
        term: str = "",
        runs: Sequence[int] = (),
    ):
        self.step, self.metrics, self.carry = step, metrics, carry
        self.term, self.runs = term, tuple(runs)
        values = ", ".join(f"{name} {value}" for name, value in metrics.items())
        first = f"first {term}" if term in metrics else f"all finite, but its update ruined {term}"
        where = f" in run {', '.join(map(str, runs))}" if runs else ""
        super().__init__(
            f"training became non-finite in step {step}: {values}"
            f"{f'; {first}{where}' if term else ''}; "
            f"the state after step {step - 1} is kept"
        )


@functools.cache
def _start() -> Any:
    # It runs once: on the CPU, optimising it takes longer than the whole of it unoptimised.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(_begin, static_argnums=0, compiler_options=quick)


def _begin(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> tuple[Carry, Batch]:
    batch = _batch(batch_at, rng.stream(key, "data"), jnp.zeros((), jnp.int32))
    state = learner.init(rng.stream(key, "init"), batch)
    _, metrics = jax.eval_shape(learner.step, key, state, batch)
    totals, lost = (
        {n: jnp.zeros(m.shape, checks.summed_as(m.dtype)) for n, m in metrics.items()}
        for _ in range(2)
    )
    return Carry(jnp.zeros((), jnp.int32), state, totals, jnp.zeros((), jnp.int32), lost), batch


def _batch(batch_at: BatchAt, key: Key | Keys, step: Array) -> Batch:
    """The batch of a step, or the batches of many runs."""
    return jax.vmap(batch_at, (0, None))(key, step) if key.ndim else batch_at(key, step)


def _seen(
    batch_at: BatchAt, data_key: Key | Keys, step_key: Key | Keys, step: Array
) -> tuple[Key | Keys, Batch]:
    """What a step, counted from 0, draws from and sees."""
    return rng.at_step(step_key, step), _batch(batch_at, data_key, step)


def _keys(learner: Learner, key: Key | Keys) -> Key | Keys:
    """The run's key, or for many runs their keys, [seeds]."""
    if learner.seeds is not None and key.ndim == 0:
        return rng.of_seeds(key, learner.seeds)
    expected = () if learner.seeds is None else (learner.seeds,)
    if key.shape != expected:
        raise ValueError(
            f"key must have the shape {list(expected)} for a learner "
            f"{'of one run' if not expected else f'over {learner.seeds} seeds'}, "
            f"got {list(key.shape)}"
        )
    return key


def start(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> Carry:
    """The beginning of a run: what `run` starts from if it is given no carry.

    Raises:
      ValueError: if the learner refuses the first batch.
    """
    key = _keys(learner, key)
    alone = learner._replace(mesh=None)  # on one device, or in each process, the whole of it
    with _Batches(alone, key, batch_at, 0, 1) as batches:
        carry, batch = _start()(learner, key, batches.at(0)[0])
    if learner.check is not None:
        learner.check(batch)
    return carry


def abstract_carry(learner: Learner, key: Key | Keys, batch_at: BatchAt) -> Carry:
    """What a run carries, as shapes and types: the target to restore a checkpoint into.

    Nothing is computed; parts that do not fit together are refused here. Of a learner over devices
    they say where each array belongs.
    """
    key = _keys(learner, key)
    batches = (
        batch_at.shapes(_many(key)) if isinstance(batch_at, Stream) else _as_argument(batch_at)
    )
    found = _start().eval_shape(learner, key, batches)[0]
    if learner.mesh is None:
        return found

    def place(tree: Any, where: NamedSharding) -> Any:
        return jax.tree.map(lambda leaf: leaf.update(sharding=where), tree)

    return Carry(*map(place, found, _shardings(learner)))


def _shardings(learner: Learner) -> tuple[NamedSharding, ...]:
    """Where each field of a carry belongs: the state of many runs in parts, all else whole."""
    assert learner.mesh is not None
    whole = NamedSharding(learner.mesh, PartitionSpec())
    parts = NamedSharding(learner.mesh, PartitionSpec(*learner.mesh.axis_names))
    return whole, whole if learner.seeds is None else parts, whole, whole, whole


def runs_sequentially(learner: Learner) -> bool:
    """Whether many runs are taken through their steps one after the other, on each device.

    So it is on a CPU unless the learner says otherwise: a step of many there takes as long as all
    of theirs, and a run by itself has the very bits that it would have alone.
    """
    if learner.sequential is not None:
        return learner.sequential
    mesh = learner.mesh
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return platform == "cpu"


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
    key = _keys(learner, key)
    if carry is None:
        carry = start(learner, key, batch_at)
    return _points(learner, key, batch_at, num_steps, log_every, carry, compiled, on_call)


def _points(
    learner: Learner,
    key: Key | Keys,
    batch_at: BatchAt,
    num_steps: int,
    log_every: int,
    carry: Carry,
    compiled: bool,
    on_call: Callable[[int], bool] | None,
) -> Iterator[LogPoint]:
    step = int(carry.step)
    calls = _CallLength()
    stop = False
    with _Batches(learner, key, batch_at, step, num_steps) as batches:
        if learner.mesh is not None:
            _, parts, *_ = where = _shardings(learner)
            carry = Carry(*map(devices.place, carry, where))
            key = devices.place(key, parts)
        while step < num_steps and not stop:
            log_point = min(num_steps, (step // log_every + 1) * log_every)
            with contextlib.nullcontext() if compiled else jax.disable_jit():
                while step < log_point and not stop:
                    carry, step = _call(learner, key, batches, carry, step, log_point, calls)
                    stop = bool(devices.agree(bool(on_call and on_call(step))))
            if step == log_point:
                metrics, carry = pop_metrics(carry)
                yield LogPoint(step, metrics, carry)
            else:
                yield LogPoint(step, {}, carry)


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
    key, calls = _keys(learner, key), _CallLength()
    step = int(carry.step)
    end = step + num_steps
    with (
        contextlib.nullcontext() if compiled else jax.disable_jit(),
        _Batches(learner, key, batch_at, step, end) as batches,
    ):
        while step < end:
            carry, step = _call(learner, key, batches, carry, step, end, calls)
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
        key, batch = _seen(batch_at, data_key, step_key, step)
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
    key, step = _keys(learner, key), int(carry.step)
    with _Batches(learner, key, batch_at, step, step + 1) as batches:
        at, _ = batches.at(step)
        _, metrics, _ = _advance(learner, key, at, _copy(carry), 1)
        seen = _seen(at, rng.stream(key, "data"), rng.stream(key, "step"), carry.step)
    return StepTrace(*seen, _readable(metrics))


def pop_metrics(carry: Carry) -> tuple[dict[str, Any], Carry]:
    """What a log point does: each metric's mean since the last one, and the carry that goes on."""
    # NumPy divides as it says; a compiled division by a number that many values share is a product
    # with its inverse, and the mean of one run of many would not be that of the run alone.
    totals, lost, count = jax.device_get((carry.totals, carry.compensation, carry.count))
    means = {}
    for name, total in totals.items():
        exact = total + lost[name].astype(np.float64)
        means[name] = np.divide(exact, count).astype(total.dtype)
    return _readable(means), _emptied(carry)


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


class _Batches:
    """What the compiled program takes its batches from: the same always, or a stream's next part.

    The part after the one in use is read in a thread meanwhile.
    """

    def __init__(self, learner: Learner, key: Key | Keys, batch_at: BatchAt, first: int, end: int):
        self._thread: ThreadPoolExecutor | None = None
        mesh = learner.mesh
        if not isinstance(batch_at, Stream):
            self._at, self._end = _as_argument(batch_at), end
            if mesh is not None:
                self._at = devices.place(self._at, NamedSharding(mesh, PartitionSpec()))
            return
        # Examples are where their device computes: [runs, steps, B, ...].
        axes = (None, None, *mesh.axis_names) if mesh and learner.seeds is None else ()
        sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec(*axes))
        keys = _many(rng.stream(key, "data"))
        self._end = first
        self._parts = batch_at.parts(keys, first, end - first, sharding)
        if first < end:
            self._thread = ThreadPoolExecutor(1, "batches")
            self._next = self._thread.submit(next, self._parts, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
            self._parts.close()

    def at(self, step: int) -> tuple[jax.tree_util.Partial, int]:
        """The batches of a step, and before which step they end. Steps are asked for in order."""
        while self._thread is not None and step >= self._end:
            part = self._next.result()
            assert part is not None
            self._at, steps = part
            self._end += steps
            self._next = self._thread.submit(next, self._parts, None)
        return self._at, self._end


def _call(
    learner: Learner,
    key: Key | Keys,
    batches: _Batches,
    carry: Carry,
    step: int,
    end: int,
    calls: _CallLength,
) -> tuple[Carry, int]:
    """As many steps as fit into a call of the program, at most up to `end`; and where it stands."""
    at, last = batches.at(step)
    length = devices.agree(min(calls.length, end - step, last - step), min)
    began = time.perf_counter()
    carry = _advance_finite(learner, key, at, carry, length)
    calls.took(length, time.perf_counter() - began)
    return carry, step + length


def _advance_finite(
    learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry, length: int
) -> Carry:
    """`length` steps, or NonFiniteError. The carry that comes in stays valid."""
    # The program updates a copy in place; the original is the way back to the last good state.
    # Steps are pure, so that state is found again by repeating the steps before the bad one: this
    # costs healthy steps nothing, where keeping the old state within each step costs 8 %.
    # A state may hold an infinity from the start, such as "the best loss so far": none is added.
    flaws = _num_non_finite(carry.state)

    def advance(steps: int) -> tuple[Carry, Metrics, bool]:
        after, metrics, finite = _advance(learner, key, batch_at, _copy(carry), steps)
        return after, metrics, bool(finite) and bool(_num_non_finite(after.state) <= flaws)

    after, _, finite = advance(length)
    if finite:
        return after
    # All is well after `good` steps and no more after `bad`: an update can ruin the state long
    # before a metric shows it.
    good, bad = 0, int(after.step - carry.step)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if advance(middle)[2] else (good, middle)
    before, (after, seen, _) = advance(good)[0], advance(bad)
    metrics = _readable(seen)
    blamed = _blame(learner, metrics, before.state, after.state)
    raise NonFiniteError(int(carry.step) + bad, metrics, before, *blamed)


@functools.partial(jax.jit, static_argnums=0, donate_argnames="carry")
def _advance(
    learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry, length: int | Array
) -> tuple[Carry, Metrics, Array]:
    """`length` steps, fewer if one's metrics are not finite.

    Returns the carry, the last step's metrics, and whether these are finite. Many runs each stop at
    such a step of their own, and what is returned are the fewest steps that one of them took.
    """
    if learner.single is None:
        return _steps(learner, key, batch_at, carry, length)
    single, sequential = learner.single, runs_sequentially(learner)

    def runs(
        keys: Keys,
        states: Any,
        sums: tuple[Metrics, Metrics],
        batch_at: BatchAt,
        step: Array,
        count: Array,
    ) -> tuple[Carry, Metrics, Array]:
        def alone(run: tuple[Key, Any, tuple[Metrics, Metrics]]) -> tuple[Carry, Metrics, Array]:
            key, state, (totals, lost) = run
            return _steps(single, key, batch_at, Carry(step, state, totals, count, lost), length)

        if sequential:
            return jax.lax.map(alone, (keys, states, sums))
        carry = Carry(step, states, sums[0], count, sums[1])
        carry, metrics, finite = _steps(learner, keys, batch_at, carry, length)
        each = [jnp.full(len(keys), value) for value in (carry.step, carry.count, finite)]
        return carry._replace(step=each[0], count=each[1]), metrics, each[2]

    if learner.mesh is not None:  # each device takes its runs through all of these steps
        parts, whole = PartitionSpec(*learner.mesh.axis_names), PartitionSpec()
        runs = jax.shard_map(
            runs,
            mesh=learner.mesh,
            in_specs=(parts, parts, parts, whole, whole, whole),
            out_specs=parts,
            check_vma=False,
        )
    sums = carry.totals, carry.compensation
    after, metrics, finite = runs(key, carry.state, sums, batch_at, carry.step, carry.count)
    after = after._replace(step=after.step.min(), count=after.count.min())
    if learner.mesh is not None:
        where = _shardings(learner)
        after = jax.lax.with_sharding_constraint(after, Carry(*cast(Any, where)))
        metrics = jax.lax.with_sharding_constraint(metrics, where[0])
    return after, metrics, finite.all()


def _steps(
    learner: Learner, key: Key | Keys, batch_at: BatchAt, carry: Carry, length: int | Array
) -> tuple[Carry, Metrics, Array]:
    """What `_advance` does, of one run, or of many in step."""
    data_key, step_key = rng.stream(key, "data"), rng.stream(key, "step")
    end = carry.step + length

    def go_on(loop: tuple[Carry, Metrics, Array]) -> Array:
        carry, _, finite = loop
        return (carry.step < end) & finite

    def one_step(loop: tuple[Carry, Metrics, Array]) -> tuple[Carry, Metrics, Array]:
        step, state, totals, count, lost = loop[0]
        key, batch = _seen(batch_at, data_key, step_key, step)
        state, metrics = learner.step(key, state, batch)
        metrics = {n: metrics[n].astype(total.dtype) for n, total in totals.items()}
        finite = jnp.array([jnp.isfinite(value).all() for value in metrics.values()]).all()
        sums = {n: _added(total, lost[n], metrics[n]) for n, total in totals.items()}
        totals, lost = ({n: both[part] for n, both in sums.items()} for part in range(2))
        return Carry(step + 1, state, totals, count + 1, lost), metrics, finite

    return jax.lax.while_loop(go_on, one_step, (carry, carry.totals, jnp.array(True)))


def _added(total: Array, lost: Array, value: Array) -> tuple[Array, Array]:
    """The sum and its compensation with one value more: together they have twice the digits.

    In float32 alone, a million steps would be off by a hundredth.
    """
    rough = total + value
    # What the sum has rounded away, exactly (Dekker 1971): from the larger it loses nothing.
    larger = jnp.abs(total) >= jnp.abs(value)
    error = lost + jnp.where(larger, (total - rough) + value, (value - rough) + total)
    # The sum takes back what has become large enough: the compensation, which is rounded as well,
    # stays small. Beyond the largest number there is none.
    after = rough + error
    finite = jnp.isfinite(after)
    return jnp.where(finite, after, rough), jnp.where(finite, error - (after - rough), 0)


def _blame(
    learner: Learner, metrics: dict[str, Any], before: Any, after: Any
) -> tuple[str, tuple[int, ...]]:
    """What became non-finite first in a step, and in which of many runs."""
    bad = {name: ~np.isfinite(value) for name, value in metrics.items()}
    if not any(flags.any() for flags in bad.values()):  # an update ruined the state
        many = any(flags.ndim for flags in bad.values())
        counts = [_flaws(state, many, learner.mesh) for state in (before, after)]
        bad = {
            jax.tree_util.keystr(path, simple=True, separator=".") or "the state": now > then
            for (path, now), then in zip(
                jax.tree_util.tree_leaves_with_path(counts[1]),
                jax.tree.leaves(counts[0]),
                strict=True,
            )
        }
    else:  # a term comes before what is made of it: the loss, the norm of a gradient
        ends = ("gradient", "loss")
        bad = {
            n: bad[n]
            for n in sorted(bad, key=lambda n: (n.endswith(ends), n.endswith("gradient"), n))
        }
    first = next((name for name, flags in bad.items() if np.any(flags)), "")
    each = [flags.reshape(len(flags), -1).any(1) for flags in bad.values() if np.ndim(flags)]
    return first, tuple(np.flatnonzero(np.any(each, axis=0)).tolist()) if each else ()


@functools.partial(jax.jit, static_argnums=(1, 2))
def _flaws(tree: Any, many: bool, mesh: jax.sharding.Mesh | None) -> Any:
    """How many values of each array are not finite, or those of each of many runs."""

    def count(leaf: Array) -> Array:
        axes = tuple(range(int(many), leaf.ndim))
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.sum(~jnp.isfinite(leaf) if inexact else jnp.zeros(leaf.shape, bool), axes)

    counts = jax.tree.map(count, tree)
    # Every process is to see all of it.
    return (
        counts
        if mesh is None
        else jax.lax.with_sharding_constraint(counts, NamedSharding(mesh, PartitionSpec()))
    )


@jax.jit
def _copy(carry: Carry) -> Carry:
    return jax.tree.map(jnp.copy, carry)


@jax.jit
def _emptied(carry: Carry) -> Carry:
    sums = carry.totals, carry.count, carry.compensation
    totals, count, lost = jax.tree.map(jnp.zeros_like, sums)
    return carry._replace(totals=totals, count=count, compensation=lost)


@jax.jit
def _num_non_finite(tree: Any) -> Array:
    # One long array, so one reduction to compile, not one for each of forty leaves.
    flags = [
        ~jnp.isfinite(x).ravel()
        for x in jax.tree.leaves(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact)
    ]
    return jnp.sum(jnp.concatenate([jnp.zeros(1, bool), *flags]))


def _readable(metrics: Metrics) -> dict[str, Any]:
    """Metrics as Python floats, or NumPy arrays where they have axes."""
    values = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
    return {name: float(v) if v.ndim == 0 else v for name, v in values.items()}


def _many(key: Key | Keys) -> Keys:
    """The keys of the runs, [R], where one alone has a key without an axis."""
    return key if key.ndim else key[None]


def _as_argument(batch_at: BatchAt) -> jax.tree_util.Partial:
    is_tree = isinstance(batch_at, jax.tree_util.Partial)
    return batch_at if is_tree else jax.tree_util.Partial(batch_at)
