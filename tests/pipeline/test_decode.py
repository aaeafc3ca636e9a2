"""Decoding delivers exactly the frames asked for, cropped as asked, the same bits whichever way they are read."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.decode import _run_packets, clip_frames, decode_clip, open_decoder, whole_frames
from pipeline.errors import BadVideo
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from pipeline.slicing import needed_packets, slice_clip

SLICEABLE = ("mjpeg", "vp8", "vp9", "h264")
WANTED = np.array([5, 3, 30, 31, 3, 16])


def rgb_frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("gop", [1, 4, 8, 100])
@pytest.mark.parametrize("codec", SLICEABLE)
def test_sliced_decode_is_bit_identical_to_whole_file(codec: str, gop: int, video: Callable[..., Path]) -> None:
    record = scan(video(codec, gop=gop))
    assert record.sliceable
    whole = [frame.to_ndarray() for frame in whole_frames(record)]
    wanted = np.unique(WANTED)
    sliced = list(clip_frames(record, wanted))
    assert [number for number, _ in sliced] == wanted.tolist()
    for number, frame in sliced:
        np.testing.assert_array_equal(frame.to_ndarray(), whole[number])


@pytest.mark.parametrize("gop", [1, 8, 100])
def test_only_needed_packets_are_read(gop: int, video: Callable[..., Path]) -> None:
    record = scan(video("vp8", gop=gop))
    needed, first = needed_packets(record, WANTED)
    # gop 8: frames 3 and 5 take packets 0-5; 16 takes 16; 30 and 31 take 24-31
    expected = {1: [3, 5, 16, 30, 31], 8: [*range(6), 16, *range(24, 32)], 100: [*range(32)]}[gop]
    assert needed.tolist() == expected
    assert needed[first].tolist() == {1: [3, 5, 16, 30], 8: [0, 16, 24], 100: [0]}[gop]
    assert slice_clip(record, WANTED).packets == [
        Path(record.path).read_bytes()[record.offsets[i] : record.offsets[i] + record.sizes[i]] for i in expected
    ]


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("codec", ["h264", "mpeg4", "hevc"])
def test_frames_come_in_the_order_and_number_asked_for(codec: str, bframes: int, video: Callable[..., Path]) -> None:
    path = video(codec, bframes=bframes)
    frames = decode_clip(scan(path), WANTED, (0, 0, 96, 72), False, (96, 72))
    np.testing.assert_array_equal(frames, rgb_frames(path)[WANTED])


@pytest.mark.parametrize("codec", ["mjpeg", "vp8", "h264"])
def test_crop_resize_and_flip_agree_with_the_same_on_rgb_frames(codec: str, video: Callable[..., Path]) -> None:
    path = video(codec, width=160, height=120)
    x, y, width, height = 22, 10, 100, 84
    got = decode_clip(scan(path), WANTED, (x, y, width, height), True, (48, 56))
    crop = torch.from_numpy(rgb_frames(path)[WANTED][:, y : y + height, x : x + width]).permute(0, 3, 1, 2).float()
    expected = interpolate(crop, (56, 48), mode="bilinear", antialias=True).flip(-1).permute(0, 2, 3, 1).numpy()
    difference = np.abs(got - expected)
    assert difference.mean() < 1.5
    assert difference.max() < 8.0


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("width", [24, 33, 40])
def test_frames_are_filled_to_the_edge_scaled_or_not(width: int, rotation: int, video: Callable[..., Path]) -> None:
    path = video("h264")
    upright = np.rot90(rgb_frames(path)[WANTED], rotation // 90, axes=(1, 2))[:, 8:44, 10:50].copy()
    got = decode_clip(replace(scan(path), rotation=rotation), WANTED, (10, 8, 40, 36), False, (width, 36))
    crop = torch.from_numpy(upright).permute(0, 3, 1, 2).float()
    expected = interpolate(crop, (36, width), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy()
    assert np.abs(got - expected).max() < 24  # chroma is interpolated at the crop's edge rather than across it


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotated_video_is_cropped_as_displayed(rotation: int, video: Callable[..., Path]) -> None:
    path = video("h264")
    record = replace(scan(path), rotation=rotation)
    upright = np.rot90(rgb_frames(path), rotation // 90, axes=(1, 2))
    width, height = record.display_size
    assert upright.shape[1:3] == (height, width)
    whole = decode_clip(record, WANTED, (0, 0, width, height), False, (width, height))
    np.testing.assert_array_equal(whole, upright[WANTED])
    x, y, w, h = 12, 20, 40, 44
    crop = decode_clip(record, WANTED, (x, y, w, h), True, (w, h))
    # Chroma is interpolated at the crop's edge rather than across it: the inside is exact.
    inside = np.s_[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(crop[inside], upright[WANTED][:, y : y + h, x : x + w][:, :, ::-1][inside])


def test_threads_do_not_change_a_bit(video: Callable[..., Path]) -> None:
    records = [scan(video(codec)) for codec in ("mjpeg", "vp8", "vp9", "h264", "mpeg4")] * 4
    arguments = (WANTED, (4, 6, 80, 60), True, (40, 40))
    alone = [decode_clip(record, *arguments) for record in records]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda record: decode_clip(record, *arguments), records))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("codec", "times_opened"), [("h264", 1), ("hevc", 1), ("vp9", 1), ("av1", 1), ("mpeg4", 12)])
def test_a_decoder_used_again_gives_the_bits_of_a_new_one(
    codec: str, times_opened: int, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [scan(video(codec, gop=20, seed=seed)) for seed in range(3)]
    assert len({record.extradata for record in records}) == 1, "or nothing is used again"
    whole = [rgb_frames(Path(record.path)) for record in records]
    opened = []

    def note(record: VideoRecord) -> av.VideoCodecContext:
        opened.append(record)
        return open_decoder(record)

    monkeypatch.setattr("pipeline.decode.open_decoder", note)
    arguments = ((0, 0, 96, 72), False, (96, 72))
    damaged = replace(records[0], sizes=np.full_like(records[0].sizes, 5))

    def decode_in_turns() -> None:
        for turn in range(12):
            wanted = np.array([turn, 37 - turn, 20 + turn // 2])
            got = decode_clip(records[turn % 3], wanted, *arguments)
            np.testing.assert_array_equal(got, whole[turn % 3][wanted])

    with ThreadPoolExecutor(1) as pool:  # a new thread: no decoder is left from other tests
        pool.submit(decode_in_turns).result()
        assert len(opened) == times_opened
        pool.submit(lambda: next(clip_frames(records[1], np.array([3, 30])))).result()  # left in the middle
        with pytest.raises(BadVideo):
            pool.submit(decode_clip, damaged, np.array([30]), *arguments).result()
        pool.submit(decode_in_turns).result()


@pytest.mark.parametrize("codec", ["h264", "mpeg4"])
def test_packets_and_headers_are_padded_with_zeros_for_ffmpeg(codec: str, video: Callable[..., Path]) -> None:
    record = scan(video(codec))
    for packet, _ in _run_packets(slice_clip(record, np.arange(40))):
        if packet is not None:
            assert ctypes.string_at(packet.buffer_ptr + packet.size, 64) == bytes(64)


def test_missing_frame_is_an_error_never_padding(video: Callable[..., Path]) -> None:
    record = replace(scan(video("mpeg4")), num_frames=50)
    for sliceable, reason in ((False, "frame 45 of 50 does not decode"), (True, "packet table is damaged")):
        with pytest.raises(BadVideo, match=reason):
            decode_clip(replace(record, sliceable=sliceable), np.array([3, 45]), (0, 0, 96, 72), False, (16, 16))


def test_frame_that_ffmpeg_knows_to_be_damaged_is_an_error(video: Callable[..., Path], tmp_path: Path) -> None:
    source = scan(video("h264"))
    data = bytearray(Path(source.path).read_bytes())
    packet = int(source.offsets[18]), int(source.sizes[18])
    data[packet[0] + packet[1] // 3 : sum(packet)] = bytes(packet[1] - packet[1] // 3)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with pytest.raises(BadVideo, match=r"damaged\.mp4"):
        decode_clip(scan(path), np.arange(40), (0, 0, 96, 72), False, (16, 16))


@pytest.mark.parametrize("codec", ["vp8", "mpeg4"])
def test_file_that_changed_after_the_scan_is_refused(codec: str, video: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / video(codec).name
    path.write_bytes(video(codec).read_bytes())
    record = scan(path)
    path.write_bytes(video(codec, gop=4).read_bytes())
    with pytest.raises(BadVideo, match="changed since it was indexed"):
        decode_clip(record, WANTED, (0, 0, 96, 72), False, (16, 16))
    path.unlink()
    with pytest.raises(BadVideo, match=r"cannot be opened any more|No such file"):
        decode_clip(record, WANTED, (0, 0, 96, 72), False, (16, 16))


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4", "vp8", "vp9", "h264", "hevc", "av1"])
def test_nothing_is_probed_that_the_index_knows(
    codec: str, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = scan(video(codec))
    monkeypatch.setattr(av, "open", None)  # no demuxer, no stream information
    assert len(decode_clip(record, WANTED, (0, 0, 96, 72), False, (32, 32))) == len(WANTED)


def test_a_file_that_may_not_be_read_is_a_bad_video(
    video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = scan(video("vp8"))

    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pipeline.slicing.os.open", refuse)
    with pytest.raises(BadVideo, match="cannot be opened any more: Permission denied"):
        decode_clip(record, WANTED, (0, 0, 96, 72), False, (32, 32))
