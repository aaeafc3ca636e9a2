"""A video has one path, whether it is a file or in a tar, and what has not changed is not listed again."""

import os
from pathlib import Path

import pytest

from pipeline import sources as module
from pipeline.errors import InputError
from pipeline.sources import Refusal, Source, find_sources, stat_source
from pipeline.tars import list_tar
from tests.pipeline.test_tars import VIDEO, write_tar


def test_videos_are_called_as_if_their_tar_were_unpacked_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "train/jump").mkdir(parents=True)
    (tmp_path / "train/jump/loose.mp4").write_bytes(VIDEO)
    file = write_tar(tmp_path / "train/0.TAR", {"jump/a.mp4": VIDEO, "k.cls": b"7", "k.mp4": VIDEO[5:]})
    write_tar(tmp_path / "train/jump/flat.tar", {"b.mp4": VIDEO})
    for name in ("c.tar.gz", "d.TGZ", "table.csv.gz", "jump/.hidden.tar"):
        (tmp_path / "train" / name).write_bytes(b"")
    found = find_sources(tmp_path)
    assert found.videos.keys() == {
        *("train/jump/loose.mp4", "train/jump/a.mp4", "train/7/k.mp4", "train/jump/b.mp4"),
        *("train/c.tar.gz", "train/d.TGZ"),
    }
    assert found.refused.keys() == {"train/c.tar.gz", "train/d.TGZ"}
    assert all("run gunzip on it" in refusal.reason for refusal in found.refused.values())
    size, mtime_ns = found.tars["train/0.TAR"]
    start = found.videos["train/7/k.mp4"].start
    assert found.videos["train/7/k.mp4"] == Source(len(VIDEO) - 5, mtime_ns, "train/0.TAR", size, start)
    assert file.read_bytes()[start:].startswith(VIDEO[5:])
    assert found.videos["train/jump/loose.mp4"] == stat_source(tmp_path / "train/jump/loose.mp4")


def test_two_videos_of_one_path_are_an_error_that_names_both_places(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a/1.mp4": VIDEO})
    write_tar(tmp_path / "1.tar", {"./a/1.mp4": VIDEO})
    with pytest.raises(InputError, match=r"a/1\.mp4 is in 0\.tar and 1\.tar: remove one"):
        find_sources(tmp_path)
    (tmp_path / "1.tar").unlink()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.mp4").write_bytes(VIDEO)
    with pytest.raises(InputError, match=r"a/1\.mp4 is in 0\.tar and a file of its own: remove one"):
        find_sources(tmp_path)


def test_tars_are_listed_again_only_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = write_tar(tmp_path / "0.tar", {"a/1.mp4": VIDEO, "a/2.mp4": VIDEO})
    os.truncate(broken, 4000)
    write_tar(tmp_path / "1.tar", {"a/3.mp4": VIDEO})
    write_tar(tmp_path / "empty.tar", {})
    first = find_sources(tmp_path)
    assert first.refused.keys() == {"a/2.mp4", "0.tar"}
    listed: list[str] = []

    def noting(file: Path):  # type: ignore[no-untyped-def]
        listed.append(file.name)
        return list_tar(file)

    monkeypatch.setattr(module, "list_tar", noting)
    again = find_sources(tmp_path, first)
    assert (again.videos, again.tars, listed) == (first.videos, first.tars, [])
    write_tar(tmp_path / "1.tar", {"a/4.mp4": VIDEO})
    os.utime(tmp_path / "1.tar", ns=(1, 1))
    assert find_sources(tmp_path, first).videos.keys() == first.videos.keys() - {"a/3.mp4"} | {"a/4.mp4"}
    assert listed == ["1.tar"]


def test_a_tar_that_the_system_does_not_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "0.tar", {"a/1.mp4": VIDEO})

    def refuse(file: Path) -> None:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr(module, "list_tar", refuse)
        found = find_sources(tmp_path)
    stat = stat_source(tmp_path / "0.tar")
    whole = Source(0, -1, "0.tar", stat.size)
    assert found.refused == {"0.tar": Refusal("cannot be read: Permission denied", whole)}
    assert find_sources(tmp_path, found).videos.keys() == {"a/1.mp4"}
