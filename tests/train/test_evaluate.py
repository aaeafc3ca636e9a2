"""A finished run tested again says what its training said, and more."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.tiny_demo import contents
from train.evaluate import evaluate, main
from train.metrics import read_metrics
from train.predictions import read_predictions
from train.scoring import accuracy


def test_the_recognizer_is_scored_as_by_its_training_to_the_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = read_predictions(run)
    (run / "predictions.npz").unlink()
    assert evaluate(run, device="cpu") == 0
    again = read_predictions(run)
    assert again.logits["rgb"].tobytes() == trained.logits["rgb"].tobytes()
    assert (again.step, again.paths, again.labels.tolist()) == (trained.step, trained.paths, trained.labels.tolist())
    described = json.loads((run / "evaluation.json").read_text())
    final = read_metrics(run)[-1]
    assert {name: final[name] for name in ("top1", "top5", "mean_class", "num_videos")} == described["accuracy"]["rgb"]
    printed = capsys.readouterr().out
    assert f"│ rgb, the recognizer │ {final['top1']:.1%} " in printed

    # The other network and both together, as diagnostics.
    labels = torch.from_numpy(again.labels)
    logits = {modality: torch.from_numpy(one) for modality, one in again.logits.items()}
    fused = (logits["rgb"] + logits["tg"]) / 2
    assert described["accuracy"]["tg"]["top1"] == accuracy(logits["tg"], labels).top1
    assert described["accuracy"]["fused"]["top1"] == accuracy(fused, labels).top1
    assert described["recognizer"] == "rgb"
    assert described["skipped"] == {}

    rows = list(csv.reader((run / "confusion.csv").read_text().splitlines()))
    matrix = np.array([row[1:] for row in rows[1:]], int)
    assert matrix.sum(axis=1).tolist() == [2, 2, 2, 2]
    assert np.trace(matrix) / matrix.sum() == final["top1"]
    assert [one["recall"]["rgb"] for one in described["classes"]] == (matrix.diagonal() / 2).tolist()
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_other_weights_and_views_leave_the_run_s_own_results_alone(run: Path) -> None:
    before = contents(run)
    assert evaluate(run, checkpoint="best", center_clip=True, device="cpu") == 0
    described = json.loads((run / "evaluation_best_center_clip" / "evaluation.json").read_text())
    best = max(float(record["top1"] or 0) for record in read_metrics(run) if record["kind"] == "val")
    assert described["accuracy"]["rgb"]["top1"] == best
    assert described["views"] == "center clip"
    after = contents(run)
    assert {path: after[path] for path in before} == before


def test_a_network_on_temporal_gradients_alone_is_the_recognizer(finished_tg: Path, tmp_path: Path) -> None:
    assert evaluate(finished_tg, device="cpu", out=tmp_path / "out") == 0
    described = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert described["recognizer"] == "tg"
    assert list(described["accuracy"]) == ["tg"]
    assert described["accuracy"]["tg"]["top1"] == read_metrics(finished_tg)[-1]["top1"]


def test_lost_videos_are_counted_and_too_many_end_it(
    finished: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = finished / "data"
    lost = sorted((data / "val").rglob("*.avi"))[:2]
    for path in lost:
        path.rename(tmp_path / f"{path.parent.name}_{path.name}")
    try:
        assert evaluate(run, device="cpu", center_clip=True, out=tmp_path / "out") == 1
        assert "error: 2 of 8 videos have gone bad" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        assert evaluate(run, device="cpu", center_clip=True, max_bad_fraction=0.5, out=tmp_path / "out") == 0
    finally:
        for path in lost:
            shutil.move(tmp_path / f"{path.parent.name}_{path.name}", path)
    described = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert set(described["skipped"]) == {path.relative_to(data).as_posix() for path in lost}
    assert described["accuracy"]["rgb"]["num_videos"] == described["accuracy"]["fused"]["num_videos"] == 6


def test_mistakes_and_ctrl_c_are_one_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", str(tmp_path / "none")])
    assert main() == 2
    assert capsys.readouterr().err.count("\n") == 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["evaluate", str(finished / "run"), "--out", str(tmp_path / "out")])
    monkeypatch.setattr("train.evaluate._predict", interrupted)
    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not (tmp_path / "out").exists()
