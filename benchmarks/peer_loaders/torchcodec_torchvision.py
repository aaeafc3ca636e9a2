"""TorchCodec and torchvision v2 in torch's DataLoader, as TorchCodec's tutorials do.

A decoder a clip and approximate seeking, as its authors advise for small files.  Cropping and resizing inside of the
decoder, which it can too, was dearer: cpu-ms up to the cropped clip 66 against 63 (H.264), 32 against 25 (prepared
H.264), 18 against 16 (MJPEG).
"""

from collections.abc import Iterator

from torchcodec.decoders import VideoDecoder

from benchmarks.peer_loaders.common import BATCH_SIZE, Batch, Sample, crop, views, worker_batches


def batches(samples: list[Sample], batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
    """See :mod:`benchmarks.peer_loaders.common`; the tensors are (B, T, 3, H, W)."""
    return worker_batches(samples, _load, batch_size)


def _load(sample: Sample) -> Batch:
    # "approximate" spares the scan of the file, which is of constant frame rate.
    decoder = VideoDecoder(sample.path, seek_mode="approximate", num_ffmpeg_threads=1)
    return views(crop(decoder.get_frames_at(sample.frames).data, sample.plan), sample.plan)
