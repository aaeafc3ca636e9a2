"""One video to one training-friendly file: small, upright, constant frame rate, short closed GOPs, no sound.

A result has square pixels, a short side of at most the one asked for (nothing is enlarged), even sizes, 4:2:0, no
B-frames and a keyframe every few frames, so that a clip is cut from it sparsely (:mod:`pipeline.slicing`).  Colours
are BT.601, limited range (MJPEG: full), whatever the source's: the one choice that all four codecs can carry and that
decoders assume where a stream does not say, as DALI's do.

Promises: every frame of the source is in the result, or the video is refused with :class:`BadVideo`; what was written
has been decoded again, whole, and holds the frames it should.  Left to others: the tree (:mod:`pipeline.prepare`).

Frames go over one to one, whatever their timestamps, unless these leave a regular clock by more than a frame: then
frames are repeated and dropped so that the result runs at the source's commonest frame interval in true time.
Interlaced video stays as it is; transparency is dropped.
"""

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.frame import PictureType

from pipeline.decode import DECODER_OPTIONS, TURN, source_node
from pipeline.encode import ENCODERS, Encoder, video_writer
from pipeline.errors import BadVideo
from pipeline.record import VideoRecord
from pipeline.scanning import scan

# Near transparent at 256 lines.  On 15 surveillance and home videos, kB a frame, luma PSNR against the scaled source,
# and cpu-ms to decode, crop and scale a clip of 2 x 8 frames: h264 so 4.1, 39.1 dB, 20; without fastdecode, which turns
# off CABAC and the loop filter, 3.8, 39.3 dB, 36; mjpeg 18.3, 38.2 dB, 19; vp8 at crf 10 8.0, 40.9 dB, 40; vp9 5.4,
# 40.6 dB, 52.  vp8 so, which is as near as the others and has simpler filters, takes 0.75 times the bytes of that and
# 0.72 times the time to decode, for 1.9 dB.
_OPTIONS = {"h264": {"crf": "20", "tune": "fastdecode"}, "vp8": {"crf": "18", "profile": "1"}}
CODECS = {
    name: ENCODERS[name]._replace(options={**ENCODERS[name].options, **_OPTIONS.get(name, {})})
    for name in ("h264", "vp8", "vp9", "mjpeg")
}

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors that are no fault of a video: any other would meet them too."""

_DEFAULT_RATE = Fraction(25)  # where the source does not say; only a label, as clips are counted in frames
_MAX_RATE = 480  # WebM keeps whole milliseconds, and some containers give their clock's ticks for a rate
_MAX_STRETCH = 2  # timestamps that would double the number of frames are taken for broken
_PIXEL_ASPECT_LIMIT = 4  # beyond this the pixels' shape is taken for a mistake
_BRIGHTNESS_TOLERANCE = 8  # grey levels; coding noise moves a frame's mean by 1 or 2


class Options(NamedTuple):
    """What results are like.

    Attributes:
        codec: "h264", "vp8", "vp9" or "mjpeg".
        short_side: in pixels; smaller videos keep their size.
        gop: frames from one keyframe to the next; MJPEG has nothing but keyframes.
    """

    codec: str
    short_side: int
    gop: int


class Transcoded(NamedTuple):
    """What became of a video.

    Attributes:
        num_frames: frames of the result.
        num_source_frames: frames of the source; another number where timestamps were irregular.
        width: pixels of the result.
        height: pixels of the result.
    """

    num_frames: int
    num_source_frames: int
    width: int
    height: int


def transcode(source: str | os.PathLike[str], result: Path, options: Options) -> Transcoded:
    """Write a training-friendly copy of a video and check it by decoding it whole.

    Args:
        source: any video.
        result: the file to write; its suffix must be that of the codec's container.

    Raises:
        BadVideo: the source is damaged, or the result is not what it should be; names the source.
        OSError: the result cannot be written.
    """
    record = scan(source)
    encoder = CODECS[options.codec]
    repeats, rate = regular_clock(*_timestamps(record), record.num_frames)
    brightness: list[float] = []
    try:
        size = _write(record, result, encoder, options, repeats, rate, brightness)
    except av.error.FFmpegError as error:
        if error.errno in DISK_FULL:
            raise OSError(error.errno, os.strerror(error.errno), str(result)) from error
        raise BadVideo(record.path, f"cannot be transcoded: {error}") from error
    _check(record.path, result, size, np.array(brightness))
    return Transcoded(len(brightness), record.num_frames, *size)


def target_size(width: int, height: int, pixel_aspect: Fraction, short_side: int) -> tuple[int, int]:
    """(width, height) of the result for a frame as stored: square pixels, short side, even, never enlarged."""
    square = (width * pixel_aspect, Fraction(height))
    factor = min(Fraction(1), short_side / min(square))
    return max(2, 2 * round(square[0] * factor / 2)), max(2, 2 * round(square[1] * factor / 2))


def regular_clock(
    times: np.ndarray, time_base: Fraction, rate: Fraction, num_frames: int
) -> tuple[np.ndarray, Fraction]:
    """How often each frame is written, and the rate that makes it true.

    Args:
        times: (N,) timestamps in units of ``time_base``, ascending; another number of them than ``num_frames`` means
            that they tell nothing.
        time_base: in s.
        rate: average frame rate in 1/s that the container gives; 0 where it does not.
        num_frames: frames that will be decoded.

    Returns:
        (num_frames,) int64 copies of each frame, all 1 where the timestamps are regular; frames per s.
    """
    once = np.ones(num_frames, np.int64)
    rate = rate if 0 < rate <= _MAX_RATE else _DEFAULT_RATE
    if len(times) != num_frames or num_frames < 3 or (times[1:] <= times[:-1]).any():
        return once, rate
    elapsed = times - times[0]
    even = np.linspace(0, elapsed[-1], num_frames)
    gaps = np.diff(times)
    median = np.sort(gaps)[len(gaps) // 2]
    interval = gaps[np.abs(gaps - median) <= median / 4].mean()  # the median alone is a whole number of coarse units
    ticks = np.rint(elapsed / interval).astype(np.int64)  # of the regular clock, at which each frame is due
    if (
        np.abs(elapsed - even).max() <= even[1]  # the mean interval
        or not num_frames <= _MAX_STRETCH * ticks[-1] <= _MAX_STRETCH**2 * num_frames
    ):
        return once, rate
    # A frame is shown from its tick to the next frame's; of two due at one tick the later is.
    regular = 1 / (Fraction(interval) * time_base)
    return np.append(np.diff(ticks), 1), regular.limit_denominator(1001) if regular <= _MAX_RATE else rate


def _timestamps(record: VideoRecord) -> tuple[np.ndarray, Fraction, Fraction]:
    """Presentation times in order, their unit in s, and the container's average frame rate (0: unknown)."""
    with av.open(record.path) as container:
        stream = container.streams[record.stream]
        assert isinstance(stream, av.VideoStream)
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        return np.array(times, np.int64), stream.time_base or Fraction(1), stream.average_rate or Fraction(0)


def _write(
    record: VideoRecord,
    result: Path,
    encoder: Encoder,
    options: Options,
    repeats: np.ndarray,
    rate: Fraction,
    brightness: list[float],
) -> tuple[int, int]:
    """Encode every frame as often as it is due; returns the size, and notes each written frame's brightness."""
    frames = _strict_frames(record.path, record.stream, DECODER_OPTIONS.get(record.codec, {}))
    first = next(frames)
    graph, size = _graph(record, first, encoder, options.short_side)
    shape = _shape(first)
    with video_writer(result, encoder, size, rate=rate, gop=options.gop) as write:
        number = -1
        for number, frame in enumerate(chain([first], frames)):
            if _shape(frame) != shape:
                raise BadVideo(record.path, f"its frames change size or pixel format at frame {number}")
            if number >= record.num_frames:
                break
            graph.vpush(frame)
            scaled = graph.vpull()
            scaled.pict_type = PictureType.NONE  # the source's keyframes would become keyframes of the result
            for _ in range(repeats[number]):
                scaled.pts, scaled.time_base = len(brightness), 1 / rate
                write(scaled)
                brightness.append(_brightness(scaled))
    if number + 1 != record.num_frames:
        raise BadVideo(record.path, f"{number + 1} frames decode, not the {record.num_frames} counted before")
    return size


def _graph(
    record: VideoRecord, frame: av.VideoFrame, encoder: Encoder, short_side: int
) -> tuple[Graph, tuple[int, int]]:
    """FFmpeg's filter graph from decoded frames to those to encode, and the (width, height) of the latter."""
    with av.open(record.path) as container:
        stream = container.streams[record.stream]
        assert isinstance(stream, av.VideoStream)
        aspect = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, _PIXEL_ASPECT_LIMIT) <= aspect <= _PIXEL_ASPECT_LIMIT:
        aspect = Fraction(1)
    width, height = target_size(frame.width, frame.height, aspect, short_side)
    # A video that keeps its size loses its odd row or column rather than be resampled for it.
    cropped = (min(width, frame.width), min(height, frame.height))
    keeps_size = max(abs(frame.width - width), abs(frame.height - height)) <= 1
    full = encoder.pixel_format == "yuvj420p"
    scale = (
        f"{width}:{height}:flags=bicubic+accurate_rnd:out_color_matrix=bt601:out_range={'full' if full else 'limited'}"
    )
    graph = Graph()
    graph.threads = 1
    nodes = [
        source_node(graph, frame),
        *([graph.add("crop", f"{cropped[0]}:{cropped[1]}:0:0:exact=1")] if keeps_size else []),
        graph.add("scale", scale),
        graph.add("format", encoder.pixel_format),
        *(graph.add(name, arguments) for name, arguments in TURN[record.rotation]),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph, ((height, width) if record.rotation in (90, 270) else (width, height))


def _strict_frames(path: str, stream_index: int, options: dict[str, str]) -> Iterator[av.VideoFrame]:
    """All frames in display order; whatever FFmpeg, with these decoder options, sees to be damaged is an error."""
    with av.open(path) as container:
        stream = container.streams[stream_index]
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = options
        number = 0
        try:
            for number, frame in enumerate(container.decode(stream)):
                if frame.is_corrupt:
                    raise BadVideo(path, f"frame {number} is damaged")
                yield frame
        except av.error.InvalidDataError as error:
            raise BadVideo(path, f"a frame after frame {number} is damaged") from error


def _check(source: str, result: Path, size: tuple[int, int], brightness: np.ndarray) -> None:
    """Decode the result and hold it against what was to be written."""
    try:
        record = scan(result)
        frames = _strict_frames(record.path, record.stream, {"err_detect": "explode"})
        found = np.array([_brightness(frame) for frame in frames])
    except BadVideo as error:
        raise BadVideo(source, f"its transcoded copy is bad: {error.reason}") from error
    problem = None
    if len(found) != len(brightness):
        problem = f"has {len(found)} frames, not {len(brightness)}"
    elif (record.width, record.height, record.rotation) != (*size, 0):
        problem = f"is {record.width}x{record.height}, not {size[0]}x{size[1]}"
    elif not record.sliceable:
        problem = "cannot be sliced"
    elif np.abs(found - brightness).max() > _BRIGHTNESS_TOLERANCE:
        problem = f"shows something else at frame {np.abs(found - brightness).argmax()}"
    if problem:
        raise BadVideo(source, f"its transcoded copy {problem}")


def _shape(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


def _brightness(frame: av.VideoFrame) -> float:
    """Mean of the luma plane."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
    return float(rows[:, : frame.width].mean())
