"""PyAV, torchvision v2 and torch's DataLoader: what a user writes who wants no further dependency."""

from collections.abc import Iterator

import av
import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_loaders.common import BATCH_SIZE, Batch, Sample, crop, views, worker_batches


def batches(samples: list[Sample], batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
    """See :mod:`benchmarks.peer_loaders.common`; the tensors are (B, T, 3, H, W)."""
    return worker_batches(samples, _load, batch_size)


def _load(sample: Sample) -> Batch:
    return views(crop(_decode(sample), sample.plan), sample.plan)


def _decode(sample: Sample) -> Tensor:
    """Seek to the keyframe before the first frame, decode up to the last, convert only the frames wanted."""
    wanted = sample.frames
    found: dict[int, np.ndarray] = {}
    with av.open(sample.path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        assert stream.time_base is not None
        ticks = 1 / (sample.fps * float(stream.time_base))
        start = stream.start_time or 0
        container.seek(start + round(min(wanted) * ticks), stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            number = round((frame.pts - start) / ticks)
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
            if number >= max(wanted):
                break
    return torch.from_numpy(np.stack([found[number] for number in wanted])).permute(0, 3, 1, 2)
