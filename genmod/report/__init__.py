"""Figures: each function takes arrays and returns a matplotlib Figure; nothing is shown."""

from genmod.report.autoencoders import autoencoder_figures
from genmod.report.curves import curves
from genmod.report.grids import comparison, image_grid
from genmod.report.latents import latent_plane, manifold_points

__all__ = [
    "autoencoder_figures",
    "comparison",
    "curves",
    "image_grid",
    "latent_plane",
    "manifold_points",
]
