"""Decode clips on the CPU with FFmpeg: packets in, cropped, scaled and flipped RGB frames out.

FFmpeg crops and scales in the video's own YUV before it converts to RGB, so that no full-size RGB frame is ever made.
Promises: the frames asked for or :class:`BadVideo`, never a padded or repeated one, nor one FFmpeg knows to be damaged
(bits that flip and still decode go unseen); the same bits however many threads
decode at once; the GIL is released while FFmpeg works.  Left to others: which frames and which crop
(:mod:`pipeline.plan`), and everything after the resize (:mod:`pipeline.graph`).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import av
import numpy as np
from av.filter import Graph

from pipeline.errors import BadVideo
from pipeline.record import VideoRecord
from pipeline.slicing import check_unchanged, slice_clip

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels of the frame as displayed."""

# FFmpeg's filters that turn a stored frame counter-clockwise by the given angle in degrees.
TURN: dict[int, list[tuple[str, str | None]]] = {
    0: [],
    90: [("transpose", "cclock")],
    180: [("hflip", None), ("vflip", None)],
    270: [("transpose", "clock")],
}


def decode_clip(
    record: VideoRecord, frames: np.ndarray, box: Box, flip: bool, size: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """Decode frames of a video, crop each to the box, scale it, and flip it.

    Scaling is bilinear and averages over all source pixels when it shrinks.  Differs from the reference: OpenCV's
    bilinear, which skips pixels.

    Args:
        record: the video.
        frames: (N,) frame numbers in [0, num_frames), any order, repeats allowed.
        box: crop in the frame as displayed, after rotation.
        flip: mirror left and right.
        size: (width, height) of the result.
        out: (N, height, width, 3) uint8 to write into.

    Returns:
        ``out``, or a new array like it.

    Raises:
        BadVideo: a frame could not be had.
    """
    width, height = size
    out = np.empty((len(frames), height, width, 3), np.uint8) if out is None else out
    graph: Graph | None = None
    shape = None
    wanted = np.unique(frames)
    found = 0
    with _named_errors(record):
        for number, frame in clip_frames(record, wanted) if record.sliceable else _pick(whole_frames(record), wanted):
            if graph is None:
                shape = (frame.width, frame.height, frame.format.name)
                graph = _crop_scale_graph(record, frame, box, flip, size)
            elif shape != (frame.width, frame.height, frame.format.name):
                raise BadVideo(record.path, f"its frames change size or pixel format at frame {number}")
            graph.vpush(frame)
            plane = graph.vpull().planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
            out[frames == number] = rows[:, : 3 * width].reshape(height, width, 3)
            found += 1
    if found < len(wanted):
        raise BadVideo(record.path, f"frame {wanted[found]} of {record.num_frames} does not decode: damaged?")
    return out


def clip_frames(record: VideoRecord, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames decoded from only the packets they need.

    Args:
        record: a sliceable record.
        wanted: (N,) frame numbers, ascending, without repeats.

    Yields:
        (frame number, frame) for each, in order.
    """
    clip = slice_clip(record, wanted)
    context = av.CodecContext.create(record.codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1  # clips are decoded in parallel, frames of one clip are not
    context.width, context.height = record.width, record.height
    if record.extradata:
        context.extradata = record.extradata
    wanted_set = set(wanted.tolist())
    for data, number in zip([*clip.packets, None], [*clip.shown.tolist(), -1], strict=True):
        packet = None
        if data is not None:
            packet = av.Packet(data)
            packet.pts = packet.dts = number
        for frame in context.decode(packet):
            if frame.is_corrupt:
                raise BadVideo(record.path, f"frame {frame.pts} of {record.num_frames} is damaged")
            if frame.pts is not None and frame.pts in wanted_set:
                yield frame.pts, frame


def whole_frames(record: VideoRecord) -> Iterator[av.VideoFrame]:
    """All frames of the file in display order, as FFmpeg's demuxer and decoder deliver them."""
    check_unchanged(record, os.stat(record.path))
    with av.open(record.path) as container:
        stream = container.streams[record.stream]
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise BadVideo(record.path, f"frame {number} of {record.num_frames} is damaged")
            yield frame


def _pick(frames: Iterator[av.VideoFrame], wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    last, wanted_set = int(wanted[-1]), set(wanted.tolist())
    for number, frame in enumerate(frames):
        if number in wanted_set:
            yield number, frame
        if number == last:
            return


def _crop_scale_graph(record: VideoRecord, frame: av.VideoFrame, box: Box, flip: bool, size: tuple[int, int]) -> Graph:
    """FFmpeg's filter graph from a decoded frame to an RGB frame of the given size.

    Full chroma interpolation, since without it FFmpeg scales chroma to half the width of the result: a mean error of 5
    to 10 grey levels on colourful frames against 0.8, for 0.2 ms a frame at 224 pixels.  Centred chroma is how DALI,
    and FFmpeg itself when it does not scale, convert.
    """
    x, y, width, height = _stored_box(record, box)
    out_width, out_height = size if record.rotation in (0, 180) else size[::-1]
    graph = Graph()
    graph.threads = 1
    nodes = [
        graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base="1/1",
            colorspace=str(int(frame.colorspace)),
            range=str(int(frame.color_range)),
        ),
        graph.add("crop", f"{width}:{height}:{x}:{y}:exact=1"),
        graph.add("scale", f"{out_width}:{out_height}:flags=bilinear+full_chroma_int:in_chroma_loc=center"),
        *(graph.add(name, arguments) for name, arguments in TURN[record.rotation]),
        *([graph.add("hflip")] if flip else []),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _stored_box(record: VideoRecord, box: Box) -> Box:
    """The box in the frame as stored, given the box in the frame as displayed."""
    x, y, width, height = box
    if record.rotation == 90:
        return record.width - y - height, x, height, width
    if record.rotation == 180:
        return record.width - x - width, record.height - y - height, width, height
    if record.rotation == 270:
        return y, record.height - x - width, height, width
    return box


@contextmanager
def _named_errors(record: VideoRecord) -> Iterator[None]:
    """FFmpeg's errors do not say which file they are about."""
    try:
        yield
    except BadVideo:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise BadVideo(record.path, f"does not decode: {error}") from error
