"""All randomness of the data path: what each clip shows, as a pure function of (seed, epoch, position).

Nothing later draws a random number.  That alone makes weak and strong, RGB and TG views of a clip share their crop,
makes a run resume to the bit, and gives the same stream for any number of threads, ranks and batch sizes.

Left to others: which video stands at a position (:mod:`pipeline.loader`), what the strong operations do to pixels
(:mod:`pipeline.strong`), decoding (:mod:`pipeline.decode`, :mod:`pipeline.graph`).
"""

from dataclasses import dataclass

import numpy as np

from pipeline.errors import InputError
from pipeline.record import VideoRecord

NUM_STRONG_OPS = 15
"""Operations a strong view draws from, numbered in the order they are applied: :data:`pipeline.strong.OPS`."""

NUM_TEST_CLIPS = 10
"""Clips of each video in the final test."""

_CROP_ATTEMPTS = 10
_UNIFORMS_PER_STRONG = 6
_UNIFORMS = 1 + 2 * _CROP_ATTEMPTS + 3 + 2 * _UNIFORMS_PER_STRONG
_TEST_CROPS = 3


@dataclass(frozen=True)
class ClipSpec:
    """What a clip is.

    Attributes:
        clip_len: frames T of a clip.
        frame_stride: distance of neighbouring frames of a clip, in video frames.
        size: height and width in pixels of training clips and of the centre clip.
        eval_size: short side in pixels that videos are resized to before test crops of that size are cut.
        min_crop_area: smallest share of the frame's area that a training crop may show; the paper's is 0.08.
        flip: mirror half of the training clips; off where left and right tell classes apart.
        tg_stride: n in TG_t = x_t - x_{t+n}, in video frames; 0 where no TG is wanted, so that every frame may be used.
    """

    clip_len: int = 8
    frame_stride: int = 8
    size: int = 224
    eval_size: int = 256
    min_crop_area: float = 0.08
    flip: bool = True
    tg_stride: int = 1

    def __post_init__(self) -> None:
        for name, least in (("clip_len", 1), ("frame_stride", 1), ("size", 1), ("eval_size", 1), ("tg_stride", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if not 0 < self.min_crop_area <= 1:
            raise InputError(f"min_crop_area is {self.min_crop_area}: it must be above 0 and at most 1")
        if self.eval_size < self.size:
            raise InputError(f"eval_size {self.eval_size} is below size {self.size}: the centre crop is cut from it")


@dataclass(frozen=True, eq=False)
class StrongPlan:
    """The strong augmentation of one modality of one clip.

    Attributes:
        ops: the two distinct operations, ascending, in [0, NUM_STRONG_OPS).
        signs: +1 or -1 for each, used by the operations that have a direction.
        cutout: centre (y, x) of the cutout as fractions of the frame in [0, 1).
    """

    ops: tuple[int, int]
    signs: tuple[int, int]
    cutout: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """Everything that makes one clip out of one video.

    Attributes:
        frames: (T,) int64 frame numbers of the RGB clip.
        later: (T,) int64 frame numbers of the TG partners x_{t+n}; equal to ``frames`` where the spec wants no TG.
        box: x, y, width, height of the crop in pixels of the frame as displayed.
        flip: mirror left and right.
        size: (width, height) that the crop is resized to.
        strong_rgb: strong augmentation of RGB.
        strong_tg: strong augmentation of TG, drawn independently of RGB's.
    """

    frames: np.ndarray
    later: np.ndarray
    box: tuple[int, int, int, int]
    flip: bool
    size: tuple[int, int]
    strong_rgb: StrongPlan | None = None
    strong_tg: StrongPlan | None = None


def plan_clip(record: VideoRecord, spec: ClipSpec, seed: int, epoch: int, position: int) -> ClipPlan:
    """Plan one training clip: method-spec of the paper's code, on the frame as displayed.

    Differs from the reference: the box is drawn on the native grid rather than on that of a frame resized to 256, and
    its corner is moved to even coordinates (by at most one pixel), since chroma has half the resolution.

    Args:
        record: the video.
        spec: what a clip is.
        seed: any integer in [0, 2**64): the stream's.
        epoch: pass over the stream, from 0.
        position: place in the stream within the epoch, from 0.
    """
    u = _uniforms(seed, epoch, position)
    frames, later = _frames(record, spec, _start(record, spec, u[0]))
    box = _random_resized_crop(record.display_size, spec.min_crop_area, u[1 : 3 + 2 * _CROP_ATTEMPTS])
    flip = spec.flip and bool(u[3 + 2 * _CROP_ATTEMPTS] < 0.5)
    rest = u[-2 * _UNIFORMS_PER_STRONG :]
    return ClipPlan(
        frames,
        later,
        box,
        flip,
        (spec.size, spec.size),
        _strong(rest[:_UNIFORMS_PER_STRONG]),
        _strong(rest[_UNIFORMS_PER_STRONG:]),
    )


def plan_center(record: VideoRecord, spec: ClipSpec) -> ClipPlan:
    """The centre clip that validation during training sees: middle window, centre square, no flip."""
    window = _window(spec)
    start = (record.num_frames - window + 1) // 2 if record.num_frames >= window else 0
    frames, later = _frames(record, spec, start)
    width, height = record.display_size
    side = max(1, round(min(width, height) * spec.size / spec.eval_size))
    box = ((width - side) // 2, (height - side) // 2, side, side)
    return ClipPlan(frames, later, box, False, (spec.size, spec.size))


def plan_test(record: VideoRecord, spec: ClipSpec) -> tuple[ClipPlan, np.ndarray]:
    """Ten evenly spaced clips of the whole frame, to be cut into three square crops each.

    Returns:
        The plan of 10 T frames resized to a short side of ``eval_size``, and (3, 2) int64 corners (y, x) of the crops
        in the resized frame: first end, other end, middle of the long side.
    """
    span = (record.num_frames - _window(spec) + 1) / NUM_TEST_CLIPS
    starts = [int(i * span + span / 2) if span > 0 else 0 for i in range(NUM_TEST_CLIPS)]
    parts = [_frames(record, spec, start) for start in starts]
    frames, later = (np.concatenate(part) for part in zip(*parts, strict=True))
    width, height = record.display_size
    scale = spec.eval_size / min(width, height)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    long_axis = int(size[0] >= size[1])  # 1: crops are spread over x, 0: over y
    step = (size[1 - long_axis] - spec.eval_size) // 2
    corners = np.zeros((_TEST_CROPS, 2), np.int64)
    corners[:, long_axis] = (0, 2 * step, step)
    return ClipPlan(frames, later, (0, 0, width, height), False, size), corners


def epoch_order(seed: int, epoch: int, num_videos: int) -> np.ndarray:
    """(num_videos,) int64 permutation: which of a stream's videos stands at each position of an epoch."""
    return _generator(seed, _ORDER_KEY, epoch, 0).permutation(num_videos)


_CLIP_KEY, _ORDER_KEY = 0, 1


def _uniforms(seed: int, epoch: int, position: int) -> np.ndarray:
    """(_UNIFORMS,) float64 in [0, 1)."""
    return _generator(seed, _CLIP_KEY, epoch, position).random(_UNIFORMS)


def _generator(seed: int, purpose: int, epoch: int, position: int) -> np.random.Generator:
    """Philox is a function of key and counter: neighbouring positions are independent streams."""
    key = np.array([seed, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, position, epoch], np.uint64)))


def _window(spec: ClipSpec) -> int:
    return spec.clip_len * spec.frame_stride


def _num_starts(record: VideoRecord, spec: ClipSpec) -> int:
    return max(1, record.num_frames - spec.tg_stride)


def _start(record: VideoRecord, spec: ClipSpec, u: float) -> int:
    """First frame, uniform over those whose whole window fits; 0 in videos shorter than the window."""
    return int(u * max(1, _num_starts(record, spec) - _window(spec) + 1))


def _frames(record: VideoRecord, spec: ClipSpec, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of the clip and their TG partners.

    Short videos loop over the frames that have a partner, so that no pair crosses the seam.
    """
    frames = (start + spec.frame_stride * np.arange(spec.clip_len)) % _num_starts(record, spec)
    return frames, np.minimum(frames + spec.tg_stride, record.num_frames - 1)


def _random_resized_crop(frame_size: tuple[int, int], min_area: float, u: np.ndarray) -> tuple[int, int, int, int]:
    """Box of ``min_area`` to all of the area, aspect ratio 3/4 to 4/3; the centre square where ten tries do not fit."""
    width, height = frame_size
    area = (min_area + (1 - min_area) * u[:_CROP_ATTEMPTS]) * width * height
    low, high = np.log(3 / 4), np.log(4 / 3)
    ratio = np.exp(low + (high - low) * u[_CROP_ATTEMPTS : 2 * _CROP_ATTEMPTS])
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = np.flatnonzero((widths <= width) & (heights <= height) & (widths >= 1) & (heights >= 1))
    if len(fits):
        w, h = int(widths[fits[0]]), int(heights[fits[0]])
        x, y = int(u[-2] * (width - w + 1)), int(u[-1] * (height - h + 1))
    else:
        w = h = min(width, height)
        x, y = (width - w) // 2, (height - h) // 2
    return x - x % 2, y - y % 2, w, h


def _strong(u: np.ndarray) -> StrongPlan:
    first, second = int(u[0] * NUM_STRONG_OPS), int(u[1] * (NUM_STRONG_OPS - 1))
    second += second >= first  # distinct, and uniform over the others
    signs = np.where(u[2:4] < 0.5, -1, 1)
    return StrongPlan(
        (min(first, second), max(first, second)), (int(signs[0]), int(signs[1])), (float(u[4]), float(u[5]))
    )
