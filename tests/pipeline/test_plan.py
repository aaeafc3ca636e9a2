"""Plans follow the method's rules, and depend on (seed, epoch, position) alone."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from pipeline.errors import InputError
from pipeline.plan import (
    _CLIP_KEY,
    _TEMPO_KEY,
    _TURN_KEY,
    NUM_STRONG_OPS,
    ClipPlan,
    ClipSpec,
    Draw,
    StrongPlan,
    _clip_key,
    _uniforms,
    epoch_order,
    plan_center,
    plan_clip,
    plan_clips,
    plan_tempos,
    plan_test,
    plan_turns,
)
from pipeline.record import VideoRecord

SPEC = ClipSpec()


def record(num_frames: int = 300, width: int = 340, height: int = 256, rotation: int = 0) -> VideoRecord:
    none = np.zeros(0, np.int64)
    return VideoRecord(
        "v.mp4",
        "h264",
        "avc1",
        "yuv420p",
        2,
        0,
        width,
        height,
        rotation,
        25.0,
        num_frames,
        True,
        True,
        0,
        b"",
        1,
        1,
        none,
        none,
        none,
        none,
    )


def plans(video: VideoRecord, spec: ClipSpec = SPEC, num: int = 400) -> list[ClipPlan]:
    return [plan_clip(video, spec, 7, 0, position) for position in range(num)]


def same(a: ClipPlan, b: ClipPlan) -> bool:
    strong = [(s.ops, s.signs, s.cutout) for plan in (a, b) for s in (plan.strong_rgb, plan.strong_tg) if s]
    fields = ((a.box, a.flip, a.size), (b.box, b.flip, b.size))
    frames = np.array_equal(a.frames, b.frames) and np.array_equal(a.later, b.later)
    return frames and fields[0] == fields[1] and strong[:2] == strong[2:]


# Measured on the reference.
@pytest.mark.parametrize(
    ("num_frames", "starts"),
    [(64, {0}), (65, {0}), (66, {0, 1}), (72, set(range(8))), (18, {0}), (300, set(range(236)))],
)
def test_starts_are_those_of_the_reference(num_frames: int, starts: set[int]) -> None:
    found = {int(plan.frames[0]) for plan in plans(record(num_frames), num=4000 if num_frames == 300 else 400)}
    assert found == starts


def test_short_videos_loop_as_in_the_reference() -> None:
    plan = plan_clip(record(18), SPEC, 0, 0, 0)
    assert plan.frames.tolist() == [0, 8, 16, 7, 15, 6, 14, 5]
    assert plan.later.tolist() == [1, 9, 17, 8, 16, 7, 15, 6]


def test_without_tg_the_last_frame_is_used_too() -> None:
    rgb = replace(SPEC, tg_stride=0)
    assert {int(plan.frames[0]) for plan in plans(record(66), rgb)} == {0, 1, 2}
    assert plan_clip(record(18), rgb, 0, 0, 0).frames.tolist() == [0, 8, 16, 6, 14, 4, 12, 2]
    assert (plan_clip(record(18), rgb, 0, 0, 0).later == plan_clip(record(18), rgb, 0, 0, 0).frames).all()


@settings(deadline=None)
@given(
    num_frames=st.integers(2, 1000),
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    rotation=st.sampled_from([0, 90, 180, 270]),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 1000),
    position=st.integers(0, 10**6),
    spec=st.builds(
        ClipSpec,
        clip_len=st.integers(1, 32),
        frame_stride=st.integers(1, 16),
        tg_stride=st.integers(0, 8),
        size=st.integers(1, 256),
    ),
)
def test_every_plan_stays_inside_the_video(
    num_frames: int, width: int, height: int, rotation: int, seed: int, epoch: int, position: int, spec: ClipSpec
) -> None:
    video = record(num_frames, width, height, rotation)
    plan = plan_clip(video, spec, seed, epoch, position)
    shown_width, shown_height = video.display_size
    x, y, w, h = plan.box
    assert 0 <= x < x + w <= shown_width
    assert 0 <= y < y + h <= shown_height
    assert len(plan.frames) == spec.clip_len
    assert plan.frames.min() >= 0
    assert plan.later.max() < num_frames
    if spec.tg_stride < num_frames:
        assert (plan.later - plan.frames == spec.tg_stride).all(), "a pair crosses the seam"
    assert same(plan, plan_clip(video, spec, seed, epoch, position))


def test_plan_changes_with_each_of_its_arguments() -> None:
    base = plan_clip(record(), SPEC, 1, 2, 3)
    assert not same(base, plan_clip(record(), SPEC, 2, 2, 3))
    assert not same(base, plan_clip(record(), SPEC, 1, 3, 3))
    assert not same(base, plan_clip(record(), SPEC, 1, 2, 4))
    assert not same(plan_clip(record(), SPEC, 1, 2, 3), plan_clip(record(), SPEC, 1, 3, 2))


def test_crops_cover_8_to_100_percent_at_aspect_3_4_to_4_3() -> None:
    boxes = np.array([plan.box for plan in plans(record(), num=3000)])
    area = boxes[:, 2] * boxes[:, 3] / (340 * 256)
    ratio = boxes[:, 2] / boxes[:, 3]
    assert 0.075 < area.min() < 0.1
    assert 0.97 < area.max() <= 1.0
    assert 0.73 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.36
    image = torch.zeros(1, 256, 340)
    drawn = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])[2:] for _ in range(3000)]
    assert abs(area.mean() - np.prod(drawn, axis=1).mean() / (340 * 256)) < 0.025  # 4 standard errors
    assert (boxes[:, :2] % 2 == 0).all()
    centers = boxes[:, 0] + boxes[:, 2] / 2
    assert abs(centers.mean() - 170) < 5


def test_smallest_crop_can_be_set() -> None:
    boxes = np.array([plan.box for plan in plans(record(), replace(SPEC, min_crop_area=0.5), num=500)])
    assert (boxes[:, 2] * boxes[:, 3]).min() / (340 * 256) > 0.49


def test_a_very_long_frame_falls_back_to_the_centre_square() -> None:
    assert {plan.box for plan in plans(record(width=2000, height=20), num=20)} == {(990, 0, 20, 20)}


def test_half_of_the_clips_are_flipped() -> None:
    flips = sum(plan.flip for plan in plans(record(), num=2000))
    assert 900 < flips < 1100
    assert not any(plan.flip for plan in plans(record(), replace(SPEC, flip=False), num=50))


def test_strong_operations_are_two_distinct_uniform_in_order_and_independent() -> None:
    drawn = [(plan.strong_rgb, plan.strong_tg) for plan in plans(record(), num=6000)]
    rgb = np.array([a.ops for a, _ in drawn if a])
    tg = np.array([b.ops for _, b in drawn if b])
    assert (rgb[:, 0] < rgb[:, 1]).all()
    for ops in (rgb, tg):
        counts = np.bincount(ops.ravel(), minlength=NUM_STRONG_OPS)
        assert len(counts) == NUM_STRONG_OPS
        assert counts.min() > 680  # expected 800 each, standard deviation about 27
        assert counts.max() < 920
    same_pair = (rgb == tg).all(axis=1).mean()
    assert 0.004 < same_pair < 0.017  # 1 / 105 if independent
    signs = np.array([(*a.signs, *b.signs) for a, b in drawn if a and b])
    assert (np.abs(signs.mean(axis=0)) < 0.06).all()
    assert set(np.unique(signs)) == {-1, 1}


def strong_of(spec: ClipSpec, num: int = 600, seed: int = 7) -> list[tuple[StrongPlan, StrongPlan]]:
    drawn = plan_clips(np.full(num, 300), np.full((num, 2), 256), spec, seed, 0, 0)
    return [(plan.strong_rgb, plan.strong_tg) for plan in drawn if plan.strong_rgb and plan.strong_tg]


def test_fixed_signs_are_one_for_each_operation_and_modality_all_through_a_stream() -> None:
    def signs(seed: int) -> dict[tuple[int, int], set[int]]:
        found: dict[tuple[int, int], set[int]] = {}
        for pair in strong_of(replace(SPEC, strong_fixed_sign=True), seed=seed):
            for modality, plan in enumerate(pair):
                for op, sign in zip(plan.ops, plan.signs, strict=True):
                    found.setdefault((modality, op), set()).add(sign)
        return found

    drawn = [signs(seed) for seed in range(6)]
    assert all(len(values) == 1 for found in drawn for values in found.values())
    assert all(len(found) == 2 * NUM_STRONG_OPS for found in drawn)
    for op in range(NUM_STRONG_OPS):  # other seeds have others, and so have the modalities
        assert {min(found[modality, op]) for found in drawn for modality in (0, 1)} == {-1, 1}
    assert any(found[0, op] != found[1, op] for found in drawn for op in range(5))


def test_shared_strong_operations_are_those_of_rgb() -> None:
    def numbers(plan: StrongPlan) -> tuple[object, ...]:
        return plan.ops, plan.signs, plan.cutout

    own = strong_of(SPEC)
    shared = strong_of(replace(SPEC, strong_shared_ops=True))
    assert [numbers(rgb) for rgb, _ in shared] == [numbers(rgb) for rgb, _ in own]
    assert all(numbers(rgb) == numbers(tg) for rgb, tg in shared)


def test_switches_of_strong_views_change_nothing_else() -> None:
    specs = replace(SPEC, strong_fixed_sign=True), replace(SPEC, strong_shared_ops=True)
    for spec in specs:
        for ours, theirs in zip(plans(record(), spec, 40), plans(record(), num=40), strict=True):
            assert (ours.frames == theirs.frames).all() and ours.box == theirs.box and ours.flip == theirs.flip
            assert ours.strong_rgb and theirs.strong_rgb
            assert ours.strong_rgb.ops == theirs.strong_rgb.ops
            assert ours.strong_rgb.cutout == theirs.strong_rgb.cutout


def test_the_numbers_of_a_plan_stay_what_they_were() -> None:
    """Runs are continued by later versions: what seed 7 draws at position 3 must not come to differ."""
    plan = plan_clip(record(), SPEC, 7, 0, 3)
    assert plan.strong_rgb and plan.strong_tg
    assert (plan.frames[0], plan.box, plan.flip) == (210, (4, 62, 181, 170), True)
    rgb, tg = plan.strong_rgb, plan.strong_tg
    assert (rgb.ops, rgb.signs, rgb.cutout) == ((0, 1), (1, 1), (0.14791666316970775, 0.19465164148402403))
    assert (tg.ops, tg.signs, tg.cutout) == ((0, 9), (-1, 1), (0.7678252319618859, 0.6496947244000264))


def test_center_clip_is_that_of_the_reference() -> None:
    rgb = replace(SPEC, tg_stride=0)
    plan = plan_center(record(300), rgb)
    assert plan.frames.tolist() == [118 + 8 * k for k in range(8)]
    assert plan.box == (58, 16, 224, 224)
    assert plan.size == (224, 224)
    assert not plan.flip
    assert plan_center(record(64), rgb).frames[0] == 0
    assert plan_center(record(66), rgb).frames[0] == 1


def test_test_clips_and_crops_are_those_of_the_reference() -> None:
    plan, corners = plan_test(record(300), replace(SPEC, tg_stride=0))
    assert plan.frames.reshape(10, 8)[:, 0].tolist() == [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]
    starts = plan_test(record(65), replace(SPEC, tg_stride=0))[0].frames.reshape(10, 8)[:, 0]
    assert starts.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    plan, corners = plan_test(record(300, 320, 240), SPEC)
    assert plan.size == (341, 256)
    assert corners.tolist() == [[0, 0], [0, 84], [0, 42]]
    plan, corners = plan_test(record(300, 320, 240, rotation=90), SPEC)
    assert plan.size == (256, 341)
    assert corners.tolist() == [[0, 0], [84, 0], [42, 0]]


def test_epoch_order_is_a_permutation_that_changes_with_the_epoch() -> None:
    first, second = epoch_order(3, 0, 100), epoch_order(3, 1, 100)
    assert sorted(first.tolist()) == list(range(100))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, epoch_order(3, 0, 100))


def test_impossible_spec_is_refused_with_its_value() -> None:
    with pytest.raises(InputError, match="clip_len is 0"):
        ClipSpec(clip_len=0)
    with pytest.raises(InputError, match="eval_size 100 is below size 224"):
        ClipSpec(eval_size=100)
    with pytest.raises(InputError, match=r"min_crop_area is 1.5"):
        ClipSpec(min_crop_area=1.5)


VIDEOS = st.lists(
    st.tuples(st.integers(1, 400), st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([0, 90, 180, 270])),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(
    shapes=VIDEOS,
    cuts=st.lists(st.integers(0, 40)),
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32),
    position=st.integers(0, 10**9),
)
def test_a_batch_is_planned_to_the_bit_as_its_clips_one_by_one_and_in_any_parts(
    shapes: list[tuple[int, int, int, int]], cuts: list[int], seed: int, epoch: int, position: int
) -> None:
    videos = [record(*shape) for shape in shapes]
    num_frames = np.array([video.num_frames for video in videos])
    sizes = np.array([video.display_size for video in videos])
    one_by_one = [plan_clip(video, SPEC, seed, epoch, position + i) for i, video in enumerate(videos)]
    ends = sorted({min(cut, len(videos)) for cut in cuts} | {0, len(videos)})
    in_parts = [
        plan
        for a, b in pairwise(ends)
        for plan in plan_clips(num_frames[a:b], sizes[a:b], SPEC, seed, epoch, position + a)
    ]
    assert len(one_by_one) == len(in_parts)
    assert all(same(a, b) for a, b in zip(one_by_one, in_parts, strict=True))


def test_neighbouring_positions_and_epochs_share_no_number() -> None:
    purposes = (_CLIP_KEY, _clip_key(1), _clip_key(2), _TURN_KEY, _TEMPO_KEY)
    drawn = [
        _uniforms(5, purpose, epoch, position, 1, 36).ravel()
        for purpose in purposes
        for epoch in range(4)
        for position in range(50)
    ]
    assert len(np.unique(np.concatenate(drawn))) == sum(map(len, drawn))


# --- several views of a video ---


def test_further_draws_are_other_clips_of_the_same_distribution() -> None:
    videos = (np.full(400, 300), np.full((400, 2), 256))
    first, second, third = (plan_clips(*videos, SPEC, 0, 0, 0, Draw(n, n)) for n in range(3))
    for one, other in ((first, second), (first, third), (second, third)):
        assert sum(a.box == b.box for a, b in zip(one, other, strict=True)) < 8
        assert 120 < sum(a.flip == b.flip for a, b in zip(one, other, strict=True)) < 280
        assert abs(np.corrcoef([a.frames[0] for a in one], [b.frames[0] for b in other])[0, 1]) < 0.2
    assert np.mean([plan.frames[0] for plan in second]) == pytest.approx(
        np.mean([plan.frames[0] for plan in first]), abs=15
    )


def test_a_crop_of_its_own_shows_the_same_moment() -> None:
    videos = (np.full(100, 300), np.full((100, 2), 256))
    plain, own = plan_clips(*videos, SPEC, 0, 0, 0), plan_clips(*videos, SPEC, 0, 0, 0, Draw(0, 3))
    alone = plan_clips(*videos, SPEC, 0, 0, 0, Draw(3, 3))
    for a, b, c in zip(plain, own, alone, strict=True):
        assert (a.frames == b.frames).all()
        assert b.box == c.box and b.flip == c.flip and b.strong_tg and c.strong_tg
        assert b.strong_tg.ops == c.strong_tg.ops
    assert sum(a.box == b.box for a, b in zip(plain, own, strict=True)) < 5


def test_turns_are_uniform_and_a_function_of_the_position() -> None:
    turns = plan_turns(3, 0, 0, 4000)
    assert np.bincount(turns, minlength=4).min() > 900
    assert (plan_turns(3, 0, 100, 7) == turns[100:107]).all()
    assert (plan_turns(3, 1, 0, 4000) != turns).any()


def test_tempos_are_a_function_of_the_position() -> None:
    whole, part = plan_tempos(8, 3, 0, 0, 40), plan_tempos(8, 3, 0, 11, 5)
    for a, b in zip(whole[11:16], part, strict=True):
        assert (a.order == b.order).all() and a.pasted == b.pasted


@pytest.mark.parametrize("clip_len", [2, 7, 8])
def test_tempos_paste_half_of_the_clips_and_draw_four_orders_alike(clip_len: int) -> None:
    tempos = plan_tempos(clip_len, 0, 0, 0, 4000)
    assert 1800 < sum(tempo.pasted for tempo in tempos) < 2200
    forward, half = list(range(clip_len)), clip_len // 2
    orders = [tempo.order.tolist() for tempo in tempos]
    repeated = {
        (*forward[: clip_len - half], *forward[:half]),
        (*forward[clip_len - half :], *forward[half:]),
    }
    assert all(len(order) == clip_len and set(order) <= set(forward) for order in orders)
    if clip_len == 8:  # in shorter clips the orders coincide
        assert 900 < sum(order == forward[::-1] for order in orders) < 1100
        assert 900 < sum(tuple(order) in repeated for order in orders) < 1100
        held = [order for order in orders if order != forward[::-1] and tuple(order) not in repeated]
        assert 900 < sum(order == forward for order in held) < 1100
        assert all(order[0] == 0 and np.diff(order).min() >= 0 for order in held)
        changes = [np.diff(order) > 0 for order in held if order != forward]
        assert 0.4 < np.mean(changes) < 0.6
