"""What is known of one video file: sizes, frame count, and where each of its packets lies."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class VideoRecord:
    """One usable video file.

    Attributes:
        path: absolute path.
        codec: FFmpeg's name of the codec: "h264", "vp8", "mjpeg", ...
        pixel_format: FFmpeg's name, "yuv420p" for most.
        width: stored width in pixels, before rotation.
        height: stored height in pixels, before rotation.
        rotation: degrees counter-clockwise to turn the stored frame for display: 0, 90, 180 or 270.
        fps: average frame rate in 1/s; 0 where the container does not say.
        num_frames: frames a decoder delivers, counted.
        sliceable: whether a clip can be decoded from only some of the packets.
        stream: index of the video stream in the container.
        extradata: the codec's out-of-band headers as stored in the container.
        file_size: bytes, when scanned.
        mtime_ns: modification time in ns, when scanned.
        offsets: (P,) int64 position of each packet's payload in the file, -1 where it is not stored in one piece.
        sizes: (P,) int32 bytes of each packet.
        keyframes: (P,) bool: decoding can start here and no later frame refers to an earlier one.
        shown: (P,) bool: the packet yields a frame (VP8 has packets that only update a reference).
    """

    path: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation: int
    fps: float
    num_frames: int
    sliceable: bool
    stream: int
    extradata: bytes = field(repr=False)
    file_size: int
    mtime_ns: int
    offsets: np.ndarray = field(repr=False)
    sizes: np.ndarray = field(repr=False)
    keyframes: np.ndarray = field(repr=False)
    shown: np.ndarray = field(repr=False)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) in pixels as a person sees the video, after rotation."""
        return (self.height, self.width) if self.rotation in (90, 270) else (self.width, self.height)
