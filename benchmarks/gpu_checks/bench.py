"""What the checks share: the verdicts, and videos of every codec, made on the spot."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.encode import ENCODERS, write_video
from pipeline.graph import ClipGraph, GraphSpec, dali_refusal
from pipeline.index import VideoIndex
from pipeline.plan import ClipPlan, ClipSpec
from pipeline.record import VideoRecord
from pipeline.scanning import scan

PASS, FAIL, SKIP, INFO = "PASS", "FAIL", "SKIP", "info"

# name of the variant: codec, B-frames
VARIANTS = {
    "h264": ("h264", 0),
    "h264 B-frames": ("h264", 2),
    "hevc": ("hevc", 0),
    "hevc B-frames": ("hevc", 2),
    "vp9": ("vp9", 0),
    "av1": ("av1", 0),
    "mjpeg": ("mjpeg", 0),
    "vp8": ("vp8", 0),
    "mpeg4": ("mpeg4", 0),
}
GOP = 8
_AS_TRAINED = ClipSpec()


class Finding(NamedTuple):
    """One line of the verdict table.

    Attributes:
        subject: what was looked at.
        verdict: PASS, FAIL, SKIP, or INFO for what is neither good nor bad.
        note: the number or the reason.
    """

    subject: str
    verdict: str
    note: str


@dataclass(frozen=True)
class Bench:
    """Where and on what the checks run.

    Attributes:
        device: "cuda" or "cuda:N"; "cpu" rehearses.
        folder: one folder for each of :data:`VARIANTS`, with one video in it.
        num_frames: of every video.
        spec: of the clips.
    """

    device: str
    folder: Path
    num_frames: int
    spec: ClipSpec

    @property
    def device_type(self) -> str:
        """ "cuda" or "cpu"."""
        return torch.device(self.device).type

    def records(self) -> Iterator[tuple[str, VideoRecord]]:
        """The videos, by variant."""
        for variant in VARIANTS:
            yield variant, scan(next((self.folder / variant).iterdir()))

    def decodable(self) -> Iterator[tuple[str, VideoRecord]]:
        """Those that DALI decodes on the device."""
        return ((variant, record) for variant, record in self.records() if not self.refusal(record))

    def refusal(self, record: VideoRecord) -> str | None:
        """Why DALI does not decode a video on the device."""
        return dali_refusal(record, self.device_type)

    def copies(self, folder: Path, variant: str, number: int) -> VideoIndex:
        """Index of a folder of copies of a video, which may be damaged."""
        source = next((self.folder / variant).iterdir())
        folder.mkdir(parents=True)
        for copy in range(number):
            (folder / f"{copy:02}{source.suffix}").write_bytes(source.read_bytes())
        return VideoIndex.build(folder, num_workers=min(4, os.cpu_count() or 1), progress=False)


class Check(NamedTuple):
    """A question.

    Attributes:
        run: yields its answers.
        limit_s: after which it counts as hung.
    """

    run: Callable[[Bench], Iterator[Finding]]
    limit_s: float


def make_bench(
    device: str,
    folder: Path,
    spec: ClipSpec = _AS_TRAINED,
    *,
    num_frames: int = 250,
    width: int = 340,
    height: int = 256,
) -> Bench:
    """Write the videos: a drifting texture, of which every frame differs from every other."""
    frames = drifting_frames(num_frames, width, height)
    for variant, (codec, bframes) in VARIANTS.items():
        (folder / variant).mkdir(parents=True)
        path = folder / variant / f"video{ENCODERS[codec].suffix}"
        write_video(path, frames, codec, gop=GOP, bframes=bframes)
    return Bench(device, folder, num_frames, spec)


def drifting_frames(num_frames: int, width: int, height: int) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: height + num_frames, : width + 2 * num_frames]
    texture = np.zeros((*y.shape, 3))
    for channel in range(3):
        for wave_y, wave_x, phase in rng.uniform((0.02, 0.02, 0), (0.12, 0.12, 6.28), (6, 3)):
            texture[..., channel] += np.sin(wave_x * x + wave_y * y + phase)
    pixels = np.clip(128 + 30 * texture, 0, 255).astype(np.uint8)
    return np.stack([pixels[t : t + height, 2 * t : 2 * t + width] for t in range(num_frames)])


def decode(record: VideoRecord, numbers: np.ndarray, device: str) -> torch.Tensor:
    """Whole frames by DALI, (N, H, W, 3) uint8 on the host."""
    graph = ClipGraph(GraphSpec(len(numbers), tg=False, strong=False, decoder="dali"), record.width, 1, device, 1)
    return graph([graph.read(record, whole_frame_plan(record, numbers))])[0].rgb[0].cpu()


def whole_frame_plan(record: VideoRecord, numbers: np.ndarray) -> ClipPlan:
    """Show frames as they are."""
    size = (record.width, record.height)
    return ClipPlan(numbers, numbers, (0, 0, *size), False, size)


def difference(one: torch.Tensor, other: torch.Tensor) -> tuple[int, float]:
    """Largest and mean absolute difference in grey levels."""
    apart = (one.cpu().short() - other.cpu().short()).abs()
    return int(apart.max()), float(apart.float().mean())
