"""Both sides train on files, labeled and unlabeled clips alike, and tell how long they waited."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import clips, decode_to_loss
from benchmarks.decode_to_loss import ENTRANTS, DecodeToLossBenchmark, run, take_steps
from benchmarks.peers import OURS, REFERENCE, missing_packages
from benchmarks.results import read
from pipeline.errors import InputError
from pipeline.index import VideoIndex


def test_our_steps_count_each_clip_once_and_the_wait_for_data(video: Callable[..., Path], tmp_path: Path) -> None:
    for number in range(2):
        source = video("mjpeg", num_frames=70, seed=number)
        (tmp_path / f"{number}.avi").write_bytes(source.read_bytes())
    index = tmp_path / "index"
    VideoIndex.build(tmp_path, num_workers=1, progress=False).save(index)
    steps = take_steps(OURS, DecodeToLossBenchmark(size=32, width=4), index)
    made = [next(steps) for _ in range(2)]
    steps.close()  # type: ignore[attr-defined]
    assert [one.clips for one in made] == [4, 4]
    assert made[0].waited_s > 0


@pytest.mark.skipif(REFERENCE in missing_packages(), reason="decord, OpenCV or imgaug is not installed")
def test_both_ways_are_timed_in_turns_from_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NUM_CLIPS": 4, "NUM_FRAMES": 70, "WIDTH": 96, "HEIGHT": 64}.items():
        monkeypatch.setattr(clips, name, value)
    monkeypatch.setattr(decode_to_loss, "TARGET", 0.0)
    monkeypatch.setattr(decode_to_loss, "TARGET_WAIT_PCT", 100.0)
    benchmark = DecodeToLossBenchmark(
        clips=tmp_path / "clips", size=32, width=4, rounds=1, seconds=0.1, results=tmp_path
    )
    assert run(benchmark) == 0
    record = read(tmp_path / "decode_to_loss.json")
    assert {f"{kind}: {side}" for kind, side in ENTRANTS} == {name for name in record.series if "," not in name}
    assert set(record.findings["verdicts"]) == {"h264", "mjpeg"}


def test_what_the_papers_way_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_to_loss, "missing_packages", lambda: {REFERENCE: ("no_such_package",)})
    with pytest.raises(InputError, match="needs no_such_package"):
        run(DecodeToLossBenchmark())
    with pytest.raises(InputError, match="batch_labeled is 1"):
        DecodeToLossBenchmark(batch_labeled=1)
