"""ActorCutMix: FixMatch whose strong views also show the actors of one clip before the scene of another.

"Learning Representational Invariances for Data-Efficient Action Recognition" (Zou et al. 2021).  Where actors are
pasted the pseudo-label is mixed as the pixels are: w of the actors' clip, 1 - w of the scene's, w = 1 - (r - 1)^4 for
the share r of pixels that the actors cover.  Facts were checked against the authors' code, vt-vl-lab/video-data-aug.

What differs from it: each clip is drawn for itself whether to be pasted, there a whole batch is; the strong operations
are those of all methods here; the backbone is R3D-18, there R(2+1)D-34; see :mod:`pipeline.actors` for the pasting.
Without a file of boxes nobody is found and nothing pasted: what is left is FixMatch with strong views in varied tempo.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from train.losses import masked_cross_entropy, pseudo_labels
from train.methods.base import WeakStrongConfig, WeakStrongMethod, eager_range, pseudo_label_metrics, started


@dataclass(frozen=True)
class Config(WeakStrongConfig):
    """Constants of ActorCutMix, as its code has them."""

    threshold: float = 0.95
    """Least probability of a pseudo-label that is learned from, 0 to 1; that of the scene's clip may be less."""
    warmup_epochs: int = 0
    """Epochs before pseudo-labels are learned from; the authors' have none."""
    boxes: Path | None = None
    """File of where people are in each video, an .npz as in docs/methods.md; None pastes nobody."""
    supervised_weight: float = 1.0
    """Weight of the cross-entropy on labeled clips."""
    pseudo_label_weight: float = 1.0
    """Weight of the cross-entropy between strong views and pseudo-labels."""


class ActorCutMix(WeakStrongMethod):
    """One RGB network.

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
        self.needs = Needs(unlabeled=True, strong=True, actors=True, boxes=config.boxes)
        self.network = R3D18(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The only network."""
        return self.network

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms "supervised" and "pseudo_label" (0 in the warm-up), and pseudo-label metrics."""
        config = self.config
        assert batch.actor_share is not None
        with eager_range("forward rgb"):
            logits, features = self.network(normalize(self.joined_views(batch, "rgb")))
        labeled, weak, strong = self.logits_by_view(self.network, logits, features[-1], batch, "rgb")

        with eager_range("losses"):
            supervised = F.cross_entropy(labeled.float(), batch.labels)
            labels, mask = pseudo_labels(weak, None, source="rgb", threshold=config.threshold)
            targets = mixed_labels(labels, batch.actor_share, strong.shape[1])
            pseudo_label = started(progress, config.warmup_epochs) * masked_cross_entropy(strong, targets, mask)
            return {
                "loss": config.supervised_weight * supervised + config.pseudo_label_weight * pseudo_label,
                "supervised": supervised,
                "pseudo_label": pseudo_label,
                **pseudo_label_metrics(labels, mask, batch.unlabeled_labels),
            }


def mixed_labels(labels: Tensor, actor_share: Tensor, num_classes: int) -> Tensor:
    """Mix the labels of clips as their pixels are mixed: that of the actors and that of the scene.

    Args:
        labels: (B,) int64 of the clips.
        actor_share: (B,) share of the pixels that a clip's own actors cover, 1 where nothing else is shown; the scene
            is of the clip as far from the end of the batch as it is from the start.
        num_classes: K.

    Returns:
        (B, K) float32.
    """
    own = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    weight = (1 - (actor_share - 1) ** 4)[:, None]
    mixed: Tensor = weight * own + (1 - weight) * torch.flip(own, (0,))
    return mixed
