"""The step benchmark compares forms that compute the same, and refuses those that do not."""

from pathlib import Path

import pytest
import torch

from benchmarks import step
from benchmarks.results import read
from benchmarks.step import FORMS, PLAIN, StepBenchmark, num_clips, run, synthetic_batch
from benchmarks.step_summary import series_of
from pipeline.errors import InputError


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepBenchmark:
    forms = {name: form._replace(backend="aot_eager") for name, form in FORMS.items()}
    monkeypatch.setattr(step, "FORMS", forms)
    torch._dynamo.reset()
    return StepBenchmark(method="supervised", size=32, clip_len=2, width=4, repeats=2, results=tmp_path)


def test_every_form_is_timed_beside_the_plain_one(benchmark: StepBenchmark) -> None:
    assert run(benchmark) == 0
    record = read(benchmark.results / "step.json")
    result = record.findings
    assert set(result["forms"]) == set(FORMS)
    assert {len(series.values) for series in record.series.values()} == {2}
    assert result["forms"][PLAIN]["clips_per_s"] == record.series[f"{PLAIN}/clips_per_s"].median
    assert record.utilization["cpu_pct"].values
    assert result["forms"][PLAIN]["times_faster"] == 1
    for row in result["forms"].values():
        assert 0 < row["step_ms_q1"] <= row["step_ms"] <= row["step_ms_q3"]


def test_a_form_that_computes_something_else_is_refused(
    benchmark: StepBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "SAME", {"fp32": 0.0})
    with pytest.raises(InputError, match="are not those of the plain step"):
        run(benchmark)


def test_a_clip_counts_once_however_many_views_go_in() -> None:
    assert num_clips(StepBenchmark(batch_labeled=2, batch_unlabeled=5)) == 7
    assert num_clips(StepBenchmark(batch_labeled=3)) == 6
    assert num_clips(StepBenchmark(method="supervised", batch_labeled=2, batch_unlabeled=5)) == 2
    series = series_of({"form": [(0.5, 0.9), (1.0, 1.2)]}, num_clips=6)
    assert list(series["form/clips_per_s"].values) == [12, 6]
    assert list(series["form/cpu_ms"].values) == [150, 200]
    batch = synthetic_batch(StepBenchmark(size=32, clip_len=2, batch_labeled=2, batch_unlabeled=5))
    assert (len(batch.labels), len(batch.labeled.rgb)) == (2, 2)
    assert batch.strong is not None and batch.weak is not None and batch.unlabeled_labels is not None
    assert (len(batch.strong.rgb), len(batch.weak.of("tg")), len(batch.unlabeled_labels)) == (5, 5, 5)


def test_impossible_benchmarks_are_refused() -> None:
    with pytest.raises(InputError, match="method magic is unknown"):
        StepBenchmark(method="magic")
    with pytest.raises(InputError, match="repeats is 1"):
        StepBenchmark(repeats=1)
    with pytest.raises(InputError, match="batch_labeled is 1"):
        StepBenchmark(batch_labeled=1)
