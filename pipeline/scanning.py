"""Read one video's packet table, and prove that the file can be used.

Headers lie (a truncated AVI still announces all its frames), so packets are counted, and which frame each yields is
found by looking: where the container has true times, or the codec no B-frames, their order is checked on the first
packets; anywhere else, and where that check fails, the file is decoded whole, each packet marked with its number.
Then some frames are decoded as clips will decode them, from their packets alone, and must have the same pixels.

Promises: ``num_frames`` is what a decoder really delivers; every packet of a ``sliceable`` record lies verbatim at its
offset; what cannot be used is refused with :class:`BadVideo`.  Left to others: what a packet's bits say
(:mod:`pipeline.bitstream`), reading packets again (:mod:`pipeline.slicing`), decoding clips (:mod:`pipeline.decode`).

Damage inside the packets of a file that is not decoded whole does not show here.
"""

import os
from dataclasses import dataclass, field, replace
from typing import Any

import av
import av.container
import numpy as np
from av.stream import Disposition

from pipeline.bitstream import (
    decodes_by_encoder,
    has_foreign_headers,
    has_huffman_tables,
    mpeg4_headers,
    packet_role,
    yields_frame,
)
from pipeline.decode import DECODER_NAMES, DECODER_OPTIONS, clip_frames
from pipeline.errors import BadVideo
from pipeline.record import CLOSED, OPEN, VideoRecord, video_url
from pipeline.sources import Source, stat_source

# Codecs whose frames leave the decoder in packet order.
_IN_ORDER = frozenset({"mjpeg", "vp8", "vp9", "av1"})
_SLICEABLE = _IN_ORDER | {"h264", "hevc", "mpeg4"}
# Containers with true times of display: elsewhere packets of B-frames do not show their order.
_TIMED_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_CODEC_NAMES = {"libvpx": "vp8", "libvpx-vp9": "vp9", "libaom-av1": "av1"} | {
    decoder: codec for codec, decoder in DECODER_NAMES.items()
}
_BLOCK_HEADER_BYTES = 64  # a packet's payload starts within these after the position FFmpeg reports (Matroska, AVI)
_MAX_UNDECODED = 2  # packets without a frame that are normal in whole files: a placeholder, a frame lost at an end
_PLACEHOLDER_BYTES = 19  # MPEG-4 packets up to this size may be there for the timing alone (FFmpeg's MAX_NVOP_SIZE)
_CHECKED_PACKETS = 32  # longer than any reordering; decoding 64 would cost a scan half as much again
_COMPARED_FRAMES = frozenset({0, 7})
_MAX_COMPARED = 10  # those, and frames of packets that follow an access point closely, where mistakes would show


@dataclass(slots=True)
class _Reading:
    """What one pass over a file's packets shows."""

    extradata: bytes
    has_times: bool
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)
    yields: list[bool] = field(default_factory=list)
    times: list[int | None] = field(default_factory=list)
    num_ticks: int = 0
    """What AVI's header counts: packets, and the empty ones that stand for dropped frames, which FFmpeg passes over."""
    is_self_contained: bool = True
    """Packets mean the same without those before their keyframe."""
    has_tables: bool = False
    """The first packet, if a JPEG, brings Huffman tables."""
    changes_headers: bool = False
    """Some packets bring headers other than the first."""
    is_trimmed: bool = False
    """The container asks for some packets to be decoded and not shown."""
    is_whole: bool = True
    """Every packet was decoded, not only the first ones."""
    sources: list[int | None] = field(default_factory=list)
    """For each decoded frame, in order of display, the packet that yields it, as far as the decoder says."""
    pixels: dict[int, np.ndarray] = field(default_factory=dict)
    """(H, W, 3) uint8 RGB of some decoded frames, by number."""
    rotation: int = 0
    colours: tuple[int, int] = (0, 0)


def scan(path: str | os.PathLike[str], source: Source | None = None) -> VideoRecord:
    """Read one video's packet table and prove that it decodes.

    Files that can be sliced prove it by the order of the frames of their first packets, and by frames that decode alike
    from slices; all others are decoded whole, since only that counts their frames.

    Args:
        path: a video.
        source: where it lies, with the absolute path of its tar; a file of its own where None.

    Returns:
        Its record.

    Raises:
        BadVideo: the file is missing, empty, damaged, truncated, or holds no usable video; names file and reason.
    """
    name = os.path.abspath(path)
    try:
        return _scan(name, source or stat_source(name))
    except BadVideo:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise BadVideo(name, _reason(name, source, error)) from error


def _reason(path: str, source: Source | None, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isdir(path):
        return "a folder, not a video file"
    file = source.tar if source else path
    if os.access(file, os.R_OK) and (source.size if source else os.path.getsize(file)) == 0:
        return "the file is empty"
    if isinstance(error, av.error.InvalidDataError):
        return "not a video, or damaged or truncated: FFmpeg finds no valid data"
    return f"cannot be read: {error}"


def _scan(name: str, source: Source) -> VideoRecord:
    record, reading = _read(name, source, _CHECKED_PACKETS)
    expected = _expected_frames(record, reading)
    if expected is not None and reading.sources:
        order = np.argsort(expected, kind="stable")[np.count_nonzero(expected < 0) :]
        if reading.sources == order[: len(reading.sources)].tolist():
            sliced = _sliceable(record, expected)
            if _slices_show_the_same(sliced, reading):
                return _checked(sliced)
    if not reading.is_whole:
        record, reading = _read(name, source, None)
    return _checked(_observed(record, reading))


def _checked(record: VideoRecord) -> VideoRecord:
    if record.num_frames < 2:
        raise BadVideo(record.path, f"too short: {record.num_frames} frame, and a temporal gradient needs 2")
    return record


def _expected_frames(record: VideoRecord, reading: _Reading) -> np.ndarray | None:
    """The frame each packet should yield if container and codec keep their word, or None where they give none."""
    if not _can_be_sliced(record, reading) or reading.is_trimmed:
        return None
    if record.codec in _IN_ORDER:
        return np.where(reading.yields, np.cumsum(reading.yields) - 1, -1).astype(np.int32)
    times = [time for time in reading.times if time is not None]
    if not reading.has_times or len(set(times)) < len(reading.times):
        return None
    return np.argsort(np.argsort(times)).astype(np.int32)


def _can_be_sliced(record: VideoRecord, reading: _Reading) -> bool:
    can_start = bool(record.roles[0] >= OPEN)
    return record.codec in _SLICEABLE and reading.is_self_contained and can_start and record.offsets.min() >= 0


def _observed(record: VideoRecord, reading: _Reading) -> VideoRecord:
    """The record as decoding the whole file showed it."""
    sources = reading.sources
    yields = np.array(reading.yields) if record.codec != "mpeg4" else record.sizes > _PLACEHOLDER_BYTES
    usual = int(yields[int(np.argmax(record.roles >= OPEN)) :].sum())  # a recording may start in the midst of a GOP
    if len(sources) < usual - _MAX_UNDECODED:
        raise BadVideo(record.path, f"only {len(sources)} of its {usual} frames can be decoded: damaged?")
    known = [source for source in sources if source is not None]
    if not _can_be_sliced(record, reading) or len(set(known)) < len(sources):
        return replace(record, num_frames=len(sources))
    frames = np.full(len(record.sizes), -1, np.int32)
    frames[known] = np.arange(len(known))
    sliced = _sliceable(record, frames)
    return sliced if _slices_show_the_same(sliced, reading) else replace(record, num_frames=len(sources))


def _sliceable(record: VideoRecord, frames: np.ndarray) -> VideoRecord:
    """The record with the frames its packets yield.

    MPEG-4's I-frames are CLOSED where no frame decoded after them is displayed before them.  Its B-frames are not
    joinable: packed ones yield the frame of the packet before, and other decoders number those otherwise.
    """
    shown = np.where(frames >= 0, frames, len(frames))
    no_sooner = np.minimum.accumulate(shown[::-1])[::-1] == frames
    roles = record.roles
    if record.codec == "mpeg4":
        roles = np.where((roles == OPEN) & no_sooner, CLOSED, roles).astype(np.int8)
    yields_all = record.codec == "vp8" or bool((frames >= 0).all())
    joinable = yields_all and bool(roles[0] == CLOSED) and (record.codec != "mpeg4" or bool(no_sooner.all()))
    num_frames = int((frames >= 0).sum())
    return replace(record, roles=roles, frames=frames, num_frames=num_frames, sliceable=True, joinable=joinable)


def _slices_show_the_same(record: VideoRecord, reading: _Reading) -> bool:
    """Whether frames decoded as clips decode them have the pixels they have in the whole file."""
    wanted = np.array(sorted(reading.pixels))
    try:
        sliced = {number: frame.to_ndarray(format="rgb24") for number, frame in clip_frames(record, wanted)}
    except (BadVideo, av.error.FFmpegError, ValueError):
        return False
    return len(sliced) == len(wanted) and all(
        np.array_equal(sliced[number], pixels) for number, pixels in reading.pixels.items()
    )


def _read(name: str, source: Source, num_decoded: int | None) -> tuple[VideoRecord, _Reading]:
    """Read all packets and decode the first ones.

    Args:
        name: the video.
        source: where it lies.
        num_decoded: packets to decode; all where None, or where neither container nor codec says which frame comes of
            which packet.

    Returns:
        The record as far as that shows it, and the rest.
    """
    url = video_url(name, source.tar, source.start, source.size)
    with av.open(url) as container:
        stream = _video_stream(name, container)
        context, codec = stream.codec_context, _codec_name(stream)
        reading = _Reading(bytes(context.extradata or b""), has_times=container.format.name in _TIMED_CONTAINERS)
        if not (codec in _IN_ORDER or (codec in _SLICEABLE and reading.has_times)):
            num_decoded = None
        declared = stream.frames
        with open(source.tar or name, "rb") as file:
            for packet in container.demux(stream):
                if container.format.name == "avi" and packet.dts is not None:
                    reading.num_ticks = packet.dts + 1
                _note(name, packet, codec, str(context.pix_fmt), reading, file.fileno(), source)
                reading.is_whole = num_decoded is None or len(reading.sizes) <= num_decoded
                if reading.is_whole:
                    _decode(name, packet, reading)
        if reading.is_whole and not reading.sources:
            raise BadVideo(name, "not one frame of it can be decoded: truncated or damaged?")
        record = VideoRecord(
            path=name,
            codec=codec,
            codec_tag=context.codec_tag,
            pixel_format=str(context.pix_fmt),
            colorspace=reading.colours[0],
            color_range=reading.colours[1],
            width=context.width,
            height=context.height,
            rotation=reading.rotation,
            fps=float(stream.average_rate or 0),
            num_frames=0,
            sliceable=False,
            joinable=False,
            stream=stream.index,
            extradata=reading.extradata,
            file_size=source.size,
            mtime_ns=source.mtime_ns,
            offsets=np.array(reading.offsets, np.int64),
            sizes=np.array(reading.sizes, np.int32),
            roles=np.array(reading.roles, np.int8),
            frames=np.full(len(reading.sizes), -1, np.int32),
            tar=source.tar,
            tar_size=source.tar_size,
            start=source.start,
        )
    if declared > max(len(record.sizes), reading.num_ticks) and not _is_cut_by_edit_list(url, record.stream, declared):
        raise BadVideo(name, f"the header announces {declared} frames but {len(record.sizes)} are there: truncated?")
    return record, reading


def _note(
    name: str, packet: "av.Packet[Any]", codec: str, pixel_format: str, reading: _Reading, fd: int, source: Source
) -> None:
    """Add a packet to the table."""
    if not packet.size:  # demuxing ends with an empty packet
        return
    if packet.is_corrupt:
        raise BadVideo(name, f"packet {len(reading.sizes)} is cut off: truncated?")
    data = bytes(packet)
    if not reading.sizes:
        if codec == "mpeg4" and not reading.extradata:
            reading.extradata = mpeg4_headers(data)
        reading.is_self_contained = not decodes_by_encoder(codec, pixel_format, data)
        reading.has_tables = has_huffman_tables(data)
    if codec == "mjpeg" and has_huffman_tables(data) != reading.has_tables:
        reading.is_self_contained = False  # some pictures use tables of others
    reading.offsets.append(_locate(fd, data, packet.pos, source))
    reading.sizes.append(len(data))
    reading.roles.append(packet_role(codec, data, reading.extradata))
    reading.yields.append(not packet.is_discard and yields_frame(codec, data))
    reading.times.append(packet.pts)
    reading.is_trimmed = reading.is_trimmed or packet.is_discard
    if has_foreign_headers(codec, data, reading.extradata):
        # MPEG-4's I-frames may each bring headers of their own; other codecs' decoders are used for other files too.
        reading.changes_headers = True
        reading.is_self_contained = reading.is_self_contained and codec == "mpeg4" and reading.roles[-1] >= OPEN
    if reading.changes_headers and reading.roles[-1] >= OPEN and not mpeg4_headers(data):
        reading.is_self_contained = False


def _decode(name: str, packet: "av.Packet[Any]", reading: _Reading) -> None:
    """Decode a packet that has been noted, or empty the decoder, and note the frames that come out."""
    if packet.size:
        packet.pts = packet.dts = len(reading.sizes) - 1
    for frame in packet.decode():
        assert isinstance(frame, av.VideoFrame)
        number = len(reading.sources)
        if frame.is_corrupt:
            raise BadVideo(name, f"frame {number} is damaged")
        if not reading.sources:
            reading.colours = int(frame.colorspace), int(frame.color_range)
            reading.rotation = int(frame.rotation) % 360
            if reading.rotation % 90:
                raise BadVideo(
                    name, f"is to be shown turned by {reading.rotation} degrees; only quarter turns are supported"
                )
        reading.sources.append(frame.pts)
        follows = frame.pts is not None and max(reading.roles[max(1, frame.pts - 3) : frame.pts + 1], default=0) >= OPEN
        if number in _COMPARED_FRAMES or (follows and len(reading.pixels) < _MAX_COMPARED):
            reading.pixels[number] = frame.to_ndarray(format="rgb24")


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
    context.options = DECODER_OPTIONS.get(_codec_name(streams[0]), {})
    context.thread_count = 1  # files are scanned in parallel, frames of one file are not
    return streams[0]


def _is_cut_by_edit_list(url: str, stream: int, declared: int) -> bool:
    """Whether an MP4 holds all the frames it announces but asks for some of them only, as trimmed videos do."""
    with av.open(url, options={"ignore_editlist": "1"}) as container:
        return sum(1 for packet in container.demux(container.streams[stream]) if packet.size) >= declared


def _codec_name(stream: av.VideoStream) -> str:
    return _CODEC_NAMES.get(stream.codec_context.name, stream.codec_context.name)


def _locate(fd: int, data: bytes, position: int | None, source: Source) -> int:
    """Offset of a packet's payload in the video; -1 where it is not stored in one piece."""
    if position is None or not 0 <= position < source.size:
        return -1
    length = min(len(data) + _BLOCK_HEADER_BYTES, source.size - position)
    found = os.pread(fd, length, source.start + position).find(data)
    return -1 if found < 0 else position + found
