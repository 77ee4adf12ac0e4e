"""InfoGAN: latents with parts that can be read off an image."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genmod import checks, rng
from genmod.gan.model import LatentPrior
from genmod.gan.terms import Term, check_weight, output_of, picked
from genmod.types import Array, Key, Keys, Seen


class CodeParts(NamedTuple):
    """Parts of latents with codes.

    Attributes:
      noise: the latents that no output reads, [B, L - size].
      categorical: index of each categorical code, int32 [B, number of categorical codes].
      continuous: continuous codes, [B, number of continuous codes].
    """

    noise: Array
    categorical: Array
    continuous: Array


@dataclasses.dataclass(frozen=True)
class Codes:
    """Layout of latents that hold codes beside noise: [noise, one-hot vectors, numbers].

        codes = gan.Codes(categorical=(10,), continuous=2)
        judge = nets.heads(features, codes=nets.mlp((128,), codes.num_outputs))
        model = gan.make(generator, judge, latent_dim=62 + codes.size, latent=codes.latent)
        terms = {"information": gan.information(codes)}

    Attributes:
      categorical: number of classes of each categorical code, all of which are equally likely.
      continuous: number of continuous codes, uniform in [-1, 1).

    Raises:
      ValueError: if a number is not positive (that of continuous codes may be 0), or there are no
        codes.

    References:
      Chen et al., InfoGAN, 2016 (arXiv:1606.03657), section 7.
    """

    categorical: tuple[int, ...] = ()
    continuous: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.categorical, Sequence):
            raise ValueError(
                f"categorical must be a tuple, a number of classes for each code, got "
                f"{self.categorical!r}"
            )
        for number in self.categorical:
            checks.positive_integer("categorical", number)
        if self.continuous != 0:
            checks.positive_integer("continuous", self.continuous)
        if not self.size:
            raise ValueError(
                "codes must have at least one categorical or continuous code, got none"
            )

    @property
    def size(self) -> int:
        """Number of latent dimensions of the codes."""
        return sum(self.categorical) + self.continuous

    @property
    def num_outputs(self) -> int:
        """Number of outputs that `information` reads: logits of classes, and a mean a number."""
        return self.size

    def latent(self, latent_dim: int) -> LatentPrior:
        """Returns the distribution of latents, for `latent` of `gan.make`.

        The noise is N(0, I). The density is that of noise and continuous codes, times the
        probability of the classes.

        Args:
          latent_dim: number of all latent dimensions L, at least `size`.

        Raises:
          ValueError: if latent_dim is below `size`.
        """
        noise = latent_dim - self.size
        if noise < 0:
            raise ValueError(
                f"latent_dim must be at least {self.size}, the size of the codes, got {latent_dim}"
            )

        def draw(key: Key) -> Array:
            normal = jax.random.normal(rng.stream(key, "noise"), (noise,))
            classes = []
            for place, number in enumerate(self.categorical):
                own = rng.at_step(rng.stream(key, "categorical"), place)
                classes.append(jax.nn.one_hot(jax.random.randint(own, (), 0, number), number))
            own = rng.stream(key, "continuous")
            numbers = jax.random.uniform(own, (self.continuous,), minval=-1.0, maxval=1.0)
            return jnp.concatenate([normal, *classes, numbers])

        def log_prob(z: Array) -> Array:
            normal = self._cut(z.astype(checks.summed_as(z.dtype)))[0]
            found = -0.5 * (jnp.square(normal) + math.log(2 * math.pi)).sum(-1)
            inside = self._are_codes(z)
            share = sum(map(math.log, self.categorical)) + self.continuous * math.log(2)
            return jnp.where(inside, found - share, -jnp.inf)

        return LatentPrior(draw, log_prob)

    def split(self, z: Array) -> CodeParts:
        """Returns the parts of latents.

        Args:
          z: latents [B, L].

        Raises:
          ValueError: if they are not [B, L] with L at least `size`.
        """
        if z.ndim != 2 or z.shape[1] < self.size:
            raise ValueError(
                f"z must have the shape [B, L] with L at least {self.size}, got {list(z.shape)}"
            )
        noise, *rest = self._cut(z)
        numbers = rest.pop()
        return CodeParts(noise, _indices(rest, len(z)), numbers)

    def read(self, outputs: Array) -> CodeParts:
        """Returns the likeliest codes of images.

        Args:
          outputs: output of the discriminator that `information` trains, [B, num_outputs].

        Returns:
          The likeliest class of each categorical code and the mean of each number; no noise.

        Raises:
          ValueError: if outputs have another shape.
        """
        self._check(outputs)
        noise, *rest = self._cut(outputs)
        numbers = rest.pop()
        return CodeParts(noise, _indices(rest, len(outputs)), numbers)

    def replaced(self, z: Array, *, categorical: Any = None, continuous: Any = None) -> Array:
        """Returns latents with other codes.

        Args:
          z: latents [B, L].
          categorical: index of each categorical code, [B, number of categorical codes]; None leaves
            them as they are.
          continuous: continuous codes, [B, number of continuous codes]; None likewise.

        Raises:
          ValueError: if a part has another shape.
        """
        own = self.split(z)
        indices, numbers = own.categorical, own.continuous
        if categorical is not None:
            indices = self._classes(_shaped("categorical", categorical, indices))
        if continuous is not None:
            numbers = _shaped("continuous", continuous, numbers)
        classes = [
            jax.nn.one_hot(indices[:, place], number, dtype=z.dtype)
            for place, number in enumerate(self.categorical)
        ]
        return jnp.concatenate([own.noise, *classes, numbers.astype(z.dtype)], axis=1)

    def log_posterior(self, outputs: Array, z: Array) -> Array:
        """Returns log Q(codes of z | outputs) in nats, [B].

        Q is a categorical distribution of each class, and N(mean, 1) of each number. It is NaN of
        latents that hold no codes, such as those of another distribution than `latent`.

        Args:
          outputs: output of the discriminator, [B, num_outputs].
          z: latents [B, L].

        Raises:
          ValueError: if a shape is not as above.
        """
        self._check(outputs)
        codes = self.split(z)
        _, *logits = self._cut(outputs.astype(checks.summed_as(outputs.dtype)))
        means = logits.pop()
        total = -0.5 * (jnp.square(codes.continuous - means) + math.log(2 * math.pi)).sum(-1)
        for place, of_code in enumerate(logits):
            total -= picked(of_code, codes.categorical[:, place])
        return jnp.where(self._are_codes(z), total, jnp.nan)

    def _are_codes(self, z: Array) -> Array:
        """Returns which latents hold one-hot vectors and numbers within [-1, 1], [B]."""
        _, *rest = self._cut(z)
        inside = jnp.all(jnp.abs(rest.pop()) <= 1, axis=-1)
        for one_hot in rest:
            inside &= jnp.all((one_hot == 0) | (one_hot == 1), -1) & (one_hot.sum(-1) == 1)
        return inside

    def _cut(self, values: Array) -> list[Array]:
        """Returns [B, ...] as noise, the part of each categorical code, and the numbers."""
        first = values.shape[-1] - self.size
        ends = [first]
        for number in self.categorical:
            ends.append(ends[-1] + number)
        return jnp.split(values, ends, axis=-1)

    def _classes(self, indices: Array) -> Array:
        """Refuses indices of categorical codes that are known and out of range."""
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise ValueError(f"categorical must be whole numbers, got {indices.dtype}")
        if not isinstance(indices, jax.core.Tracer) and indices.size:
            known, most = np.asarray(indices), np.array(self.categorical)
            if (known < 0).any() or (known >= most[None]).any():
                raise ValueError(
                    f"categorical must be in [0, number of classes) of {self.categorical}, got "
                    f"values from {known.min()} to {known.max()}"
                )
        return indices

    def _check(self, outputs: Array) -> None:
        if outputs.ndim != 2 or outputs.shape[1] != self.num_outputs:
            raise ValueError(
                f"the output of the codes must have the shape [B, {self.num_outputs}], got "
                f"{list(outputs.shape)}"
            )


def information(codes: Codes, *, output: str = "codes", weight: float | Array = 1.0) -> Term:
    """Returns InfoGAN's bound of the mutual information between codes and images.

        D, G: -log Q(codes | G(z))

    Up to the entropy of the codes it is a lower bound, with the sign changed, of I(codes; G(z)).
    Q is an output of the discriminator: its features learn from it, too.

    Args:
      codes: layout of the latents.
      output: name of the discriminator's output with the parameters of Q, [B, codes.num_outputs].
      weight: weight of the term for both players, at least 0.

    Raises:
      ValueError: if weight is below 0; when called, if the discriminator has no such output.

    References:
      Chen et al., InfoGAN: Interpretable Representation Learning by Information Maximizing
      Generative Adversarial Nets, 2016 (arXiv:1606.03657), equations 4 to 6.
    """
    check_weight("weight", weight)

    def of_both(keys: Keys, seen: Seen) -> Array:
        del keys
        return -codes.log_posterior(output_of(seen.fake_outputs, output, seen), seen.latents)

    return Term(of_both, of_both, weight, weight)


def _indices(one_hots: list[Array], size: int) -> Array:
    found = [jnp.argmax(each, axis=-1) for each in one_hots]
    return jnp.stack(found, axis=1) if found else jnp.zeros((size, 0), jnp.int32)


def _shaped(name: str, values: Any, like: Array) -> Array:
    found = jnp.asarray(values)
    if found.shape != like.shape:
        raise ValueError(f"{name} must have the shape {list(like.shape)}, got {list(found.shape)}")
    return found
