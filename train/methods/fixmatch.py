"""FixMatch on one modality: labels of the weak view, where sure, teach the strong view of the same clip.

On RGB it is the baseline in row 1 of the paper's Table 1: one network, both weights 1.  On temporal gradients it is
the single-stream row of Table 3a; what it trains then sees temporal gradients, in evaluation too.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from train.losses import masked_cross_entropy, pseudo_labels
from train.methods.base import WeakStrongConfig, WeakStrongMethod, eager_range, pseudo_label_metrics, started


@dataclass(frozen=True)
class Config(WeakStrongConfig):
    """Constants of FixMatch as the paper's code runs it on videos."""

    supervised_weight: float = 1.0
    """Weight of the cross-entropy on labeled clips."""
    pseudo_label_weight: float = 1.0
    """Weight of the cross-entropy between strong views and pseudo-labels."""
    modality: Literal["rgb", "tg"] = "rgb"
    """What the network sees: RGB frames, or temporal gradients, also when it is evaluated."""


class FixMatch(WeakStrongMethod):
    """One network and Eq. (4).

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier, in weak views too.
    """

    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config: Config = config
        self.modality = config.modality
        self.needs = Needs(tg=config.modality == "tg", unlabeled=True, strong=True)
        self.network = R3D18(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The only network."""
        return self.network

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms "supervised" and "pseudo_label" (0 in the warm-up), and pseudo-label metrics."""
        config = self.config
        with eager_range(f"forward {self.modality}"):
            logits, features = self.network(normalize(self.joined_views(batch, self.modality)))
        labeled, weak, strong = self.logits_by_view(self.network, logits, features[-1], batch, self.modality)

        with eager_range("losses"):
            supervised = F.cross_entropy(labeled.float(), batch.labels)
            labels, mask = pseudo_labels(weak, None, source="rgb", threshold=config.threshold)
            pseudo_label = started(progress, config.warmup_epochs) * masked_cross_entropy(strong, labels, mask)
            return {
                "loss": config.supervised_weight * supervised + config.pseudo_label_weight * pseudo_label,
                "supervised": supervised,
                "pseudo_label": pseudo_label,
                **pseudo_label_metrics(labels, mask, batch.unlabeled_labels),
            }
