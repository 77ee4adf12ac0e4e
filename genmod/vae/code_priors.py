"""Learned prior of grids of codes, such as those of a VQ-VAE.

It is autoregressive in every order: one network predicts all codes that are not yet known from
those that are. So any network from images to images will do, and no weight is masked.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, rng
from genmod.types import Array, Key, Keys, Metrics, Net, Params


class CodePrior(NamedTuple):
    """Prior of codes, as pure functions.

    Attributes:
      init: initial parameters, `(key, codes [B, ...]) -> params`.
      objective: estimate of a bound on -log p(codes) in nats, `(keys [B], params, codes [B, ...])
        -> (loss [B], aux)`.
      sample: one draw per key, `(keys [B], params) -> codes, int32 [B, ...]`.
    """

    init: Callable[[Key, Array], Params]
    objective: Callable[[Keys, Params, Array], tuple[Array, Metrics]]
    sample: Callable[[Keys, Params], Array]


def code_prior(net: Net, *, grid: Sequence[int], num_codes: int) -> CodePrior:
    """Makes a prior of codes that predicts them in a random order.

    Of P codes, those at the first t places of a random order are known. With t uniform from 0 to
    P - 1, the loss

        P / (P - t) * sum over the other places of -log p(code | known codes)

    is on average the mean over all orders of -log p(codes), which is at least that of their
    mixture, from which `sample` draws: it takes P evaluations of the network.

    Args:
      net: network [B, *grid, num_codes + 1] -> logits [B, *grid, num_codes]. Its input is one-hot
        where a code is known; elsewhere the last number alone is one.
      grid: shape of the codes of an image, such as (7, 7).
      num_codes: number of codes K.

    Returns:
      A CodePrior, for a learner of codes, or a player beside those of a VQ-VAE.

    Raises:
      ValueError: if a number is not positive, or the network needs a condition; when called, if the
        codes are of another grid, the network returns another shape, or there is not one key for
        each image.

    References:
      Hoogeboom et al., Autoregressive Diffusion Models, 2022 (arXiv:2110.02037),
      algorithms 1 and 2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> prior = vae.code_prior(nets.mlp((16,), (3, 3, 5)), grid=(3, 3), num_codes=5)
      >>> codes = jnp.zeros((2, 3, 3), jnp.int32)
      >>> params = prior.init(rng.root(0), codes)
      >>> prior.objective(rng.per_example(rng.root(1), 2), params, codes)[0].shape
      (2,)
      >>> prior.sample(rng.per_example(rng.root(2), 4), params).shape
      (4, 3, 3)
    """
    grid = tuple(checks.positive_integer("grid", side) for side in grid)
    size = math.prod(grid)
    num_codes = checks.positive_integer("num_codes", num_codes)
    checks.networks({"net": net}, None)

    def context(codes: Array, known: Array) -> Array:
        return jax.nn.one_hot(jnp.where(known, codes, num_codes), num_codes + 1)

    def log_probs(params: Params, codes: Array, known: Array) -> Array:
        logits = net(params, context(codes, known))
        if logits.shape != (*codes.shape, num_codes):
            raise ValueError(
                f"the network must return logits {[*codes.shape, num_codes]}, "
                f"got {list(logits.shape)}"
            )
        return jax.nn.log_softmax(logits.astype(checks.summed_as(logits.dtype)))

    def orders(keys: Keys) -> Array:
        """Draws the number of each place in an order, [B, *grid]."""
        numbers = jnp.arange(size)
        drawn = jax.vmap(lambda key: jax.random.permutation(key, numbers))(keys)
        return drawn.reshape(-1, *grid)

    def init(key: Key, codes: Array) -> Params:
        check_codes(codes, grid, num_codes)
        return net.initial(key, context(codes, codes >= 0))

    def objective(keys: Keys, params: Params, codes: Array) -> tuple[Array, Metrics]:
        check_codes(codes, grid, num_codes)
        checks.keys(keys, len(codes))

        def draw(key: Key) -> Array:
            return jax.random.randint(key, (), 0, size)

        num_known = jax.vmap(draw)(rng.stream(keys, "known"))
        unknown = orders(rng.stream(keys, "order")) >= num_known.reshape(-1, *[1] * len(grid))
        log_p = log_probs(params, codes, ~unknown)
        each = jnp.take_along_axis(log_p, codes[..., None], -1, mode="fill")[..., 0]
        total = jnp.where(unknown, each, 0).reshape(len(codes), -1).sum(1)
        return -total * size / (size - num_known), {}

    def sample(keys: Keys, params: Params) -> Array:
        checks.keys(keys)
        order, own = orders(rng.stream(keys, "order")), rng.stream(keys, "code")

        def step(codes: Array, number: Array) -> tuple[Array, None]:
            log_p = log_probs(params, codes, order < number)
            draw = jax.vmap(jax.random.categorical)(rng.at_step(own, number), log_p)
            return jnp.where(order == number, draw.astype(codes.dtype), codes), None

        blank = jnp.zeros((len(keys), *grid), jnp.int32)
        codes, _ = jax.lax.scan(step, blank, jnp.arange(size))
        return codes

    return CodePrior(init, objective, sample)


def check_codes(codes: Array, grid: tuple[int, ...], num_codes: int) -> None:
    """Refuses anything but whole numbers [B, *grid] in [0, num_codes)."""
    if codes.shape[1:] != grid or not jnp.issubdtype(codes.dtype, jnp.integer):
        raise ValueError(
            f"codes must be whole numbers {['B', *grid]}, got {checks.described(codes)}"
        )
    if not isinstance(codes, jax.core.Tracer):
        checks.values_within("codes", codes, (0, num_codes - 1), "the codebook", hint=False)
