"""The index keeps what a scan found, and refuses to be misread."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.index import VideoIndex, find_videos
from pipeline.scan import scan


@pytest.fixture
def folder(tmp_path: Path, video: Callable[..., Path]) -> Path:
    root = tmp_path / "data"
    names = {"a/one.avi": "mjpeg", "b/two (1).webm": "vp8", "b/drei é.mp4": "h264", "c/deep/-four.AVI": "mpeg4"}
    for name, codec in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(video(codec).read_bytes())
    (root / "b/broken.mp4").write_bytes(b"not a video at all")
    (root / "b/notes.txt").write_text("not looked at")
    (root / "b/._two.webm").write_text("hidden")
    return root


def build(root: Path, previous: VideoIndex | None = None) -> VideoIndex:
    return VideoIndex.build(root, previous=previous, num_workers=1, progress=False)


def test_index_holds_every_record_and_every_refusal(folder: Path) -> None:
    index = build(folder)
    assert index.paths == ["a/one.avi", "b/drei é.mp4", "b/two (1).webm", "c/deep/-four.AVI"]
    assert list(index.refused) == ["b/broken.mp4"]
    assert "not a video" in index.refused["b/broken.mp4"]
    for row, path in enumerate(index.paths):
        expected, got = scan(folder / path), index[row]
        for field in fields(expected):
            np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name), field.name)


def test_saved_index_is_the_same_when_loaded(folder: Path, tmp_path: Path) -> None:
    index = build(folder)
    index.save(tmp_path / "index")
    loaded = VideoIndex.load(tmp_path / "index")
    assert (loaded.root, loaded.paths, loaded.refused) == (index.root, index.paths, index.refused)
    for row in range(len(index)):
        for field in fields(index[row]):
            np.testing.assert_array_equal(getattr(loaded[row], field.name), getattr(index[row], field.name))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("index")] == ["index"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_or_damaged_index_is_refused(data: st.DataObject, small_index: VideoIndex, tmp_path: Path) -> None:
    path = tmp_path / "index"
    small_index.save(path)
    good = path.read_bytes()
    cut = data.draw(st.integers(0, len(good) - 1), label="cut")
    path.write_bytes(good[:cut])
    with pytest.raises(InputError, match="index"):
        VideoIndex.load(path)
    header_end = 20 + int.from_bytes(good[8:16], "little")
    at = data.draw(st.integers(0, header_end - 1), label="flipped byte")
    path.write_bytes(good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :])
    with pytest.raises(InputError, match="index"):
        VideoIndex.load(path)


def test_changes_on_disk_are_noticed_and_only_they_are_scanned_again(
    folder: Path, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(folder)
    assert index.changed() == {}
    (folder / "a/one.avi").write_bytes(video("mjpeg", num_frames=7).read_bytes())
    (folder / "b/two (1).webm").unlink()
    (folder / "b/new.webm").write_bytes(video("vp9").read_bytes())
    assert index.changed() == {"a/one.avi": "changed", "b/new.webm": "new", "b/two (1).webm": "gone"}
    scanned: list[str] = []

    def note(root: Path, paths: list[str], num_workers: int, progress: bool):  # type: ignore[no-untyped-def]
        scanned.extend(paths)
        return [(path, scan(root / path)) for path in paths]

    monkeypatch.setattr("pipeline.index._scan_all", note)
    renewed = build(folder, index)
    assert scanned == ["a/one.avi", "b/new.webm"]
    assert renewed.paths == ["a/one.avi", "b/drei é.mp4", "b/new.webm", "c/deep/-four.AVI"]
    assert renewed[0].num_frames == 7


def test_a_file_that_kills_the_scanner_is_refused_like_any_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.index._scan_one", dies_of_broken)
    index = VideoIndex.build(folder, num_workers=2, progress=False)
    assert len(index) == 4
    assert index.refused == {"b/broken.mp4": "reading it crashes FFmpeg"}


def dies_of_broken(path: str):  # type: ignore[no-untyped-def]
    if "broken" in path:
        os.abort()
    return scan(path)


def test_folder_without_usable_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        VideoIndex.build(tmp_path / "nowhere", progress=False)
    with pytest.raises(InputError, match="no videos in"):
        VideoIndex.build(tmp_path, progress=False)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match=r"none of the 1 videos .* empty.mp4: the file is empty"):
        VideoIndex.build(tmp_path, num_workers=1, progress=False)


def test_links_are_followed_but_never_in_circles(folder: Path) -> None:
    (folder / "linked").symlink_to(folder / "a")
    (folder / "a/loop").symlink_to(folder)
    found = find_videos(folder)
    assert len(found) == len(set(found)) == 5
