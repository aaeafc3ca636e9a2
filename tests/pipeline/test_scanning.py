"""scan() counts for itself, refuses what cannot be used, and says why."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.decode import decode_clip
from pipeline.encode import write_video
from pipeline.errors import BadVideo
from pipeline.record import CLOSED
from pipeline.scanning import scan
from tests.conftest import moving_frames

CODECS = ("mjpeg", "vp8", "vp9", "h264", "mpeg4", "hevc", "av1")


@pytest.mark.parametrize("codec", CODECS)
def test_record_says_what_ffmpeg_finds(codec: str, video: Callable[..., Path]) -> None:
    path = video(codec, num_frames=21)
    record = scan(path)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert (record.codec, record.width, record.height, record.rotation) == (codec, 96, 72, 0)
    assert record.num_frames == 21
    assert record.fps == 25
    assert record.sizes.tolist() == [packet.size for packet in packets]
    assert [role == CLOSED for role in record.roles] == [packet.is_keyframe for packet in packets]
    assert record.frames.tolist() == list(range(21))
    data = path.read_bytes()
    assert [data[at : at + size] for at, size in zip(record.offsets, record.sizes, strict=True)] == [
        bytes(packet) for packet in packets
    ]


def test_hidden_vp8_frames_are_not_counted(video: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "hidden.webm"
    hidden = {5, 19}  # packets that update a reference and show nothing, as encoders make them for "altref" frames
    with av.open(str(video("vp8"))) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                data = bytearray(packet)
                data[0] &= 0xEF if number in hidden else 0xFF
                copy = av.Packet(bytes(data))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                target.mux(copy)
    record = scan(path)
    assert set(np.flatnonzero(record.frames < 0)) == hidden
    assert record.joinable
    assert record.num_frames == 38
    assert record.sliceable
    wanted = np.array([4, 5, 17, 18, 37])
    with av.open(str(path)) as container:
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(whole) == 38
    np.testing.assert_array_equal(decode_clip(record, wanted, (0, 0, 96, 72), False, (96, 72)), whole[wanted])


def test_damaged_files_are_refused_by_name_and_reason(video: Callable[..., Path], tmp_path: Path) -> None:
    avi = video("mjpeg").read_bytes()
    cases = {
        "missing.mp4": (None, "no such file"),
        "empty.mp4": (b"", "empty"),
        "text.mp4": (b"<html>not found</html>" * 100, "not a video"),
        "truncated.mp4": (video("h264").read_bytes()[:3000], "truncated"),
        "truncated.avi": (avi[: len(avi) // 2], "truncated"),
        "header.avi": (avi[:2100], "truncated"),
    }
    for name, (data, reason) in cases.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(BadVideo, match=reason) as caught:
            scan(path)
        assert str(path) in str(caught.value)


def test_trimmed_mp4_is_used_as_far_as_it_is_shown(video: Callable[..., Path], tmp_path: Path) -> None:
    data = bytearray(video("h264", bframes=2).read_bytes())
    at = data.index(b"elst") + 12  # duration of the first segment, after version, flags and count
    duration = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (duration // 2).to_bytes(4, "big")
    path = tmp_path / "trimmed.mp4"
    path.write_bytes(data)
    record = scan(path)
    with av.open(str(path)) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert 15 <= record.num_frames == len(shown) < 40, "half of the 40 frames, or the test shows nothing"
    wanted = np.arange(len(shown))
    np.testing.assert_array_equal(decode_clip(record, wanted, (0, 0, 96, 72), False, (96, 72)), shown)


def test_mp4_whose_first_packets_are_all_hidden_by_an_edit_list_is_used(
    video: Callable[..., Path], tmp_path: Path
) -> None:
    data = bytearray(video("h264", gop=150, num_frames=150).read_bytes())
    at = data.index(b"elst") + 12  # duration of the first segment, then the time in the media where it starts
    with av.open(str(video("h264", gop=150, num_frames=150))) as container:
        ticks = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert ticks[60] is not None
    data[at + 4 : at + 8] = ticks[60].to_bytes(4, "big")
    path = tmp_path / "late.mp4"
    path.write_bytes(data)
    record = scan(path)
    with av.open(str(path)) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert record.num_frames == len(shown) == 90
    np.testing.assert_array_equal(decode_clip(record, np.arange(90), (0, 0, 96, 72), False, (96, 72)), shown)


def test_a_broadcast_that_starts_amid_a_gop_is_used_from_its_first_keyframe(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.ts", tmp_path / "midway.ts"
    write_video(whole, moving_frames(num_frames=107), "h264", gop=48, bframes=2)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.size][11:]:
            packet.stream = stream
            target.mux(packet)
    with av.open(str(path)) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert len(shown) == 107 - 48
    record = scan(path)
    assert record.num_frames == len(shown)
    np.testing.assert_array_equal(
        decode_clip(record, np.array([0, 58]), (0, 0, 96, 72), False, (96, 72)), shown[[0, 58]]
    )


def test_single_frame_is_refused(video: Callable[..., Path]) -> None:
    with pytest.raises(BadVideo, match="too short"):
        scan(video("mjpeg", num_frames=1))


def test_sound_without_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(BadVideo, match="no video stream"):
        scan(path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), codec=st.sampled_from(CODECS))
def test_any_damage_is_refused_or_decodes_in_full(
    data: st.DataObject, codec: str, video: Callable[..., Path], tmp_path: Path
) -> None:
    source = bytearray(video(codec, num_frames=6).read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        source[data.draw(st.integers(0, len(source) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged{video(codec, num_frames=6).suffix}"
    path.write_bytes(source[: data.draw(st.integers(0, len(source)))])
    try:
        record = scan(path)
    except BadVideo as error:
        assert str(path) in str(error)  # noqa: PT017 - most damage is refused, some is harmless: both are right
        return
    assert record.num_frames >= 2
    try:
        frames = decode_clip(record, np.arange(record.num_frames), (0, 0, *record.display_size), False, (16, 16))
    except BadVideo as error:
        assert str(path) in str(error)  # noqa: PT017 - damage inside a packet shows only when it is decoded
        return
    assert len(frames) == record.num_frames
