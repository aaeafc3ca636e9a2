"""SPDL: threads, only the frames' own packets decoded, FFmpeg crops and scales; views by torchvision v2."""

from collections.abc import Iterator
from itertools import cycle

import spdl.io
import torch
from spdl.pipeline import PipelineBuilder
from torch import Tensor

from benchmarks.peer_loaders.common import BATCH_SIZE, NUM_WORKERS, Batch, Sample, views


def batches(samples: list[Sample], batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
    """See :mod:`benchmarks.peer_loaders.common`; the tensors are (B, T, 3, H, W)."""
    torch.set_num_threads(1)
    pipeline = (
        PipelineBuilder()
        .add_source(cycle(samples))
        .pipe(_load, concurrency=NUM_WORKERS, output_order="input")
        .aggregate(batch_size)
        .pipe(_collate)
        .add_sink(2)
        .build(num_threads=NUM_WORKERS)
    )
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


def _collate(clips: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(views) for views in zip(*clips, strict=True))


def _load(sample: Sample) -> tuple[Tensor, ...]:
    wanted = sorted(set(sample.frames))
    # Half a frame before the first to half a frame after the last: only these packets are read, from their keyframe on.
    packets = spdl.io.demux_video(sample.path, timestamp=_seconds(sample, wanted[0], wanted[-1]))
    if sample.path.endswith(".mp4"):
        # Much is decoded that is not wanted, and sample_decode_video scales whatever it decodes: 69 cpu-ms a clip of
        # H.264 where only the wanted frames are scaled against 105, 35 against 48 prepared.  MJPEG is 41 against 27.
        spans = (_seconds(sample, number, number) for number in wanted)
        select = "+".join(f"between(t,{start:.4f},{stop:.4f})" for start, stop in spans)
        frames = spdl.io.decode_packets(packets, filter_desc=f"select='{select}',{_filter(sample)}")
    else:
        frames = spdl.io.sample_decode_video(
            packets, [number - wanted[0] for number in wanted], filter_desc=_filter(sample)
        )
    array = spdl.io.to_torch(spdl.io.convert_frames(frames))
    order = [wanted.index(number) for number in sample.frames]
    return views(array[order].permute(0, 3, 1, 2), sample.plan)


def _seconds(sample: Sample, first: int, last: int) -> tuple[float, float]:
    return (first - 0.5) / sample.fps, (last + 0.5) / sample.fps


def _filter(sample: Sample) -> str:
    x, y, width, height = sample.plan.box
    out_width, out_height = sample.plan.size
    flip = "hflip," if sample.plan.flip else ""
    return f"crop={width}:{height}:{x}:{y}:exact=1,scale={out_width}:{out_height}:flags=bilinear,{flip}format=rgb24"
