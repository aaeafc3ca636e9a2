"""The stations benchmark prices each station and operation once, and says what it cannot do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.results import read
from benchmarks.stations import StationsBenchmark, run
from pipeline.errors import InputError
from pipeline.strong import OPS


def test_every_station_and_operation_has_a_price(video: Callable[..., Path], tmp_path: Path) -> None:
    for name, codec in (("a", "vp8"), ("b", "mpeg4")):
        (tmp_path / name).mkdir()
        os.link(video(codec), tmp_path / name / video(codec).name)
    benchmark = StationsBenchmark(
        root=tmp_path, num_clips=4, batch_size=2, num_rounds=1, clip_len=4, size=32, results=tmp_path / "results"
    )
    assert run(benchmark) == 0
    result = read(tmp_path / "results" / "stations.json").findings
    stations, operations = result["stations"], result["strong_operations"]
    assert set(operations) == {*OPS, "none"}
    total = stations.pop("sum")
    assert total == pytest.approx(sum(stations.values()))
    assert stations["decode, crop, scale"] > stations["plan"] > 0


def test_a_benchmark_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="num_rounds is 0"):
        StationsBenchmark(root=Path(), num_rounds=0)
    with pytest.raises(InputError, match="num_clips is 12: use a multiple of batch_size, 8"):
        StationsBenchmark(root=Path(), num_clips=12)
