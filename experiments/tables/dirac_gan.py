"""Eigenvalues of the Dirac-GAN for each loss and penalty, and a figure of its fields.

    python experiments/tables/dirac_gan.py --out dirac_gan.png

The Dirac-GAN (Mescheder et al. 2018) is the smallest GAN that can fail: the data are one point at
0, the generator is one number theta, and the discriminator D(x) = psi x is another. Both players
follow the negative gradients of their own losses, a vector field on the plane of (theta, psi) with
its equilibrium at (0, 0). The eigenvalues of the field's derivative at the equilibrium say whether
training converges: it does if their real parts are negative, and circles for ever if they are 0.

The losses and penalties are those of `genmod.gan`, and the derivatives are JAX's. Beside them stand
the closed forms of the paper: +-i/2 for the losses of minimax, non-saturating and relativistic
GANs, +-i for that of Wasserstein, and with R1 of weight gamma/2

    -gamma/2 +- sqrt(gamma^2/4 - s^2)

where s is the imaginary part without a penalty. It takes five seconds.

References:
  Mescheder et al., Which Training Methods for GANs do actually Converge?, 2018 (arXiv:1801.04406),
  sections 2 to 4.
"""

import cmath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from genmod import checks, gan, rng
from genmod.types import Array

STRENGTHS = {
    "minimax": 0.5,
    "nonsaturating": 0.5,
    "wasserstein": 1.0,
    "hinge": 1.0,
    "relativistic": 0.5,
    "relativistic_average": 1.0,
}
"""Imaginary part s of the eigenvalues without a penalty.

Least squares has no entry: its discriminator is to be 1 or 0, and that of the Dirac-GAN is 0 at the
data whatever its parameter is. The field's derivative does not turn.
"""


@dataclass(frozen=True)
class Options:
    """Options of the table."""

    gamma: checks.Weight = 1.0
    """Weight of R1 and R2, which are added as gamma/2 times the squared norm of the gradient."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PNG")] = None
    """Figure of the fields with paths of training."""

    def __post_init__(self):
        checks.fields(self)


def field(loss: gan.AdversarialLoss, penalty: Any = None) -> Callable[[Array], Array]:
    """Returns the field `(theta, psi) [2] -> [2]` that simultaneous training follows."""
    keys = rng.per_example(rng.root(0), 1)
    real = jnp.zeros((1, 1))

    def discriminator_loss(psi: Array, theta: Array) -> Array:
        def critic(x: Array) -> Array:
            return psi * x[:, 0]

        fake = jnp.reshape(theta, (1, 1))
        value = loss.discriminator(critic(real), critic(fake))
        if penalty is not None:
            value = value + penalty(keys, critic, real, fake)
        return value[0]

    def generator_loss(theta: Array, psi: Array) -> Array:
        return loss.generator(psi * real[:, 0], psi * jnp.reshape(theta, (1,)))[0]

    def of(point: Array) -> Array:
        theta, psi = point
        return -jnp.stack(
            [jax.grad(generator_loss)(theta, psi), jax.grad(discriminator_loss)(psi, theta)]
        )

    return of


def eigenvalues(loss: gan.AdversarialLoss, penalty: Any = None) -> np.ndarray:
    """Returns the eigenvalues of the field's derivative at the equilibrium, complex [2]."""
    found = np.linalg.eigvals(np.asarray(jax.jit(jax.jacfwd(field(loss, penalty)))(jnp.zeros(2))))
    return np.sort_complex(found)


def closed_form(strength: float, gamma: float = 0.0) -> np.ndarray:
    """Returns the eigenvalues of the paper, with R1 or R2 of weight gamma/2, complex [2]."""
    root = cmath.sqrt(gamma**2 / 4 - strength**2)
    return np.sort_complex(np.array([-gamma / 2 - root, -gamma / 2 + root]))


def _figure(cases: dict[str, Callable[[Array], Array]]) -> Figure:
    """Draws the fields, each with a path of many small steps from (1, 0)."""
    figure = Figure(figsize=(3 * len(cases), 3.2), layout="constrained")
    axis = jnp.linspace(-1.5, 1.5, 13)
    points = jnp.stack(jnp.meshgrid(axis, axis), axis=-1)
    grid = np.moveaxis(np.asarray(points), -1, 0)
    for axes, (title, of) in zip(figure.subplots(1, len(cases)), cases.items(), strict=True):
        arrows = np.moveaxis(np.asarray(jax.vmap(jax.vmap(of))(points)), -1, 0)
        axes.quiver(*grid, *arrows, color="0.6")
        path = _path(of)
        axes.plot(*path.T, linewidth=1.2)
        axes.plot(0, 0, "k+")
        axes.set(title=title, xlabel="generator", ylabel="discriminator", aspect="equal")
    return figure


def _path(of: Callable[[Array], Array], step: float = 0.02, num: int = 1500) -> np.ndarray:
    def go(point: Array, _: Any) -> tuple[Array, Array]:
        # Runge and Kutta's midpoint rule: plain steps would spiral outwards by themselves.
        return point + step * of(point + step / 2 * of(point)), point

    return np.asarray(jax.lax.scan(go, jnp.array([1.0, 0.0]), None, num)[1])


def _ending(found: np.ndarray) -> str:
    """Returns what the eigenvalues say about training."""
    if found.real.max() < -1e-6:
        return "converges"
    return "circles" if abs(found.imag).max() > 1e-6 else "not decided by the derivative"


def _spelt(values: np.ndarray) -> str:
    if abs(values[0] + values[1] - 2 * values[0].real) < 1e-6 and abs(values[0].imag) > 1e-6:
        real = f"{values[0].real:.3f} " if abs(values[0].real) > 1e-6 else ""
        return f"{real}+- {abs(values[0].imag):.3f} i"
    return ", ".join(f"{value.real + 0.0:.3f}" for value in values)


def main(options: Options) -> None:
    """Prints the table and draws the figure."""
    gamma = options.gamma
    penalties = {"none": None, "R1": 0.5 * gamma * gan.r1, "R2": 0.5 * gamma * gan.r2}
    table = Table("loss", "penalty", "eigenvalues", "closed form", "training", box=None)
    for name, loss in gan.LOSSES.items():
        for label, penalty in penalties.items():
            found = eigenvalues(loss, penalty)
            exact = "-"
            if name in STRENGTHS:
                exact = _spelt(closed_form(STRENGTHS[name], 0.0 if penalty is None else gamma))
            table.add_row(name, label, _spelt(found), exact, _ending(found))
    Console(width=110).print(table)
    if options.out is not None:
        cases = {
            "non-saturating": field(gan.nonsaturating),
            "Wasserstein": field(gan.wasserstein),
            "non-saturating + R1": field(gan.nonsaturating, penalties["R1"]),
            "relativistic + R1 + R2": field(gan.relativistic, penalties["R1"] + penalties["R2"]),
        }
        _figure(cases).savefig(options.out, dpi=110)
        print(options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
