"""S4L-Rotation: to tell by how much a clip is turned is learned from all clips, what it shows from the labeled ones.

After "S4L: Self-Supervised Semi-Supervised Learning" (ICCV 2019), checked against its public code, which is of images:
the heads, the loss and its weight.  Of videos, whose frames are here all turned alike, we found no public code.

Differs from the paper's code in two points, both for the cost of a step.  There each image is seen in all four turns at
once; here each clip in one, drawn at random: a quarter of the turned clips, and but for BatchNorm on average the same
loss.  And there the classifier learns the labeled images in all four turns, here upright alone, as they are evaluated.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from train.methods.base import Method, eager_range

_NUM_TURNS = 4


@dataclass(frozen=True)
class Config:
    """Constants of S4L-Rotation."""

    rotation_weight: float = 1.0
    """Weight of the cross-entropy of the turns, the mean of that on labeled and that on unlabeled clips."""


class S4L(Method):
    """One RGB network with two linear heads on its pooled features: the classifier, and one that tells the turn.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier, not before the other head.
    """

    needs = Needs(unlabeled=True, rotated=True)
    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = config
        self.rgb = R3D18(num_classes, width, dropout)
        self.rotation = nn.Linear(self.rgb.feature_dim, _NUM_TURNS)
        nn.init.normal_(self.rotation.weight, std=0.01)  # as the classifier
        nn.init.zeros_(self.rotation.bias)

    @property
    def recognizer(self) -> R3D18:
        """The RGB network, without the head for turns."""
        return self.rgb

    @classmethod
    def smallest_batch(cls, config: Config, batch_labeled: int, batch_unlabeled: int) -> int:
        """All views share a batch: the labeled clips upright, and all clips turned."""
        return 2 * batch_labeled + batch_unlabeled

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms "supervised" and "rotation", and the metric "rotation_accuracy".

        The metric is the share of turned clips, labeled or not, whose turn is told right.  The network does not see
        unlabeled clips upright but where their turn is none; the progress changes nothing.
        """
        assert batch.labeled_rotated is not None
        assert batch.rotated is not None
        assert batch.labeled_turns is not None
        assert batch.turns is not None
        rows = [len(view.rgb) for view in (batch.labeled, batch.labeled_rotated, batch.rotated)]
        with eager_range("forward rgb"):
            clips = torch.cat([batch.labeled.rgb, batch.labeled_rotated.rgb, batch.rotated.rgb])
            logits, features = self.rgb(normalize(clips))
            turned = self.rotation(features[-1].mean(dim=(2, 3, 4))[rows[0] :]).float()

        with eager_range("losses"):
            supervised = F.cross_entropy(logits[: rows[0]].float(), batch.labels)
            labeled, unlabeled = turned.split_with_sizes(rows[1:])
            rotation = (F.cross_entropy(labeled, batch.labeled_turns) + F.cross_entropy(unlabeled, batch.turns)) / 2
            right = turned.argmax(dim=1) == torch.cat([batch.labeled_turns, batch.turns])
            return {
                "loss": supervised + self.config.rotation_weight * rotation,
                "supervised": supervised,
                "rotation": rotation,
                "rotation_accuracy": right.float().mean(),
            }
