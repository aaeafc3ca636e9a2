"""What a method costs is held against the base of the same turn."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import method_costs
from benchmarks.clock import Cost
from benchmarks.end_to_end import Turns
from benchmarks.method_costs import MethodCostsBenchmark, run
from benchmarks.results import Record, Series, read
from benchmarks.training import Stretch
from pipeline.errors import InputError


def stretch(clips_per_s: float, step_ms: float, wait_ms: float = 0.0) -> Stretch:
    return Stretch(clips_per_s, step_ms, wait_ms, 0.0, 0.0)


def test_step_batch_and_both_are_told_of_the_turns_they_are_of() -> None:
    turns = Turns(
        loader=[Cost(5.0, 9.0, None), Cost(6.0, 9.0, None)],
        ceiling=[stretch(0, 100.0), stretch(0, 110.0)],
        whole=[stretch(30.0, 200.0, 20.0), stretch(31.0, 200.0, 30.0)],
    )
    series = method_costs._series_of(turns, num_clips=4)
    assert {name: one.values for name, one in series.items()} == {
        "step_ms": (100.0, 110.0),
        "batch_ms": (20.0, 24.0),  # a clip's times those of a batch
        "clips_per_s": (30.0, 31.0),
        "data_wait_pct": (10.0, 15.0),
    }
    assert [series[name].better for name in ("step_ms", "batch_ms", "clips_per_s")] == ["lower", "lower", "higher"]


def test_ratios_are_of_the_same_turn() -> None:
    def series(method: str, step_ms: tuple[float, ...]) -> dict[str, Series]:
        others = ("batch_ms", "clips_per_s", "data_wait_pct")
        return {
            f"{method}/step_ms": Series("ms", "lower", step_ms),
            **{f"{method}/{name}": Series("", "lower", (1.0,) * 3) for name in others},
        }

    # The second turn was slow for both: of the medians the ratio would be 2.2.
    table = method_costs._grid(
        {**series("supervised", (10.0, 100.0, 10.0)), **series("fixmatch", (20.0, 200.0, 22.0))}, "supervised"
    )
    assert table.columns[:3] == ("method", "ms a step, no loader", "× supervised")
    assert [row[:3] for row in table.rows] == [("supervised", "10 (10–55)", ""), ("fixmatch", "22 (21–111)", "2.00")]


def test_every_method_is_timed_beside_the_base_in_every_turn(tiny: dict[str, Any], tmp_path: Path) -> None:
    assert run(MethodCostsBenchmark(**tiny, methods=("fixmatch",), seconds=0.05, results=tmp_path)) == 0
    record: Record = read(tmp_path / "method-costs.json")
    parts = ("step_ms", "batch_ms", "clips_per_s", "data_wait_pct")
    assert list(record.series) == [f"{method}/{part}" for method in ("supervised", "fixmatch") for part in parts]
    assert {len(series.values) for series in record.series.values()} == {2}
    assert record.findings["clips_a_step"] == {"supervised": 2, "fixmatch": 4}
    text = method_costs.markdown(record)
    assert "| supervised |" in text
    assert "| fixmatch |" in text


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(InputError, match="method neither is unknown"):
        MethodCostsBenchmark(methods=("neither",))
