"""Slices are held against whole files before DALI is trusted with them, and a difference costs speed, not pixels."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import graph
from pipeline.errors import BadVideo
from pipeline.graph import dali_refusal
from pipeline.index import VideoIndex
from pipeline.loader import choose_decoder
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from pipeline.slicing import slice_clip
from pipeline.verify import reason_against_slices, slices_decode_alike


@pytest.fixture
def rows(small_index: VideoIndex) -> np.ndarray:
    """Rows of several MJPEG, VP8 and VP9 videos."""
    return np.array([row for row in range(len(small_index)) if dali_refusal(small_index[row], "cpu") is None])


@pytest.mark.parametrize("codec", ["mjpeg", "vp8", "vp9"])
def test_dalis_slices_are_bit_identical_to_its_whole_files(codec: str, video: Callable[..., Path]) -> None:
    assert slices_decode_alike(scan(video(codec)), "cpu")


def test_each_codec_is_checked_once(small_index: VideoIndex, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []

    def note(record: Any, device: str) -> bool:
        checked.append(record.codec)
        return True

    monkeypatch.setattr("pipeline.verify.slices_decode_alike", note)
    assert reason_against_slices(small_index, rows, "cpu") is None
    assert sorted(checked) == ["mjpeg", "vp8", "vp9"]


def other_frames(record: Any, frames: np.ndarray, *, closed: bool) -> Any:
    return slice_clip(record, np.minimum(frames + 1, record.num_frames - 1), closed=closed)


def no_stream(record: Any, clip: Any) -> np.ndarray:
    return np.zeros(1000, np.uint8)


@pytest.mark.parametrize("fault", [("slice_clip", other_frames), ("to_matroska", no_stream)], ids=["pixels", "error"])
def test_a_difference_is_warned_of_with_its_cost_and_ffmpeg_decodes_instead(
    fault: tuple[str, Any],
    rows: np.ndarray,
    small_index: VideoIndex,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert choose_decoder(small_index, rows, "dali", "cpu") == "dali"
    assert not caplog.records
    monkeypatch.setattr(graph, *fault)
    with caplog.at_level(logging.WARNING):
        assert choose_decoder(small_index, rows, "dali", "cpu") == "ffmpeg"
    assert "otherwise than the whole file" in caplog.text
    assert "ms of a core for 8 frames" in caplog.text


def test_a_video_gone_since_indexing_is_passed_over(
    small_index: VideoIndex, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def first_is_gone(record: Any, device: str) -> bool:
        seen.append(record.path)
        if len(seen) == 1:
            raise BadVideo(record.path, "cannot be opened any more")
        return True

    monkeypatch.setattr("pipeline.verify.slices_decode_alike", first_is_gone)
    assert reason_against_slices(small_index, rows, "cpu") is None
    assert len(seen) == 4


def test_a_damaged_first_video_is_passed_over(video: Callable[..., Path], tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.webm").write_bytes(video("vp9").read_bytes())
    record = scan(tmp_path / "a.webm")
    with open(record.path, "r+b") as file:
        for offset, size in zip(record.offsets.tolist(), record.sizes.tolist(), strict=True):
            file.seek(offset)
            file.write(b"\xff" * size)
    os.utime(record.path, ns=(record.mtime_ns, record.mtime_ns))
    with pytest.raises(BadVideo, match="DALI"):
        slices_decode_alike(record, "cpu")
    intact = scan(tmp_path / "b.webm")

    class Index:
        def __getitem__(self, row: int) -> VideoRecord:
            return intact if row else record

        def joinable_by_codec(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"vp9": rows}

    assert reason_against_slices(Index(), np.arange(2), "cpu") is None  # type: ignore[arg-type]
    assert "none of the first 5" in (reason_against_slices(Index(), np.zeros(9, int), "cpu") or "")  # type: ignore[arg-type]


def test_only_records_that_are_checked_are_read(
    small_index: VideoIndex, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs = {small_index[row].codec: row for row in rows.tolist()}
    many = np.array([codecs["mjpeg"]] * 5000 + [codecs["vp9"]])
    read = []
    of_row = VideoIndex.__getitem__

    def note(index: VideoIndex, row: int) -> VideoRecord:
        read.append(row)
        return of_row(index, row)

    monkeypatch.setattr(VideoIndex, "__getitem__", note)
    monkeypatch.setattr("pipeline.verify.slices_decode_alike", lambda record, device: True)
    assert reason_against_slices(small_index, many, "cpu") is None
    assert sorted(read) == sorted([codecs["mjpeg"], codecs["vp9"]])


def test_what_cannot_be_joined_into_one_stream_is_refused(video: Callable[..., Path]) -> None:
    assert dali_refusal(scan(video("h264", bframes=2)), "cuda") is None
    assert dali_refusal(scan(video("hevc", bframes=2)), "cuda") is None
    assert dali_refusal(scan(video("mpeg4")), "cuda") is None
    assert "do not make a stream" in (dali_refusal(scan(video("mpeg4", bframes=2)), "cuda") or "")
    assert "do not make a stream" in (dali_refusal(replace(scan(video("vp8")), joinable=False), "cpu") or "")
