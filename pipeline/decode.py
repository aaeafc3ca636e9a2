"""Decode clips on the CPU with FFmpeg: packets in, cropped, scaled and flipped RGB frames out.

FFmpeg crops and scales in the video's own YUV before it converts to RGB, so that no full-size RGB frame is ever made.
Promises: the frames asked for or :class:`BadVideo`, never a padded or repeated one, nor one FFmpeg knows to be damaged
(bits that flip and still decode go unseen); the bits of the whole file's frames, whichever packets are decoded, by
however many threads, and whatever a decoder decoded before; the GIL is released while FFmpeg works.  Left to others:
which frames and which crop (:mod:`pipeline.plan`), which packets (:mod:`pipeline.slicing`), and everything after the
resize (:mod:`pipeline.graph`).
"""

import os
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.filter import Graph
from av.filter.context import FilterContext

from pipeline.errors import BadVideo
from pipeline.ranges import READ, named
from pipeline.record import VideoRecord
from pipeline.slicing import PacketSlice, check_unchanged, slice_clip

# FFmpeg's names of decoders, where they are not those of the codecs.
DECODER_NAMES = {"av1": "libdav1d"}
# "strict" makes FFmpeg hold H.264's frames back as long as the level allows where a stream does not say how far it
# reorders them; it would guess, and drop frames until it has guessed right.  Frames are the same, and none is lost.
# "explode" makes an error of damage that FFmpeg would paper over: of 40 damaged packets it finds 20 of MJPEG's (3
# without) and 14 of HEVC's (4), and no more than without in other codecs; good files decode as before.  Not for H.264,
# where it would also refuse the pictures after an open random access point that are displayed before it.
DECODER_OPTIONS = {"h264": {"strict": "1"}, "hevc": {"err_detect": "explode"}, "mjpeg": {"err_detect": "explode"}}
# MPEG-4's decoder keeps what it learns of the encoder and its clock, and MJPEG's its tables, beyond a flush; opening
# one costs 0.1 ms.
_REUSED = frozenset({"h264", "hevc", "av1", "vp8", "vp9"})
_PADDING = 64  # bytes FFmpeg may read after the end of what it decodes
_MAX_KEPT = 4  # a thread; each keeps some 20 frames of memory
_kept = threading.local()

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
    missing = set(wanted.tolist())
    with _named_errors(record):
        for number, frame in wanted_frames(record, wanted):
            if graph is None:
                shape = (frame.width, frame.height, frame.format.name)
                graph = _crop_scale_graph(record, frame, box, flip, size)
            elif shape != (frame.width, frame.height, frame.format.name):
                raise BadVideo(record.path, f"its frames change size or pixel format at frame {number}")
            graph.vpush(frame)
            plane = graph.vpull().planes[0]
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
            out[frames == number] = rows[:, : 3 * width].reshape(height, width, 3)
            missing.discard(number)
    if missing:
        raise BadVideo(record.path, f"frame {min(missing)} of {record.num_frames} does not decode: damaged?")
    return out


def wanted_frames(record: VideoRecord, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames decoded from only the packets they need, or where those cannot be had from the file's start.

    Args:
        record: the video.
        wanted: (N,) frame numbers, ascending, without repeats.

    Yields:
        (frame number, frame) for each, in the order in which they are decoded.
    """
    return clip_frames(record, wanted) if record.sliceable else _pick(whole_frames(record), wanted)


def clip_frames(record: VideoRecord, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames decoded from only the packets they need.

    Args:
        record: a sliceable record.
        wanted: (N,) frame numbers, ascending, without repeats.

    Yields:
        (frame number, frame) for each, in the order in which the runs of packets yield them.
    """
    with named(READ):
        clip = slice_clip(record, wanted)
    wanted_set = set(wanted.tolist())
    with _lent_decoder(record) as context:
        for packet, is_leading in _run_packets(clip):
            try:
                decoded = context.decode(packet)
            except av.error.InvalidDataError:
                if is_leading and packet is not None and packet.pts not in wanted_set:
                    continue  # refers to frames before the run
                raise
            for frame in decoded:
                if frame.pts is None or frame.pts not in wanted_set:
                    continue
                if frame.is_corrupt:
                    raise BadVideo(record.path, f"frame {frame.pts} of {record.num_frames} is damaged")
                yield frame.pts, frame
            if packet is None:
                context.flush_buffers()


def _run_packets(clip: PacketSlice) -> "Iterator[tuple[av.Packet[Any] | None, bool]]":
    """Each packet with its frame's number for a time, and whether that is displayed before the run's first.

    None comes after each run, for which the decoder gives all it has.
    """
    start = -1
    for place, (data, number, first) in enumerate(
        zip(clip.packets, clip.frames.tolist(), clip.first.tolist(), strict=True)
    ):
        if first and place:
            yield None, False
        start = number if first else start
        packet: av.Packet[Any] = av.Packet(len(data))
        # Not av.Packet(data): PyAV 17 and later does not copy or pad that, and FFmpeg's decoders read past its end.
        packet.update(data)  # type: ignore[arg-type]  # any buffer will do
        packet.pts = packet.dts = number
        yield packet, 0 <= number < start
    yield None, False


@contextmanager
def _lent_decoder(record: VideoRecord) -> Iterator[av.VideoCodecContext]:
    """A decoder for the record's packets, with no memory of other clips.

    Opening one costs 0.5 ms for H.264 at 340x256 and 3 ms at 1080p, most of it for memory that it then keeps, so each
    thread keeps the last few and uses them again for videos with the same headers.  One that met an error is not used
    again.
    """
    if record.codec not in _REUSED:
        yield open_decoder(record)
        return
    kept: dict[Hashable, av.VideoCodecContext] = _kept.__dict__.setdefault("decoders", {})
    key = (
        *(record.codec, record.codec_tag, record.pixel_format, record.width, record.height),
        *(record.colorspace, record.color_range, record.extradata),
    )
    context = kept.pop(key, None) or open_decoder(record)
    yield context
    kept[key] = context
    if len(kept) > _MAX_KEPT:
        del kept[next(iter(kept))]


def open_decoder(record: VideoRecord) -> av.VideoCodecContext:
    """A decoder that takes packets from anywhere in the file, as the file's own decoder would."""
    context = av.CodecContext.create(DECODER_NAMES.get(record.codec, record.codec), "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1  # clips are decoded in parallel, frames of one clip are not
    context.options = DECODER_OPTIONS.get(record.codec, {})
    context.codec_tag = record.codec_tag
    context.width, context.height = record.width, record.height
    context.colorspace, context.color_range = record.colorspace, record.color_range  # where only the container says
    if record.extradata:
        # Twice, since PyAV leaves the padding after it as it was: now it was zeros, which FFmpeg's decoders rely on.
        context.extradata = record.extradata + bytes(_PADDING)
        context.extradata = record.extradata
    return context


def whole_frames(record: VideoRecord) -> Iterator[av.VideoFrame]:
    """All frames of the file in display order, as FFmpeg's demuxer and decoder deliver them."""
    check_unchanged(record, os.stat(record.file))
    with av.open(record.url) as container:
        stream = container.streams[record.stream]
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = DECODER_OPTIONS.get(record.codec, {})
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
    to 10 grey levels on colourful frames against 0.8, for 0.1 ms a frame at 224 pixels.  Centred chroma is how DALI,
    and FFmpeg itself when it does not scale, convert.

    Scaled frames take a way round by planar RGB, since FFmpeg is slow at packed RGB with full chroma: 0.36 ms a frame
    instead of 0.46.  Others do not, since where it only converts it leaves out the columns beyond a multiple of 16.
    """
    x, y, width, height = _stored_box(record, box)
    out_width, out_height = size if record.rotation in (0, 180) else size[::-1]
    is_scaled = (width, height) != (out_width, out_height)
    graph = Graph()
    graph.threads = 1
    nodes = [
        source_node(graph, frame),
        graph.add("crop", f"{width}:{height}:{x}:{y}:exact=1"),
        graph.add("scale", f"{out_width}:{out_height}:flags=bilinear+full_chroma_int:in_chroma_loc=center"),
        *([graph.add("format", "gbrp"), graph.add("scale", "flags=bilinear")] if is_scaled else []),
        *(graph.add(name, arguments) for name, arguments in TURN[record.rotation]),
        *([graph.add("hflip")] if flip else []),
        graph.add("format", "rgb24"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def source_node(graph: Graph, frame: av.VideoFrame) -> FilterContext:
    """The node through which frames like the given one enter a filter graph."""
    return graph.add(
        "buffer",
        video_size=f"{frame.width}x{frame.height}",
        pix_fmt=frame.format.name,
        time_base="1/1",
        colorspace=str(int(frame.colorspace)),
        range=str(int(frame.color_range)),
    )


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
