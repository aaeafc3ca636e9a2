"""What counts and logits tell of the classes."""

import numpy as np

from train.report_classes import hardest_classes, telling_videos, top_confusions

NAMES = ("fall", "jump", "run", "nobody")
MATRIX = np.array([[5, 3, 2, 0], [0, 4, 0, 0], [1, 0, 1, 2], [0, 0, 0, 0]])


def test_hardest_classes_come_first_and_name_what_they_are_taken_for() -> None:
    scores = hardest_classes(MATRIX, NAMES)
    assert [(score.name, score.recall, score.num_videos) for score in scores] == [
        ("run", 0.25, 4),
        ("fall", 0.5, 10),
        ("jump", 1.0, 4),
    ]
    assert [(score.taken_for, score.num_taken) for score in scores] == [("nobody", 2), ("jump", 3), (None, 0)]
    assert len(hardest_classes(MATRIX, NAMES, limit=1)) == 1


def test_confusions_are_counted_by_pair_and_direction() -> None:
    pairs = [tuple(pair) for pair in top_confusions(MATRIX, NAMES)]
    assert pairs == [("fall", "jump", 3, 10), ("fall", "run", 2, 10), ("run", "nobody", 2, 4), ("run", "fall", 1, 4)]
    assert top_confusions(np.eye(4, dtype=np.int64), NAMES) == []


def test_telling_videos_are_the_surest_of_many_classes_wrong_ones_first() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    guesses = np.array([0, 0, 0, 1, 0, 0, 1])
    sure = np.array([9.0, 8.0, 7.0, 1.0, 3.0, 2.0, 1.0])
    logits = np.zeros((7, 2))
    logits[np.arange(7), guesses] = sure
    assert telling_videos(logits, labels, num_each=2) == [4, 6, 0, 3]
    assert telling_videos(logits, labels) == [4, 6, 5, 0, 3, 1, 2]
    assert telling_videos(1000 * logits, labels, num_each=1) == [4, 0]
