"""Trainings one after the other or side by side: none is lost, none is made twice, none fails in silence.

A script stands in for the trainer; its first word says how it ends.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.errors import InputError
from pipeline.processes import num_cores
from train import sweep
from train.sweep import Run, begin, measured, train_all

STANDIN = """
import json, os, shlex, signal, sys, time
from pathlib import Path

how, words = sys.argv[1], sys.argv[1:]
folder = Path(words[words.index("--run.dir") + 1])
folder.mkdir(parents=True, exist_ok=True)
command = f"python -m train {shlex.join(words)}"
(folder / "environment.json").write_text(json.dumps({"command": command, "git_commit": "abc"}))
(folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", "all"))
if how == "fails":
    print("step 1", "error: step 2 is not finite", "", sep="\\n")
    sys.exit(1)
if how == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "waits":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    (folder / "ready").touch()
    assert signal.sigtimedwait([signal.SIGTERM], 60), "nobody ends it"
    (folder / "checkpoint").touch()
    sys.exit(143)
if how == "meets":
    (folder / "ready").touch()
    until = time.monotonic() + 30
    while len(list(folder.parent.glob("*/ready"))) < 2:
        assert time.monotonic() < until, "it is alone"
        time.sleep(0.01)
test = {"kind": "test", "step": 4, "top1": 0.25, "mean_class": 0.2, "num_videos": 8}
speed = [{"clips_per_s": n, "step_ms": 9 - n, "peak_memory_gib": n / 2} for n in (1, 2, 3, 4)]
records = [{"kind": "train", "step": n, **numbers} for n, numbers in enumerate(speed, 1)]
records[2] |= {"mask_rate": 1.0, "pseudo_label_accuracy": 1.0}
records[3] |= {"mask_rate": 0.5, "pseudo_label_accuracy": None, "gpu_peak_memory_gib": 7.25}
(folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\\n" for one in [*records, test]))
"""


@pytest.fixture(autouse=True)
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "standin.py"
    script.write_text(STANDIN)
    monkeypatch.setattr(sweep, "_COMMAND", (sys.executable, str(script)))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Run]:
    def run(how: str, seed: int = 0) -> Run:
        folder = tmp_path / "runs" / f"{how}-seed{seed}"
        return Run(how, seed, folder, (how, "--run.dir", str(folder), "--run.resume"))

    return run


def test_what_has_ended_is_not_trained_again(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make("ends"), make("ends", 1)]
    assert train_all(runs[:1], Console()) == {}
    printed = capsys.readouterr().out
    assert "1/1 ends, seed 0: training, " in printed
    assert "1/1 ends, seed 0: 25.0 % after " in printed
    begun: list[Run] = []

    def noting(run: Run, parallel: int) -> "subprocess.Popen[bytes]":
        begun.append(run)
        return begin(run, parallel)

    monkeypatch.setattr(sweep, "begin", noting)
    assert train_all(runs, Console()) == {}
    assert begun == runs[1:]
    assert "1/2 ends, seed 0: 25.0 %, trained before" in capsys.readouterr().out


def test_a_failure_is_named_and_costs_no_other_run(
    make: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make("fails"), make("dies"), make("ends")]
    assert train_all(runs, Console()) == {runs[0]: "error: step 2 is not finite", runs[1]: "killed by SIGKILL"}
    assert measured(runs[2])["top1"] == 0.25
    assert "1/3 fails, seed 0: FAILED after " in capsys.readouterr().out


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_with_their_checkpoints_and_begins_no_other(
    signum: signal.Signals,
    make: Callable[..., Run],
    wait_until: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = [make("waits", seed) for seed in range(3)]

    def send() -> None:
        wait_until(lambda: all((run.folder / "ready").exists() for run in runs[:2]))
        os.kill(os.getpid(), signum)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit) as caught:
        train_all(runs, Console(), parallel=2)
    sender.join()
    assert caught.value.code == 128 + signum
    assert [(run.folder / "checkpoint").exists() for run in runs] == [True, True, False]
    assert "Go on with the same command" in capsys.readouterr().err


def test_runs_beside_each_other_share_the_cores_and_their_speed_is_marked(
    make: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make("meets"), make("meets", 1)]
    assert train_all(runs, Console(), parallel=2) == {}
    share = str(max(1, num_cores() // 2))
    for run in runs:
        assert (run.folder / "threads").read_text() == share
        begun = json.loads((run.folder / "environment.json").read_text())["command"]
        assert begun == f"{run.command} --data.num-threads {share}"
        assert measured(run)["beside"]
    capsys.readouterr()
    assert train_all([*runs, make("ends")], Console()) == {}
    assert capsys.readouterr().out.count("trained before") == 2  # by the same command, whoever else runs
    assert not measured(make("ends"))["beside"]


def test_a_folder_with_the_run_of_another_command_is_refused_before_anything_is_trained(
    make: Callable[..., Run],
) -> None:
    runs = [make("ends"), make("ends", 1)]
    runs[1].folder.mkdir(parents=True)
    (runs[1].folder / "environment.json").write_text(json.dumps({"command": "python -m train folder"}))
    with pytest.raises(InputError, match="seed1 holds the run of another command, python -m train folder"):
        train_all(runs, Console())
    assert not runs[0].folder.exists()


def test_a_run_is_the_same_whichever_interpreter_its_command_names(
    make: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = make("ends")
    assert train_all([run], Console()) == {}
    told = run.command.replace("python ", "'/home/a b/.venv/bin/python' ")
    (run.folder / "environment.json").write_text(json.dumps({"command": told, "git_commit": "abc"}))
    assert train_all([run], Console()) == {}
    assert "trained before" in capsys.readouterr().out


def test_speed_is_told_without_the_first_line_pseudo_labels_by_the_last_quarter(make: Callable[..., Run]) -> None:
    train_all([make("ends")], Console())
    assert measured(make("ends")) == {
        "top1": 0.25,
        "mean_class": 0.2,
        "num_videos": 8,
        "steps": 4,
        "clips_per_s": 3.0,
        "step_ms": 6.0,
        "beside": False,
        "memory_gib": 2.0,
        "gpu_memory_gib": 7.25,
        "late_mask_rate": 0.5,
        "late_pseudo_label_accuracy": None,
        "commit": "abc",
    }
