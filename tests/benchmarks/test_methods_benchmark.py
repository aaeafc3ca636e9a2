"""The comparison that is committed: on the ablation's motions, with options that every method knows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import methods
from benchmarks.ablation import ON_MOTIONS, Ablation
from benchmarks.ablation import runs_of as rows_of
from benchmarks.methods import MethodsBenchmark, comparison, run
from benchmarks.results import read
from train.cli import parse
from train.compare import Compare, runs_of
from train.methods import METHODS

OPTIONS = ON_MOTIONS.split()


def test_every_method_has_a_run_that_its_options_fit() -> None:
    runs = runs_of("demo", OPTIONS, comparison(MethodsBenchmark(seeds=1)))  # each is read as a command line
    assert [run.name for run in runs] == list(METHODS)


def test_rows_that_the_ablation_has_too_are_the_same_runs() -> None:
    compared = {run.name: run for run in runs_of("demo", OPTIONS, comparison(MethodsBenchmark(seeds=1)))}
    ablated = {run.name: run for run in rows_of(Ablation(seeds=1))}
    for method, row in (("supervised", "supervised"), ("fixmatch", "fixmatch"), ("temporal_gradient", "both")):
        ours, theirs = (parse(run.words) for run in (compared[method], ablated[row]))
        assert replace(ours, run=replace(ours.run, dir=theirs.run.dir)) == theirs


def test_options_of_methods_that_are_left_out_are_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "SETS", ("fixmatch.threshold=0.5", "temporal_gradient.threshold=0.5"))
    assert comparison(MethodsBenchmark(methods=("fixmatch",))).sets == ("fixmatch.threshold=0.5",)


@pytest.mark.parametrize("failed", [[], [{"method": "fixmatch", "seed": 1, "reason": "error: it diverged"}]])
def test_what_was_found_is_kept_as_it_is(
    failed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = {"mean": 58.5, "std": 19.44}
    numbers = {"num_seeds": 2, "top1": spread, "mean_class": spread, "clips_per_s": 9.4, "step_ms": 100, "beside": True}
    others = ("over_supervised", "memory_gib", "gpu_memory_gib", "late_mask_rate", "late_pseudo_label_accuracy")
    summary = {"fixmatch": {**numbers, **dict.fromkeys(others)}}
    found = {"recipe": "demo", "options": "--data.size 32", "set": [], "steps": 8, "methods": summary, "failed": failed}

    def train_methods(recipe: str, options: list[str], compare: Compare, console: Console) -> dict[str, Any]:
        assert (recipe, options, compare.out) == ("demo", OPTIONS, tmp_path / "runs")
        return found

    monkeypatch.setattr(methods, "train_methods", train_methods)
    assert run(MethodsBenchmark(runs=tmp_path / "runs", results=tmp_path)) == bool(failed)
    record = read(tmp_path / "methods.json")
    assert record.findings == json.loads(json.dumps(found))
    text = methods.markdown(record)
    assert "| fixmatch | 58.5 ± 19.4 | 58.5 ± 19.4 | 9† | 100† | 54.1 |" in text
    assert ("it diverged" in text) == bool(failed)
