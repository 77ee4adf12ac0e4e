"""Penalties that are computed at a few steps alone."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.gan.penalties import Critic, Penalty, PenaltyFunction
from genmod.types import Array, Keys


def lazy(
    penalty: Penalty | PenaltyFunction, *, every: int
) -> Callable[[Mapping[str, Any]], Penalty]:
    """Returns a penalty that is computed at every few steps alone.

        every * penalty at the steps 0, every, 2 every, ...; 0 at all others

    Its mean over `every` steps is that of the penalty. At the other steps neither the penalty nor
    its gradient is computed. What is returned is a function of hyper, which must tell the step:

        train.adversarial(
            model, loss, optimizers,
            penalty=gan.lazy(5 * gan.r1, every=16),
            hyper={"step": lambda step: step},
        )

    Terms of a sum keep their names and weights. The logs show `every` times the penalty at a step
    that computes it and 0 at the others. A weight in hyper, or other penalties beside it, make a
    function of hyper themselves:

        penalty=lambda now: gan.gradient_penalty + gan.lazy(now["w"] * gan.r1, every=16)(now)

    Under `jax.vmap`, as in `train.over_seeds(learner, 8, sequential=False)`, each run has a step of
    its own. `lax.cond` then becomes a selection between two sides that are both computed: the
    numbers are the same, but nothing is saved.

    The paper takes the step of the penalty by itself, and adapts Adam's learning rate and decays
    to the additional steps. Here it is part of a usual step, and the optimizer stays as it is.

    Args:
      penalty: a penalty, or a sum of penalties.
      every: number of steps from one computation to the next; 16 in the paper.

    Raises:
      ValueError: if every is not a positive whole number, or penalty is not a function
        `(keys, critic, real, fake) -> [B]`; when called, if hyper has no whole number "step".

    References:
      Karras et al., Analyzing and Improving the Image Quality of StyleGAN, 2020
      (arXiv:1912.04958), section 3.1 and appendix B.
    """
    every = checks.positive_integer("every", every)
    if not checks.takes(penalty, 4):
        raise ValueError(
            "penalty must be a function (keys, critic, real, fake) -> [B], got "
            f"{checks.described(penalty)}; of a function of hyper, use "
            "lambda hyper: gan.lazy(function(hyper), every=16)(hyper)"
        )
    terms = (penalty if isinstance(penalty, Penalty) else Penalty.of(penalty)).terms

    def at(hyper: Mapping[str, Any]) -> Penalty:
        due = _step(hyper) % every == 0
        return Penalty(tuple((n, weight, _only(due, every, f)) for n, weight, f in terms))

    return at


def _step(hyper: Mapping[str, Any]) -> Array:
    step = hyper.get("step")
    if step is None or not jnp.issubdtype(jnp.result_type(step), jnp.integer):
        got = "none" if step is None else checks.described(step)
        raise ValueError(
            "a lazy penalty must know the step, a whole number: give the learner "
            f'hyper={{"step": lambda step: step}}, got {got}'
        )
    return jnp.asarray(step)


def _only(due: Array, every: int, function: PenaltyFunction) -> PenaltyFunction:
    """Returns a penalty times `every` if it is due, and else zeros that cost nothing."""

    def sometimes(keys: Keys, critic: Critic, real: Array, fake: Array) -> Array:
        # The keys go in as words: JAX's check counts a key as used twice if `cond` is vectorised.
        words, impl = jax.random.key_data(keys), jax.random.key_impl(keys)

        def computed() -> Array:
            own = jax.random.wrap_key_data(words, impl=impl)
            return every * function(own, critic, real, fake)

        form = jax.eval_shape(computed)
        return jax.lax.cond(due, computed, lambda: jnp.zeros(form.shape, form.dtype))

    return sometimes
