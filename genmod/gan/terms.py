"""Further terms of both players' losses.

A term is a function `(keys [B], seen) -> [B]` for either player, or for both. It sees the images,
the latents, and the outputs of the discriminator (`genmod.types.Seen`). Terms are given by name:

    judge = nets.heads(features, digit=nets.mlp((), 10))
    model = gan.make(generator, judge, latent_dim=64, condition=...)
    terms = {"digit": gan.auxiliary_classifier(output="digit")}
    learner = train.adversarial(model, gan.hinge, optimizers, terms=terms)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, devices
from genmod.gan.penalties import wide
from genmod.gan.regularisers import Remember, check_decay, remembered
from genmod.types import Array, Key, Keys, Seen

OfPlayer = Callable[[Keys, Seen], Any]


class Term(NamedTuple):
    """Term of both players' losses.

    Attributes:
      discriminator: the discriminator's term, `(keys [B], seen) -> [B]`, to be minimised; None for
        none. It may also return a pair of the values and notes, a dict of arrays [B, ...], for
        `remember` of `train.adversarial`.
      generator: the generator's term, likewise.
      discriminator_weight: weight of the discriminator's term, which may be traced.
      generator_weight: weight of the generator's term, which may be traced.

    Examples:
      >>> from genmod import gan
      >>> def squared_logits(keys, seen):
      ...     return seen.real_outputs["logit"] ** 2
      >>> drift = gan.Term(discriminator=squared_logits, discriminator_weight=0.001)
    """

    discriminator: OfPlayer | None = None
    generator: OfPlayer | None = None
    discriminator_weight: float | Array = 1.0
    generator_weight: float | Array = 1.0


def auxiliary_classifier(*, output: str = "class", weight: float | Array = 1.0) -> Term:
    """Returns the auxiliary classifier of AC-GAN.

        D: -log C(y | x) - log C(y | G(z, y))
        G: -log C(y | G(z, y))

    C is the softmax of an output of the discriminator, and y the label of the batch. A generator
    that learns from it avoids images between classes, and loses variety for it: `twin_classifier`
    and `discriminative_classifier` do not.

    Args:
      output: name of the output with the classes' logits, [B, K].
      weight: weight of the term for both players, at least 0.

    Raises:
      ValueError: if weight is below 0; when called, if the discriminator has no such output, or the
        condition is no label of its classes for each example.

    References:
      Odena et al., Conditional Image Synthesis with Auxiliary Classifier GANs, 2017
      (arXiv:1610.09585), equations 2 and 3.
    """

    def discriminator(keys: Keys, seen: Seen) -> Array:
        real, fake = (_cross_entropy(each, output, seen) for each in _both(seen))
        return real + fake

    def generator(keys: Keys, seen: Seen) -> Array:
        return _cross_entropy(seen.fake_outputs, output, seen)

    return _weighted(discriminator, generator, weight)


def twin_classifier(
    *, output: str = "class", twin: str = "twin", weight: float | Array = 1.0
) -> Term:
    """Returns the twin auxiliary classifiers of TAC-GAN.

        D: -log C(y | x) - log T(y | G(z, y))
        G: -log C(y | G(z, y)) + log T(y | G(z, y))

    C learns the classes of real images, and its twin T those of generated images. The generator
    moves to where C knows the class and T does not, so that classes may overlap as they do in the
    data.

    Args:
      output: name of the output with the logits of C, [B, K].
      twin: name of the output with the logits of T, [B, K].
      weight: weight of the term for both players, at least 0.

    Raises:
      ValueError: if weight is below 0; when called, if the discriminator has no such outputs, or
        the condition is no label of their classes for each example.

    References:
      Gong et al., Twin Auxiliary Classifiers GAN, 2019 (arXiv:1907.02690).
    """

    def discriminator(keys: Keys, seen: Seen) -> Array:
        real = _cross_entropy(seen.real_outputs, output, seen)
        return real + _cross_entropy(seen.fake_outputs, twin, seen)

    def generator(keys: Keys, seen: Seen) -> Array:
        own, other = (_cross_entropy(seen.fake_outputs, name, seen) for name in (output, twin))
        return own - other

    return _weighted(discriminator, generator, weight)


def discriminative_classifier(*, output: str = "class", weight: float | Array = 1.0) -> Term:
    """Returns the auxiliary discriminative classifier of ADC-GAN.

        D: -log C(y, real | x) - log C(y, generated | G(z, y))
        G: -log C(y, real | G(z, y)) + log C(y, generated | G(z, y))

    C is one softmax over twice the classes: those of real images, then those of generated images.

    Args:
      output: name of the output with the logits, [B, 2 K].
      weight: weight of the term for both players, at least 0.

    Raises:
      ValueError: if weight is below 0; when called, if the discriminator has no such output, it has
        an odd number of logits, or the condition is no label of K classes for each example.

    References:
      Hou et al., Conditional GANs with Auxiliary Discriminative Classifier, 2022
      (arXiv:2107.10060).
    """

    def shared(outputs: Mapping[str, Array], seen: Seen, *, as_real: bool) -> Array:
        logits = output_of(outputs, output, seen)
        if logits.shape[-1] % 2:
            raise ValueError(
                f"the output {output!r} must have an even number of logits, those of real and of "
                f"generated classes, got {logits.shape[-1]}"
            )
        classes = logits.shape[-1] // 2
        return picked(logits, _labels(seen, classes), 0 if as_real else classes)

    def discriminator(keys: Keys, seen: Seen) -> Array:
        return shared(seen.real_outputs, seen, as_real=True) + shared(
            seen.fake_outputs, seen, as_real=False
        )

    def generator(keys: Keys, seen: Seen) -> Array:
        own, other = (shared(seen.fake_outputs, seen, as_real=real) for real in (True, False))
        return own - other

    return _weighted(discriminator, generator, weight)


def data_to_data(
    *,
    embedding: str = "embedding",
    proxy: str = "proxy",
    weight: float | Array = 1.0,
    temperature: float = 0.5,
    positive_margin: float = 0.98,
    negative_margin: float = 0.02,
) -> Term:
    """Returns the data-to-data cross entropy (D2D-CE) of ReACGAN.

        -log e^(min(f.v - p, 0) / t) / (e^(min(f.v - p, 0) / t) + sum_j e^(max(f.f_j - n, 0) / t))

    f is the embedding of an image and v the proxy of its class, both scaled to length 1. The sum is
    over the images of other classes in the batch. p and n are the margins, t the temperature. The
    discriminator has this term of real images, the generator that of generated ones. (The authors'
    code divides the sum, for overflow, by e^(max f.f_j / t), and the rest by nothing.)

    It looks at the whole batch, so microbatches are refused (ValueError).

        judge = nets.heads(
            features, embedding=nets.mlp((), 64), proxy=nets.class_vectors(10, 64)
        )

    Args:
      embedding: name of the output with the embeddings, [B, D].
      proxy: name of the output with the proxies of the examples' classes, [B, D].
      weight: weight of the term for both players, at least 0.
      temperature: temperature t, positive.
      positive_margin: margin p of an image and its proxy.
      negative_margin: margin n of images of different classes.

    Raises:
      ValueError: if weight is below 0 or temperature is not positive; when called, if the
        discriminator has no such outputs, or the condition is no label for each example.

    References:
      Kang et al., Rebooting ACGAN: Auxiliary Classifier GANs with Stable Training, 2021
      (arXiv:2111.01118), section 3.
    """
    checks.positive("temperature", temperature)

    def of(outputs: Mapping[str, Array], seen: Seen) -> Array:
        devices.refuse_microbatch("data_to_data needs the embeddings")
        f, v = (_unit(output_of(outputs, name, seen)) for name in (embedding, proxy))
        if f.shape != v.shape:
            raise ValueError(
                f"the outputs {embedding!r} and {proxy!r} must be vectors of one size, got "
                f"{list(f.shape)} and {list(v.shape)}"
            )
        labels = _labels(seen)
        others, other_labels = devices.gather(f), devices.gather(labels)
        to_proxy = jnp.minimum(jnp.sum(f * v, axis=-1) - positive_margin, 0) / temperature
        to_others = jnp.maximum(f @ others.T - negative_margin, 0) / temperature
        same = labels[:, None] == other_labels[None, :]
        apart = jnp.where(same, -jnp.inf, to_others)
        return jax.nn.logsumexp(jnp.column_stack([to_proxy, apart]), axis=-1) - to_proxy

    return _weighted(
        lambda keys, seen: of(seen.real_outputs, seen),
        lambda keys, seen: of(seen.fake_outputs, seen),
        weight,
    )


def feature_matching(*, output: str = "features", weight: float | Array = 1.0) -> Term:
    """Returns the generator's feature matching.

        G: |mean over the batch of f(x) - mean over the batch of f(G(z))|^2

    f are features of the discriminator, of which all axes but the first count. Every example has
    this one value. Both means are over all devices that share the batch. A microbatch does not know
    them, so microbatches are refused (ValueError).

    Args:
      output: name of the output with the features, [B, ...].
      weight: weight of the term, at least 0.

    Raises:
      ValueError: if weight is below 0; when called, if the discriminator has no such output.

    References:
      Salimans et al., Improved Techniques for Training GANs, 2016 (arXiv:1606.03498), section 3.1.
    """

    def generator(keys: Keys, seen: Seen) -> Array:
        devices.refuse_microbatch("feature_matching needs the features")
        real, fake = (devices.gather(output_of(each, output, seen)).mean(0) for each in _both(seen))
        return jnp.broadcast_to(jnp.sum(jnp.square(real - fake)), len(seen.real))

    return _weighted(None, generator, weight)


def latent_consistency(
    *, sigma: float, discriminator_weight: float | Array, generator_weight: float | Array
) -> Term:
    """Returns the latent consistency regularisation (zCR).

        D: (D(G(z)) - D(G(z')))^2,    z' = z + sigma * n,    n ~ N(0, I)
        G: -|G(z) - G(z')|^2 / n

    n is the number of values of an image (the paper writes the norm alone, re-implementations take
    the mean). A small step in latent space must not change the discriminator's logit, but should
    change the image. The generator's term has no bound: its weight must be small. With the
    augmentation consistency of `consistency` on both kinds of images it is ICR. Images are not
    augmented here.

    Args:
      sigma: standard deviation of the step, positive.
      discriminator_weight: weight of the discriminator's term, at least 0; 5 in the paper.
      generator_weight: weight of the generator's term, at least 0; 0.5 in the paper.

    Raises:
      ValueError: if sigma is not positive, or a weight is below 0.

    References:
      Zhao et al., Improved Consistency Regularization for GANs, 2021 (arXiv:2002.04724),
      algorithm 2.
    """
    checks.positive("sigma", sigma)
    check_weight("discriminator_weight", discriminator_weight)
    check_weight("generator_weight", generator_weight)

    def pair(keys: Keys, seen: Seen) -> tuple[Array, Array]:
        z = seen.latents
        noise = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:], z.dtype))(keys)
        return seen.generate(z), seen.generate(z + sigma * noise)

    def discriminator(keys: Keys, seen: Seen) -> Array:
        before, after = (wide(seen.judge(x)["logit"]) for x in pair(keys, seen))
        return jnp.square(before - after)

    def generator(keys: Keys, seen: Seen) -> Array:
        before, after = pair(keys, seen)
        return -jnp.mean(jnp.square(wide(before - after)), axis=tuple(range(1, before.ndim)))

    return Term(discriminator, generator, discriminator_weight, generator_weight)


def path_length(average: Array, *, weight: float | Array) -> Term:
    """Returns the generator's path length regularisation.

        G: (|J^T y| - average)^2,    y ~ N(0, I) / sqrt(H W)

    J is the Jacobian of the image by the latent, so that J^T y is a gradient of G(z) . y. A step of
    one length in latent space should change the image by one amount, wherever it starts. The
    average is memory, which `moving_length` moves after each step:

        train.adversarial(
            model, loss, optimizers,
            terms=lambda now: {"path": gan.path_length(now["path_length"], weight=2.0)},
            memory={"path_length": 0.0}, remember=gan.moving_length(),
        )

    If the generator normalises over its batch, the gradient of an example includes its influence on
    the images of the others.

    Args:
      average: moving average of the lengths, [].
      weight: weight of the term, at least 0.

    Raises:
      ValueError: if weight is below 0.

    References:
      Karras et al., Analyzing and Improving the Image Quality of StyleGAN, 2020
      (arXiv:1912.04958), equation 4.
    """

    def generator(keys: Keys, seen: Seen) -> tuple[Array, dict[str, Array]]:
        shape = jax.eval_shape(seen.generate, seen.latents)
        y = jax.vmap(lambda key: jax.random.normal(key, shape.shape[1:], shape.dtype))(keys)
        y = y / math.sqrt(math.prod(shape.shape[1:3]))
        slope = jax.grad(lambda z: jnp.sum(seen.generate(z) * y))(seen.latents)
        squared = jnp.sum(jnp.square(wide(slope)), axis=-1)
        # Where the gradient is zero, the length has none.
        lengths = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        return jnp.square(lengths - average), {"path_lengths": jax.lax.stop_gradient(lengths)}

    return _weighted(None, generator, weight)


def moving_length(*, decay: float = 0.99, name: str = "path_length") -> Remember:
    """Returns the `remember` that moves the average of `path_length`.

        average <- decay * average + (1 - decay) * mean length of the step

    Args:
      decay: share of the old average that is kept, in [0, 1).
      name: name of the average in the learner's memory.

    Raises:
      ValueError: if decay lies outside [0, 1); when called, if the memory has no field of this
        name.
    """
    check_decay(decay)

    def remember(key: Key, params: Any, notes: Any) -> dict[str, Array]:
        del key
        before = remembered(params, name, "an average length")
        now = decay * before + (1 - decay) * notes["path_lengths"].mean()
        return {name: now.astype(jnp.result_type(before))}

    return remember


def _both(seen: Seen) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
    return seen.real_outputs, seen.fake_outputs


def _weighted(
    discriminator: OfPlayer | None, generator: OfPlayer | None, weight: float | Array
) -> Term:
    check_weight("weight", weight)
    return Term(discriminator, generator, weight, weight)


def check_weight(name: str, weight: Any) -> None:
    """Refuses a weight below 0; a traced one is not checked."""
    if not isinstance(weight, jax.core.Tracer):
        checks.not_negative(name, weight)


def output_of(outputs: Mapping[str, Array], name: str, seen: Seen) -> Array:
    """Returns an output of the discriminator, [B, ...].

    Raises:
      ValueError: if there is none of the name, or it has not one row for each example.
    """
    checks.known("output of the discriminator", name, list(outputs))
    found = outputs[name]
    if found.ndim < 2 or len(found) != len(seen.real):
        raise ValueError(
            f"the output {name!r} must have a row for each of {len(seen.real)} examples, got shape "
            f"{found.shape}"
        )
    return wide(found)


def _labels(seen: Seen, classes: int | None = None) -> Array:
    """Returns the labels of the batch, [B].

    Raises:
      ValueError: if the condition is not one whole number for each example.
    """
    c = seen.condition
    whole = hasattr(c, "dtype") and jnp.issubdtype(c.dtype, jnp.integer)
    if not whole or c.shape != (len(seen.real),):
        raise ValueError(
            f"the condition must be a label for each of {len(seen.real)} examples, as of a model "
            f"made with `condition`, got {checks.described(c)}"
        )
    c = c.astype(jnp.int32)
    if classes is None:
        return c
    # In compiled code a label out of range cannot be refused: its loss is NaN.
    return jnp.where((c >= 0) & (c < classes), c, -1)


def _cross_entropy(outputs: Mapping[str, Array], name: str, seen: Seen) -> Array:
    """Returns -log C(y | x) of each example's label, [B]."""
    logits = output_of(outputs, name, seen)
    return picked(logits, _labels(seen, logits.shape[-1]))


def picked(logits: Array, labels: Array, first: int = 0) -> Array:
    """Returns the cross entropy of the entry `first + label`, NaN for a label below 0."""
    place = jnp.where(labels < 0, 0, first + labels)
    found = -jnp.take_along_axis(jax.nn.log_softmax(logits), place[:, None], axis=-1)[:, 0]
    return jnp.where(labels < 0, jnp.nan, found)


def _unit(x: Array) -> Array:
    """Returns vectors [B, D] scaled to length 1; those of length 0 stay 0."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
