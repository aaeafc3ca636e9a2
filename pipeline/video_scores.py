"""What an image network says of each video: a file of probabilities of the classes of ImageNet.

Promises that a file appears whole or not at all, that one which lacks a video or holds anything but probabilities is
refused before a training begins, and that scores stay in the file until they are asked for: those of 250,000 videos are
half a gigabyte.  A video that could not be read has zeros, from which nothing is learned.  Left to others: computing
scores (:mod:`train.score_images`), the loss.

The container is :mod:`pipeline.array_file`'s.  Its arrays: the videos' paths as bytes, ``paths``, each up to its
``paths_end``; and ``scores``, float16, those of the first video first.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.array_file import read_arrays, write_arrays
from pipeline.errors import InputError

NUM_SCORES = 1000
"""Classes of ImageNet-1k, in the order of its networks."""

_MAGIC = b"TGSCORE1"
_KIND = "file of scores"
_TOLERANCE = 0.01  # of the sum of a row; rounding to float16 moves it by 0.0005
_ROWS_AT_ONCE = 4096


class VideoScores:
    """Scores of the videos of an index, read from a file.

    Args:
        path: the file.
        paths: of all videos, by row of the index.
        rows: those that are asked for.

    Raises:
        InputError: the file cannot be read, is of another kind, lacks a video, or does not hold probabilities.
    """

    def __init__(self, path: Path, paths: Sequence[str], rows: np.ndarray) -> None:
        _, arrays, stored = read_arrays(path, _MAGIC, _KIND)
        ends, text = arrays["paths_end"].tolist(), arrays["paths"].tobytes()
        self._path, self._scores = path, stored["scores"]
        if self._scores.dtype != np.float16 or len(self._scores) != len(ends) * NUM_SCORES:
            raise InputError(
                f"{path} holds {len(self._scores)} {self._scores.dtype} scores of {len(ends)} videos, not "
                f"{NUM_SCORES} float16 ones of each: make it again"
            )
        places = {os.fsdecode(text[a:b]): place for place, (a, b) in enumerate(zip([0, *ends], ends, strict=False))}
        asked = [paths[row] for row in rows.tolist()]
        missing = [video for video in asked if video not in places]
        if missing:
            raise InputError(
                f"{path} says nothing of {len(missing)} of {len(asked)} videos, first {missing[0]}: make it again of "
                "the folder they are in"
            )
        self._places = np.full(len(paths), -1)
        self._places[rows] = [places[video] for video in asked]
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[at : at + _ROWS_AT_ONCE]
            bad = _not_probabilities(self.of(part))
            if bad.any():
                video = paths[int(part[bad.argmax()])]
                raise InputError(f"{path}: the scores of {video} are no probabilities: make it again")

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(B,) rows of the index -> (B, NUM_SCORES) float32, each with the sum 1 but for rounding, or 0.

        Raises:
            InputError: the file has been cut short meanwhile.
        """
        places = self._places[rows].tolist()
        assert min(places, default=0) >= 0, "these videos were not asked for"
        parts = [self._scores[place * NUM_SCORES : (place + 1) * NUM_SCORES] for place in places]
        if any(len(part) < NUM_SCORES for part in parts):
            raise InputError(f"{self._path} has been cut short while it was read: make it again")
        return np.array(parts, np.float32).reshape(-1, NUM_SCORES)


def write_video_scores(path: Path, videos: Sequence[str], scores: np.ndarray) -> None:
    """Write a file of scores, replacing an earlier one.

    Args:
        path: the file.
        videos: V paths relative to the folder of the videos, with "/", as in its index.
        scores: (V, NUM_SCORES) probabilities of any float type, kept as float16; or zeros of a video of which nothing
            is known.

    Raises:
        InputError: they are none.
    """
    if scores.shape != (len(videos), NUM_SCORES):
        raise InputError(f"scores of shape {scores.shape} for {len(videos)} videos: {NUM_SCORES} of each are wanted")
    bad = _not_probabilities(scores)
    if bad.any():
        raise InputError(
            f"the scores of {videos[int(bad.argmax())]} are no probabilities: take the softmax of the logits"
        )
    names = [os.fsencode(video) for video in videos]
    arrays: dict[str, np.ndarray] = {
        "paths": np.frombuffer(b"".join(names), np.uint8),
        "paths_end": np.cumsum([len(name) for name in names], dtype=np.int64),
    }
    write_arrays(path, _MAGIC, {}, arrays, {"scores": scores.astype(np.float16).ravel()})


def _not_probabilities(scores: np.ndarray) -> np.ndarray:
    """(B, S) -> (B,) bool; written so that NaN is none, and zeros are."""
    sums = scores.sum(axis=1, dtype=np.float64)
    bad: np.ndarray = ~((scores.min(axis=1) >= 0) & ((np.abs(sums - 1) <= _TOLERANCE) | (sums == 0)))
    return bad
