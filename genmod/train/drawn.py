"""Parameters that samples and tests see."""

from typing import Any

from genmod.train.game import GameState, with_fields
from genmod.train.players import AdversarialState


def drawn_from(state: Any) -> Any:
    """Returns the parameters from which samples are drawn.

    Parameters of which the state keeps a moving average (EMA) are replaced by it: all of a
    `TrainState`, some fields of a `GameState`, the generator's of an `AdversarialState`.

    Args:
      state: state of a learner, or any object with `params`.
    """
    if isinstance(state, GameState):
        return with_fields(state.params, state.ema)
    ema = getattr(state, "ema", ())
    if isinstance(ema, tuple) and not ema:
        return state.params
    return state.params._replace(generator=ema) if isinstance(state, AdversarialState) else ema
