"""Could planning and slicing ever be what limits training?

Everything a clip needs before its decoding, in one thread: which video is next, its record, its plan, its packets read
from the file (which the system has in memory: the disk is not what is measured).  One answer for each kind of file.

    python -m benchmarks source FOLDER_OF_VIDEOS
"""

import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import tyro

from benchmarks import results
from benchmarks.clips import describe, make_clips
from benchmarks.results import RESULTS, finish
from pipeline.errors import InputError
from pipeline.index import VideoIndex
from pipeline.plan import ClipSpec
from pipeline.slicing import slice_clip
from pipeline.stream import ClipStream

TARGET_CLIPS_PER_S = 1500
_BATCH_SIZE = 64
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
    for kind, folder in folders.items():
        index = VideoIndex.build(folder, progress=False)
        if all(index[row].sliceable for row in range(len(index))):
            rates[kind] = measure(index, benchmark.seconds)
            planned, sliced = rates[kind]["plan_us"], rates[kind]["slice_us"]
            line = f"{kind}: {rates[kind]['clips_per_s']:.0f} clips/s ({planned:.0f} µs to plan, {sliced:.0f} to slice)"
        else:
            line = f"{kind}: cannot be sliced, its files are read whole"
        print(line)
    met = all(rate["clips_per_s"] >= TARGET_CLIPS_PER_S for rate in rates.values())
    print(f"{'at least' if met else 'BELOW'} the {TARGET_CLIPS_PER_S} clips/s that leave the source out of the way")
    result = {"clips": describe(folders), "kinds": rates, "target_clips_per_s": TARGET_CLIPS_PER_S, "met": met}
    finish("source", benchmark, benchmark.results, findings=result)
    return 0 if met else 1


def measure(index: VideoIndex, seconds: float) -> dict[str, float]:
    """Medians over rounds.

    Args:
        index: sliceable videos.
        seconds: length of a round.

    Returns:
        clips_per_s of CPU time, which other work on the machine does not disturb; plan_us, slice_us: a clip's share.
    """
    stream = ClipStream(
        index, np.arange(len(index)), ClipSpec(), seed=0, name="unlabeled", batch_size=_BATCH_SIZE
    )  # the loader's own: order, record and plan
    rounds = [_round(stream, seconds) for _ in range(_ROUNDS)]
    plan_us, slice_us = (median(parts) for parts in zip(*rounds, strict=True))
    return {"clips_per_s": 1e6 / (plan_us + slice_us), "plan_us": plan_us, "slice_us": slice_us}


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


def main() -> None:
    """Command line: the fields of :class:`SourceBenchmark`."""
    results.main(SourceBenchmark, run)


if __name__ == "__main__":
    main()
