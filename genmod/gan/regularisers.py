"""Regularisers of a GAN that are not gradient penalties.

Each is of a form that `train.adversarial` knows: a penalty, a loss, an augmentation, or a memory
and the function that moves it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, devices, rng
from genmod.gan.losses import AdversarialLoss, minimax, nonsaturating
from genmod.gan.penalties import Critic, Penalty, of_examples, packs, wide
from genmod.types import Array, Key, Keys

Remember = Callable[[Key, Any, Any], Mapping[str, Any]]
Augment = Callable[[Keys, Array], Array]


class Anchors(NamedTuple):
    """Moving averages of the discriminator's mean logits, for `lecam`.

    Attributes:
      real: average of the logits of real images, [].
      fake: average of the logits of generated images, [].
    """

    real: float | Array = 0.0
    fake: float | Array = 0.0


def lecam(anchors: Anchors) -> Penalty:
    """Returns the LeCam penalty, which holds logits near moving averages.

        (D(x) - anchors.fake)^2 + (D(G(z)) - anchors.real)^2

    It suits small data sets. The anchors are memory, which `moving_anchors` moves after each step:

        train.adversarial(
            model, gan.hinge, optimizers,
            penalty=lambda now: 0.3 * gan.lecam(now["anchors"]),
            memory={"anchors": gan.Anchors()}, remember=gan.moving_anchors(),
        )

    The authors' code takes max(0, D(x) - anchors.fake)^2 + max(0, anchors.real - D(G(z)))^2, which
    is the same as long as real images score above the anchor of generated ones, and these below
    that of real ones. It moves the anchors before the penalty sees them, and in one version starts
    the penalty after a given step only. Here the anchors are those after the last step, and start
    at 0 unless `Anchors` says otherwise.

    If the discriminator judges packs, an example has the value of its pack.

    Args:
      anchors: the averages at this step.

    Raises:
      ValueError: if anchors are not `Anchors`.

    References:
      Tseng et al., Regularizing Generative Adversarial Networks under Limited Data, 2021
      (arXiv:2104.03310); code https://github.com/google/lecam-gan.
    """
    if not isinstance(anchors, Anchors):
        raise ValueError(
            f"anchors must be gan.Anchors(real, fake), got {checks.described(anchors)}"
        )

    def lecam(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        del keys
        of_real, of_fake = wide(critic(real)), wide(critic(fake))
        packs(of_real, len(real))
        values = jnp.square(of_real - anchors.fake) + jnp.square(of_fake - anchors.real)
        return of_examples(values, len(real))

    return Penalty.of(lecam)


def moving_anchors(*, decay: float = 0.99, name: str = "anchors") -> Remember:
    """Returns the `remember` that moves the anchors of `lecam`.

        anchor <- decay * anchor + (1 - decay) * mean logit of the step

    The mean is over all examples, devices and updates of the discriminator in a step.

    Args:
      decay: share of the old average that is kept, in [0, 1).
      name: name of the anchors in the learner's memory.

    Raises:
      ValueError: if decay lies outside [0, 1); when called, if the memory has no `Anchors` of this
        name.

    References:
      Tseng et al., Regularizing Generative Adversarial Networks under Limited Data, 2021
      (arXiv:2104.03310).
    """
    check_decay(decay)

    def remember(key: Key, params: Any, notes: Any) -> dict[str, Anchors]:
        del key
        before = params.get(name)
        if not isinstance(before, Anchors):
            raise ValueError(
                f"the memory must hold gan.Anchors() as {name!r}, got {checks.described(before)}"
            )
        now = Anchors(*(wide(notes[f"{kind}_logits"]).mean() for kind in Anchors._fields))

        def moved(old: Array, new: Array) -> Array:
            return (decay * old + (1 - decay) * new).astype(jnp.result_type(old))

        return {name: jax.tree.map(moved, before, now)}

    return remember


def moving_probability(
    *, target: float = 0.6, num_images: float = 500_000, name: str = "probability"
) -> Remember:
    """Returns the `remember` that moves the probability of augmentation (ADA).

        p <- p + sign(r - target) * B / num_images, kept in [0, 1],    r = mean sign(D(x))

    r is the share of real images with a positive logit, less that of others: 1 if the discriminator
    knows all of them, 0 if it knows nothing. Above the target it overfits, and p rises; it takes
    `num_images` real images from 0 to 1. The mean is over all B real images of a step: devices and
    updates of the discriminator; packs count as one image each, and images of `deception` as real
    ones. The paper moves p every four batches, by the mean of all. With a loss of pairs or
    averages, such as `relativistic`, logits have no zero, and so no r.

    Args:
      target: value of r to be held, in (0, 1].
      num_images: number of real images in which p can move from 0 to 1.
      name: name of the probability in the learner's memory.

    Raises:
      ValueError: if target lies outside (0, 1] or num_images is not positive; when called, if the
        memory has no field of this name.

    References:
      Karras et al., Training Generative Adversarial Networks with Limited Data, 2020
      (arXiv:2006.06676), equation 1 and section 3.
    """
    _check_share("target", target)
    checks.positive("num_images", num_images)

    def remember(key: Key, params: Any, notes: Any) -> dict[str, Array]:
        del key
        before = jnp.asarray(remembered(params, name, "a probability"))
        logits = notes["real_logits"]
        sign = jnp.sign(jnp.sign(wide(logits)).mean() - target)
        moved = jnp.clip(before + sign * (logits.size / num_images), 0, 1)
        return {name: moved.astype(before.dtype)}

    return remember


def remembered(params: Any, name: str, what: str) -> Any:
    """Returns a field of the memory.

    Raises:
      ValueError: if there is none of this name.
    """
    if name not in params:
        raise ValueError(f"the memory must hold {what} as {name!r}, got none of this name")
    return params[name]


def remember_all(*remembers: Remember) -> Remember:
    """Returns a `remember` that does what several of them do.

    Each of them draws from a key of its own, which depends on its place, and all see the memory as
    it was before the step.

    Args:
      *remembers: functions `(key, params, notes) -> values` of different fields of the memory.

    Raises:
      ValueError: when called, if two of them move one field.
    """

    def remember(key: Key, params: Any, notes: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place, one in enumerate(remembers):
            own = one(rng.at_step(key, place), params, notes)
            if twice := sorted(found.keys() & own.keys()):
                raise ValueError(f"remembers must move different fields, got {twice[0]!r} twice")
            found |= own
        return found

    return remember


def consistency(augment: Augment, *, on: Literal["real", "fake"]) -> Penalty:
    """Returns the consistency penalty: augmentation must not change a logit.

        (D(x) - D(T(x)))^2

    x are the real or the generated images. Each example draws its own augmentation T. The penalty
    on real images alone is CR-GAN's. The balanced one (bCR) has both terms, whose weights may
    differ; both are 10 in the papers:

        penalty = 10 * gan.consistency(T, on="real") + 10 * gan.consistency(T, on="fake")

    The terms are called `real_consistency` and `fake_consistency`. If the learner has an `augment`
    itself, x are the images that it returns. If the discriminator judges packs, an example has the
    value of its pack.

    Args:
      augment: the augmentation T, `(keys [B], images [B, ...]) -> images`, such as
        `data.translate()` or `data.flip`.
      on: the images, "real" or "fake".

    Raises:
      ValueError: if augment cannot be called like that, or on is another word; when called, if
        augmented images have another shape or type.

    References:
      Zhang et al., Consistency Regularization for Generative Adversarial Networks, 2020
      (arXiv:1910.12027).
      Zhao et al., Improved Consistency Regularization for GANs, 2021 (arXiv:2002.04724).
    """
    if not (callable(augment) and checks.takes(augment, 2)):
        raise ValueError(
            f"augment must be a function (keys, images) -> images, got {checks.described(augment)}"
        )
    checks.known("kind of images (on)", on, ("real", "fake"))

    def consistency(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        x = {"real": real, "fake": fake}[on]
        changed = augment(keys, x)
        checks.augmented(changed, x)
        before, after = wide(critic(x)), wide(critic(changed))
        packs(before, len(x))
        return of_examples(jnp.square(before - after), len(x))

    return Penalty.of(consistency, f"{on}_consistency")


def top_k(loss: AdversarialLoss, share: float | Array) -> AdversarialLoss:
    """Returns a loss whose generator learns from its most realistic images alone.

        G: B / k * loss.generator for the k generated images of largest logits, 0 for the others

    k is share * B, rounded, at least 1. The mean over the batch is the mean over the k images. Of
    equal logits, the first in the batch count as larger. The discriminator's loss is unchanged.

    So examples interact, and microbatches are refused (ValueError). If examples are judged in
    packs, k counts packs. In the paper the share falls from 1 in training:

        train.adversarial(
            model, lambda now: gan.top_k(gan.hinge, now["share"]), optimizers,
            hyper={"share": optax.exponential_decay(1.0, 600, 0.99, end_value=0.5)},
        )

    Args:
      loss: the loss of both players.
      share: share of the generated images that the generator learns from, in (0, 1]; a traced value
        is not checked.

    Raises:
      ValueError: if loss is no loss, or share lies outside (0, 1].

    References:
      Sinha et al., Top-k Training of GANs: Improving GAN Performance by Throwing Away Bad Samples,
      2020 (arXiv:2002.06224).
    """
    _check_loss(loss)
    _check_share("share", share)

    def generator(real: Array, fake: Array) -> Array:
        devices.refuse_microbatch("top_k needs the logits")
        losses = loss.generator(real, fake)
        num = len(fake)
        k = jnp.clip(jnp.round(jnp.asarray(share) * num), 1, num)
        place = jnp.argsort(jnp.argsort(-jax.lax.stop_gradient(fake)))
        return jnp.where(place < k, losses * (num / k).astype(losses.dtype), 0)

    return dataclasses.replace(loss, generator=generator, name=f"top_k {loss.name}", doc=None)


def smoothed(loss: AdversarialLoss, *, target: float | Array = 0.9) -> AdversarialLoss:
    """Returns a loss with one-sided label smoothing.

        D: -target log sigma(real) - (1 - target) log(1 - sigma(real)) - log(1 - sigma(fake))

    The target of real images is a probability below 1, so that the discriminator gains nothing by
    logits beyond log(target / (1 - target)). The target of generated images stays 0: else the
    discriminator would reward samples that are far from the data for being like they are. The
    generator's loss is unchanged.

    Args:
      loss: `minimax`, `nonsaturating`, or another with their discriminator.
      target: probability of being real that real images should have, in (0, 1]; a traced value is
        not checked.

    Raises:
      ValueError: if the loss has another discriminator, which has no such target, or target lies
        outside (0, 1].

    References:
      Salimans et al., Improved Techniques for Training GANs, 2016 (arXiv:1606.03498), section 3.4.
    """
    _check_loss(loss)
    _check_share("target", target)
    if loss.discriminator not in (minimax.discriminator, nonsaturating.discriminator):
        raise ValueError(
            "loss must have the discriminator of gan.minimax or gan.nonsaturating, which is a "
            f"classifier by cross entropy, got {loss!r}"
        )

    def discriminator(real: Array, fake: Array) -> Array:
        # softplus(a) = softplus(-a) + a: the smoothed cross entropy is the usual one and a line.
        rest = jnp.asarray(1 - target, real.dtype)
        return loss.discriminator(real, fake) + rest * real

    return dataclasses.replace(
        loss, discriminator=discriminator, name=f"smoothed {loss.name}", doc=None
    )


def instance_noise(sigma: float | Array) -> Augment:
    """Returns an augmentation that adds noise N(0, sigma^2) to each pixel.

    As `augment` of `train.adversarial`, it blurs real and generated images alike, so that their
    distributions overlap and the discriminator cannot be sure. The noise usually falls in training:

        train.adversarial(
            model, loss, optimizers,
            augment=lambda now: gan.instance_noise(now["sigma"]),
            hyper={"sigma": optax.linear_schedule(0.1, 0.0, 10_000)},
        )

    Args:
      sigma: standard deviation of the noise, at least 0; a traced value is not checked.

    Returns:
      A function `(keys [B], images [B, ...]) -> images [B, ...]`, of the same type.

    Raises:
      ValueError: if sigma is not a number of at least 0; when called, if the images are not
        floating, or there is not one key for each.

    References:
      Sonderby et al., Amortised MAP Inference for Image Super-resolution, 2017 (arXiv:1610.04490).
      Arjovsky & Bottou, Towards Principled Methods for Training Generative Adversarial Networks,
      2017 (arXiv:1701.04862).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import gan, rng
      >>> images = jnp.ones((2, 4, 4, 1))
      >>> noisy = gan.instance_noise(0.1)(rng.per_example(rng.root(0), 2), images)
      >>> noisy.shape, bool((noisy == images).any())
      ((2, 4, 4, 1), False)
    """
    if not isinstance(sigma, jax.core.Tracer):
        checks.not_negative("sigma", sigma)

    def augment(keys: Keys, images: Array) -> Array:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images must be floating, got {images.dtype} (scale the images first)"
            )
        checks.keys(keys, len(images))
        draw = lambda key: jax.random.normal(key, images.shape[1:], images.dtype)  # noqa: E731
        return images + jnp.asarray(sigma, images.dtype) * jax.vmap(draw)(keys)

    return augment


def check_decay(decay: Any) -> None:
    """Refuses a share of an old average that is not in [0, 1)."""
    if not (checks.is_finite_number(decay) and 0 <= decay < 1):
        raise ValueError(f"decay must be a number in [0, 1), got {decay!r}")


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, AdversarialLoss):
        raise ValueError(f"loss must be a gan.AdversarialLoss, got {checks.described(loss)}")


def _check_share(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    if not (checks.is_finite_number(value) and 0 < value <= 1):
        raise ValueError(f"{name} must be a number in (0, 1], got {value!r}")
