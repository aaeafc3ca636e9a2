"""Optical flow as a modality: how far each pixel moves from a frame to its partner, as a picture of three channels.

Channels are the displacement to the right, that downwards, and its length: 128, 128 and 0 where nothing moves; at a
displacement of :data:`RANGE` the range ends.

OpenCV's dense inverse search (DIS, Kroeger et al. 2016) makes it on the CPU, wherever FFmpeg decodes; NVIDIA's optical
flow engine makes it where DALI decodes on a GPU.  Two estimators of one thing: they agree about the picture, not about
its bits.  Promises of the first: the same bits in any thread.
"""

import threading
from typing import Any

import numpy as np
from nvidia.dali import fn, math, types

RANGE = 20 / 224
"""Displacement that reaches the end of the range, as a fraction of the frame's side: 20 pixels of 224, as two-stream
networks have it; longer ones are cut off."""

_REST = 128
_ENGINE_GRID = 4  # pixels a vector of the engine: the one grid that all of its generations have
_estimators = threading.local()


def optical_flow(frames: np.ndarray, partners: np.ndarray) -> np.ndarray:
    """Flow from frames to their partners.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        partners: the same of the later frames.

    Returns:
        (T, H, W, 3) uint8.
    """
    import cv2  # 0.1 s, and only those pay who ask for flow

    if not hasattr(_estimators, "dis"):
        cv2.setNumThreads(1)  # the caller's threads are the parallelism
        # 1 ms a frame of 224 x 224; the next better preset takes six times as long for a third of a pixel's error.
        _estimators.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [[cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip] for clip in (frames, partners)]
    vectors = np.stack([_estimators.dis.calc(*pair, None) for pair in zip(*grey, strict=True)])
    return flow_picture(vectors, frames.shape[1])


def flow_picture(vectors: np.ndarray, side: int) -> np.ndarray:
    """Map displacements to image range.

    Args:
        vectors: (T, H, W, 2) float, to the right and downwards, in pixels.
        side: of the frames in pixels.

    Returns:
        (T, H, W, 3) uint8.
    """
    lengths = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    longest = RANGE * side
    values = np.concatenate([_REST + vectors * ((255 - _REST) / longest), lengths * (255 / longest)], axis=-1)
    picture: np.ndarray = np.rint(values.clip(0, 255)).astype(np.uint8)
    return picture


def optical_flow_node(frames: Any, partners: Any, num_frames: int, side: int) -> Any:
    """:func:`optical_flow` in DALI, on GPUs alone, by the engine for it.

    Args:
        frames: FHWC uint8 data node.
        partners: likewise.
        num_frames: T.
        side: height and width of the frames in pixels.
    """
    in_pairs = [place + later * num_frames for place in range(num_frames) for later in (0, 1)]
    pairs = fn.sequence_rearrange(fn.cat(frames, partners, axis=0), new_order=in_pairs)
    moved = fn.optical_flow(pairs, output_grid=_ENGINE_GRID, device="gpu")  # also from each partner to the next frame
    moved = fn.sequence_rearrange(moved, new_order=list(range(0, 2 * num_frames, 2)))
    vectors: Any = fn.resize(moved, size=[side, side], interp_type=types.INTERP_LINEAR)
    lengths: Any = math.sqrt(fn.reductions.sum(vectors * vectors, axes=[3], keep_dims=True))
    longest = RANGE * side
    shifts = vectors * np.float32((255 - _REST) / longest) + np.float32(_REST)
    values: Any = fn.cat(shifts, lengths * np.float32(255 / longest), axis=3)
    return fn.cast(values, dtype=types.UINT8)
