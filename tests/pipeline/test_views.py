"""Views beyond the weak and the strong one: second and slow clips, rotated ones, crops of each modality's own, flow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batch import ClipBatch, Needs, Views
from pipeline.datasets import DataSplit
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.noise import noise_batch
from pipeline.plan import ClipSpec
from pipeline.video_scores import NUM_SCORES, write_video_scores
from tests.pipeline.test_loader import SPEC, assert_same, split_of, take

UNLABELED = Needs(unlabeled=True)
NEEDS = {
    "second": Needs(unlabeled=True, second=True),
    "second with TG": Needs(tg=True, unlabeled=True, second=True),
    "slow": Needs(unlabeled=True, slow=True),
    "rotated": Needs(unlabeled=True, rotated=True),
    "rotated with TG": Needs(tg=True, unlabeled=True, rotated=True),
    "flow": Needs(flow=True, unlabeled=True, strong=True),
    "own crops": Needs(tg=True, flow=True, unlabeled=True, strong=True, own_crops=True),
    "actors": Needs(unlabeled=True, strong=True, actors=True),
    "rows": Needs(unlabeled=True, rows=True),
}


def make_loader(index: VideoIndex, needs: Needs, spec: ClipSpec = SPEC, **options: object) -> ClipLoader:
    arguments = {"batch_labeled": 4, "batch_unlabeled": 6, "seed": 0, "num_threads": 2, **options}
    return ClipLoader(index, split_of(index), needs, spec, **arguments)  # type: ignore[arg-type]


def first(index: VideoIndex, needs: Needs) -> ClipBatch:
    with make_loader(index, needs) as loader:
        return next(loader)


def shapes(batch: ClipBatch) -> dict[str, object]:
    """Shape, type and place of all that is there."""

    def of(part: object) -> object:
        if isinstance(part, Views):
            return {name: of(pixels) for name, pixels in part._asdict().items() if pixels is not None}
        assert isinstance(part, torch.Tensor)
        return tuple(part.shape), part.dtype, part.device

    return {name: of(part) for name, part in batch._asdict().items() if part is not None}


@pytest.mark.parametrize("name", NEEDS)
def test_a_batch_holds_what_is_needed_and_nothing_else(name: str, small_index: VideoIndex) -> None:
    """As noise has it, which methods and benchmarks are tried on."""
    noise = noise_batch(
        NEEDS[name], num_labeled=4, num_unlabeled=6, clip_len=SPEC.clip_len, size=SPEC.size, num_classes=2
    )
    assert shapes(first(small_index, NEEDS[name])) == shapes(noise)


@pytest.mark.parametrize("name", NEEDS)
def test_further_views_leave_the_others_as_they_are(name: str, small_index: VideoIndex) -> None:
    with_views, plain = first(small_index, NEEDS[name]), first(small_index, UNLABELED)
    assert plain.weak is not None and with_views.weak is not None
    assert torch.equal(with_views.labeled_ids, plain.labeled_ids)
    assert with_views.unlabeled_ids is not None and plain.unlabeled_ids is not None
    assert torch.equal(with_views.unlabeled_ids, plain.unlabeled_ids)
    if not (NEEDS[name].tg or NEEDS[name].flow):  # whose clips end a frame earlier, for the partner
        assert torch.equal(with_views.labeled.rgb, plain.labeled.rgb)
        assert torch.equal(with_views.weak.rgb, plain.weak.rgb)


@pytest.mark.parametrize("name", NEEDS)
def test_all_views_are_the_same_for_any_number_of_threads_and_after_resuming(
    name: str, small_index: VideoIndex
) -> None:
    with make_loader(small_index, NEEDS[name], num_threads=1) as loader:
        reference = take(loader, 3)
    with make_loader(small_index, NEEDS[name], num_threads=4) as loader:
        loader.load_state_dict({"step": 1, "quarantine": {}})
        assert_same(take(loader, 2), reference[1:])


@pytest.mark.parametrize("name", [name for name in NEEDS if name != "actors"])
def test_two_ranks_have_the_views_of_one(name: str, small_index: VideoIndex) -> None:
    whole = first(small_index, NEEDS[name])
    halves = []
    for rank in range(2):
        with make_loader(
            small_index, NEEDS[name], batch_labeled=2, batch_unlabeled=3, rank=rank, world_size=2
        ) as loader:
            halves.append(next(loader))
    for part in ("labeled", "weak", "strong", "labeled_second", "second", "slow", "labeled_rotated", "rotated"):
        views = getattr(whole, part)
        for modality in ("rgb", "tg", "flow") if views is not None else ():
            pixels = getattr(views, modality)
            if pixels is not None:
                joined = torch.cat([getattr(getattr(half, part), modality) for half in halves])
                assert torch.equal(joined, pixels), f"{part} {modality}"


def test_a_second_view_is_another_clip_of_the_same_videos(small_index: VideoIndex) -> None:
    batch = first(small_index, NEEDS["second"])
    assert batch.weak is not None and batch.second is not None and batch.labeled_second is not None
    for view, second in ((batch.labeled, batch.labeled_second), (batch.weak, batch.second)):
        assert all(not torch.equal(a, b) for a, b in zip(view.rgb, second.rgb, strict=True))
    # Of the same video: nearer in colour than those of different ones.
    one, other = (view.rgb.float().mean(dim=(1, 2, 3)) for view in (batch.weak, batch.second))
    apart = torch.cdist(one, other)
    own = apart.diagonal().mean()
    assert own < apart[~torch.eye(len(apart), dtype=torch.bool)].mean()


def test_slow_clips_need_four_frames(small_index: VideoIndex) -> None:
    with pytest.raises(InputError, match="clip_len is 3"):
        make_loader(small_index, NEEDS["slow"], replace(SPEC, clip_len=3))


def test_slow_clips_are_of_every_other_frame(small_index: VideoIndex) -> None:
    """Planned so: half as many frames, twice as far apart."""
    with make_loader(small_index, NEEDS["slow"]) as loader:
        clips = {branch.view: branch.stream.batch(0) for branch in loader._branches if branch.name == "unlabeled"}
    for weak, slow in zip(clips["weak"], clips["slow"], strict=True):
        assert weak.row == slow.row
        num = int(small_index.num_frames[weak.row])
        assert len(slow.plan.frames) == SPEC.clip_len // 2
        assert all(np.diff(slow.plan.frames) % num == 2 * SPEC.frame_stride % num)
        assert slow.plan.box != weak.plan.box


def test_rotated_views_are_the_weak_ones_turned(small_index: VideoIndex) -> None:
    turns_seen = set()
    with make_loader(small_index, NEEDS["rotated with TG"]) as loader:
        for batch in (next(loader) for _ in range(4)):
            assert batch.weak is not None and batch.rotated is not None and batch.turns is not None
            assert batch.labeled_rotated is not None and batch.labeled_turns is not None
            for view, rotated, turns in (
                (batch.labeled, batch.labeled_rotated, batch.labeled_turns),
                (batch.weak, batch.rotated, batch.turns),
            ):
                for pixels, turned in ((view.rgb, rotated.rgb), (view.of("tg"), rotated.of("tg"))):
                    back = [np.rot90(clip, -turn, (1, 2)) for clip, turn in zip(turned, turns.tolist(), strict=True)]
                    assert (np.stack(back) == pixels.numpy()).all()
                turns_seen |= set(turns.tolist())
    assert turns_seen == {0, 1, 2, 3}


def test_own_crops_show_the_same_moment_in_crops_of_their_own(small_index: VideoIndex) -> None:
    """A plain batch's TG, cropped by a plan of its own."""
    with make_loader(small_index, NEEDS["own crops"]) as loader:
        branches = {(branch.name, branch.graph.spec.only): branch for branch in loader._branches}
        clips = {modality: branches["unlabeled", modality].stream.batch(0) for modality in ("rgb", "tg", "flow")}
    for rgb, tg, flow in zip(*clips.values(), strict=True):
        assert rgb.row == tg.row == flow.row
        assert (rgb.plan.frames == tg.plan.frames).all() and (tg.plan.frames == flow.plan.frames).all()
        assert len({rgb.plan.box, tg.plan.box, flow.plan.box}) == 3
    own, shared = first(small_index, NEEDS["own crops"]), first(small_index, Needs(tg=True, unlabeled=True))
    assert own.weak is not None and shared.weak is not None
    assert torch.equal(own.weak.rgb, shared.weak.rgb)
    assert not torch.equal(own.weak.of("tg"), shared.weak.of("tg"))


@pytest.mark.parametrize("missing", ["strong", "second", "slow", "rotated", "rows"])
def test_views_of_unlabeled_clips_need_unlabeled_clips(missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing} is made of unlabeled clips"):
        Needs(**{missing: True})  # type: ignore[arg-type]


def test_flow_of_dali_on_a_cpu_is_refused(small_index: VideoIndex) -> None:
    with pytest.raises(InputError, match="optical flow on GPUs only"):
        ClipLoader(
            small_index,
            DataSplit(("left", "right"), np.zeros(12, np.int64), np.arange(2), np.arange(3), np.arange(0)),
            NEEDS["flow"],
            SPEC,
            batch_labeled=1,
            batch_unlabeled=1,
            seed=0,
            decoder="dali",
        )


def test_scores_are_those_of_the_videos_in_the_batch(small_index: VideoIndex, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).dirichlet(np.ones(NUM_SCORES), len(small_index))
    order = np.arange(len(small_index))[::-1]  # the file may have the videos in any order
    path = tmp_path / "videos.scores"
    write_video_scores(path, [small_index.paths[row] for row in order], scores[order])
    batch = first(small_index, Needs(unlabeled=True, scores=path))
    assert batch.labeled_scores is not None and batch.scores is not None and batch.unlabeled_ids is not None
    for found, rows in ((batch.labeled_scores, batch.labeled_ids), (batch.scores, batch.unlabeled_ids)):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, scores[rows], atol=1e-4)


def test_a_loader_without_scores_of_a_video_refuses(small_index: VideoIndex, tmp_path: Path) -> None:
    write_video_scores(tmp_path / "scores", small_index.paths[1:], np.full((len(small_index) - 1, NUM_SCORES), 1e-3))
    with pytest.raises(InputError, match=f"first {small_index.paths[0]}"):
        make_loader(small_index, Needs(unlabeled=True, scores=tmp_path / "scores"))
