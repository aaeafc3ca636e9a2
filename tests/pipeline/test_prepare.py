"""A prepared tree mirrors its source, whole, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import prepare as module
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.manifest import FOLDER, open_manifest, read_manifests
from pipeline.prepare import prepare

ROOT = Path(__file__).parents[2]
ODD_NAMES = ["a/it's (1).mp4", 'a/[x] "y".webm', "b/100%d.avi", os.fsdecode(b"b/caf\xe9.mp4"), "b/-dash.mp4"]


@pytest.fixture
def src(tmp_path: Path, video: Callable[..., Path]) -> Path:
    root = tmp_path / "src"
    codecs = {".mp4": "h264", ".webm": "vp8", ".avi": "mpeg4"}
    for number, name in enumerate(ODD_NAMES):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video(codecs[path.suffix], num_frames=6 + number).read_bytes())
    (root / "lists").mkdir()
    (root / "lists/train.txt").write_text("a/it's (1).mp4 1\n")
    (root / "val.CSV").write_text("label,youtube_id\n")
    return root


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Work in this process; returns a list that notes the sources worked on."""
    worked: list[str] = []

    def work(function: Any, jobs: list[Any], num_workers: int, **options: Any) -> Iterator[Any]:
        for job in jobs:
            worked.append(job.entry.path)
            yield job, function(job)

    monkeypatch.setattr(module, "map_in_processes", work)
    return worked


def run(src: Path, dst: Path, **options: Any) -> int:
    return prepare(src, dst, **{"codec": "mjpeg", "short_side": 32, **options})


def report(dst: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dst / "prepare_report.json").read_text())
    return found


def tree(folder: Path) -> dict[str, bytes]:
    """Contents of everything but the books that are kept."""
    files = (path for path in folder.rglob("*") if path.is_file() and "prepare" not in str(path.relative_to(folder)))
    return {os.fspath(path.relative_to(folder)): path.read_bytes() for path in files}


def test_names_classes_and_lists_are_kept_and_failures_are_named(src: Path, tmp_path: Path) -> None:
    (src / "a/broken.mp4").write_bytes(b"no video")
    (src / "b/linked").symlink_to(src / "a")
    dst = tmp_path / "dst"
    assert run(src, dst, num_workers=2) == 1
    expected = {os.path.splitext(name)[0] + ".avi" for name in ODD_NAMES} | {"lists/train.txt", "val.CSV"}
    assert tree(dst).keys() == expected
    assert (dst / "lists/train.txt").read_bytes() == (src / "lists/train.txt").read_bytes()
    index = VideoIndex.build(dst, num_workers=1, progress=False)
    assert not index.refused
    for row in range(len(index)):
        assert index[row].sliceable
        assert index[row].display_size == (42, 32)
    found = report(dst)
    assert found["failures"] == [{"path": "a/broken.mp4", "reason": found["failures"][0]["reason"]}]
    assert "not a video" in found["failures"][0]["reason"]
    assert (found["num_videos"], found["num_prepared"], found["num_missing"]) == (6, 5, 0)
    assert found["bytes_before"] == sum((src / name).stat().st_size for name in ODD_NAMES)
    assert found["bytes_after"] == sum((dst / path).stat().st_size for path in index.paths)
    text = (dst / "prepare_report.txt").read_text()
    assert "failed: a/broken.mp4: not a video" in text


def test_only_what_has_changed_is_done_again(src: Path, tmp_path: Path, inline: list[str], video: Any) -> None:
    dst = tmp_path / "dst"
    assert run(src, dst) == 0
    assert sorted(inline) == sorted(ODD_NAMES)
    before = tree(dst)
    inline.clear()
    assert run(src, dst) == 0
    assert inline == []

    (src / "a/it's (1).mp4").write_bytes(video("h264", num_frames=12).read_bytes())  # changed
    (dst / "b/100%d.avi").unlink()  # lost
    (src / "b/new.mp4").write_bytes(b"no video")  # fails now, so it is tried again below
    assert run(src, dst) == 1
    assert sorted(inline) == ["a/it's (1).mp4", "b/100%d.avi", "b/new.mp4"]
    after = tree(dst)
    assert [name for name in before if after[name] != before[name]] == ["a/it's (1).avi"]

    inline.clear()
    (src / "b/-dash.mp4").unlink()
    assert run(src, dst) == 1
    assert inline == ["b/new.mp4"]
    assert report(dst)["without_source"] == ["b/-dash.avi"]
    assert (dst / "b/-dash.avi").exists()  # named, not removed

    inline.clear()
    (src / "a/it's (1).mp4").write_bytes(b"ruined")
    assert run(src, dst) == 1
    assert not (dst / "a/it's (1).avi").exists()  # it showed what is no more


def test_other_options_replace_the_results(src: Path, tmp_path: Path, inline: list[str]) -> None:
    dst = tmp_path / "dst"
    run(src, dst)
    inline.clear()
    assert run(src, dst, codec="vp8", short_side=48) == 0
    assert len(inline) == len(ODD_NAMES)
    assert {os.path.splitext(name)[1] for name in tree(dst)} == {".webm", ".txt", ".CSV"}
    inline.clear()
    assert run(src, dst, codec="auto", short_side=48) == 0  # what the folder holds
    assert inline == []


def test_shards_do_everything_once_and_report_together(src: Path, tmp_path: Path, inline: list[str]) -> None:
    whole, dst = tmp_path / "whole", tmp_path / "dst"
    run(src, whole)
    inline.clear()
    for number in range(3):
        assert run(src, dst, shard=f"{number}/3") == 0
    assert sorted(inline) == sorted(ODD_NAMES)
    assert tree(dst) == tree(whole)
    assert report(dst)["num_prepared"] == len(ODD_NAMES)
    inline.clear()
    assert run(src, dst, shard="0/2") == run(src, dst) == 0
    assert inline == []  # other shards' results count


def test_videos_that_would_have_one_result_are_named_and_left_out(src: Path, tmp_path: Path, inline: list[str]) -> None:
    (src / "b/100%d.mkv").write_bytes((src / "b/100%d.avi").read_bytes())
    assert run(src, tmp_path / "dst") == 1
    assert not {"b/100%d.avi", "b/100%d.mkv"} & set(inline)
    reason = "b/100%d.avi and b/100%d.mkv would both become b/100%d.avi: rename one"
    assert {failure["path"]: failure["reason"] for failure in report(tmp_path / "dst")["failures"]} == {
        "b/100%d.avi": reason,
        "b/100%d.mkv": reason,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "2/2"}, "--shard 2/2: write i/n"),
        ({"shard": "one"}, "--shard one: write i/n"),
        ({"short_side": 4}, "--short-side 4"),
        ({"gop": 0}, "--gop 0"),
    ],
)
def test_senseless_options_are_refused_with_nothing_written(
    src: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(src, tmp_path / "dst", **options)
    assert not (tmp_path / "dst").exists()


def test_senseless_folders_are_refused_with_nothing_written(src: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    for dst in (src, src / "prepared", tmp_path):
        with pytest.raises(InputError, match="lie in each other"):
            run(src, dst)
    with pytest.raises(InputError, match="is not a folder"):
        run(tmp_path / "nowhere", tmp_path / "dst")
    (src / "b/0.tar").touch()
    with pytest.raises(InputError, match=r"b/0\.tar is a tar, and only files are taken: unpack it"):
        run(src, tmp_path / "dst")
    (src / "b/0.tar").unlink()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.mp4").touch()
    with pytest.raises(InputError, match="holds other files"):
        run(src, tmp_path / "full")
    assert tree(tmp_path) == before | {"full/mine.mp4": b""}


def test_two_processes_never_work_on_one_part(src: Path, tmp_path: Path, inline: list[str]) -> None:
    dst = tmp_path / "dst"
    (dst / FOLDER).mkdir(parents=True)
    with open_manifest(dst, "0of1"), pytest.raises(InputError, match="another process"):
        run(src, dst)
    assert inline == []


def test_a_manifest_cannot_have_files_removed_elsewhere(src: Path, tmp_path: Path, inline: list[str]) -> None:
    dst, victim = tmp_path / "dst", tmp_path / "victim.avi"
    victim.touch()
    run(src, dst)
    manifest = dst / FOLDER / "0of1.jsonl"
    for name in ("../victim.avi", str(victim)):
        line = {**json.loads(manifest.read_text().splitlines()[0]), "result": name, "size": 1}
        manifest.write_text(json.dumps(line) + "\n")
        with pytest.raises(InputError, match=r"0of1\.jsonl, line 1: .*victim\.avi' leads out of its folder"):
            run(src, dst)
    assert victim.exists()


def test_a_line_cut_off_costs_its_video_only(src: Path, tmp_path: Path, inline: list[str]) -> None:
    dst = tmp_path / "dst"
    run(src, dst)
    manifest = dst / FOLDER / "0of1.jsonl"
    manifest.write_text(manifest.read_text()[:-30])
    inline.clear()
    assert run(src, dst) == 0
    assert len(inline) == 1
    assert len(read_manifests(dst)) == len(ODD_NAMES)


def test_a_full_disk_ends_the_run(src: Path, tmp_path: Path, inline: list[str], monkeypatch: Any) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "transcode", full)
    with pytest.raises(OSError, match="No space"):
        run(src, tmp_path / "dst")
    assert len(inline) == 1


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_run_is_taken_up_to_the_same_end(
    signum: int,
    status: int,
    tmp_path: Path,
    video: Callable[..., Path],
    wait_until: Callable[..., None],
    inline: list[str],
) -> None:
    src, dst, whole = tmp_path / "src", tmp_path / "dst", tmp_path / "whole"
    (src / "a").mkdir(parents=True)
    for number in range(40):
        os.link(video("vp8"), src / f"a/{number:02}.webm")
    options = ["--codec", "mjpeg", "--short-side", "32", "--num-workers", "1"]
    program = subprocess.Popen(
        [sys.executable, "-m", "pipeline.prepare", str(src), str(dst), *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    manifest = dst / FOLDER / "0of1.jsonl"
    wait_until(lambda: manifest.exists() and manifest.read_text().count("\n") > 2)
    program.send_signal(signum)
    errors = program.communicate(timeout=30)[1]
    assert program.returncode == status
    assert signum == signal.SIGKILL or "the same command goes on" in errors
    assert "Traceback" not in errors

    done = read_manifests(dst)
    assert 0 < len(done) < 40
    assert run(src, dst) == run(src, whole) == 0
    assert len(inline) == 40 - len(done) + 40  # what was left, then all for comparison
    assert tree(dst) == tree(whole)
    assert [path.name for path in (dst / FOLDER).iterdir()] == ["0of1.jsonl"]


def test_lines_of_a_manifest_that_are_no_text_are_passed_over(src: Path, tmp_path: Path, inline: list[str]) -> None:
    dst = tmp_path / "dst"
    assert run(src, dst) == 0
    with (dst / FOLDER / "0of1.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\x00 a disk's garbage\n")
    inline.clear()
    assert run(src, dst) == 0
    assert inline == []
