"""Mean Teacher (Tarvainen and Valpola, 2017): a network should agree with the average of its own past weights.

A student learns the labels.  Of every clip's video, labeled or not, the teacher sees another clip, and the student's
probabilities are drawn to the teacher's.  The teacher's weights are a moving average of the student's; it is what is
evaluated.  Checked against the authors' code (CuriousAI/mean-teacher).

The constants are those of its TensorFlow part: the ramp-up takes 40000 of 150000 steps, which are 48 of 180 epochs, and
for SVHN the average forgets faster in it; for CIFAR-10 it does not.  Its consistency weights, 1 for SVHN with one
labeled row in a hundred and 100 times the share of labeled rows for CIFAR-10, go with a cross-entropy divided by all
rows.  Here that is the mean over the labeled rows, so that it weighs the same in all methods, and both are a weight of
100.  The PyTorch part has 100 with 31 labeled rows of 128, here 413, after a ramp-up of 5 epochs.  All this is for ten
classes: the difference is a mean over classes, and with more of them the same weight draws less.

As in its PyTorch part the teacher first is the mean of all weights so far, and its BatchNorm keeps running averages of
its own, over the batches that it sees itself with dropout on: only parameters follow the student's.  The ramp rises by
a step each epoch there too.  What differs: the teacher begins as a copy of the student, and the two views of a video
are clips of different times, where an image has been cropped and flipped twice.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from train.losses import softmax_mse
from train.methods.base import Method, check_epochs, check_probability, eager_range, ramp, started


@dataclass(frozen=True)
class Config:
    """Constants of Mean Teacher."""

    consistency_weight: float = 100.0
    """Weight, once it has risen, of the squared difference between the probabilities of student and teacher."""
    rampup_epochs: int = 48
    """Epochs over which that weight rises, from 0.7 % at first; 0 has it full at once. A quarter of all are usual."""
    rampup_decay: float = 0.99
    """What the teacher keeps of its weights in a step while the weight rises, 0 to 1."""
    decay: float = 0.999
    """What it keeps of them afterwards, 0 to 1."""

    def __post_init__(self) -> None:
        check_epochs("rampup_epochs", self.rampup_epochs)
        check_probability("rampup_decay", self.rampup_decay)
        check_probability("decay", self.decay)


class MeanTeacher(Method):
    """Two RGB networks, of which the teacher is the recognizer.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the networks' stems.
        dropout: before the classifiers of both.
    """

    needs = Needs(unlabeled=True, second=True)
    config_type: ClassVar = Config
    num_steps: Tensor
    decay: Tensor

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = config
        self.student = R3D18(num_classes, width, dropout)
        self.teacher = R3D18(num_classes, width, dropout).requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        # Of the current epoch: forward() is told it, stepped() needs it.
        self.register_buffer("decay", torch.zeros(()), persistent=False)

    @property
    def recognizer(self) -> R3D18:
        """The teacher."""
        return self.teacher

    @classmethod
    def smallest_batch(cls, config: Config, batch_labeled: int, batch_unlabeled: int) -> int:
        """Clips of all videos, for student and teacher alike."""
        return batch_labeled + batch_unlabeled

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss" and its terms "supervised" and "consistency" (with its ramp)."""
        assert batch.weak is not None
        assert batch.labeled_second is not None
        assert batch.second is not None
        config = self.config
        with eager_range("forward rgb"):
            student, _ = self.student(normalize(torch.cat([batch.labeled.rgb, batch.weak.rgb])))
            with torch.no_grad():
                teacher, _ = self.teacher(normalize(torch.cat([batch.labeled_second.rgb, batch.second.rgb])))

        with eager_range("losses"):
            supervised = F.cross_entropy(student[: len(batch.labels)].float(), batch.labels)
            rising = torch.exp(-5 * (1 - ramp(progress, 0, config.rampup_epochs)).square())
            consistency = rising * softmax_mse(student, teacher)
            ramp_over = started(progress, config.rampup_epochs)
            self.decay.copy_(config.rampup_decay + ramp_over * (config.decay - config.rampup_decay))
            return {
                "loss": supervised + config.consistency_weight * consistency,
                "supervised": supervised,
                "consistency": consistency,
            }

    @torch.no_grad()
    def stepped(self) -> None:
        """Move the teacher: θ' = α θ' + (1 - α) θ with α = min(1 - 1 / (n + 1), decay) after the n-th step."""
        self.num_steps += 1
        share = torch.maximum(1 / (self.num_steps + 1), 1 - self.decay)
        for theirs, ours in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            theirs.lerp_(ours, share)
