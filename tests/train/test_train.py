"""The program as people start it, on a generated data set of a few tiny videos."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.encode import write_video
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.record import VideoRecord
from pipeline.scanning import scan
from tests.conftest import moving_frames
from tests.train.tiny_demo import NUM_STEPS, TINY, contents, demo
from train import report
from train.config import Config, DataConfig, RunConfig, from_json
from train.metrics import read_metrics
from train.predictions import read_predictions
from train.scoring import Accuracy
from train.train import main
from train.videos import prepare_videos

ROOT = Path(__file__).parents[2]


def num_explained(page: str) -> int:
    """Clips with Grad-CAM in a report."""
    return page.count('<span class="right">') + page.count('<span class="wrong">')


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
        predictions = read_predictions(folder)
        assert predictions.step == records[-1]["step"]
        assert (predictions.logits["rgb"].argmax(axis=1) == predictions.labels).mean() == records[-1]["top1"]
    summary = (run / "report" / "summary.md").read_text()
    assert "| temporal_gradient |" in summary
    assert "| supervised |" in summary
    assert f"{Path(sys.executable).name} -m train demo" in summary
    for name in ("curves.png", "contact_sheet.png"):
        assert (run / "report" / name).read_bytes().startswith(b"\x89PNG")
    page = (run / "report" / "report.html").read_text()
    main_predictions = read_predictions(run)
    right = main_predictions.logits["rgb"].argmax(axis=1) == main_predictions.labels
    assert num_explained(page) == min(4, right.sum()) + min(4, (~right).sum())
    assert page.count("data:image/jpeg") == 1 + num_explained(page)  # one is the contact sheet
    assert not json.loads((run / "left_out_videos.json").read_text())
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.partition("+")[0]


def test_report_can_be_written_again_without_the_videos(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    for data, explained in ((finished / "data", True), (tmp_path / "gone", False)):
        monkeypatch.setattr("sys.argv", ["report", str(run), "--data.root", str(data)])
        assert report.main() == 0
        page = (run / "report" / "report.html").read_text()
        assert (num_explained(page) > 0) == explained
    assert f"are not in {tmp_path / 'gone'}" in page
    assert "data:image/jpeg" in page  # the contact sheet is of the run
    assert capsys.readouterr().out.endswith(f"report: {run / 'report' / 'report.html'}\n")


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


@pytest.mark.parametrize(
    ("frames", "message"),
    [(moving_frames(6, 32, 32), None), (moving_frames(9, 32, 32), "9 frames of 32x32"), (moving_frames(6, 48, 64), "")],
)
def test_a_run_resumes_at_another_root_only_with_the_same_frames(
    tmp_path: Path, frames: np.ndarray, message: str | None
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        for name in ("left/0.avi", "left/1.avi", "right/0.avi", "right/1.avi"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            changed = root == second and name == "right/0.avi"
            write_video(root / name, frames if changed else moving_frames(6, 32, 32), "mjpeg")
    run = tmp_path / "run"
    VideoIndex.build(first, progress=False).save(run / "index")
    (run / "last.pt").touch()
    shared = tmp_path / "shared.index"
    config = Config(run=RunConfig(dir=run, resume=True), data=DataConfig(root=second, index=shared))
    if message is None:
        assert prepare_videos(config).index.root == second
    else:
        found = message or "6 frames of 48x64"
        with pytest.raises(InputError, match=rf"right/0\.avi \({found}, not 6 frames of 32x32\): restore them"):
            prepare_videos(config)
    assert VideoIndex.load(shared).root == second


def test_a_scan_at_another_root_is_kept_where_it_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("first", "second"):
        for name in ("left/0.avi", "left/1.avi", "right/0.avi", "right/1.avi"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            write_video(tmp_path / root / name, moving_frames(6, 32, 32), "mjpeg")
    run = tmp_path / "run"
    VideoIndex.build(tmp_path / "first", progress=False).save(run / "index")
    (run / "last.pt").touch()

    def cut_short(root: Path, sources: Mapping[str, object], *rest: object) -> Iterator[tuple[str, VideoRecord]]:
        path = next(iter(sources))
        yield path, scan(root / path)
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.index._scan_all", cut_short)
    with pytest.raises(KeyboardInterrupt):
        prepare_videos(Config(run=RunConfig(dir=run, resume=True), data=DataConfig(root=tmp_path / "second")))
    assert len(VideoIndex.load(run / "index.partial")) == 1


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
    assert "the checkpoint is written. Go on with: " in printed
    assert re.search(f"{Path(sys.executable).name} -m train demo .* --run.resume", printed)
    stopped_at = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    assert 3 <= stopped_at < NUM_STEPS

    assert main([*words, "--run.resume"]) == 0
    ours, theirs = (torch.load(path / "run" / "last.pt", weights_only=True) for path in (tmp_path, finished))
    assert all(torch.equal(ours["method"][name], theirs["method"][name]) for name in theirs["method"])


@pytest.fixture(scope="module")
def begun(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a copy of the demo's videos and a supervised run that has done three steps."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(finished / "data", folder / "data")
    assert main([*supervised(folder / "data", folder / "run"), "--run.max-steps", "3"]) == 0
    return folder


@pytest.fixture
def data(begun: Path, finished: Path, tmp_path: Path) -> Iterator[Path]:
    """The videos of that run, which a test may damage; the run itself is copied into ``tmp_path``."""
    shutil.copytree(begun / "run", tmp_path / "run")
    yield begun / "data"
    shutil.rmtree(begun / "data")
    shutil.copytree(finished / "data", begun / "data")


def supervised(data: Path, run: Path) -> list[str]:
    options = {"data.root": data, "run.dir": run, "run.method": "supervised", "data.labels-per-class": None}
    words = [f"--{name}={value}" for name, value in {**TINY, **options}.items() if not name.startswith("method.")]
    return ["demo", *words, "--run.baseline=None"]


def test_videos_that_go_bad_are_left_out_named_and_remembered(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    train, val = (sorted((data / part).rglob("*.*")) for part in ("train", "val"))
    train[0].unlink()
    train[5].write_bytes(b"")
    val[1].unlink()
    (train[0].parent / "new.avi").write_bytes(b"")
    run = tmp_path / "run"
    assert main([*supervised(data, run), "--data.max-bad-fraction=0.3", "--run.resume"]) == 0
    printed = capsys.readouterr().out
    assert "new since the run began and ignored: 1 videos" in caplog.text
    assert "gone since the run began and left out: 2 videos" in caplog.text
    assert "changed since the run began and left out: 1 videos" in caplog.text

    state = torch.load(run / "last.pt", weights_only=True)["loader"]
    bad = {path.relative_to(data).as_posix() for path in (train[0], train[5])}
    assert set(state["quarantine"]) == bad
    assert all(step >= 3 for step, _ in state["quarantine"].values())
    records = read_metrics(run)
    assert [record["num_quarantined"] for record in records if record["kind"] == "train"][-1] == 2
    assert records[-1]["num_videos"] == 7
    summary = (run / "report" / "summary.md").read_text()
    assert "Videos that went bad meanwhile and were left out: 3." in summary
    for path in (*bad, val[1].relative_to(data).as_posix()):
        assert f"gone bad, left out: {path}: " in printed
        assert f"- {path}: " in summary

    # Resumed when all is done, it names the same again, though by now there is not a batch to be had.
    for video in (*train[1:5], *train[6:]):
        video.unlink()
    assert main([*supervised(data, run), "--data.max-bad-fraction=0.3", "--run.resume"]) == 0
    summary = (run / "report" / "summary.md").read_text()
    for path in (*bad, val[1].relative_to(data).as_posix()):
        assert f"- {path}: " in summary
    assert "too many videos have gone bad since" in summary
    assert "contact_sheet.png" not in summary


def test_too_many_bad_videos_end_the_run_with_a_list_and_a_checkpoint_that_goes_on(
    data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*supervised(data, tmp_path / "run"), "--run.resume"]
    deleted = sorted((data / "train").rglob("*.*"))[:4]
    for path in deleted:
        path.unlink()
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert "of 16 videos have gone bad: restore them, or raise max_bad_fraction, now 0.01\n" in printed
    assert printed.count("cannot be opened any more") >= 2
    assert "The checkpoint is written: go on with --run.resume" in printed
    step = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"]
    assert step >= 3

    for path in deleted:
        shutil.copy2(finished / "data" / path.relative_to(data), path)
    val = sorted((data / "val").rglob("*.*"))
    for path in val[:2]:
        path.unlink()
    assert main(words) == 1
    assert "2 of 8 videos have gone bad: they are needed to validate on: restore them" in capsys.readouterr().err
    for path in val[2:]:
        path.unlink()
    assert main(words) == 1
    assert "8 of 8 videos have gone bad: they are needed to validate on: restore them" in capsys.readouterr().err
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] > step


def test_a_network_on_temporal_gradients_is_evaluated_on_them(finished_tg: Path) -> None:
    assert [record["kind"] for record in read_metrics(finished_tg)] == ["train", "val", "test"]


def test_accuracies_of_a_finished_run_are_read_back(finished: Path) -> None:
    from train.fit import _recorded_test

    accuracy = _recorded_test(finished / "run", NUM_STEPS)
    assert isinstance(accuracy, Accuracy)
    assert accuracy.num_videos == 8
    assert _recorded_test(finished / "run", NUM_STEPS - 1) is None


def test_a_run_is_resumed_unasked_only_where_the_same_launch_has_begun_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(demo(finished)) == 2  # another launch found the folder taken, and torchrun tried again
    assert "already holds a run" in capsys.readouterr().err
    assert main(demo(finished, "--run.resume")) == 0
    assert main(demo(finished)) == 0


def test_names_that_are_not_utf8_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def run(config: Config, command: str) -> None:
        print("left out:", os.fsdecode(b"caf\xe9.mp4"))
        raise BrokenProcessPool

    monkeypatch.setattr("train.train.run", run)
    assert main(["demo"]) == 1
    out.flush()
    err.flush()
    assert out.buffer.getvalue() == b"left out: caf\\udce9.mp4\n"
    assert err.buffer.getvalue().startswith(b"error: worker processes end")
