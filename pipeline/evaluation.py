"""What evaluation sees: each video once, in the order asked for, decoded ahead of the network.

Promises: no randomness, no video twice or left out, one decode a video.  Left to others: the network and the scores.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.background import read_ahead
from pipeline.batch import Views
from pipeline.graph import ClipGraph, GraphSpec, Sample
from pipeline.index import VideoIndex
from pipeline.loader import choose_decoder
from pipeline.plan import NUM_TEST_CLIPS, ClipSpec, plan_center, plan_test


def center_views(
    index: VideoIndex,
    rows: np.ndarray,
    spec: ClipSpec,
    *,
    batch_size: int,
    tg: bool = False,
    device: str = "cpu",
    decoder: str = "auto",
    num_threads: int = 2,
) -> Iterator[tuple[Tensor, Views]]:
    """One clip from the middle of each video, centre crop: validation during training.

    Args:
        index: the videos.
        rows: (N,) rows of the index.
        spec: what a clip is.
        batch_size: videos in a batch; the last may be smaller.
        tg: temporal gradients beside RGB.
        device: "cpu", "cuda" or "cuda:N".
        decoder: as for :class:`pipeline.loader.ClipLoader`.
        num_threads: threads that decode.

    Yields:
        (B,) int64 rows on the host, and views of (B, T, H, W, C) uint8 with H = W = ``spec.size``.

    Raises:
        BadVideo: a video can no longer be read or decoded; names it.
    """
    spec = spec if tg else replace(spec, tg_stride=0)
    decoder = choose_decoder(index, rows, decoder, device)
    graph = ClipGraph(
        GraphSpec(spec.clip_len, tg, strong=False, decoder=decoder), spec.size, batch_size, device, num_threads
    )

    def read(row: int) -> Sample:
        record = index[row]
        return graph.read(record, plan_center(record, spec))

    batches = (rows[at : at + batch_size].tolist() for at in range(0, len(rows), batch_size))
    for ids, samples in read_ahead(batches, read, num_threads):
        yield torch.tensor(ids), graph(samples)[0]


def multi_views(
    index: VideoIndex,
    rows: np.ndarray,
    spec: ClipSpec,
    *,
    tg: bool = False,
    device: str = "cpu",
    decoder: str = "auto",
    num_threads: int = 2,
) -> Iterator[tuple[int, Views]]:
    """Ten clips of each video, three crops of each clip: the final test.

    Args:
        index: the videos.
        rows: (N,) rows of the index.
        spec: what a clip is.
        tg: temporal gradients beside RGB.
        device: "cpu", "cuda" or "cuda:N".
        decoder: as for :class:`pipeline.loader.ClipLoader`.
        num_threads: threads that decode.

    Yields:
        Row, and views of (30, T, H, W, C) uint8 with H = W = ``spec.eval_size``: all crops of the first clip first.

    Raises:
        BadVideo: a video can no longer be read or decoded; names it.
    """
    spec = spec if tg else replace(spec, tg_stride=0)
    decoder = choose_decoder(index, rows, decoder, device)

    num_frames = NUM_TEST_CLIPS * spec.clip_len
    graph = ClipGraph(GraphSpec(num_frames, tg, strong=False, decoder=decoder), spec.eval_size, 1, device, num_threads)

    def read(row: int) -> tuple[np.ndarray, Sample]:
        record = index[row]
        plan, corners = plan_test(record, spec)
        return corners, graph.read(record, plan)

    for (row,), ((corners, sample),) in read_ahead(([row] for row in rows.tolist()), read, num_threads):
        views = graph([sample])[0]
        crops = [None if view is None else _crops(view[0], spec, corners) for view in views]
        assert crops[0] is not None
        yield row, Views(crops[0], crops[1])


def _crops(frames: Tensor, spec: ClipSpec, corners: np.ndarray) -> Tensor:
    """(clips * crops, T, S, S, C) out of (clips * T, H, W, C)."""
    size = spec.eval_size
    clips = frames.reshape(-1, spec.clip_len, *frames.shape[1:])
    crops = [clips[:, :, y : y + size, x : x + size] for y, x in corners.tolist()]
    return torch.stack(crops, dim=1).flatten(0, 1)
