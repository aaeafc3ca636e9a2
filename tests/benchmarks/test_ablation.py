"""The ablation's rows differ in nothing but their switch, finished runs are kept, and no failure goes unnamed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import ablation
from benchmarks.ablation import Ablation, outcome, runs_of
from benchmarks.ablation_table import ROWS, cells, summarize
from benchmarks.results import read
from pipeline.errors import InputError
from tests.conftest import TINY_CLIPS
from train import sweep
from train.cli import parse
from train.metrics import METRICS_FILE
from train.sweep import Run

TINY = {
    "data.generate.videos-per-class": 2,
    "data.generate.val-videos-per-class": 1,
    "data.generate.size": 32,
    "data.generate.num-frames": 12,
    "data.labels-per-class": 1,
    **TINY_CLIPS,
    "optim.epochs": 4,
    "run.max-steps": 2,
    "run.log-every": 1,
}


def result_of(row: str, seed: int, top1: float) -> dict[str, Any]:
    return {"row": row, "seed": seed, "top1": top1, "mean_class": top1, "clips_per_s": 10.0, "steps": 2}


def pretend(run: Run, top1: float) -> None:
    """Leave what a finished run leaves."""
    run.folder.mkdir(parents=True)
    (run.folder / "environment.json").write_text(json.dumps({"command": run.command, "git_commit": "abc"}))
    train = {
        "kind": "train",
        "step": 2,
        "clips_per_s": 10.0,
        "step_ms": 5.0,
        "mask_rate": 0.5,
        "pseudo_label_accuracy": None,
    }
    test = {"kind": "test", "step": 2, "top1": top1, "top5": 1.0, "mean_class": top1, "num_videos": 4}
    (run.folder / METRICS_FILE).write_text(f"{json.dumps(train)}\n{json.dumps(test)}\n")


@pytest.mark.parametrize("data", ["motions", "folder"])
def test_rows_differ_in_nothing_but_their_switch(tmp_path: Path, data: str) -> None:
    runs = runs_of(Ablation(data="motions" if data == "motions" else str(tmp_path), seeds=1))
    configs = {run.name: asdict(parse(run.words)) for run in runs}
    both = configs["both"]["method"]
    switches, shared = {}, []
    for row, config in configs.items():
        options = config.pop("method")
        for name in ("supervised_weight", "pseudo_label_weight"):  # in the paper one network has 1, each of two 0.5
            options.pop(name, None)
        switches[row] = {name: value for name, value in options.items() if value != both.get(name)}
        switches[row]["method"] = config["run"].pop("method")
        config["run"].pop("dir")
        shared.append(config)
    assert shared == shared[:1] * len(ROWS)
    assert switches == {
        "supervised": {"method": "supervised"},
        "fixmatch": {"method": "fixmatch", "modality": "rgb"},
        "alignment": {"method": "temporal_gradient", "info_nce_weight": 0.0},
        "contrast": {"method": "temporal_gradient", "alignment_weight": 0.0},
        "both": {"method": "temporal_gradient"},
        "fixmatch_tg": {"method": "fixmatch", "modality": "tg"},
    }


def test_a_run_is_trained_once_by_the_command_that_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = " ".join(f"--{name}={value}" for name, value in TINY.items())
    setting = f"demo --run.baseline None {tiny} --data.root {tmp_path / 'data'}"
    monkeypatch.setattr(ablation, "_SETTINGS", {"motions": setting})
    options = Ablation(seeds=1, rows=("supervised",), runs=tmp_path / "runs", out=tmp_path / "ablation_motions.json")
    assert ablation.run(options) == 0
    result = read(tmp_path / "ablation_motions.json").findings
    (one,) = result["runs"]
    assert (one["row"], one["seed"], one["steps"], one["num_videos"]) == ("supervised", 0, 2, 4)
    assert one["command"].startswith("python -m train demo --run.baseline None")
    assert result["videos"]["train/left"] == 2
    assert result["rows"]["supervised"]["top1"] == {"mean": 100 * one["top1"], "std": None}
    assert "supervised" in capsys.readouterr().out

    monkeypatch.setattr(sweep, "begin", lambda run, parallel: pytest.fail("trained again"))
    assert ablation.run(options) == 0
    assert read(tmp_path / "ablation_motions.json").findings["runs"] == [one]


def test_a_failed_run_is_named_and_left_out_of_the_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Ablation(seeds=2, rows=("supervised", "both"), runs=tmp_path / "runs", out=tmp_path / "out.json")

    def train_all(runs: list[Run], console: Console) -> dict[Run, str]:
        *ended, failed = runs
        for run, top1 in zip(ended, (0.2, 0.5, 0.4), strict=True):
            pretend(run, top1)
        return {failed: "error: step 2 is not finite"}

    monkeypatch.setattr(ablation, "train_all", train_all)
    monkeypatch.setattr(ablation, "_videos", lambda runs: {})
    assert ablation.run(options) == 1
    result = read(tmp_path / "out.json").findings
    assert result["failed"] == [{"row": "both", "seed": 1, "reason": "error: step 2 is not finite"}]
    assert result["rows"]["supervised"]["top1"] == {"mean": 30.0, "std": 14.14}
    assert result["rows"]["both"]["top1"] == {"mean": 50.0, "std": None}
    assert "FAILED and left out: both, seed 1" in capsys.readouterr().out


def test_nothing_kept_tells_where_the_videos_lie(tmp_path: Path) -> None:
    (run,) = runs_of(Ablation(data=str(tmp_path), seeds=1, rows=("both",), runs=Path("runs")))
    assert str(tmp_path) in run.command
    pretend(replaced := Run(run.name, run.seed, tmp_path / "run", run.words), 0.5)
    kept = outcome(replaced, str(tmp_path))
    assert str(tmp_path) not in json.dumps(kept)
    assert "--data.root VIDEOS" in kept["command"]


def test_gains_are_over_fixmatch_from_the_same_seed() -> None:
    outcomes = [result_of("fixmatch", 0, 0.2), result_of("fixmatch", 1, 0.6)]
    outcomes += [result_of("both", 0, 0.3), result_of("both", 1, 0.7), result_of("both", 2, 0.0)]
    summary = summarize(outcomes)
    assert summary["both"]["over_fixmatch"] == {"mean": 10.0, "std": 0.0}
    lines = cells({"rows": summary, "runs": outcomes})
    assert lines == [
        ("FixMatch on RGB", "40.0 ± 28.3", "", "40.0 ± 28.3", "20.0, 60.0", "10", "54.1"),
        ("+ both", "33.3 ± 35.1", "+10.0 ± 0.0", "33.3 ± 35.1", "30.0, 70.0, 0.0", "10", "76.1"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "no/such/folder"}, "no folder of videos"),
        ({"seeds": 0}, "trains nothing"),
        ({"rows": ("both", "neither")}, "neither is unknown"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ablation(**options)
