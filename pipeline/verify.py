"""DALI's decoding of slices, held against its decoding of whole files: what cannot be tested where there is no GPU.

Decoders differ in what they make of a stream that was cut, and NVDEC's cannot be known beforehand; so before training
one video of each codec is decoded both ways.  Left to others: choosing the decoder (:mod:`pipeline.loader`).
"""

import time
from dataclasses import replace

import numpy as np
import torch

from pipeline.decode import decode_clip
from pipeline.errors import BadVideo
from pipeline.graph import ClipGraph, GraphSpec
from pipeline.index import VideoIndex
from pipeline.plan import ClipPlan
from pipeline.record import VideoRecord

_NUM_FRAMES = 8
_MAX_UNREADABLE = 5  # videos of a codec that cannot be read before its slices are taken to be unfit


def slices_decode_alike(record: VideoRecord, device: str) -> bool:
    """Whether DALI makes the same pixels of a slice as of the whole file.

    Args:
        record: a joinable record.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        BadVideo: the file cannot be read, or DALI cannot decode the whole of it either.
    """
    plan = _plan(record)
    spec = GraphSpec(_NUM_FRAMES, tg=False, strong=False, decoder="dali")
    graph = ClipGraph(spec, size=plan.size[0], batch_size=1, device=device, num_threads=1)
    try:
        whole = graph([graph.read(replace(record, sliceable=False), plan)])[0].rgb
    except RuntimeError as error:  # DALI's errors
        raise BadVideo(record.path, f"DALI cannot decode it: {error}") from error
    try:
        sliced = graph([graph.read(record, plan)])[0].rgb
    except RuntimeError:
        return False
    return torch.equal(sliced, whole)


def reason_against_slices(index: VideoIndex, rows: np.ndarray, device: str) -> str | None:
    """Why DALI cannot be trusted with slices of these videos, and what decoding them elsewhere costs; None if it can.

    Args:
        index: the videos.
        rows: those that will be decoded.
        device: "cpu", "cuda" or "cuda:N".
    """
    for codec, candidates in index.joinable_by_codec(rows).items():
        for row in candidates[:_MAX_UNREADABLE].tolist():
            try:
                record = index[row]
                if slices_decode_alike(record, device):
                    break
                return _reason(record)
            except BadVideo:  # FFmpeg's too, in the latter: such a video tells nothing of DALI
                continue
        else:
            if len(candidates) >= _MAX_UNREADABLE:
                return (
                    f"none of the first {_MAX_UNREADABLE} {codec} videos could be decoded by DALI: all videos are "
                    "decoded by FFmpeg on the CPU instead"
                )
    return None


def _plan(record: VideoRecord) -> ClipPlan:
    """The first frame, and some from the middle, which take two runs of packets in most files."""
    middle = record.num_frames // 2 + np.arange(_NUM_FRAMES - 1)
    frames = np.append(0, np.minimum(middle, record.num_frames - 1))
    return ClipPlan(frames, frames, (0, 0, record.width, record.height), False, (record.width, record.height))


def _reason(record: VideoRecord) -> str:
    plan = _plan(record)
    start = time.thread_time()
    decode_clip(record, plan.frames, plan.box, plan.flip, plan.size)
    cost = (time.thread_time() - start) * 1000
    return (
        f"DALI decodes the packets of a {record.codec} clip otherwise than the whole file ({record.path}): all videos "
        f"are decoded by FFmpeg on the CPU instead, which takes about {cost:.0f} ms of a core for {_NUM_FRAMES} frames "
        "of this one"
    )
