"""A slice as a small Matroska stream, which DALI's decoders take from memory.

One container for every codec: it holds the codec's headers as they are, and times of display, of which IVF has neither
for H.264 and HEVC.  Only what FFmpeg's demuxer needs is written: an EBML header, one track, clusters of simple blocks
(RFC 9559).
"""

import struct

import numpy as np

from pipeline.record import VideoRecord
from pipeline.slicing import PacketSlice

CODEC_IDS = {
    "av1": "V_AV1",
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "mjpeg": "V_MJPEG",
    "mpeg4": "V_MPEG4/ISO/ASP",
    "vp8": "V_VP8",
    "vp9": "V_VP9",
}
_UNKNOWN_SIZE = b"\x01" + 7 * b"\xff"
_TICK_NS = 40_000_000
_TICKS_PER_CLUSTER = 30_000  # times in a block are 16 bits, relative to its cluster


def to_matroska(record: VideoRecord, clip: PacketSlice) -> np.ndarray:
    """The slice as a Matroska stream whose frames come one after another, in the order of their numbers.

    Args:
        record: the video.
        clip: its packets; every run starts with a CLOSED packet.

    Returns:
        (num_bytes,) uint8.
    """
    shown = clip.frames >= 0
    places = np.searchsorted(np.sort(clip.frames[shown]), clip.frames)
    times = np.where(shown, places, np.cumsum(shown)).tolist()  # VP8's hidden packets have the time of the next shown
    parts: list[bytes | memoryview] = [_header(record)]
    cluster = -1
    for packet, time, first in zip(clip.packets, times, clip.first.tolist(), strict=True):
        if time // _TICKS_PER_CLUSTER != cluster:
            cluster = time // _TICKS_PER_CLUSTER
            # of unknown size: it ends where the next one begins
            parts.append(b"\x1f\x43\xb6\x75" + _UNKNOWN_SIZE + _number(b"\xe7", cluster * _TICKS_PER_CLUSTER))
        block = struct.pack(">BhB", 0x81, time - cluster * _TICKS_PER_CLUSTER, 0x80 if first else 0)
        parts += [b"\xa3" + _size(len(block) + len(packet)) + block, packet]
    return np.frombuffer(b"".join(parts), np.uint8)


def _header(record: VideoRecord) -> bytes:
    ebml = _number(b"\x42\xf7", 1) + _element(b"\x42\x82", b"matroska") + _number(b"\x42\x87", 4)
    size = _number(b"\xb0", record.width) + _number(b"\xba", record.height)
    track = _number(b"\xd7", 1) + _number(b"\x73\xc5", 1) + _number(b"\x83", 1)  # number, UID, type "video"
    track += _element(b"\x86", CODEC_IDS[record.codec].encode()) + _element(b"\xe0", size)
    if record.extradata:
        track += _element(b"\x63\xa2", record.extradata)
    info = _element(b"\x15\x49\xa9\x66", _number(b"\x2a\xd7\xb1", _TICK_NS))
    tracks = _element(b"\x16\x54\xae\x6b", _element(b"\xae", track))
    return _element(b"\x1a\x45\xdf\xa3", ebml) + b"\x18\x53\x80\x67" + _UNKNOWN_SIZE + info + tracks


def _element(identifier: bytes, payload: bytes) -> bytes:
    return identifier + _size(len(payload)) + payload


def _number(identifier: bytes, value: int) -> bytes:
    return _element(identifier, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def _size(value: int) -> bytes:
    """A size as EBML's variable-length integer, always of eight bytes."""
    return (1 << 56 | value).to_bytes(8, "big")
