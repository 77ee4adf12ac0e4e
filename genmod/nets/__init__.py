"""Network makers. This is the only room that imports flax."""

from genmod.nets.convert import from_linen, from_nnx
from genmod.nets.mlp import mlp
from genmod.types import Net

__all__ = ["Net", "from_linen", "from_nnx", "mlp"]
