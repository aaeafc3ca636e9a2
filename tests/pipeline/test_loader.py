"""A batch depends on its step alone; streams are endless, complete, and stop cleanly."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.background import Background, read_ahead
from pipeline.batch import ClipBatch, Needs
from pipeline.datasets import DataSplit
from pipeline.errors import BadVideo, InputError, TooManyBadVideos
from pipeline.evaluation import center_views, multi_views, precise_bn_views
from pipeline.graph import ClipGraph, Sample
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipPlan, ClipSpec
from pipeline.record import VideoRecord
from pipeline.stream import ClipStream

SPEC = ClipSpec(clip_len=4, frame_stride=3, size=32, eval_size=40)
ALL = Needs(tg=True, unlabeled=True, strong=True)


def split_of(index: VideoIndex) -> DataSplit:
    labels = np.arange(len(index), dtype=np.int64) % 2
    labels[5] = -1
    return DataSplit(
        class_names=("left", "right"),
        labels=labels,
        labeled=np.array([0, 1, 4, 7]),
        unlabeled=np.arange(10),
        val=np.array([10, 11]),
    )


def make_loader(index: VideoIndex, needs: Needs = ALL, *, seed: int = 0, num_threads: int = 2) -> ClipLoader:
    return ClipLoader(
        index, split_of(index), needs, SPEC, batch_labeled=3, batch_unlabeled=4, seed=seed, num_threads=num_threads
    )


def tensors(batch: ClipBatch) -> list[torch.Tensor]:
    flat: list[torch.Tensor] = []
    for value in batch:
        parts = value if isinstance(value, tuple) else (value,)
        flat += [part.clone() for part in parts if part is not None]
    return flat


def take(loader: ClipLoader, num_batches: int) -> list[list[torch.Tensor]]:
    return [tensors(next(loader)) for _ in range(num_batches)]


def assert_same(one: list[list[torch.Tensor]], other: list[list[torch.Tensor]]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert len(a) == len(b)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def reference(small_index: VideoIndex) -> list[list[torch.Tensor]]:
    with make_loader(small_index, num_threads=1) as loader:
        return take(loader, 7)


@pytest.mark.parametrize("num_threads", [2, 4])
def test_batches_have_the_same_bits_for_any_number_of_threads(
    num_threads: int, small_index: VideoIndex, reference: list[list[torch.Tensor]]
) -> None:
    with make_loader(small_index, num_threads=num_threads) as loader:
        assert_same(take(loader, 7), reference)


@pytest.mark.parametrize("step", range(6))
def test_resuming_at_any_step_gives_the_same_bits(
    step: int, small_index: VideoIndex, reference: list[list[torch.Tensor]]
) -> None:
    with make_loader(small_index) as first:
        for _ in range(step):
            next(first)
        state = first.state_dict()
    assert state == {"step": step, "quarantine": {}}
    with make_loader(small_index) as second:
        next(second)  # a loader that has already run is taken back as well
        second.load_state_dict(state)
        assert_same(take(second, 2), reference[step : step + 2])


def test_another_seed_gives_other_batches(small_index: VideoIndex, reference: list[list[torch.Tensor]]) -> None:
    with make_loader(small_index, seed=1) as loader:
        assert not torch.equal(tensors(next(loader))[0], reference[0][0])


def test_batch_has_the_promised_shapes_and_labels(small_index: VideoIndex) -> None:
    split = split_of(small_index)
    with make_loader(small_index) as loader:
        assert loader.steps_per_epoch == 2
        batch = next(loader)
    assert batch.weak is not None
    assert batch.strong is not None
    assert batch.unlabeled_ids is not None
    assert batch.unlabeled_labels is not None
    for views, size in ((batch.labeled, 3), (batch.weak, 4), (batch.strong, 4)):
        for view in (views.rgb, views.of("tg")):
            assert view.shape == (size, 4, 32, 32, 3)
            assert view.dtype == torch.uint8
    assert batch.labels.tolist() == split.labels[batch.labeled_ids].tolist()
    assert batch.unlabeled_labels.tolist() == split.labels[batch.unlabeled_ids].tolist()
    assert set(batch.labeled_ids.tolist()) <= set(split.labeled.tolist())


def joined(of_rank: list[list[list[torch.Tensor]]]) -> list[list[torch.Tensor]]:
    """Global batches out of those of each rank."""
    return [[torch.cat(parts) for parts in zip(*batches, strict=True)] for batches in zip(*of_rank, strict=True)]


def of_ranks(index: VideoIndex, world_size: int, step: int, num_batches: int) -> list[list[torch.Tensor]]:
    """Batches of 12 + 12 clips put together from those of the ranks."""
    of_rank = []
    options: dict[str, Any] = {"batch_labeled": 12 // world_size, "batch_unlabeled": 12 // world_size, "seed": 0}
    for rank in range(world_size):
        ranks: dict[str, Any] = {"rank": rank, "world_size": world_size}
        with ClipLoader(index, split_of(index), Needs(tg=True, unlabeled=True), SPEC, **options, **ranks) as loader:
            loader.load_state_dict({"step": step, "quarantine": {}})
            of_rank.append(take(loader, num_batches))
    return joined(of_rank)


def test_any_number_of_ranks_draws_the_same_stream_and_may_change_when_resuming(small_index: VideoIndex) -> None:
    whole = of_ranks(small_index, 1, 0, 4)
    assert_same(of_ranks(small_index, 2, 0, 4), whole)
    assert_same(of_ranks(small_index, 3, 1, 2), whole[1:3])
    assert_same(of_ranks(small_index, 4, 3, 1), whole[3:])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_rank_has_as_many_steps_and_one_that_does_not_exist_is_refused(
    world_size: int, small_index: VideoIndex
) -> None:
    arguments: dict[str, Any] = {"batch_labeled": 1, "batch_unlabeled": 2, "seed": 0, "world_size": world_size}
    for rank in range(world_size):
        loader = ClipLoader(small_index, split_of(small_index), Needs(), SPEC, rank=rank, **arguments)
        assert loader.steps_per_epoch == 10 // (2 * world_size)
    for rank in (-1, world_size):
        with pytest.raises(InputError, match=f"rank is {rank} of {world_size}"):
            ClipLoader(small_index, split_of(small_index), Needs(), SPEC, rank=rank, **arguments)


def test_only_what_is_needed_is_made(small_index: VideoIndex) -> None:
    with make_loader(small_index, Needs()) as loader:
        batch = next(loader)
        assert loader.steps_per_epoch == 2, "epochs count unlabeled videos for every method"
    assert batch.weak is None
    assert batch.strong is None
    assert batch.unlabeled_ids is None
    assert batch.unlabeled_labels is None
    assert batch.labeled.tg is None
    with make_loader(small_index, Needs(unlabeled=True, strong=True)) as loader:
        batch = next(loader)
    assert batch.weak is not None
    assert batch.strong is not None
    assert batch.weak.tg is batch.strong.tg is None
    with make_loader(small_index, Needs(tg=True, unlabeled=True)) as loader:
        assert next(loader).strong is None


def test_every_epoch_visits_every_video_once_in_a_new_order(small_index: VideoIndex) -> None:
    stream = ClipStream(small_index, np.arange(10), SPEC, seed=0, name="unlabeled", batch_size=4)
    rows = [clip.row for step in range(25) for clip in stream.batch(step)]
    epochs = [rows[at : at + 10] for at in range(0, 100, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert stream.batch(3)[0].row == rows[12], "steps may be asked for in any order"


def test_streams_of_one_run_draw_different_crops(small_index: VideoIndex) -> None:
    streams = [
        ClipStream(small_index, np.arange(10), SPEC, seed=0, name=name, batch_size=10)
        for name in ("labeled", "unlabeled")
    ]
    plans = [{clip.row: clip.plan.box for clip in stream.batch(0)} for stream in streams]
    assert plans[0] != plans[1]


def test_dali_decoder_can_be_chosen_and_is_refused_where_it_cannot(small_index: VideoIndex) -> None:
    decodable = np.array([row for row in range(12) if small_index[row].codec in ("mjpeg", "vp8", "vp9")])
    split = DataSplit(("a",), np.zeros(12, np.int64), decodable[:3], decodable, decodable[:0])
    arguments: dict[str, Any] = {"batch_labeled": 2, "batch_unlabeled": 2, "seed": 0}
    with ClipLoader(small_index, split, ALL, SPEC, decoder="dali", **arguments) as loader:
        dali = next(loader)
    with ClipLoader(small_index, split, ALL, SPEC, decoder="ffmpeg", **arguments) as loader:
        ffmpeg = next(loader)
    assert torch.equal(dali.labeled_ids, ffmpeg.labeled_ids)
    luma = torch.tensor([0.299, 0.587, 0.114])  # colours of fine texture differ by how chroma is interpolated
    assert ((dali.labeled.rgb.float() - ffmpeg.labeled.rgb.float()) @ luma).abs().mean() < 1.5
    with pytest.raises(InputError, match=r"DALI cannot decode \d+ of 12 videos here \(.*codec"):
        ClipLoader(small_index, split_of(small_index), ALL, SPEC, decoder="dali", **arguments)
    with_val = DataSplit(
        ("a",), np.zeros(12, np.int64), decodable[:3], decodable, np.array([small_index.paths.index("left/07.avi")])
    )
    with pytest.raises(InputError, match=r"DALI cannot decode 1 of \d+ videos here \(left/07"):
        ClipLoader(small_index, with_val, ALL, SPEC, decoder="dali", **arguments)
    with pytest.raises(InputError, match="unknown decoder 'nvdec'"):
        ClipLoader(small_index, split_of(small_index), ALL, SPEC, decoder="nvdec", **arguments)


def test_no_thread_is_left_behind(small_index: VideoIndex) -> None:
    before = set(threading.enumerate())  # of other tests, which may end meanwhile
    loader = make_loader(small_index)
    next(loader)
    assert set(threading.enumerate()) - before
    loader.close()
    assert not set(threading.enumerate()) - before
    next(loader)
    del loader  # nobody has to remember to close it
    gc.collect()
    assert_all_end(before)


def assert_all_end(before: set[threading.Thread]) -> None:
    deadline = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left


def test_an_error_that_is_held_holds_no_thread(small_index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: ClipGraph, record: VideoRecord, plan: ClipPlan) -> Sample:
        raise BadVideo(record.path, "refused")

    monkeypatch.setattr(ClipGraph, "read", refuse)
    before = set(threading.enumerate())
    held: list[BaseException] = []
    for _ in range(3):
        with pytest.raises(TooManyBadVideos) as caught:
            next(make_loader(small_index))
        held.append(caught.value)
    monkeypatch.undo()

    def fail(graph: ClipGraph, samples: list[Sample]) -> Any:
        raise ValueError("no video is to blame")

    monkeypatch.setattr(ClipGraph, "run", fail)
    with pytest.raises(ValueError, match="no video") as broken:
        list(center_views(small_index, np.arange(12), SPEC, batch_size=2))
    held.append(broken.value)
    assert_all_end(before)


COLLECTED_BY_A_READER = """
import gc, threading
from pipeline.background import Background, read_ahead

gc.disable()
go, collected = threading.Event(), []

def read(item):
    if item > 0:
        go.wait()
        collected.append(gc.collect())
    return item

def batches():
    with_readers = read_ahead(([item] for item in range(100)), read, 2)
    for _, results in with_readers:
        yield results[0]()

before = threading.active_count()
loader = Background(batches())
loader.itself = loader
assert next(loader) == 0
del loader
go.set()
while threading.active_count() > before:
    threading.Event().wait(0.01)
assert any(collected)
"""

ENDS_WITH_THE_INTERPRETER = """
import time
from pipeline.background import Background

def work():
    try:
        while True:
            time.sleep(0.1)
            yield 1
    finally:
        time.sleep(0.1)
        print("ended", flush=True)

results = Background(work())
next(results)
"""


def run_alone(program: str) -> str:
    """In a process of its own, so that threads which wait for each other can be got rid of."""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_loader_collected_in_one_of_its_own_readers_ends_its_threads() -> None:
    run_alone(COLLECTED_BY_A_READER)


def test_the_interpreter_waits_for_the_thread_when_it_exits() -> None:
    assert run_alone(ENDS_WITH_THE_INTERPRETER) == "ended\n"


def test_errors_of_the_background_arrive_where_the_result_was_due() -> None:
    def generate() -> Iterator[int]:
        yield 1
        raise ValueError("three")

    results = Background(generate())
    assert next(results) == 1
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert list(Background(iter([1, 2, 3]))) == [1, 2, 3]


def test_reading_ahead_keeps_the_order() -> None:
    def slow_if_even(item: int) -> int:
        time.sleep(0.01 * (item % 2 == 0))
        return item * 10

    batches = [[1, 2], [3], [4, 5, 6], [7], [8]]
    read = [(batch, [result() for result in results]) for batch, results in read_ahead(iter(batches), slow_if_even, 3)]
    assert read == [(batch, [10 * i for i in batch]) for batch in batches]


def test_evaluation_shows_every_video_once_in_order(small_index: VideoIndex) -> None:
    rows = np.array([3, 0, 11, 7, 5])
    batches = list(center_views(small_index, rows, SPEC, batch_size=2, tg=True))
    assert [ids.tolist() for ids, _ in batches] == [[3, 0], [11, 7], [5]]
    for ids, views in batches:
        assert views.rgb.shape == (len(ids), 4, 32, 32, 3)
        assert views.tg is not None
        assert views.tg.shape == views.rgb.shape


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_evaluation_shows_every_video_on_exactly_one_rank(world_size: int, small_index: VideoIndex) -> None:
    rows = np.array([3, 0, 11, 7, 5])
    shares: list[list[int]] = []
    for rank in range(world_size):
        ranks: dict[str, Any] = {"rank": rank, "world_size": world_size}
        batches = center_views(small_index, rows, SPEC, batch_size=2, **ranks)
        shares.append([row for ids, _ in batches for row in ids.tolist()])
        if world_size == 4:
            assert [row for row, _ in multi_views(small_index, rows, SPEC, **ranks)] == shares[-1]
    assert sorted(row for share in shares for row in share) == sorted(rows.tolist())
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_precise_bn_shows_shuffled_centre_clips_alike_for_any_number_of_ranks(small_index: VideoIndex) -> None:
    rows = np.arange(10)

    def views(pass_number: int, batch_size: int, **ranks: Any) -> list[list[torch.Tensor]]:
        options: dict[str, Any] = {"seed": 0, "pass_number": pass_number, "batch_size": batch_size, "num_batches": 4}
        batches = precise_bn_views(small_index, rows, SPEC, **options, **ranks)
        return [[ids, views.rgb.clone()] for ids, views in batches]

    whole = views(0, 6)
    assert [len(ids) for ids, _ in whole] == [6] * 4
    order = torch.cat([ids for ids, _ in whole]).tolist()
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10)), "every video once before one comes again"
    assert order[:10] != order[10:20]
    assert_same(views(0, 6), whole)
    assert_same(joined([views(0, 2, rank=rank, world_size=3) for rank in range(3)]), whole)
    assert torch.cat([ids for ids, _ in views(1, 6)]).tolist() != order
    (center,) = center_views(small_index, rows, SPEC, batch_size=10)
    for ids, clips in whole:
        assert torch.equal(clips, center[1].rgb[ids])


def test_precise_bn_shows_temporal_gradients_where_asked_for(small_index: VideoIndex) -> None:
    rows = np.arange(10)
    ((_, center),) = center_views(small_index, rows, SPEC, batch_size=10, tg=True)
    options: dict[str, Any] = {"seed": 0, "pass_number": 0, "batch_size": 6, "num_batches": 2}
    assert center.tg is not None
    for ids, views in precise_bn_views(small_index, rows, SPEC, **options, tg=True):
        assert views.tg is not None
        assert torch.equal(views.tg, center.tg[ids])
        assert torch.equal(views.rgb, center.rgb[ids])


def test_multi_views_are_ten_clips_of_three_crops_of_the_same_frames(small_index: VideoIndex) -> None:
    rows = np.array([8, 2])
    for expected_row, (row, views) in zip(rows, multi_views(small_index, rows, SPEC), strict=True):
        assert row == expected_row
        assert views.tg is None
        assert views.rgb.shape == (30, 4, 40, 40, 3)
        first_end, other_end, middle = views.rgb[0], views.rgb[1], views.rgb[2]
        step = (views_width(small_index, row) - 40) // 2
        assert step > 0
        assert torch.equal(first_end[:, :, step:], middle[:, :, : 40 - step])
        assert torch.equal(middle[:, :, step:], other_end[:, :, : 40 - step])


def views_width(index: VideoIndex, row: int) -> int:
    width, height = index[row].display_size
    return int(width * SPEC.eval_size / height + 0.5)


def test_thirty_views_take_one_decode_a_video(small_index: VideoIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    read = ClipGraph.read

    def note(self: ClipGraph, record: VideoRecord, plan: ClipPlan) -> Sample:
        decoded.append(record.path)
        return read(self, record, plan)

    monkeypatch.setattr(ClipGraph, "read", note)
    rows = np.arange(5)
    for _, views in multi_views(small_index, rows, SPEC):
        assert len(views.rgb) == 30
    assert decoded == [small_index[row].path for row in rows.tolist()]
