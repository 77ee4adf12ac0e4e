"""Self-attention of the pixels of an image."""

import jax
from flax import linen

from genmod.nets.initial import glorot_uniform
from genmod.nets.mlp import WeightInit
from genmod.types import Array


class SelfAttention(linen.Module):
    """Attention of each pixel of images [B, H, W, C] to all others.

        y_i = x_i + gamma * O sum_j softmax_j(q_i . k_j) v_j
        q = Q x,    k = pool(K x),    v = pool(V x)

    The maximum over blocks of 2 x 2 pixels (pool) leaves a quarter of the keys and values. q and k
    have C / 8 channels, v has C / 2. gamma is learned and starts at 0, so that the layer begins as
    the identity. Parameters are "query", "key", "value" and "output" with a "kernel" each, and
    "gamma".

    Attributes:
      kernel_init: initializer of the kernels.

    References:
      Zhang et al., Self-Attention Generative Adversarial Networks, 2019 (arXiv:1805.08318),
      equations 1 to 3; the pool is of Brock et al. 2019 (arXiv:1809.11096), as in their code.
    """

    kernel_init: WeightInit = glorot_uniform

    @linen.compact
    def __call__(self, x: Array) -> Array:
        """Returns images of the same shape.

        Raises:
          ValueError: if x are not images [B, H, W, C] with even H and W and a C divisible by 8.
        """
        if x.ndim != 4 or x.shape[1] % 2 or x.shape[2] % 2 or x.shape[3] % 8:
            raise ValueError(
                "self-attention needs images [B, H, W, C] of an even height and width and a number "
                f"of channels divisible by 8, got shape {x.shape}"
            )
        batch, height, width, channels = x.shape

        def linear(name: str, size: int, of: Array) -> Array:
            return linen.Dense(size, use_bias=False, kernel_init=self.kernel_init, name=name)(of)

        def pooled(h: Array) -> Array:
            blocks = h.reshape(batch, height // 2, 2, width // 2, 2, h.shape[-1])
            return blocks.max((2, 4)).reshape(batch, height * width // 4, h.shape[-1])

        query = linear("query", channels // 8, x).reshape(batch, height * width, channels // 8)
        key = pooled(linear("key", channels // 8, x))
        value = pooled(linear("value", channels // 2, x))
        weights = jax.nn.softmax(query @ key.mT, axis=-1)
        found = linear("output", channels, weights @ value).reshape(x.shape)
        gamma = self.param("gamma", linen.initializers.zeros, ())
        return x + gamma * found
