"""Between two rounds of a method: the unlabeled videos are judged, and the next round begins with new weights.

Promises that all ranks begin a round alike, and to the bit as if nothing had happened if its beginning was cut off:
nothing changes before all videos are judged, and what is drawn follows from the run's seed, the round and the rank.
When a round begins is left to :mod:`train.schedule`, what the method makes of it to the method.
"""

from collections.abc import Callable

from train.checkpoint import TrainState
from train.display import Display
from train.schedule import Schedule
from train.seeds import drawing_apart, seed_of
from train.step import reset_momentum
from train.validation import Judged


def begin_round(state: TrainState, schedule: Schedule, judge: Callable[[], Judged], display: Display) -> None:
    """Have the method judge the unlabeled videos and begin its next round, without momentum.

    Args:
        state: before the round's first step; changed in place.
        schedule: which round that is.
        judge: shows the videos to the method, of each rank its share.
        display: says what came of it.

    Raises:
        Stopped: a signal came.
        TooManyBadVideos: more of the unlabeled videos are bad than may.
    """
    seed, number, method = state.config.run.seed, state.round + 1, state.method
    assert number == schedule.round(state.step), f"round {number} is not that of step {state.step}"
    device = next(method.parameters()).device
    name = f"round {number + 1} of {schedule.rounds}"
    display.note(f"{name}: judging the unlabeled videos")
    with drawing_apart(device, seed_of(seed, "judge", number, state.ranks.rank)):
        judged = judge()
    new_weights = seed_of(seed, "round", number)
    with drawing_apart(device, new_weights):
        outcome = method.begin_round(judged.rows, judged.judgments, new_weights)
    reset_momentum(state.optimizer)
    state.round = number
    unread = f", {judged.num_unread} could not be read" if judged.num_unread else ""
    display.note(f"{name}: {len(judged.rows)} unlabeled videos judged{unread}; {outcome}")
