"""The strong augmentation: RandAugment as one fixed chain with planned parameters.

RandAugment draws two distinct operations and applies them in list order, so every strong view is the same chain with
most stages switched off.  A stage runs only for the samples that drew it.  Geometric operations that meet in one clip
become one affine matrix, hence one interpolation.  All eight frames of a clip share their parameters; statistics
(mean, extrema, histograms) are taken of each frame, as in the reference.

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

# One switch a stage: two for geometry (whole-pixel shifts need no interpolation), then the others in list order.
STAGES = ("shift", "warp", *OPS[_NUM_GEOMETRIC:])

# Rec. 601 luma, as PIL computes it.
_LUMA = (0.299, 0.587, 0.114)
# Sharpness: blend away from PIL's SMOOTH kernel, as one kernel.
_SHARPEN = np.full((3, 3), (1 - ENHANCE) / 13, np.float32)
_SHARPEN[1, 1] = ENHANCE + (1 - ENHANCE) * 5 / 13


class StrongParameters(NamedTuple):
    """What the chain needs to know of one clip in one modality.

    Attributes:
        switches: (len(STAGES),) bool.
        matrix: (2, 3) float32, from pixel coordinates of the result to those of the source.
        anchor: (2,) float32 corner (y, x) of the cutout in pixels; may lie outside.
    """

    switches: np.ndarray
    matrix: np.ndarray
    anchor: np.ndarray


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
    anchor = np.array(plan.cutout) * size - cutout_side(size) / 2
    return StrongParameters(switches, np.linalg.inv(matrix)[:2].astype(np.float32), np.round(anchor).astype(np.float32))


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


def strong_view(frames: Any, switches: Any, matrix: Any, anchor: Any, size: int) -> Any:
    """The chain in DALI.

    Args:
        frames: FHWC uint8 data node, size x size.
        switches: bool vector on the CPU, as in :class:`StrongParameters`; likewise ``matrix`` and ``anchor``.
        size: height and width of the frames in pixels.

    Returns:
        FHWC uint8 data node on the device of ``frames``.
    """
    if switches[0]:
        frames = _shift(frames, matrix)
    if switches[1]:
        frames = _warp(frames, matrix)
    if switches[2]:
        frames = _posterize(frames)
    if switches[3]:
        frames = _solarize(frames)
    if switches[4]:
        frames = _color(frames)
    if switches[5]:
        frames = _contrast(frames)
    if switches[6]:
        frames = _brightness(frames)
    if switches[7]:
        frames = _sharpness(frames)
    if switches[8]:
        frames = _autocontrast(frames)
    if switches[9]:
        frames = _equalize(frames)
    if switches[10]:
        frames = _invert(frames)
    if switches[11]:
        frames = _cutout(frames, anchor, size)
    return frames


# The stages are kept from AutoGraph, which would trace into DALI itself and take seconds to build the graph.


@do_not_convert
def _shift(frames: Any, matrix: Any) -> Any:
    return fn.warp_affine(frames, matrix=matrix, fill_value=GEOMETRIC_FILL, interp_type=types.INTERP_NN)


@do_not_convert
def _warp(frames: Any, matrix: Any) -> Any:
    return fn.warp_affine(frames, matrix=matrix, fill_value=GEOMETRIC_FILL, interp_type=types.INTERP_LINEAR)


@do_not_convert
def _table(frames: Any, values: np.ndarray) -> Any:
    """Map every value through a table of 256."""
    table = [int(v) for v in np.clip(np.rint(values), 0, 255)]
    return fn.lookup_table(frames, keys=list(range(256)), values=table, dtype=types.UINT8)


_LEVELS = np.arange(256)


@do_not_convert
def _posterize(frames: Any) -> Any:
    return _table(frames, _LEVELS & (0xFF << (8 - POSTERIZE_BITS)))


@do_not_convert
def _solarize(frames: Any) -> Any:
    return _table(frames, np.where(_LEVELS >= SOLARIZE_THRESHOLD, 255 - _LEVELS, _LEVELS))


@do_not_convert
def _brightness(frames: Any) -> Any:
    return _table(frames, _LEVELS * ENHANCE)


@do_not_convert
def _invert(frames: Any) -> Any:
    return _table(frames, 255 - _LEVELS)


@do_not_convert
def _color(frames: Any) -> Any:
    return fn.color_twist(frames, saturation=ENHANCE)


@do_not_convert
def _contrast(frames: Any) -> Any:
    channels = fn.reductions.mean(frames, axes=[1, 2], keep_dims=True)
    luma = fn.reductions.sum(channels * types.Constant(_LUMA), axes=[3], keep_dims=True)
    # Arithmetic rather than fn.contrast: on a GPU that takes its centre from the host only.
    return fn.cast(frames * np.float32(ENHANCE) + luma * np.float32(1 - ENHANCE), dtype=types.UINT8)


@do_not_convert
def _sharpness(frames: Any) -> Any:
    return fn.filter(frames, _SHARPEN, dtype=types.UINT8)


@do_not_convert
def _autocontrast(frames: Any) -> Any:
    low = fn.reductions.min(frames, axes=[1, 2], keep_dims=True)
    high = fn.reductions.max(frames, axes=[1, 2], keep_dims=True)
    flat = low == high
    stretched = (frames - low) * (255.0 / (high - low + flat))
    return fn.cast(stretched + flat * low, dtype=types.UINT8)


@do_not_convert
def _equalize(frames: Any) -> Any:
    return fn.equalize(frames)


@do_not_convert
def _cutout(frames: Any, anchor: Any, size: int) -> Any:
    side = float(cutout_side(size))
    return fn.erase(frames, anchor=anchor, shape=[side, side], axis_names="HW", fill_value=CUTOUT_FILL)
