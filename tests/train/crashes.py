"""Trainings that die: children forked from a process that has torch loaded, so that a life takes a fifth of a second.

A child can be told to kill itself at its n-th moment.  Moments lie between every two things it does to files of its
run: opening, filling, syncing, renaming and removing one, and writing a record; in each evaluation; and before and
after videos are judged between two rounds.
"""

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests import forks
from tests.train.standins import TinyMethod, run_training
from train.config import Config
from train.metrics import MetricsLog
from train.scoring import Accuracy


def begin(config: Config, dies_at: int = 0, method_type: type[TinyMethod] = TinyMethod) -> BaseProcess:
    """Train in a child, or go on; it dies at a moment counted from 1, or lives."""
    return forks.begin(_live, config, dies_at, method_type)


def live(config: Config, dies_at: int = 0, method_type: type[TinyMethod] = TinyMethod) -> int:
    """The same, waited for.

    Returns:
        The exit status: -9 if it died.
    """
    process = begin(config, dies_at, method_type)
    process.join(60)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def num_moments(config: Config) -> int:
    """How many moments the last life had that ended well."""
    return int(_count_of(config).read_text())


def accuracy_at(step: int) -> Accuracy:
    """Rises and falls: some evaluations are the best so far and some are not."""
    return Accuracy((step * 7 % 5 + 1) / 10, 1.0, 0.5, 4)


def _count_of(config: Config) -> Path:
    return config.run.dir.with_suffix(".moments")


def _live(config: Config, dies_at: int, method_type: type[TinyMethod]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    count = 0

    def moment(last_act: Callable[[], object] = lambda: None) -> None:
        nonlocal count
        count += 1
        if count == dies_at:
            last_act()
            os.kill(os.getpid(), signal.SIGKILL)

    def evaluate(step: int) -> Accuracy:
        moment()
        return accuracy_at(step)

    _interpose(config.run.dir, moment)
    run_training(config, evaluate=evaluate, method_type=method_type, judging=moment)
    total, count = count, -1_000_000
    _count_of(config).write_text(str(total))


def _interpose(run_dir: Path, moment: Callable[..., None]) -> None:
    """Have ``moment`` called at the moments; this process is the child and will not be used for anything else."""

    def audit(event: str, args: tuple[Any, ...]) -> None:
        is_write = event in ("os.rename", "os.remove") or (event == "open" and args[1] in ("wb", "a"))
        if is_write and Path(os.fsdecode(args[0])).parent == run_dir:  # TensorBoard's are below, and of another thread
            moment()

    fsync, write = os.fsync, MetricsLog.write

    def fsync_(fd: Any) -> None:
        is_temporary = os.readlink(f"/proc/self/fd/{fd}").endswith(".tmp")
        moment(lambda: os.ftruncate(fd, os.fstat(fd).st_size // 2) if is_temporary else None)
        fsync(fd)

    def write_(self: MetricsLog, record: Any) -> None:
        assert self._file is not None
        file = self._file
        moment(lambda: os.write(file.fileno(), b'{"kind": "train", "st'))
        write(self, record)

    sys.addaudithook(audit)
    os.fsync = fsync_
    MetricsLog.write = write_  # type: ignore[method-assign]
