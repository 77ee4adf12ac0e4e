"""Class-conditional networks, which derive classes from batch indices.

Example i of a batch is of class i mod the number of classes. Batches of `data.balanced_batches` are
in that order, and so are the samples of a model made of such networks. So images stay plain arrays,
and every objective, loss and penalty works with these networks as with any other.

If a batch is split, an example has another index in its part, and its class would be wrong. So a
part of a batch is refused (ValueError), unless it holds consecutive examples and their number is a
multiple of the classes. The parts made by `microbatches` and `discriminator_steps` never qualify;
shares for `pmap` and chunks of an evaluation may.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, devices, rng
from genmod.types import Array, Key, Net, Params


def conditional(net: Net, classes: int) -> Net:
    """Makes a network whose second input is the example's class.

    All classes share the parameters. Used for both networks of a VAE it makes the conditional VAE,
    for both of a GAN the conditional GAN.

    Args:
      net: network of vectors [B, D + classes]: an `mlp`, or a generator of latents. It gets the
        flattened input, then the class as a one-hot vector times sqrt(classes), whose mean square
        is 1, the same as that of latents.
      classes: number of classes.

    Returns:
      A Net from [B, ...]; the class of example i is i mod classes.

    Raises:
      ValueError: if `classes` is not a positive whole number; when called, if the batch is a part
        of another and its indices do not give the classes.

    References:
      Sohn et al., Learning Structured Output Representation using Deep Conditional Generative
      Models, NeurIPS 2015.
      Mirza & Osindero, Conditional Generative Adversarial Nets, 2014 (arXiv:1411.1784).
    """
    checks.positive_integer("classes", classes)

    def labelled(x: Array) -> Array:
        _check_order(classes)
        labels = jax.nn.one_hot(jnp.arange(len(x)) % classes, classes, dtype=x.dtype)
        return jnp.concatenate([x.reshape(len(x), -1), math.sqrt(classes) * labels], axis=1)

    standing = net.standing
    return Net(
        init=lambda key, x: net.init(key, labelled(x)),
        apply=lambda params, x: net.apply(params, labelled(x)),
        standing=standing and (lambda params, x: standing(params, jax.vmap(labelled)(x))),
        # The standing statistics are of equally many examples of each class, as in training.
        standing_size=-(-net.standing_size // classes) * classes,
    )


class _Standing(NamedTuple):
    """Parameters of networks with fixed batch-norm statistics."""

    params: Params


def per_class(net: Net, classes: int) -> Net:
    """Makes one independent network per class.

    One call computes all of them.

    Args:
      net: any network; each class has its own parameters.
      classes: number of classes.

    Returns:
      A Net whose parameters have a leading axis [classes]; the class of example i is i mod
      classes. Batch normalisation is over the examples of each class, of which a batch must then
      hold equally many.

    Raises:
      ValueError: if `classes` is not a positive whole number; when called, if the network
        normalises over a batch that `classes` does not divide, or the batch is a part of another
        and its indices do not give the classes.
    """
    checks.positive_integer("classes", classes)
    uses_batch_statistics = net.standing is not None

    def rows(x: Array, equal: bool = uses_batch_statistics) -> Array:
        """Arranges examples in rows [rows, classes, ...].

        A row holds one example of each class. An incomplete last row is padded with zeros, or
        refused if classes must be `equal` in size.
        """
        _check_order(classes)
        missing = -len(x) % classes
        if missing and equal:
            raise ValueError(
                f"a batch of {len(x)} must hold equally many of each of {classes} classes, for a "
                "network that normalises over it"
            )
        filled = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
        return filled.reshape(-1, classes, *x.shape[1:])

    def init(key: Key, x: Array) -> Params:
        return jax.vmap(net.init, (0, None))(rng.per_example(key, classes), x)

    def apply(params: Params, x: Array) -> Array:
        if isinstance(params, _Standing):
            own, filled = params.params, rows(x, equal=False)
        else:
            own, filled = params, rows(x)
        y = jax.vmap(net.apply, (0, 1), 1)(own, filled)
        return y.reshape(-1, *y.shape[2:])[: len(x)]

    def stand(params: Params, x: Array) -> Params:
        assert net.standing is not None
        return _Standing(jax.vmap(net.standing, (0, 2))(params, jax.vmap(rows)(x)))

    # Each class's network gets as many examples for its standing statistics as it would alone.
    return Net(init, apply, stand if uses_batch_statistics else None, net.standing_size * classes)


def _check_order(classes: int) -> None:
    """Refuses a batch whose indices do not give the classes."""
    for cut in devices.cuts():
        if classes > 1 and (cut.size is None or cut.size % classes):
            parts = "parts that are not consecutive" if cut.size is None else f"parts of {cut.size}"
            raise ValueError(
                "a network that knows each example's class by its index needs the whole batch, or "
                f"consecutive parts of a multiple of the {classes} classes; {cut.what} cuts it "
                f"into {parts}, whose classes would be wrong"
            )
