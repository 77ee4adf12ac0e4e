"""Hamiltonian Monte Carlo (HMC): a Markov kernel for many chains at once.

The mass matrix is the identity, and the number of leapfrog steps is fixed. BlackJAX has the same
kernel and many others, but it is one more dependency, and its kernel takes one log density: it
would compute the likelihood again wherever the temperature of annealed importance sampling changes,
a tenth of the work. Here a state keeps what `Density` has computed there.

References:
  Neal, MCMC Using Hamiltonian Dynamics, 2011 (arXiv:1206.1901), section 3.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Keys

Density = Callable[[Array], tuple[Array, Array, Any]]
"""Function `z [B, L] -> (log density [B], its gradient [B, L], aux)`.

The log density lacks a constant. Each chain's values depend on its own z alone. The third value is
a tree of arrays [B, ...] that the state keeps.
"""


class State(NamedTuple):
    """Positions of all chains, with what is known there.

    Attributes:
      position: z [B, L].
      log_density: log density at z, without its constant, in nats, [B].
      gradient: gradient of the log density, [B, L].
      aux: further values at z, a tree of arrays [B, ...].
    """

    position: Array
    log_density: Array
    gradient: Array
    aux: Any = ()


def density(log_density: Callable[[Array], Array]) -> Density:
    """Returns a function's values with their gradients.

    Args:
      log_density: function `z [B, L] -> [B]`, without aux.
    """

    def values(z: Array) -> tuple[Array, Array, Any]:
        found, pull = jax.vjp(log_density, z)
        return found, pull(jnp.ones_like(found))[0], ()

    return values


def start(density: Density, position: Array) -> State:
    """Returns the state at positions [B, L]."""
    return State(position, *density(position))


def step(
    keys: Keys, state: State, density: Density, *, step_size: Any, num_leapfrog: int = 10
) -> tuple[State, Array]:
    """Moves each chain once, with the density as the invariant distribution.

    The kernel is reversible. A proposal whose density or gradient is not finite is refused.

    Args:
      keys: one key per chain, [B].
      state: the state, made with the same density.
      density: log density and its gradient.
      step_size: length of a leapfrog step, a number or one per chain, [B]. It must not depend on
        the present state or on how the chain got there, or the density is not invariant.
      num_leapfrog: number of leapfrog steps.

    Returns:
      The next state, and the probability with which each proposal was accepted, [B].

    Raises:
      ValueError: if there is not one key per chain, or num_leapfrog is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from genmod import rng
      >>> from genmod.evaluate import hmc
      >>> normal = hmc.density(lambda z: -0.5 * (z * z).sum(1))
      >>> state = hmc.start(normal, jnp.zeros((3, 2)))
      >>> state, accepted = hmc.step(rng.per_example(rng.root(0), 3), state, normal, step_size=0.5)
      >>> state.position.shape, accepted.shape
      ((3, 2), (3,))
    """
    checks.keys(keys, len(state.position), of="chain")
    num_leapfrog = checks.positive_integer("num_leapfrog", num_leapfrog)
    dtype, shape = state.position.dtype, state.position.shape[1:]
    momentum = jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(
        rng.stream(keys, "momentum")
    )
    proposal, end = leapfrog(
        state, momentum, density, step_size=step_size, num_leapfrog=num_leapfrog
    )
    gain = proposal.log_density - state.log_density
    log_ratio = gain - 0.5 * (jnp.square(end) - jnp.square(momentum)).sum(-1)
    # A gradient that is not finite has made the momentum so, and the ratio with it.
    refused = jnp.isnan(log_ratio) | ~jnp.isfinite(proposal.log_density)
    log_ratio = jnp.where(refused, -jnp.inf, jnp.minimum(log_ratio, 0))
    # 1 - u is never 0, so its logarithm is finite.
    uniform = 1 - jax.vmap(jax.random.uniform)(rng.stream(keys, "accept"))
    accept = jnp.log(uniform) <= log_ratio
    return select(accept, proposal, state), jnp.exp(log_ratio)


def leapfrog(
    state: State, momentum: Array, density: Density, *, step_size: Any, num_leapfrog: int
) -> tuple[State, Array]:
    """Returns state and momentum [B, L] after some leapfrog steps.

    From the end with the momentum reversed, as many steps lead back.
    """
    dtype = state.position.dtype
    length = jnp.broadcast_to(jnp.asarray(step_size, dtype), len(momentum))[:, None]

    def body(i: Any, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, momentum = carry
        state = start(density, state.position + length * momentum)
        # The half kick at the end of a step and that at the start of the next are one.
        kick = jnp.where(i == num_leapfrog - 1, 0.5, 1).astype(dtype)
        return state, momentum + kick * length * state.gradient

    momentum = momentum + 0.5 * length * state.gradient
    return jax.lax.fori_loop(0, num_leapfrog, body, (state, momentum))


def select(which: Array, a: State, b: State) -> State:
    """Returns the chains of `a` where `which` [B] is true, else those of `b`."""

    def leaf(x: Array, y: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (x.ndim - 1)), x, y)

    return jax.tree.map(leaf, a, b)


def adapted(
    step_size: Array, acceptance: Array, *, target: float = 0.65, gain: float = 0.5
) -> Array:
    """Returns step sizes corrected towards an acceptance.

        log step size += gain * (acceptance - target)

    A step size that depends on a chain's own past does not leave its density invariant. So it is
    adapted on other chains, then kept.

    Args:
      step_size: step sizes, of any shape.
      acceptance: mean acceptance with each step size, in [0, 1].
      target: acceptance to be reached; 0.65 is nearly optimal in high dimensions (Neal 2011,
        section 4.4).
      gain: speed of the correction.
    """
    return step_size * jnp.exp(gain * (acceptance - target))
