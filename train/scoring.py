"""How good networks are on the validation videos.

Promises numbers as the reference computes them: the mean of the logits over the views of a video (or, if asked for, of
the probabilities), then top-1, top-5 and per-class accuracy.  Functions of (networks, views, labels) alone; which views
are cut is left to :mod:`pipeline.evaluation`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model import normalize
from pipeline.batch import Modality, Views
from train.precision import Precision, autocast

ViewAverage = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Accuracy:
    """Accuracies as fractions, 0 to 1.

    Attributes:
        top1: share of the videos whose class is the first guess.
        top5: ... is among the first five guesses, or all K if K < 5; tells nothing unless K > 5, and is not shown.
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
        logits: (N, K) float32, on the host; of averaged probabilities their logarithms.
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
    assert len(labels) > 0, "no videos to score"
    num_classes = logits.shape[1]
    matrix = torch.from_numpy(confusion_matrix(logits, labels, num_classes))
    present, guessed, hit = matrix.sum(dim=1), matrix.sum(dim=0), matrix.diagonal()
    recall = hit / present.clamp(min=1)
    top5 = logits.topk(min(5, num_classes), dim=1).indices
    return Accuracy(
        top1=hit.sum().item() / len(labels),
        top5=(top5 == labels[:, None]).any(dim=1).double().mean().item(),
        mean_class=recall[(guessed + present) > 0].double().mean().item(),
        num_videos=len(labels),
    )


def merge_predictions(
    shares: Sequence[Mapping[Modality, Predictions]], order: np.ndarray
) -> dict[Modality, Predictions]:
    """Put together what several ranks predicted, each of other videos.

    Args:
        shares: of each rank; empty where it had no video.
        order: (num_videos,) rows of the index as they shall come; not all need to have been predicted.

    Returns:
        What each network says, by modality.
    """
    shares = [share for share in shares if share]
    place = {row: number for number, row in enumerate(order.tolist())}
    merged = {}
    for modality in shares[0]:
        rows = torch.cat([share[modality].rows for share in shares])
        sorting = torch.tensor([place[row] for row in rows.tolist()]).argsort()
        logits = torch.cat([share[modality].logits for share in shares])
        merged[modality] = Predictions(rows[sorting], logits[sorting])
    return merged


def confusion_matrix(logits: Tensor | np.ndarray, labels: Tensor | np.ndarray, num_classes: int) -> np.ndarray:
    """Count which class is taken for which.

    Args:
        logits: (N, K) float, on the host; the first of equal ones is the guess.
        labels: (N,) integer in 0..K-1, on the host.
        num_classes: K.

    Returns:
        (K, K) int64 counts of videos: rows are the true classes, columns the guessed ones.
    """
    assert logits.shape == (len(labels), num_classes), f"{logits.shape} logits for {len(labels)} labels"
    pairs = torch.as_tensor(labels) * num_classes + torch.as_tensor(logits).argmax(dim=1)
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).numpy()


def predict_center(
    networks: Mapping[Modality, nn.Module], views: Iterable[tuple[Tensor, Views]], precision: Precision = "fp32"
) -> dict[Modality, Predictions]:
    """Predict from one center clip per video.

    Args:
        networks: by the modality they see; normalised clips in, (logits, features) out.
        views: (rows, views) pairs: (B,) rows of the index and one clip of each, in the networks' modalities.
        precision: of the networks.

    Returns:
        What each network says, by modality.
    """
    with _evaluating(networks, precision) as logits_of:
        return _collect([(rows, logits_of(clips)) for rows, clips in views])


def predict_test(
    networks: Mapping[Modality, nn.Module],
    views: Iterable[tuple[int, Views]],
    average: ViewAverage = "logits",
    precision: Precision = "fp32",
) -> dict[Modality, Predictions]:
    """Predict from the mean over all views of a video, usually 10 clips x 3 crops.

    Args:
        networks: by the modality they see; normalised clips in, (logits, features) out.
        views: (row, views) pairs: a row of the index and all clips of that video, in the networks' modalities.
        average: of what the mean is taken; the paper's code takes logits.
        precision: of the networks.

    Returns:
        What each network says, by modality.
    """

    def mean_logits(clips: Views) -> dict[Modality, Tensor]:
        return {modality: _mean_over_views(logits, average) for modality, logits in logits_of(clips).items()}

    with _evaluating(networks, precision) as logits_of:
        return _collect([(torch.tensor([row]), mean_logits(clips)) for row, clips in views])


def _mean_over_views(logits: Tensor, average: ViewAverage) -> Tensor:
    """(V, K) logits -> (1, K) logits."""
    if average == "logits":
        return logits.mean(dim=0, keepdim=True)
    return logits.log_softmax(dim=1).logsumexp(dim=0, keepdim=True) - math.log(len(logits))


def _collect(parts: list[tuple[Tensor, dict[Modality, Tensor]]]) -> dict[Modality, Predictions]:
    if not parts:  # a rank may have no share in few videos
        return {}
    rows = torch.cat([rows for rows, _ in parts])
    return {m: Predictions(rows, torch.cat([logits[m] for _, logits in parts]).cpu()) for m in parts[0][1]}


@contextmanager
def _evaluating(
    networks: Mapping[Modality, nn.Module], precision: Precision
) -> Iterator[Callable[[Views], dict[Modality, Tensor]]]:
    """Turn dropout and batch statistics off; yields the function from views (B, T, H, W, 3) to logits (B, K)."""
    were_training = {modality: network.training for modality, network in networks.items()}

    def logits_of(clips: Views) -> dict[Modality, Tensor]:
        return {modality: _logits(network, clips.of(modality), precision) for modality, network in networks.items()}

    for network in networks.values():
        network.eval()
    try:
        with torch.inference_mode():
            yield logits_of
    finally:
        for modality, network in networks.items():
            network.train(were_training[modality])


def _logits(network: nn.Module, pixels: Tensor, precision: Precision) -> Tensor:
    device = next(network.parameters()).device
    with autocast(device, precision):
        logits: Tensor = network(normalize(pixels.to(device)))[0]
    return logits.float()
