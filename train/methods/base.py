"""What every method is, and the pieces that methods with pseudo-labels share.

Promises the interface the training loop calls.  What a step does with a batch is left to the methods.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Modality, Needs, Views
from pipeline.errors import InputError
from pipeline.ranges import named


class Method(nn.Module, ABC):
    """All networks a method trains, and its loss.

    Each is built as ``METHODS[name](num_classes, config, width=64, dropout=0.5)``, where config is an instance of its
    ``config_type``.

    Attributes:
        needs: the views and modalities a batch must hold.
        modality: what the recognizer sees.
        config_type: the frozen dataclass of the method's own constants.
        num_rounds: parts that a training falls into.  Each has a whole schedule of learning rates to itself, and before
            each but the first the method judges the unlabeled videos: :mod:`train.rounds`.
    """

    needs: Needs
    modality: Modality = "rgb"
    config_type: ClassVar[type[Any]]
    num_rounds: int = 1

    @property
    @abstractmethod
    def recognizer(self) -> R3D18:
        """The network that is evaluated and shipped.  Normalised clips in, logits and features out."""

    @property
    def networks(self) -> dict[Modality, R3D18]:
        """All networks that classify clips, by what they see: the recognizer, and what else may be looked into."""
        return {self.modality: self.recognizer}

    @classmethod
    def smallest_batch(cls, config: Any, batch_labeled: int, batch_unlabeled: int) -> int:
        """Clips in the smallest batch that BatchNorm sees in a step.

        Args:
            config: of the method.
            batch_labeled: labeled clips in a step of one rank.
            batch_unlabeled: unlabeled ones.
        """
        return batch_labeled

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

    def stepped(self) -> None:
        """Called after each step of the optimizer: a teacher that follows its student moves here.

        Like the loss it must not make the host wait, and what it changes are buffers or parameters without gradient.
        """

    def keep_videos(self, num_videos: int) -> None:
        """Make room for what is kept of each video, in buffers by row of the index; called once, before training.

        Args:
            num_videos: rows of the index.
        """

    def judge(self, clips: Views) -> Tensor:
        """Judge center clips of unlabeled videos, between two rounds.

        Called in eval mode, without gradients, in the precision and with the BatchNorm statistics of evaluations.
        What is drawn of torch's generators is drawn again if a run resumes, and training draws what it would have.

        Args:
            clips: (B, T, H, W, C) in the modalities of ``needs``, on the device of the parameters.

        Returns:
            (B, ...) float32, of each clip what :meth:`begin_round` wants to know.
        """
        raise NotImplementedError("methods with rounds judge the unlabeled videos between them")

    def begin_round(self, rows: Tensor, judgments: Tensor, seed: int) -> str:
        """Begin the next round, alike on all ranks; its state is in buffers.

        Args:
            rows: (N,) int64 rows of the index on the host, the videos without a label that could be read, ascending.
            judgments: (N, ...) what :meth:`judge` said of each, of whichever rank, on the host.
            seed: for torch's generators, which may be set: of what is drawn here training notices nothing.

        Returns:
            What came of the judgments, in a few words.
        """
        raise NotImplementedError("methods with rounds say how one begins")


@dataclass(frozen=True)
class WeakStrongConfig:
    """Constants of methods whose pseudo-labels of weak views teach strong views."""

    threshold: float = 0.3
    """Least probability of a pseudo-label that is learned from, 0 to 1."""
    warmup_epochs: int = 30
    """Epochs before pseudo-labels are learned from; all other losses are on from the start."""
    pseudo_label_dropout: bool = True
    """Make pseudo-labels with dropout, as the paper's code does."""
    split_batches: bool = False
    """Let BatchNorm see the strong views apart from the others, not all views as one batch as in the paper's code."""

    def __post_init__(self) -> None:
        check_probability("threshold", self.threshold)
        check_epochs("warmup_epochs", self.warmup_epochs)


class WeakStrongMethod(Method):
    """A method whose pseudo-labels of weak views teach strong views; which views share a batch is decided here."""

    config: WeakStrongConfig

    @classmethod
    def smallest_batch(cls, config: WeakStrongConfig, batch_labeled: int, batch_unlabeled: int) -> int:
        """Strong views alone, or all views."""
        return batch_unlabeled if config.split_batches else batch_labeled + 2 * batch_unlabeled

    def joined_views(self, batch: ClipBatch, modality: Modality) -> Tensor:
        """The clips to go through a network as one batch: labeled, weak and, unless those go apart, strong rows."""
        assert batch.weak is not None
        assert batch.strong is not None
        views = [batch.labeled, batch.weak] if self.config.split_batches else [batch.labeled, batch.weak, batch.strong]
        return torch.cat([view.of(modality) for view in views])

    def logits_by_view(
        self, network: R3D18, logits: Tensor, feature: Tensor, batch: ClipBatch, modality: Modality
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take a network's output apart, and run the strong views through it where they go apart.

        Args:
            network: that of the modality.
            logits: (B, K) it gave for the joined views.
            feature: (B, C, T, H, W) of its last stage for them.
            batch: the views.
            modality: what the network sees.

        Returns:
            Logits of the labeled, the weak and the strong rows; those of the weak rows are for pseudo-labels only.
        """
        assert batch.weak is not None
        assert batch.strong is not None
        if self.config.split_batches:
            with eager_range(f"forward {modality}"):
                strong, _ = network(normalize(batch.strong.of(modality)))
            logits = torch.cat([logits, strong])
        rows = [len(view.rgb) for view in (batch.labeled, batch.weak, batch.strong)]
        labeled, weak, strong = logits.split_with_sizes(rows)
        if not self.config.pseudo_label_dropout:
            with torch.no_grad():
                weak = network.classify(feature[rows[0] : rows[0] + rows[1]])
        return labeled, weak, strong


def check_probability(option: str, value: float) -> None:
    """Refuse an option that is no probability.

    Raises:
        InputError: it is not within 0 and 1.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{option} {value} is not a probability: choose one from 0 to 1")


def check_epochs(option: str, epochs: int) -> None:
    """Refuse an option that is no number of epochs.

    Raises:
        InputError: it is negative.
    """
    if epochs < 0:
        raise InputError(f"{option} {epochs} is negative: 0 starts at once")


def eager_range(name: str) -> AbstractContextManager[object]:
    """A range of what a method computes, :func:`pipeline.ranges.named`; in a compiled graph there is none."""
    return nullcontext() if torch.compiler.is_compiling() else named(name)


def started(progress: Tensor, warmup_epochs: int) -> Tensor:
    """1 once the warm-up is over, 0 before, as 0-dim float32."""
    return (progress >= warmup_epochs).float()


def ramp(progress: Tensor, warmup_epochs: int, rampup_epochs: int) -> Tensor:
    """0 in the warm-up, then rising in a line, by a step each epoch, to 1 once the ramp-up is over; 0-dim float32."""
    if rampup_epochs == 0:
        return started(progress, warmup_epochs)
    return ((progress - warmup_epochs) / rampup_epochs).clamp(0, 1)


def first_rows(volume: Tensor, num_rows: int) -> Tensor:
    """(B, C, T, H, W) -> its first rows, (num_rows, C, T, H, W), whose gradient has its channels last like the volume.

    That of a plain slice has them second, and so has all that is added to it on the way back.
    """
    return volume.movedim(1, -1)[:num_rows].movedim(-1, 1)


def pseudo_label_metrics(labels: Tensor, mask: Tensor, true_labels: Tensor | None) -> dict[str, Tensor]:
    """Measure pseudo-labels.

    Args:
        labels: (B,) int64 pseudo-labels, or (M, B) where M networks have theirs.
        mask: of the same shape, bool, True where kept.
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
