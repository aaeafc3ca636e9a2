"""What does each station of the data path cost, from the plan to the views?

Times every station by itself, one after another in one process, so that the ratios hold on a busy machine: planning,
reading the packets of a clip, decoding with crop and scale, the numbers of the strong views, and the graph's stations
as differences between graphs that have them and graphs that do not.  A second table prices each strong operation, for
the clips that draw it.  CPU time of all threads, milliseconds per clip.

    python -m benchmarks stations ROOT --num-clips 48
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import results
from benchmarks.results import RESULTS, finish
from pipeline.decode import decode_clip
from pipeline.errors import InputError
from pipeline.graph import ClipGraph, GraphSpec, Sample
from pipeline.index import VideoIndex
from pipeline.plan import ClipSpec, StrongPlan
from pipeline.slicing import slice_clip
from pipeline.stream import ClipStream, PlannedClip
from pipeline.strong import OPS, StrongParameters, strong_parameters

Station = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class StationsBenchmark:
    """Price the stations of the data path on a folder of class folders, decoded by FFmpeg on the CPU."""

    root: Annotated[Path, tyro.conf.Positional]
    """Folder of class folders."""
    num_clips: int = 48
    """Clips that are timed: a whole number of batches."""
    batch_size: int = 8
    """Clips in a batch."""
    num_rounds: int = 5
    """Times each station is timed; the median counts."""
    clip_len: int = 8
    """Frames of a clip."""
    frame_stride: int = 8
    """Distance between two frames of a clip, in frames of the video."""
    size: int = 224
    """Height and width of the clips in pixels."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "batch_size", "num_rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: use 1 or more")
        if self.num_clips % self.batch_size:
            raise InputError(f"num_clips is {self.num_clips}: use a multiple of batch_size, {self.batch_size}")


@dataclass(frozen=True)
class Graphs:
    """The four graphs whose differences are the stations, named for what they make beside weak RGB."""

    weak: ClipGraph
    tg: ClipGraph
    strong: ClipGraph
    all: ClipGraph


def measure(benchmark: StationsBenchmark) -> tuple[dict[str, float], dict[str, float]]:
    """Run the benchmark.

    Returns:
        CPU milliseconds per clip of each station, and of each strong operation for a clip that drew it alone.

    Raises:
        InputError: the folder or an option is not usable.
        BadVideo: a video cannot be read or decoded.
    """
    index = VideoIndex.build(benchmark.root)
    spec = ClipSpec(
        clip_len=benchmark.clip_len,
        frame_stride=benchmark.frame_stride,
        size=benchmark.size,
        eval_size=max(benchmark.size, 256),
    )
    rows = np.arange(len(index.paths))
    stream = ClipStream(index, rows, spec, seed=0, name="stations", batch_size=benchmark.batch_size)
    steps = range(benchmark.num_clips // benchmark.batch_size)
    clips = [clip for step in steps for clip in stream.batch(step)]

    def graph(*, tg: bool, strong: bool) -> ClipGraph:
        graph_spec = GraphSpec(spec.clip_len, tg=tg, strong=strong, decoder="ffmpeg")
        return ClipGraph(graph_spec, spec.size, benchmark.batch_size, "cpu", num_threads=1)

    graphs = Graphs(
        weak=graph(tg=False, strong=False),
        tg=graph(tg=True, strong=False),
        strong=graph(tg=False, strong=True),
        all=graph(tg=True, strong=True),
    )
    host = _host_stations(index, stream, steps, clips)
    samples = {name: [one.read(index[row], plan) for row, plan in clips] for name, one in vars(graphs).items()}
    made = {name: _run(one, samples[name], benchmark.batch_size) for name, one in vars(graphs).items()}
    alone = {
        name: _run(graphs.strong, [sample | switched for sample in samples["strong"]], benchmark.batch_size)
        for name, switched in _operations(spec.size).items()
    }
    cost = _medians(host | made | alone, benchmark.num_clips, benchmark.num_rounds)
    slicing = cost["packets"]
    stations = {
        "plan": cost["plan"],
        "read packets": slicing,
        "decode, crop, scale": cost["decode"] - slicing,
        "strong parameters, rgb and tg": cost["parameters"],
        "feed rgb, output": cost["weak"],
        "feed partners, temporal gradient": cost["tg"] - cost["weak"],
        "strong rgb": cost["strong"] - cost["weak"],
        "strong tg": cost["all"] - cost["tg"] - (cost["strong"] - cost["weak"]),
    }
    stations["sum"] = sum(stations.values())
    operations = {name: cost[name] - cost["none"] for name in OPS} | {"none": cost["none"] - cost["weak"]}
    return stations, operations


def _host_stations(index: VideoIndex, stream: ClipStream, steps: range, clips: list[PlannedClip]) -> dict[str, Station]:
    """The stations before the graph, each for all clips."""
    numbers = [np.concatenate([plan.frames, plan.later]) for _, plan in clips]
    work = [(index[row], plan, wanted) for (row, plan), wanted in zip(clips, numbers, strict=True)]
    strong = [drawn for _, plan in clips for drawn in (plan.strong_rgb, plan.strong_tg) if drawn is not None]
    size = stream.spec.size
    return {
        "plan": lambda: [stream.batch(step) for step in steps],
        "packets": lambda: [slice_clip(record, wanted) for record, _, wanted in work if record.sliceable],
        "decode": lambda: [
            decode_clip(record, wanted, plan.box, plan.flip, plan.size) for record, plan, wanted in work
        ],
        "parameters": lambda: [strong_parameters(drawn, size) for drawn in strong],
    }


def _operations(size: int) -> dict[str, Sample]:
    """The inputs that draw each operation alone, and "none" that draws none."""
    drawn = {name: strong_parameters(StrongPlan((op, op), (1, 1), (0.5, 0.5)), size) for op, name in enumerate(OPS)}
    blank = drawn[OPS[0]]
    drawn["none"] = blank._replace(switches=np.zeros_like(blank.switches))
    return {name: _named(parameters) for name, parameters in drawn.items()}


def _named(parameters: StrongParameters) -> Sample:
    return {f"rgb_{name}": value for name, value in parameters._asdict().items()}


def _run(graph: ClipGraph, samples: list[Sample], batch_size: int) -> Station:
    return lambda: [graph(samples[at : at + batch_size]) for at in range(0, len(samples), batch_size)]


def _medians(stations: dict[str, Station], num_clips: int, num_rounds: int) -> dict[str, float]:
    """CPU milliseconds per clip of each; a round takes all of them in turn, so that all meet the same neighbours."""
    times: dict[str, list[float]] = {name: [] for name in stations}
    for _ in track(range(num_rounds + 1), "timing", console=Console(stderr=True), transient=True):
        for name, station in stations.items():
            gc.collect()
            start = time.process_time()
            station()
            times[name].append(1000 * (time.process_time() - start) / num_clips)
    return {name: statistics.median(rounds[1:]) for name, rounds in times.items()}  # the first one warms up


def _table(title: str, rows: dict[str, float]) -> Table:
    table = Table(title=title)
    table.add_column("station")
    table.add_column("cpu-ms per clip", justify="right")
    for name, cost in rows.items():
        table.add_row(name, f"{cost:.2f}")
    return table


def run(benchmark: StationsBenchmark) -> int:
    """Measure, print, keep the result."""
    stations, operations = measure(benchmark)
    console = Console()
    console.print(_table("stations", stations))
    console.print(_table("strong operations, each for a clip that drew it", operations))
    costs = {"stations": stations, "strong_operations": operations}
    finish("stations", benchmark, benchmark.results, findings=costs)
    return 0


def main() -> None:
    """Command line: the fields of :class:`StationsBenchmark`."""
    results.main(StationsBenchmark, run)


if __name__ == "__main__":
    main()
