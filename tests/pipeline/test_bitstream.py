"""Any bytes at all have a role, and only those of an access point are taken for one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bitstream import decodes_by_encoder, has_foreign_headers, mpeg4_headers, packet_role, yields_frame
from pipeline.record import CLOSED, DISPOSABLE, OPEN, PLAIN

CODECS = ("mjpeg", "vp8", "vp9", "av1", "mpeg4", "h264", "hevc", "wmv2")
AVCC = b"\x01\x64\x00\x0a\xff\xe1\x00\x00\x01\x00\x00"  # lengths of four bytes


@settings(max_examples=300, deadline=None)
@given(
    codec=st.sampled_from(CODECS),
    data=st.binary(min_size=1, max_size=200)
    | st.lists(st.sampled_from([0, 1, 3, 6, 101, 176, 182, 255]), min_size=1).map(bytes),
    extradata=st.binary(max_size=40) | st.binary(min_size=22, max_size=40).map(lambda tail: b"\x01" + tail),
)
def test_any_bytes_are_read(codec: str, data: bytes, extradata: bytes) -> None:
    assert packet_role(codec, data, extradata) in (PLAIN, DISPOSABLE, OPEN, CLOSED)
    assert yields_frame(codec, data) in (True, False)
    assert has_foreign_headers(codec, data, extradata) in (True, False)
    assert data.startswith(mpeg4_headers(data))
    assert decodes_by_encoder(codec, "yuv444p", data) in (True, False)


def h264(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


@pytest.mark.parametrize(
    ("data", "role"),
    [
        (h264(b"\x65\x88"), CLOSED),
        (h264(b"\x09\xf0", b"\x06\x06\x01\xc4\x80", b"\x61\x88"), OPEN),
        (h264(b"\x06\x05\x02ab\x06\x01\xc4\x80", b"\x41\x88"), OPEN),
        (h264(b"\x06\x06\x01\x84\x80", b"\x41\x88"), PLAIN),  # no exact match
        (h264(b"\x06\x06\x01\x2c\x80", b"\x41\x88"), PLAIN),  # recovered some frames later only
        (h264(b"\x41\x88"), PLAIN),
        (h264(b"\x01\x88"), DISPOSABLE),
        (h264(b"\x01\x88", b"\x41\x88"), PLAIN),
        (h264(b"\x06\x06\x01\xc4\x80"), PLAIN),  # no picture at all
        (b"\x00\x00\x00\xff\x65", CLOSED),  # cut off, still an IDR picture
    ],
)
def test_roles_of_h264_pictures(data: bytes, role: int) -> None:
    assert packet_role("h264", data, AVCC) == role
    if role != CLOSED or len(data) > 5:
        annex_b = b"".join(b"\0\0\0\1" + unit for unit in split(data))
        assert packet_role("h264", annex_b, b"\0\0\0\1\x67") == role


def split(data: bytes) -> list[bytes]:
    units = []
    while data:
        size = int.from_bytes(data[:4], "big")
        units.append(data[4 : 4 + size])
        data = data[4 + size :]
    return units


def test_headers_are_foreign_only_where_the_extradata_lacks_them() -> None:
    extradata = b"\0\0\0\1\x67abc\0\0\0\1\x68d"
    assert not has_foreign_headers("h264", b"\0\0\0\1\x67abc\0\0\0\1\x68d\0\0\1\x65e", extradata)
    assert has_foreign_headers("h264", b"\0\0\0\1\x67abd\0\0\0\1\x65e", extradata)
    assert not has_foreign_headers("mpeg4", b"\0\0\1\xb3gov\0\0\1\xb6vop", b"")
    assert has_foreign_headers("mpeg4", b"\0\0\1\x20vol\0\0\1\xb6vop", b"\0\0\1\x20voL")


@pytest.mark.parametrize(
    ("build", "pixel_format", "matters"),
    [
        (33, "yuv420p", True),
        (164, "yuv420p", False),
        (148, "yuv420p", False),
        (148, "yuv444p", True),
        (164, "yuv444p", False),
    ],
)
def test_old_x264_is_recognised(build: int, pixel_format: str, matters: bool) -> None:
    assert decodes_by_encoder("h264", pixel_format, b"...x264 - core %d r1 ..." % build) == matters
