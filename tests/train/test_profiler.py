"""A profiled run computes the same bits, and leaves a trace in which all threads share a clock."""

import gzip
import json
import os
import signal
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipeline.background import PRODUCER, READER
from pipeline.batch import ClipBatch
from pipeline.ranges import AWAIT_CLIPS, DECODE, HAND_OVER, PLAN, READ, VIEWS, named, recording
from tests.train.method_cases import make_batch, make_method
from tests.train.standins import TinyLoader, make_config, run_training, with_run
from tests.train.test_step import Stepper, assert_same_bits
from train.bottleneck import CHECKPOINT, LOG, STEP, WAIT
from train.checkpoint import LAST, load
from train.config import Config
from train.methods import METHODS
from train.profiler import TRACE, gpu_share
from train.stop import Stopped

STEPPED = {"forward and losses", "backward", "clip gradients", "optimizer"}
TOLERANCE_US = 1000.0


def profiled(run_dir: Path, **changes: Any) -> Config:
    return with_run(make_config(run_dir), profile=True, eval_every_epochs=3, **changes)


def ranges(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The ranges of a trace by name, in order."""
    trace = json.loads(gzip.decompress((run_dir / TRACE).read_bytes()))
    found = defaultdict(list)
    for event in trace["traceEvents"]:
        if event.get("cat") in ("user_annotation", "loader"):
            found[event["name"]].append(event)
    return {name: sorted(events, key=lambda event: event["ts"]) for name, events in found.items()}


def rows(run_dir: Path) -> dict[int, str]:
    """Names of the trace's threads, by number."""
    trace = json.loads(gzip.decompress((run_dir / TRACE).read_bytes()))
    return {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}


class ThreadedLoader(TinyLoader):
    """Makes each batch in a thread while the step waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPoolExecutor(1, thread_name_prefix=READER)

    def __next__(self) -> ClipBatch:
        return self.pool.submit(self.make).result()

    def make(self) -> ClipBatch:
        with named(DECODE):
            return super().__next__()


def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
    end, outer_end = inner["ts"] + inner["dur"], outer["ts"] + outer["dur"]
    return bool(outer["ts"] - TOLERANCE_US <= inner["ts"] and end <= outer_end + TOLERANCE_US)


def test_threads_of_the_loader_are_rows_of_their_own_on_the_clock_of_the_step(tmp_path: Path) -> None:
    loader = ThreadedLoader()
    run_training(profiled(tmp_path, checkpoint_every=2), loader)
    found = ranges(tmp_path)
    assert {STEP, WAIT, DECODE, LOG, CHECKPOINT} | STEPPED <= found.keys()
    # Four of nine steps warm up.
    assert [len(found[name]) for name in (STEP, WAIT, DECODE, "backward")] == [5] * 4
    for step, wait, decode, backward in zip(found[STEP], found[WAIT], found[DECODE], found["backward"], strict=True):
        assert within(decode, wait), "the clocks differ"
        assert within(wait, step) and within(backward, step)
        assert backward["ts"] > wait["ts"] + wait["dur"]
        assert decode["tid"] != wait["tid"] == backward["tid"] == os.getpid()
    assert rows(tmp_path)[found[DECODE][0]["tid"]] == f"loader: {READER}_0"


def test_profiled_runs_compute_the_same_bits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_training(profiled(tmp_path / "with"), ThreadedLoader())
    printed, complaints = capfd.readouterr()
    run_training(with_run(make_config(tmp_path / "without"), eval_every_epochs=3), ThreadedLoader())
    assert_same_bits(load(tmp_path / "with" / LAST), load(tmp_path / "without" / LAST))
    assert "the time of 5 steps" in printed
    assert "-bound: " in printed
    assert str(tmp_path / "with" / TRACE) in printed
    assert complaints == ""
    assert "-bound: " not in capfd.readouterr().out
    assert not (tmp_path / "without" / TRACE).exists()
    assert {path.name for path in (tmp_path / "with").iterdir()} - {TRACE} == {
        path.name for path in (tmp_path / "without").iterdir()
    }


def stop_now(step: int) -> None:
    if step == 6:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("changes", "before", "error", "num_steps"),
    [
        ({"max_steps": 1}, None, None, 1),
        ({"max_steps": 5}, None, None, 3),
        ({}, stop_now, Stopped, 3),  # it is answered after the step in whose wait it came
        ({"eval_every_epochs": 2}, None, None, 2),  # evaluations are none of its business
    ],
    ids=["one step", "few steps", "Ctrl-C", "an evaluation"],
)
def test_a_window_cut_short_shows_what_it_has(
    tmp_path: Path,
    changes: dict[str, Any],
    before: Callable[[int], None] | None,
    error: type[Exception] | None,
    num_steps: int,
) -> None:
    with pytest.raises(error) if error else nullcontext():
        run_training(with_run(profiled(tmp_path), **changes), TinyLoader(before or (lambda step: None)))
    assert len(ranges(tmp_path)[STEP]) == num_steps
    assert load(tmp_path / LAST)["step"] == changes.get("max_steps", 7 if error else 9)


def test_training_goes_on_after_the_window_and_what_follows_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.profiler._SKIPPED", 2)
    monkeypatch.setattr("train.profiler._NUM_STEPS", 3)
    seen: list[tuple[int, bool]] = []
    run_training(profiled(tmp_path), TinyLoader(lambda step: seen.append((step, (tmp_path / TRACE).exists()))))
    assert seen == [(step, step >= 5) for step in range(9)]
    assert len(ranges(tmp_path)[STEP]) == 3


def test_a_trace_that_cannot_be_written_costs_no_step_and_hides_no_other_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.profiler.open_whole", full)
    with pytest.raises(OSError, match="No space left"):
        run_training(profiled(tmp_path / "full"))
    with pytest.raises(Stopped):
        run_training(profiled(tmp_path / "stopped"), TinyLoader(stop_now))
    assert [load(tmp_path / name / LAST)["step"] for name in ("full", "stopped")] == [9, 7]
    assert not list(tmp_path.rglob("*.tmp"))


def test_resumed_runs_may_be_profiled_or_not(tmp_path: Path) -> None:
    run_training(profiled(tmp_path, max_steps=4))
    (tmp_path / TRACE).unlink()
    run_training(make_config(tmp_path))
    assert not (tmp_path / TRACE).exists()


@pytest.mark.parametrize("name", METHODS)
def test_an_eager_step_shows_networks_and_losses(name: str) -> None:
    switch = {"split_batches": True} if hasattr(METHODS[name].config_type, "split_batches") else {}
    method = make_method(name, **switch)
    step = Stepper(method)
    with recording(nullcontext) as spans:
        step(make_batch(method))
    networks = {f"forward {modality}" for modality in method.networks}
    assert {span.name for span in spans} == STEPPED | networks | {"losses"}


def test_a_profile_of_the_program_has_every_station(finished: Path) -> None:
    run = finished / "run"
    found = ranges(run)
    stations = {PLAN, READ, DECODE, AWAIT_CLIPS, VIEWS, HAND_OVER, WAIT, "forward rgb", "forward tg", "losses"}
    assert stations | STEPPED <= found.keys()
    assert {f"loader: {PRODUCER}", f"loader: {READER}_0"} <= set(rows(run).values())
    start, stop = found[STEP][0]["ts"], found[STEP][-1]["ts"] + found[STEP][-1]["dur"]
    assert all(start < (event["ts"] + event["dur"]) <= stop + TOLERANCE_US for event in found[DECODE])
    assert "forward tg" not in ranges(run / "supervised")


def work(category: str, start: float, stop: float) -> dict[str, Any]:
    name = STEP if category == "user_annotation" else "any"
    return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": stop - start}


def test_the_gpu_works_while_anything_runs_on_it_within_the_steps() -> None:
    steps = [work("user_annotation", 100, 200), work("user_annotation", 200, 300)]
    other = [work("cpu_op", 100, 300), {"ph": "M", "name": "thread_name"}]
    kernels = [
        work("kernel", 90, 110),
        work("kernel", 105, 120),
        work("gpu_memcpy", 150, 160),
        work("kernel", 290, 390),
    ]
    assert gpu_share([*steps, *other, *kernels]) == pytest.approx((20 + 10 + 10) / 200)
    assert gpu_share([*steps, *other, work("kernel", 100, 200), work("kernel", 120, 130)]) == pytest.approx(0.5)
    assert gpu_share([*steps, *other]) is None
