"""Figures of training, samples and latent spaces.

A function that draws takes arrays and returns a matplotlib Figure (`picture` a Pillow image). It
shows nothing on the screen.
"""

from genmod.report.autoencoders import autoencoder_figures
from genmod.report.curves import compared, curves, game, is_game
from genmod.report.errorbars import Panel, error_bars
from genmod.report.grids import (
    class_columns,
    column_title,
    comparison,
    generator_figures,
    image_grid,
    picture,
    save_grid,
)
from genmod.report.latents import (
    LatentAxes,
    class_names,
    latent_axes,
    latent_plane,
    manifold_points,
)
from genmod.report.paths import prior_figures
from genmod.report.planes import plane, planes

__all__ = [
    "LatentAxes",
    "Panel",
    "autoencoder_figures",
    "class_columns",
    "class_names",
    "column_title",
    "compared",
    "comparison",
    "curves",
    "error_bars",
    "game",
    "generator_figures",
    "image_grid",
    "is_game",
    "latent_axes",
    "latent_plane",
    "manifold_points",
    "picture",
    "plane",
    "planes",
    "prior_figures",
    "save_grid",
]
