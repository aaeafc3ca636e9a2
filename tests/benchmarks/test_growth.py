"""Growth is measured along each axis, and what is said of it follows from the numbers."""

import queue
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import growth, growth_measure
from benchmarks.growth import VALUES, GrowthBenchmark, points, run
from benchmarks.growth_measure import Setting, clips, make_videos
from benchmarks.growth_page import INDEX, charts, curve, exponent, finding, markdown, measurements, point, verdict
from benchmarks.results import Record, Series, read
from benchmarks.turns import Speed
from pipeline.errors import InputError
from pipeline.index import VideoIndex

SMALL = Setting(num_frames=20, height=48, frame_stride=1, clip_len=4, batch=2)


def power_law(axis: str, power: float) -> dict[str, Series]:
    """Every measurement of an axis as 3 x^power."""
    return {
        point(axis, value, one): Series("ms", "lower", (2.5 * value**power, 3 * value**power, 4 * value**power))
        for value in VALUES[axis]  # type: ignore[index]
        for one in measurements(axis)
    }


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (-0.5, "it falls"),
        (0.0, "no dependence"),
        (0.3, "far slower than in proportion"),
        (0.7, "slower than in proportion"),
        (1.0, "in proportion"),
        (1.5, "faster than in proportion"),
    ],
)
def test_a_sentence_states_the_power_of_its_curve(power: float, words: str) -> None:
    series = power_law("gop", power)
    assert exponent(curve("gop", "cpu-ms", series)) == pytest.approx(power)
    assert verdict(power) == words
    (sentence,) = finding("gop", series)["sentences"]
    assert sentence.endswith(f"goes from 3 to {3 * 250**power:.3g} cpu-ms, as the power {power:.3g}: {words}.")


def test_points_vary_one_thing_each_and_axes_meet_in_the_middle() -> None:
    wanted = points(tuple(VALUES))
    for axis, value, setting in wanted:
        base = Setting(num_frames=80) if axis == "height" else Setting()
        assert {name for name in vars(base) if getattr(setting, name) != getattr(base, name)} <= {axis}
        assert getattr(setting, axis) == value
    assert {axis for axis, _, _ in wanted} == set(VALUES) - {"ranks", "videos"}
    assert len({setting for _, _, setting in wanted}) < len(wanted)


def test_every_point_takes_every_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, make: Callable[..., object]) -> None:
            assert make is clips

        def turn(self, folder: Path, setting: Setting, **_: object) -> Speed:
            return Speed(10.0 * setting.threads, 30.0)

        def close(self) -> None:
            pass

    monkeypatch.setattr(growth, "Candidate", Fake)
    monkeypatch.setattr(growth, "make_videos", lambda root, setting: root)
    assert run(GrowthBenchmark(only=("threads",), repeats=2, clips=tmp_path, results=tmp_path)) == 0
    record = read(tmp_path / "growth.json")
    assert record.series["threads 4: clips/s"].values == (40.0, 40.0)
    (sentence,) = record.findings["threads"]["sentences"]
    assert sentence == "threads: 2 give 2.00, 4 give 4.00 times the clips/s of 1."


def test_a_loader_and_a_rank_deliver_clips_of_their_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth_measure, "SIZE", 32)
    monkeypatch.setattr(growth_measure, "_RANK_BATCHES", 1)
    folder = make_videos(tmp_path, SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert make_videos(tmp_path, SMALL) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before, "made once"
    assert VideoIndex.load(folder / ".index").num_frames.tolist() == [20, 20]
    made = clips(folder, SMALL)
    assert next(made).clips == 4
    made.close()  # type: ignore[attr-defined]
    answers: queue.Queue[Speed] = queue.Queue()
    growth_measure._run_rank(0, 1, str(tmp_path), folder, SMALL, answers)  # type: ignore[arg-type]
    assert answers.get().clips_per_s > 0


def test_a_large_index_is_built_of_records_that_can_be_read_back(tmp_path: Path) -> None:
    example, path = tmp_path / "example.mp4", tmp_path / "index"
    example.write_bytes(next(make_videos(tmp_path, SMALL).glob("*.mp4")).read_bytes())
    assert len(growth_measure._build(path, example, 200, 2)) == 2
    index = VideoIndex.load(path)
    assert len(index) == len(set(index.paths)) == 200
    assert len(index[199].sizes) == 20
    assert set(growth_measure._open(path)) == set(INDEX) - {"build, s"}


def test_each_axis_has_its_chart_and_its_words(tmp_path: Path) -> None:
    axes = ("gop", "ranks", "videos")
    series = {name: one for axis in axes for name, one in power_law(axis, 0.5).items()}
    findings = {axis: finding(axis, series) for axis in axes}
    record = Record("growth", "", None, {}, {}, {}, series, findings)
    drawings = charts(record)
    assert list(drawings) == [f"growth-{axis}" for axis in axes]
    paths = [tmp_path / f"{name}.png" for name in drawings]
    for path, draw in zip(paths, drawings.values(), strict=True):
        draw(path)
    assert all(5_000 < path.stat().st_size < 100_000 for path in paths)
    text = markdown(record)
    assert all(sentence in text for found in findings.values() for sentence in found["sentences"])
    assert all(f"charts/{path.name}" in text for path in paths)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="seconds is 0"):
        GrowthBenchmark(seconds=0)
    with pytest.raises(InputError, match="only names nothing"):
        GrowthBenchmark(only=())
