"""Training: learners, and the loop that runs them."""

from genmod.train.adversarial import adversarial
from genmod.train.chunk import Carry
from genmod.train.finite import NonFiniteError
from genmod.train.game import GameState, Player, game
from genmod.train.learner import (
    Conditions,
    Inspection,
    Learner,
    NoSampler,
    TrainState,
    drawn_from,
    learner,
)
from genmod.train.loop import (
    LogPoint,
    StepTrace,
    abstract_carry,
    advance,
    fit,
    next_step,
    pop_metrics,
    run,
    start,
)
from genmod.train.objectives import Unrolled
from genmod.train.parallel import over_devices
from genmod.train.players import AdversarialState, Optimizers
from genmod.train.schedules import cosine
from genmod.train.seeds import combinations, over_grid, over_seeds, select_run

__all__ = [
    "AdversarialState",
    "Carry",
    "Conditions",
    "GameState",
    "Inspection",
    "Learner",
    "LogPoint",
    "NoSampler",
    "NonFiniteError",
    "Optimizers",
    "Player",
    "StepTrace",
    "TrainState",
    "Unrolled",
    "abstract_carry",
    "advance",
    "adversarial",
    "combinations",
    "cosine",
    "drawn_from",
    "fit",
    "game",
    "learner",
    "next_step",
    "over_devices",
    "over_grid",
    "over_seeds",
    "pop_metrics",
    "run",
    "select_run",
    "start",
]
