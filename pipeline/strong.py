"""The strong augmentation: RandAugment as one fixed chain with planned parameters.

RandAugment draws two distinct operations and applies them in list order, so every strong view is the same chain with
most stages switched off.  A stage runs only for the samples that drew it.  Geometric operations that meet in one clip
become one matrix, hence one interpolation, or none where they shift by whole pixels.  All frames of a clip share their
parameters; statistics (mean, extrema, histograms) are taken of each frame, as in the reference.

What DALI charges on a CPU decides how a stage is written: an operator that takes uint8 and gives uint8 costs 1 ms for 8
frames of 224 x 224, a cast from float to uint8 alone 7 ms, a lookup table 3 ms.  So pixels stay uint8, and blends of
two pictures are filters over a pair of rows.  Of the blends and stretches only autocontrast's can land halfway between
two integers, where devices might round apart; it is nudged off it.

:func:`strong_parameters` turns a plan into numbers (numpy), :func:`strong_view` is the chain (DALI, either device).
Left to others: drawing (:mod:`pipeline.plan`).
"""

from typing import Any, NamedTuple

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.pipeline import do_not_convert

from pipeline.plan import NUM_STRONG_OPS, StrongPlan

OPS = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "autocontrast",
    "equalize",
    "invert",
    "cutout",
)
assert len(OPS) == NUM_STRONG_OPS

# Magnitude 9 of 10 in the reference's units.
SHEAR_DEGREES = 15.471
TRANSLATE = 0.18  # of the frame's side
ROTATE_DEGREES = 27.0
POSTERIZE_BITS = 3
SOLARIZE_THRESHOLD = 231  # the reference inverts pixels >= 230.4
ENHANCE = 1.72  # factor of colour, contrast, brightness and sharpness
CUTOUT = 0.18  # of the frame's side
CUTOUT_FILL = 128
GEOMETRIC_FILL = 0

_NUM_GEOMETRIC = 5
_TRANSLATIONS = (OPS.index("translate_x"), OPS.index("translate_y"))

# One switch a stage: two for geometry, then the others in list order.
STAGES = ("shift", "warp", *OPS[_NUM_GEOMETRIC:])

# Sharpness: blend away from PIL's SMOOTH kernel, as one kernel.
_SHARPEN = np.full((3, 3), (1 - ENHANCE) / 13, np.float32)
_SHARPEN[1, 1] = ENHANCE + (1 - ENHANCE) * 5 / 13
# Autocontrast: its results are multiples of 1/spread, spread <= 255, so this moves no other than the halves.
_OFF_HALVES = 1 / 1024


class StrongParameters(NamedTuple):
    """What the chain needs to know of one clip in one modality; in a graph, the data nodes that carry it.

    Attributes:
        switches: (len(STAGES),) bool.
        matrix: (3, 3) float32, from pixel coordinates of the result to those of the source.
        shift: (2,) int32, where the result of a whole-pixel shift begins in the source: row, and value within the row
            (3 a pixel).
        corner: (2,) float32 corner (y, x) of the cutout in pixels; may lie outside.
    """

    switches: Any
    matrix: Any
    shift: Any
    corner: Any


def strong_parameters(plan: StrongPlan, size: int) -> StrongParameters:
    """Numbers for the chain.

    Args:
        plan: operations, signs, and place of the cutout.
        size: height and width of the frames in pixels.
    """
    switches = np.zeros(len(STAGES), bool)
    matrix = np.eye(3)
    for op, sign in zip(plan.ops, plan.signs, strict=True):
        if op < _NUM_GEOMETRIC:
            matrix = _geometric(OPS[op], sign, size) @ matrix
        else:
            switches[op - _NUM_GEOMETRIC + 2] = True
    geometric = [op for op in plan.ops if op < _NUM_GEOMETRIC]
    if geometric:
        switches[0 if set(geometric) <= set(_TRANSLATIONS) else 1] = True
    corner = np.array(plan.cutout) * size - cutout_side(size) / 2
    return StrongParameters(
        switches,
        np.linalg.inv(matrix).astype(np.float32),
        np.array([-matrix[1, 2], -3 * matrix[0, 2]]).astype(np.int32),
        np.round(corner).astype(np.float32),
    )


def cutout_side(size: int) -> int:
    """Side in pixels of the square that cutout blanks."""
    return max(1, round(CUTOUT * size))


def _geometric(op: str, sign: int, size: int) -> np.ndarray:
    """(3, 3) matrix from source to result about the frame's centre, pixel corners at whole numbers."""
    matrix = np.eye(3)
    if op == "shear_x":
        matrix[0, 1] = sign * np.tan(np.radians(SHEAR_DEGREES))
    elif op == "shear_y":
        matrix[1, 0] = sign * np.tan(np.radians(SHEAR_DEGREES))
    elif op == "translate_x":
        matrix[0, 2] = sign * round(TRANSLATE * size)
    elif op == "translate_y":
        matrix[1, 2] = sign * round(TRANSLATE * size)
    else:
        angle = np.radians(sign * ROTATE_DEGREES)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    to_center, back = np.eye(3), np.eye(3)
    to_center[:2, 2], back[:2, 2] = -size / 2, size / 2
    return back @ matrix @ to_center


def strong_inputs(prefix: str) -> StrongParameters:
    """The graph's inputs for :func:`strong_view`, named ``prefix`` and the names of :class:`StrongParameters`."""
    kinds = StrongParameters((types.BOOL, 1), (types.FLOAT, 2), (types.INT32, 1), (types.FLOAT, 1))
    return StrongParameters(
        *(
            fn.external_source(name=prefix + name, dtype=dtype, ndim=ndim)
            for name, (dtype, ndim) in kinds._asdict().items()
        )
    )


def strong_view(frames: Any, parameters: StrongParameters, size: int) -> Any:
    """The chain in DALI.

    Args:
        frames: FHWC uint8 data node, size x size.
        parameters: data nodes on the CPU.
        size: height and width of the frames in pixels.

    Returns:
        FHWC uint8 data node on the device of ``frames``.
    """
    switches = parameters.switches
    if switches[0]:
        frames = _shift(frames, parameters.shift, size)
    if switches[1]:
        frames = _warp(frames, parameters.matrix)
    if switches[2]:
        frames = _posterize(frames)
    if switches[3]:
        frames = _solarize(frames)
    if switches[4]:
        frames = _color(frames, size)
    if switches[5]:
        frames = _contrast(frames)
    if switches[6]:
        frames = _brightness(frames)
    if switches[7]:
        frames = _sharpness(frames)
    if switches[8]:
        frames = _autocontrast(frames, size)
    if switches[9]:
        frames = _equalize(frames)
    if switches[10]:
        frames = _invert(frames)
    if switches[11]:
        frames = _cutout(frames, parameters.corner, size)
    return frames


# The stages are kept from AutoGraph, which would trace into DALI itself and take seconds to build the graph.
# Costs are cpu-ms for 8 frames of 224 x 224; "instead of" names the obvious way.


@do_not_convert
def _shift(frames: Any, start: Any, size: int) -> Any:
    """1.3 ms instead of 3.3: a row of pixels is copied at once where it is one run of values."""
    rows = fn.reshape(frames, shape=[-1, size, 3 * size], layout="FHW")
    rows = fn.slice(
        rows,
        start=start,
        shape=[size, 3 * size],
        axis_names="HW",
        out_of_bounds_policy="pad",
        fill_values=GEOMETRIC_FILL,
    )
    return _as_frames(rows, size)


@do_not_convert
def _warp(frames: Any, matrix: Any) -> Any:
    """6 ms instead of warp_affine's 36, and exact bilinear where that is off by up to 0.2."""
    return fn.experimental.warp_perspective(frames, matrix=matrix, fill_value=[GEOMETRIC_FILL] * 3)


@do_not_convert
def _posterize(frames: Any) -> Any:
    return frames & np.uint8(0xFF << (8 - POSTERIZE_BITS) & 0xFF)


@do_not_convert
def _solarize(frames: Any) -> Any:
    """1.6 ms instead of a table's 3.2: a contrast so high that it gives 0 below the threshold and 255 from it on."""
    return frames ^ fn.contrast(frames, contrast=1000.0, contrast_center=SOLARIZE_THRESHOLD - 0.5)


@do_not_convert
def _color(frames: Any, size: int) -> Any:
    """4 ms instead of color_twist's 14: a filter of height 2 blends each frame with its grey copy below it."""
    grey = fn.color_space_conversion(frames, image_type=types.RGB, output_type=types.GRAY)
    grey = fn.color_space_conversion(grey, image_type=types.GRAY, output_type=types.RGB)
    pairs = fn.reshape(fn.stack(frames, grey, axis=1), shape=[-1, 2, size * size, 3], layout="FHWC")
    blend = np.array([[ENHANCE], [1 - ENHANCE]], np.float32)
    return _as_frames(fn.filter(pairs, blend, mode="valid"), size)


@do_not_convert
def _contrast(frames: Any) -> Any:
    grey = fn.color_space_conversion(frames, image_type=types.RGB, output_type=types.GRAY)
    mean = fn.cast(fn.reductions.mean(grey, axes=[1, 2, 3]), dtype=types.UINT8)
    gain = mean * np.float32(0) + np.float32(ENHANCE)  # the same for each frame
    return _stretch(frames, gain, mean * np.float32(1 - ENHANCE))


@do_not_convert
def _brightness(frames: Any) -> Any:
    return fn.brightness(frames, brightness=ENHANCE)


@do_not_convert
def _sharpness(frames: Any) -> Any:
    return fn.filter(frames, _SHARPEN)


@do_not_convert
def _autocontrast(frames: Any, size: int) -> Any:
    """5 ms instead of 19: with each colour as a frame of its own, it is the stretch that contrast is too."""
    planes = fn.reshape(fn.transpose(frames, perm=[0, 3, 1, 2]), shape=[-1, size, size, 1], layout="FHWC")
    low = fn.reductions.min(planes, axes=[1, 2, 3])
    spread = fn.reductions.max(planes, axes=[1, 2, 3]) - low
    flat = spread == 0  # stays as it is
    gain = np.float32(255) / (spread + flat) - flat * np.float32(254)
    planes = _stretch(planes, gain, (spread > 0) * (np.float32(_OFF_HALVES) - low * gain))
    planes = fn.reshape(planes, shape=[-1, 3, size, size], layout="FCHW")
    # DALI transposes to the inner axis at 3 ms; this operator, left without a crop, mirror or scale, at 1.5.
    return fn.crop_mirror_normalize(planes, dtype=types.UINT8, output_layout="FHWC")


@do_not_convert
def _equalize(frames: Any) -> Any:
    return fn.equalize(frames)


@do_not_convert
def _invert(frames: Any) -> Any:
    return frames ^ np.uint8(255)


@do_not_convert
def _cutout(frames: Any, corner: Any, size: int) -> Any:
    side = float(cutout_side(size))
    return fn.erase(frames, anchor=corner, shape=[side, side], axis_names="HW", fill_value=CUTOUT_FILL)


def _as_frames(values: Any, size: int) -> Any:
    return fn.reshape(values, shape=[-1, size, size, 3], layout="FHWC")


# The one stage with two forms, since the cheap one takes the numbers of each frame from the host, and on a GPU they
# are computed on the device.  Both give the same bits.


def _stretch(frames: Any, gain: Any, shift: Any) -> Any:
    """Each frame as gain * value + shift, rounded and clipped, with (F,) float32 of both."""
    return (_stretch_on_gpu if frames.device == "gpu" else _stretch_on_cpu)(frames, gain, shift)


def _stretch_on_cpu(frames: Any, gain: Any, shift: Any) -> Any:
    """0.9 ms instead of 9."""
    shift = fn.per_frame(shift / np.float32(255))  # in units of the range
    return fn.brightness_contrast(frames, brightness=fn.per_frame(gain), brightness_shift=shift)


def _stretch_on_gpu(frames: Any, gain: Any, shift: Any) -> Any:
    gain, shift = (fn.reshape(values, shape=[-1, 1, 1, 1]) for values in (gain, shift))
    return fn.cast(frames * gain + shift, dtype=types.UINT8)
