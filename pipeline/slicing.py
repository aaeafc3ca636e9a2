"""From the frames a clip needs to the packets that yield them, and no others.

Works for ``sliceable`` records.  A frame needs its own packet and those before it, back to one where decoding can
start; packets that nothing refers to are left out where their own frame is not wanted, and GOPs a clip does not touch
are neither read nor decoded.  Packets come in runs, each to be decoded by itself.

Promises: nothing is read outside the video, whatever the packet table says.  Left to others: decoding
(:mod:`pipeline.decode` by FFmpeg, :mod:`pipeline.graph` by DALI) and records that cannot be sliced (they are decoded
from the whole file).
"""

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadVideo
from pipeline.record import CLOSED, DISPOSABLE, OPEN, VideoRecord

_MAX_GAP = 16 * 1024  # bytes of sound between two packets that are cheaper to read than to skip


class PacketSlice(NamedTuple):
    """The packets of one clip.

    Attributes:
        packets: payloads in decoding order.
        frames: (M,) for each packet, the number of the frame it yields in the whole video, or -1 where it yields none.
        first: (M,) bool: the packet begins a run, which a decoder takes with no memory of the runs before.
    """

    packets: list[memoryview]
    frames: np.ndarray
    first: np.ndarray


def needed_packets(record: VideoRecord, frames: np.ndarray, *, closed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Packets that decoding the given frames takes.

    Args:
        record: a sliceable record.
        frames: (N,) frame numbers in [0, num_frames), any order, repeats allowed.
        closed: start runs at CLOSED packets only, so that a decoder which does not know of runs decodes them too.

    Returns:
        (M,) int64 packet numbers, ascending, and (M,) bool, whether a run begins there.

    Raises:
        BadVideo: the packet table does not hold the frames.
    """
    assert record.sliceable and frames.min() >= 0 and frames.max() < record.num_frames, (record.path, frames)
    marks = np.zeros(record.num_frames + 2, bool)  # one more at each end, for whatever else a damaged table may hold
    marks[frames + 1] = True
    is_wanted = marks.take(record.frames + 1, mode="clip")
    last = np.flatnonzero(is_wanted)
    if len(last) != np.count_nonzero(marks):
        raise BadVideo(record.path, "its packet table is damaged: index it again")
    start, stop = _starts(record, last, closed), last + 1
    # Packets that yield no frame belong to the one before: the second field of a picture, a placeholder.
    yields = record.frames >= 0
    if not yields.all():
        yielding = np.append(np.flatnonzero(yields), len(yields))
        stop = yielding[np.searchsorted(yielding, last, side="right")]
        is_wanted = is_wanted | ~yields | ~np.append(yields[1:], True)
    if len(start) > 1 and (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        start, stop = start[order], np.maximum.accumulate(stop[order])
    apart = np.flatnonzero(start[1:] > stop[:-1])
    first, length = start[np.append(0, apart + 1)], stop[np.append(apart, -1)]
    length = length - first
    run = np.repeat(np.arange(len(first)), length)
    needed = np.arange(len(run)) + (first - np.cumsum(length) + length)[run]
    kept = is_wanted[needed] | (record.roles[needed] != DISPOSABLE)
    run = run[kept]
    return needed[kept], np.append(True, run[1:] > run[:-1])


def _starts(record: VideoRecord, last: np.ndarray, closed: bool) -> np.ndarray:
    """The packet from which to decode for each of the packets whose frames are wanted.

    Frames displayed before an OPEN packet's own cannot be decoded from there, though they come after it; from packet 0
    everything is decoded as in the whole file.
    """
    at = np.flatnonzero(record.roles >= (CLOSED if closed else OPEN))
    at = at if len(at) and at[0] == 0 else np.append(0, at)
    nth = np.searchsorted(at, last, side="right") - 1
    while True:
        leading = (record.roles[at[nth]] == OPEN) & (record.frames[at[nth]] > record.frames[last]) & (nth > 0)
        if not leading.any():
            return at[nth]
        nth = nth - leading


def slice_clip(record: VideoRecord, frames: np.ndarray, *, closed: bool = False) -> PacketSlice:
    """Read the packets that decoding the given frames takes.

    Args:
        record: a sliceable record.
        frames: (N,) frame numbers in [0, num_frames), any order, repeats allowed.
        closed: start runs at CLOSED packets only, so that a decoder which does not know of runs decodes them too.

    Raises:
        BadVideo: the file is gone, unreadable, or has changed since it was scanned, or its packet table is damaged.
    """
    needed, first = needed_packets(record, frames, closed=closed)
    try:
        fd = os.open(record.file, os.O_RDONLY)
    except OSError as error:
        raise BadVideo(record.path, f"{_subject(record)}cannot be opened any more: {error.strerror}") from error
    try:
        check_unchanged(record, os.fstat(fd))
        packets = _read(fd, record, record.offsets[needed], record.sizes[needed].astype(np.int64))
    except OSError as error:
        raise BadVideo(record.path, f"{_subject(record)}cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
    return PacketSlice(packets, record.frames[needed], first)


def clip_ranges(record: VideoRecord, frames: np.ndarray) -> list[tuple[int, int]]:
    """Which bytes of the video :func:`slice_clip` reads: where each range begins, and how long it is."""
    needed, _ = needed_packets(record, frames)
    offsets = record.offsets[needed]
    ends = offsets + record.sizes[needed]
    return [(int(offsets[a]), int(ends[b - 1] - offsets[a])) for a, b in _close_together(offsets, ends)]


def _close_together(offsets: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Packets from the first to before the second of each pair are read in one go."""
    gaps = offsets[1:] - ends[:-1]
    breaks = np.flatnonzero((gaps < 0) | (gaps > _MAX_GAP)) + 1
    return pairwise([0, *breaks.tolist(), len(offsets)])


def check_unchanged(record: VideoRecord, stat: os.stat_result) -> None:
    """Raise BadVideo if the file is not the one that was scanned, by its size and modification time.

    Args:
        record: as it was scanned.
        stat: of ``record.file`` by now.
    """
    if (stat.st_size, stat.st_mtime_ns) != (record.tar_size if record.tar else record.file_size, record.mtime_ns):
        raise BadVideo(record.path, f"{_subject(record)}has changed since it was indexed; index it again")


def _subject(record: VideoRecord) -> str:
    """Of which file a message speaks, where that is not the video's own."""
    return f"its tar {record.tar} " if record.tar else ""


def _read(fd: int, record: VideoRecord, offsets: np.ndarray, sizes: np.ndarray) -> list[memoryview]:
    """The packets, those close together in one go."""
    if (offsets < 0).any() or (sizes <= 0).any() or (sizes > record.file_size - offsets).any():
        raise BadVideo(record.path, "its packet table is damaged: index it again")
    ends = offsets + sizes
    packets: list[memoryview] = []
    for a, b in _close_together(offsets, ends):
        base, length = int(offsets[a]), int(ends[b - 1] - offsets[a])
        block = memoryview(os.pread(fd, length, record.start + base))
        if len(block) < length:
            raise BadVideo(record.path, "became shorter while it was read")
        spans = zip((offsets[a:b] - base).tolist(), (ends[a:b] - base).tolist(), strict=True)
        packets += [block[start:stop] for start, stop in spans]
    return packets
