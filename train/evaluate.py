"""How good a network is on the validation videos.

Promises numbers as the reference computes them: the mean of the logits over the views of a video, then top-1, top-5
and per-class accuracy.  Functions of (network, views, labels) alone; which views are cut is left to
:mod:`pipeline.evaluation`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from model import normalize
from pipeline.batch import Views


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


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Score one row of logits per video.

    Args:
        logits: (N, K) float, N >= 1.
        labels: (N,) int64 in 0..K-1.
    """
    assert len(logits) == len(labels) > 0, f"{len(logits)} rows of logits for {len(labels)} labels"
    logits, labels = logits.cpu(), labels.cpu()
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


def evaluate_center(recognizer: nn.Module, views: Iterable[tuple[Tensor, Views]], labels: np.ndarray) -> Accuracy:
    """Accuracy on one center clip per video.

    Args:
        recognizer: normalised clips in, (logits, features) out.
        views: (ids, views) pairs: (B,) rows of the index and one clip of each.
        labels: (num_videos,) int64 class of every row of the index.
    """
    with _evaluating(recognizer) as logits_of:
        rows = [(ids, logits_of(clips.rgb)) for ids, clips in views]
    ids = torch.cat([ids for ids, _ in rows])
    return accuracy(torch.cat([logits for _, logits in rows]), torch.from_numpy(labels)[ids])


def evaluate_test(recognizer: nn.Module, views: Iterable[tuple[int, Views]], labels: np.ndarray) -> Accuracy:
    """Accuracy on the mean of the logits over all views of a video, usually 10 clips x 3 crops.

    Args:
        recognizer: normalised clips in, (logits, features) out.
        views: (id, views) pairs: a row of the index and all clips of that video.
        labels: (num_videos,) int64 class of every row of the index.
    """
    with _evaluating(recognizer) as logits_of:
        rows = [(row, logits_of(clips.rgb).mean(dim=0)) for row, clips in views]
    ids = torch.tensor([row for row, _ in rows])
    return accuracy(torch.stack([logits for _, logits in rows]), torch.from_numpy(labels)[ids])


@contextmanager
def _evaluating(recognizer: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Turn dropout and batch statistics off; yields the function from pixels (B, T, H, W, 3) to logits (B, K)."""
    was_training = recognizer.training
    device = next(recognizer.parameters()).device

    def logits_of(pixels: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            logits: Tensor = recognizer(normalize(pixels.to(device)))[0]
        return logits.float()

    recognizer.eval()
    try:
        with torch.inference_mode():
            yield logits_of
    finally:
        recognizer.train(was_training)
