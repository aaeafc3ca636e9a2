"""What evaluation and PreciseBN see: centre clips, and ten clips of three crops, decoded ahead of the network.

Image networks see single frames, from all over a video.

Promises of evaluation: no randomness, each video once over all ranks in the order asked for, one decode a video.  A
video that cannot be read or decoded is left out and named; nothing is shown in its place, since that would count
another twice.  Ranks have every ``world_size``-th video, so their shares differ by one at most: sum hits and counts
over the ranks, then divide; means of the ranks' accuracies are wrong.  Left to others: the network and the scores.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pipeline.background import read_ahead
from pipeline.batch import Views
from pipeline.errors import BadVideo
from pipeline.graph import ClipGraph, GraphSpec, Sample
from pipeline.index import VideoIndex
from pipeline.loader import Branch, choose_decoder, sound_batches
from pipeline.plan import NUM_TEST_CLIPS, ClipPlan, ClipSpec, Shape, plan_center, plan_test
from pipeline.quarantine import BadSamples, GuardedGraph, Quarantine
from pipeline.record import VideoRecord
from pipeline.stream import ClipStream, check_rank

log = logging.getLogger(__name__)


@contextmanager
def unlogged() -> Iterator[None]:
    """Context in which the log does not name the videos that are left out, for those who do."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    log.addFilter(drop)
    try:
        yield
    finally:
        log.removeFilter(drop)


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
    rank: int = 0,
    world_size: int = 1,
    skipped: dict[str, str] | None = None,
) -> Iterator[tuple[Tensor, Views]]:
    """One clip from the middle of each video, centre crop: validation during training.

    Args:
        index: the videos.
        rows: (N,) rows of the index.
        spec: what a clip is.
        batch_size: most videos in a batch.
        tg: temporal gradients beside RGB.
        device: "cpu", "cuda" or "cuda:N".
        decoder: as for :class:`pipeline.loader.ClipLoader`.
        num_threads: threads that decode.
        rank: which share of the rows is shown.
        world_size: ranks.
        skipped: takes the reason, by path, for each video that could not be shown; those already in it are not named
            in the log again.

    Yields:
        (B,) int64 rows on the host, and views of (B, T, H, W, C) uint8 with H = W = ``spec.size``.
    """
    check_rank(rank, world_size)
    spec = spec if tg else replace(spec, tg_stride=0)
    graph = _graph(index, rows, spec, spec.size, batch_size, 1, tg, device, decoder, num_threads)
    share = rows[rank::world_size]
    batches = _each_once(index, share, partial(plan_center, spec=spec), graph, batch_size, num_threads, skipped)
    for ids, views in batches:
        yield torch.tensor(ids), views


def frame_views(
    index: VideoIndex,
    rows: np.ndarray,
    num_frames: int,
    *,
    size: int = 224,
    eval_size: int = 256,
    batch_size: int,
    device: str = "cpu",
    decoder: str = "auto",
    num_threads: int = 2,
    skipped: dict[str, str] | None = None,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Frames in the middle of equal parts of each video, centre crop: for networks that classify images.

    Args:
        index: the videos.
        rows: (N,) rows of the index.
        num_frames: F, parts that a video is divided into; a frame of a short video may come twice.
        size: of the crop in pixels, of a frame whose short side is ``eval_size``.
        eval_size: which of the frame's pixels that are.
        batch_size: most videos in a batch.
        device: "cpu", "cuda" or "cuda:N".
        decoder: as for :class:`pipeline.loader.ClipLoader`.
        num_threads: threads that decode.
        skipped: as for :func:`center_views`.

    Yields:
        (B,) int64 rows on the host, and (B, F, size, size, 3) uint8 RGB.
    """
    spec = ClipSpec(clip_len=num_frames, frame_stride=1, size=size, eval_size=eval_size, tg_stride=0)
    graph = _graph(index, rows, spec, size, batch_size, 1, False, device, decoder, num_threads)

    def plan(record: VideoRecord) -> ClipPlan:
        frames = (2 * np.arange(num_frames) + 1) * record.num_frames // (2 * num_frames)
        return replace(plan_center(record, spec), frames=frames, later=frames)

    for ids, views in _each_once(index, rows, plan, graph, batch_size, num_threads, skipped):
        yield torch.tensor(ids), views.rgb


def multi_views(
    index: VideoIndex,
    rows: np.ndarray,
    spec: ClipSpec,
    *,
    tg: bool = False,
    device: str = "cpu",
    decoder: str = "auto",
    num_threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    skipped: dict[str, str] | None = None,
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
        rank: which share of the rows is shown.
        world_size: ranks.
        skipped: as for :func:`center_views`.

    Yields:
        Row, and views of (30, T, H, W, C) uint8 with H = W = ``spec.eval_size``: all crops of the first clip first.
    """
    check_rank(rank, world_size)
    spec = spec if tg else replace(spec, tg_stride=0)
    graph = _graph(index, rows, spec, spec.eval_size, 1, NUM_TEST_CLIPS, tg, device, decoder, num_threads)
    share = rows[rank::world_size]

    def plan(record: VideoRecord) -> ClipPlan:
        return plan_test(record, spec)[0]

    for (row,), views in _each_once(index, share, plan, graph, 1, num_threads, skipped):
        corners = plan_test(index[row], spec)[1]
        crops = [None if view is None else _crops(view[0], spec, corners) for view in views]
        assert crops[0] is not None
        yield row, Views(crops[0], crops[1])


def precise_bn_views(
    index: VideoIndex,
    rows: np.ndarray,
    spec: ClipSpec,
    *,
    seed: int,
    pass_number: int,
    batch_size: int,
    num_batches: int,
    tg: bool = False,
    device: str = "cpu",
    decoder: str = "auto",
    num_threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    max_bad_fraction: float = 0.01,
) -> Generator[tuple[Tensor, Views], None, None]:
    """Clips to compute the statistics of BatchNorm on anew: centre clips in a shuffled order.

    Every rank gets ``num_batches`` whole batches.  Where the videos do not last that long they come again, in another
    order.  A video that cannot be read or decoded is replaced as in training.

    Args:
        index: the videos.
        rows: (N,) rows of the index, those of the unlabeled videos.
        spec: what a clip is.
        seed: of the run.
        pass_number: another one gives another order.
        batch_size: clips in a batch of one rank.
        num_batches: batches.
        tg: temporal gradients beside RGB.
        device: "cpu", "cuda" or "cuda:N".
        decoder: as for :class:`pipeline.loader.ClipLoader`.
        num_threads: threads that decode.
        rank: which part of the global batch is made here, as for :class:`pipeline.loader.ClipLoader`.
        world_size: ranks.
        max_bad_fraction: how much of the videos may be bad before it is an error; one always may.

    Yields:
        (B,) int64 rows on the host, and views of (B, T, H, W, C) uint8 with H = W = ``spec.size``.

    Raises:
        TooManyBadVideos: more than that are; names them.
    """
    spec = spec if tg else replace(spec, tg_stride=0)
    quarantine = Quarantine(index.paths, len(rows), max_bad_fraction)
    stream = _CenterStream(
        index,
        rows,
        spec,
        seed=seed,
        name=f"precise_bn/{pass_number}",
        batch_size=batch_size,
        rank=rank,
        world_size=world_size,
        quarantine=quarantine,
    )
    graph = _graph(index, rows, spec, spec.size, batch_size, 1, tg, device, decoder, num_threads)
    for (part,) in islice(sound_batches([Branch(stream, graph)], quarantine, num_threads, 0), num_batches):
        yield torch.from_numpy(part.rows), Views(**part.weak)


class _CenterStream(ClipStream):
    """Random order, but always the clip in the middle."""

    def _plans(self, rows: np.ndarray, epoch: int, place: int) -> list[ClipPlan]:
        sizes = map(tuple, self.index.display_sizes[rows].tolist())
        shapes = map(Shape, self.index.num_frames[rows].tolist(), sizes)
        return [plan_center(shape, self.spec) for shape in shapes]


def _graph(
    index: VideoIndex,
    rows: np.ndarray,
    spec: ClipSpec,
    size: int,
    batch_size: int,
    num_clips: int,
    tg: bool,
    device: str,
    decoder: str,
    num_threads: int,
) -> GuardedGraph:
    """What makes weak views of so many clips a video."""
    decoder = choose_decoder(index, rows, decoder, device)
    shown = GraphSpec(spec.clip_len, tg, False, decoder, tg_form=spec.tg_form, num_clips=num_clips)
    return GuardedGraph(partial(ClipGraph, shown, size, device=device, num_threads=num_threads), batch_size)


def _each_once(
    index: VideoIndex,
    rows: np.ndarray,
    plan: Callable[[VideoRecord], ClipPlan],
    graph: GuardedGraph,
    batch_size: int,
    num_threads: int,
    skipped: dict[str, str] | None,
) -> Iterator[tuple[list[int], Views]]:
    """Rows and their weak views; bad videos are left out."""
    skipped = {} if skipped is None else skipped

    def read(row: int) -> Sample | BadVideo:
        return graph.read(index, row, plan)

    def skip(row: int, reason: str) -> None:
        path = index.paths[row]
        if path not in skipped:
            log.warning("%s is not evaluated: %s", path, reason)
        skipped[path] = reason

    batches = (rows[at : at + batch_size].tolist() for at in range(0, len(rows), batch_size))
    with closing(read_ahead(batches, read, num_threads)) as ahead:
        for ids, results in ahead:
            good: dict[int, Sample] = {}
            for row, result in zip(ids, results, strict=True):
                sample = result()
                if isinstance(sample, BadVideo):
                    skip(row, sample.reason)
                else:
                    good[row] = sample
            views = None
            while good and views is None:
                try:
                    views, _ = graph(list(good.values()))
                except BadSamples as error:
                    bad = {list(good)[place]: reason for place, reason in error.reasons.items()}
                    for row, reason in bad.items():
                        skip(row, reason)
                        del good[row]
            if views is not None:
                yield list(good), views


def _crops(frames: Tensor, spec: ClipSpec, corners: np.ndarray) -> Tensor:
    """(clips * crops, T, S, S, C) out of (clips * T, H, W, C)."""
    size = spec.eval_size
    clips = frames.reshape(-1, spec.clip_len, *frames.shape[1:])
    crops = [clips[:, :, y : y + size, x : x + size] for y, x in corners.tolist()]
    return torch.stack(crops, dim=1).flatten(0, 1)
