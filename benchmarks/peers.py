"""How fast is our loader beside the best that a user could put together otherwise?

All load the same clips from the same files: 8 frames 8 apart of 24 videos, with their partners of the temporal
gradient, cropped, resized to 224x224, flipped, in a weak and a strong view of RGB and temporal gradient, uint8, by
two threads or processes.  They take turns, in another order each round, since machines are noisy.  Peers that are not
installed are passed over and named; benchmarks/requirements-peers.txt lists them.

    python -m benchmarks peers --source FOLDER_OF_VIDEOS --rounds 5
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.clips import KINDS, ORIGINAL, describe, make_clips
from benchmarks.results import RESULTS, Series, finish
from benchmarks.turns import Candidate, Made, Speed, in_rounds
from benchmarks.utilization import sampled
from benchmarks.verdicts import judge, print_verdicts
from pipeline.errors import InputError
from pipeline.index import VideoIndex

OURS = "ours"
REFERENCE = "reference"
# name: packages it needs
PEERS: dict[str, tuple[str, ...]] = {
    REFERENCE: ("decord", "cv2", "imgaug"),
    "pyav_torchvision": (),
    "decord_torchvision": ("decord",),
    "torchcodec_torchvision": ("torchcodec",),
    "spdl_torchvision": ("spdl",),
}
WARMUP_CLIPS = 16
_NUM_SAMPLES = 480  # then from the first again: 20 clips of each video
TARGET_OVER_REFERENCE = 3.0
TARGET_OVER_BEST = 1.2


@dataclass(frozen=True, kw_only=True)
class PeersBenchmark:
    """Compare our loader with others on the same files."""

    source: Path | None = None
    """Folder of real videos that the clips are made from; without one they are drawn."""
    clips: Path = Path("data/benchmark-clips")
    """Where the clips are kept: 24 in four kinds of files, about 170 MB, made once."""
    rounds: int = 5
    """Turns of every loader on every kind of file, at most."""
    seconds: float = 2.5
    """Length of a turn."""
    budget_s: float = 600.0
    """No round is begun that would not end within so many seconds; the first one is always taken."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds <= 0:
            raise InputError(f"rounds {self.rounds} and seconds {self.seconds} must be above 0")


def run(benchmark: PeersBenchmark) -> int:
    """Measure, print the table, keep the result.

    Raises:
        InputError: a folder or an option is not usable.
    """
    console = Console()
    console.width = max(console.width, 110)  # the table is not for folding, in a log file either
    folders = make_clips(benchmark.clips, benchmark.source)
    indexes = {kind: benchmark.clips / f"{kind}.index" for kind in KINDS}
    for kind, folder in folders.items():
        VideoIndex.build(folder, progress=False).save(indexes[kind])
    missing = missing_packages()
    for name, packages in missing.items():
        console.print(f"{name}: passed over, {', '.join(packages)} not installed (benchmarks/requirements-peers.txt)")
    entrants = [
        (kind, name)
        for kind in KINDS
        for name in (OURS, *PEERS)
        # The reference reads data sets as they are downloaded; it knows no prepared files.
        if name not in missing and (name != REFERENCE or kind == ORIGINAL)
    ]
    with sampled(children=True) as utilization:
        speeds, errors = _take_turns(entrants, indexes, benchmark)
    for (kind, name), error in errors.items():
        console.print(f"{name} on {kind} failed: {error}", style="red")
    summary = summarize(speeds)
    console.print(_table(summary))
    verdicts = find_verdicts(speeds)
    met = print_verdicts(console, verdicts)
    finish(
        "peers",
        benchmark,
        benchmark.results,
        series=to_series(speeds),
        utilization=utilization,
        findings={
            "clips": describe(folders),
            "loaders": summary,
            "verdicts": verdicts,
            "missing": {name: list(packages) for name, packages in missing.items()},
            "errors": {f"{name} on {kind}": error for (kind, name), error in errors.items()},
        },
        packages=("decord", "opencv-python-headless", "imgaug", "torchcodec", "spdl"),
    )
    return 0 if met else 1


def missing_packages() -> dict[str, tuple[str, ...]]:
    """What is not installed, of the peers that cannot run for it."""
    missing = {name: tuple(p for p in packages if find_spec(p) is None) for name, packages in PEERS.items()}
    return {name: packages for name, packages in missing.items() if packages}


Entrant = tuple[str, str]  # kind of file, loader


def _take_turns(
    entrants: list[Entrant], indexes: dict[str, Path], benchmark: PeersBenchmark
) -> tuple[dict[Entrant, list[Speed]], dict[Entrant, str]]:
    """Speeds of each entrant, one a round, and the errors of those that failed."""
    speeds: dict[Entrant, list[Speed]] = {entrant: [] for entrant in entrants}
    errors: dict[Entrant, str] = {}
    candidates = {name: Candidate(make_clips_of) for name in dict.fromkeys(name for _, name in entrants)}
    try:
        for kind, name in in_rounds(entrants, benchmark.rounds, benchmark.budget_s):
            if (kind, name) in errors:
                continue
            speed = candidates[name].turn(name, indexes[kind], warmup_clips=WARMUP_CLIPS, seconds=benchmark.seconds)
            if isinstance(speed, Speed):
                speeds[kind, name].append(speed)
            else:
                errors[kind, name] = speed
    finally:
        for candidate in candidates.values():
            candidate.close()
    return {entrant: measured for entrant, measured in speeds.items() if entrant not in errors}, errors


def make_clips_of(name: str, index_path: Path) -> Iterator[Made]:
    """Run a loader without end, and say how many clips have come.

    Workers make whole batches, side by side, so a peer's batches come in bunches, one of each worker.  Where the clock
    stopped between two of a bunch, the work for both would be there and the clips of one: bunches are counted whole.
    """
    index = VideoIndex.load(index_path)
    module = import_module(f"benchmarks.peer_loaders.{name}")
    if name == OURS:
        bunch, batches = 1, module.batches(index)
    else:
        from benchmarks.peer_loaders.check import check_views
        from benchmarks.peer_loaders.common import NUM_WORKERS, draw_samples

        samples = draw_samples(index, _NUM_SAMPLES)
        bunch, batches = NUM_WORKERS, module.batches(samples)
    try:
        made = [next(batches) for _ in range(bunch)]
        if name != OURS:
            check_views(index, samples, made[0])
        while True:
            yield Made(sum(len(views[0]) for views in made))
            made = [next(batches) for _ in range(bunch)]
    finally:
        batches.close()


def to_series(speeds: dict[Entrant, list[Speed]]) -> dict[str, Series]:
    """All turns: clips/s of "mjpeg: ours", cpu-ms a clip of "mjpeg: ours, cpu"."""
    series = {}
    for (kind, name), measured in speeds.items():
        series[f"{kind}: {name}"] = Series("clips/s", "higher", tuple(speed.clips_per_s for speed in measured))
        cpu = tuple(speed.cpu_ms_per_clip for speed in measured)
        series[f"{kind}: {name}, cpu"] = Series("cpu-ms/clip", "lower", cpu)
    return series


def summarize(speeds: dict[Entrant, list[Speed]]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians and spread by kind of file and loader.

    The ratio to ours is the median of the rounds' own ratios: what slows the machine for a while slows both.
    """
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for (kind, name), measured in speeds.items():
        rates = [speed.clips_per_s for speed in measured]
        row = {
            "clips_per_s": median(rates),
            "clips_per_s_min": min(rates),
            "clips_per_s_max": max(rates),
            "cpu_ms_per_clip": median(speed.cpu_ms_per_clip for speed in measured),
        }
        if (kind, OURS) in speeds:
            pairs = list(zip(speeds[kind, OURS], measured, strict=True))
            row["ours_is_times_faster"] = median(ours.clips_per_s / its.clips_per_s for ours, its in pairs)
            row["times_our_cpu"] = median(its.cpu_ms_per_clip / ours.cpu_ms_per_clip for ours, its in pairs)
        summary.setdefault(kind, {})[name] = {key: round(value, 2) for key, value in row.items()}
    return summary


def find_verdicts(speeds: dict[Entrant, list[Speed]]) -> dict[str, dict[str, Any]]:
    """Whether our loader is as much faster as it should be.

    Over the best peer on each kind of file, and over the paper's way, each side with the files that suit it best: the
    paper's way reads them as they were downloaded.
    """
    rates = {entrant: [speed.clips_per_s for speed in measured] for entrant, measured in speeds.items()}
    ours = {kind: turns for (kind, name), turns in rates.items() if name == OURS}
    verdicts = {}
    for kind, turns in ours.items():
        over = {
            name: judge(f"{kind}: ours over {name}", turns, theirs, TARGET_OVER_BEST)
            for (other, name), theirs in rates.items()
            if other == kind and name not in (OURS, REFERENCE)
        }
        if over:
            verdicts[f"{kind}_over_best_peer"] = min(over.values(), key=lambda verdict: verdict["ratio"])
    reference = rates.get((ORIGINAL, REFERENCE))
    if reference and ours:
        best = max(ours, key=lambda kind: median(ours[kind]))
        what = f"ours on {best} over {REFERENCE} on {ORIGINAL}"
        verdicts["best_over_reference"] = judge(what, ours[best], reference, TARGET_OVER_REFERENCE)
    return verdicts


def _table(summary: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = Table("file", "loader", "clips/s", "ours is", "cpu-ms per clip", "of ours")
    for kind, rows in summary.items():
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["clips_per_s"]):
            rate = f"{row['clips_per_s']:.1f} [{row['clips_per_s_min']:.1f}..{row['clips_per_s_max']:.1f}]"
            faster, dearer = (
                f"{row[key]:.2f}x" if key in row else "" for key in ("ours_is_times_faster", "times_our_cpu")
            )
            cells = (kind, name, rate, faster, f"{row['cpu_ms_per_clip']:.1f}", dearer)
            table.add_row(*cells, style="bold" if name == OURS else None)
        table.add_section()
    return table


def main() -> None:
    """Command line: the fields of :class:`PeersBenchmark`."""
    results.main(PeersBenchmark, run)


if __name__ == "__main__":
    main()
