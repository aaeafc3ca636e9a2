"""Read one video file's packet table, and prove that the file can be used.

Headers lie (a truncated AVI still announces all its frames), so packets are counted, and where packets do not show the
number of frames, frames are decoded and counted.  Promises: ``num_frames`` is what a decoder really delivers; every
packet of a ``sliceable`` record lies verbatim at its offset; what cannot be used is refused with :class:`BadVideo`.
Left to others: reading packets again (:mod:`pipeline.slicing`), decoding clips (:mod:`pipeline.decode`).

Damage inside the packets of a sliceable file does not show here: only decoding every frame would find it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import av
import av.container
import numpy as np
from av.stream import Disposition

from pipeline.decode import whole_frames
from pipeline.errors import BadVideo
from pipeline.record import VideoRecord

# Codecs whose frames leave the decoder in packet order, one for each shown packet, when no B-frames are in use.
_SLICEABLE_CODECS = frozenset({"mjpeg", "vp8", "vp9", "h264"})
# Containers with true presentation times: elsewhere H.264's B-frames cannot be told from the packet table.
_TIMED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_CODEC_NAMES = {"libvpx": "vp8", "libvpx-vp9": "vp9", "libdav1d": "av1", "libaom-av1": "av1"}
_BLOCK_HEADER_BYTES = 64  # a packet's payload starts within these after the position FFmpeg reports (Matroska, AVI)
_MAX_UNDECODED = 2  # packets without a frame that are normal in whole files: a placeholder, a frame lost at an end


@dataclass(slots=True)
class _Packets:
    """The packet table while it grows."""

    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keyframes: list[bool] = field(default_factory=list)
    shown: list[bool] = field(default_factory=list)
    in_order: bool = True


def scan(path: str | os.PathLike[str]) -> VideoRecord:
    """Read one file's packet table and prove that it decodes.

    Sliceable files prove it by their first frame; all others are decoded whole, since only that counts their frames.

    Args:
        path: a video file.

    Returns:
        Its record.

    Raises:
        BadVideo: the file is missing, empty, damaged, truncated, or holds no usable video; names file and reason.
    """
    name = os.path.abspath(path)
    try:
        return _scan(name)
    except BadVideo:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise BadVideo(name, _reason(name, error)) from error


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isdir(path):
        return "a folder, not a video file"
    if os.access(path, os.R_OK) and os.path.getsize(path) == 0:
        return "the file is empty"
    if isinstance(error, av.error.InvalidDataError):
        return "not a video, or damaged or truncated: FFmpeg finds no valid data"
    return f"cannot be read: {error}"


def _scan(name: str) -> VideoRecord:
    with av.open(name) as container:
        stream = _video_stream(name, container)
        stat = os.stat(name)
        packets, rotation = _read_packets(name, container, stream, stat.st_size)
        context = stream.codec_context
        codec = _codec_name(stream)
        declared = stream.frames
        record = VideoRecord(
            path=name,
            codec=codec,
            pixel_format=str(context.pix_fmt),
            width=context.width,
            height=context.height,
            rotation=rotation,
            fps=float(stream.average_rate or 0),
            num_frames=sum(packets.shown),
            sliceable=_is_sliceable(codec, bool(context.has_b_frames), container.format.name, packets),
            stream=stream.index,
            extradata=bytes(context.extradata or b""),
            file_size=stat.st_size,
            mtime_ns=stat.st_mtime_ns,
            offsets=np.array(packets.offsets, np.int64),
            sizes=np.array(packets.sizes, np.int32),
            keyframes=np.array(packets.keyframes, bool),
            shown=np.array(packets.shown, bool),
        )
    if declared > len(record.sizes) and not _is_cut_by_edit_list(name, record.stream, declared):
        raise BadVideo(name, f"the header announces {declared} frames but {len(record.sizes)} are there: truncated?")
    num_frames = record.num_frames if record.sliceable else sum(1 for _ in whole_frames(record))
    if num_frames < record.num_frames - _MAX_UNDECODED:
        raise BadVideo(name, f"only {num_frames} of its {record.num_frames} frames can be decoded: damaged?")
    if num_frames < 2:
        raise BadVideo(name, f"too short: {num_frames} frame, and a temporal gradient needs 2")
    return replace(record, num_frames=num_frames)


def _video_stream(name: str, container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise BadVideo(name, "there is no video stream in it")
    context = streams[0].codec_context
    if context is None:  # PyAV has none where FFmpeg knows no decoder for what the header says
        raise BadVideo(name, "the codec of its video is unknown to FFmpeg: damaged?")
    if not (context.width and context.height and context.pix_fmt):
        raise BadVideo(name, "the size or pixel format of its frames cannot be found: damaged?")
    context.thread_count = 1  # files are scanned in parallel, frames of one file are not
    return streams[0]


def _is_cut_by_edit_list(name: str, stream: int, declared: int) -> bool:
    """Whether an MP4 holds all the frames it announces but asks for some of them only, as trimmed videos do."""
    with av.open(name, options={"ignore_editlist": "1"}) as container:
        return sum(1 for packet in container.demux(container.streams[stream]) if packet.size) >= declared


def _codec_name(stream: av.VideoStream) -> str:
    return _CODEC_NAMES.get(stream.codec_context.name, stream.codec_context.name)


def _read_packets(
    name: str, container: av.container.InputContainer, stream: av.VideoStream, file_size: int
) -> tuple[_Packets, int]:
    """The packet table, and the rotation that the first frame asks for."""
    codec, extradata = _codec_name(stream), bytes(stream.codec_context.extradata or b"")
    packets = _Packets()
    first_frame: av.VideoFrame | None = None
    last_pts: int | None = None
    with open(name, "rb") as file:
        for packet in container.demux(stream):
            if first_frame is None:
                first_frame = next(iter(packet.decode()), None)
            if not packet.size:  # demuxing ends with an empty packet
                continue
            if packet.is_corrupt:
                raise BadVideo(name, f"packet {len(packets.sizes)} is cut off: truncated?")
            data = bytes(packet)
            packets.offsets.append(_locate(file.fileno(), data, packet.pos, file_size))
            packets.sizes.append(len(data))
            packets.keyframes.append(packet.is_keyframe and _starts_closed_gop(codec, data, extradata))
            packets.shown.append(not packet.is_discard and _is_shown(codec, data))
            if packet.is_discard or packet.pts is None or (last_pts is not None and packet.pts <= last_pts):
                packets.in_order = False
            last_pts = packet.pts
    if first_frame is None:
        raise BadVideo(name, "not one frame of it can be decoded: truncated or damaged?")
    rotation = int(first_frame.rotation) % 360
    if rotation % 90:
        raise BadVideo(name, f"is to be shown turned by {rotation} degrees; only quarter turns are supported")
    return packets, rotation


def _locate(fd: int, data: bytes, position: int | None, file_size: int) -> int:
    """Offset of a packet's payload in the file; -1 where it is not stored in one piece."""
    if position is None or not 0 <= position < file_size:
        return -1
    found = os.pread(fd, len(data) + _BLOCK_HEADER_BYTES, position).find(data)
    return -1 if found < 0 else position + found


def _is_shown(codec: str, data: bytes) -> bool:
    """VP8 alone stores packets that only update a reference frame (show_frame, RFC 6386 §9.1)."""
    return codec != "vp8" or bool(data[0] & 0x10)


def _starts_closed_gop(codec: str, data: bytes, extradata: bytes) -> bool:
    """Whether nothing from this packet on refers to anything before it.

    Containers also mark the recovery points of open GOPs as keyframes; in H.264 only an IDR picture is closed.
    """
    return codec != "h264" or any(nal_type == 5 for nal_type in _nal_types(data, extradata))


def _nal_types(data: bytes, extradata: bytes) -> Iterator[int]:
    """Types of an H.264 packet's NAL units (ISO/IEC 14496-10 §7.3.1), length-prefixed (avcC) or Annex B."""
    if extradata[:1] == b"\x01" and len(extradata) > 4:
        prefix = (extradata[4] & 3) + 1
        at = 0
        while at + prefix < len(data):
            yield data[at + prefix] & 31
            at += prefix + int.from_bytes(data[at : at + prefix], "big")
        return
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield data[at + 3] & 31
        at = data.find(b"\0\0\1", at + 3)


def _is_sliceable(codec: str, has_b_frames: bool, container: str, packets: _Packets) -> bool:
    if codec not in _SLICEABLE_CODECS or has_b_frames or not packets.in_order:
        return False
    if codec == "h264" and container not in _TIMED_CONTAINERS:
        return False
    return packets.keyframes[0] and min(packets.offsets) >= 0
