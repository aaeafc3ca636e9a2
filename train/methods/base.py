"""What every method is, and the pieces that methods with pseudo-labels share.

Promises the interface the training loop calls.  What a step does with a batch is left to the methods.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model import R3D18
from pipeline.batch import ClipBatch, Modality, Needs
from pipeline.errors import InputError


class Method(nn.Module, ABC):
    """All networks a method trains, and its loss.

    Each is built as ``METHODS[name](num_classes, config, width=64, dropout=0.5)``, where config is an instance of its
    ``config_type``.

    Attributes:
        needs: the views and modalities a batch must hold.
        modality: what the recognizer sees.
        config_type: the frozen dataclass of the method's own constants.
    """

    needs: Needs
    modality: Modality = "rgb"
    config_type: ClassVar[type[Any]]

    @property
    @abstractmethod
    def recognizer(self) -> R3D18:
        """The network that is evaluated and shipped.  Normalised clips in, logits and features out."""

    @property
    def networks(self) -> dict[Modality, R3D18]:
        """All networks that classify clips, by what they see: the recognizer, and what else may be looked into."""
        return {self.modality: self.recognizer}

    @abstractmethod
    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute the loss of one batch, without making the host wait for the device.

        Args:
            batch: clips on the device of the parameters, with what ``needs`` asks for.
            progress: 0-dim float32 on the same device, epochs begun before this one.  A tensor, so that what starts
                at some epoch is switched by a comparison on the device and needs no second compilation.

        Returns:
            0-dim float32 tensors: "loss", which is the weighted sum of the terms; each term by its name, before its
            weight, with gradient; and measurements without gradient.
        """


def check_pseudo_label_options(threshold: float, warmup_epochs: int) -> None:
    """Refuse what cannot be meant.

    Raises:
        InputError: the threshold is no probability, or the warm-up is negative.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold {threshold} is not a probability: choose one from 0 to 1")
    if warmup_epochs < 0:
        raise InputError(f"warmup_epochs {warmup_epochs} is negative: 0 starts at once")


def started(progress: Tensor, warmup_epochs: int) -> Tensor:
    """1 once the warm-up is over, 0 before, as 0-dim float32."""
    return (progress >= warmup_epochs).float()


def pseudo_label_metrics(labels: Tensor, mask: Tensor, true_labels: Tensor | None) -> dict[str, Tensor]:
    """Measure pseudo-labels.

    Args:
        labels: (B,) int64 pseudo-labels.
        mask: (B,) bool, True where kept.
        true_labels: (B,) int64, negative where unknown.

    Returns:
        "mask_rate", the fraction of rows kept, and "pseudo_label_accuracy", the fraction of right ones among the
        kept rows whose class is known: NaN where there is none.
    """
    assert true_labels is not None, "a batch with unlabeled clips tells their labels, -1 where unknown"
    known = mask & (true_labels >= 0)
    right = known & (labels == true_labels)
    return {
        "mask_rate": mask.float().mean(),
        "pseudo_label_accuracy": right.sum(dtype=torch.float32) / known.sum(),
    }
