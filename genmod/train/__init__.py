"""Training: learners, and the loop that runs them."""

from genmod.train.learner import Learner, TrainState, learner
from genmod.train.loop import Carry, NonFiniteError, Point, run, shapes, start

__all__ = [
    "Carry",
    "Learner",
    "NonFiniteError",
    "Point",
    "TrainState",
    "learner",
    "run",
    "shapes",
    "start",
]
