"""Latents on the unit sphere: the von Mises-Fisher posterior and the uniform prior."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.types import Array, Key, Keys, Params
from genmod.vae.posteriors import Posterior, check_output
from genmod.vae.priors import Encode, Prior

_STEPS = 10
"""Number of orders by which the Bessel functions' asymptotic expansion is begun above theirs."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_SPAN = 12.0
"""Standard deviations beyond which the tail of an angle's density does not count."""


def von_mises_fisher(latent_dim: int) -> Posterior:
    """Returns the von Mises-Fisher distribution on the unit sphere, of a hyperspherical VAE.

        log q(z | x) = concentration mean z + constant,    |z| = 1

    Its parameters are the mean direction [B, L] and the concentration [B], at least 0: at 0 it is
    uniform. Its encoder returns [B, L + 1]: a vector, whose direction is the mean, and the softplus
    inverse of the concentration. Densities are those of the sphere's surface, so the prior must be
    on the sphere too: `uniform_sphere`, with which the KL divergence is in closed form.

    A draw is exact: the angle from the mean is drawn by rejection. Its derivative by the
    concentration is that of the implicit function cdf(angle, concentration) = constant, so that
    gradients through draws need no correction.

    Args:
      latent_dim: number of dimensions L of the space around the sphere, at least 2.

    Raises:
      ValueError: if latent_dim is less than 2.

    References:
      Davidson et al., Hyperspherical Variational Auto-Encoders, 2018 (arXiv:1804.00891), section
      3. Wood, Simulation of the von Mises Fisher distribution, 1994 (the rejection of Ulrich,
      1984). Figurnov et al., Implicit Reparameterization Gradients, 2018 (arXiv:1805.08498).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import rng, vae
      >>> posterior = vae.von_mises_fisher(3)
      >>> mean, concentration = posterior.split(jnp.array([[0.0, 0.0, 2.0, 5.0]]))
      >>> z = posterior.sample(rng.per_example(rng.root(0), 1), mean, concentration)
      >>> mean.tolist(), round(float((z * z).sum()), 5)
      ([[0.0, 0.0, 1.0]], 1.0)
    """
    _check_dimensions(latent_dim)

    def split(output: Array) -> tuple[Array, Array]:
        check_output("latent_dim + 1", output, latent_dim + 1)
        output = output.astype(checks.summed_as(output.dtype))
        return _direction(output[:, :-1]), jax.nn.softplus(output[:, -1])

    return Posterior(split, sample, log_von_mises_fisher, latent_dim=latent_dim, is_on_sphere=True)


def uniform_sphere(latent_dim: int) -> Prior:
    """Returns the uniform distribution on the unit sphere, which has no parameters.

    Its KL divergence is that of `von_mises_fisher`.

    Args:
      latent_dim: number of dimensions L of the space around the sphere, at least 2.

    Raises:
      ValueError: if latent_dim is less than 2.

    References:
      Davidson et al., Hyperspherical Variational Auto-Encoders, 2018 (arXiv:1804.00891), section
      3.2.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> circle = vae.uniform_sphere(2).log_prob((), jnp.array([[0.0, 1.0]]))
      >>> round(float(jnp.exp(-circle[0])), 4)
      6.2832
    """
    _check_dimensions(latent_dim)

    def draw(keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
        del params, posterior
        checks.keys(keys)
        return _direction(_normals(keys, latent_dim))

    def log_prob(params: Params, z: Array, posterior: Encode | None = None) -> Array:
        del params, posterior
        return jnp.full(len(z), _log_uniform(latent_dim), checks.summed_as(z.dtype))

    def kl_divergence(params: Params, mean: Array, concentration: Array) -> Array:
        """Returns the divergence from the uniform density.

        It is k A(k) - log(C(k) / C(0)), with k the concentration, A the mean of z along the mean
        direction, and C(k) the integral of exp(k mean z).
        """
        del params
        concentration = concentration.astype(checks.summed_as(concentration.dtype))
        rest, length = _constants(mean.shape[1], concentration)
        return rest - concentration * (1 - length)

    return Prior(
        lambda key, x: (),
        draw,
        log_prob,
        kl_divergence,
        latent_dim=latent_dim,
        is_on_sphere=True,
    )


def log_von_mises_fisher(z: Array, mean: Array, concentration: Array) -> Array:
    """Returns the log density on the sphere's surface, in nats.

    Args:
      z: values of norm 1, [B, L].
      mean: mean directions, [B, L].
      concentration: concentrations, [B].

    Returns:
      [B], in float32 at least.
    """
    dtype = checks.summed_as(jnp.result_type(z, mean, concentration))
    z, mean, concentration = (a.astype(dtype) for a in (z, mean, concentration))
    rest, _ = _constants(z.shape[1], concentration)
    # k mean z = k - k |z - mean|^2 / 2, which keeps its digits where both terms are large.
    distance = jnp.sum(jnp.square(z - mean), axis=1)
    return rest - 0.5 * concentration * distance + _log_uniform(z.shape[1])


def sample(keys: Keys, mean: Array, concentration: Array) -> Array:
    """Draws one latent per example; see `von_mises_fisher`.

    Args:
      keys: one key per example, [B].
      mean: mean directions, [B, L].
      concentration: concentrations, [B].

    Returns:
      z [B, L], of norm 1.

    Raises:
      ValueError: if there is not one key for each example.
    """
    checks.keys(keys, len(mean))
    size = mean.shape[1]
    fixed = jax.lax.stop_gradient(concentration)
    drawn = jax.vmap(functools.partial(_angle, size))(rng.stream(keys, "angle"), fixed)
    angle = _following(size, drawn, concentration)
    # Around the first axis, on the side away from the mean, then reflected so that this axis comes
    # to lie on the mean: the reflection has no singularity there.
    side = _direction(_normals(rng.stream(keys, "side"), size - 1))
    first = mean[:, 0]
    away = -jnp.where(first < 0, -1.0, 1.0).astype(mean.dtype)
    axis = jnp.zeros_like(mean).at[:, 0].set(away)
    along = jnp.sum(mean[:, 1:] * side, axis=1) / (1 + jnp.abs(first))
    side = jnp.concatenate([jnp.zeros_like(side[:, :1]), side], axis=1)
    across = side + along[:, None] * (axis - mean)
    return jnp.cos(angle)[:, None] * mean + jnp.sin(angle)[:, None] * across


def _check_dimensions(latent_dim: int) -> None:
    if checks.positive_integer("latent_dim", latent_dim) < 2:
        raise ValueError(f"latent_dim must be at least 2 for a sphere, got {latent_dim}")


def _direction(vectors: Array) -> Array:
    """Scales vectors [B, L] to norm 1; that of zero is the first axis."""
    squares = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    some = squares > 0
    first = jnp.zeros_like(vectors).at[:, 0].set(1)
    return jnp.where(some, vectors * jax.lax.rsqrt(jnp.where(some, squares, 1)), first)


def _normals(keys: Keys, size: int) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def _log_uniform(size: int) -> float:
    """Returns minus the logarithm of the area of the unit sphere."""
    return math.lgamma(size / 2) - math.log(2) - size / 2 * math.log(math.pi)


# Modified Bessel functions


def _constants(size: int, k: Array) -> tuple[Array, Array]:
    """Returns k - log(C(k) / C(0)) and the mean resultant length A(k), [B] each.

    C(k) is the integral of exp(k mean z) over the sphere, so that with v = L / 2 - 1

        C(k) / C(0) = Gamma(v + 1) (2 / k)^v I_v(k),    A(k) = I_(v+1)(k) / I_v(k).

    With R_v = A / k the recurrence of the Bessel functions is

        R_v = 1 / (2 (v + 1) + k^2 R_(v+1)),
        log C_v = log C_(v+1) + log(1 + k^2 R_(v+1) / (2 (v + 1))),

    with C_v for C(k) / C(0). It is stable downwards, and has no singularity at k = 0. It is begun
    with the uniform asymptotic expansion at an order where that has float32's precision.

    References:
      NIST Digital Library of Mathematical Functions, equations 10.29.1, 10.41.3 and 10.41.10.
    """
    v = size / 2 - 1
    order = v + _STEPS
    squares = jnp.square(k)
    root = jnp.sqrt(1 + squares / order**2)
    p = 1 / root
    series, slope = _debye(p, order)
    # k - order (root - 1) without the difference of large numbers
    rest = order - order**2 / (k + order * root)
    rest += order * jnp.log1p((root - 1) / 2) + 0.5 * jnp.log(root)
    rest -= jnp.log(series / _debye(1.0, order)[0])
    ratio = 1 / (order * (1 + root)) - p**2 * (0.5 + p * slope / series) / order**2
    for step in range(_STEPS - 1, -1, -1):
        twice = 2 * (v + step + 1)
        rest -= jnp.log1p(squares * ratio / twice)
        ratio = 1 / (twice + squares * ratio)
    return rest, k * ratio


def _debye(p: Array | float, order: float) -> tuple[Array | float, Array | float]:
    """Returns the sum of U_i(p) / order^i up to i = 3, and its derivative by p."""
    polynomials = (
        np.poly1d([1.0]),
        np.poly1d([-5, 0, 3, 0]) / 24,
        np.poly1d([385, 0, -462, 0, 81, 0, 0]) / 1152,
        np.poly1d([-425425, 0, 765765, 0, -369603, 0, 30375, 0, 0, 0]) / 414720,
    )
    total = sum((one / order**i for i, one in enumerate(polynomials)), np.poly1d([0.0]))
    return _at(total, p), _at(total.deriv(), p)


def _at(polynomial: np.poly1d, p: Array | float) -> Array | float:
    value = 0.0 * p
    for coefficient in polynomial.coeffs.tolist():
        value = value * p + coefficient
    return value


# Angles from the mean


def _angle(size: int, key: Key, k: Array) -> Array:
    """Draws the angle from the mean by rejection, [].

    With b in (0, 1] and a Beta variable e, the squared sine of half the proposed angle is
    b e / (1 - e + b e), exact for small angles too.
    """
    n = size - 1
    b = n / (2 * k + jnp.sqrt(4 * jnp.square(k) + n**2))
    y = 2 * b / (1 + b)

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        _, _, trial = state
        now = rng.at_step(key, trial)
        e = jax.random.beta(rng.stream(now, "proposal"), n / 2, n / 2, dtype=k.dtype)
        half = b * e / (1 - e + b * e)
        u = 2 * half  # 1 - cos(angle)
        log_chance = k * (y - u) + n * jnp.log((y + u - y * u) / (y * (2 - y)))
        level = -jax.random.exponential(rng.stream(now, "acceptance"), dtype=k.dtype)
        # A concentration of NaN is not to be tried for ever.
        return half, ~(log_chance < level), trial + 1

    start = (jnp.zeros_like(k), jnp.array(False), jnp.array(0, jnp.int32))
    half, _, _ = jax.lax.while_loop(lambda state: ~state[1], propose, start)
    return 2 * jnp.arcsin(jnp.sqrt(half))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _following(size: int, angle: Array, k: Array) -> Array:
    """Returns drawn angles, which follow the concentration at a constant cdf."""
    del size, k
    return angle


@_following.defjvp
def _following_jvp(
    size: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    angle, k = primals
    return angle, tangents[0] + _speed(size, angle, k) * tangents[1]


def _speed(size: int, angle: Array, k: Array) -> Array:
    """Returns the derivative of the angle by the concentration at a constant cdf.

        d angle / dk = 1 / f(angle) integral from 0 to angle of (A(k) - cos t) f(t) dt,
        f(t) proportional to sin(t)^(L-2) exp(k cos t)

    The integral from the angle to pi is minus that, and is taken beyond the density's mode: then
    f(t) / f(angle) falls from the angle on, and Gauss-Legendre quadrature over a few standard
    deviations is exact to rounding error.
    """
    power = size - 2
    low, high = 1e-30, 3.141592  # in float32 the sine of pi is negative
    angle = jnp.clip(angle, low, high)
    # At the mode cos t = k / height, and the second derivative of log f is minus the curvature.
    height = power / 2 + jnp.sqrt(jnp.square(k) + power**2 / 4)
    height = jnp.maximum(height, 1e-30)  # which is 0 for k = 0 and L = 2
    mode = jnp.arccos(jnp.clip(k / height, 0, 1))
    curvature = height + jnp.square(k) / height
    span = _SPAN * jax.lax.rsqrt(curvature)
    beyond = angle > mode
    end = jnp.where(beyond, jnp.minimum(angle + span, high), jnp.maximum(angle - span, low))
    half = 0.5 * (end - angle)[:, None]
    nodes, weights = (jnp.asarray(a, angle.dtype)[None] for a in (_NODES, _WEIGHTS))
    t = angle[:, None] + half * (1 + nodes)
    # cos t - cos angle as a product, which is exact for small angles
    apart = -2 * jnp.sin(0.5 * (t + angle[:, None])) * jnp.sin(0.5 * (t - angle[:, None]))
    log_ratio = k[:, None] * apart
    if power:
        log_ratio += power * (jnp.log(jnp.sin(t)) - jnp.log(jnp.sin(angle))[:, None])
    length = _constants(size, k)[1]
    excess = 2 * jnp.square(jnp.sin(0.5 * t)) - (1 - length)[:, None]  # A(k) - cos t
    # Below the mode half is negative, and the integral is that from 0 to the angle.
    return -jnp.sum(half * excess * jnp.exp(log_ratio) * weights, axis=1)
