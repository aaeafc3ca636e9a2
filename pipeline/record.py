"""What is known of one video, a file or a part of a tar: sizes, frame count, and where each of its packets lies."""

from dataclasses import dataclass, field

import numpy as np

# What a packet is to a decoder that starts in the middle of a file.
PLAIN = 0
"""Needs the packets before it."""
DISPOSABLE = 1
"""As plain, and no other packet needs it: it can be left out where its own frame is not wanted."""
OPEN = 2
"""Decoding can start here, and yields every frame decoded after it that is also displayed after it."""
CLOSED = 3
"""Decoding can start here, and yields every frame decoded after it."""


def video_url(path: str, tar: str, start: int, size: int) -> str:
    """What FFmpeg opens to read a video.

    Args:
        path: the video, absolute.
        tar: absolute path of the tar that holds it, or "".
        start: where in the tar it begins, in bytes.
        size: of the video in bytes.
    """
    return f"subfile,,start,{start},end,{start + size},,:{tar}" if tar else path


@dataclass(frozen=True, slots=True, eq=False)
class VideoRecord:
    """One usable video.

    Attributes:
        path: absolute; of a video in a tar, the path it would have if the tar were unpacked where it lies.
        codec: FFmpeg's name of the codec: "h264", "vp8", "mjpeg", ...
        codec_tag: the container's name of it, such as "XVID": the MPEG-4 decoder allows for encoders' bugs by it.
        pixel_format: FFmpeg's name, "yuv420p" for most.
        colorspace: FFmpeg's number of the matrix from YUV to RGB, as the first frame says.
        color_range: FFmpeg's number of the range of YUV values, as the first frame says.
        width: stored width in pixels, before rotation.
        height: stored height in pixels, before rotation.
        rotation: degrees counter-clockwise to turn the stored frame for display: 0, 90, 180 or 270.
        fps: average frame rate in 1/s; 0 where the container does not say.
        num_frames: frames a decoder delivers, counted.
        sliceable: whether a clip can be decoded from only some of the packets.
        joinable: whether the runs of a slice that start at CLOSED packets may also be decoded as one stream: each of
            their packets yields its frame (VP8's hidden ones none), in order of display.
        stream: index of the video stream in the container.
        extradata: the codec's headers, without which packets from the middle of the file mean nothing.
        file_size: bytes of the video, when scanned.
        mtime_ns: modification time in ns of its file or tar, when scanned.
        offsets: (P,) int64 position of each packet's payload in the video, -1 where it is not stored in one piece.
        sizes: (P,) int32 bytes of each packet.
        roles: (P,) int8: PLAIN, DISPOSABLE, OPEN or CLOSED.
        frames: (P,) int32: number, in order of display, of the frame that decoding the packet yields; -1 for none.
            Packets lie in decoding order, so with B-frames these numbers are not in order.
        tar: absolute path of the tar that holds the video; "" for a file of its own.
        tar_size: bytes of the tar, when scanned.
        start: where in the tar the video begins, in bytes.
    """

    path: str
    codec: str
    codec_tag: str
    pixel_format: str
    colorspace: int
    color_range: int
    width: int
    height: int
    rotation: int
    fps: float
    num_frames: int
    sliceable: bool
    joinable: bool
    stream: int
    extradata: bytes = field(repr=False)
    file_size: int
    mtime_ns: int
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    roles: np.ndarray = field(repr=False)
    frames: np.ndarray = field(repr=False)
    tar: str = ""
    tar_size: int = 0
    start: int = 0

    @property
    def file(self) -> str:
        """The file on disk that holds the video."""
        return self.tar or self.path

    @property
    def url(self) -> str:
        """What FFmpeg opens to read the video from its beginning to its end, and nothing else."""
        return video_url(self.path, self.tar, self.start, self.file_size)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in pixels as a person sees the video, after rotation."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)
