"""The paper's step and ours compute the same, or are not compared."""

from pathlib import Path

import pytest
from torch import nn

from benchmarks import reference_step
from benchmarks.reference_step import REFERENCE, ReferenceStep, ReferenceStepBenchmark, run
from benchmarks.results import read
from model.r3d import Conv3x3x3
from pipeline.errors import InputError


@pytest.fixture
def benchmark(tmp_path: Path) -> ReferenceStepBenchmark:
    return ReferenceStepBenchmark(size=32, clip_len=2, width=4, repeats=2, compiled=False, results=tmp_path)


def test_both_steps_are_timed_once_they_agree(
    benchmark: ReferenceStepBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_step, "TARGET", 0.0)
    assert run(benchmark) == 0
    record = read(benchmark.results / "reference_step.json")
    assert {name for name in record.series if "cpu" not in name} == {REFERENCE, "eager, channels last"}
    assert all(len(series.values) == 2 for series in record.series.values())
    assert record.findings["verdicts"]["step"]["met"]


def test_a_step_that_computes_something_else_is_refused(
    benchmark: ReferenceStepBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_step, "LR", 1.0)  # the first losses are the same, the second ones are not
    with pytest.raises(InputError, match="are not those of the reference"):
        run(benchmark)


def test_the_reference_has_plain_convolutions_of_the_same_weights() -> None:
    dual = ReferenceStep(width=4).dual
    convolutions = [module for module in dual.modules() if isinstance(module, nn.Conv3d)]
    assert len(convolutions) == 2 * 20
    assert not any(isinstance(module, Conv3x3x3) for module in convolutions)
    assert all(module.weight.is_contiguous() for module in convolutions)


def test_impossible_benchmarks_are_refused() -> None:
    with pytest.raises(InputError, match="repeats is 1"):
        ReferenceStepBenchmark(repeats=1)
    with pytest.raises(InputError, match="batch_labeled is 1"):
        ReferenceStepBenchmark(batch_labeled=1)
