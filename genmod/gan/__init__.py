"""Generative adversarial networks (GANs), their losses and penalties.

A model (`Gan`), a loss (`AdversarialLoss`) and a penalty (`Penalty`) are all pure functions.
"""

from genmod.gan.losses import (
    LOSSES,
    AdversarialLoss,
    hinge,
    least_squares,
    minimax,
    nonsaturating,
    relativistic,
    relativistic_average,
    wasserstein,
)
from genmod.gan.model import Gan, GanParams, make, normal_latent, packed, uniform_latent
from genmod.gan.penalties import (
    Penalty,
    dragan,
    gradient_penalty,
    r1,
    r2,
    weight_clipping,
    weighted,
)

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "Gan",
    "GanParams",
    "Penalty",
    "dragan",
    "gradient_penalty",
    "hinge",
    "least_squares",
    "make",
    "minimax",
    "nonsaturating",
    "normal_latent",
    "packed",
    "r1",
    "r2",
    "relativistic",
    "relativistic_average",
    "uniform_latent",
    "wasserstein",
    "weight_clipping",
    "weighted",
]
