"""VideoSSL: a network learns from its own sure guesses, and from what an image network sees in a frame of each video.

"VideoSSL: Semi-Supervised Learning for Video Classification" (Jing et al. 2021).  Three losses: cross-entropy on
labeled clips, on unlabeled clips that the network itself is sure of, and, for all clips, between a second head and the
probabilities that a network trained on ImageNet gives.  The last takes a file that ``python -m train.score_images``
makes; without one, that head and its loss are not there, and what is left is pseudo-labels with a threshold.

Of the paper only the abstract could be read, and its authors published lists of videos but no code: which losses there
are is checked, their constants are not.  The head, its dropout and weight 1 are those of the distillation in
vt-vl-lab/video-data-aug, a re-use by others; threshold and warm-up are those usual for pseudo-labels here.  That code
draws a frame of the clip at each visit; here a video has one set of scores for good, also for labeled clips.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from pipeline.video_scores import NUM_SCORES
from train.losses import masked_cross_entropy, pseudo_labels
from train.methods.base import (
    Method,
    check_epochs,
    check_probability,
    eager_range,
    pseudo_label_metrics,
    started,
)


@dataclass(frozen=True)
class Config:
    """Constants of VideoSSL; none of their values could be checked against the paper."""

    scores: Path | None = None
    """File of what an image network sees in each video, made by train.score_images; None distills nothing."""
    threshold: float = 0.95
    """Least probability of a pseudo-label that is learned from, 0 to 1."""
    warmup_epochs: int = 30
    """Epochs before pseudo-labels are learned from; all other losses are on from the start."""
    pseudo_label_weight: float = 1.0
    """Weight of the cross-entropy between unlabeled clips and their pseudo-labels."""
    distillation_weight: float = 1.0
    """Weight of the cross-entropy between the second head and the image network's probabilities."""

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        check_epochs("warmup_epochs", self.warmup_epochs)


class VideoSSL(Method):
    """One RGB network, with a second head where there is something to distill.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier and, drawn apart, before the second head.
    """

    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = config
        self.needs = Needs(unlabeled=True, scores=config.scores)
        self.rgb = R3D18(num_classes, width, dropout)
        self.distillation: nn.Linear | None = None
        if config.scores:
            self.distillation = nn.Linear(self.rgb.feature_dim, NUM_SCORES)
            nn.init.normal_(self.distillation.weight, std=0.01)  # as the classifier
            nn.init.zeros_(self.distillation.bias)

    @property
    def recognizer(self) -> R3D18:
        """The RGB network, without the second head."""
        return self.rgb

    @classmethod
    def smallest_batch(cls, config: Config, batch_labeled: int, batch_unlabeled: int) -> int:
        """All clips are one batch."""
        return batch_labeled + batch_unlabeled

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms and pseudo-label metrics.

        Terms: "supervised", "pseudo_label" (0 in the warm-up) and, where scores are given, "distillation".
        """
        config = self.config
        assert batch.weak is not None
        with eager_range("forward rgb"):
            logits, features = self.rgb(normalize(torch.cat([batch.labeled.rgb, batch.weak.rgb])))
        labeled, weak = logits.split_with_sizes([len(batch.labels), len(batch.weak.rgb)])

        with eager_range("losses"):
            supervised = F.cross_entropy(labeled.float(), batch.labels)
            labels, mask = pseudo_labels(weak, None, source="rgb", threshold=config.threshold)
            pseudo_label = started(progress, config.warmup_epochs) * masked_cross_entropy(weak, labels, mask)
            terms = {"supervised": supervised, "pseudo_label": pseudo_label}
            loss = supervised + config.pseudo_label_weight * pseudo_label
            if self.distillation is not None:
                assert batch.labeled_scores is not None
                assert batch.scores is not None
                seen = self.distillation(self.rgb.dropout(features[-1].mean(dim=(2, 3, 4))))
                scores = torch.cat([batch.labeled_scores, batch.scores])
                terms["distillation"] = F.cross_entropy(seen.float(), scores)
                loss = loss + config.distillation_weight * terms["distillation"]
            return {"loss": loss, **terms, **pseudo_label_metrics(labels, mask, batch.unlabeled_labels)}
