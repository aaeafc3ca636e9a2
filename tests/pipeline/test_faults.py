"""A video that goes bad costs no step, is named, and leaves a stream that can be replayed to the bit."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.soak import (
    damage_packets,
    delete,
    empty,
    forbid,
    overwrite,
    replace_by_a_folder,
    replace_by_a_page,
    truncate,
)
from pipeline.background import READER
from pipeline.batch import ClipBatch, Needs
from pipeline.datasets import DataSplit
from pipeline.errors import BadVideo, InputError, TooManyBadVideos
from pipeline.evaluation import center_views, multi_views, precise_bn_views
from pipeline.graph import ClipGraph, Sample
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipPlan, ClipSpec, epoch_order, plan_clip
from pipeline.quarantine import Quarantine
from pipeline.record import VideoRecord
from pipeline.stream import ClipStream

SPEC = ClipSpec(clip_len=4, frame_stride=3, size=32, eval_size=40)
NEEDS = Needs(unlabeled=True)
NUM_STEPS = 6
Batches = list[tuple[torch.Tensor, ...]]


@pytest.fixture(scope="module")
def copies(small_index: VideoIndex, tmp_path_factory: pytest.TempPathFactory) -> VideoIndex:
    root = tmp_path_factory.mktemp("copies") / "videos"
    shutil.copytree(small_index.root, root)
    return VideoIndex.build(root, num_workers=1, progress=False)


@pytest.fixture
def index(copies: VideoIndex, small_index: VideoIndex) -> Iterator[VideoIndex]:
    """Videos that a test may damage; they are whole again for the next."""
    yield copies
    shutil.rmtree(copies.root)
    shutil.copytree(small_index.root, copies.root)


@pytest.fixture(scope="module")
def rows(copies: VideoIndex) -> np.ndarray:
    """Videos that both decoders take."""
    return np.array([row for row in range(len(copies)) if copies[row].codec in ("mjpeg", "vp8", "vp9")])


def make_loader(index: VideoIndex, rows: np.ndarray, **changes: Any) -> ClipLoader:
    split = DataSplit(("a", "b"), np.arange(len(index)) % 2, rows[:4], rows, rows[:0])
    options: dict[str, Any] = {"batch_labeled": 2, "batch_unlabeled": 4, "seed": 0, "max_bad_fraction": 0.5}
    return ClipLoader(index, split, NEEDS, SPEC, **options | changes)


def tensors(batch: ClipBatch) -> tuple[torch.Tensor, ...]:
    assert batch.weak is not None and batch.unlabeled_ids is not None and batch.unlabeled_labels is not None
    parts = (batch.labeled_ids, batch.unlabeled_ids, batch.labels, batch.unlabeled_labels)
    return (*parts, batch.labeled.rgb.clone(), batch.weak.rgb.clone())


def take(loader: ClipLoader, num_steps: int) -> Batches:
    return [tensors(next(loader)) for _ in range(num_steps)]


def same(one: Batches, other: Batches) -> bool:
    flat = [[part for batch in batches for part in batch] for batches in (one, other)]
    return len(flat[0]) == len(flat[1]) and all(map(torch.equal, *flat))


def link_to_itself(path: Path, record: VideoRecord) -> None:
    path.unlink()
    path.symlink_to(path)


KINDS: list[Callable[[Path, VideoRecord], None]] = [
    *(delete, truncate, empty, overwrite, replace_by_a_page, replace_by_a_folder, link_to_itself, forbid),
    damage_packets,
]


def damage(index: VideoIndex, row: int, kind: Callable[[Path, VideoRecord], None] = delete) -> None:
    if kind is forbid and os.geteuid() == 0:
        pytest.skip("root may read everything")
    kind(index.root / index.paths[row], index[row])


@pytest.fixture(scope="module")
def references(copies: VideoIndex, rows: np.ndarray) -> dict[str, Batches]:
    """What the loader delivers of whole videos, by decoder."""
    batches = {}
    for decoder in ("ffmpeg", "dali"):
        with make_loader(copies, rows, decoder=decoder) as loader:
            batches[decoder] = take(loader, NUM_STEPS)
    return batches


@pytest.mark.parametrize("decoder", ["ffmpeg", "dali"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_bad_video_is_replaced_named_and_left_out(
    kind: Callable[[Path, VideoRecord], None],
    decoder: str,
    index: VideoIndex,
    rows: np.ndarray,
    references: dict[str, Batches],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = int(rows[1])  # in both streams
    damage(index, bad, kind)
    with make_loader(index, rows, decoder=decoder) as loader:
        found = take(loader, NUM_STEPS)
        state = loader.state_dict()
    for ours, whole in zip(found, references[decoder], strict=True):
        for ids, clips in ((0, 4), (1, 5)):
            hit = whole[ids] == bad
            assert not (ours[ids] == bad).any()
            assert torch.equal(ours[ids][~hit], whole[ids][~hit])
            assert torch.equal(ours[clips][~hit], whole[clips][~hit])
            assert torch.equal(ours[ids + 2], ours[ids] % 2), "labels are those of the substitute"
    path = index.paths[bad]
    first = next(step for step, batch in enumerate(references[decoder]) if bad in torch.cat(batch[:2]))
    assert list(state["quarantine"]) == [path]
    step, reason = state["quarantine"][path]
    assert step == first
    assert [record.getMessage() for record in caplog.records] == [f"{path} is left out from step {step} on: {reason}"]


def test_batches_with_bad_videos_have_the_same_bits_for_any_number_of_threads(
    index: VideoIndex, rows: np.ndarray
) -> None:
    for row, kind in zip(rows[[0, 3, 5]].tolist(), (delete, damage_packets, empty), strict=True):
        damage(index, row, kind)
    found = []
    for num_threads in (1, 2, 4):
        with make_loader(index, rows, num_threads=num_threads) as loader:
            found.append((take(loader, NUM_STEPS), loader.state_dict()))
    assert len(found[0][1]["quarantine"]) == 3
    for batches, state in found[1:]:
        assert same(batches, found[0][0])
        assert state == found[0][1]


def test_replay_with_the_saved_quarantine_has_the_same_bits_wherever_it_starts(
    index: VideoIndex, small_index: VideoIndex, rows: np.ndarray
) -> None:
    bad = int(rows[1])
    states, found = [], []
    with make_loader(index, rows) as loader:
        for step in range(3 * NUM_STEPS):
            if step == 2:
                damage(index, bad)
            states.append(loader.state_dict())
            found += take(loader, 1)
        last = loader.state_dict()
        failed_at = last["quarantine"][index.paths[bad]][0]
        assert failed_at >= 2
        assert all((index.paths[bad] in state["quarantine"]) == (state["step"] > failed_at) for state in states)
        json.dumps(last)
        for step in (failed_at, failed_at + 1, 2 * NUM_STEPS):
            loader.load_state_dict(json.loads(json.dumps(states[step])))
            assert same(take(loader, 3), found[step : step + 3])
        shutil.copy2(small_index.root / index.paths[bad], index.root / index.paths[bad])
        for step in (0, failed_at, failed_at + 1):
            loader.load_state_dict({**last, "step": step})
            assert same(take(loader, 3), found[step : step + 3])


def test_a_state_that_leaves_out_an_unknown_video_is_refused(index: VideoIndex, rows: np.ndarray) -> None:
    loader = make_loader(index, rows)
    with pytest.raises(InputError, match=r"left/99\.mp4, which is not in the index"):
        loader.load_state_dict({"step": 2, "quarantine": {"left/99.mp4": [1, "gone"]}})


def test_the_substitute_is_the_next_good_video_of_the_epoch_planned_for_the_same_place(index: VideoIndex) -> None:
    arguments: dict[str, Any] = {"seed": 3, "name": "unlabeled", "batch_size": 12}
    quarantine = Quarantine(index.paths, 12, 1.0)
    whole = ClipStream(index, np.arange(12), SPEC, **arguments)
    stream = ClipStream(index, np.arange(12), SPEC, **arguments, quarantine=quarantine)
    order = epoch_order(stream.seed, 1, 12).tolist()
    quarantine.add({order[4]: "gone", order[11]: "gone"}, step=1)
    quarantine.add({order[5]: "gone"}, step=2)
    assert [clip.row for clip in stream.batch(0)] == [clip.row for clip in whole.batch(0)], "not before it failed"
    expected = order.copy()
    expected[4], expected[11] = order[5], order[0]
    assert [clip.row for clip in stream.batch(1)] == expected
    quarantine.add({order[0]: "gone"}, step=1)
    assert stream.batch(1)[11].row == order[1]
    plan, expected_plan = stream.batch(1)[11].plan, plan_clip(index[order[1]], SPEC, stream.seed, 1, 11)
    assert plan.box == expected_plan.box
    assert np.array_equal(plan.frames, expected_plan.frames)


def test_too_many_bad_videos_end_the_stream_with_a_list(index: VideoIndex, rows: np.ndarray) -> None:
    for row in rows[:3].tolist():
        damage(index, row)
    with make_loader(index, rows, max_bad_fraction=0.25) as loader, pytest.raises(TooManyBadVideos) as caught:
        take(loader, 20)
    assert set(caught.value.bad) == {index.paths[row] for row in rows[:3]}
    lines = str(caught.value).splitlines()
    assert lines[0] == (f"3 of {len(rows)} videos have gone bad: restore them, or raise max_bad_fraction, now 0.25")
    assert lines[1:] == [f"  {path}: {reason}" for path, reason in sorted(caught.value.bad.items())]


def test_one_bad_video_is_always_tolerated_but_not_the_last(index: VideoIndex, rows: np.ndarray) -> None:
    damage(index, int(rows[1]))
    with make_loader(index, rows, max_bad_fraction=0.0) as loader:
        take(loader, NUM_STEPS)
        assert list(loader.quarantined) == [index.paths[rows[1]]]
    split = DataSplit(("a",), np.zeros(len(index), np.int64), rows[1:2], rows[1:2], rows[:0])
    loader = ClipLoader(index, split, Needs(), SPEC, batch_labeled=1, batch_unlabeled=1, seed=0)
    with loader, pytest.raises(TooManyBadVideos, match="none is left to show"):
        next(loader)
    with pytest.raises(InputError, match="max_bad_fraction is 2"):
        make_loader(index, rows, max_bad_fraction=2)


def test_a_failure_of_dali_without_a_culprit_is_raised_as_it_is(
    index: VideoIndex, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ClipGraph.run

    def fail(graph: ClipGraph, samples: list[Sample]) -> Any:
        if len(samples) > 1:
            raise RuntimeError("out of memory")
        return run(graph, samples)

    monkeypatch.setattr(ClipGraph, "run", fail)
    for decoder in ("dali", "ffmpeg"):
        with make_loader(index, rows, decoder=decoder) as loader:
            with pytest.raises(RuntimeError, match=r"^out of memory$"):
                next(loader)
            assert loader.state_dict() == {"step": 0, "quarantine": {}}


@pytest.mark.parametrize("error", [SystemExit(), MemoryError("no memory"), KeyError("x")], ids=repr)
def test_a_dead_reading_thread_costs_nothing(
    error: BaseException,
    index: VideoIndex,
    rows: np.ndarray,
    references: dict[str, Batches],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    read = ClipGraph.read

    def die(graph: ClipGraph, record: VideoRecord, plan: ClipPlan) -> Sample:
        if threading.current_thread().name.startswith(READER):
            raise error
        return read(graph, record, plan)

    monkeypatch.setattr(ClipGraph, "read", die)
    with make_loader(index, rows) as loader:
        assert same(take(loader, 2), references["ffmpeg"][:2])
        assert not loader.quarantined
    assert f"a reading thread failed ({type(error).__name__}" in caplog.text


def test_threads_that_cannot_be_started_cost_nothing(
    index: VideoIndex, rows: np.ndarray, references: dict[str, Batches], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    with make_loader(index, rows) as loader:
        assert same(take(loader, 2), references["ffmpeg"][:2])


def test_an_error_that_no_video_is_to_blame_for_is_raised_as_it_is(
    index: VideoIndex, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(graph: ClipGraph, record: VideoRecord, plan: ClipPlan) -> Sample:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(ClipGraph, "read", fail)
    with make_loader(index, rows) as loader, pytest.raises(ZeroDivisionError, match="a bug"):
        next(loader)


@pytest.mark.parametrize("decoder", ["ffmpeg", "dali"])
def test_evaluation_leaves_bad_videos_out_and_names_them_once(
    decoder: str, index: VideoIndex, rows: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    whole = dict(multi_views(index, rows, SPEC, decoder=decoder))
    bad = rows[[0, 2, 3]].tolist()
    for row, kind in zip(bad, (damage_packets, delete, empty), strict=True):
        damage(index, row, kind)
    skipped: dict[str, str] = {}
    left = [row for row in rows.tolist() if row not in bad]
    for _ in range(2):
        batches = list(center_views(index, rows, SPEC, batch_size=2, decoder=decoder, skipped=skipped))
        assert [row for ids, _ in batches for row in ids.tolist()] == left
        assert all(len(ids) == len(views.rgb) for ids, views in batches)
    found = dict(multi_views(index, rows, SPEC, decoder=decoder, skipped=skipped))
    assert list(found) == left
    assert all(torch.equal(found[row].rgb, whole[row].rgb) for row in left)
    assert sorted(skipped) == sorted(index.paths[row] for row in bad)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 3


def test_precise_bn_replaces_bad_videos(index: VideoIndex, rows: np.ndarray) -> None:
    damage(index, int(rows[0]))
    batches = list(
        precise_bn_views(index, rows, SPEC, seed=0, pass_number=0, batch_size=3, num_batches=7, max_bad_fraction=0.5)
    )
    assert [len(views.rgb) for _, views in batches] == [3] * 7
    assert int(rows[0]) not in torch.cat([ids for ids, _ in batches])


def test_a_video_whose_record_is_damaged_is_a_bad_video(
    index: VideoIndex, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, record_of = int(rows[1]), VideoIndex.__getitem__

    def damaged(index: VideoIndex, row: int) -> VideoRecord:
        if row == bad:
            raise BadVideo(index.paths[row], "its packet table is damaged")
        return record_of(index, row)

    monkeypatch.setattr(VideoIndex, "__getitem__", damaged)
    with make_loader(index, rows, decoder="ffmpeg") as loader:
        take(loader, NUM_STEPS)
        assert loader.quarantined == {index.paths[bad]: "its packet table is damaged"}
    shown = [row for ids, _ in center_views(index, rows, SPEC, batch_size=3) for row in ids.tolist()]
    assert shown == [row for row in rows.tolist() if row != bad]
    batches = precise_bn_views(index, rows, SPEC, seed=0, pass_number=0, batch_size=8, num_batches=2)
    assert all(bad not in ids for ids, _ in batches)


def test_bad_videos_leak_no_files(index: VideoIndex, rows: np.ndarray) -> None:
    def count(loader: ClipLoader) -> int:
        take(loader, 1)
        return len(os.listdir("/proc/self/fd"))

    with make_loader(index, rows, decoder="dali") as loader:
        before = max(count(loader) for _ in range(10))  # each reader has a file open now and then
        for row, kind in zip(rows[[0, 1, 2]].tolist(), (delete, damage_packets, replace_by_a_folder), strict=True):
            damage(index, row, kind)
        after = [count(loader) for _ in range(20)]
        assert len(loader.quarantined) == 3
        assert min(after[10:]) <= before
