"""All randomness of the data path: what each clip shows, as a pure function of (seed, epoch, position).

Nothing later draws a random number.  That alone makes weak and strong, RGB and TG views of a clip share their crop,
makes a run resume to the bit, and gives the same stream for any number of threads, ranks and batch sizes.

Clips are planned a batch at a time, since the price of a numpy call hardly depends on how many clips it serves: 0.07 ms
a clip in batches of 5, 0.3 ms for one alone.  Both are the same function, so they agree to the bit.

Left to others: which video stands at a position (:mod:`pipeline.stream`), what the strong operations do to pixels
(:mod:`pipeline.strong`), decoding (:mod:`pipeline.decode`, :mod:`pipeline.graph`).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import InputError
from pipeline.record import VideoRecord

NUM_STRONG_OPS = 15
"""Operations a strong view draws from, numbered in the order they are applied: :data:`pipeline.strong.OPS`."""

NUM_TEST_CLIPS = 10
"""Clips of each video in the final test."""

TG_FORMS = ("aligned", "reference_slow")
"""Which frames make the temporal gradients of a clip: :attr:`ClipSpec.tg_form`."""

_CROP_ATTEMPTS = 10
_LOG_RATIOS = (math.log(3 / 4), math.log(4 / 3))
_UNIFORMS_PER_STRONG = 6
_UNIFORMS = 1 + 2 * _CROP_ATTEMPTS + 3 + 2 * _UNIFORMS_PER_STRONG
_TURN_UNIFORMS = 1
_TEMPO_UNIFORMS = 3  # beside one for each frame
_UNIFORMS_PER_COUNT = 4  # what Philox makes of one value of its counter
NUM_TEST_CROPS = 3


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
        tg_form: "aligned", as in the paper: x_t - x_{t+n} at the frames of the RGB clip.  "reference_slow", as in the
            reference's ablation of slow TG: the frames of the clip's span, T + 1 evenly spaced ones, each minus its
            predecessor, and strong operations apply to these frames before they are subtracted.  Differs from it in
            that the result is rounded down to uint8.
        strong_fixed_sign: give each strong operation that has a direction one sign for the whole stream, in each
            modality, instead of one for each clip.  Differs from the reference, whose ranks had signs of their own.
        strong_shared_ops: give TG the strong augmentation of RGB instead of its own.
    """

    clip_len: int = 8
    frame_stride: int = 8
    size: int = 224
    eval_size: int = 256
    min_crop_area: float = 0.08
    flip: bool = True
    tg_stride: int = 1
    tg_form: str = "aligned"
    strong_fixed_sign: bool = False
    strong_shared_ops: bool = False

    def __post_init__(self) -> None:
        for name, least in (("clip_len", 1), ("frame_stride", 1), ("size", 1), ("eval_size", 1), ("tg_stride", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        if self.tg_form not in TG_FORMS:
            raise InputError(f"tg_form is {self.tg_form!r}: choose one of {', '.join(TG_FORMS)}")
        if self.tg_form == "reference_slow" and self.tg_stride > 1:
            raise InputError(f"tg_stride is {self.tg_stride}: with tg_form reference_slow it follows from the clip")
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


class Tempo(NamedTuple):
    """How a strong view that shows actors is made, :mod:`pipeline.actors`.

    Attributes:
        order: (T,) int64, which frame of the clip stands at each place where the actors are not pasted.
        pasted: before another clip's scene they are, if there are any and it has one.
    """

    order: np.ndarray
    pasted: bool


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """Everything that makes one clip out of one video.

    Attributes:
        frames: (T,) int64 frame numbers of the RGB clip.
        later: (T,) int64 frame numbers of the TG partners x_{t+n}; equal to ``frames`` where the spec wants no TG.  In
            the form "reference_slow" (T + 1,), the frames whose differences are the TG.
        box: x, y, width, height of the crop in pixels of the frame as displayed.
        flip: mirror left and right.
        size: (width, height) that the crop is resized to.
        strong_rgb: strong augmentation of RGB.
        strong_tg: strong augmentation of TG, drawn independently of RGB's unless the spec wants them shared.
        turn: quarter turns, counter-clockwise, of the rotated view.
        tempo: of the strong view with actors; None where there is none.
    """

    frames: np.ndarray
    later: np.ndarray
    box: tuple[int, int, int, int]
    flip: bool
    size: tuple[int, int]
    strong_rgb: StrongPlan | None = None
    strong_tg: StrongPlan | None = None
    turn: int = 0
    tempo: Tempo | None = None

    def strong(self, modality: str) -> StrongPlan | None:
        """Strong augmentation of a modality; that of RGB is optical flow's too."""
        return self.strong_tg if modality == "tg" else self.strong_rgb


class Draw(NamedTuple):
    """Which of the independent draws of a stream make a clip: several views of a video are as many draws.

    Attributes:
        moment: the one that decides which frames it shows.
        rest: the one that decides all else: crop, flip, strong operations.
    """

    moment: int = 0
    rest: int = 0


ONLY_DRAW = Draw()
"""Where there is one clip of a video at a time."""


def plan_clip(record: VideoRecord, spec: ClipSpec, seed: int, epoch: int, position: int) -> ClipPlan:
    """Plan one training clip: :func:`plan_clips` for a single video.

    Args:
        record: the video.
        spec: what a clip is.
        seed: any integer in [0, 2**64): the stream's.
        epoch: pass over the stream, from 0.
        position: place in the stream within the epoch, from 0.
    """
    return plan_clips(np.array([record.num_frames]), np.array([record.display_size]), spec, seed, epoch, position)[0]


def plan_clips(
    num_frames: np.ndarray,
    display_sizes: np.ndarray,
    spec: ClipSpec,
    seed: int,
    epoch: int,
    position: int,
    draw: Draw = ONLY_DRAW,
) -> list[ClipPlan]:
    """Plan training clips at consecutive positions as the paper's code does, on the frame as displayed.

    Differs from the reference: the box is drawn on the native grid rather than on that of a frame resized to 256, and
    its corner is moved to even coordinates (by at most one pixel), since chroma has half the resolution.

    Args:
        num_frames: (B,) integer frame counts of the videos, one a clip.
        display_sizes: (B, 2) integer width and height in pixels of their frames as displayed.
        spec: what a clip is.
        seed: any integer in [0, 2**64): the stream's.
        epoch: pass over the stream, from 0.
        position: place of the first clip in the stream within the epoch, from 0.
        draw: which of the stream's independent draws.
    """
    u = _uniforms(seed, _clip_key(draw.rest), epoch, position, len(num_frames), _UNIFORMS)
    if draw.moment != draw.rest:
        u[:, 0] = _uniforms(seed, _clip_key(draw.moment), epoch, position, len(num_frames), _UNIFORMS)[:, 0]
    box_end = 3 + 2 * _CROP_ATTEMPTS
    frames, later = _frames(num_frames, spec, _starts(num_frames, spec, u[:, 0]))
    boxes = _random_resized_crops(display_sizes, spec.min_crop_area, u[:, 1:box_end])
    flips = (u[:, box_end] < 0.5) & spec.flip
    signs = _fixed_signs(seed) if spec.strong_fixed_sign else (None, None)
    u_rgb, u_tg = np.split(u[:, box_end + 1 :], 2, axis=1)
    strong_rgb = _strong(u_rgb, signs[0])
    strong_tg = strong_rgb if spec.strong_shared_ops else _strong(u_tg, signs[1])
    size = (spec.size, spec.size)
    rest = zip(boxes.tolist(), flips.tolist(), strong_rgb, strong_tg, strict=True)
    return [
        ClipPlan(frames[i], later[i], tuple(box), flip, size, rgb, tg) for i, (box, flip, rgb, tg) in enumerate(rest)
    ]


def plan_turns(seed: int, epoch: int, position: int, num_clips: int) -> np.ndarray:
    """Quarter turns, counter-clockwise, of the rotated views of consecutive clips: (num_clips,) int64, 0 to 3."""
    u = _uniforms(seed, _TURN_KEY, epoch, position, num_clips, _TURN_UNIFORMS)
    turns: np.ndarray = (4 * u[:, 0]).astype(np.int64)
    return turns


def plan_tempos(clip_len: int, seed: int, epoch: int, position: int, num_clips: int) -> list[Tempo]:
    """Half of the clips have their actors pasted; the others one of four orders of their frames, each as likely.

    Those are: as it is; one half in place of the other, the first or the second; backwards; each frame but the first
    held over from the one before it, with a probability of 1/2.  From the code of "Learning Representational
    Invariances for Data-Efficient Action Recognition" (2021), which draws whether to paste once for a whole batch.
    """
    u = _uniforms(seed, _TEMPO_KEY, epoch, position, num_clips, _TEMPO_UNIFORMS + clip_len)
    forward, half = np.arange(clip_len), clip_len // 2
    tempos = []
    for numbers in u:
        kind, first = int(4 * numbers[1]), numbers[2] < 0.5
        order = forward.copy()
        if kind == 1 and first:
            order[clip_len - half :] = forward[:half]
        elif kind == 1:
            order[:half] = forward[clip_len - half :]
        elif kind == 2:
            order = order[::-1].copy()
        elif kind == 3:
            held = (numbers[_TEMPO_UNIFORMS:] < 0.5) & (forward > 0)
            order = np.maximum.accumulate(np.where(held, 0, forward))
        tempos.append(Tempo(order, bool(numbers[0] < 0.5)))
    return tempos


class Shape(NamedTuple):
    """What planning has to know of a video; a record has it too.

    Attributes:
        num_frames: frames.
        display_size: width and height in pixels as displayed.
    """

    num_frames: int
    display_size: tuple[int, int]


def plan_center(record: VideoRecord | Shape, spec: ClipSpec) -> ClipPlan:
    """The centre clip that validation during training sees: middle window, centre square, no flip."""
    window = _window(spec)
    start = (record.num_frames - window + 1) // 2 if record.num_frames >= window else 0
    frames, later = _frames(record.num_frames, spec, start)
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
    starts = np.array([int(i * span + span / 2) if span > 0 else 0 for i in range(NUM_TEST_CLIPS)])
    frames, later = (part.ravel() for part in _frames(record.num_frames, spec, starts))
    width, height = record.display_size
    scale = spec.eval_size / min(width, height)
    size = (int(width * scale + 0.5), int(height * scale + 0.5))
    long_axis = int(size[0] >= size[1])  # 1: crops are spread over x, 0: over y
    step = (size[1 - long_axis] - spec.eval_size) // 2
    corners = np.zeros((NUM_TEST_CROPS, 2), np.int64)
    corners[:, long_axis] = (0, 2 * step, step)
    return ClipPlan(frames, later, (0, 0, width, height), False, size), corners


def epoch_order(seed: int, epoch: int, num_videos: int) -> np.ndarray:
    """(num_videos,) int64 permutation: which of a stream's videos stands at each position of an epoch."""
    return _generator(seed, _ORDER_KEY, epoch, 0).permutation(num_videos)


_CLIP_KEY, _ORDER_KEY, _SIGN_KEY, _TURN_KEY, _TEMPO_KEY = range(5)
_FURTHER_DRAWS_KEY = 16  # that of the first draw after the one whose key is _CLIP_KEY


def _clip_key(draw: int) -> int:
    return _FURTHER_DRAWS_KEY + draw - 1 if draw else _CLIP_KEY


def _uniforms(seed: int, purpose: int, epoch: int, position: int, num_clips: int, num_each: int) -> np.ndarray:
    """(num_clips, num_each) float64 in [0, 1) of consecutive positions.

    Philox is a function of key and counter.  Every position owns equally many values of the counter, so a run of
    positions is one run of the counter, and a position draws the same numbers whichever run it is part of.
    """
    counts = -(-num_each // _UNIFORMS_PER_COUNT)
    generator = _generator(seed, purpose, epoch, position * counts)
    return generator.random((num_clips, counts * _UNIFORMS_PER_COUNT))[:, :num_each]


def _generator(seed: int, purpose: int, epoch: int, count: int) -> np.random.Generator:
    """The epoch stands in the highest word of the counter, where no number of clips reaches it."""
    key = np.array([seed, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([count, 0, 0, epoch], np.uint64)))


def _window(spec: ClipSpec) -> int:
    return spec.clip_len * spec.frame_stride


def _num_starts(num_frames: np.ndarray | int, spec: ClipSpec) -> np.ndarray:
    """Frames that a clip may show: in the aligned form, those that have a partner."""
    num: np.ndarray = np.maximum(1, np.asarray(num_frames) - spec.tg_stride * (spec.tg_form == "aligned"))
    return num


def _starts(num_frames: np.ndarray, spec: ClipSpec, u: np.ndarray) -> np.ndarray:
    """(B,) int64 first frames, uniform over those whose whole window fits; 0 in videos shorter than the window."""
    starts: np.ndarray = (u * np.maximum(1, _num_starts(num_frames, spec) - _window(spec) + 1)).astype(np.int64)
    return starts


def _frames(num_frames: np.ndarray | int, spec: ClipSpec, starts: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of clips and their TG partners, (..., T) and (..., T or T + 1) int64 for (...) starts.

    Short videos loop over the frames that have a partner, so that no pair crosses the seam.
    """
    offsets = spec.frame_stride * np.arange(spec.clip_len)
    frames = (np.asarray(starts)[..., None] + offsets) % _num_starts(num_frames, spec)[..., None]
    if spec.tg_stride and spec.tg_form == "reference_slow":
        even = np.linspace(frames[..., 0], frames[..., -1], spec.clip_len + 1, axis=-1)
        return frames, np.rint(even).astype(np.int64)
    return frames, np.minimum(frames + spec.tg_stride, np.asarray(num_frames)[..., None] - 1)


def _random_resized_crops(frame_sizes: np.ndarray, min_area: float, u: np.ndarray) -> np.ndarray:
    """Boxes of ``min_area`` to all of the area, aspect ratio 3/4 to 4/3; the centre square where ten tries do not fit.

    Returns:
        (B, 4) int64 x, y, width, height.
    """
    width, height = frame_sizes.astype(np.int64).T
    area = (min_area + (1 - min_area) * u[:, :_CROP_ATTEMPTS]) * (width * height)[:, None]
    ratio = np.exp(_LOG_RATIOS[0] + (_LOG_RATIOS[1] - _LOG_RATIOS[0]) * u[:, _CROP_ATTEMPTS : 2 * _CROP_ATTEMPTS])
    widths, heights = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (widths <= width[:, None]) & (heights <= height[:, None]) & (widths >= 1) & (heights >= 1)
    clip, first = np.arange(len(u)), fits.argmax(axis=1)
    found, square = fits[clip, first], np.minimum(width, height)
    w = np.where(found, widths[clip, first], square).astype(np.int64)
    h = np.where(found, heights[clip, first], square).astype(np.int64)
    x = np.where(found, u[:, -2] * (width - w + 1), (width - w) // 2).astype(np.int64)
    y = np.where(found, u[:, -1] * (height - h + 1), (height - h) // 2).astype(np.int64)
    return np.array([x - x % 2, y - y % 2, w, h]).T


def _strong(u: np.ndarray, fixed_signs: np.ndarray | None) -> list[StrongPlan]:
    """One plan for each row of _UNIFORMS_PER_STRONG numbers."""
    first, second = (u[:, 0] * NUM_STRONG_OPS).astype(int), (u[:, 1] * (NUM_STRONG_OPS - 1)).astype(int)
    second += second >= first  # distinct, and uniform over the others
    ops = np.sort(np.stack([first, second], axis=1), axis=1)
    signs = np.where(u[:, 2:4] < 0.5, -1, 1) if fixed_signs is None else fixed_signs[ops]
    parts = zip(ops.tolist(), signs.tolist(), u[:, 4:6].tolist(), strict=True)
    return [StrongPlan(*map(tuple, part)) for part in parts]


def _fixed_signs(seed: int) -> np.ndarray:
    """(2, NUM_STRONG_OPS) signs of the operations in RGB and in TG, for a whole stream."""
    signs: np.ndarray = 1 - 2 * _generator(seed, _SIGN_KEY, 0, 0).integers(2, size=(2, NUM_STRONG_OPS))
    return signs
