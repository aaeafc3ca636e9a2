"""The videos of a run: generated if the recipe says so, indexed, and divided.

Promises that a run which goes on sees the videos it began with, whatever has become of the files.  What an index holds
is left to :mod:`pipeline.index`, whose labels are used to :mod:`pipeline.datasets`.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.datasets import DataSplit, split_videos
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.synthetic import generate_motion_dataset
from pipeline.text import printable
from train.checkpoint import LAST
from train.config import Config
from train.distributed import ALONE, Ranks

INDEX = "index"
PARTIAL_INDEX = "index.partial"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Videos:
    """The videos of a run: what is in them, and which is used for what."""

    index: VideoIndex
    split: DataSplit


def prepare_videos(config: Config, ranks: Ranks = ALONE) -> Videos:
    """Generate the data set if the recipe has one, index the videos, and decide which labels are used.

    The first rank does; the others wait for it, and find the index in the run's folder.

    Args:
        config: resolved.
        ranks: those that train together.

    Raises:
        InputError: there are no usable videos, too few labels, or other videos than when the run began.
    """
    saved = config.run.dir / INDEX
    with ranks.together():
        if ranks.is_first:
            videos = _split(_index(config, saved), config)
            if ranks.world_size > 1:
                videos.index.save(saved)
    with ranks.together():
        if not ranks.is_first:
            videos = _split(VideoIndex.load(saved), config)
    return videos


def _split(index: VideoIndex, config: Config) -> Videos:
    return Videos(index, split_videos(index, config.data, seed=config.run.seed))


def _index(config: Config, saved: Path) -> VideoIndex:
    """The index of the videos, which the recipe may have to generate first."""
    data, generate = config.data, config.data.generate
    if generate is not None:
        generate_motion_dataset(data.root, **asdict(generate))
    previous = VideoIndex.load(saved) if saved.exists() else None
    index = _resumed_index(config, previous)
    return _scanned_index(config, previous) if index is None else index


def _scanned_index(config: Config, previous: VideoIndex | None) -> VideoIndex:
    """The index of the videos as they are now."""
    data = config.data
    if data.index:
        return VideoIndex.refresh(data.index, data.root)
    return VideoIndex.build(data.root, previous=previous, partial=config.run.dir / PARTIAL_INDEX)


def _resumed_index(config: Config, previous: VideoIndex | None) -> VideoIndex | None:
    """The index that a run began with, if it has begun: its rows must stay what they are, whatever files come and go.

    Raises:
        InputError: the videos were moved, and are not the same there.
    """
    if previous is None or not (config.run.dir / LAST).exists():
        return None
    root = config.data.root
    if previous.root != root.absolute():
        index = _scanned_index(config, None)
        difference = _first_difference(index, previous)
        if difference:
            raise InputError(
                f"the videos below {root} are not those the run in {config.run.dir} began with, for example "
                f"{difference}: restore them, or begin another run"
            )
        return index
    changes = previous.changed()
    for kind, what_follows in (("new", "ignored"), ("gone", "left out"), ("changed", "left out")):
        paths = [path for path, change in changes.items() if change == kind]
        if paths:
            log.warning("%s since the run began and %s: %d videos, %s first", kind, what_follows, len(paths), paths[0])
    return previous


def _first_difference(index: VideoIndex, previous: VideoIndex) -> str | None:
    """A video that only one of two indexes has, or that has other frames in one than in the other."""
    different = sorted(set(index.paths) ^ set(previous.paths))
    if different:
        return printable(different[0])
    shapes, before = (np.column_stack([one.num_frames, one.display_sizes]) for one in (index, previous))
    rows = np.flatnonzero((shapes != before).any(axis=1))
    if not len(rows):
        return None
    now, then = (f"{frames} frames of {width}x{height}" for frames, width, height in (shapes[rows[0]], before[rows[0]]))
    return f"{printable(index.paths[rows[0]])} ({now}, not {then})"


def describe_videos(videos: Videos) -> str:
    """How many videos there are and what they serve for, in one line."""
    split = videos.split
    return (
        f"{len(videos.index)} videos of {len(split.class_names)} classes: {len(split.unlabeled)} to train on, "
        f"{len(split.labeled)} of them with labels ({split.labels_from}; subset {split.digests['labeled']}), "
        f"{len(split.val)} to validate on"
    )
