"""Single frames from all over a video: which, what is shown of them, and that bad videos cost no others."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.decode import decode_clip
from pipeline.evaluation import center_views, frame_views
from pipeline.index import VideoIndex
from pipeline.plan import ClipSpec


def test_frames_are_those_in_the_middle_of_equal_parts_and_their_crops_central(small_index: VideoIndex) -> None:
    rows = np.arange(len(small_index))
    batches = list(frame_views(small_index, rows, 3, size=56, eval_size=64, batch_size=5))
    assert torch.cat([ids for ids, _ in batches]).tolist() == rows.tolist()
    shown = torch.cat([frames for _, frames in batches])
    assert shown.shape == (len(rows), 3, 56, 56, 3)
    assert shown.dtype == torch.uint8
    for row, own in zip(rows.tolist(), shown, strict=True):
        record = small_index[row]
        numbers = np.array([record.num_frames * part // 6 for part in (1, 3, 5)])
        width, height = record.display_size
        side = height * 56 // 64  # of the part that is left where the short side is resized to 64 and 56 are cut out
        box = ((width - side) // 2, (height - side) // 2, side, side)
        np.testing.assert_array_equal(own.numpy(), decode_clip(record, numbers, box, False, (56, 56)))


def test_one_frame_is_that_of_the_center_clip(small_index: VideoIndex) -> None:
    rows = np.array([7, 0, 9])
    ((ids, frames),) = frame_views(small_index, rows, 1, size=56, eval_size=64, batch_size=3)
    spec = ClipSpec(clip_len=1, frame_stride=1, size=56, eval_size=64)
    ((_, center),) = center_views(small_index, rows, spec, batch_size=3)
    assert ids.tolist() == rows.tolist()
    assert torch.equal(frames, center.rgb)


def test_short_videos_show_frames_twice_and_bad_ones_are_left_out_by_name(
    small_index: VideoIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for row in range(3):
        (tmp_path / str(row)).mkdir()
        os.link(small_index[row].path, tmp_path / str(row) / Path(small_index[row].path).name)
    index = VideoIndex.build(tmp_path, num_workers=1, progress=False)
    Path(index[1].path).unlink()
    skipped: dict[str, str] = {}
    ((ids, frames),) = frame_views(index, np.arange(3), 100, size=32, eval_size=32, batch_size=3, skipped=skipped)
    assert ids.tolist() == [0, 2]
    assert frames.shape == (2, 100, 32, 32, 3)
    assert skipped.keys() == {index.paths[1]}
    assert index.paths[1] in caplog.text
