"""Training: learners, and the loop that runs them."""

from genmod.train.adversarial import AdversarialState, Optimizers, adversarial
from genmod.train.learner import Learner, TrainState, learner
from genmod.train.loop import Carry, NonFiniteError, Point, run, shapes, start

__all__ = [
    "AdversarialState",
    "Carry",
    "Learner",
    "NonFiniteError",
    "Optimizers",
    "Point",
    "TrainState",
    "adversarial",
    "learner",
    "run",
    "shapes",
    "start",
]
