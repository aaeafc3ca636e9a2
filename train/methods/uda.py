"""UDA (Xie et al., 2020): the sharpened prediction of the weak view, where sure, teaches the strong view of the clip.

It differs from FixMatch in its targets, which are probabilities and not classes.  Constants are those of the code that
brought UDA to videos (vt-vl-lab/video-data-aug), the warm-up that of the paper of temporal gradients, whose code
(lambert-x/video-semisup) has UDA too.

What differs from UDA's own code (google-research/uda): cross-entropy takes the place of the KL divergence, whose
gradient is the same; the mean is over the kept clips of each rank, however few, where UDA divides by all clips; no
labeled clip is left out for being predicted too well already (TSA).  What differs from the code for videos: targets are
fixed, as in UDA's own, and let no gradient back into the weak views.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from pipeline.errors import InputError
from train.losses import kept_cross_entropy, pseudo_labels
from train.methods.base import WeakStrongConfig, WeakStrongMethod, eager_range, pseudo_label_metrics, started


@dataclass(frozen=True)
class Config(WeakStrongConfig):
    """Constants of UDA on videos."""

    threshold: float = 0.8
    """Least probability, before sharpening, of a prediction that is learned from, 0 to 1."""
    temperature: float = 0.4
    """Divides the logits of weak views: less than 1 sharpens the prediction."""
    pseudo_label_weight: float = 1.0
    """Weight of the cross-entropy between strong views and sharpened predictions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature} divides logits: choose more than 0, 0.4 is usual")


class UDA(WeakStrongMethod):
    """One RGB network.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier, in weak views too.
    """

    needs = Needs(unlabeled=True, strong=True)
    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config: Config = config
        self.rgb = R3D18(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The RGB network."""
        return self.rgb

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms "supervised" and "pseudo_label" (0 in the warm-up), and pseudo-label metrics."""
        config = self.config
        with eager_range("forward rgb"):
            logits, features = self.rgb(normalize(self.joined_views(batch, "rgb")))
        labeled, weak, strong = self.logits_by_view(self.rgb, logits, features[-1], batch, "rgb")

        with eager_range("losses"):
            supervised = F.cross_entropy(labeled.float(), batch.labels)
            labels, mask = pseudo_labels(weak, None, source="rgb", threshold=config.threshold)
            targets = (weak.detach().float() / config.temperature).softmax(dim=1)
            pseudo_label = started(progress, config.warmup_epochs) * kept_cross_entropy(strong, targets, mask)
            return {
                "loss": supervised + config.pseudo_label_weight * pseudo_label,
                "supervised": supervised,
                "pseudo_label": pseudo_label,
                **pseudo_label_metrics(labels, mask, batch.unlabeled_labels),
            }
