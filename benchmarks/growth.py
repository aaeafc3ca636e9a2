"""How does cost grow?

Clips/s and CPU time of a clip, by the loader with all four views at 112 pixels, while one thing at a time varies:
frame stride, clip length, GOP length, video length, resolution, threads, batch, ranks; and what an index and its plans
cost while the data set grows.  Videos are drawn, H.264.  The points of the loader take turns, so that what slows the
machine for a while slows all; ranks and indexes are measured after them, each point by itself.

    python -m benchmarks growth --only gop threads
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from rich.console import Console
from rich.progress import track

from benchmarks import results
from benchmarks.growth_measure import Setting, clips, index_costs, make_videos, rank_speed
from benchmarks.growth_page import finding, grid, point
from benchmarks.results import RESULTS, Series, finish
from benchmarks.turns import Candidate, Speed
from benchmarks.utilization import sampled
from pipeline.errors import InputError

Item = TypeVar("Item")
Axis = Literal["frame_stride", "clip_len", "gop", "num_frames", "height", "threads", "batch", "ranks", "videos"]

VALUES: dict[Axis, tuple[int, ...]] = {
    "frame_stride": (1, 2, 4, 8, 16),
    "clip_len": (2, 4, 8, 16),
    "gop": (1, 4, 8, 16, 64, 250),
    "num_frames": (80, 250, 640, 1280),
    "height": (64, 128, 256, 512),
    "threads": (1, 2, 4),
    "batch": (2, 4, 8, 16),
    "ranks": (1, 2),
    "videos": (1_000, 10_000, 100_000, 1_000_000),
}
_SHORT = 80  # frames of videos whose resolution varies: the largest take long to draw
_RANK_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class GrowthBenchmark:
    """Measure how cost grows."""

    only: tuple[Axis, ...] = get_args(Axis)
    """What varies."""
    seconds: float = 0.5
    """Length of a loader's turn."""
    repeats: int = 3
    """Turns of each point."""
    max_videos: int = 1_000_000
    """Most videos of an index."""
    clips: Path = Path("data/benchmark-growth")
    """Where the videos are kept; made once."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}: it must be above 0")
        if self.repeats < 1:
            raise InputError(f"repeats is {self.repeats}: use 1 or more, 3 for numbers to be trusted")
        if not self.only:
            raise InputError(f"only names nothing: choose from {', '.join(VALUES)}")


class Point(NamedTuple):
    """A point of an axis of the loader."""

    axis: Axis
    value: int
    setting: Setting


def run(benchmark: GrowthBenchmark) -> int:
    """Measure, print, keep the result."""
    with sampled(children=True) as utilization:
        series = dict(_loader_series(benchmark))
        if "ranks" in benchmark.only:
            series |= _rank_series(benchmark)
        if "videos" in benchmark.only:
            series |= _index_series(benchmark)
    findings: dict[str, Any] = {axis: finding(axis, series) for axis in VALUES if axis in benchmark.only}
    console = Console()
    for axis, found in findings.items():
        console.print(grid(axis, series).table())
        console.print(*found["sentences"], sep="\n")
    finish("growth", benchmark, benchmark.results, series=series, findings=findings, utilization=utilization)
    return 0


def points(only: tuple[Axis, ...]) -> list[Point]:
    """Points of the loader's axes among those asked for."""
    found = []
    for axis in VALUES:
        if axis in only and hasattr(Setting, axis):
            base = Setting(num_frames=_SHORT) if axis == "height" else Setting()
            found += [Point(axis, value, replace(base, **{axis: value})) for value in VALUES[axis]]
    return found


def _loader_series(benchmark: GrowthBenchmark) -> Iterator[tuple[str, Series]]:
    wanted = points(benchmark.only)
    settings = list(dict.fromkeys(one.setting for one in wanted))  # axes share their middle
    if not settings:
        return
    folders = {one: make_videos(benchmark.clips, one) for one in _shown(settings, "making videos")}
    speeds: dict[Setting, list[Speed]] = {one: [] for one in settings}
    candidate = Candidate(clips)
    try:
        turns = [one for _ in range(benchmark.repeats) for one in settings]
        for one in _shown(turns, "loaders"):
            warmup = 2 * one.batch  # a batch
            speed = candidate.turn(folders[one], one, warmup_clips=warmup, seconds=benchmark.seconds)
            if isinstance(speed, str):
                raise InputError(f"{one} cannot be measured: {speed}")
            speeds[one].append(speed)
    finally:
        candidate.close()
    for axis, value, setting in wanted:
        yield from _series(axis, value, speeds[setting]).items()


def _rank_series(benchmark: GrowthBenchmark) -> dict[str, Series]:
    setting = Setting(batch=_RANK_BATCH)
    folder = make_videos(benchmark.clips, setting)
    speeds: dict[int, list[Speed]] = {ranks: [] for ranks in VALUES["ranks"]}
    for ranks in _shown(list(VALUES["ranks"]) * benchmark.repeats, "ranks"):
        speeds[ranks].append(rank_speed(folder, setting, ranks))
    series: dict[str, Series] = {}
    for ranks, found in speeds.items():
        series |= _series("ranks", ranks, found)
    return series


def _series(axis: Axis, value: int, speeds: list[Speed]) -> dict[str, Series]:
    return {
        point(axis, value, "clips/s"): Series("clips/s", "higher", tuple(one.clips_per_s for one in speeds)),
        point(axis, value, "cpu-ms"): Series("cpu-ms/clip", "lower", tuple(one.cpu_ms_per_clip for one in speeds)),
    }


def _index_series(benchmark: GrowthBenchmark) -> dict[str, Series]:
    series = {}
    for videos in _shown([size for size in VALUES["videos"] if size <= benchmark.max_videos], "indexes"):
        costs: Mapping[str, list[float]] = index_costs(benchmark.clips / "index", videos, benchmark.repeats)
        for name, values in costs.items():
            series[point("videos", videos, name)] = Series(name.rpartition(", ")[2], "lower", tuple(values))
    return series


def _shown(items: list[Item], what: str) -> Iterator[Item]:
    yield from track(items, what, console=Console(stderr=True), transient=True)


def main() -> None:
    """Command line: the fields of :class:`GrowthBenchmark`."""
    results.main(GrowthBenchmark, run)


if __name__ == "__main__":
    main()
