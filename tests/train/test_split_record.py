"""What a run notes about its videos, and what it makes of the notes."""

import json
from pathlib import Path

import pytest

from pipeline.datasets import DataSplit, split_videos
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from train.split_record import REFUSED, SPLIT, check_same_split, remarks, write_split


@pytest.fixture
def split(small_index: VideoIndex) -> DataSplit:
    return split_videos(small_index)


@pytest.mark.parametrize(
    "content", [b"", b'{"digests": {"lab', b"[]", b'{"digests": {}}', b'{"digests": null}', b"\xff"]
)
def test_a_damaged_record_is_one_clear_line(tmp_path: Path, content: bytes, split: DataSplit) -> None:
    (tmp_path / SPLIT).write_bytes(content)
    with pytest.raises(InputError, match=r"split\.json is damaged, .*delete it") as error:
        check_same_split(tmp_path, split)
    assert "\n" not in str(error.value)


def test_a_kill_while_writing_leaves_the_record_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_index: VideoIndex, split: DataSplit
) -> None:
    write_split(tmp_path, small_index, split)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def die(fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path, small_index, split)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert json.loads(before[SPLIT])["digests"] == split.digests
    check_same_split(tmp_path, split)


@pytest.mark.parametrize(("num_refused", "num_lines"), [(0, 0), (20, 20), (21, 21), (3000, 21)])
def test_refused_videos_are_all_written_and_the_first_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_index: VideoIndex,
    split: DataSplit,
    num_refused: int,
    num_lines: int,
) -> None:
    refused = {f"left/{number:04}\udcff.avi": "empty" for number in range(num_refused)}
    monkeypatch.setattr(small_index, "refused", refused)
    lines = remarks(small_index, split, tmp_path)
    assert len(lines) == num_lines
    assert lines[:1] == ["left out: left/0000\ufffd.avi: empty"][: min(num_refused, 1)]
    assert any(str(tmp_path / REFUSED) in line and str(num_refused) in line for line in lines) == (num_refused > 20)
    write_split(tmp_path, small_index, split)
    written = (tmp_path / REFUSED).read_text("utf-8").splitlines() if num_refused else []
    assert written == [f"left/{number:04}\ufffd.avi\tempty" for number in range(num_refused)]
