"""The whole program, stopped by a signal, killed or out of disk at moments outside the training steps."""

import errno
import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.resume import numbers, same
from tests.conftest import TINY_CLIPS
from tests.forks import begin
from train.checkpoint import BEST, LAST, load
from train.metrics import METRICS_FILE, MetricsLog
from train.train import main

ROOT = Path(__file__).parents[2]
TINY = {
    "data.generate.videos-per-class": 4,
    "data.generate.val-videos-per-class": 1,
    "data.generate.size": 32,
    "data.generate.num-frames": 12,
    "data.labels-per-class": None,
    **TINY_CLIPS,
    "optim.warmup-epochs": 0,
    "optim.epochs": 2,
    "run.method": "supervised",
    "run.baseline": None,
    "run.max-steps": 2,
    "run.log-every": 1,
}


class Dies(BaseException):
    """The program is killed here: nothing in it handles this."""


def words(folder: Path, run: Path) -> list[str]:
    # An index that is there already spares the processes that would make it, seconds each.
    options = TINY | {"data.root": folder / "data", "data.index": folder / "index", "run.dir": run}
    return ["demo", *(f"--{name}={value}" for name, value in options.items())]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a data set and a run of two steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(words(folder, folder / "run")) == 0
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Where a run on the same data set goes."""
    return tmp_path / "run"


def act_at(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], None], after: bool = False) -> None:
    """Have something happen when a function is called, before or after what it does."""
    module, _, function = name.rpartition(".")
    owner: Any = sys.modules.get(module)
    if owner is None:
        module, _, holder = module.rpartition(".")
        owner = getattr(sys.modules[module], holder)
    original = getattr(owner, function)

    def acting(*args: Any, **kwargs: Any) -> Any:
        if not after:
            act()
        result = original(*args, **kwargs)
        if after:
            act()
        return result

    monkeypatch.setattr(owner, function, acting)


def assert_ends_like(run: Path, whole: Path) -> None:
    assert numbers(run) == numbers(whole)
    for name in (LAST, BEST):
        assert same(load(run / name), load(whole / name)), name
    assert (run / "predictions.npz").read_bytes() == (whole / "predictions.npz").read_bytes()
    names, expected = ({str(p.relative_to(folder)) for p in folder.rglob("*.*")} for folder in (run, whole))
    assert {n for n in names if "tfevents" not in n} == {n for n in expected if "tfevents" not in n}


@pytest.mark.parametrize(
    ("where", "after"),
    [
        ("train.fit.write_split", True),
        ("train.fit.train", True),
        ("train.fit.write_predictions", False),
        ("train.fit.write_predictions", True),
        ("train.report.contact_sheet", False),
        ("train.report._summary", False),
    ],
)
def test_a_program_that_dies_outside_the_training_is_made_up_for(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, where: str, after: bool
) -> None:
    def die() -> None:
        raise Dies

    with monkeypatch.context() as patch:
        act_at(patch, where, die, after)
        with pytest.raises(Dies):
            main(words(finished, run))
    for name in ("last.pt.tmp", "best.pt.tmp", "index.1.tmp"):
        (run / name).write_bytes(b"half")  # as a kill leaves
    assert main([*words(finished, run), "--run.resume"]) == 0
    assert_ends_like(run, finished / "run")


def test_a_test_that_dies_while_it_is_recorded_is_recorded_once(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = MetricsLog.write

    def write_half(self: MetricsLog, record: Any) -> None:
        if record["kind"] == "test":
            write(self, {"kind": "skipped", "step": record["step"], "path": "a.avi", "reason": "gone"})
            raise Dies
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", write_half)
        with pytest.raises(Dies):
            main(words(finished, run))
    assert numbers(run)[-1]["kind"] == "skipped"
    assert main([*words(finished, run), "--run.resume"]) == 0
    assert_ends_like(run, finished / "run")


@pytest.mark.parametrize(
    ("where", "signum"),
    [
        ("train.train.prepare_videos", signal.SIGTERM),
        ("train.videos.split_videos", signal.SIGINT),
        ("train.fit.ClipLoader", signal.SIGTERM),
        ("train.loop.train_step", signal.SIGINT),
        ("train.validation.predict_center", signal.SIGTERM),
        ("train.validation.predict_test", signal.SIGINT),
        ("train.fit.write_predictions", signal.SIGTERM),
        ("train.report.contact_sheet", signal.SIGTERM),
    ],
)
def test_a_signal_is_one_line_and_an_exit_status(
    finished: Path,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    signum: signal.Signals,
) -> None:
    with monkeypatch.context() as patch:
        act_at(patch, where, lambda: os.kill(os.getpid(), signum))
        assert main(words(finished, run)) == 128 + signum
    printed = capsys.readouterr().err
    assert printed.startswith(f"stopped by {signum.name}")
    assert printed.endswith("--run.resume\n")
    assert printed.count("\n") == 1
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    "file", ["config.json", "last.pt", "predictions.npz", "report/curves.png", "report/contact_sheet.png"]
)
def test_a_full_disk_is_one_line_that_names_the_file(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    fsync = os.fsync

    def full(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == f"{run / file}.tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(words(finished, run)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "No space left on device" in printed
    assert str(run / file) in printed
    assert printed.count("\n") == 1
    assert not list(run.rglob("*.tmp"))
    assert main([*words(finished, run), "--run.resume"]) == 0
    assert_ends_like(run, finished / "run")


def test_a_disk_too_full_for_records_is_one_line_and_leaves_the_checkpoint_whole(
    finished: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begin = MetricsLog.__init__

    def begin_full(self: MetricsLog, *args: Any) -> None:
        begin(self, *args)
        assert self._file is not None
        os.dup2(os.open("/dev/full", os.O_WRONLY), self._file.fileno())

    assert main([*words(finished, run), "--run.max-steps=1"]) == 0
    before = (run / LAST).read_bytes()
    capfd.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "__init__", begin_full)
        assert main([*words(finished, run), "--run.resume"]) == 1
    gc.collect()  # a file that could not be written may say so once more when it is collected
    assert capfd.readouterr().err == f"error: [Errno 28] No space left on device: '{run / METRICS_FILE}'\n"
    assert (run / LAST).read_bytes() == before


# --- killed ---

WHOLE_METHOD = {
    "run.method": "temporal_gradient",
    "method.warmup-epochs": 0,
    "model.dropout": 0.5,
    "optim.epochs": 4,  # 32 steps: on a fast machine too the last kill comes before the end
    "run.max-steps": None,
    "run.eval-every-epochs": 1,
    "run.checkpoint-every": 2,
}


def program(argv: list[str], dies_writing: str = "") -> None:
    """The program in a child; it kills itself where half of a file is written, if one is named."""
    output = os.open(os.devnull, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    fsync = os.fsync

    def dying_fsync(fd: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{fd}")).name == f"{dies_writing}.tmp":
            os.ftruncate(fd, os.fstat(fd).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(fd)

    os.fsync = dying_fsync  # type: ignore[assignment]  # of this process, which does nothing else
    sys.exit(main(argv))


def test_the_program_killed_again_and_again_ends_with_the_bits_of_one_left_alone(
    finished: Path, run: Path, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    """The program's own main, whole method, videos and SIGKILL are real, each life is a process of its own.

    Only it is forked from one that has the libraries loaded; ``python -m benchmarks resume`` starts it by its command.
    """
    straight, metrics, rng = tmp_path / "straight", run / METRICS_FILE, random.Random(0)

    def begin_life(folder: Path, num_threads: int, *dies_writing: str) -> BaseProcess:
        options = WHOLE_METHOD | {"data.num-threads": num_threads}
        argv = [*words(finished, folder), *(f"--{name}={value}" for name, value in options.items()), "--run.resume"]
        return begin(program, argv, *dies_writing)

    def num_records() -> int:
        return metrics.read_bytes().count(b"\n")

    alone = begin_life(straight, 1)
    went_on_at = []
    for life, moment in enumerate(["anywhere", BEST, "training", LAST, "training", "training"]):
        old = inode(metrics)
        process = begin_life(run, 1 + life % 2, *([moment] if moment in (LAST, BEST) else []))
        if moment == "training":
            wait_until(lambda old=old: inode(metrics) != old)  # rewritten at the begin of each life
            enough = num_records() + rng.randint(2, 4)
            wait_until(lambda enough=enough: num_records() >= enough)
        if moment in ("anywhere", "training"):
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, moment
        half = {path.name for path in run.glob("*.pt.tmp")}
        assert moment not in (LAST, BEST) or f"{moment}.tmp" in half
        steps = {path.name: load(path)["step"] for path in run.glob("*.pt")}
        went_on_at.append(steps.get(LAST, 0))
    assert went_on_at == sorted(went_on_at)
    assert len(set(went_on_at)) >= 3, "kills that come too early show nothing"
    alone.join(120)
    final = begin_life(run, 1)
    final.join(120)
    assert (alone.exitcode, final.exitcode) == (0, 0)
    assert_ends_like(run, straight)


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


def test_a_signal_while_libraries_load_is_one_line() -> None:
    program = subprocess.Popen([sys.executable, "-m", "train", "demo"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    program.send_signal(signal.SIGINT)
    _, printed = program.communicate(timeout=60)
    assert (program.returncode, printed) == (130, "stopped by SIGINT\n")
