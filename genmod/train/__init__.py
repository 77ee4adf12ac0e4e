"""Training: learners, and the loop that runs them."""

from genmod.train.adversarial import AdversarialState, Optimizers, adversarial
from genmod.train.learner import Inspection, Learner, TrainState, learner
from genmod.train.loop import (
    Carry,
    NonFiniteError,
    Point,
    Step,
    advance,
    drain,
    fit,
    next_step,
    run,
    shapes,
    start,
)
from genmod.train.parallel import over_devices
from genmod.train.seeds import combinations, over_grid, over_seeds, pick

__all__ = [
    "AdversarialState",
    "Carry",
    "Inspection",
    "Learner",
    "NonFiniteError",
    "Optimizers",
    "Point",
    "Step",
    "TrainState",
    "advance",
    "adversarial",
    "combinations",
    "drain",
    "fit",
    "learner",
    "next_step",
    "over_devices",
    "over_grid",
    "over_seeds",
    "pick",
    "run",
    "shapes",
    "start",
]
