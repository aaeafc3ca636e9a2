"""How good networks are on the validation videos.

Promises numbers as the reference computes them: the mean of the logits over the views of a video, then top-1, top-5
and per-class accuracy.  Functions of (networks, views, labels) alone; which views are cut is left to
:mod:`pipeline.evaluation`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model import normalize
from pipeline.batch import Modality, Views


@dataclass(frozen=True)
class Accuracy:
    """Accuracies as fractions, 0 to 1.

    Attributes:
        top1: share of the videos whose class is the first guess.
        top5: ... is among the first five guesses, or all K if K < 5.
        mean_class: recall of each class, averaged over the classes that occur among labels or guesses.  A class
            that is only guessed counts 0.
        num_videos: videos evaluated.
    """

    top1: float
    top5: float
    mean_class: float
    num_videos: int


class Predictions(NamedTuple):
    """What a network says of some videos.

    Attributes:
        rows: (N,) int64 rows of the index, on the host.
        logits: (N, K) float32, on the host.
    """

    rows: Tensor
    logits: Tensor

    def accuracy(self, labels: np.ndarray) -> Accuracy:
        """Score them.

        Args:
            labels: (num_videos,) int64 class of every row of the index.
        """
        return accuracy(self.logits, torch.from_numpy(labels)[self.rows])


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Score one row of logits per video.

    Args:
        logits: (N, K) float, on the host, N >= 1.
        labels: (N,) int64 in 0..K-1.
    """
    assert len(logits) == len(labels) > 0, f"{len(logits)} rows of logits for {len(labels)} labels"
    num_classes = logits.shape[1]
    top = logits.topk(min(5, num_classes), dim=1).indices
    right = top == labels[:, None]
    guessed = torch.bincount(top[:, 0], minlength=num_classes)
    present = torch.bincount(labels, minlength=num_classes)
    hit = torch.bincount(labels[right[:, 0]], minlength=num_classes)
    recall = hit / present.clamp(min=1)
    return Accuracy(
        top1=right[:, 0].double().mean().item(),
        top5=right.any(dim=1).double().mean().item(),
        mean_class=recall[(guessed + present) > 0].double().mean().item(),
        num_videos=len(labels),
    )


def predict_center(
    networks: Mapping[Modality, nn.Module], views: Iterable[tuple[Tensor, Views]]
) -> dict[Modality, Predictions]:
    """Predict from one center clip per video.

    Args:
        networks: by the modality they see; normalised clips in, (logits, features) out.
        views: (rows, views) pairs: (B,) rows of the index and one clip of each, in the networks' modalities.

    Returns:
        What each network says, by modality.
    """
    with _evaluating(networks) as logits_of:
        return _collect([(rows, logits_of(clips)) for rows, clips in views])


def predict_test(
    networks: Mapping[Modality, nn.Module], views: Iterable[tuple[int, Views]]
) -> dict[Modality, Predictions]:
    """Predict from the mean of the logits over all views of a video, usually 10 clips x 3 crops.

    Args:
        networks: by the modality they see; normalised clips in, (logits, features) out.
        views: (row, views) pairs: a row of the index and all clips of that video, in the networks' modalities.

    Returns:
        What each network says, by modality.
    """

    def mean_logits(clips: Views) -> dict[Modality, Tensor]:
        return {modality: logits.mean(dim=0, keepdim=True) for modality, logits in logits_of(clips).items()}

    with _evaluating(networks) as logits_of:
        return _collect([(torch.tensor([row]), mean_logits(clips)) for row, clips in views])


def _collect(parts: list[tuple[Tensor, dict[Modality, Tensor]]]) -> dict[Modality, Predictions]:
    rows = torch.cat([rows for rows, _ in parts])
    return {m: Predictions(rows, torch.cat([logits[m] for _, logits in parts]).cpu()) for m in parts[0][1]}


@contextmanager
def _evaluating(networks: Mapping[Modality, nn.Module]) -> Iterator[Callable[[Views], dict[Modality, Tensor]]]:
    """Turn dropout and batch statistics off; yields the function from views (B, T, H, W, 3) to logits (B, K)."""
    were_training = {modality: network.training for modality, network in networks.items()}

    def logits_of(clips: Views) -> dict[Modality, Tensor]:
        return {modality: _logits(network, clips.of(modality)) for modality, network in networks.items()}

    for network in networks.values():
        network.eval()
    try:
        with torch.inference_mode():
            yield logits_of
    finally:
        for modality, network in networks.items():
            network.train(were_training[modality])


def _logits(network: nn.Module, pixels: Tensor) -> Tensor:
    device = next(network.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        logits: Tensor = network(normalize(pixels.to(device)))[0]
    return logits.float()
