"""The program as people start it, on a generated data set of a few tiny videos."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.encode import write_video
from pipeline.index import VideoIndex
from tests.conftest import moving_frames
from train.config import Config, DataConfig, RunConfig, from_json
from train.evaluate import Accuracy
from train.metrics import read_metrics
from train.train import main, prepare_videos

ROOT = Path(__file__).parents[2]
TINY = {
    "data.generate.videos-per-class": 4,
    "data.generate.val-videos-per-class": 2,
    "data.generate.size": 32,
    "data.generate.num-frames": 12,
    "data.labels-per-class": 1,
    "data.clip-len": 4,
    "data.frame-stride": 1,
    "data.size": 32,
    "data.eval-size": 32,
    "data.num-threads": 1,
    "model.width": 4,
    "optim.batch-labeled": 2,
    "optim.batch-unlabeled": 2,
    "optim.warmup-epochs": 0,
    "method.warmup-epochs": 0,
    "optim.epochs": 2,
    "run.eval-every-epochs": 1,
    "run.log-every": 2,
}
NUM_STEPS = 16  # 2 epochs of 16 videos, 2 a step


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data set and the finished run of the demo."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(demo(folder)) == 0
    return folder


def demo(folder: Path, *words: str) -> list[str]:
    tiny = [f"--{name}={value}" for name, value in TINY.items()]
    return ["demo", *tiny, "--data.root", str(folder / "data"), "--run.dir", str(folder / "run"), *words]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_demo_trains_method_and_baseline_and_reports_both(finished: Path) -> None:
    run = finished / "run"
    for folder, method in [(run, "temporal_gradient"), (run / "supervised", "supervised")]:
        records = read_metrics(folder)
        assert [record["step"] for record in records if record["kind"] == "train"] == list(range(2, NUM_STEPS + 1, 2))
        assert [record["kind"] for record in records][-1] == "test"
        assert records[-1]["num_videos"] == 8
        assert from_json((folder / "config.json").read_text()).run.method == method
        assert torch.load(folder / "best.pt", weights_only=True)["step"] in (8, 16)
        assert list((folder / "tensorboard").iterdir())
    summary = (run / "report" / "summary.md").read_text()
    assert "| temporal_gradient |" in summary
    assert "| supervised |" in summary
    assert "python -m train demo" in summary
    for name in ("curves.png", "contact_sheet.png"):
        assert (run / "report" / name).read_bytes().startswith(b"\x89PNG")
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_saved_configuration_is_resolved(finished: Path) -> None:
    config = from_json((finished / "run" / "config.json").read_text())
    assert config.run.device in ("cpu", "cuda")
    assert config.data.num_threads == 1
    assert config.optim.lr is not None


def test_a_run_is_not_written_over(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(finished)
    assert main(demo(finished)) == 2
    assert "already holds a run: continue it with --run.resume" in capsys.readouterr().err
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--model.width", "8"], "model.width 4 is now 8"),
        (["--run.method", "fixmatch"], "run.method temporal_gradient is now fixmatch"),
        (["--data.labels-per-class", "2"], "data.labels_per_class 1 is now 2"),
    ],
)
def test_checkpoint_of_another_training_is_one_line_and_untouched(
    finished: Path, words: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(finished)
    assert main(demo(finished, "--run.resume", *words)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert names in printed
    assert printed.count("\n") == 1
    assert contents(finished) == before


def test_resuming_a_finished_run_does_nothing_twice(finished: Path) -> None:
    metrics = (finished / "run" / "metrics.jsonl").read_bytes()
    assert main(demo(finished, "--run.resume")) == 0
    assert (finished / "run" / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        ([], [], "data"),
        ([], ["--data.labels-per-class", "3"], "data"),
        (["left", "right"], ["--data.labels-per-class", "3"], "3"),
    ],
)
def test_unusable_folders_are_one_line_and_nothing_is_written(
    tmp_path: Path, make: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for name in make:
        (tmp_path / "data" / name).mkdir()
        for number in range(3):
            write_video(tmp_path / "data" / name / f"{number}.avi", moving_frames(4, 32, 32, number), "mjpeg")
    before = contents(tmp_path)
    run_dir = tmp_path / "run"
    assert main(["folder", "--data.root", str(tmp_path / "data"), "--run.dir", str(run_dir), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert contents(tmp_path) == before
    assert not run_dir.exists()


def test_a_shared_index_serves_runs_and_is_kept_up_to_date(tmp_path: Path) -> None:
    for name in ("left/0.avi", "left/1.avi", "right/0.avi", "right/1.avi"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "data" / name, moving_frames(4, 32, 32), "mjpeg")
    shared = tmp_path / "shared.index"
    data = DataConfig(root=tmp_path / "data", index=shared)
    config = Config(run=RunConfig(dir=tmp_path / "run"), data=data)
    assert len(prepare_videos(config).index) == 4
    assert len(VideoIndex.load(shared)) == 4
    write_video(tmp_path / "data/left/2.avi", moving_frames(4, 32, 32), "mjpeg")
    assert len(prepare_videos(config).index) == 5
    assert len(VideoIndex.load(shared)) == 5
    assert not (tmp_path / "run").exists()


def start(*words: str, script: bool = False) -> subprocess.Popen[str]:
    program = [str(ROOT / "train" / "train.py")] if script else ["-m", "train"]
    return subprocess.Popen(
        [sys.executable, *program, *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # as in this process: sums depend on the number of threads
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("script", [False, True])
def test_program_starts_as_a_module_and_as_a_file(script: bool) -> None:
    program = start("folder", "--data.rot", "x", script=script)
    _, printed = program.communicate(timeout=120)
    assert program.returncode == 2
    assert printed == (
        "error: unknown option --data.rot, did you mean --data.root?; `python -m train folder --help` lists all\n"
    )


def test_sigterm_saves_and_resuming_gives_the_same_result(finished: Path, tmp_path: Path) -> None:
    words = demo(finished, "--run.dir", str(tmp_path / "run"), "--run.log-every", "1")
    program = start(*words)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    program.send_signal(signal.SIGTERM)
    _, printed = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM
    assert "the checkpoint is written. Go on with: python -m train demo" in printed
    assert "--run.resume" in printed
    stopped_at = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    assert 3 <= stopped_at < NUM_STEPS

    assert main([*words, "--run.resume"]) == 0
    ours, theirs = (torch.load(path / "run" / "last.pt", weights_only=True) for path in (tmp_path, finished))
    assert all(torch.equal(ours["method"][name], theirs["method"][name]) for name in theirs["method"])


def test_accuracies_of_a_finished_run_are_read_back(finished: Path) -> None:
    from train.train import _recorded_test

    accuracy = _recorded_test(finished / "run", NUM_STEPS)
    assert isinstance(accuracy, Accuracy)
    assert accuracy.num_videos == 8
    assert _recorded_test(finished / "run", NUM_STEPS - 1) is None
