"""The price of planning and slicing is measured, and each half by itself."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import source
from pipeline.index import VideoIndex
from pipeline.slicing import slice_clip


def test_both_parts_are_timed(tmp_path: Path, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = video("vp8", num_frames=70)
    (tmp_path / path.name).write_bytes(path.read_bytes())
    index = VideoIndex.build(tmp_path, num_workers=1, progress=False)
    monkeypatch.setattr(source, "_ROUNDS", 2)
    rate = source.summarize(source.measure(index, seconds=0.05))
    assert rate["plan_us"] > 0
    assert rate["slice_us"] > 0
    assert rate["clips_per_s"] == pytest.approx(1e6 / (rate["plan_us"] + rate["slice_us"]))
    monkeypatch.setattr(source, "slice_clip", lambda record, frames: None)
    without = source.summarize(source.measure(index, seconds=0.05))
    assert without["slice_us"] < rate["slice_us"] / 2


def test_reads_are_those_that_slicing_makes(
    tmp_path: Path, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, num_frames in (("h264", 90), ("mjpeg", 40)):
        path = video(name, num_frames=num_frames)
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = VideoIndex.build(tmp_path, num_workers=1, progress=False)
    monkeypatch.setattr(source, "_COUNTED_BATCHES", 1)
    counted = source.count_reads(index)
    read: list[int] = []

    def pread(fd: int, length: int, offset: int) -> bytes:
        read.append(length)
        return os_pread(fd, length, offset)

    os_pread = os.pread
    monkeypatch.setattr("pipeline.slicing.os.pread", pread)
    batch = source._stream(index).batch(0)
    records = [index[row] for row, _ in batch]
    read.clear()  # of the index itself
    for record, (_, plan) in zip(records, batch, strict=True):
        slice_clip(record, np.concatenate([plan.frames, plan.later]))
    assert counted == {
        "reads_a_clip": len(read) / len(batch),
        "kib_a_clip": pytest.approx(sum(read) / len(batch) / 1024),
        "largest_read_kib": max(read) / 1024,
    }
