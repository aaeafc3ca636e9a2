"""The headline is what training reaches of the slower of its halves, and says which one that is."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.clock import Cost
from benchmarks.end_to_end import EndToEndBenchmark, Turns, conclude, run, series_of
from benchmarks.results import read
from benchmarks.training import Repeated, Stretch, Training
from pipeline.errors import InputError


def turns(loader: list[float], ceiling: list[float], whole: list[float], wait_ms: float) -> Turns:
    """Of the given clips per second; 20 cpu-ms a clip in the loader, 180 in the step, steps of 100 ms."""
    return Turns(
        [Cost(1000 / rate, 20, None) for rate in loader],
        [Stretch(rate, 100, 0, 180, 0) for rate in ceiling],
        [Stretch(rate, 100, wait_ms, 200, 0.1) for rate in whole],
    )


def test_the_headline_is_held_against_the_slower_half_of_the_same_turn() -> None:
    series = series_of(turns([50, 60, 40], [10, 8, 12], [9, 8, 9], wait_ms=1))
    headline, findings = conclude(series, cores=2)
    assert headline.values == pytest.approx((90, 100, 75))
    assert findings["of_min_pct"] == pytest.approx(90)
    assert (findings["binds"], findings["met"]) == ("model", True)
    assert findings["data_wait_pct"] == pytest.approx(1)
    assert findings["shared_core_bound_clips_per_s"] == pytest.approx(10)  # 2 cores, 0.2 s of them a clip
    assert findings["of_shared_core_bound_pct"] == pytest.approx(90)
    assert findings["says"].startswith("model binds: end-to-end is 90 % of the ceiling")


def test_waiting_is_a_miss_only_where_the_model_binds() -> None:
    _, findings = conclude(series_of(turns([50] * 3, [10] * 3, [9] * 3, wait_ms=3)), cores=2)
    assert (findings["binds"], findings["met"]) == ("model", False)
    _, findings = conclude(series_of(turns([5] * 3, [10] * 3, [4] * 3, wait_ms=60)), cores=2)
    assert (findings["binds"], findings["met"]) == ("loader", True)
    assert findings["of_min_pct"] == pytest.approx(80)


def test_a_run_measures_all_three_in_every_turn(tiny: dict[str, Any], tmp_path: Path) -> None:
    assert run(EndToEndBenchmark(**tiny, seconds=0.05, results=tmp_path)) in (0, 1)  # this machine may be busy
    record = read(tmp_path / "end-to-end.json")
    assert {len(series.values) for series in record.series.values()} == {2}
    rates = (record.series[f"{name}/clips_per_s"].median for name in ("loader", "ceiling"))
    assert (record.findings["binds"] == "loader") == (min(rates) == record.findings["loader_clips_per_s"])
    assert record.findings["first_step_s"] > 0


def test_broken_clips_are_refused_before_a_step_is_taken(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training.__init__

    def broken(self: Training, *arguments: Any) -> None:
        original(self, *arguments)
        with self.loader as loader:
            batch = next(loader)
        batch.labeled.rgb.zero_()
        monkeypatch.setattr(type(self.loader), "__next__", Repeated(batch).__next__)

    monkeypatch.setattr(Training, "__init__", broken)
    monkeypatch.setattr(Training, "run", lambda *_: pytest.fail("it was timed"))
    with pytest.raises(InputError, match="one colour"):
        run(EndToEndBenchmark(**tiny, results=tmp_path))
