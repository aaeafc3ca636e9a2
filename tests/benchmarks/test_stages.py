"""What stages cost adds up to what a clip costs, and is told whole."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import stages
from benchmarks.clock import Cost
from benchmarks.results import Series, read
from benchmarks.stages import StagesBenchmark, run, series_of, summarize
from benchmarks.stages_page import chart, markdown
from pipeline.errors import InputError

STAGES = {
    "read": [Cost(1, 2, 4), Cost(3, 3, 4), Cost(2, 9, 5)],
    "decode": [Cost(11, 20, 8), Cost(9, 21, 8), Cost(10, 22, 8)],
    "losses": [Cost(9, 20, 7), Cost(10, 24, 9), Cost(8, 20, 7)],
}


def test_stages_add_up_to_the_whole_even_where_noise_goes_below_zero() -> None:
    rows = summarize(STAGES)
    assert [row["stage"] for row in rows] == list(STAGES)
    assert [row["cumulative"]["cpu_ms"] for row in rows] == [3, 21, 20]
    assert [row["marginal"]["cpu_ms"] for row in rows] == [3, 18, -1]
    for name in ("ms", "cpu_ms", "gpu_ms"):
        for at in range(len(rows)):
            whole = sum(row["marginal"][name] for row in rows[: at + 1])
            assert whole == pytest.approx(rows[at]["cumulative"][name])
    assert rows[1]["cumulative"]["clips_per_s"] == 125  # by the device's time
    assert rows[2]["marginal"]["clips_per_s"] is None


def test_every_turn_is_kept() -> None:
    series = series_of(STAGES)
    assert list(series["decode/cumulative/cpu_ms"].values) == [20, 21, 22]
    assert list(series["decode/marginal/cpu_ms"].values) == [18, 18, 13]
    assert list(series["read/marginal/gpu_ms"].values) == [4, 4, 5]
    assert list(series["read/cumulative/clips_per_s"].values) == [250, 250, 200]


def test_a_run_prices_all_from_plan_to_optimizer_and_draws_it(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = Series("cpu-ms/clip", "lower", (1.0, 2.0))
    monkeypatch.setattr(stages, "strong_prices", lambda *_: {"invert": price})  # has a test of its own
    benchmark = StagesBenchmark(**tiny | {"repeats": 1}, num_batches=1, results=tmp_path)
    assert run(benchmark) == 0
    record = read(tmp_path / "stages.json")
    names = [row["stage"] for row in record.findings["stages"]]
    assert (names[0], names[-1], len(names)) == ("plan+slice", "optimizer", 13)
    assert {len(record.series[f"{name}/marginal/cpu_ms"].values) for name in names} == {1}
    assert record.series["strong/invert"] == price
    png = (tmp_path / "stages.png").read_bytes()
    chart(record, again := tmp_path / "again.png")
    assert again.read_bytes() == png
    record.findings["stages"][3]["marginal"]["cpu_ms"] *= 2
    chart(record, again)
    assert again.read_bytes() != png
    table = markdown(record)
    assert all(f"| {name} |" in table for name in names)


def test_a_benchmark_of_nothing_is_refused(tiny: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="num_batches is 0"):
        StagesBenchmark(**tiny, num_batches=0)
