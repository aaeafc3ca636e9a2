"""Temporal Contrastive Learning: what is said of a video is to be the same at half the frame rate.

After "Semi-Supervised Action Recognition with Temporal Contrastive Learning" (CVPR 2021), checked against its public
code.  Of each unlabeled video the network sees a fast clip and, drawn independently, a slow one of half as many
frames.  Two losses contrast what it says of them, video by video and class by class, through the slow clips alone: the
fast ones are fixed targets.

Differs from the public code in these points.  There a clip has one frame of each of 8 or 4 equal parts of the video;
here frames are evenly apart, those of slow clips twice as far.  There BatchNorm sees labeled, fast and slow clips each
by themselves; here labeled and fast clips are one batch, and slow ones, whose length is another, one of their own.
There clips are not looked at while no loss wants them, as the unlabeled ones in the warm-up; here they count in
BatchNorm's running averages throughout.  There labeled videos are not among the unlabeled ones; here they are.  There
an epoch is a pass over the labeled videos, here over all.  And here several GPUs contrast the clips of all of them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from pipeline.errors import InputError
from train.losses import group_contrast, masked_cross_entropy, nt_xent, pseudo_labels
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
    """Constants of TCL, those of the paper's code."""

    warmup_epochs: int = 22
    """Epochs before the two contrasts are on: of 180, as 50 of 400 in the paper's code."""
    instance_contrast_weight: float = 9.0
    """Weight of the contrast between videos."""
    group_contrast_weight: float = 1.0
    """Weight of the contrast between groups of clips that are taken for the same class."""
    temperature: float = 0.5
    """Divides the cosines of both contrasts."""
    pseudo_label_epoch: int | None = None
    """Epoch from which pseudo-labels replace the contrasts; 350 of 400 where the paper's code does so. None: never."""
    pseudo_label_weight: float = 1.0
    """Weight of the cross-entropy between fast clips and their own pseudo-labels."""
    threshold: float = 0.8
    """Least probability of a pseudo-label that is learned from, 0 to 1."""

    def __post_init__(self) -> None:
        check_epochs("warmup_epochs", self.warmup_epochs)
        check_probability("threshold", self.threshold)
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature} is not positive: the paper's code takes 0.5")
        if self.pseudo_label_epoch is not None and self.pseudo_label_epoch <= self.warmup_epochs:
            raise InputError(
                f"pseudo_label_epoch {self.pseudo_label_epoch} leaves no epoch for the contrasts, which begin in epoch "
                f"{self.warmup_epochs}: take a later one, or None"
            )


class TCL(Method):
    """One RGB network, which sees clips of both lengths.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier, in what is contrasted and in pseudo-labels too.
    """

    needs = Needs(unlabeled=True, slow=True)
    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = config
        self.rgb = R3D18(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The RGB network."""
        return self.rgb

    @classmethod
    def smallest_batch(cls, config: Config, batch_labeled: int, batch_unlabeled: int) -> int:
        """Slow clips alone."""
        return batch_unlabeled

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss" and its terms "supervised", "instance_contrast" and "group_contrast", 0 in the warm-up.

        Where pseudo-labels are to replace the contrasts there is also the term "pseudo_label", 0 before, and the
        pseudo-label metrics.  The paper's code lowers the learning rate too where they do; ours goes by the schedule.
        """
        assert batch.weak is not None
        assert batch.slow is not None
        config = self.config
        with eager_range("forward rgb"):
            logits, _ = self.rgb(normalize(torch.cat([batch.labeled.rgb, batch.weak.rgb])))
            slow, _ = self.rgb(normalize(batch.slow.rgb))
        labeled, fast = logits.float().tensor_split([len(batch.labels)])

        with eager_range("losses"):
            views = fast.detach().softmax(dim=1), slow.float().softmax(dim=1)
            gate = started(progress, config.warmup_epochs)
            if config.pseudo_label_epoch is not None:
                gate = gate - started(progress, config.pseudo_label_epoch)
            terms = {
                "supervised": F.cross_entropy(labeled, batch.labels),
                "instance_contrast": gate * nt_xent(*views, config.temperature),
                "group_contrast": gate * group_contrast(*views, config.temperature),
            }
            loss = (
                terms["supervised"]
                + config.instance_contrast_weight * terms["instance_contrast"]
                + config.group_contrast_weight * terms["group_contrast"]
            )
            if config.pseudo_label_epoch is None:
                return {"loss": loss, **terms}
            labels, mask = pseudo_labels(fast, None, source="rgb", threshold=config.threshold)
            pseudo_label = started(progress, config.pseudo_label_epoch) * masked_cross_entropy(fast, labels, mask)
            return {
                "loss": loss + config.pseudo_label_weight * pseudo_label,
                **terms,
                "pseudo_label": pseudo_label,
                **pseudo_label_metrics(labels, mask, batch.unlabeled_labels),
            }
