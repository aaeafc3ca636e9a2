"""TorchCodec and torchvision v2 in torch's DataLoader, as TorchCodec's tutorials do."""

from collections.abc import Iterator

from torch import Tensor
from torchcodec.decoders import VideoDecoder

from benchmarks.peer_loaders.common import Batch, Sample, crop, views, worker_batches


def batches(samples: list[Sample]) -> Iterator[Batch]:
    """See :mod:`benchmarks.peer_loaders.common`; the tensors are (B, T, 3, H, W)."""
    return worker_batches(samples, _load)


def _load(sample: Sample) -> tuple[Tensor, ...]:
    # "approximate" spares the scan of the file, which is of constant frame rate.
    decoder = VideoDecoder(sample.path, seek_mode="approximate", num_ffmpeg_threads=1)
    return views(crop(decoder.get_frames_at(sample.frames).data, sample.plan), sample.plan)
