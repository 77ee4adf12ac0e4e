"""Types that the signatures share."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jax.sharding import NamedSharding

from genmod import checks

Array: TypeAlias = jax.Array
Key: TypeAlias = jax.Array
"""One typed key (`jax.random.key`), shape []."""
Keys: TypeAlias = jax.Array
"""One typed key per example, shape [B]."""
Params: TypeAlias = Any
"""Tree of trainable arrays."""
Batch: TypeAlias = Any
"""Array or tree of arrays [B, ...], one entry per example."""
Condition: TypeAlias = Callable[[Batch], tuple[Array, Any]]
"""Function `batch -> (x [B, ...], c)`.

It returns the images of a batch and their condition, a tree of arrays [B, ...] such as labels.
"""
Metrics: TypeAlias = dict[str, Array]
"""Numbers to report, by name.

A step returns means over the batch; an objective returns one value per example.
"""
Objective: TypeAlias = Callable[[Keys, Params, Batch], Any]
"""Function `(keys, params, batch) -> (loss [B], aux)`.

It returns one loss per example, and a dict of further values, [B] or [B, K] each. It may return
notes as a third value: a dict of trees of arrays [B, ...], for `remember` of `train.game`.
"""
BatchAt: TypeAlias = Callable[[Key, Array], Batch]
"""Pure function `(key, step) -> batch`.

It returns batch number `step`.
"""


@runtime_checkable
class Stream(Protocol):
    """A `BatchAt` that the host reads, some steps ahead.

    It serves examples that do not fit onto the device. A compiled program cannot call a stream
    itself; it calls the `BatchAt` of some steps that `parts` yields.
    """

    def __call__(self, key: Key, step: int | Array) -> Batch:
        """Reads the batch of a step and returns it."""
        ...

    def shapes(self, keys: Keys) -> jax.tree_util.Partial:
        """Returns the shapes and types of one part.

        The result is like a `BatchAt` that `parts` yields for these keys, with shapes and types in
        place of its arrays.
        """
        ...

    def parts(
        self, keys: Keys, first: int, num: int, sharding: NamedSharding | None = None
    ) -> Generator[tuple[jax.tree_util.Partial, int]]:
        """Yields the batches of `num` steps, part by part.

        Each part is read when it is requested.

        Args:
          keys: keys of the runs whose batches are read, [R].
          first: the first step.
          num: total number of steps.
          sharding: placement of arrays [R, steps, B, ...]; None places them on the default device.
            If it spans processes, each process reads what its own devices hold.

        Yields:
          The `BatchAt` of the next steps, for these keys only, and the number of these steps.
        """
        ...


@jax.tree_util.register_pytree_with_keys_class
class Parts(dict[str, Any]):
    """Batches side by side, by name: a batch of several streams.

    Each part is an array or a tree of arrays with a leading axis of its own length, such as 20
    labelled and 100 unlabelled examples. `data.together` makes such batches. An objective gets
    keys by part, and returns a loss for each example of every part, by part.
    """

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """Returns the parts with their keys, ordered by name."""
        names = sorted(self)
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], tuple(names)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], parts: Sequence[Any]) -> "Parts":
        """Returns the parts of these names."""
        return cls(zip(names, parts, strict=True))


class Net(NamedTuple):
    """A network as two pure functions.

    It holds no parameters and no state. The functions of a network that takes a condition c, such
    as one of `nets.conditional`, have it as a last argument: a tree of arrays [B, ...], such as
    labels [B]. `initial` and `net(params, x, c)` call a network of either kind.

    Attributes:
      init: `(key, x) -> params`, for an example input x [B, ...].
      apply: `(params, x) -> y`, with x [B, ...] and y [B, ...].
      standing: `(params, x [K, B, ...]) -> params`, with which the network no longer depends on
        batch statistics: batch normalisation then uses the statistics of these K batches. None for
        a network that never depends on batch statistics.
      standing_size: number of examples B in each batch for `standing`.
    """

    init: Callable[..., Params]
    apply: Callable[..., Array]
    standing: Callable[..., Params] | None = None
    standing_size: int = 64

    @property
    def takes_condition(self) -> bool:
        """Whether `apply` has a condition as its third argument."""
        return checks.takes(self.apply, 3)

    @property
    def needs_condition(self) -> bool:
        """Whether `apply` cannot do without its condition."""
        return not checks.takes(self.apply, 2)

    def initial(self, key: Key, x: Array, condition: Any = None) -> Params:
        """Returns initial parameters.

        The condition goes to a network that takes one; any other ignores it.
        """
        given = condition is not None and self.takes_condition
        return self.init(key, x, condition) if given else self.init(key, x)

    def __call__(self, params: Params, x: Array, condition: Any = None) -> Array:
        """Applies the network.

        The condition goes to a network that takes one; any other ignores it.
        """
        given = condition is not None and self.takes_condition
        return self.apply(params, x, condition) if given else self.apply(params, x)

    def check_condition(
        self, name: str, c: Any, size: int | None, *, conditional: bool, argument: str = "c"
    ) -> None:
        """Refuses a condition that is missing, not expected, or of other examples.

        Args:
          name: name of the network, for messages.
          c: the condition, None for none.
          size: number of examples B; None accepts any number.
          conditional: whether the network's model was made with `condition`.
          argument: name of the argument c, for messages.
        """
        if c is None:
            if self.needs_condition:
                raise ValueError(
                    f"{argument} must be given, as the {name} needs a condition, got None"
                )
        elif not conditional:
            raise ValueError(
                f"{argument} must be None, as the model of this {name} was made without condition, "
                f"got {checks.described(c)}"
            )
        else:
            checks.examples(argument, c, size)


class Seen(NamedTuple):
    """Batch of a GAN, and generated images beside it, as a term of the losses sees them.

    Attributes:
      real: real images as the discriminator sees them, augmented if the learner augments, [B, ...].
      fake: generated images, likewise.
      real_outputs: outputs of the discriminator for the real images, by name; the logits [B] are
        `logit`. Those of a discriminator with a single output have no other entry.
      fake_outputs: likewise for the generated images.
      latents: latents of the generated images, [B, L].
      condition: condition of the batch, a tree [B, ...]; None without one.
      generate: generator with this condition, `z [B, L] -> images [B, ...]`, not augmented.
      judge: discriminator with this condition, `x [B, ...] -> outputs by name`.
    """

    real: Array
    fake: Array
    real_outputs: dict[str, Array]
    fake_outputs: dict[str, Array]
    latents: Array
    condition: Any
    generate: Callable[[Array], Array]
    judge: Callable[[Array], dict[str, Array]]
