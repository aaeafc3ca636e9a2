"""The price of planning and slicing is measured, and each half by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import source
from pipeline.index import VideoIndex


def test_both_parts_are_timed(tmp_path: Path, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = video("vp8", num_frames=70)
    (tmp_path / path.name).write_bytes(path.read_bytes())
    index = VideoIndex.build(tmp_path, num_workers=1, progress=False)
    monkeypatch.setattr(source, "_ROUNDS", 2)
    rate = source.measure(index, seconds=0.05)
    assert rate["plan_us"] > 0
    assert rate["slice_us"] > 0
    assert rate["clips_per_s"] == pytest.approx(1e6 / (rate["plan_us"] + rate["slice_us"]))
    monkeypatch.setattr(source, "slice_clip", lambda record, frames: None)
    without = source.measure(index, seconds=0.05)
    assert without["slice_us"] < rate["slice_us"] / 2
