"""Could planning and slicing ever be what limits training?

Everything a clip needs before its decoding, in one thread: which video is next, its record, its plan, its packets read
from the file (which the system has in memory: the disk is not what is measured).  One answer for each kind of file; and
how much is read, which is what a slow file system charges for.

    python -m benchmarks source FOLDER_OF_VIDEOS
"""

import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from benchmarks import results
from benchmarks.clips import describe, make_clips
from benchmarks.results import RESULTS, Record, Series, finish
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.plan import ClipSpec
from pipeline.slicing import clip_ranges, slice_clip
from pipeline.stream import ClipStream
from train.tables import markdown_table

TARGET_CLIPS_PER_S = 1500
_BATCH_SIZE = 64
_COUNTED_BATCHES = 16
_LINE = (
    ": {clips_per_s:.0f} clips/s ({plan_us:.0f} µs to plan, {slice_us:.0f} to slice); "
    "a clip reads {kib_a_clip:.0f} KiB in {reads_a_clip:.1f} ranges, the largest of {largest_read_kib:.0f} KiB"
)
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class SourceBenchmark:
    """Time everything before the decoder."""

    source: Annotated[Path | None, tyro.conf.Positional] = None
    """Folder of real videos that the clips are made from; without one they are drawn."""
    clips: Path = Path("data/benchmark-clips")
    """Where the clips are kept: 24 in four kinds of files, made once."""
    seconds: float = 2.0
    """Length of each of the rounds."""
    results: Path = RESULTS
    """Folder that the result is written to."""

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise InputError(f"seconds is {self.seconds}: it must be above 0")


def run(benchmark: SourceBenchmark) -> int:
    """Measure each kind of file, print, keep the result."""
    folders = make_clips(benchmark.clips, benchmark.source)
    rates: dict[str, dict[str, float]] = {}
    series: dict[str, Series] = {}
    for kind, folder in folders.items():
        index = VideoIndex.build(folder, progress=False)
        if all(index[row].sliceable for row in range(len(index))):
            parts = measure(index, benchmark.seconds)
            series |= {f"{kind}: {name}": part for name, part in parts.items()}
            rates[kind] = summarize(parts) | count_reads(index)
            line = kind + _LINE.format(**rates[kind])
        else:
            line = f"{kind}: cannot be sliced, its files are read whole"
        print(line)
    met = all(rate["clips_per_s"] >= TARGET_CLIPS_PER_S for rate in rates.values())
    print(f"{'at least' if met else 'BELOW'} the {TARGET_CLIPS_PER_S} clips/s that leave the source out of the way")
    result = {"clips": describe(folders), "kinds": rates, "target_clips_per_s": TARGET_CLIPS_PER_S, "met": met}
    finish("source", benchmark, benchmark.results, series=series, findings=result)
    return 0 if met else 1


def measure(index: VideoIndex, seconds: float) -> dict[str, Series]:
    """Time rounds.

    Args:
        index: sliceable videos.
        seconds: length of a round.

    Returns:
        CPU microseconds a clip, which other work on the machine does not disturb: "plan" and "slice".
    """
    stream = _stream(index)
    rounds = [_round(stream, seconds) for _ in range(_ROUNDS)]
    plan_us, slice_us = zip(*rounds, strict=True)
    return {"plan": Series("cpu-µs/clip", "lower", plan_us), "slice": Series("cpu-µs/clip", "lower", slice_us)}


def summarize(parts: dict[str, Series]) -> dict[str, float]:
    """clips_per_s of one core, plan_us and slice_us, from the medians."""
    plan_us, slice_us = parts["plan"].median, parts["slice"].median
    return {"clips_per_s": 1e6 / (plan_us + slice_us), "plan_us": plan_us, "slice_us": slice_us}


def count_reads(index: VideoIndex) -> dict[str, float]:
    """What clips read, the same whether their videos are files or lie in tars.

    Args:
        index: sliceable videos.

    Returns:
        reads_a_clip and kib_a_clip, means; largest_read_kib.
    """
    stream = _stream(index)
    clips = [
        clip_ranges(index[row], np.concatenate([plan.frames, plan.later]))
        for step in range(_COUNTED_BATCHES)
        for row, plan in stream.batch(step)
    ]
    lengths = np.array([length for ranges in clips for _, length in ranges]) / 1024
    return {
        "reads_a_clip": len(lengths) / len(clips),
        "kib_a_clip": float(lengths.sum()) / len(clips),
        "largest_read_kib": float(lengths.max()),
    }


def _stream(index: VideoIndex) -> ClipStream:
    """The loader's own: order, record and plan."""
    return ClipStream(index, np.arange(len(index)), ClipSpec(), seed=0, name="unlabeled", batch_size=_BATCH_SIZE)


def _round(stream: ClipStream, seconds: float) -> tuple[float, float]:
    """CPU microseconds a clip of planning and of slicing."""
    planning = slicing = clips = 0.0
    stop = time.perf_counter() + seconds
    for step in count():
        start = time.thread_time()
        batch = stream.batch(step)
        planned = time.thread_time()
        for row, plan in batch:
            slice_clip(stream.index[row], np.concatenate([plan.frames, plan.later]))
        planning, slicing = planning + planned - start, slicing + time.thread_time() - planned
        clips += len(batch)
        if time.perf_counter() >= stop:
            break
    return 1e6 * planning / clips, 1e6 * slicing / clips


def markdown(record: Record) -> str:
    """The kinds of files, for a document."""
    rows = [
        (kind, f"{row['clips_per_s']:,.0f}", f"{row['plan_us']:.0f}", f"{row['slice_us']:.0f}")
        for kind, row in record.findings["kinds"].items()
    ]
    return markdown_table(("file", "clips/s of one core", "µs to plan a clip", "µs to slice it"), rows)


def main() -> None:
    """Command line: the fields of :class:`SourceBenchmark`."""
    results.main(SourceBenchmark, run)


if __name__ == "__main__":
    main()
