"""The set every comparison reads: the same frames in every kind of file, made once."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks import clips
from pipeline.errors import InputError
from pipeline.record import CLOSED
from pipeline.scanning import scan


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NUM_CLIPS": 3, "NUM_FRAMES": 20, "WIDTH": 96, "HEIGHT": 64}.items():
        monkeypatch.setattr(clips, name, value)


def gray(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)]).astype(np.int16)


@pytest.mark.parametrize("real", [False, True])
def test_every_kind_shows_the_same_frames(real: bool, tmp_path: Path, video: Callable[..., Path]) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    for number in range(2):
        (source / f"{number}.avi").write_bytes(video("mjpeg", num_frames=8, seed=number).read_bytes())
    (source / "broken.avi").write_bytes(b"not a video")
    folders = clips.make_clips(tmp_path / "clips", source if real else None)
    for number in range(3):
        shown = {kind: gray(next(folder.glob(f"{number:02}.*"))) for kind, folder in folders.items()}
        for frames in shown.values():
            assert frames.shape == (20, 64, 96)
            apart = [np.abs(frames - np.roll(shown["mjpeg"], shift, axis=0)).mean() for shift in (0, 1, -1)]
            assert np.argmin(apart) == 0
            if real:  # forward, backward, forward
                assert np.abs(frames[1:7] - frames[13:7:-1]).mean() < np.abs(frames[1:7] - frames[2:8]).mean() * 0.75
    note = clips.describe(folders)
    assert note["source"] == ("videos" if real else "synthetic")
    records = {kind: scan(next(folder.glob("00.*"))) for kind, folder in folders.items()}
    codecs = {kind: record.codec for kind, record in records.items()}
    assert codecs == {clips.ORIGINAL: "h264", **clips.PREPARED}
    keys = {kind: np.flatnonzero(record.roles >= CLOSED).tolist() for kind, record in records.items()}
    assert keys["prepared_h264"] == keys["vp8"] == [0, 8, 16]
    with av.open(records["h264"].path) as container:
        assert container.streams.video[0].codec_context.has_b_frames


def test_what_is_missing_is_made_and_what_is_there_is_kept(tmp_path: Path) -> None:
    folders = clips.make_clips(tmp_path, None)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for f in folders.values() for path in f.iterdir()}
    (folders["vp8"] / "01.webm").unlink()
    clips.make_clips(tmp_path, None)
    for path, (time_ns, content) in before.items():
        assert path.read_bytes() == content, "the same frames give the same file"
        assert (path.stat().st_mtime_ns == time_ns) == (path.name != "01.webm")
    with pytest.raises(InputError, match="holds clips made from synthetic: delete it or name another folder"):
        clips.make_clips(tmp_path, tmp_path)


def test_a_source_without_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of the 3 videos tried can be read"):
        clips.make_clips(tmp_path / "clips", tmp_path)
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(InputError, match="no videos in"):
        clips.make_clips(tmp_path / "more", tmp_path)
