"""The step benchmark compares forms that compute the same, and refuses those that do not."""

from pathlib import Path

import pytest
import torch

from benchmarks import step
from benchmarks.results import read
from benchmarks.step import FORMS, PLAIN, StepBenchmark, run
from pipeline.errors import InputError


@pytest.fixture
def benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepBenchmark:
    forms = {name: form._replace(backend="aot_eager") for name, form in FORMS.items()}
    monkeypatch.setattr(step, "FORMS", forms)
    torch._dynamo.reset()
    return StepBenchmark(method="supervised", size=32, clip_len=2, width=4, repeats=2, results=tmp_path)


def test_every_form_is_timed_beside_the_plain_one(benchmark: StepBenchmark) -> None:
    assert run(benchmark) == 0
    result = read(benchmark.results / "step.json").findings
    assert set(result["forms"]) == set(FORMS)
    assert result["forms"][PLAIN]["times_faster"] == 1
    for row in result["forms"].values():
        assert 0 < row["step_ms_q1"] <= row["step_ms"] <= row["step_ms_q3"]


def test_a_form_that_computes_something_else_is_refused(
    benchmark: StepBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "SAME", {"fp32": 0.0})
    with pytest.raises(InputError, match="are not those of the plain step"):
        run(benchmark)


def test_impossible_benchmarks_are_refused() -> None:
    with pytest.raises(InputError, match="method magic is unknown"):
        StepBenchmark(method="magic")
    with pytest.raises(InputError, match="repeats is 1"):
        StepBenchmark(repeats=1)
    with pytest.raises(InputError, match="batch_labeled is 1"):
        StepBenchmark(batch_labeled=1)
