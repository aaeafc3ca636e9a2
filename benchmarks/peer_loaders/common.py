"""What the compared loaders share: the task, and its views in torchvision.

The task: of each sample, which frames, crop, flip and strong operations.  All are drawn by :mod:`pipeline.plan`
beforehand, outside the timed part, so that every loader does the same work and pays nothing for drawing.

A loader is a function ``batches(samples, batch_size)`` that yields endless batches, a :data:`Batch` each.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline.index import VideoIndex
from pipeline.plan import ClipPlan, ClipSpec, StrongPlan, epoch_order, plan_clip
from pipeline.strong import (
    CUTOUT_FILL,
    ENHANCE,
    OPS,
    POSTERIZE_BITS,
    ROTATE_DEGREES,
    SHEAR_DEGREES,
    SOLARIZE_THRESHOLD,
    TRANSLATE,
    cutout_side,
)

BATCH_SIZE = 4
NUM_WORKERS = 2
CLIP_LEN = 8
SIZE = 224

Batch = tuple[Tensor, ...]
"""Weak RGB, weak TG, strong RGB, strong TG: (B, CLIP_LEN, ...) uint8; of labeled clips only the first two."""


class Sample(NamedTuple):
    """One clip to load.

    Attributes:
        path: the video.
        fps: its frame rate in 1/s.
        plan: what to show of it.
    """

    path: str
    fps: float
    plan: ClipPlan

    @property
    def frames(self) -> list[int]:
        """The frames to decode: those of the clip, then their partners of the temporal gradient."""
        return [*self.plan.frames.tolist(), *self.plan.later.tolist()]


def draw_samples(index: VideoIndex, num_samples: int, size: int = SIZE) -> list[Sample]:
    """Samples in the order a training would draw them, with ``size`` pixels of height and width."""
    spec = ClipSpec(clip_len=CLIP_LEN, frame_stride=8, size=size)
    samples = []
    for position in range(num_samples):
        epoch, place = divmod(position, len(index))
        record = index[int(epoch_order(0, epoch, len(index))[place])]
        samples.append(Sample(record.path, record.fps, plan_clip(record, spec, 0, epoch, place)))
    return samples


def without_strong(samples: list[Sample]) -> list[Sample]:
    """The same clips as labeled ones: in their weak views only."""
    return [sample._replace(plan=replace(sample.plan, strong_rgb=None, strong_tg=None)) for sample in samples]


def crop(frames: Tensor, plan: ClipPlan) -> Tensor:
    """Crop, resize and flip as planned.

    Args:
        frames: (N, 3, H, W) uint8; fastest where the memory is (N, H, W, 3), as decoders deliver.
    """
    x, y, width, height = plan.box
    cropped: Tensor = F.resized_crop(frames, y, x, height, width, list(plan.size[::-1]))
    flipped: Tensor = F.horizontal_flip(cropped) if plan.flip else cropped
    return flipped


def views(frames: Tensor, plan: ClipPlan) -> tuple[Tensor, ...]:
    """All four views of a clip, or the weak ones where no strong ones are planned.

    Args:
        frames: (2 * CLIP_LEN, 3, H, W) uint8, cropped: the clip, then the partners.
    """
    rgb, later = frames[:CLIP_LEN], frames[CLIP_LEN:]
    tg = ((rgb.to(torch.int16) - later + 255) >> 1).to(torch.uint8)
    if plan.strong_rgb is None or plan.strong_tg is None:
        return rgb, tg
    return rgb, tg, _strong(rgb, plan.strong_rgb), _strong(tg, plan.strong_tg)


def _strong(clip: Tensor, plan: StrongPlan) -> Tensor:
    for op, sign in zip(plan.ops, plan.signs, strict=True):
        clip = _apply(clip, OPS[op], sign, plan)
    return clip


def _apply(clip: Tensor, op: str, sign: int, plan: StrongPlan) -> Tensor:
    """One operation, by the fastest of torchvision's ways to do it."""
    size = clip.shape[-1]
    if op == "cutout":
        side = cutout_side(size)
        y, x = (round(at * size - side / 2) for at in plan.cutout)
        top, left, bottom, right = max(0, y), max(0, x), min(size, y + side), min(size, x + side)
        grey = torch.tensor(CUTOUT_FILL, dtype=torch.uint8)
        erased: Tensor = F.erase(clip, top, left, bottom - top, right - left, grey)
        return erased
    shift = sign * round(TRANSLATE * size)
    operations: dict[str, Callable[[Tensor], Tensor]] = {
        "shear_x": lambda clip: _affine(clip, shear=[-sign * SHEAR_DEGREES, 0.0]),
        "shear_y": lambda clip: _affine(clip, shear=[0.0, -sign * SHEAR_DEGREES]),
        # A crop that reaches beyond the frame is padded with zeros: 0.2 ms against 11 for a nearest-neighbour warp.
        "translate_x": lambda clip: F.crop(clip, 0, -shift, size, size),
        "translate_y": lambda clip: F.crop(clip, -shift, 0, size, size),
        "rotate": lambda clip: _affine(clip, angle=sign * ROTATE_DEGREES),
        "posterize": lambda clip: F.posterize(clip, POSTERIZE_BITS),
        "solarize": lambda clip: F.solarize(clip, SOLARIZE_THRESHOLD),
        "color": lambda clip: F.adjust_saturation(clip, ENHANCE),
        "contrast": lambda clip: F.adjust_contrast(clip, ENHANCE),
        "brightness": lambda clip: F.adjust_brightness(clip, ENHANCE),
        "sharpness": lambda clip: F.adjust_sharpness(clip, ENHANCE),
        # 4 ms against 17 where the channels come last in memory
        "autocontrast": lambda clip: F.autocontrast(clip.contiguous()),
        "equalize": F.equalize,
        "invert": F.invert,
    }
    return operations[op](clip)


def _affine(clip: Tensor, *, angle: float = 0.0, shear: Sequence[float] = (0.0, 0.0)) -> Tensor:
    warped: Tensor = F.affine(clip, angle, [0, 0], 1.0, list(shear), interpolation=InterpolationMode.BILINEAR)
    return warped


class _Clips(Dataset[tuple[Tensor, ...]]):
    def __init__(self, samples: list[Sample], load: Callable[[Sample], tuple[Tensor, ...]]) -> None:
        self.samples = samples
        self.load = load

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        return self.load(self.samples[number])


def worker_batches(samples: list[Sample], load: Callable[[Sample], Batch], batch_size: int) -> Generator[Batch]:
    """Batches from torch's DataLoader with worker processes.

    Args:
        samples: in the order they are to come, again from the first after the last.
        load: makes the views of one sample, in a worker.
        batch_size: samples in a batch.
    """
    loader = DataLoader(
        _Clips(samples, load),
        batch_size,
        num_workers=NUM_WORKERS,
        multiprocessing_context="fork",
        worker_init_fn=_one_thread,
        persistent_workers=True,
        drop_last=True,
    )
    while True:
        yield from loader


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
