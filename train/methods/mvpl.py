"""MvPL: one network sees RGB, temporal gradients and, if wanted, optical flow, and all label one another's clips.

"Multiview Pseudo-Labeling for Semi-supervised Learning from Video" (Xiong et al. 2021), as the authors of "Learning
from Temporal Gradient" implemented it anew for their Table 2 and published it: RGB and temporal gradients, each cropped
and flipped by itself, weights and classifier shared; pseudo-labels from the average of all weak views' logits.  Facts
were checked against that code, lambert-x/video-semisup; of the paper itself only its abstract.

What differs from that code: strong views have the operations of all methods here, there RandAugment with integer
magnitudes and a cutout of 4/7; crops are those of all methods here, there a square of 224 out of a frame of 256 to 320;
the backbone is R3D-18, as in the table, of which no configuration was published.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Modality, Needs
from train.losses import masked_cross_entropy, pseudo_labels
from train.methods.base import WeakStrongConfig, WeakStrongMethod, eager_range, pseudo_label_metrics, started


@dataclass(frozen=True)
class Config(WeakStrongConfig):
    """Constants of MvPL as implemented anew."""

    flow: bool = False
    """Optical flow as a third modality, as in the paper; the implementation behind Table 2 has none."""
    supervised_weight: float = 0.5
    """Weight of the cross-entropy on labeled clips, in each modality."""
    pseudo_label_weight: float = 0.5
    """Weight of the cross-entropy between strong views and pseudo-labels, in each modality."""


class MvPL(WeakStrongMethod):
    """One network for all modalities, whose views are one batch; strong ones that go apart are one a modality.

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
        self.needs = Needs(tg=True, flow=config.flow, unlabeled=True, strong=True, own_crops=True)
        self.network = R3D18(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The only network, which is shown RGB when it is evaluated."""
        return self.network

    @property
    def networks(self) -> dict[Modality, R3D18]:
        """The network for RGB, and the same one for temporal gradients."""
        return {"rgb": self.network, "tg": self.network}

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms and the pseudo-label metrics.

        Terms, for each modality: "supervised_rgb" and so on, "pseudo_label_rgb" and so on, the latter 0 in the warm-up.
        """
        config, modalities = self.config, self.needs.modalities
        with eager_range("forward rgb"):
            views = torch.cat([self.joined_views(batch, modality) for modality in modalities])
            logits, features = self.network(normalize(views))
        parts = zip(modalities, logits.chunk(len(modalities)), features[-1].chunk(len(modalities)), strict=True)
        seen = {
            modality: self.logits_by_view(self.network, own, feature, batch, modality)
            for modality, own, feature in parts
        }

        with eager_range("losses"):
            weak = torch.stack([weak for _, weak, _ in seen.values()]).float().mean(dim=0)
            labels, mask = pseudo_labels(weak, None, source="rgb", threshold=config.threshold)
            gate = started(progress, config.warmup_epochs)
            supervised = {
                f"supervised_{modality}": F.cross_entropy(labeled.float(), batch.labels)
                for modality, (labeled, _, _) in seen.items()
            }
            pseudo_label = {
                f"pseudo_label_{modality}": gate * masked_cross_entropy(strong, labels, mask)
                for modality, (_, _, strong) in seen.items()
            }
            loss = config.supervised_weight * torch.stack(list(supervised.values())).sum()
            loss = loss + config.pseudo_label_weight * torch.stack(list(pseudo_label.values())).sum()
            return {
                "loss": loss,
                **supervised,
                **pseudo_label,
                **pseudo_label_metrics(labels, mask, batch.unlabeled_labels),
            }
