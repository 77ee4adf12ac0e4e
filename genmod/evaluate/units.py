"""Units in which likelihoods are published."""

import math
from collections.abc import Sequence

import numpy as np

from genmod import checks
from genmod.types import Array

Numbers = float | np.ndarray | Array
"""One number, or an array of any shape."""


def bits_per_dim(nats: Numbers, shape: int | Sequence[int], *, bin_width: float = 1.0) -> Numbers:
    """Returns negative log-likelihoods in bits per dimension.

        bits per dimension = nats / (D log 2) - log2(bin_width)

    D is the number of dimensions of an example. The likelihood of whole numbers, such as a
    discretised logistic of the values 0 to 255, is a probability, and keeps `bin_width=1`. A
    density of dequantised data depends on the scale of the data. Its integral over the bin of a
    value, an interval of length `bin_width` in each dimension, is the probability of the value. On
    average over the noise within the bins, minus the log density gives an upper bound of the bits
    per dimension of the bytes. For `data.dequantized`, which puts the values of uint8 in [0, 1),
    `bin_width=1 / 256` adds 8 bits; on [-1, 1) it is 2 / 256.

    Args:
      nats: negative log-likelihoods -log p(x), or their mean, in nats per example.
      shape: shape of an example without the batch axis, such as (28, 28, 1), or the number D.
      bin_width: length of the interval that holds one value's noise, in units of the data of a
        density; 1 for probabilities.

    Returns:
      As many numbers. For the difference of two, or a standard error, which have no constant term,
      use `bin_width=1`.

    Raises:
      ValueError: if a size is not a positive whole number, or bin_width is not positive.

    References:
      Theis et al., A note on the evaluation of generative models, 2016 (arXiv:1511.01844), section
      3.1.

    Examples:
      >>> import math
      >>> from genmod import evaluate
      >>> evaluate.bits_per_dim(784 * math.log(256), (28, 28, 1))  # one of 256 values, uniformly
      8.0
      >>> evaluate.bits_per_dim(0.0, (28, 28, 1), bin_width=1 / 256)  # uniform density on [0, 1)
      8.0
    """
    sizes = shape if isinstance(shape, Sequence) else (shape,)
    num_dims = math.prod(checks.positive_integer("shape", size) for size in sizes)
    checks.positive("bin_width", bin_width)
    return nats / (num_dims * math.log(2)) - math.log2(bin_width)
