"""The vector quantised VAE (VQ-VAE), whose latents are entries of a codebook.

The encoder returns a grid of vectors. Each is replaced by the nearest entry of the codebook, and
the decoder sees these. A code is the number of an entry.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genmod import checks, devices, rng
from genmod.types import Array, Batch, Key, Keys, Metrics, Net, Params
from genmod.vae.code_priors import check_codes
from genmod.vae.likelihoods import Likelihood, bernoulli
from genmod.vae.model import Init, check_floating, check_no_statistics

_UNIFORM = 1e-3
"""Share of the uniform distribution in the prior: no code is impossible, as one not yet seen."""
_EXACT = jax.lax.Precision.HIGHEST


class QuantisedParams(NamedTuple):
    """Parameters of a VQ-VAE.

    Attributes:
      encoder: parameters of the encoder.
      decoder: parameters of the decoder.
      codebook: the entries, [K, D].
      counts: moving average of the number of vectors of an image that have each entry, [K].
      frequencies: moving average of how frequent each code is at each place of the grid, [..., K].
      prior: parameters of a learned prior, such as `code_prior`, if another player has one; else
        `()`.
    """

    encoder: Params
    decoder: Params
    codebook: Array
    counts: Array
    frequencies: Array
    prior: Params = ()


class Quantised(NamedTuple):
    """VQ-VAE, as pure functions. Grids are [B, P], [B, h, w], or of any other shape.

    Attributes:
      init: initial parameters, `(key, x [B, H, W, C]) -> QuantisedParams`. The entries of the
        codebook are vectors of these images. Its attribute `check` is as that of a `Vae`.
      encode: codes, `(params, x [B, H, W, C]) -> int32 [B, ...]`.
      decode: parameters of the likelihood, `(params, codes [B, ...]) -> output`.
      objective: `(keys [B], params, x) -> (loss [B], aux, notes)`, in nats and squares.
      remember: `(key, params, notes) -> values` of the fields that no gradient moves.
      fields: names of the fields that the objective's gradient moves.
      sample: mean images of codes from the prior, `(keys [B], params) -> images [B, H, W, C]`.
      log_prior: logarithms of the prior's probabilities, `params -> [..., K]`; the places of the
        grid are independent.
      likelihood: p(x|z), as a function of the decoder's output.
    """

    init: Init
    encode: Callable[[QuantisedParams, Array], Array]
    decode: Callable[[QuantisedParams, Array], Any]
    objective: Callable[[Keys, QuantisedParams, Batch], tuple[Array, Metrics, dict[str, Any]]]
    remember: Callable[[Key, QuantisedParams, Mapping[str, Array]], dict[str, Array]]
    fields: tuple[str, ...]
    sample: Callable[[Keys, QuantisedParams], Array]
    log_prior: Callable[[QuantisedParams], Array]
    likelihood: Likelihood


def quantised(
    encoder: Net,
    decoder: Net,
    *,
    num_codes: int,
    likelihood: Likelihood = bernoulli,
    commitment: float | Array = 0.25,
    decay: float = 0.99,
    by_gradient: bool = False,
    restart: float = 0.0,
) -> Quantised:
    """Makes a VQ-VAE from two networks.

    With the vectors h of an image x, the nearest entry e of each, and sg for what has no gradient,

        loss = -log p(x | e) + commitment * sum |h - sg(e)|^2  [+ sum |sg(h) - e|^2]

    The sums are over the vectors, where the paper has means: its commitment is this one times their
    number. The gradient by e of the first term goes to h unchanged (straight-through). The codebook
    follows the term in brackets with `by_gradient`, else moving averages, which are the minima of
    that term:

        count = decay * count + (1 - decay) * (number of vectors with the entry)
        total = decay * total + (1 - decay) * (sum of these vectors),    e = total / count

    The prior of the codes is fitted, not uniform: at each place of the grid, independently of the
    others, codes are as frequent as in recent batches. Parts of an image drawn from it do not fit
    each other; `code_prior` learns one that knows of other places. The aux values `reconstruction`,
    -log p(x | e), and `kl`, -log p(codes), add up to a bound on -log p(x).

    Args:
      encoder: network [B, H, W, C] -> vectors [B, ..., D], such as [B, h, w, D].
      decoder: network [B, ..., D] -> the parameters of the likelihood.
      num_codes: number of entries K of the codebook.
      likelihood: p(x|z), as a function of the decoder's output.
      commitment: weight of the commitment term, at least 0.
      decay: share that a moving average keeps in a step, in [0, 1).
      by_gradient: whether a gradient moves the codebook, not moving averages.
      restart: share of the mean count below which an entry is dead, and becomes a random vector of
        the batch; 0 leaves all entries. A codebook that follows gradients has no restarts.

    Returns:
      A Quantised. Its aux holds `reconstruction`, `kl` and `distance`, the sum of |h - e|^2 [B].

    Raises:
      ValueError: if num_codes is not positive, commitment is below 0, decay or restart is not in
        [0, 1), or there are restarts of a codebook that follows gradients; when called, if the
        encoder returns no vectors or the codes are not of its grid; when training begins, if images
        lie outside the likelihood's support.

    References:
      van den Oord et al., Neural Discrete Representation Learning, 2017 (arXiv:1711.00937),
      equations 1 to 3 and appendix A.1.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from genmod import nets, rng, train, vae
      >>> encoder, decoder = nets.mlp((8,), (9, 2)), nets.mlp((8,), (6, 6, 1))
      >>> model = vae.quantised(encoder, decoder, num_codes=16, restart=0.02)
      >>> player = train.Player(model.objective, optax.adam(1e-3))
      >>> learner = train.game(
      ...     model.init, {model.fields: player}, remember=model.remember, sample=model.sample
      ... )
      >>> x = jnp.zeros((5, 6, 6, 1))
      >>> state, metrics = learner.step(rng.root(1), learner.init(rng.root(0), x), x)
      >>> model.encode(state.params, x).shape, learner.sample(rng.root(2), state, 3).shape
      ((5, 9), (3, 6, 6, 1))
    """
    num_codes = checks.positive_integer("num_codes", num_codes)
    checks.networks({"encoder": encoder, "decoder": decoder}, None)
    if not isinstance(commitment, jax.core.Tracer):
        checks.not_negative("commitment", commitment)
    _check_averages(decay, restart, by_gradient)

    def vectors_of(params: Params, x: Array) -> Array:
        return _vectors(encoder(params, x), x)

    def init(key: Key, x: Array) -> QuantisedParams:
        checks.images_and_condition(x, None, maker="vae.quantised")
        of_encoder = encoder.initial(rng.stream(key, "encoder"), x)
        vectors = vectors_of(of_encoder, x)
        grid, rows = vectors.shape[1:-1], vectors.reshape(-1, vectors.shape[-1])
        params = QuantisedParams(
            of_encoder,
            decoder.initial(rng.stream(key, "decoder"), vectors),
            rows[_different(rng.stream(key, "codebook"), len(rows), num_codes)],
            jnp.full(num_codes, len(rows) / len(x) / num_codes, rows.dtype),
            jnp.full((*grid, num_codes), 1 / num_codes, rows.dtype),
        )
        with devices.batch_statistics() as layers:
            jax.eval_shape(lambda *inputs: objective(*inputs), None, params, x)
        check_no_statistics(layers)
        return params

    def check(x: Array) -> None:
        if likelihood.support is not None:
            checks.values_within("images", x, likelihood.support, "the likelihood")

    def encode(params: QuantisedParams, x: Array) -> Array:
        check_floating(x)
        return nearest(vectors_of(params.encoder, x), params.codebook)

    def decode(params: QuantisedParams, codes: Array) -> Any:
        check_codes(codes, params.frequencies.shape[:-1], num_codes)
        return decoder(params.decoder, params.codebook[codes])

    def log_prior(params: QuantisedParams) -> Array:
        counts = params.frequencies.astype(checks.summed_as(params.frequencies.dtype))
        shares = counts / counts.sum(-1, keepdims=True)
        return jnp.log((1 - _UNIFORM) * shares + _UNIFORM / num_codes)

    def objective(
        keys: Keys, params: QuantisedParams, x: Array
    ) -> tuple[Array, Metrics, dict[str, Any]]:
        del keys  # nothing is drawn
        vectors = vectors_of(params.encoder, x)
        codes = nearest(vectors, params.codebook)
        entries = params.codebook[codes]
        # The difference is exactly zero, so that the decoder sees the entries themselves.
        through = _fixed(entries) + (vectors - _fixed(vectors))
        reconstruction = -likelihood.log_prob(decoder(params.decoder, through), x)
        loss = reconstruction + commitment * _distance(vectors, _fixed(entries))
        if by_gradient:
            loss += _distance(_fixed(vectors), entries)
        log_p = jnp.take_along_axis(log_prior(params)[None], codes[..., None], -1)
        aux = {
            "reconstruction": reconstruction,
            "kl": -log_p.reshape(len(x), -1).sum(1),
            "distance": _distance(vectors, entries),
        }
        return loss, _fixed(aux), _fixed({"codes": codes, "vectors": vectors})

    def remember(key: Key, params: QuantisedParams, notes: Mapping[str, Array]) -> dict[str, Array]:
        codes, vectors = notes["codes"], notes["vectors"]
        new = (1 - decay) * code_frequencies(codes, num_codes=num_codes)
        counts = decay * params.counts + new.reshape(-1, num_codes).sum(0)
        values = {"frequencies": decay * params.frequencies + new, "counts": counts}
        if not by_gradient:
            own = rng.stream(key, "restart")
            values |= _averaged(own, params, codes, vectors, counts, decay, restart)
        return {name: new.astype(getattr(params, name).dtype) for name, new in values.items()}

    def sample(keys: Keys, params: QuantisedParams) -> Array:
        checks.keys(keys)
        log_p = log_prior(params)
        codes = jax.vmap(lambda key: jax.random.categorical(key, log_p))(keys)
        return likelihood.mean(decode(params, codes))

    return Quantised(
        Init(init, check),
        encode,
        decode,
        objective,
        remember,
        ("encoder", "decoder", "codebook") if by_gradient else ("encoder", "decoder"),
        sample,
        log_prior,
        likelihood,
    )


def _check_averages(decay: float, restart: float, by_gradient: bool) -> None:
    for name, value in (("decay", decay), ("restart", restart)):
        if not (checks.is_finite_number(value) and 0 <= value < 1):
            raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")
    if by_gradient and restart:
        raise ValueError(
            f"restart must be 0 with by_gradient=True, as remember cannot move the codebook of a "
            f"player, got {restart!r}"
        )


def _vectors(output: Array, x: Array) -> Array:
    """Returns the encoder's output in float32 at least; refuses anything but vectors."""
    if output.ndim < 2 or len(output) != len(x):
        raise ValueError(
            f"the encoder must return vectors [B, ..., D] of {len(x)} images, "
            f"got {list(output.shape)}"
        )
    return output.astype(checks.summed_as(output.dtype))


def _averaged(
    key: Key,
    params: QuantisedParams,
    codes: Array,
    vectors: Array,
    counts: Array,
    decay: float,
    restart: float,
) -> dict[str, Array]:
    """Returns the codebook and its counts after a step.

    Args:
      key: key of the restarts.
      params: the parameters before.
      codes: codes of the batch, [B, ...].
      vectors: its vectors, [B, ..., D].
      counts: moving average of the counts after the step, [K].
      decay: share that the averages keep.
      restart: share of the mean count below which an entry begins anew.
    """
    rows = vectors.reshape(-1, vectors.shape[-1])
    hot = jax.nn.one_hot(codes.reshape(-1), len(counts), dtype=rows.dtype)
    new = jnp.matmul(hot.T, rows, precision=_EXACT) * (1 - decay) / len(codes)
    totals = decay * params.counts[:, None] * params.codebook + new
    # Of an entry that is never used, both averages fall until they are zero, their quotient not.
    used = counts[:, None] > jnp.finfo(counts.dtype).tiny
    codebook = jnp.where(used, totals / jnp.where(used, counts[:, None], 1), params.codebook)
    if restart:
        dead = counts < restart * counts.mean()
        index = jax.random.randint(key, (len(counts),), 0, len(rows))
        codebook = jnp.where(dead[:, None], rows[index], codebook)
        counts = jnp.where(dead, counts.mean(), counts)
    return {"codebook": codebook, "counts": counts}


def nearest(vectors: Array, codebook: Array) -> Array:
    """Returns the number of the nearest entry of each vector, the least of several.

    Args:
      vectors: vectors [..., D].
      codebook: entries [K, D].

    Returns:
      int32 [...].

    Raises:
      ValueError: if the vectors are not as wide as the entries.

    References:
      van den Oord et al., Neural Discrete Representation Learning, 2017 (arXiv:1711.00937),
      equation 1.
    """
    if codebook.ndim != 2 or vectors.shape[-1:] != codebook.shape[1:]:
        raise ValueError(
            f"vectors [..., D] and codebook [K, D] must have one D, got {list(vectors.shape)} and "
            f"{list(codebook.shape)}"
        )
    # |h - e|^2 = |h|^2 - 2 h . e + |e|^2; about the centre, less of the digits cancel.
    centre = codebook.mean(0, keepdims=True)
    rows = vectors.reshape(-1, codebook.shape[1]) - centre
    entries = codebook - centre
    products = jnp.matmul(rows, entries.T, precision=_EXACT)
    squares = jnp.square(entries).sum(1)[None] - 2 * products
    return squares.argmin(1).astype(jnp.int32).reshape(vectors.shape[:-1])


def code_frequencies(codes: Array, *, num_codes: int) -> Array:
    """Returns how frequent each code is at each place of a grid.

    Args:
      codes: codes of N images, whole numbers [N, ...].
      num_codes: number of codes K.

    Returns:
      [..., K], whose sum over the codes is 1.

    Raises:
      ValueError: if codes are out of range. Traced codes are not checked.
    """
    if not isinstance(codes, jax.core.Tracer):
        checks.values_within("codes", codes, (0, num_codes - 1), "num_codes", hint=False)
    flat = codes.reshape(len(codes), -1)
    counts = jnp.zeros((flat.shape[1], num_codes))
    counts = counts.at[jnp.arange(flat.shape[1])[None], flat].add(1.0)
    return (counts / len(codes)).reshape(*codes.shape[1:], num_codes)


def perplexity(frequencies: Array) -> Array:
    """Returns the perplexity of codes: the number of equally frequent ones of this entropy.

        exp(-sum_k p_k log p_k),    p the mean of the frequencies over all places

    It is K if all codes are equally frequent, and 1 if all vectors have one code.

    Args:
      frequencies: frequencies of the codes at each place, [..., K], as of `code_frequencies`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import vae
      >>> codes = jnp.array([[0, 1], [1, 0]])  # of two images, at two places
      >>> round(float(vae.perplexity(vae.code_frequencies(codes, num_codes=5))), 4)
      2.0
    """
    p = frequencies.reshape(-1, frequencies.shape[-1]).mean(0)
    return jnp.exp(-jax.scipy.special.xlogy(p, p).sum())


def _fixed(tree: Any) -> Any:
    return jax.lax.stop_gradient(tree)


def _distance(a: Array, b: Array) -> Array:
    """Returns the sum of squares of the differences, [B, ...] -> [B]."""
    return jnp.square(a - b).reshape(len(a), -1).sum(1)


def _different(key: Key, size: int, num: int) -> Array:
    """Draws indices in [0, size), different ones if there are enough, [num]."""
    return jax.random.choice(key, size, (num,), replace=size < num)
