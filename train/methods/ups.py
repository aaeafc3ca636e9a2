"""UPS: a training in rounds; what the network of one round is certain of in unlabeled videos teaches that of the next.

"In Defense of Pseudo-Labeling: An Uncertainty-Aware Pseudo-label Selection Framework for Semi-Supervised Learning"
(Rizve et al. 2021).  The first round learns from labels alone.  After each, the network sees every unlabeled video with
ten dropouts: a class that is probable and varies little becomes the video's pseudo-label; else classes that are
improbable and vary little are its negatives, which it is taught not to show.  Each round begins with new weights.
Facts were checked against the authors' code, nayeemrizve/ups, which is for CIFAR.

What differs from that code.  A step has its fixed numbers of labeled and unlabeled clips, so that labeled videos are
seen oftener than those with pseudo-labels, and unlabeled ones that teach nothing pass through the network too; there a
step draws from labels and pseudo-labels alike.  Rounds divide the epochs among them, there 20 have 1024 epochs each.
Dropout is that before the classifier, so the passes share the features; there it lies between convolutions.  Videos
with a label are not judged, also where they count among the unlabeled ones.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from model import R3D18, normalize
from pipeline.batch import ClipBatch, Needs, Views
from pipeline.errors import InputError
from train.losses import masked_cross_entropy, mean_over_ranks, negative_cross_entropy
from train.methods.base import Method, check_probability, eager_range, pseudo_label_metrics

_LEAST_COUNT = 1e-6  # less than the mean over any number of ranks where one of them has one


@dataclass(frozen=True)
class Config:
    """Constants of UPS as its code has them, but for the number of rounds."""

    num_rounds: int = 5
    """Parts that the epochs, and the warm-up of the learning rate, are divided into; the paper's code has 20."""
    threshold: float = 0.7
    """Least probability, the mean of all passes, of a class that becomes a pseudo-label, 0 to 1."""
    max_deviation: float = 0.05
    """Standard deviation over the passes that the probability of a pseudo-label stays below."""
    negative_threshold: float = 0.05
    """Probability, the mean of all passes, that a negative class stays below."""
    negative_max_deviation: float = 0.005
    """Standard deviation over the passes that the probability of a negative class stays below."""
    negative_temperature: float = 2.0
    """Divides the logits from which negative classes are chosen; their loss has none."""
    negative_weight: float = 1.0
    """Weight of the loss of negative classes."""
    num_passes: int = 10
    """Times that a video is judged, each with another dropout."""
    balanced_rounds: int = 0
    """Rounds, after the first, for which each class gets equally many pseudo-labels; the authors' commands have 6 of 19
    for CIFAR-10 and none for CIFAR-100."""
    min_per_class: int = 25
    """Pseudo-labels that a class may get in those rounds in any case, however few the rarest class has."""

    def __post_init__(self) -> None:
        for name in ("num_rounds", "min_per_class"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: take 1 or more")
        check_probability("threshold", self.threshold)
        if self.num_passes < 2:
            raise InputError(f"num_passes {self.num_passes} have no standard deviation: take 2 or more, 10 is usual")
        if self.negative_temperature <= 0:
            raise InputError(f"negative_temperature {self.negative_temperature}: take more than 0, 2 is usual")
        for name in ("max_deviation", "negative_threshold", "negative_max_deviation", "balanced_rounds"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} is negative: take 0 or more")


class UPS(Method):
    """One RGB network, and for each video a pseudo-label, or negative classes, or nothing.

    Args:
        num_classes: K.
        config: its constants.
        width: channels of the network's stem.
        dropout: before the classifier, in the passes too: without any they are all alike, and nothing is uncertain.
    """

    needs = Needs(unlabeled=True, rows=True)
    config_type: ClassVar = Config
    pseudo_labels: Tensor  # (num_videos,) int64, -1 for none
    negatives: Tensor  # (num_videos, K) bool
    num_selections: Tensor  # 0-dim int64, rounds begun after the first

    def __init__(self, num_classes: int, config: Config, width: int = 64, dropout: float = 0.5) -> None:
        super().__init__()
        self.config = config
        self.num_rounds = config.num_rounds
        self._new_network = partial(R3D18, num_classes, width, dropout)
        self.rgb = self._new_network()

    @property
    def recognizer(self) -> R3D18:
        """The RGB network."""
        return self.rgb

    @classmethod
    def smallest_batch(cls, config: Config, batch_labeled: int, batch_unlabeled: int) -> int:
        """All clips are one batch."""
        return batch_labeled + batch_unlabeled

    def keep_videos(self, num_videos: int) -> None:
        """As :meth:`Method.keep_videos`; nothing is known of any video yet."""
        self.register_buffer("pseudo_labels", torch.full((num_videos,), -1))
        self.register_buffer("negatives", torch.zeros(num_videos, self.rgb.classifier.out_features, dtype=torch.bool))
        self.register_buffer("num_selections", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: ClipBatch, progress: Tensor) -> dict[str, Tensor]:
        """Compute "loss", its terms "supervised", "pseudo_label" and "negative", and pseudo-label metrics.

        The first two are the cross-entropy of labeled clips and of clips with pseudo-labels, both divided by the number
        of both, so that their sum is the mean; "negative" is a mean over the clips that have negatives.
        """
        assert batch.weak is not None
        assert batch.rows is not None
        with eager_range("forward rgb"):
            logits, _ = self.rgb(normalize(torch.cat([batch.labeled.rgb, batch.weak.rgb])))
        num_labeled, num_unlabeled = len(batch.labels), len(batch.rows)
        labeled, weak = logits.split_with_sizes([num_labeled, num_unlabeled])

        with eager_range("losses"):
            labels, negatives = self.pseudo_labels[batch.rows], self.negatives[batch.rows]
            kept, has_negatives = labels >= 0, negatives.any(dim=1)
            counts = torch.stack([kept.sum(), has_negatives.sum()]).float()
            num_kept, num_with_negatives = mean_over_ranks(counts).unbind()
            num_taught = num_labeled + num_kept
            supervised = F.cross_entropy(labeled.float(), batch.labels) * num_labeled / num_taught
            pseudo_label = masked_cross_entropy(weak, labels.clamp(min=0), kept) * num_unlabeled / num_taught
            negative = negative_cross_entropy(weak, negatives).sum() / num_with_negatives.clamp(min=_LEAST_COUNT)
            return {
                "loss": supervised + pseudo_label + self.config.negative_weight * negative,
                "supervised": supervised,
                "pseudo_label": pseudo_label,
                "negative": negative,
                **pseudo_label_metrics(labels, kept, batch.unlabeled_labels),
            }

    def judge(self, clips: Views) -> Tensor:
        """As :meth:`Method.judge`, by MC-dropout.

        Returns:
            (B, 2 + K) float32: the pseudo-label, -1 for none; the standard deviation of its probability; and 1 for
            each class that is negative if the clip has no pseudo-label, else 0.
        """
        config = self.config
        _, features = self.rgb(normalize(clips.rgb))
        with torch.autocast(clips.rgb.device.type, enabled=False):  # as fine as the deviations that are asked for
            pooled = features[-1].float().mean(dim=(2, 3, 4))
            passes = pooled.expand(config.num_passes, *pooled.shape)
            logits = self.rgb.classifier(F.dropout(passes, self.rgb.dropout.p, training=True))
        mean, deviation = _statistics(logits)
        probability, label = mean.max(dim=1)
        label_deviation = deviation.gather(1, label[:, None]).squeeze(1)
        sure = (probability >= config.threshold) & (label_deviation < config.max_deviation)
        mean, deviation = _statistics(logits / config.negative_temperature)
        negatives = (mean < config.negative_threshold) & (deviation < config.negative_max_deviation)
        negatives &= ~F.one_hot(label, mean.shape[1]).bool()
        return torch.cat([label.where(sure, -1)[:, None], label_deviation[:, None], negatives], dim=1)

    def begin_round(self, rows: Tensor, judgments: Tensor, seed: int) -> str:
        """As :meth:`Method.begin_round`: choose pseudo-labels and negatives anew, and begin with new weights."""
        labels, deviations, negatives = judgments[:, 0].long(), judgments[:, 1], judgments[:, 2:].bool()
        kept = labels >= 0
        self.num_selections += 1
        if self.num_selections <= self.config.balanced_rounds:
            kept = most_certain(labels, deviations, negatives.shape[1], self.config.min_per_class)
        negatives &= ~kept[:, None]
        rows = rows.to(self.pseudo_labels.device)
        self.pseudo_labels.fill_(-1)
        self.pseudo_labels[rows] = labels.where(kept, -1).to(rows.device)
        self.negatives.fill_(False)
        self.negatives[rows] = negatives.to(rows.device)
        torch.manual_seed(seed)
        self.rgb.load_state_dict(self._new_network().state_dict())  # in place: the optimizer has these parameters
        return f"{kept.sum()} pseudo-labels, {negatives.any(dim=1).sum()} videos with negative ones"


def _statistics(logits: Tensor) -> tuple[Tensor, Tensor]:
    """(P, B, K) logits of passes -> mean and unbiased standard deviation of the probabilities, (B, K) each."""
    probabilities = logits.softmax(dim=2)
    return probabilities.mean(dim=0), probabilities.std(dim=0)


def most_certain(labels: Tensor, deviations: Tensor, num_classes: int, min_per_class: int) -> Tensor:
    """Choose equally many pseudo-labels of each class, those of the least deviation; all of a class that has fewer.

    Args:
        labels: (N,) int64, -1 for none.
        deviations: (N,) float.
        num_classes: K.
        min_per_class: how many each class may have in any case; else as many as the rarest class has.

    Returns:
        (N,) bool.
    """
    rarest = int(torch.bincount(labels[labels >= 0], minlength=num_classes).min())
    order = deviations.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    classes = labels[order]
    place_in_class = torch.empty_like(order)
    place_in_class[order] = torch.arange(len(order)) - torch.searchsorted(classes, classes)
    return (labels >= 0) & (place_in_class < max(min_per_class, rarest))
