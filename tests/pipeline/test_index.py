"""The index keeps what a scan found, and refuses to be misread."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import array_file
from pipeline.errors import BadVideo, InputError
from pipeline.files import find_videos
from pipeline.index import FILE_NAME, VideoIndex, _Refused, _scan_one
from pipeline.scanning import scan
from pipeline.sources import Refusal, Source

ROOT = Path(__file__).parents[2]


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


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan in this process, as starting others takes longest."""

    def work(function, items, num_workers, crashed):  # type: ignore[no-untyped-def]
        return [(item, function(item)) for item in items]

    monkeypatch.setattr("pipeline.index.map_in_processes", work)


def build(root: Path, previous: VideoIndex | None = None) -> VideoIndex:
    return VideoIndex.build(root, previous=previous, num_workers=1, progress=False)


@pytest.mark.usefixtures("inline")
def test_index_holds_every_record_and_every_refusal(folder: Path) -> None:
    index = build(folder)
    assert index.paths == ["a/one.avi", "b/drei é.mp4", "b/two (1).webm", "c/deep/-four.AVI"]
    assert list(index.refused) == ["b/broken.mp4"]
    assert "not a video" in index.refused["b/broken.mp4"]
    for row, path in enumerate(index.paths):
        expected, got = scan(folder / path), index[row]
        for field in fields(expected):
            np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name), field.name)


@pytest.mark.usefixtures("inline")
def test_saved_index_is_the_same_when_loaded(folder: Path, tmp_path: Path) -> None:
    index = build(folder)
    index.save(tmp_path / "index")
    loaded = VideoIndex.load(tmp_path / "index")
    assert (loaded.root, loaded.paths, loaded.refused) == (index.root, index.paths, index.refused)
    for row in range(len(index)):
        for field in fields(index[row]):
            np.testing.assert_array_equal(getattr(loaded[row], field.name), getattr(index[row], field.name))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("index")] == ["index"]


def contents(path: Path, index: VideoIndex) -> bytes:
    index.save(path)
    return path.read_bytes()


def test_index_has_the_same_bytes_however_it_came_about(
    folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    two = contents(tmp_path / "two", VideoIndex.build(folder, num_workers=2, progress=False))
    request.getfixturevalue("inline")
    assert contents(tmp_path / "alone", build(folder)) == two
    assert contents(tmp_path / "loaded", VideoIndex.load(tmp_path / "alone")) == two
    new = folder / "a/one.avi"
    new.rename(tmp_path / "aside.avi")
    fewer = build(folder)
    (tmp_path / "aside.avi").rename(new)
    assert contents(tmp_path / "grown", build(folder, fewer)) == two


@pytest.mark.usefixtures("inline")
def test_an_interrupted_scan_is_taken_up_where_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[str] = []
    stop_after = 3

    def note(root: Path, paths: Mapping[str, Source], num_workers: int, progress: bool):  # type: ignore[no-untyped-def]
        for path in paths:
            if len(scanned) == stop_after:
                raise KeyboardInterrupt
            scanned.append(path)
            yield path, _scan_one((str(root / path), None))

    whole = contents(tmp_path / "whole", build(folder))
    monkeypatch.setattr("pipeline.index._scan_all", note)
    partial = tmp_path / "new folder/index.partial"
    with pytest.raises(KeyboardInterrupt):
        VideoIndex.build(folder, partial=partial)
    stop_after = 5
    index = VideoIndex.build(folder, partial=partial)
    assert len(scanned) == len(set(scanned)) == 5
    assert contents(tmp_path / "index", index) == whole

    # What is killed outright has saved on the way, too.
    scanned.clear()
    partial.unlink()
    monkeypatch.setattr("pipeline.index._SAVE_EVERY_S", -1.0)
    monkeypatch.setattr("pipeline.index._SAVING_SHARE", 1e9)
    stop_after = 2
    monkeypatch.setattr(VideoIndex, "save", save_or_die(2))
    with pytest.raises(MemoryError):
        VideoIndex.build(folder, partial=partial)
    assert len(VideoIndex.load(partial)) + len(VideoIndex.load(partial).refused) == 1


def save_or_die(times: int):  # type: ignore[no-untyped-def]
    """VideoIndex.save as it is, until it is called for that time."""
    save, count = VideoIndex.save, iter(range(1, times + 9))

    def saving(index: VideoIndex, path: Path) -> None:
        if next(count) >= times:
            raise MemoryError
        save(index, path)

    return saving


@pytest.mark.usefixtures("inline")
def test_refused_files_are_read_again_only_when_they_change(
    folder: Path, video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(folder)
    assert build(folder, index) is index
    (folder / "b/broken.mp4").write_bytes(video("h264").read_bytes())
    assert index.changed() == {"b/broken.mp4": "changed"}
    repaired = build(folder, index)
    assert "b/broken.mp4" in repaired.paths and not repaired.refused

    def unreadable(path: str, source: None) -> None:
        raise BadVideo(path, "cannot be read: Permission denied") from PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.index.scan", unreadable)
    assert _scan_one(("x.mp4", None)) == _Refused("cannot be read: Permission denied", lasting=False)


@pytest.mark.usefixtures("inline")
def test_refresh_keeps_one_file_up_to_date(folder: Path, tmp_path: Path, video: Callable[..., Path]) -> None:
    path = folder / FILE_NAME
    first = VideoIndex.refresh(path, folder, num_workers=1, progress=False)
    assert build(folder).paths == first.paths  # found where it is by default, and not taken for a video
    stamp = path.stat().st_mtime_ns
    VideoIndex.refresh(path, folder, num_workers=1, progress=False)
    assert path.stat().st_mtime_ns == stamp
    (folder / "a/more.avi").write_bytes(video("mjpeg").read_bytes())
    assert len(VideoIndex.refresh(path, folder, num_workers=1, progress=False)) == len(first) + 1
    assert len(VideoIndex.load(path)) == len(first) + 1
    with pytest.raises(InputError, match="is the index of"):
        VideoIndex.refresh(path, tmp_path)
    with pytest.raises(InputError, match="cannot be written there"):
        VideoIndex.refresh(tmp_path / "nowhere/index", folder)


@pytest.mark.usefixtures("inline")
def test_an_index_moves_with_its_folder_but_not_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = VideoIndex.refresh(folder / FILE_NAME, folder, progress=False)
    shutil.copy(folder / FILE_NAME, tmp_path / "copy")
    VideoIndex.refresh(tmp_path / "elsewhere", folder, progress=False)
    assert VideoIndex.load(tmp_path / "copy").root == folder
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.setattr("pipeline.index._scan_one", None)  # whatever is scanned fails
    for index in (VideoIndex.build(moved), VideoIndex.refresh(moved / FILE_NAME, moved)):
        assert index.root == moved and index.paths == first.paths
        assert Path(index[0].path).exists()
    for name in ("copy", "elsewhere"):
        with pytest.raises(InputError, match=f"is the index of {folder}, .* or delete this one if that folder is no"):
            VideoIndex.refresh(tmp_path / name, moved)


@pytest.mark.usefixtures("inline")
def test_an_index_that_is_up_to_date_need_not_be_writable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    first = VideoIndex.refresh(shared, folder, progress=False)
    monkeypatch.setattr("pipeline.index.os.access", lambda path, mode: False)
    assert VideoIndex.refresh(shared, folder, progress=False).paths == first.paths
    (folder / "b/broken.mp4").unlink()
    monkeypatch.setattr("pipeline.index._scan_all", None)  # refused before it is called
    with pytest.raises(InputError, match="cannot be written there"):
        VideoIndex.refresh(shared, folder, progress=False)
    with pytest.raises(InputError, match="cannot be written there"):
        VideoIndex.refresh(tmp_path / "new", folder, progress=False)


@pytest.mark.usefixtures("inline")
def test_a_file_of_others_where_the_index_would_be_ends_no_run(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / FILE_NAME
    path.write_text("somebody's notes, longer than the start of an index")
    assert len(build(folder)) == 4
    assert f"{path} is no index: move it, or name another file; it is not used" in caplog.text
    assert len(VideoIndex.refresh(tmp_path / "index", folder, progress=False)) == 4
    with pytest.raises(InputError, match="is no index: move it"):
        VideoIndex.refresh(path, folder)
    assert path.read_text().startswith("somebody's")
    path.unlink()
    build(folder.parent).save(path)
    caplog.clear()
    assert len(build(folder)) == 4
    assert f"is the index of {folder.parent}, not of {folder}; it is not used" in caplog.text


def test_an_index_replaced_while_it_is_opened_is_read_whole(
    small_index: VideoIndex, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "index"
    small_index.save(path)
    (tmp_path / "other").write_bytes(b"x" * path.stat().st_size)
    parse = json.loads

    def replace_and_parse(text: bytes) -> object:
        os.replace(tmp_path / "other", path)
        return parse(text)

    monkeypatch.setattr("pipeline.array_file.json.loads", replace_and_parse)
    index = VideoIndex.load(path)
    assert path.read_bytes()[:1] == b"x"
    for row in range(len(index)):
        np.testing.assert_array_equal(index[row].offsets, small_index[row].offsets)


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "lost+found").mkdir()
    closed = ["lost+found"]
    error: type[OSError] = PermissionError
    scandir = os.scandir

    def refusing(path: str):  # type: ignore[no-untyped-def]
        if os.path.basename(path) in closed:
            raise error(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    everything = find_videos(folder)
    assert len(everything) == 5
    closed.append("b")
    with pytest.raises(InputError, match=f"{folder}/b cannot be listed: Permission denied: make it readable"):
        find_videos(folder)
    error = FileNotFoundError  # removed meanwhile
    assert find_videos(folder) == [path for path in everything if not path.startswith("b/")]


@pytest.mark.parametrize("path", [b"../../one.avi", b"/etc/1one.avi", b"a/../b/on.avi"])
def test_an_index_cannot_name_what_is_outside_its_folder(folder: Path, tmp_path: Path, path: bytes) -> None:
    index = VideoIndex.build(folder, num_workers=1, progress=False)
    columns, tables, names = index._columns, index._tables, index._names
    assert index.paths[0].encode() == b"a/one.avi"
    others = columns["paths"].tobytes().removeprefix(b"a/one.avi")
    longer = len(path) - len(b"a/one.avi")
    edited = {"paths": np.frombuffer(path + others, np.uint8), "paths_end": columns["paths_end"] + longer}
    VideoIndex(folder, {**columns, **edited}, tables, names, index._refusals, {}).save(tmp_path / "edited")
    with pytest.raises(InputError, match=f"edited names '{re.escape(path.decode())}', which is not below {folder}"):
        VideoIndex.load(tmp_path / "edited")
    refusals = {path.decode(): Refusal("is empty", Source(0, 0))}
    VideoIndex(folder, columns, tables, names, refusals, {}).save(tmp_path / "edited")
    with pytest.raises(InputError, match="edited names"):
        VideoIndex.load(tmp_path / "edited")
    VideoIndex(folder, columns, tables, names, {}, {path.decode(): (0, 0)}).save(tmp_path / "edited")
    with pytest.raises(InputError, match="edited names"):
        VideoIndex.load(tmp_path / "edited")


@pytest.mark.parametrize(
    "change", [{"offset": 2**40}, {"offset": -64}, {"length": 2**50}, {"dtype": "|O"}, {"dtype": 7}]
)
@pytest.mark.parametrize("array", ["paths", "tables"])
def test_an_edited_header_is_refused(
    small_index: VideoIndex, tmp_path: Path, array: str, change: dict[str, object]
) -> None:
    path = tmp_path / "index"
    small_index.save(path)
    content = path.read_bytes()
    magic, length, _ = array_file._PREFIX.unpack(content[: array_file._PREFIX.size])
    start, end = array_file._PREFIX.size, array_file._PREFIX.size + length
    header = json.loads(content[start:end])
    header["arrays"][array] |= change
    edited = json.dumps(header).encode()
    data = content[array_file._data_start(length) :]
    prefix = array_file._PREFIX.pack(magic, len(edited), zlib.crc32(edited))
    path.write_bytes((prefix + edited).ljust(array_file._data_start(len(edited)), b"\0") + data)
    with pytest.raises(InputError, match="makes no sense: delete it"):
        VideoIndex.load(path)


def test_program_says_what_it_found(folder: Path, tmp_path: Path) -> None:
    (folder / "b/\x1b[2J[red].mp4").touch()
    command = [sys.executable, "-m", "pipeline.index", str(folder), "--num-workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "refused: b/broken.mp4: not a video" in done.stdout
    assert "refused: b/\\x1b[2J[red].mp4: the file is empty" in done.stdout  # the screen is not cleared
    assert "4 videos of 160 frames, 2 files refused" in done.stdout
    assert len(VideoIndex.load(folder / FILE_NAME)) == 4
    done = subprocess.run([*command, "--index", str(folder / "a/one.avi")], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "one.avi is no index" in done.stderr


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bits_go_unseen(data: st.DataObject, small_index: VideoIndex, tmp_path: Path) -> None:
    path = tmp_path / "index"
    small_index.save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        index = VideoIndex.load(path)
    except InputError:
        return
    for row in range(len(small_index)):
        with contextlib.suppress(BadVideo):
            got = index[row]
            for field in fields(got):
                np.testing.assert_array_equal(getattr(got, field.name), getattr(small_index[row], field.name))


def test_an_index_cut_short_while_open_costs_its_videos_only(small_index: VideoIndex, tmp_path: Path) -> None:
    path = tmp_path / "index"
    small_index.save(path)
    index = VideoIndex.load(path)
    os.truncate(path, path.stat().st_size - 100)
    assert index[0].path == small_index[0].path
    with pytest.raises(BadVideo, match="delete the index"):
        index[len(index) - 1]


@pytest.mark.usefixtures("inline")
def test_a_damaged_record_is_scanned_again(folder: Path, tmp_path: Path) -> None:
    index = build(folder)
    path = tmp_path / "index"
    index.save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (folder / "b/broken.mp4").unlink()  # something has to change: an index that is up to date is not read through
    renewed = build(folder, VideoIndex.load(path))
    for row in range(len(index)):
        np.testing.assert_array_equal(renewed[row].offsets, index[row].offsets)


def test_columns_are_those_of_the_records(small_index: VideoIndex) -> None:
    for row in range(len(small_index)):
        assert small_index.num_frames[row] == small_index[row].num_frames
        assert tuple(small_index.display_sizes[row]) == small_index[row].display_size


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


@pytest.mark.usefixtures("inline")
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

    def note(root: Path, paths: Mapping[str, Source], num_workers: int, progress: bool):  # type: ignore[no-untyped-def]
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


def dies_of_broken(video: tuple[str, None]):  # type: ignore[no-untyped-def]
    if "broken" in video[0]:
        os.abort()
    return scan(*video)


@pytest.mark.usefixtures("inline")
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


def test_kinds_are_told_apart_by_what_decoders_care_about(small_index: VideoIndex) -> None:
    rows = np.arange(1, len(small_index))
    kinds, counts = small_index.kinds(rows)
    records = [small_index[row] for row in rows.tolist()]
    traits = [(r.codec, r.pixel_format, r.rotation, r.sliceable, r.joinable) for r in records]
    assert [rows.tolist().index(row) for row in kinds.tolist()] == [traits.index(t) for t in dict.fromkeys(traits)]
    assert counts.tolist() == [traits.count(t) for t in dict.fromkeys(traits)]
