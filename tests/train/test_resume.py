"""Killed at any moment, a training goes on from its newest whole checkpoint as if nothing had happened."""

import random
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.resume import numbers, same
from tests.train.crashes import begin, live, num_moments
from tests.train.standins import make_config, with_run
from train.checkpoint import BEST, LAST, load
from train.config import Config
from train.metrics import METRICS_FILE

KILLED = -9
NUM_KILLS = 20


def make_config_with_checkpoints(run_dir: Path, **run: object) -> Config:
    """Many epochs of three steps, evaluated after each second, with a checkpoint every two steps."""
    config = with_run(make_config(run_dir), checkpoint_every=2, log_every=1, **run)
    return replace(config, optim=replace(config.optim, epochs=100))


def assert_checkpoints_are_whole(run_dir: Path) -> int:
    """Whatever checkpoint is there loads; returns the step that training goes on from."""
    if (run_dir / BEST).exists():
        load(run_dir / BEST)
    return int(load(run_dir / LAST)["step"]) if (run_dir / LAST).exists() else 0


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert numbers(ours) == numbers(theirs)
    for name in (LAST, BEST):
        assert same(load(ours / name), load(theirs / name)), name
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}


def test_death_between_any_two_writes_changes_nothing(tmp_path: Path) -> None:
    straight = make_config_with_checkpoints(tmp_path / "straight", max_steps=4, eval_every_epochs=1)
    assert live(straight) == 0
    total = num_moments(straight)
    assert total > 30
    for moment in range(1, total + 1):
        config = make_config_with_checkpoints(tmp_path / f"dies{moment}", max_steps=4, eval_every_epochs=1)
        assert live(config, dies_at=moment) == KILLED, moment
        assert_checkpoints_are_whole(config.run.dir)
        assert live(config) == 0, moment
        assert_same_run(config.run.dir, straight.run.dir)


def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    straight, config = (make_config_with_checkpoints(tmp_path / name) for name in ("straight", "killed"))
    assert live(straight) == 0
    rng = random.Random(0)
    steps: list[int] = []
    num_while_writing = 0
    for _ in range(NUM_KILLS):
        before = _inode(config.run.dir / METRICS_FILE)
        process = begin(config)
        while _inode(config.run.dir / METRICS_FILE) == before:  # rewritten at the begin of each life
            time.sleep(0.001)
        if rng.random() < 0.3:
            while not (config.run.dir / f"{LAST}.tmp").exists():
                pass
        else:  # a while after the first record, which a busy machine may keep waiting for
            kept = _num_records(config)
            while _num_records(config) == kept:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == KILLED, f"done after {len(steps)} kills"
        num_while_writing += any(config.run.dir.glob("*.pt.tmp"))
        steps.append(assert_checkpoints_are_whole(config.run.dir))
    assert steps == sorted(steps)
    assert len(set(steps)) >= 4, "kills that come too early show nothing"
    assert num_while_writing >= 1
    assert live(config) == 0
    assert_same_run(config.run.dir, straight.run.dir)


def _num_records(config: Config) -> int:
    return (config.run.dir / METRICS_FILE).read_bytes().count(b"\n")


def _inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0
