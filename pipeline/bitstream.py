"""What a packet's own bits say of it: whether decoding can start there, whether it can be left out.

Containers' keyframe flags are not to be trusted with it: they mark the open GOPs of H.264 and HEVC like closed ones,
and some mark every packet.  Promises: pure functions that take any bytes at all; when in doubt a packet is plain.
Left to others: where packets lie and in which order frames come (:mod:`pipeline.scanning`).
"""

import re
from collections.abc import Iterator

from pipeline.record import CLOSED, DISPOSABLE, OPEN, PLAIN

_START_CODE = b"\0\0\1"
_MPEG4_VOP = b"\0\0\1\xb6"
_MPEG4_GOV = b"\0\0\1\xb3"
_X264_BUILD = re.compile(rb"x264 - core (\d+)")


def packet_role(codec: str, data: bytes, extradata: bytes) -> int:
    """What a packet is to a decoder that starts in the middle: PLAIN, DISPOSABLE, OPEN or CLOSED.

    Only codecs whose non-reference pictures leave no trace in the decoder have DISPOSABLE packets: in VP9 and AV1 they
    still adapt probabilities, and MPEG-4's interlaced B-frames are scaled by the first one decoded.

    Args:
        codec: FFmpeg's name.
        data: the packet.
        extradata: the stream's headers.
    """
    match codec:
        case "mjpeg":
            return CLOSED if 0xDB in _jpeg_tables(data) else PLAIN
        case "vp8":
            return CLOSED if len(data) >= 10 and not data[0] & 1 and data[3:6] == b"\x9d\x01\x2a" else PLAIN
        case "vp9":
            return CLOSED if _is_vp9_keyframe(data) else PLAIN
        case "av1":
            return CLOSED if _is_av1_keyframe(data) else PLAIN
        case "mpeg4":
            return OPEN if _is_mpeg4_keyframe(data) else PLAIN
        case "h264":
            return _h264_role(data, extradata)
        case "hevc":
            return _hevc_role(data, extradata)
    return PLAIN


def yields_frame(codec: str, data: bytes) -> bool:
    """Whether decoding a packet shows a frame: VP8 stores some that only update a reference (RFC 6386 §9.1)."""
    return codec != "vp8" or bool(data[0] & 0x10)


def has_foreign_headers(codec: str, data: bytes, extradata: bytes) -> bool:
    """Whether a packet brings headers that the extradata lacks, so that later packets may depend on this one's.

    Args:
        codec: FFmpeg's name.
        data: the packet.
        extradata: the stream's headers.
    """
    match codec:
        case "h264":
            headers = [nal for nal in _nal_units(codec, data, extradata) if nal[0] & 31 in (7, 8, 13, 15)]
        case "hevc":
            headers = [nal for nal in _nal_units(codec, data, extradata) if nal[0] >> 1 & 63 in (32, 33, 34)]
        case "mpeg4":
            headers = [mpeg4_headers(data)]
        case _:
            return False
    return any(header.rstrip(b"\0") not in extradata for header in headers)


def mpeg4_headers(data: bytes) -> bytes:
    """What an MPEG-4 packet holds before its first group or picture: the layer's headers and the encoder's name."""
    ends = [at for at in (data.find(_MPEG4_GOV), data.find(_MPEG4_VOP)) if at >= 0]
    return data[: min(ends)] if ends else b""


def has_huffman_tables(data: bytes) -> bool:
    """Whether a JPEG brings its Huffman tables; those of many cameras count on the usual ones."""
    return 0xC4 in _jpeg_tables(data)


def decodes_by_encoder(codec: str, pixel_format: str, first: bytes) -> bool:
    """Whether FFmpeg decodes H.264 by the name of its encoder, which only the first packet says.

    It repeats the mistakes of x264 before build 34 (direct prediction) and of 4:4:4 before build 151 (CABAC).
    """
    found = _X264_BUILD.search(first) if codec == "h264" else None
    return found is not None and int(found[1][:9]) < (151 if "444" in pixel_format else 34)


def _h264_role(data: bytes, extradata: bytes) -> int:
    """H.264 §7.3.1: an IDR picture, a picture with a recovery point at itself, or a non-reference picture."""
    recovers, first, disposable = False, 0, True
    for nal in _nal_units("h264", data, extradata):
        kind = nal[0] & 31
        if kind == 6:
            recovers = recovers or _recovers_at_once(nal)
        elif 1 <= kind <= 5:
            first = first or kind
            disposable = disposable and not nal[0] & 0x60
    if first == 5:
        return CLOSED
    if first and recovers:
        return OPEN
    return DISPOSABLE if first and disposable else PLAIN


def _recovers_at_once(sei: bytes) -> bool:
    """Whether an SEI unit says recovery_frame_cnt = 0 and exact_match_flag = 1 (H.264 §D.1.8)."""
    payload = sei[1:].replace(b"\0\0\3", b"\0\0")
    at = 0
    while at + 2 <= len(payload):
        kind = size = 0
        while at < len(payload) and payload[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + int.from_bytes(payload[at : at + 1], "big"), at + 1
        while at < len(payload) and payload[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + int.from_bytes(payload[at : at + 1], "big"), at + 1
        if kind == 6:
            return payload[at : at + 1] >= b"\xc0"  # ue(0) is one bit, 1; then the flag
        at += size
    return False


def _hevc_role(data: bytes, extradata: bytes) -> int:
    """H.265 §7.4.2.2: IDR, other random access pictures, and those no picture of their layer refers to.

    The last may serve higher temporal layers, so they are disposable only where the hvcC box knows one layer.
    """
    for nal in _nal_units("hevc", data, extradata):
        kind = nal[0] >> 1 & 63
        if kind in (19, 20):
            return CLOSED
        if 16 <= kind <= 21:
            return OPEN
        if kind < 16:
            one_layer = extradata[:1] == b"\x01" and len(extradata) > 21 and extradata[21] >> 3 & 7 == 1
            return DISPOSABLE if one_layer and kind % 2 == 0 else PLAIN
    return PLAIN


def _nal_units(codec: str, data: bytes, extradata: bytes) -> Iterator[bytes]:
    """The NAL units of an H.264 or HEVC packet, none empty: length-prefixed (avcC, hvcC) or Annex B."""
    field = 4 if codec == "h264" else 21  # where the box says how long the prefixes are
    if extradata[:1] == b"\x01" and len(extradata) > field:
        prefix = (extradata[field] & 3) + 1
        at = 0
        while at + prefix < len(data):
            size = int.from_bytes(data[at : at + prefix], "big")
            if size:
                yield data[at + prefix : at + prefix + size]
            at += prefix + size
        return
    at = data.find(_START_CODE)
    while 0 <= at < len(data) - 3:
        end = data.find(_START_CODE, at + 3)
        if end != at + 3:
            yield data[at + 3 : end if end >= 0 else len(data)]
        at = end


def _is_mpeg4_keyframe(data: bytes) -> bool:
    """ISO/IEC 14496-2 §6.2.5: one picture, of vop_coding_type I.

    Not one packed with a B-frame: that refers to what is before, and dropping it, FFmpeg falls out of step.
    """
    at = data.find(_MPEG4_VOP)
    return 0 <= at < len(data) - 4 and data[at + 4] >> 6 == 0 and data.find(_MPEG4_VOP, at + 4) < 0


def _jpeg_tables(data: bytes) -> set[int]:
    """Markers of the Huffman (C4) and quantisation (DB) tables before a JPEG's first scan (ITU-T T.81 §B)."""
    found = set()
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        found |= {data[at + 1]} & {0xC4, 0xDB}
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def _is_vp9_keyframe(data: bytes) -> bool:
    """VP9 bitstream specification §6.2: marker 2, profile bits, [reserved], show_existing_frame 0, frame_type 0."""
    head = data[0] if data else 0
    if head >> 6 != 2:
        return False
    rest = head >> 1 if head & 0x30 == 0x30 else head >> 2
    return rest & 3 == 0


def _is_av1_keyframe(data: bytes) -> bool:
    """AV1 specification §5.3, §5.9.2: a sequence header, and then a key frame that is shown."""
    at, has_sequence = 0, False
    while at < len(data):
        kind, has_size = data[at] >> 3 & 15, data[at] & 2
        at += 2 if data[at] & 4 else 1
        size = 0
        for shift in range(0, 56, 7):
            if not has_size or at >= len(data):
                break
            size |= (data[at] & 127) << shift
            at += 1
            if data[at - 1] < 128:
                break
        if kind == 1:
            has_sequence = True
        elif kind in (3, 6):  # show_existing_frame 0, frame_type 00, show_frame 1
            return has_sequence and at < len(data) and data[at] >> 4 == 1
        if not has_size:
            return False
        at += size
    return False
