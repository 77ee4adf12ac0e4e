"""Networks that know each example's class, by its place in the batch: i mod the number of classes.

Batches of `data.balanced_batches` are in that order, and a model made of such networks draws its
samples in it: sample i is of class i mod the number of classes. So images stay plain arrays, and
every objective, loss and penalty works with these networks as with any other. A cut of a batch has
other examples in its places, whose classes would be wrong: it is refused (ValueError), unless it
keeps consecutive examples together, as many as a multiple of the classes. `microbatches` and
`discriminator_steps` never do, shares for `pmap` and chunks of an evaluation may.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, devices, rng
from genmod.types import Array, Key, Net, Params


def conditional(net: Net, classes: int) -> Net:
    """One network for all classes, which is given the class beside its input.

    In a VAE's two networks it makes the conditional VAE (Sohn et al. 2015), in a GAN's the
    conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784).

    Args:
      net: of vectors [B, D + classes]: an `mlp`, or a generator of latents. It gets the input
        flattened, then the class as zeros and one sqrt(classes), whose mean square is 1 as that
        of latents.
      classes: their number.

    Returns:
      A Net from [B, ...]; the class of example i is i mod classes.

    Raises:
      ValueError: if `classes` is not a positive whole number; on use, if the batch is a cut of
        another whose places say nothing about the class.
    """
    checks.positive_integer("classes", classes)

    def labelled(x: Array) -> Array:
        _check_places(classes)
        labels = jax.nn.one_hot(jnp.arange(len(x)) % classes, classes, dtype=x.dtype)
        return jnp.concatenate([x.reshape(len(x), -1), math.sqrt(classes) * labels], axis=1)

    standing = net.standing
    return Net(
        init=lambda key, x: net.init(key, labelled(x)),
        apply=lambda params, x: net.apply(params, labelled(x)),
        standing=standing and (lambda params, x: standing(params, jax.vmap(labelled)(x))),
        # Equally many of each class, as in training.
        standing_size=-(-net.standing_size // classes) * classes,
    )


class _Standing(NamedTuple):
    """Parameters of networks that no longer look at their batch."""

    params: Params


def per_class(net: Net, classes: int) -> Net:
    """A network of its own for each class, all of them computed as one.

    Args:
      net: any network; each class has parameters of its own.
      classes: their number.

    Returns:
      A Net whose parameters have a leading axis [classes]; the class of example i is i mod
      classes. Normalisation over the batch is over each class's examples, which a batch then must
      hold equally many of.

    Raises:
      ValueError: if `classes` is not a positive whole number; on use, if the network normalises
        over a batch that `classes` does not divide, or the batch is a cut of another whose places
        say nothing about the class.
    """
    checks.positive_integer("classes", classes)
    looks = net.standing is not None

    def rows(x: Array, looks: bool = looks) -> Array:
        """One example of each class in a row, [rows, classes, ...]; a last row is filled up."""
        _check_places(classes)
        missing = -len(x) % classes
        if missing and looks:
            raise ValueError(
                f"a batch of {len(x)} must hold equally many of each of {classes} classes, for a "
                "network that normalises over it"
            )
        filled = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
        return filled.reshape(-1, classes, *x.shape[1:])

    def init(key: Key, x: Array) -> Params:
        return jax.vmap(net.init, (0, None))(rng.per_example(key, classes), x)

    def apply(params: Params, x: Array) -> Array:
        own, filled = params, rows(x, looks and not isinstance(params, _Standing))
        if isinstance(params, _Standing):
            own = params.params
        y = jax.vmap(net.apply, (0, 1), 1)(own, filled)
        return y.reshape(-1, *y.shape[2:])[: len(x)]

    def stand(params: Params, x: Array) -> Params:
        assert net.standing is not None
        return _Standing(jax.vmap(net.standing, (0, 2))(params, jax.vmap(rows)(x)))

    # Each class's network settles on as many examples as it would alone.
    return Net(init, apply, stand if looks else None, net.standing_size * classes)


def _check_places(classes: int) -> None:
    """Refuses a batch whose place i does not say that the class is i mod classes."""
    for cut in devices.cuts():
        if classes > 1 and (cut.size is None or cut.size % classes):
            parts = "parts that are not consecutive" if cut.size is None else f"parts of {cut.size}"
            raise ValueError(
                "a network that knows each example's class by its place needs the whole batch, or "
                f"consecutive parts of a multiple of the {classes} classes; {cut.what} cuts it "
                f"into {parts}, whose classes would be wrong"
            )
