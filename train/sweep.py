"""Many trainings, each a ``python -m train`` in a process of its own, and what they came to.

Promises that what has ended is not trained again and what was cut off goes on, that a signal ends all with their
checkpoints, and that a failure is named and costs no other run.  Which runs there are, and what is made of their
numbers, is left to :mod:`train.compare` and to the benchmarks.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console

from pipeline.errors import InputError
from pipeline.processes import num_cores
from train.cli import PROGRAM
from train.environment import ENVIRONMENT
from train.metrics import Record, read_metrics
from train.stop import Stopped, StopSignal

NUM_THREADS = "--data.num-threads"
_COMMAND = (sys.executable, "-m", "train")
_LATE = 0.75  # pseudo-labels are judged by the rest of the steps
_POLL_S = 0.1


@dataclass(frozen=True)
class Run:
    """One training of several.

    Attributes:
        name: of what is compared, a method say.
        seed: of the run.
        folder: of the run; its log lies beside it.
        words: of its command line, after the program's name; they tell it its folder, and to resume.
    """

    name: str
    seed: int
    folder: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def command(self) -> str:
        """What a user would type."""
        return f"{PROGRAM} {shlex.join(self.words)}"

    @property
    def log(self) -> Path:
        """File of what it prints."""
        return self.folder.with_suffix(".log")


@dataclass(frozen=True)
class _Child:
    """A training under way."""

    number: int
    run: Run
    process: "subprocess.Popen[bytes]"
    began: float = field(default_factory=time.perf_counter)


def train_all(runs: Sequence[Run], console: Console, parallel: int = 1) -> dict[Run, str]:
    """Train what is not trained yet, in the order given.

    Args:
        runs: with folders of their own.
        console: is told when each begins and ends.
        parallel: trainings at a time; each has its share of the cores.

    Returns:
        Why runs failed: the last line they said.  All others have ended.

    Raises:
        InputError: a folder holds the run of another command; nothing has been trained.
        SystemExit: with 130 or 143, after a signal; what is under way has written its checkpoint.
    """
    for run in runs:
        if (begun := _begun(run.folder)[0]) not in (None, run.command):
            raise InputError(
                f"{run.folder} holds the run of another command, {begun}: remove it or take another folder"
            )
    waiting = deque(enumerate(runs, 1))
    failed: dict[Run, str] = {}

    def tell(number: int, run: Run, what: str, style: str | None = None) -> None:
        console.print(f"{number}/{len(runs)} {run}: {what}", style=style, markup=False, highlight=False)

    try:
        with StopSignal() as stop, _children() as children:
            while waiting or children:
                while waiting and len(children) < parallel:
                    number, run = waiting.popleft()
                    if _test(run.folder) is None:
                        children.append(_Child(number, run, begin(run, parallel)))
                        tell(number, run, f"training, {run.log}")
                    else:
                        tell(number, run, f"{_top1(run)}, trained before")
                over = [child for child in children if child.process.poll() is not None]
                stop.check()
                for child in over:
                    children.remove(child)
                    took = f"{time.perf_counter() - child.began:.0f} s"
                    if (reason := _failure(child)) is None:
                        tell(child.number, child.run, f"{_top1(child.run)} after {took}")
                    else:
                        failed[child.run] = reason
                        tell(child.number, child.run, f"FAILED after {took}: {reason}", "red")
                if not over:
                    time.sleep(_POLL_S)
    except Stopped as stopped:
        print(f"{stopped}; all that is trained is kept. Go on with the same command", file=sys.stderr)
        sys.exit(stopped.exit_status)
    return failed


@contextmanager
def _children() -> Iterator[list[_Child]]:
    """Context of trainings under way; those that are left in it are asked to end, and waited for."""
    children: list[_Child] = []
    try:
        yield children
    finally:
        # SIGTERM, since Ctrl-C has reached them too: a second SIGINT would cut their checkpoints short.
        for child in children:
            child.process.terminate()
        for child in children:
            child.process.wait()


def begin(run: Run, parallel: int = 1) -> "subprocess.Popen[bytes]":
    """Start a training, or go on with it; several at a time are told to share the cores."""
    words, environment = list(run.words), dict(os.environ)
    if parallel > 1:
        share = str(max(1, num_cores() // parallel))
        words += [NUM_THREADS, share]
        environment["OMP_NUM_THREADS"] = share
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with run.log.open("w") as output:
        return subprocess.Popen(
            [*_COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _failure(child: _Child) -> str | None:
    """Why a training that is over has failed, None if it has not."""
    status = child.process.returncode
    if status == 0:
        return None
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    said = child.run.log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(said) if line.strip()), f"exit status {status}")


def measured(run: Run) -> dict[str, Any]:
    """What a finished run has to say, as JSON types.

    Returns:
        "top1" and "mean_class", fractions, of "num_videos"; "steps"; "clips_per_s" and "step_ms", medians of the log
        lines but the first, and whether these were measured "beside" other runs; "memory_gib" and "gpu_memory_gib", the
        most that was taken; "late_mask_rate" and "late_pseudo_label_accuracy", means over the last quarter; and its
        "commit".  None where it does not tell.
    """
    test = _test(run.folder)
    assert test is not None, f"{run.folder} has not ended"
    records = [record for record in read_metrics(run.folder) if record["kind"] == "train"]
    late = [record for record in records if _number(record, "step") > _LATE * _number(test, "step")]
    settled = records[1:] or records
    return {
        "top1": test["top1"],
        "mean_class": test["mean_class"],
        "num_videos": test["num_videos"],
        "steps": test["step"],
        "clips_per_s": round(median(_number(record, "clips_per_s") for record in settled), 1),
        "step_ms": round(median(_number(record, "step_ms") for record in settled), 1),
        "beside": _begun(run.folder)[1],
        "memory_gib": _most(records, "peak_memory_gib"),
        "gpu_memory_gib": _most(records, "gpu_peak_memory_gib"),
        "late_mask_rate": _mean(late, "mask_rate"),
        "late_pseudo_label_accuracy": _mean(late, "pseudo_label_accuracy"),
        "commit": json.loads((run.folder / ENVIRONMENT).read_text())["git_commit"],
    }


def _begun(folder: Path) -> tuple[str | None, bool]:
    """The command that a run was begun with, None if it was not; and whether beside others, which the words tell.

    The command is as a user would type it, whichever interpreter it was given to.
    """
    environment = folder / ENVIRONMENT
    if not environment.exists():
        return None, False
    command = json.loads(environment.read_text())["command"]
    words = command.partition(f" {PROGRAM.partition(' ')[2]} ")[2]
    alone = re.sub(rf" {NUM_THREADS} \d+$", "", words)
    return f"{PROGRAM} {alone}", alone != words


def _test(folder: Path) -> Record | None:
    """The record of a run's final test, None if it has not come to it."""
    tests = [record for record in read_metrics(folder) if record["kind"] == "test"]
    return tests[-1] if tests else None


def _top1(run: Run) -> str:
    return f"{100 * measured(run)['top1']:.1f} %"


def _number(record: Record, name: str) -> float:
    return float(record[name] or 0)


def _values(records: Sequence[Record], name: str) -> list[float]:
    return [float(value) for record in records if (value := record.get(name)) is not None]


def _most(records: Sequence[Record], name: str) -> float | None:
    values = _values(records, name)
    return round(max(values), 2) if values else None


def _mean(records: Sequence[Record], name: str) -> float | None:
    values = _values(records, name)
    return round(fmean(values), 4) if values else None
