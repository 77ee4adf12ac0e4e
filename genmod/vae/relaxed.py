"""VAEs with categorical latents, trained by a continuous relaxation (Gumbel-softmax).

There are N latents of K classes each. A draw z [B, N K] holds one vector of K numbers for each
latent, one after the other: one-hot, or relaxed to any point of the simplex.
"""

import math

import jax
import jax.numpy as jnp

from genmod import checks
from genmod.types import Array, Condition, Key, Keys, Net, Params
from genmod.vae.likelihoods import Likelihood, bernoulli
from genmod.vae.model import Vae, make
from genmod.vae.posteriors import Posterior
from genmod.vae.priors import Encode, Prior


def make_categorical(
    encoder: Net,
    decoder: Net,
    *,
    num_latents: int,
    num_classes: int,
    temperature: float | Array,
    hard: bool = False,
    likelihood: Likelihood = bernoulli,
    condition: Condition | None = None,
) -> Vae:
    """Makes a VAE with categorical latents and a uniform prior.

    With the probabilities p_k of a latent and noise g_k from the Gumbel distribution, a draw is

        z = softmax((log p + g) / temperature)

    or with `hard` the one-hot vector of its largest value, which is an exact draw of the class. The
    gradient by p is that of the relaxed draw in both cases (straight-through).

    What the losses of `elbo` and the bounds mean:

    - With `hard`, each is that of the model with categorical latents, an unbiased estimate of a
      bound on -log p(x). The gradient of the encoder is biased.
    - Relaxed, with the closed form of KL(q || uniform) (Jang et al.), it is a bound for no model:
      the decoder sees relaxed draws, and the divergence is that of the classes.
    - Relaxed, with `closed_form=False` (Maddison et al.), it is a bound for the model whose prior
      and latents are relaxed. The gradient is unbiased, but this is not the categorical model. A
      draw is a float32 number, which is 0 where log-odds and noise differ by more than 87 times the
      temperature: at temperatures far below .3 the densities are those of other points, and the
      loss is no bound.

    The parameters are the same in all of them. So train a relaxed model, and evaluate and draw by a
    hard one with the same networks.

    Args:
      encoder: network [B, H, W, C] -> logits [B, num_latents * num_classes], of one latent after
        the other.
      decoder: network [B, num_latents * num_classes] -> the parameters of the likelihood.
      num_latents: number of latents N.
      num_classes: number of classes K of each, at least 2.
      temperature: temperature of the relaxation, above 0. One that falls in training is a `hyper`
        of `train.learner`, whose objective makes the model: `lambda hyper: vae.elbo(model_at(
        hyper["temperature"]))`.
      hard: whether draws are one-hot.
      likelihood: p(x|z), as a function of the decoder's output.
      condition: function `batch -> (x, c)`, as for `make`.

    Returns:
      A Vae. The parameters of its posterior are a central point [B, N K], the probabilities or, if
      hard, the likeliest classes, and log p [B, N K].

    Raises:
      ValueError: if a number or the temperature is out of range; else as for `make`.

    References:
      Jang, Gu & Poole, Categorical Reparameterization with Gumbel-Softmax, 2017 (arXiv:1611.01144),
      equation 2 and section 2.2. Maddison, Mnih & Teh, The Concrete Distribution, 2017
      (arXiv:1611.00712).

    Examples:
      >>> import jax.numpy as jnp
      >>> from genmod import nets, rng, vae
      >>> model = vae.make_categorical(
      ...     nets.mlp((8,), 3 * 4), nets.mlp((8,), (6, 6, 1)),
      ...     num_latents=3, num_classes=4, temperature=0.5,
      ... )
      >>> x = jnp.zeros((2, 6, 6, 1))
      >>> params = model.init(rng.root(0), x)
      >>> z = model.sample(rng.per_example(rng.root(1), 2), *model.encode(params, x))
      >>> z.reshape(2, 3, 4).sum(-1).round(4).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    num_latents = checks.positive_integer("num_latents", num_latents)
    if checks.positive_integer("num_classes", num_classes) < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if not isinstance(temperature, jax.core.Tracer):
        checks.positive("temperature", temperature)
    latents = _Latents(num_latents, num_classes, temperature, hard)
    model = make(
        encoder,
        decoder,
        latent_dim=num_latents * num_classes,
        likelihood=likelihood,
        prior=lambda latent_dim: latents.prior(),
        posterior=lambda latent_dim: latents.posterior(),
        condition=condition,
    )
    return model._replace(prior=model.prior._replace(kl_divergence=latents.kl_divergence))


class _Latents:
    """Categorical latents: the functions of posterior and prior."""

    def __init__(self, num: int, classes: int, temperature: float | Array, hard: bool):
        self.num, self.classes = num, classes
        self.temperature, self.hard = temperature, hard

    def posterior(self) -> Posterior:
        return Posterior(self.split, self.sample, self.log_prob, latent_dim=self.num * self.classes)

    def prior(self) -> Prior:
        def init(key: Key, x: Array) -> Params:
            del key, x
            return ()

        def uniform(size: int) -> tuple[Array, Array]:
            log_p = jnp.full((size, self.num * self.classes), -math.log(self.classes))
            return jnp.exp(log_p), log_p

        def sample(keys: Keys, params: Params, posterior: Encode | None = None) -> Array:
            del params, posterior
            checks.keys(keys)
            return self.sample(keys, *uniform(len(keys)))

        def log_prob(params: Params, z: Array, posterior: Encode | None = None) -> Array:
            del params, posterior
            return self.log_prob(z, *uniform(len(z)))

        return Prior(init, sample, log_prob, latent_dim=self.num * self.classes)

    def split(self, logits: Array) -> tuple[Array, Array]:
        width = self.num * self.classes
        if logits.ndim != 2 or logits.shape[1] != width:
            raise ValueError(
                f"the encoder must return [B, num_latents * num_classes] = [B, {width}], "
                f"got {list(logits.shape)}"
            )
        log_p = jax.nn.log_softmax(self._each(logits))
        centre = self._one_hot(log_p) if self.hard else jnp.exp(log_p)
        return self._flat(centre), self._flat(log_p)

    def sample(self, keys: Keys, centre: Array, log_p: Array) -> Array:
        del centre
        checks.keys(keys, len(log_p))
        noise = jax.vmap(lambda key: jax.random.gumbel(key, log_p.shape[1:], log_p.dtype))(keys)
        relaxed = jax.nn.softmax(self._each(log_p + noise) / self.temperature)
        if self.hard:
            # The difference is exactly zero, so that the decoder sees one-hot vectors.
            relaxed = self._one_hot(relaxed) + (relaxed - jax.lax.stop_gradient(relaxed))
        return self._flat(relaxed)

    def log_prob(self, z: Array, centre: Array, log_p: Array) -> Array:
        """Returns the log density of relaxed draws, or the log probability of one-hot ones."""
        del centre
        dtype = checks.summed_as(jnp.result_type(z, log_p))
        z, log_p = self._each(z.astype(dtype)), self._each(log_p.astype(dtype))
        if self.hard:
            # Anything but one-hot vectors is impossible.
            possible = jnp.all(z == self._one_hot(z), axis=(1, 2))
            return jnp.where(possible, jnp.sum(z * log_p, axis=(1, 2)), -jnp.inf)
        t, log_z = self.temperature, jnp.log(jnp.maximum(z, jnp.finfo(dtype).tiny))
        constant = math.lgamma(self.classes) + (self.classes - 1) * jnp.log(t)
        terms = jnp.sum(log_p - (t + 1) * log_z, axis=-1)
        terms -= self.classes * jax.nn.logsumexp(log_p - t * log_z, axis=-1)
        return jnp.sum(terms + constant, axis=-1)

    def kl_divergence(self, params: Params, centre: Array, log_p: Array) -> Array:
        """Returns KL(q(z|x) || uniform) of the classes, in nats."""
        del params, centre
        log_p = log_p.astype(checks.summed_as(log_p.dtype))
        return jnp.sum(jnp.exp(log_p) * log_p, axis=1) + self.num * math.log(self.classes)

    def _one_hot(self, values: Array) -> Array:
        return jax.nn.one_hot(values.argmax(-1), self.classes, dtype=values.dtype)

    def _each(self, z: Array) -> Array:
        """Returns the latents apart, [B, N K] -> [B, N, K]."""
        return z.reshape(len(z), -1, self.classes)

    def _flat(self, z: Array) -> Array:
        return z.reshape(len(z), -1)
