"""Networks on top of features: judges of images and classes, and several outputs side by side."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from genmod import checks, rng
from genmod.nets import conditions
from genmod.nets.convert import from_linen
from genmod.nets.initial import glorot_uniform
from genmod.nets.mlp import WeightInit
from genmod.types import Array, Key, Net, Params


def heads(features: Net, /, **outputs: Net) -> Net:
    """Makes a network with several outputs of shared features.

    It suits the discriminator of a GAN that has further tasks, such as `gan.auxiliary_classifier`:
    its output `logit` judges images, and the terms of `train.adversarial` read the others.

    Args:
      features: network of inputs, x [B, ...] -> [B, D].
      **outputs: networks of the features by the name of their output, [B, D] -> [B, ...]. Without
        one of the name `logit`, a linear function of the features makes it.

    Returns:
      A Net that returns a dict of all outputs by name, with the features [B, D] as `features`. Its
      parameters have the same names. If an output needs a condition, the network has one.

    Raises:
      ValueError: if an output has the name `features`, or `features` needs a condition; when
        called, if the features are not [B, D].

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.heads(nets.mlp((16,), 8, output=jnp.tanh), digit=nets.mlp((), 10))
      >>> x = jnp.zeros((3, 6, 6, 1))
      >>> made = net.apply(net.init(rng.root(0), x), x)
      >>> {name: value.shape for name, value in made.items()}
      {'features': (3, 8), 'digit': (3, 10), 'logit': (3,)}
    """
    if "features" in outputs:
        raise ValueError("outputs must not have the name 'features', which the features have")
    if "logit" not in outputs:
        outputs = {**outputs, "logit": linear()}
    return _joined(features, outputs, lambda h, made: {"features": h, **made})


def projection(features: Net, classes: int) -> Net:
    """Makes a projection discriminator of a feature network.

        f(x, y) = w^T phi(x) + b + v_y^T phi(x)

    Here phi(x) are the features, and v_y is a learned vector for the class y. The first two terms
    judge the image, the third whether it is one of its class. (The paper's psi is this linear
    function.) `nets.spectral` may be applied to the result; it then normalises the table of the v_y
    as well, as the paper's code does. As an output of `heads` it is `projected`.

    Args:
      features: network of images, x [B, ...] -> [B, D].
      classes: number of classes.

    Returns:
      A Net whose condition is a label for each example, [B]: `init(key, x, labels)` and
      `apply(params, x, labels) -> logits [B]`. Its parameters are {"features", "top"}. Labels are
      checked as those of `conditional`.

    Raises:
      ValueError: if `classes` is not a positive whole number or `features` needs a condition; when
        called, if the features are not [B, D], or labels not whole numbers in [0, classes).

    References:
      Miyato & Koyama, cGANs with Projection Discriminator, 2018 (arXiv:1802.05637), equation 3.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng
      >>> net = nets.projection(nets.mlp((16,), 8, output=jnp.tanh), 10)
      >>> x, labels = jnp.zeros((3, 6, 6, 1)), jnp.array([7, 0, 7])
      >>> net.apply(net.init(rng.root(0), x, labels), x, labels).shape
      (3,)
    """
    return _with_top(features, projected(classes))


def projected(classes: int) -> Net:
    """Makes the top of a projection discriminator, as an output of `heads`.

        f(h, y) = w^T h + b + v_y^T h

    Args:
      classes: number of classes.

    Returns:
      A Net from features [B, D] to logits [B], whose condition is a label for each example, [B].
      Labels are checked as those of `conditional`.

    Raises:
      ValueError: if `classes` is not a positive whole number; when called, if labels are not whole
        numbers in [0, classes).

    References:
      Miyato & Koyama, cGANs with Projection Discriminator, 2018 (arXiv:1802.05637), equation 3.
    """
    checks.positive_integer("classes", classes)

    class Projection(linen.Module):
        @linen.compact
        def __call__(self, h: Array, c: Any) -> Array:
            embedding = self.param("embedding", glorot_uniform, (classes, h.shape[-1]))
            own = conditions.of_class(embedding, c, len(h))
            return _linear(h) + jnp.sum(own * h, axis=-1)

    return from_linen(Projection())


def class_vectors(classes: int, size: int) -> Net:
    """Makes a table with a learned vector for each class, as an output of `heads`.

    Args:
      classes: number of classes.
      size: size D of a vector.

    Returns:
      A Net that returns the vector of each example's class, [B, D], whatever its input is. Its
      condition is a label for each example, [B], checked as those of `conditional`. Its parameters
      are {"embedding"}.

    Raises:
      ValueError: if a number is not positive; when called, if labels are not whole numbers in
        [0, classes).
    """
    checks.positive_integer("classes", classes)
    checks.positive_integer("size", size)
    return from_linen(Embedding(classes, size, glorot_uniform))


class Embedding(linen.Module):
    """Learned vector of each example's class.

    Attributes:
      classes: number of classes.
      size: size of a vector.
      kernel_init: initializer of the table [classes, size].
      table: name of the table among the parameters. Under its default name `nets.spectral`
        normalises it.
    """

    classes: int
    size: int
    kernel_init: WeightInit
    table: str = "embedding"

    @linen.compact
    def __call__(self, x: Array, c: Any) -> Array:
        """Returns vectors [B, size] of the labels c [B]; of x [B, ...] only B counts."""
        table = self.param(self.table, self.kernel_init, (self.classes, self.size))
        return conditions.of_class(table, c, len(x))


def linear_judge(features: Net) -> Net:
    """Makes a discriminator whose logits are a linear function of features.

    Args:
      features: network of images, x [B, ...] -> [B, D].

    Returns:
      A Net with logits [B]. Its parameters are {"features", "top"}.
    """
    return _with_top(features, linear())


def linear() -> Net:
    """Makes a network of one dense layer, from features [B, D] to logits [B]."""

    class Linear(linen.Module):
        @linen.compact
        def __call__(self, h: Array) -> Array:
            return _linear(h)

    return from_linen(Linear())


def _linear(h: Array) -> Array:
    return linen.Dense(1, kernel_init=glorot_uniform, name="output")(h)[:, 0]


def _with_top(features: Net, top: Net) -> Net:
    return _joined(features, {"top": top}, lambda h, made: made["top"])


def _joined(
    features: Net, tops: Mapping[str, Net], output: Callable[[Array, dict[str, Array]], Any]
) -> Net:
    """Returns a network of features, and on top of them others, some of which have a condition.

    Args:
      features: network of the features.
      tops: networks of the features, by name.
      output: output of the whole network, a function of the features and of those of the tops.
    """
    conditions.refuse_condition(features)
    inner = features.standing
    standings = [top for top in tops.values() if top.standing is not None]

    def init(key: Key, x: Array, *condition: Any) -> Params:
        own = features.init(rng.stream(key, "features"), x)
        h = jax.eval_shape(features.apply, own, x)
        if h.ndim != 2 or len(h) != len(x):
            raise ValueError(
                f"features must return vectors [{len(x)}, D] for x of shape {list(x.shape)}, got "
                f"{list(h.shape)}"
            )
        zeros = jnp.zeros(h.shape, h.dtype)
        made = {
            name: top.initial(rng.stream(key, name), zeros, *condition)
            for name, top in tops.items()
        }
        return {"features": own, **made}

    def apply(params: Params, x: Array, *condition: Any) -> Any:
        h = features.apply(params["features"], x)
        return output(h, {name: top(params[name], h, *condition) for name, top in tops.items()})

    def standing(params: Params, x: Array, *condition: Any) -> Params:
        own = params["features"] if inner is None else inner(params["features"], x)
        fixed = {**params, "features": own}
        if standings:
            h = jax.vmap(lambda batch: features.apply(own, batch))(x)
            for name, top in tops.items():
                if top.standing is not None:
                    given = condition if top.needs_condition else ()
                    fixed[name] = top.standing(params[name], h, *given)
        return fixed

    # The signature says whether the network takes a condition: that of a top which needs one does.
    by = next((top.apply for top in tops.values() if top.needs_condition), features.apply)
    some = inner is not None or bool(standings)
    return features._replace(
        init=init, apply=functools.wraps(by)(apply), standing=standing if some else None
    )
