"""What stands between a scheduler and the trainer: commands arrive as typed, signals too, runs are queued again.

Slurm, torchrun and Python are stand-ins that write down how they were called.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "docker"


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """Where the stand-ins write down what they were called with, one line a call."""
    return tmp_path / "called"


def stand_in(folder: Path, called: Path, name: str, does: str = "") -> None:
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/bash\necho "{name} $*" >> {called}\n{does}\n')
    program.chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", **more}


@pytest.mark.parametrize(
    ("words", "gpus", "call"),
    [
        (["k400-1pct", "--data.root", "/data"], 0, "python -m train k400-1pct --data.root /data"),
        (["k400-1pct"], 1, "python -m train k400-1pct"),
        (
            ["k400-1pct", "--run.seed", "1"],
            8,
            "torchrun --standalone --nproc-per-node=8 -m train k400-1pct --run.seed 1",
        ),
        ([], 8, "python -m train --help"),
        (["--help"], 8, "python -m train --help"),
        (["doctor", "--json"], 8, "python -m train.doctor --json"),
        (["prepare", "/a b", "/c"], 8, "python -m pipeline.prepare /a b /c"),
        (["benchmarks", "gpu-check"], 8, "python -m benchmarks gpu-check"),
        (["torchrun", "--nnodes=2", "-m", "train", "demo"], 8, "torchrun --nnodes=2 -m train demo"),
    ],
)
def test_the_first_word_after_the_image_decides_what_runs(
    words: list[str], gpus: int, call: str, tmp_path: Path, called: Path
) -> None:
    stand_in(tmp_path, called, "python", f'[ "$1" = -c ] && echo {gpus}')
    stand_in(tmp_path, called, "torchrun")
    subprocess.run([DOCKER / "entrypoint.sh", *words], env=environment(tmp_path), check=False, timeout=20)
    assert called.read_text().splitlines()[-1] == call


def slurm(tmp_path: Path, called: Path, step: str, record: str = "PreemptTime=None") -> subprocess.Popen[bytes]:
    """The batch script on two nodes whose step does as told."""
    stand_in(tmp_path, called, "srun", step)
    stand_in(tmp_path, called, "scontrol", f'case "$2" in hostnames) echo n1; echo n2 ;; job) echo "{record}" ;; esac')
    variables = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    words = ["bash", str(DOCKER / "slurm" / "train.sbatch"), "demo", "--run.dir", "/shared/a b"]
    return subprocess.Popen(words, env=environment(tmp_path, **variables))


_UNTIL_TOLD = "trap 'exit 1' TERM; echo ready >> {called}; while :; do sleep 0.05; done"


def test_slurm_starts_one_torchrun_a_node_that_resumes(tmp_path: Path, called: Path) -> None:
    assert slurm(tmp_path, called, "exit 0").wait(20) == 0
    (step,) = [line for line in called.read_text().splitlines() if line.startswith("srun")]
    assert "torchrun --nnodes=2 --nproc-per-node=gpu" in step
    assert "--rdzv-endpoint=n1:20042 --rdzv-id=42-0" in step
    assert step.endswith("-m train demo --run.dir /shared/a b --run.resume")
    assert "requeue" not in called.read_text()


def test_slurms_warning_reaches_the_step_and_the_job_is_queued_again(tmp_path: Path, called: Path) -> None:
    script = slurm(tmp_path, called, _UNTIL_TOLD.format(called=called))
    stop = time.monotonic() + 20
    while not (called.exists() and "ready" in called.read_text()):
        assert time.monotonic() < stop
        time.sleep(0.02)
    os.kill(script.pid, signal.SIGUSR1)
    assert script.wait(20) == 1
    assert called.read_text().splitlines()[-1] == "scontrol requeue 42"


@pytest.mark.parametrize(("preempted", "requeued"), [("2026-01-01T00:00:00", True), ("None", False)])
def test_a_step_that_failed_is_queued_again_only_if_it_was_preempted(
    preempted: str, requeued: bool, tmp_path: Path, called: Path
) -> None:
    assert slurm(tmp_path, called, "exit 3", f"JobId=42 PreemptTime={preempted}").wait(20) == 3
    assert ("scontrol requeue 42" in called.read_text()) == requeued
