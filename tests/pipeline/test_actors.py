"""Actors before other scenes: where boxes lie in a clip, what the views show, and files that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.actors import MEAN_COLOR, ActorBoxes, actor_masks, boxes_in_clip, with_actors
from pipeline.batch import Needs, Views
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.loader import ClipLoader
from pipeline.plan import ClipPlan, Tempo
from tests.pipeline.test_loader import SPEC, split_of

CPU = torch.device("cpu")
FORWARD = np.arange(4)


def write_boxes(path: Path, videos: dict[str, list[tuple[int, list[float], float]]], **changes: Any) -> Path:
    """A file of (frame, box, score) by video, with arrays of it replaced."""
    rows = [row for detections in videos.values() for row in detections]
    arrays = {
        "paths": np.array(list(videos), dtype=np.str_),
        "starts": np.cumsum([0, *map(len, videos.values())]),
        "frames": np.array([frame for frame, _, _ in rows], np.int64),
        "boxes": np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4),
        "scores": np.array([score for _, _, score in rows], np.float32),
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


BOX = [0.25, 0.5, 0.75, 1.0]
VIDEOS = {"a": [(0, BOX, 0.9), (0, BOX, 0.8), (4, BOX, 0.9), (8, BOX, 0.2)], "b": [], "c": [(2, BOX, 0.41)]}


# --- files ---


def test_a_frame_has_the_boxes_of_the_nearest_earlier_one_that_has_any(tmp_path: Path) -> None:
    boxes = ActorBoxes(write_boxes(tmp_path / "boxes.npz", VIDEOS), ["a", "b", "c"], np.arange(3))
    assert [len(found) for found in boxes.of(0, np.array([0, 3, 4, 7, 8, 100]))] == [2, 2, 1, 1, 0, 0]
    assert [len(found) for found in boxes.of(1, np.array([0, 5]))] == [0, 0]
    assert [len(found) for found in boxes.of(2, np.array([0, 1, 2, 3]))] == [0, 0, 1, 1]
    assert boxes.of(0, np.array([0]))[0].tolist() == [BOX, BOX]


def test_rows_of_the_index_find_their_video_in_any_order_of_the_file(tmp_path: Path) -> None:
    boxes = ActorBoxes(write_boxes(tmp_path / "boxes.npz", VIDEOS), ["c", "x", "a"], np.array([0, 2]))
    assert len(boxes.of(2, np.array([0]))[0]) == 2
    assert len(boxes.of(0, np.array([2]))[0]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "no file of boxes"),
        ({"boxes": np.zeros((4, 3), np.float32)}, "do not fit together"),
        ({"starts": np.array([0, 4, 4, 9])}, "do not fit together"),
        ({"frames": np.array([0.5, 1, 2, 3, 4])}, "frames is float64"),
        ({"frames": np.array([4, 0, 4, 8, 2])}, "do not ascend, at row 0"),
        ({"boxes": np.full((5, 4), 96, np.float32)}, r"row 0, \[96.0, .*\], is not in fractions"),
        ({"paths": np.array(["a", "b", "d"])}, "says nothing of 1 of 3 videos, first c"),
    ],
)
def test_files_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_boxes(tmp_path / "boxes.npz", VIDEOS, **changes)
    with pytest.raises(InputError, match=message):
        ActorBoxes(path, ["a", "b", "c"], np.arange(3))


def test_files_with_code_in_them_are_refused(tmp_path: Path) -> None:
    path = write_boxes(tmp_path / "boxes.npz", VIDEOS, paths=np.array([{"a": 1}, "b", "c"], dtype=object))
    with pytest.raises(InputError, match="no file of boxes"):
        ActorBoxes(path, ["a", "b", "c"], np.arange(3))
    (tmp_path / "text.npz").write_text("boxes")
    with pytest.raises(InputError, match="no file of boxes"):
        ActorBoxes(tmp_path / "text.npz", ["a"], np.arange(1))


def test_files_that_are_damaged_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    whole = write_boxes(tmp_path / "boxes.npz", VIDEOS).read_bytes()
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "empty": b"",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "array", np.zeros(4))
    for name in (*damaged, "array.npy", "gone"):
        with pytest.raises(InputError, match=rf"{name} is no file of boxes .*docs/methods\.md"):
            ActorBoxes(tmp_path / name, ["a"], np.arange(1))


# --- places ---


def test_a_box_is_cropped_and_scaled_as_its_clip() -> None:
    plan = ClipPlan(FORWARD, FORWARD, (20, 10, 40, 20), False, (32, 32))
    (found,) = boxes_in_clip([np.array([[0.3, 0.25, 0.5, 0.5]], np.float32)], plan, (100, 40))
    # x: 30..50 of 100, less 20, by 32/40 = 8..24; y: 10..20 of 40, less 10, by 32/20 = 0..16
    np.testing.assert_allclose(found, [[8, 0, 24, 16]], rtol=1e-5)


def test_an_uneven_box_is_mirrored_about_the_middle() -> None:
    plan = ClipPlan(FORWARD, FORWARD, (0, 0, 100, 100), True, (100, 100))
    (found,) = boxes_in_clip([np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)], plan, (100, 100))
    np.testing.assert_allclose(found, [[70, 20, 90, 40]], rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(-4, 12)] * 4), max_size=4))
def test_a_mask_is_the_union_of_its_boxes(boxes: list[tuple[int, int, int, int]]) -> None:
    corners = np.array([sorted(box[::2]) + sorted(box[1::2]) for box in boxes], np.float32).reshape(-1, 4)
    corners = corners[:, [0, 2, 1, 3]]
    expected = np.zeros((8, 8), bool)
    for x0, y0, x1, y1 in corners.astype(int).clip(0, 8):
        expected[y0:y1, x0:x1] = True
    (mask,) = actor_masks([[corners]], 8, CPU)[0]
    assert (mask.numpy() == expected).all()


# --- views ---


def clips_of(num: int) -> Views:
    generator = torch.Generator().manual_seed(num)
    return Views(torch.randint(0, 256, (num, 4, 8, 8, 3), generator=generator, dtype=torch.uint8))


def left_half(num: int) -> torch.Tensor:
    masks = torch.zeros(num, 4, 8, 8, dtype=torch.bool)
    masks[..., :4] = True
    return masks


def test_actors_stand_before_the_scene_of_the_partner() -> None:
    weak, strong, masks = clips_of(4), clips_of(5), left_half(4)
    masks[3] = False
    masks[3, :, :2] = True  # the partner's actors: the upper rows
    views, share = with_actors(weak, Views(strong.rgb[:4]), masks, [Tempo(FORWARD, True)] * 4)
    assert share.tolist() == [0.5, 0.5, 0.5, 0.25]
    first, partner = views.rgb[0], weak.rgb[3]
    assert torch.equal(first[:, :, :4], weak.rgb[0, :, :, :4])
    assert torch.equal(first[:, 2:, 4:], partner[:, 2:, 4:])
    assert (first[:, :2, 4:] == torch.tensor(MEAN_COLOR, dtype=torch.uint8)).all()


def test_clips_that_are_not_pasted_are_the_strong_ones_in_their_order() -> None:
    weak, strong = clips_of(4), Views(clips_of(5).rgb[:4])
    order = np.array([3, 2, 1, 0])
    nobody = left_half(4)
    nobody[1], nobody[2] = False, True  # no actor, and nothing but actors
    tempos = [Tempo(order, False), Tempo(order, True), Tempo(FORWARD, True), Tempo(FORWARD, True)]
    views, share = with_actors(weak, strong, nobody, tempos)
    assert share.tolist() == [1, 1, 1, 0.5]
    assert torch.equal(views.rgb[:2], strong.rgb[:2].flip(1))
    assert torch.equal(views.rgb[2], strong.rgb[2])


def test_the_middle_of_an_odd_batch_has_no_partner() -> None:
    weak, strong = clips_of(3), Views(clips_of(5).rgb[:3])
    views, share = with_actors(weak, strong, left_half(3), [Tempo(FORWARD, True)] * 3)
    assert share.tolist() == [0.5, 1, 0.5]
    assert torch.equal(views.rgb[1], strong.rgb[1])


def test_the_loader_pastes_the_actors_of_the_file(tmp_path: Path, small_index: VideoIndex) -> None:
    path = write_boxes(tmp_path / "boxes.npz", {video: [(0, BOX, 0.9)] for video in small_index.paths})
    shares = []
    arguments: dict[str, Any] = {"batch_labeled": 2, "batch_unlabeled": 4, "seed": 0}
    needs = [Needs(unlabeled=True, strong=True, actors=True, boxes=file) for file in (path, None)]
    with (
        ClipLoader(small_index, split_of(small_index), needs[0], SPEC, **arguments) as loader,
        ClipLoader(small_index, split_of(small_index), needs[1], SPEC, **arguments) as fallback,
    ):
        for _ in range(6):
            batch, plain = next(loader), next(fallback)
            assert batch.strong is not None and plain.strong is not None
            assert batch.actor_share is not None and plain.actor_share is not None
            shares.append(batch.actor_share)
            assert (plain.actor_share == 1).all()
            for ours, theirs, share in zip(batch.strong.rgb, plain.strong.rgb, batch.actor_share, strict=True):
                assert torch.equal(ours, theirs) == (share == 1)
    share = torch.cat(shares)
    assert 4 < (share < 1).sum() < 20
    assert (share > 0).all()


def test_a_loader_without_boxes_for_a_video_refuses(tmp_path: Path, small_index: VideoIndex) -> None:
    path = write_boxes(tmp_path / "boxes.npz", {video: [] for video in small_index.paths[1:]})
    with pytest.raises(InputError, match=f"first {small_index.paths[0]}"):
        ClipLoader(
            small_index,
            split_of(small_index),
            Needs(unlabeled=True, strong=True, actors=True, boxes=path),
            SPEC,
            batch_labeled=2,
            batch_unlabeled=4,
            seed=0,
        )
