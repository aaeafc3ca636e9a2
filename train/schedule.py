"""The learning rate of every step.

Cosine to zero in steps of one epoch, with a linear warm-up in steps of one iteration; a training in rounds has all that
in each of them.  Promises a pure function of the step, so that resuming needs no state; setting the rate is left to
:mod:`train.loop`, beginning a round to :mod:`train.rounds`.
"""

import math
from dataclasses import dataclass

_REFERENCE_LR = 0.2
REFERENCE_BATCH = 40  # labeled clips per step: 5 on each of 8 GPUs
_WARMUP_START = 0.1  # of the epoch's rate


def scaled_lr(global_batch_labeled: int, reference_batch: int = REFERENCE_BATCH) -> float:
    """Peak learning rate for a batch size, linearly: 0.2 for the batch of the reference.

    The reference states 0.2 for 8 GPUs with 5 labeled clips each (8 for Kinetics), and no rule for anything else; this
    one is ours.

    Args:
        global_batch_labeled: labeled clips per step over all GPUs.
        reference_batch: labeled clips per step for which the rate is 0.2.
    """
    return _REFERENCE_LR * global_batch_labeled / reference_batch


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The length of a training in steps, and the learning rate of each.

    Attributes:
        lr: peak learning rate.
        epochs: E; the rate reaches zero where epoch E would begin.
        warmup_epochs: W, over which the rate rises from a tenth of the cosine to the whole of it.
        steps_per_epoch: I.
        rounds: R, no more than epochs.  Rounds are as long as one another, as far as whole epochs allow, and each has
            its share of the warm-up.
    """

    lr: float
    epochs: int
    warmup_epochs: int
    steps_per_epoch: int
    rounds: int = 1

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """Epochs begun before the one this 0-based step belongs to."""
        return step // self.steps_per_epoch

    def round(self, step: int) -> int:
        """Rounds begun before the one this 0-based step belongs to: the last r whose first epoch, ⌊r E/R⌋, has come."""
        return ((self.epoch(step) + 1) * self.rounds - 1) // self.epochs

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: lr/2 · (1 + cos(π e/E)) · (0.1 + 0.9 · step/(W·I) while step < W·I, else 1).

        In a training of several rounds step, e, E and W are those of the step's round.

        Args:
            step: 0-based.
        """
        first, end = (number * self.epochs // self.rounds for number in (self.round(step), self.round(step) + 1))
        step, epochs = step - first * self.steps_per_epoch, end - first
        cosine = 0.5 * self.lr * (1 + math.cos(math.pi * self.epoch(step) / epochs))
        warmup_steps = self.warmup_epochs * epochs * self.steps_per_epoch / self.epochs
        if step >= warmup_steps:
            return cosine
        return cosine * (_WARMUP_START + (1 - _WARMUP_START) * step / warmup_steps)
