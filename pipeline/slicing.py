"""From the frames a clip needs to the packets that yield them, and no others.

Works for ``sliceable`` records, whose frames leave the decoder in packet order: a frame needs its own packet and those
before it, back to the keyframe.  GOPs a clip does not touch are neither read nor decoded, so a clip of 16 frames out
of 300 costs 16 to 60 decoded frames.  Left to others: decoding (:mod:`pipeline.decode` by FFmpeg, :mod:`pipeline.graph`
by DALI) and records that cannot be sliced (they are decoded from the whole file).
"""

import os
import struct
from typing import NamedTuple

import numpy as np

from pipeline.errors import BadVideo
from pipeline.record import VideoRecord

IVF_FOURCC = {"h264": b"H264", "mjpeg": b"MJPG", "vp8": b"VP80", "vp9": b"VP90"}
_START_CODE = b"\0\0\0\1"


class PacketSlice(NamedTuple):
    """The packets of one clip.

    Attributes:
        packets: payloads in decoding order, each GOP beginning with its keyframe.
        shown: for each packet, the number of the frame it yields in the whole video, or -1 where it yields none.
    """

    packets: list[bytes]
    shown: np.ndarray


def needed_packets(record: VideoRecord, frames: np.ndarray) -> np.ndarray:
    """Packets that decoding the given frames takes.

    Args:
        record: a sliceable record.
        frames: (N,) frame numbers in [0, num_frames), any order, repeats allowed.

    Returns:
        (M,) int64 packet numbers, ascending.
    """
    assert record.sliceable and frames.min() >= 0 and frames.max() < record.num_frames, (record.path, frames)
    last = np.flatnonzero(record.shown)[np.unique(frames)]
    keyframes = np.flatnonzero(record.keyframes)
    first = keyframes[np.searchsorted(keyframes, last, side="right") - 1]
    # Frames of one GOP share its beginning: the longest run from each keyframe covers the shorter ones.
    last_of_gop = dict(zip(first.tolist(), last.tolist(), strict=True))
    return np.concatenate([np.arange(start, stop + 1) for start, stop in last_of_gop.items()])


def slice_clip(record: VideoRecord, frames: np.ndarray) -> PacketSlice:
    """Read the packets that decoding the given frames takes.

    Args:
        record: a sliceable record.
        frames: (N,) frame numbers in [0, num_frames), any order, repeats allowed.

    Raises:
        BadVideo: the file is gone, unreadable, or has changed since it was scanned.
    """
    wanted = needed_packets(record, frames)
    try:
        fd = os.open(record.path, os.O_RDONLY)
    except OSError as error:
        raise BadVideo(record.path, f"cannot be opened any more: {error.strerror}") from error
    try:
        check_unchanged(record, os.fstat(fd))
        packets = [os.pread(fd, int(record.sizes[i]), int(record.offsets[i])) for i in wanted]
    except OSError as error:
        raise BadVideo(record.path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
    frame_of_packet = np.where(record.shown, np.cumsum(record.shown) - 1, -1)
    return PacketSlice(packets, frame_of_packet[wanted])


def check_unchanged(record: VideoRecord, stat: os.stat_result) -> None:
    """Raise BadVideo if the file is not the one that was scanned, by its size and modification time."""
    if (stat.st_size, stat.st_mtime_ns) != (record.file_size, record.mtime_ns):
        raise BadVideo(record.path, "has changed since it was indexed; index it again")


def to_ivf(record: VideoRecord, clip: PacketSlice) -> np.ndarray:
    """The slice as an IVF stream, which DALI's decoders take from memory.

    H.264 goes in as Annex B with its parameter sets before every packet, since IVF has no place for headers.

    Returns:
        (num_bytes,) uint8.
    """
    header = b""
    prefix = 0
    if record.codec == "h264" and record.extradata[:1] == b"\x01":
        header, prefix = _parameter_sets(record.extradata), (record.extradata[4] & 3) + 1
    fourcc = IVF_FOURCC[record.codec]
    size = (record.width, record.height)
    stream = bytearray(struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, fourcc, *size, 25, 1, len(clip.packets), 0))
    for time, packet in enumerate(clip.packets):
        payload = header + _annex_b(packet, prefix) if prefix else packet
        stream += struct.pack("<IQ", len(payload), time) + payload
    return np.frombuffer(stream, np.uint8)


def _parameter_sets(avcc: bytes) -> bytes:
    """SPS and PPS of an avcC box (ISO/IEC 14496-15 §5.3.3.1) as Annex B."""
    out, at = b"", 5
    for mask in (0x1F, 0xFF):
        count, at = avcc[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(avcc[at : at + 2], "big")
            out += _START_CODE + avcc[at + 2 : at + 2 + size]
            at += 2 + size
    return out


def _annex_b(packet: bytes, prefix: int) -> bytes:
    """Length-prefixed NAL units with start codes in place of their lengths."""
    units, at = [], 0
    while at + prefix <= len(packet):
        size = int.from_bytes(packet[at : at + prefix], "big")
        units += [_START_CODE, packet[at + prefix : at + prefix + size]]
        at += prefix + size
    return b"".join(units)
