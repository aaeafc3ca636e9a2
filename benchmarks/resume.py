"""Does a run that is killed again and again end with the same bits as one that was left alone?

Trains the whole method on a tiny generated data set once in peace, and once killed (SIGKILL) at moments of all kinds:
random ones, and aimed ones such as while a checkpoint is half written.  After each kill the checkpoints have to load;
every life goes on by ``--run.resume``, with another number of threads.

    python -m benchmarks resume --kills 20

Exit status: 0 if every record but the clock's, and every tensor of last.pt and best.pt, are the same; 1 if not.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import results
from benchmarks.results import RESULTS, finish
from benchmarks.tables import markdown_checks
from pipeline.errors import InputError
from train.checkpoint import BEST, LAST, load
from train.metrics import CLOCKED, METRICS_FILE, Record, read_metrics
from train.predictions import PREDICTIONS
from train.report import REPORT

EPOCHS, STEPS_PER_EPOCH = 12, 8
OPTIONS = {
    "data.generate.videos-per-class": 4,
    "data.generate.val-videos-per-class": 2,
    "data.generate.size": 32,
    "data.generate.num-frames": 12,
    "data.labels-per-class": 1,
    "data.clip-len": 4,
    "data.frame-stride": 1,
    "data.size": 32,
    "data.eval-size": 32,
    "model.width": 4,
    "model.dropout": 0.5,
    "optim.batch-labeled": 2,
    "optim.batch-unlabeled": 2,
    "optim.warmup-epochs": 0,
    "method.warmup-epochs": 0,
    "optim.epochs": EPOCHS,
    "run.baseline": None,
    "run.log-every": 1,
    "run.eval-every-epochs": 1,
    "run.checkpoint-every": 3,
}
FIRST = ("first steps", f"writing {BEST}", "between the checkpoints")
LATER = (*("training",) * 4, *(f"writing {LAST}",) * 5, *("starting",) * 2, *("recording",) * 2, *("evaluating",) * 2)
FINALLY = ("testing", "reporting")
_LIFE_LIMIT_S = 300
_POLL_S = 0.0003


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Kill a run again and again, and compare it with one left alone."""

    kills: int = 20
    """How many times."""
    seed: int = 0
    """Another seed kills at other moments."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        least = len(FIRST) + len(FINALLY)
        if self.kills < least:
            raise InputError(f"kills {self.kills}: take {least} or more, one for each special moment")


def numbers(run_dir: Path) -> list[Record]:
    """Records without what a clock measured."""
    return [{name: value for name, value in r.items() if name not in CLOCKED} for r in read_metrics(run_dir)]


def same(ours: Any, theirs: Any) -> bool:
    """Whether two checkpoints, or parts of them, are the same to the bit but for the options, which name the folder."""
    if isinstance(ours, torch.Tensor):
        # Not torch.equal: accuracies of pseudo-labels are NaN where none was kept.
        return bool(ours.dtype == theirs.dtype and ours.numpy().tobytes() == theirs.numpy().tobytes())
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours if key != "config")
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def choose_aims(kills: int, rng: random.Random) -> list[str]:
    """What each life is to be killed at, in order; some moments come only early or late in a run."""
    num_later = kills - len(FIRST) - len(FINALLY)
    later = [LATER[number % len(LATER)] for number in range(num_later)]
    rng.shuffle(later)
    return [*FIRST, *later, *FINALLY]


def watch(aim: str, run: Path, rng: random.Random) -> Callable[[], bool]:
    """What tells, asked again and again, that the moment to kill has come."""
    before = len(numbers(run))
    best, metrics = run / BEST, run / METRICS_FILE
    num_new, occurrence = rng.randint(1, 5), rng.randint(1, 2)
    begun = time.monotonic()

    def num_lines() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    def changed(path: Path) -> Callable[[], bool]:
        def inode() -> int:
            return path.stat().st_ino if path.exists() else 0

        old = inode()
        return lambda: inode() != old

    def writing(path: Path, occurrence: int) -> Callable[[], bool]:
        temporary, seen, there = path.with_name(f"{path.name}.tmp"), 0, False

        def now() -> bool:
            nonlocal seen, there
            was, there = there, temporary.exists()
            seen += there and not was
            return seen >= occurrence

        return now

    def last(kind: str, step: int | None = None) -> bool:
        record = next(reversed(numbers(run)), None)
        if record is None or record["kind"] != kind:
            return False
        return record["step"] == step if step else int(record["step"] or 0) % STEPS_PER_EPOCH == 0

    conditions: dict[str, Callable[[], bool]] = {
        "first steps": lambda: num_lines() >= 2,
        "starting": lambda: time.monotonic() - begun > 2 * num_new,
        "training": lambda: num_lines() >= before + num_new,
        "recording": lambda: num_lines() > before,
        "evaluating": lambda: last("train"),
        "between the checkpoints": changed(best),
        "testing": lambda: last("val", EPOCHS * STEPS_PER_EPOCH),
        "reporting": lambda: last("test", EPOCHS * STEPS_PER_EPOCH),
        f"writing {BEST}": writing(best, 1),
        f"writing {LAST}": writing(run / LAST, occurrence),
    }
    return conditions[aim]


def half_written(run: Path) -> dict[str, int]:
    """Checkpoints that are being written, and the inodes that tell one writing from another."""
    files = {name: run / f"{name}.tmp" for name in (BEST, LAST)}
    return {name: file.stat().st_ino for name, file in files.items() if file.exists()}


def what_was_hit(run: Path, num_records_before: int, half_before: dict[str, int]) -> str:
    """What the run was doing when it was killed, from what it left and what had been there before."""
    for name, inode in half_written(run).items():
        if half_before.get(name) != inode:
            return f"writing {name}"
    if len(numbers(run)) <= num_records_before:
        return "starting"
    steps = [int(load(run / name)["step"]) if (run / name).exists() else 0 for name in (BEST, LAST)]
    if steps[0] > steps[1]:
        return "between the checkpoints"
    metrics = run / METRICS_FILE
    if metrics.exists() and metrics.read_bytes()[-1:] not in (b"", b"\n"):
        return "recording"
    records = numbers(run)
    if records and records[-1]["kind"] == "test":
        return "reporting" if not (run / REPORT / "summary.md").exists() else "done"
    if records and records[-1]["kind"] == "val" and records[-1]["step"] == EPOCHS * STEPS_PER_EPOCH:
        return "testing"
    at_an_evaluation = records[-1]["kind"] == "train" and int(records[-1]["step"] or 0) % STEPS_PER_EPOCH == 0
    return "evaluating" if at_an_evaluation else "training"


def live(run: Path, data: Path, num_threads: int, is_time: Callable[[], bool] | None, delay_s: float) -> int:
    """Run the program until it ends or the moment has come.

    Returns:
        Its exit status: -9 if it was killed.
    """
    options = OPTIONS | {"data.root": data, "run.dir": run, "data.num-threads": num_threads}
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "train", "demo", *words, "--run.resume"]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + _LIFE_LIMIT_S
    try:
        while program.poll() is None and not (is_time and is_time()):
            assert time.monotonic() < deadline, f"no end after {_LIFE_LIMIT_S} s"
            time.sleep(_POLL_S)
        time.sleep(delay_s)
    finally:
        program.kill()
    return program.wait()


def torture(options: Resume, folder: Path, console: Console) -> dict[str, Any]:
    """Kill, go on, kill, and tell of each life."""
    rng = random.Random(options.seed)
    run = folder / "killed"
    lives: list[dict[str, Any]] = []
    num_threads = count()
    for aim in choose_aims(options.kills, rng):
        before, half_before = len(numbers(run)), half_written(run)
        # Where the moment itself is not what matters, anywhere in the step that follows.
        delay_s = rng.uniform(0, 0.3) if aim in ("first steps", "training", "evaluating", "testing") else 0.0
        status = live(run, folder / "data", 1 + next(num_threads) % 2, watch(aim, run, rng), delay_s)
        if status == 0:
            break
        assert status == -9, f"the program ended with status {status}"
        hit = what_was_hit(run, before, half_before)
        step = int(load(run / LAST)["step"]) if (run / LAST).exists() else 0
        if (run / BEST).exists():
            load(run / BEST)
        seen = max((int(r["step"] or 0) for r in numbers(run) if r["kind"] == "train"), default=0)
        lives.append({"aim": aim, "hit": hit, "reached_step": seen, "goes_on_at_step": step})
        console.print(f"kill {len(lives)}: aimed at {aim}, hit {hit}; reached step {seen}, goes on at {step}")
    status = live(run, folder / "data", 1, None, 0.0)
    assert status == 0, f"the program ended with status {status}"
    return {
        "num_kills": len(lives),
        "hits": dict(Counter(life["hit"] for life in lives)),
        "num_while_writing": sum(str(life["hit"]).startswith("writing") for life in lives),
        "num_steps": EPOCHS * STEPS_PER_EPOCH,
        "num_steps_replayed": sum(life["reached_step"] - life["goes_on_at_step"] for life in lives),
        "lives": lives,
    }


def verdicts(options: Resume, result: dict[str, Any], killed: Path, whole: Path) -> dict[str, bool]:
    """What had to hold, and whether it did."""
    with (
        np.load(killed / PREDICTIONS, allow_pickle=False) as ours,
        np.load(whole / PREDICTIONS, allow_pickle=False) as theirs,
    ):
        predictions = all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    return {
        "as many kills as asked for": result["num_kills"] == options.kills,
        "some while a checkpoint was being written": result["num_while_writing"] > 0,
        "all records are the same": numbers(killed) == numbers(whole),
        "last is the same to the bit": same(load(killed / LAST), load(whole / LAST)),
        "best is the same to the bit": same(load(killed / BEST), load(whole / BEST)),
        "predictions are the same to the bit": predictions,
        "nothing is left lying about": {p.name for p in killed.iterdir()} == {p.name for p in whole.iterdir()},
    }


def run(options: Resume) -> int:
    """Train twice, compare, print, keep the result."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="resume") as name:
        folder = Path(name)
        assert live(folder / "whole", folder / "data", 1, None, 0.0) == 0
        result = torture(options, folder, console)
        checks = verdicts(options, result, folder / "killed", folder / "whole")
    for check, holds in checks.items():
        console.print(f"{'yes' if holds else 'NO '}  {check}")
    finish("resume", options, options.results, findings={"checks": checks, **result})
    return 0 if all(checks.values()) else 1


def markdown(record: results.Record) -> str:
    """What was borne, for a document."""
    found = record.findings
    hits = ", ".join(f"{number} while {what}" for what, number in found["hits"].items())
    caption = (
        f"A run of {found['num_steps']} steps killed {found['num_kills']} times ({hits}), "
        f"{found['num_steps_replayed']} steps taken twice, beside one left alone:"
    )
    return f"{caption}\n\n{markdown_checks(found['checks'])}"


def main() -> None:
    """Command line: the fields of :class:`Resume`."""
    results.main(Resume, run)


if __name__ == "__main__":
    main()
