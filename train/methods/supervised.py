"""Supervised baseline: cross-entropy on the labeled clips alone, RGB only."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from train.methods.base import Method, eager_range


@dataclass(frozen=True)
class Config:
    """Nothing to choose."""


class Supervised(Method):
    """One RGB network and Eq. (1).

    Args:
        num_classes: K.
        config: nothing to choose.
        width: channels of the network's stem.
        dropout: before the classifier.
    """

    needs = Needs()
    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.rgb = R3D18(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The RGB network."""
        return self.rgb

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss" and its only term "supervised"; the progress changes nothing."""
        with eager_range("forward rgb"):
            logits, _ = self.rgb(normalize(batch.labeled.rgb))
        with eager_range("losses"):
            supervised = F.cross_entropy(logits.float(), batch.labels)
        return {"loss": supervised, "supervised": supervised}
