"""What predictions tell of the classes: which are hard, which is taken for which, and clips that show it.

Promises pure functions of counts and logits, with ties in the order of the classes.
"""

from typing import NamedTuple

import numpy as np


class ClassScore(NamedTuple):
    """How one class fared.

    Attributes:
        name: of the class.
        num_videos: that are of it.
        recall: share of these that are recognised, 0 to 1.
        taken_for: the class these are most often taken for; None where all are recognised.
        num_taken: how many are.
    """

    name: str
    num_videos: int
    recall: float
    taken_for: str | None
    num_taken: int


class Confusion(NamedTuple):
    """A pair of classes of which one is taken for the other: how often, and of how many."""

    name: str
    taken_for: str
    num_taken: int
    num_videos: int


def recalls_of(matrix: np.ndarray) -> np.ndarray:
    """(K,) share of each class's videos that are recognised; NaN where it has none."""
    present = matrix.sum(axis=1)
    shares: np.ndarray = np.where(present > 0, matrix.diagonal() / np.maximum(present, 1), np.nan)
    return shares


def hardest_classes(matrix: np.ndarray, class_names: tuple[str, ...], limit: int = 20) -> list[ClassScore]:
    """The classes of least recall, hardest first; classes without videos are passed over.

    Args:
        matrix: (K, K) counts, rows true, columns guessed.
        class_names: K names.
        limit: classes at most.
    """
    num_videos, recall = matrix.sum(axis=1), recalls_of(matrix)
    wrong = matrix - np.diag(matrix.diagonal())
    order = [label for label in np.argsort(recall, kind="stable").tolist() if num_videos[label]]
    scores = []
    for label in order[:limit]:
        other = int(wrong[label].argmax())
        num_taken = int(wrong[label, other])
        taken_for = class_names[other] if num_taken else None
        scores.append(
            ClassScore(class_names[label], int(num_videos[label]), float(recall[label]), taken_for, num_taken)
        )
    return scores


def top_confusions(matrix: np.ndarray, class_names: tuple[str, ...], limit: int = 15) -> list[Confusion]:
    """The pairs of classes that are confused most often, most frequent first.

    Args:
        matrix: (K, K) counts, rows true, columns guessed.
        class_names: K names.
        limit: pairs at most.
    """
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit].tolist()
    pairs = [divmod(place, len(matrix)) for place in order]
    return [
        Confusion(class_names[true], class_names[guess], int(wrong[true, guess]), int(matrix[true].sum()))
        for true, guess in pairs
        if wrong[true, guess]
    ]


def telling_videos(logits: np.ndarray, labels: np.ndarray, num_each: int = 4) -> list[int]:
    """Videos worth looking at: the surest of those guessed wrong and of those guessed right, of many classes.

    Args:
        logits: (N, K) float.
        labels: (N,) int64.
        num_each: wrong ones at most, and right ones.

    Returns:
        Rows of the logits, wrong ones first.
    """
    guesses, sure = logits.argmax(axis=1), _softmax(logits).max(axis=1)
    chosen: list[int] = []
    for is_right in (False, True):
        rows = [row for row in np.argsort(-sure, kind="stable").tolist() if (guesses[row] == labels[row]) == is_right]
        turns: dict[int, int] = {}  # of each class the surest come first, then the second ones of all
        keys = []
        for row in rows:
            label = int(labels[row])
            turns[label] = turns.get(label, -1) + 1
            keys.append(turns[label])
        chosen += [row for _, row in sorted(zip(keys, rows, strict=True), key=lambda pair: pair[0])][:num_each]
    return chosen


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return shares
