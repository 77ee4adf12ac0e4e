"""Functions that make networks (`Net`).

This is the only package of genmod that imports flax.
"""

from genmod.nets.conditions import conditional, per_class
from genmod.nets.convert import from_linen, from_nnx
from genmod.nets.convolution import conv, conv_transpose
from genmod.nets.dcgan import dcgan_discriminator, dcgan_generator
from genmod.nets.fourier import fourier_features
from genmod.nets.initial import Initializer, glorot_uniform, he_normal, normal
from genmod.nets.mlp import maxout, mlp
from genmod.nets.normalization import BatchNorm
from genmod.nets.wrapping import with_scale, wrapped
from genmod.types import Net

__all__ = [
    "BatchNorm",
    "Initializer",
    "Net",
    "conditional",
    "conv",
    "conv_transpose",
    "dcgan_discriminator",
    "dcgan_generator",
    "fourier_features",
    "from_linen",
    "from_nnx",
    "glorot_uniform",
    "he_normal",
    "maxout",
    "mlp",
    "normal",
    "per_class",
    "with_scale",
    "wrapped",
]
