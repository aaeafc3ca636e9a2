"""Contact sheets show the planned box where it is, and every view there is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.plan import TG_FORMS, ClipSpec, plan_clip
from pipeline.show import _BOX_COLOR, _choose_rows, _cut, _source_strip, draw_clips, main, show

SPEC = ClipSpec(clip_len=3, frame_stride=2, size=72, eval_size=72, min_crop_area=0.2)


def test_box_is_drawn_where_it_is_planned(small_index: VideoIndex) -> None:
    for row in range(len(small_index)):
        record = small_index[row]
        plan = plan_clip(record, SPEC, seed=1, epoch=0, position=row)
        strip = _source_strip(record, plan, 3 * record.display_size[1])
        assert strip.captions == [f"frame {number}" for number in plan.frames]
        for frame in strip.frames:
            y, x = np.nonzero((frame == _BOX_COLOR).all(axis=2))
            left, top, width, height = plan.box
            assert (x.min(), x.max() + 1, y.min(), y.max() + 1) == tuple(
                3 * at for at in (left, left + width, top, top + height)
            )


def test_sheet_has_a_row_for_each_view_of_each_clip(small_index: VideoIndex, tmp_path: Path) -> None:
    rows = [0, 1, 2]
    for num_clips in (1, 2):
        path = tmp_path / f"{num_clips} clips/sheet.png"
        bad = draw_clips(small_index, rows, ["a $ b $", "c\udce9", "d"], path, SPEC, num_clips=num_clips)
        assert not bad
    one, two = (imread(tmp_path / f"{n} clips/sheet.png")[:, :, :3] for n in (1, 2))
    height = 24 + 14 + 5 * (72 + 2)  # title, captions, source and four views
    assert (one.shape[0], two.shape[0]) == (height, 2 * height)
    np.testing.assert_array_equal(one[:, : one.shape[1] - 8], two[:height, : one.shape[1] - 8])
    tiles = [one[24 + 14 + 74 * strip + 10 : 24 + 14 + 74 * strip + 60, 140:160] for strip in range(5)]
    assert all(tile.std() > 0.001 for tile in tiles)  # something is drawn in each


def test_a_video_that_cannot_be_read_is_passed_over_and_named(
    tmp_path: Path, video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1.avi", "a/2.avi", "b/3.avi"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(video("mjpeg").read_bytes())
    index = VideoIndex.build(tmp_path / "data", num_workers=1, progress=False)
    (tmp_path / "data/a/1.avi").unlink()
    bad = draw_clips(index, [0, 1, 2], ["a", "a", "b"], tmp_path / "sheet.png", SPEC, num_clips=2)
    assert [Path(error.path).name for error in bad] == ["1.avi"]
    (tmp_path / "data/a/2.avi").unlink()
    with pytest.raises(InputError, match=r"none of the 2 videos .*/1\.avi"):
        draw_clips(index, [0, 1], ["a", "a"], tmp_path / "none.png", SPEC)
    assert not (tmp_path / "none.png").exists()

    show(tmp_path / "data", out=tmp_path / "loose.png", num_clips=1)
    assert "classes are not known" in capsys.readouterr().out  # there is one class left, and the picture all the same
    assert (tmp_path / "loose.png").exists()


def test_videos_left_out_are_not_counted_as_drawn(
    tmp_path: Path, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a/1.avi", "b/2.avi"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(video("mjpeg").read_bytes())
    index = VideoIndex.build(tmp_path / "data", num_workers=1, progress=False)
    (tmp_path / "data/a/1.avi").unlink()
    monkeypatch.setattr(VideoIndex, "build", lambda root: index)
    show(tmp_path / "data", out=tmp_path / "sheet.png")
    printed = capsys.readouterr().out
    assert "left out: " in printed and f"1 of 2 videos: {tmp_path / 'sheet.png'}" in printed

    arguments = ["show", str(tmp_path / "data"), "--out", str(tmp_path / "data/b/2.avi/sheet.png")]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 1
    assert capsys.readouterr().err.startswith("error: [Errno")


def test_both_forms_of_temporal_gradients_are_drawn(small_index: VideoIndex, tmp_path: Path) -> None:
    for form in TG_FORMS:
        draw_clips(small_index, [0], ["a"], tmp_path / form, replace(SPEC, tg_form=form), num_clips=1)
    aligned, slow = ((imread(tmp_path / form, "png")) for form in TG_FORMS)
    assert aligned.shape == slow.shape
    top = 24 + 14 + 2 * (72 + 2)  # of the weak TG, below source and weak RGB
    differ = [(aligned[y : y + 72] != slow[y : y + 72]).any() for y in (top - 74, top)]
    assert differ == [False, True]


def test_classes_take_turns() -> None:
    names = ["a"] * 10 + ["b"] * 2 + ["c"]
    rows = _choose_rows(names, seed=0)
    assert sorted(rows) == list(range(13))
    assert [names[row] for row in rows][:6] == ["a", "b", "c", "a", "b", "a"]
    assert rows != _choose_rows(names, seed=1)


def test_titles_are_cut_to_the_sheet() -> None:
    assert _cut("short", 600) == "short"
    assert len(_cut("x" * 500, 650)) == 100
    assert _cut("caf\udce9", 600) == "caf\\udce9"
