"""Functions that make networks (`Net`).

This is the only package of genmod that imports flax.
"""

from genmod.nets.attention import SelfAttention
from genmod.nets.biggan import biggan_discriminator, biggan_generator
from genmod.nets.conditions import conditional, per_class
from genmod.nets.convert import from_linen, from_nnx
from genmod.nets.convolution import (
    conv,
    conv_averaged,
    conv_enlarged,
    conv_grouped,
    conv_transpose,
)
from genmod.nets.dcgan import dcgan_discriminator, dcgan_generator
from genmod.nets.fourier import fourier_features
from genmod.nets.gated import gated
from genmod.nets.heads import class_vectors, heads, projected, projection
from genmod.nets.initial import Initializer, glorot_uniform, he_normal, normal, orthogonal
from genmod.nets.masked import masked_mlp
from genmod.nets.mlp import maxout, mlp, mlp_chain
from genmod.nets.normalization import BatchNorm, ConditionalBatchNorm
from genmod.nets.r3gan import r3gan_discriminator, r3gan_generator
from genmod.nets.resampling import enlarged, reduced
from genmod.nets.residual import residual_decoder, residual_encoder, residual_stage
from genmod.nets.sngan import sngan_discriminator, sngan_generator
from genmod.nets.spectral import (
    SpectralParams,
    orthogonal_penalty,
    power_iteration,
    spectral,
    weight_standardized,
)
from genmod.nets.wrapping import half_precision, with_scale, wrapped
from genmod.types import Net

__all__ = [
    "BatchNorm",
    "ConditionalBatchNorm",
    "Initializer",
    "Net",
    "SelfAttention",
    "SpectralParams",
    "biggan_discriminator",
    "biggan_generator",
    "class_vectors",
    "conditional",
    "conv",
    "conv_averaged",
    "conv_enlarged",
    "conv_grouped",
    "conv_transpose",
    "dcgan_discriminator",
    "dcgan_generator",
    "enlarged",
    "fourier_features",
    "from_linen",
    "from_nnx",
    "gated",
    "glorot_uniform",
    "half_precision",
    "he_normal",
    "heads",
    "masked_mlp",
    "maxout",
    "mlp",
    "mlp_chain",
    "normal",
    "orthogonal",
    "orthogonal_penalty",
    "per_class",
    "power_iteration",
    "projected",
    "projection",
    "r3gan_discriminator",
    "r3gan_generator",
    "reduced",
    "residual_decoder",
    "residual_encoder",
    "residual_stage",
    "sngan_discriminator",
    "sngan_generator",
    "spectral",
    "weight_standardized",
    "with_scale",
    "wrapped",
]
