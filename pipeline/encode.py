"""Frames to video files, through the FFmpeg inside PyAV.

The promise: the same frames give the same bytes (but for HEVC, whose encoder varies by itself), nothing is padded or
scaled, one packet is one frame, and a keyframe comes every ``gop`` frames and no sooner.  Which frames to write is left
to the caller.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.errors import InputError


class Encoder(NamedTuple):
    """How FFmpeg writes a codec: no hidden frames, no keyframes at scene cuts, quality before size."""

    name: str
    suffix: str
    options: dict[str, str]
    pixel_format: str = "yuv420p"
    odd_sizes: bool = True
    b_frames: bool = False


_VPX_OPTIONS = {"lag-in-frames": "0", "auto-alt-ref": "0", "deadline": "realtime", "cpu-used": "4"}
_X26X_OPTIONS = {"crf": "18", "preset": "veryfast"}
_X265_PARAMS = {"x265-params": "scenecut=0:open-gop=0:log-level=error"}
ENCODERS: dict[str, Encoder] = {
    "mjpeg": Encoder("mjpeg", ".avi", {"qmin": "3", "qmax": "3"}, pixel_format="yuvj420p"),
    "mpeg4": Encoder("mpeg4", ".avi", {"qmin": "3", "qmax": "3", "sc_threshold": "1000000000"}, b_frames=True),
    "vp8": Encoder("libvpx", ".webm", {**_VPX_OPTIONS, "crf": "10", "b": "10M"}),
    "vp9": Encoder("libvpx-vp9", ".webm", {**_VPX_OPTIONS, "crf": "20", "b": "0"}),
    "h264": Encoder("libx264", ".mp4", {**_X26X_OPTIONS, "sc_threshold": "0"}, odd_sizes=False, b_frames=True),
    "hevc": Encoder("libx265", ".mp4", {**_X26X_OPTIONS, **_X265_PARAMS}, odd_sizes=False, b_frames=True),
    "av1": Encoder("libsvtav1", ".mp4", {"crf": "25", "preset": "10", "svtav1-params": "lp=1"}),
}


def write_video(
    path: Path, frames: NDArray[np.uint8], codec: str, *, fps: int = 25, gop: int = 8, bframes: int = 0
) -> None:
    """Write frames as a video file.

    Args:
        path: the file; its suffix picks the container.
        frames: (N, H, W, 3) uint8 RGB, N >= 1.  Never padded or scaled.
        codec: one of :data:`ENCODERS`.
        fps: frames per second.
        gop: distance between keyframes, in frames.
        bframes: most B-frames in a row; mpeg4, h264 and hevc only.

    Raises:
        InputError: the codec is unknown, or does not take this size, B-frames or this container.
    """
    assert frames.dtype == np.uint8
    assert frames.ndim == 4
    assert frames.shape[0] > 0
    assert frames.shape[3] == 3
    height, width = frames.shape[1:3]
    encoder = find_encoder(codec, width, height)
    if bframes and not encoder.b_frames:
        raise InputError(f"{codec} is written without B-frames, not with {bframes}: use mpeg4, h264 or hevc")
    try:
        with video_writer(path, encoder, (width, height), rate=Fraction(fps), gop=gop, bframes=bframes) as write:
            for frame in frames:
                write(av.VideoFrame.from_ndarray(frame, format="rgb24"))
    except (av.error.ExternalError, ValueError) as error:  # FFmpeg's "invalid argument" is a ValueError too
        path.unlink(missing_ok=True)
        remedy = f"another size, or the usual container, {encoder.suffix}"
        raise InputError(f"{path}: cannot write {width}x{height} {codec} here ({error}): try {remedy}") from error


@contextmanager
def video_writer(
    path: Path, encoder: Encoder, size: tuple[int, int], *, rate: Fraction, gop: int, bframes: int = 0
) -> Iterator[Callable[[av.VideoFrame], None]]:
    """Context in which frames are written to a video file, one by one.

    Args:
        path: the file; its suffix picks the container.
        encoder: one of :data:`ENCODERS`.
        size: (width, height) of every frame.
        rate: frames per second.
        gop: distance between keyframes, in frames.
        bframes: most B-frames in a row, where the encoder has them.

    Yields:
        A function that writes a frame; frames that are not of the encoder's pixel format are converted to it.

    Raises:
        av.error.FFmpegError: the encoder or the container takes no such video, or the file cannot be written.
    """
    # bitexact: no random identifiers in the container
    with av.open(str(path), "w", container_options={"fflags": "bitexact"}) as container:
        stream = container.add_stream(encoder.name, rate=rate, options=dict(encoder.options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = encoder.pixel_format
        stream.gop_size, stream.max_b_frames = gop, bframes
        stream.thread_count = 1  # what a threaded encoder writes may depend on timing
        context = stream.codec_context
        context.colorspace = Colorspace.ITU601
        context.color_range = ColorRange.JPEG if encoder.pixel_format == "yuvj420p" else ColorRange.MPEG

        def write(frame: av.VideoFrame) -> None:
            container.mux(stream.encode(frame))

        yield write
        container.mux(stream.encode())


def find_encoder(codec: str, width: int, height: int) -> Encoder:
    """The encoder for a codec and a size, or InputError; nothing is written."""
    if codec not in ENCODERS:
        raise InputError(f"unknown codec {codec!r}: use one of {', '.join(ENCODERS)}")
    encoder = ENCODERS[codec]
    if not encoder.odd_sizes and (width % 2 or height % 2):
        raise InputError(f"{codec} takes even sizes only, not {width}x{height}: use mjpeg, mpeg4, vp8, vp9 or av1")
    return encoder
