"""Pseudo-Label (Lee, 2013): where the network is sure of an unlabeled clip, it learns its own opinion.

One weak view is judged and learned from alike, with the same logits.  The defaults are not Lee's but those of the
variant that later comparisons run, checked against the MixMatch authors' code (google-research/mixmatch): only labels
of a probability of 0.95 count, with a weight that rises to 1 over the first 40 % of the training, which here are 72 of
180 epochs.  Lee keeps every label and lets the weight rise to 3 between the epochs T1 and T2, 100 and 600 for MNIST:
``threshold=0, pseudo_label_weight=3, warmup_epochs=T1, rampup_epochs=T2 - T1``.

What differs: the weight rises by a step each epoch, not each iteration.  Labeled and weak views are one batch for
BatchNorm, which that code shows to the network apart, keeping running averages of the labeled ones alone.  What is
evaluated are the weights themselves, not a moving average of them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs
from train.losses import masked_cross_entropy, pseudo_labels
from train.methods.base import Method, check_epochs, check_probability, eager_range, pseudo_label_metrics, ramp


@dataclass(frozen=True)
class Config:
    """Constants of pseudo-labels with a threshold."""

    threshold: float = 0.95
    """Least probability of a pseudo-label that is learned from, 0 to 1; 0 learns from all, as Lee."""
    pseudo_label_weight: float = 1.0
    """Weight of the cross-entropy between weak views and their pseudo-labels, once it has risen; Lee's is 3."""
    warmup_epochs: int = 0
    """Epochs before pseudo-labels are learned from."""
    rampup_epochs: int = 72
    """Epochs after these over which their weight rises in a line; 0 has it full at once. 40 % of all are usual."""

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        check_epochs("warmup_epochs", self.warmup_epochs)
        check_epochs("rampup_epochs", self.rampup_epochs)


class PseudoLabel(Method):
    """One RGB network.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier, for pseudo-labels too.
    """

    needs = Needs(unlabeled=True)
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
        """Labeled and weak views together."""
        return batch_labeled + batch_unlabeled

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms "supervised" and "pseudo_label" (with its ramp), and pseudo-label metrics."""
        assert batch.weak is not None
        config = self.config
        with eager_range("forward rgb"):
            logits, _ = self.rgb(normalize(torch.cat([batch.labeled.rgb, batch.weak.rgb])))
        labeled, weak = logits.split_with_sizes([len(batch.labeled.rgb), len(batch.weak.rgb)])

        with eager_range("losses"):
            supervised = F.cross_entropy(labeled.float(), batch.labels)
            labels, mask = pseudo_labels(weak, None, source="rgb", threshold=config.threshold)
            rising = ramp(progress, config.warmup_epochs, config.rampup_epochs)
            pseudo_label = rising * masked_cross_entropy(weak, labels, mask)
            return {
                "loss": supervised + config.pseudo_label_weight * pseudo_label,
                "supervised": supervised,
                "pseudo_label": pseudo_label,
                **pseudo_label_metrics(labels, mask, batch.unlabeled_labels),
            }
