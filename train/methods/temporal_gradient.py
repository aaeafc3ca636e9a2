"""The method of "Learning from Temporal Gradient for Semi-supervised Action Recognition" (CVPR 2022).

Two FixMatch networks, one on RGB and one on temporal gradients, share their pseudo-labels.  Features of the RGB
network are drawn to those of the other, and the two embeddings of a clip to each other.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, DualR3D
from pipeline.batch import ClipBatch, Modality, Needs
from pipeline.errors import InputError
from train.losses import (
    AlignmentKind,
    AlignmentReduce,
    PseudoLabelFuse,
    StopGradient,
    alignment_loss,
    info_nce,
    masked_cross_entropy,
    pseudo_labels,
)
from train.methods.base import (
    WeakStrongConfig,
    WeakStrongMethod,
    eager_range,
    first_rows,
    pseudo_label_metrics,
    started,
)


@dataclass(frozen=True)
class Config(WeakStrongConfig):
    """Constants of the method, with the values behind the paper's main results."""

    pseudo_label_source: Literal["average", "rgb", "tg", "individual"] = "average"
    """Whose opinion of the weak view labels the strong ones of both modalities; individual: each has its own."""
    pseudo_label_fuse: PseudoLabelFuse = "logits"
    """What an average is taken of. The paper writes probabilities, its code averages logits."""
    supervised_weight: float = 0.5
    """Weight of the cross-entropy on labeled clips, in each modality."""
    pseudo_label_weight: float = 0.5
    """Weight of the cross-entropy between strong views and pseudo-labels, in each modality."""
    alignment_weight: float = 1.0
    """Weight of the alignment; 0 turns it off."""
    alignment_kind: AlignmentKind = "cosine"
    """Distance between features: 1 - cosine, or the mean absolute (l1) or squared (l2) difference."""
    alignment_blocks: tuple[int, ...] = (0, 1, 2, 3)
    """Stages whose features are aligned, out of 0 to 3."""
    alignment_reduce: AlignmentReduce = "sum"
    """Sum the alignment over the blocks, or take the mean."""
    stop_gradient: StopGradient = "tg"
    """Modality whose features are a fixed target of the alignment; None lets both move."""
    info_nce_weight: float = 1.0
    """Weight of the contrast between the modalities; 0 turns it off."""
    temperature: float = 0.5
    """Divides the cosines of the contrast."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alignment_blocks or not set(self.alignment_blocks) <= {0, 1, 2, 3}:
            raise InputError(
                f"alignment_blocks {self.alignment_blocks} are not among 0, 1, 2, 3: "
                "to align none, set alignment_weight to 0"
            )
        if self.temperature <= 0:
            raise InputError(f"temperature {self.temperature} is not positive: the paper takes 0.5")


class TemporalGradient(WeakStrongMethod):
    """An RGB and a temporal-gradient network, and Eq. (11).

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the networks' stems.
        dropout: before the classifiers, in weak views too.
    """

    needs = Needs(tg=True, unlabeled=True, strong=True)
    config_type: ClassVar = Config

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config: Config = config
        self.dual = DualR3D(num_classes, width, dropout)

    @property
    def recognizer(self) -> R3D18:
        """The RGB network."""
        return self.dual.rgb

    @property
    def networks(self) -> dict[Modality, R3D18]:
        """Both networks."""
        return {"rgb": self.dual.rgb, "tg": self.dual.tg}

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms and the pseudo-label metrics.

        Terms: "supervised_rgb", "supervised_tg", "pseudo_label_rgb", "pseudo_label_tg" (both 0 in the warm-up),
        "alignment", "info_nce".  The last two see the labeled and the weak rows, not the strong ones, whose
        modalities are distorted each in its own way.
        """
        config = self.config
        with eager_range("forward rgb"):
            rgb = self.dual.see("rgb", self.joined_views(batch, "rgb"))
        with eager_range("forward tg"):
            tg = self.dual.see("tg", self.joined_views(batch, "tg"))
        rgb_labeled, rgb_weak, rgb_strong = self.logits_by_view(
            self.dual.rgb, rgb.logits, rgb.features[-1], batch, "rgb"
        )
        tg_labeled, tg_weak, tg_strong = self.logits_by_view(self.dual.tg, tg.logits, tg.features[-1], batch, "tg")

        with eager_range("losses"):
            labels, mask = self._pseudo_labels(rgb_weak, tg_weak)
            gate = started(progress, config.warmup_epochs)
            registered = len(rgb_labeled) + len(rgb_weak)
            terms = {
                "supervised_rgb": F.cross_entropy(rgb_labeled.float(), batch.labels),
                "supervised_tg": F.cross_entropy(tg_labeled.float(), batch.labels),
                "pseudo_label_rgb": gate * masked_cross_entropy(rgb_strong, labels[0], mask[0]),
                "pseudo_label_tg": gate * masked_cross_entropy(tg_strong, labels[1], mask[1]),
                "alignment": alignment_loss(
                    [first_rows(rgb.features[block], registered) for block in config.alignment_blocks],
                    [first_rows(tg.features[block], registered) for block in config.alignment_blocks],
                    config.alignment_kind,
                    config.stop_gradient,
                    config.alignment_reduce,
                ),
                "info_nce": info_nce(rgb.embedding[:registered], tg.embedding[:registered], config.temperature),
            }
            loss = (
                config.supervised_weight * (terms["supervised_rgb"] + terms["supervised_tg"])
                + config.pseudo_label_weight * (terms["pseudo_label_rgb"] + terms["pseudo_label_tg"])
                + config.alignment_weight * terms["alignment"]
                + config.info_nce_weight * terms["info_nce"]
            )
            return {"loss": loss, **terms, **pseudo_label_metrics(labels, mask, batch.unlabeled_labels)}

    def _pseudo_labels(self, rgb_weak: Tensor, tg_weak: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (2, B) and mask (2, B): the first row teaches the RGB network, the second the TG network."""
        config = self.config
        if config.pseudo_label_source == "individual":
            rgb = pseudo_labels(rgb_weak, tg_weak, "rgb", threshold=config.threshold)
            tg = pseudo_labels(rgb_weak, tg_weak, "tg", threshold=config.threshold)
        else:
            rgb = tg = pseudo_labels(
                rgb_weak, tg_weak, config.pseudo_label_source, config.pseudo_label_fuse, config.threshold
            )
        return torch.stack([rgb[0], tg[0]]), torch.stack([rgb[1], tg[1]])
