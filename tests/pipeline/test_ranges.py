"""Ranges are recorded in every thread while somebody records, and cost nothing otherwise."""

import threading
import time
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.background import PRODUCER, READER
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipSpec
from pipeline.ranges import (
    AWAIT_CLIPS,
    DECODE,
    DECODE_AND_VIEWS,
    HAND_OVER,
    PLAN,
    READ,
    VIEWS,
    Span,
    named,
    recording,
)
from tests.pipeline.test_loader import ALL, split_of, take


def test_ranges_tell_time_and_cpu_time_of_their_own_thread() -> None:
    def work() -> None:
        with named("outer"), named("busy"):
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                pass

    with recording(nullcontext) as spans:
        thread = threading.Thread(target=work, name="worker")
        thread.start()
        with named("asleep"):
            thread.join()
    found = {span.name: span for span in spans}
    assert [found[name].thread for name in ("outer", "busy", "asleep")] == ["worker", "worker", "MainThread"]
    assert found["asleep"].thread_id == threading.get_native_id() != found["busy"].thread_id
    assert found["outer"].start_ns <= found["busy"].start_ns < found["busy"].stop_ns <= found["outer"].stop_ns
    assert found["busy"].cpu_ns >= 0.02e9
    assert found["asleep"].cpu_ns < 0.01e9


def test_what_nobody_records_or_records_no_more_is_kept_nowhere() -> None:
    assert named("one") is named("another"), "a range costs an object though nobody records"
    before = named("before")
    with recording(nullcontext) as spans:
        with before, named("whole"):
            pass
        late = named("late")
        late.__enter__()
    so_far = list(spans)
    late.__exit__(None, None, None)
    with recording(nullcontext) as others, named("next"):
        pass
    assert [span.name for span in so_far] == ["whole"]
    assert [span.name for span in others] == ["next"]


def test_ranges_are_shown_to_another_tool_too_and_end_with_an_error() -> None:
    entered: list[str] = []

    def mark(name: str) -> "nullcontext[None]":
        entered.append(name)
        return nullcontext()

    with recording(mark) as spans, pytest.raises(ValueError, match="no"), named("fails"):
        raise ValueError("no")
    assert entered == [span.name for span in spans] == ["fails"]


@pytest.mark.parametrize(
    ("decoder", "reading", "batching"),
    [("ffmpeg", {READ, DECODE}, VIEWS), ("dali", {READ}, DECODE_AND_VIEWS)],
)
def test_every_station_of_the_loader_is_a_range_and_batches_stay_the_same(
    small_index: VideoIndex, decoder: str, reading: set[str], batching: str
) -> None:
    def batches() -> list[list[torch.Tensor]]:
        rows = np.array([row for row in range(len(small_index)) if small_index[row].codec in ("mjpeg", "vp8")])
        split = replace(split_of(small_index), labeled=rows, unlabeled=rows, val=rows[:0])
        spec = ClipSpec(clip_len=4, frame_stride=3, size=32, eval_size=40)
        with ClipLoader(
            small_index, split, ALL, spec, batch_labeled=2, batch_unlabeled=2, seed=0, decoder=decoder
        ) as loader:
            return take(loader, 4)

    plain = batches()
    with recording(nullcontext) as spans:
        recorded = batches()
    for one, other in zip(plain, recorded, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert _names(spans, PRODUCER) == {PLAN, AWAIT_CLIPS, batching, HAND_OVER}
    assert _names(spans, READER) == reading


def _names(spans: list[Span], thread: str) -> set[str]:
    return {span.name for span in spans if span.thread.startswith(thread)}
